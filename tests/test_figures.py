"""What `make figures` is made of: the table of the NIH X-rays, the tables of a page, and all of it on phantoms."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from figures import nih_table, tables
from launch import ROOT, shell
from PIL import Image

from hub_models.evaluation.calibration import Scores


def test_table_of_nih_names_patient_and_finding(tmp_path: Path) -> None:
    for name in ("no_finding/00000061_012.png", "pneumonia/00000061_013.png", "pneumonia/00000499_008.png"):
        path = tmp_path / "nih" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)
    nih_table.link_with_table(tmp_path / "nih", tmp_path / "table")
    with (tmp_path / "table" / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["patient_id"] for row in rows] == ["00000061", "00000061", "00000499"]
    assert [row["site"] for row in rows] == ["NIH, no finding", "NIH, pneumonia", "NIH, pneumonia"]
    assert {(row["split"], row["label"]) for row in rows} == {("train", "normal")}
    assert all(Image.open(tmp_path / "table" / row["file_name"]).size == (8, 8) for row in rows)
    with pytest.raises(FileNotFoundError, match="pass the folder of the NIH X-rays"):
        nih_table.link_with_table(tmp_path / "table", tmp_path / "other")


def test_numbers_of_the_tables() -> None:
    assert tables.number(0.9704) == ".970" and tables.number(1.0) == "1.000" and tables.number(None) == "–"
    assert tables.interval({"value": 0.5, "low": 0.25, "high": None}) == ".500 [.250, –]"
    values, labels = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1])
    scores = Scores(["a", "b", "c", "d"], ["a", "b", "c", "d"], labels, values, 0.5)
    sensitivity, specificity, error = tables.measured(scores, np.arange(4), 0.5, 1.0)
    assert (sensitivity, specificity) == (0.5, 0.5) and error == pytest.approx((0.1 + 0.6 + 0.6 + 0.1) / 4)
    assert sorted(labels[tables.drawn(scores, 2, 0)]) == [0, 1]


def test_tables_are_written_between_their_comments(tmp_path: Path) -> None:
    metrics = {name: {"value": 0.9, "low": 0.8, "high": 1.0} for name in ("auroc", "sensitivity", "specificity")}
    values = {"metrics": {"all": {"n": 5, **metrics}, "sex: female": {"n": 3, **metrics}}, "commit": "1234567890+"}
    for model in tables.TB_MODELS:
        (tmp_path / model / "folds").mkdir(parents=True)
        (tmp_path / model / "folds" / "results.json").write_text(json.dumps(values))
    page = "# Results\n\n<!-- table groups -->\nold\n<!-- end -->\n\nText.\n\n<!-- table nih -->\nkept\n<!-- end -->\n"
    written = tables.with_tables(page, tmp_path)
    assert "| `resnet-light` | sex: female | 3 | .900 [.800, 1.000] |" in written and "old" not in written
    assert "Text." in written and "kept" in written and written.count("<!-- end -->") == 2
    assert tables.with_tables(written, tmp_path) == written and tables.commit_of(values) == "1234567+"


def test_runs_made_one_after_another_come_together(tmp_path: Path) -> None:
    names = ("auroc", "sensitivity", "specificity")
    metrics = {"all": {"n": 5, **{name: {"value": 0.9, "low": 0.8, "high": 1.0} for name in names}}}
    metrics |= {"sex: male": metrics["all"]}
    known = dict.fromkeys(tables.RESULTS_KEPT, "x") | {"metrics": metrics, "config": {"data_dir": "/home/me/xrays"}}
    table = pyarrow.table({"id": ["a"], "label": [1], "probability": [0.5], "finding": ["of a patient"]})
    for model in tables.TB_MODELS:
        run = tmp_path / model / model / "folds"
        run.mkdir(parents=True)
        (run / "results.json").write_text(json.dumps(known))
        pyarrow.parquet.write_table(table, run / "per_image.parquet")
        tables.keep(tmp_path / model, tmp_path / "kept")
        written = tables.with_tables("# Results\n", tmp_path / "kept")
        assert written.count("sex: male") == len(list((tmp_path / "kept").iterdir()))
    kept = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert len(kept) == 2 * len(tables.TB_MODELS) and not any(b"/home" in path.read_bytes() for path in kept)
    assert pyarrow.parquet.read_table(kept[0].with_name("per_image.parquet")).column_names == table.column_names[:3]


@pytest.mark.slow
def test_all_figures_on_phantoms(online: dict[str, str], project: Path) -> None:
    """`make figures QUICK=1` runs every command of figures.mk, two at a time, and writes all tables."""
    shell("make figures QUICK=1", project, online, project)
    page = (project / "demo" / "figures-quick" / "results.md").read_text()
    assert all(f"<!-- table {name} -->" in page for name in tables.TABLES)
    assert (
        "| `vit-light`, pre-trained | `folds` | all | 100 |" in page and "| `mc_to_shenzhen` | Shenzhen | 60 |" in page
    )
    assert (project / "docs" / "results.md").read_text() == (ROOT / "docs" / "results.md").read_text()
