import pyarrow.parquet
import pytest

from hub_models.benchmarks.scale import scale_ratios, write_rows
from hub_models.predict.row_log import close_row_log
from hub_models.predict.stream import PREDICTION_SCHEMA


def test_made_up_rows_are_those_of_a_job(tmp_path) -> None:
    write_rows(tmp_path, 25)
    close_row_log(tmp_path, "predictions", PREDICTION_SCHEMA, 25)
    table = pyarrow.parquet.read_table(tmp_path / "predictions.parquet")
    assert table.schema.names == PREDICTION_SCHEMA.names
    assert table["source"][24].as_py() == "archive/00000/00000024.png"


@pytest.mark.slow
def test_all_is_measured() -> None:
    found = scale_ratios(1000)
    names = ("rows_per_second", "time_per_row", "bytes_per_row")
    assert list(found) == [f"{part}_{name}" for part in ("index", "resume", "merge") for name in names]


def test_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1000, got 10"):
        scale_ratios(10)
