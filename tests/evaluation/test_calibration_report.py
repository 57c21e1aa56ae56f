"""Files of a calibration: the table as CSV, pictures, and a report that escapes what names say."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hub_models.evaluation.calibration import Scores, calibrate_scores
from hub_models.evaluation.calibration_report import CALIBRATION_FILES, shown_interval, write_calibration
from hub_models.evaluation.thresholds import Rule

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def scores() -> Scores:
    random = np.random.default_rng(1)
    labels = (np.arange(120) % 3 == 0).astype(int)
    values = (0.3 + 0.4 * labels + random.normal(0, 0.15, 120)).clip(0.01, 0.99)
    ids = [f"x{index}" for index in range(120)]
    return Scores(ids, ids, labels, values, 0.4, {"site": ["A", HOSTILE] * 60})


def test_files_hold_the_same_numbers(scores, tmp_path) -> None:
    values, crossed = calibrate_scores(scores, Rule(), 0.02, ["site"])
    values |= {"data": HOSTILE, "date": "2026-01-02", "version": "1", "model": {"name": "m", "digest": "0" * 64}}
    write_calibration(tmp_path, values, scores, crossed)
    assert {path.name for path in tmp_path.iterdir()} == set(CALIBRATION_FILES)
    assert json.loads((tmp_path / "calibration.json").read_text())["after"] == values["after"]
    with (tmp_path / "thresholds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(values["table"]) == 101
    for row, expected in zip(rows, values["table"], strict=True):
        assert float(row["threshold"]) == expected["threshold"]
        assert int(row["true_positives"]) == expected["true_positives"]
        assert float(row["sensitivity"]) == expected["sensitivity"]["value"]
        assert (row["npv"] == "") == (expected["npv"]["value"] is None)
    for name in ("thresholds.png", "reliability.png", "scores.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 300 and np.asarray(image).std() > 10
    text = (tmp_path / "calibration.html").read_text()
    assert HOSTILE not in text and "&lt;script&gt;" in text and text.count("data:image/png;base64,") == 3
    assert all(f'data-code="{one["code"]}"' in text for one in values["warnings"])
    assert shown_interval(values["after"]["sensitivity"], "sensitivity") in text


def test_plain_scores_have_no_reliability(scores, tmp_path) -> None:
    plain = Scores(scores.ids, scores.patients, scores.labels, scores.values * 100)
    values, crossed = calibrate_scores(plain, Rule())
    (tmp_path / "reliability.png").write_bytes(b"of an earlier calibration")
    write_calibration(tmp_path, values | {"data": "d"}, plain, crossed)
    assert {path.name for path in tmp_path.iterdir()} == set(CALIBRATION_FILES) - {"reliability.png"}


def test_scores_and_truth_need_no_torch(tmp_path) -> None:
    lines = [f"x{index},{0.9 - index / 100},{int(index % 4 < 2)}" for index in range(60)]
    (tmp_path / "table.csv").write_text("\n".join(["id,score,label", *lines]))
    code = f"""
import sys
from pathlib import Path
from hub_models import CalibrationConfig, calibrate
table = {str(tmp_path / "table.csv")!r}
print(calibrate(CalibrationConfig(Path({str(tmp_path / "out")!r}), predictions=table, truth=table))["images"])
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout == "60\n[]\n", done.stderr
    assert (tmp_path / "out" / "calibration.html").is_file()
