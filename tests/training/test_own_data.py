"""Training on X-rays from other places than the set's folder: the same rows give the same metrics."""

import csv
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launch import ROOT, command_of
from loopback_hub import LoopbackHub

from hub_models.dataset.sources import DataRequest, load_splits
from hub_models.evaluation.evaluate import evaluate_run
from hub_models.hub.dataset_export import build, export
from hub_models.hub.export_config import ExportConfig
from hub_models.imaging.gray import to_gray
from hub_models.runs.config import TrainConfig
from hub_models.runs.run_folder import RunFolder
from hub_models.training.train import train

pytestmark = pytest.mark.slow
TINY: dict[str, Any] = {"from_scratch": True, "image_size": 32, "epochs": 1, "tracker": "none"}
TASKS = {"lung_segmentation": "segformer-light", "tb_classification": "resnet-light"}


def numbers(results: dict[str, Any]) -> dict[str, float]:
    """Every value of the metrics by group and name."""
    return {
        f"{group} {name}": metric["value"]
        for group, metrics in results["metrics"].items()
        for name, metric in metrics.items()
        if isinstance(metric, dict) and metric["value"] is not None
    }


def as_plain_folder(data: Path, folder: Path) -> Path:
    """The X-rays under other names with a table that says who they are."""
    for name in ("pictures", "outlines"):
        (folder / name).mkdir(parents=True)
    lines = []
    for split, rows in load_splits(data).items():
        sites = rows.features["site"]
        for row in rows:
            name = f"x{len(lines):04d}.png"
            to_gray(row["image"]).save(folder / "pictures" / name)
            if row["mask"] is not None:
                row["mask"].save(folder / "outlines" / name)
            mask = f"outlines/{name}" if row["mask"] is not None else ""
            line = [f"pictures/{name}", mask, row["id"], row["patient_id"], sites.int2str(row["site"]), split]
            lines.append([*line, row["label"], "" if row["sex"] is None else "FMO"[row["sex"]], row["age_years"]])
            lines[-1].append(row["findings"])
    with (folder / "list.csv").open("w", newline="") as file:
        header = ["picture", "outline", "id", "patient", "hospital", "set", "tb", "gender", "age", "report"]
        csv.writer(file).writerows([header, *lines])
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_real_xrays_in_a_plain_folder_give_the_metrics_of_the_set(
    task: str, real_data_dir: Path, tmp_path: Path
) -> None:
    folder = as_plain_folder(real_data_dir, tmp_path / "plain")
    named = train(TrainConfig(str(real_data_dir), str(tmp_path / "named"), task, model=TASKS[task], **TINY))
    own = TrainConfig(str(folder), str(tmp_path / "own"), task, model=TASKS[task], columns="mask=outline", **TINY)
    expected = numbers(named)
    in_mm = {name for name in expected if name.endswith("_mm")}  # the ids tell the size of the pixels
    assert numbers(train(own)) == pytest.approx(expected, abs=1e-6) and len(expected) - len(in_mm) > 20
    again = evaluate_run(tmp_path / "named", folder, columns="mask=outline", output=tmp_path / "evaluation")
    assert numbers(again) == pytest.approx(expected, abs=1e-6)


def test_pushed_set_trains_by_its_hub_id(hub: LoopbackHub, as_user: Callable, phantoms: Path, tmp_path: Path) -> None:
    with as_user("alice"):
        export(ExportConfig(data_dir=phantoms, output=tmp_path / "out", repo_id="alice/chest_xray_masks"))
    words = ["-m", "hub_models.training", "--model", "segformer-light", "--from_scratch", "--image_size", "32"]
    words += ["--epochs", "1", "--tracker", "none"]
    found = []
    for data in ("alice/chest_xray_masks", phantoms):
        output = tmp_path / f"run{len(found)}"
        environment = hub.environment(hub.add_user("alice"), tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
        line = command_of(2, [*words, "--data", data, "--output", output])
        done = subprocess.run(line, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(numbers(json.loads((output / "results.json").read_text())))
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_exported_folder_trains_as_its_source(task: str, phantoms: Path, tmp_path: Path) -> None:
    request = DataRequest(str(as_plain_folder(phantoms, tmp_path / "plain")), columns="mask=outline")
    build(request, tmp_path / "exported")
    found = []
    for name, columns in (("plain", request.columns), ("exported", None)):
        output = tmp_path / "runs" / name
        found.append(
            train(TrainConfig(str(tmp_path / name), str(output), task, model=TASKS[task], columns=columns, **TINY))
        )
    assert numbers(found[0]) == numbers(found[1]) and len(numbers(found[0])) > 10
    rows = [RunFolder.read(tmp_path / "runs" / name).data for name in ("plain", "exported")]
    assert rows[0]["fingerprint"] == rows[1]["fingerprint"] and rows[0]["test"] == rows[1]["test"]


def test_patients_of_the_training_are_no_test(phantoms: Path, tmp_path: Path) -> None:
    folder = as_plain_folder(phantoms, tmp_path / "plain")
    options = {"model": "segformer-light", "test_data": str(folder), **TINY}
    with pytest.raises(ValueError, match="are of patients that .* trains on, too"):
        train(TrainConfig(str(folder), str(tmp_path / "a"), columns="mask=outline", **options))
    # the marks of phantoms are gone from the copies, which are of other patients therefore; the pixels are the same
    with pytest.raises(ValueError, match="was trained on the pixels of"):
        train(TrainConfig(str(phantoms), str(tmp_path / "b"), columns="mask=outline", **options))
