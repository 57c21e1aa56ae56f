from pathlib import Path

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


def ratios_of(data_dir: Path) -> dict[str, float]:
    lines = python("scripts/benchmark.py", "dataset", "--data_dir", data_dir).stdout.splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines)}


@pytest.mark.slow
def test_script_prints_its_ratios(phantoms) -> None:
    ratios = ratios_of(phantoms)
    assert list(ratios) == ["build_time", "build_time_listed", "build_memory", "first_row_files"]
    assert ratios["first_row_files"] in (1, 2)  # the image, and its mask if it has one


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(real_data_dir) -> None:
    # 4 times 85 MB: kept in memory, they would more than double the 200 MB of one build
    assert ratios_of(real_data_dir)["build_memory"] < 1.3
