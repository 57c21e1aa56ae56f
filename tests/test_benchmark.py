import pytest
from launch import python

from chest_xray_masks import rows_of, scan
from hub_models.benchmark import COPIES, _link_copies


def test_linked_copies_are_rows_with_masks_and_readings(phantoms, tmp_path) -> None:
    _link_copies(phantoms, tmp_path)
    rows, originals = rows_of(scan(str(tmp_path))), rows_of(scan(str(phantoms)))
    assert len(rows) == COPIES * len(originals)
    assert sum(bool(row.masks) for row in rows) == COPIES * sum(bool(row.masks) for row in originals)
    assert all(row.reading for row in rows)


@pytest.mark.slow
def test_script_prints_its_ratios(phantoms) -> None:
    lines = python("scripts/benchmark.py", "dataset", "--data_dir", phantoms).stdout.splitlines()
    ratios = {name: float(value) for name, value in (line.split() for line in lines)}
    assert list(ratios) == ["build_time", "build_time_listed", "build_memory", "first_row_files"]
    assert all(ratio > 0 for ratio in ratios.values())
    assert ratios["first_row_files"] in (1, 2)  # the image, and its mask if it has one
    assert ratios["build_memory"] < 1.5
