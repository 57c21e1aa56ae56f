"""A TB model on local X-rays: its own probabilities, nothing of its training, and a new model beside the old one."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hub_models import CalibrationConfig, calibrate
from hub_models.app.view import ShownModel, limits_html
from hub_models.dataset.sources import load_splits
from hub_models.evaluation.evaluate import evaluate_run
from hub_models.hub.limits import threshold_source
from hub_models.hub.run_files import release
from hub_models.models.settings import HISTORY_KEY
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import load_rows
from hub_models.runs.run_folder import RunFolder, read_per_image

AT_90 = {"split": "test", "sensitivity": 0.9, "name": "Hospital X"}


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def local(finished_run, phantoms, tmp_path_factory) -> tuple[dict, Path, dict]:
    """Values of a calibration on the test split, the new model, and the old one's files before."""
    folder, before = tmp_path_factory.mktemp("calibration"), contents(finished_run)
    config = CalibrationConfig(
        folder / "report", str(finished_run), str(phantoms), write=folder / "tb-local", prevalence=0.02, **AT_90
    )
    return calibrate(config), folder / "tb-local", before


def test_scores_are_those_of_evaluate_and_of_the_reader(finished_run, phantoms, local, tmp_path) -> None:
    values, new, _ = local
    evaluate_run(finished_run, phantoms, output=tmp_path / "evaluation")
    rows = read_per_image(tmp_path / "evaluation")
    assert values["images"] == len(rows) and values["positives"] == sum(row["label"] for row in rows)
    limit = values["threshold_before_temperature"]
    called = np.array([row["probability"] >= limit for row in rows])
    labels = np.array([row["label"] for row in rows])
    assert called[labels == 1].mean() >= 0.9
    assert min(row["probability"] for row, one in zip(rows, called, strict=True) if one) == limit
    images = load_rows(TrainConfig.load(finished_run), ("test",))["test"]["image"]
    old, calibrated_reader = ChestXrayReader(classifier=finished_run), ChestXrayReader(classifier=new)
    before, after = (one.read(list(images)) for one in (old, calibrated_reader))
    assert [one.probability for one in before] == pytest.approx([row["probability"] for row in rows], abs=1e-6)
    log_odds = np.log([one.probability / (1 - one.probability) for one in before])
    expected = 1 / (1 + np.exp(-log_odds / values["temperature"]))
    assert [one.probability for one in after] == pytest.approx(expected, abs=1e-5)
    assert [one.is_suspected for one in after] == called.tolist()


def test_old_model_is_untouched_and_the_new_one_tells_its_history(finished_run, local) -> None:
    values, new, before = local
    assert contents(finished_run) == before
    old, run = RunFolder.read(finished_run), RunFolder.read(new)
    (point,) = run.history
    assert point["threshold"] == run.settings.threshold == pytest.approx(values["threshold"], rel=2e-5)
    assert point["temperature"] == run.settings.temperature
    assert run.settings.temperature == pytest.approx(old.settings.temperature * values["temperature"])
    assert (point["threshold_before"], point["temperature_before"]) == (
        old.settings.threshold,
        old.settings.temperature,
    )
    assert (point["data"], point["images"], point["rule"]) == ("Hospital X", values["images"], "sensitivity 0.9")
    assert point["sensitivity"] == values["after"]["sensitivity"] and point["synthetic"] == values["images"]
    assert dataclasses.replace(run.settings, temperature=1, threshold=0) == dataclasses.replace(
        old.settings, temperature=1, threshold=0
    )
    assert run.digest != old.digest and run.is_finished
    card = (new / "README.md").read_text()
    row = next(line for line in card.splitlines() if line.startswith(f"| {values['date']} | Hospital X"))
    assert "sensitivity 0.9" in row and card.startswith("---") and "# tb-local" in card
    assert str(finished_run) not in card + (new / "config.json").read_text()


def test_new_results_are_of_xrays_that_chose_nothing(finished_run, local) -> None:
    """Here all test X-rays took part in the calibration, so that each counts as its fold called it."""
    values, new, _ = local
    old, run = RunFolder.read(finished_run), RunFolder.read(new)
    ours, theirs = run.results["metrics"]["all"], old.results["metrics"]["all"]
    for name in ("sensitivity", "specificity"):
        assert ours[name]["value"] == pytest.approx(values["after"][name]["value"])
    assert ours["brier"]["value"] == pytest.approx(values["after"]["brier"]["value"], abs=1e-6)
    assert ours["n"] == theirs["n"] and ours["saliency_in_lungs"] == theirs["saliency_in_lungs"]
    assert {row["id"] for row in run.per_image} == {row["id"] for row in old.per_image}


def test_new_model_is_ready_to_push(local) -> None:
    files = release(RunFolder.read(local[1]), "alice/tb-local", "mit")
    assert {"README.md", "config.json", "model.safetensors", "roc.png"} <= set(files)


def test_page_says_where_the_threshold_comes_from(finished_run, local) -> None:
    values, new, _ = local
    old, run = RunFolder.read(finished_run), RunFolder.read(new)
    validation = len(old.data["validation"])
    assert f"from the validation split of its training (n {validation})" in threshold_source(old)
    said = threshold_source(run)
    assert (
        "from local calibration on Hospital X" in said and values["date"] in said and f"n {values['images']}" in said
    )
    shown = limits_html({"Tuberculosis model": ShownModel.of(new, new)})
    assert said in shown


def test_new_model_is_not_tested_on_what_chose_its_threshold(phantoms, local, tmp_path) -> None:
    with pytest.raises(ValueError, match="the threshold of .*tb-local was chosen on"):
        evaluate_run(local[1], phantoms, output=tmp_path / "evaluation")
    data = json.loads((local[1] / "data.json").read_text())
    assert data["calibrated"] and not set(data["calibrated"]) & set(data["test"])  # digests, no ids


def test_pixels_that_chose_the_threshold_are_known_under_other_names(phantoms, local, tmp_path) -> None:
    lines = ["image,label,patient"]
    for row in load_splits(phantoms)["test"]:
        row["image"].save(tmp_path / f"{len(lines)}.png")
        lines.append(f"{len(lines)}.png,{row['label']},someone {len(lines)}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"was chosen on {len(lines) - 1} of the {len(lines) - 1} X-rays"):
        evaluate_run(local[1], tmp_path, "all", output=tmp_path / "evaluation")
    options = dict(AT_90, split="all")
    found = calibrate(CalibrationConfig(tmp_path.with_name("again"), str(local[1]), str(tmp_path), **options))
    assert "calibrated_before" in [one["code"] for one in found["warnings"]]


def test_another_calibration_is_not_overwritten(finished_run, phantoms, local) -> None:
    for rule in ({"sensitivity": 0.8}, {"name": "Hospital Y"}):
        config = CalibrationConfig(local[1].with_name("report"), str(finished_run), str(phantoms), **AT_90 | rule)
        with pytest.raises(ValueError, match="holds a calibration of other (rule|data): pass another --output"):
            calibrate(config)


def test_calibrated_model_is_calibrated_again(phantoms, local, tmp_path) -> None:
    values, new, _ = local
    options = dict(AT_90, sensitivity=None, specificity=0.7, write=tmp_path / "again")
    found = calibrate(CalibrationConfig(tmp_path / "report", str(new), str(phantoms), **options))
    assert "calibrated_before" in [one["code"] for one in found["warnings"]]
    assert [one["rule"] for one in RunFolder.read(tmp_path / "again").history] == [
        "sensitivity 0.9",
        "specificity 0.7",
    ]
    assert found["after"]["auroc"] == values["after"]["auroc"]


def test_model_without_rows_has_metrics_without_a_threshold_only(finished_run, phantoms, tmp_path) -> None:
    """As a model of the Hub, which has no rows."""
    pulled = Path(shutil.copytree(finished_run, tmp_path / "pulled"))
    (pulled / "per_image.parquet").unlink()
    config = CalibrationConfig(
        tmp_path / "report", str(pulled), str(phantoms), split="test", write=tmp_path / "new" / "deep"
    )
    calibrate(config)
    run = RunFolder.read(tmp_path / "new" / "deep")
    group, theirs = run.results["metrics"]["all"], RunFolder.read(finished_run).results["metrics"]["all"]
    assert group["sensitivity"]["value"] is group["brier"]["value"] is None and group["auroc"] == theirs["auroc"]
    assert not any(one["met"] for one in run.results["who_triage_minimum"]["groups"].values())
    assert "roc.png" not in release(run, "alice/m", "mit")


@pytest.mark.parametrize("split", [None, "train", "validation"])
def test_xrays_of_the_training_are_refused(split, finished_run, phantoms, tmp_path) -> None:
    with pytest.raises(ValueError, match="was trained on patients of .* another split"):
        calibrate(CalibrationConfig(tmp_path / "report", str(finished_run), str(phantoms), split=split))
    assert not (tmp_path / "report").exists()


def test_every_labelled_xray_counts_without_a_split(make_run, tiny_resnet, phantoms, tmp_path) -> None:
    options = {"model": str(tiny_resnet), "from_scratch": True, "image_size": 32}
    run = make_run(TrainConfig(str(phantoms), str(tmp_path / "tb"), "tb_classification", **options))
    values = calibrate(CalibrationConfig(tmp_path / "report", str(run), str(phantoms), groups="sex,age,site"))
    assert values["images"] == 60 and values["split"] is None and values["synthetic"] == 60
    assert "synthetic" in [one["code"] for one in values["warnings"]]
    assert {"site: Montgomery", "site: Shenzhen"} <= set(values["groups"])
    assert values["data"] == "phantoms" and values["model"]["name"] == "tb"


def test_lung_model_and_taken_folders_are_refused(make_run, tiny_segformer, finished_run, phantoms, tmp_path) -> None:
    options = {"model": str(tiny_segformer), "from_scratch": True, "image_size": 32}
    lungs = make_run(TrainConfig(str(phantoms), str(tmp_path / "lungs"), **options))
    with pytest.raises(ValueError, match="finds lungs, and has no threshold"):
        calibrate(CalibrationConfig(tmp_path / "report", str(lungs), str(phantoms)))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="mine.txt"):
        calibrate(CalibrationConfig(tmp_path / "taken", str(finished_run), str(phantoms), split="test"))
    with pytest.raises(FileExistsError, match="taken is there already"):
        config = CalibrationConfig(tmp_path / "report", str(finished_run), str(phantoms), write=tmp_path / "taken")
        calibrate(config)


def test_damaged_history_is_named(local, tmp_path) -> None:
    run = Path(shutil.copytree(local[1], tmp_path / "run"))
    values = json.loads((run / "config.json").read_text())
    for damaged in ("text", [1], [{"date": "2026"}], [values[HISTORY_KEY][0] | {"threshold": "high"}]):
        (run / "config.json").write_text(json.dumps(values | {HISTORY_KEY: damaged}))
        with pytest.raises(ValueError, match="config.json is damaged"):
            RunFolder.read(run).history  # noqa: B018


def test_new_model_reads_as_its_weights_say(finished_run, local) -> None:
    values, new, _ = local
    old, model = TrainedModel.from_run(finished_run), TrainedModel.from_run(new)
    pixels = [np.random.default_rng(0).integers(0, 255, (32, 32)).astype(np.uint8)]
    ours, theirs = model.forward(pixels)[0][0], old.forward(pixels)[0][0]
    assert (ours[1] - ours[0]) * values["temperature"] == pytest.approx(theirs[1] - theirs[0], rel=1e-4)
