import dataclasses
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image

from hub_models.dataset.phantoms import write_phantoms
from hub_models.dataset.sources import load_splits
from hub_models.evaluation import evaluate as report
from hub_models.evaluation.evaluate import Evaluated, evaluate_run, shown, write_report
from hub_models.evaluation.pictures import PICTURES
from hub_models.files import held
from hub_models.hub.push import push_model
from hub_models.models.tasks import DISTANCES, TASKS
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import describe, load_rows
from hub_models.runs.run_folder import RESULTS_NAME, read_json, read_per_image

KEYS = ["task", "protocol", "fold", "split", "images", "main_metric", "metrics", "worst"]
KEYS += ["use", "trained_on_synthetic", "synthetic"]
KEYS += ["config", "commit", "date", "launch", "versions"]
NO_ROWS = datasets.Dataset.from_dict({"image": []}, features=datasets.Features({"image": datasets.Image()}))


@pytest.fixture(scope="module")
def config(phantoms, tiny_segformer, tmp_path_factory) -> TrainConfig:
    folder = str(tmp_path_factory.mktemp("runs") / "lungs")
    return TrainConfig(str(phantoms), folder, model=str(tiny_segformer), from_scratch=True, image_size=32)


@pytest.fixture(scope="module")
def run(config, make_run) -> Path:
    """A run folder of the default protocol."""
    return make_run(config, **describe(config, load_rows(config)))


@pytest.fixture(scope="module")
def untrained(config, make_run) -> Path:
    """A run folder whose model has seen no X-ray."""
    return make_run(dataclasses.replace(config, output_dir=f"{config.output_dir}-untrained"), seed=4)


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    """Leave out what takes most of the time."""
    for task in TASKS:
        monkeypatch.setitem(report.PICTURES, task, {})


def plain(path: Path) -> dict:
    """JSON of a file, which holds no nan or infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(path.read_text(), parse_constant=refuse)


def of_lungs(id: str, dice: float) -> dict:
    metrics = {"dice": dice, "iou": 0.5, "both": 1, "predicted_only": 1, "reference_only": 1}
    known = {"patient_id": id, "site": "Montgomery", "label": 0, "sex": None, "age_years": None}
    return {"id": id} | known | metrics | dict.fromkeys(DISTANCES, np.nan)


def of_tb(number: int, label: int, probability: float, site: str) -> dict:
    known = {"id": f"{site}{number}", "patient_id": f"{site}{number}", "site": site, "sex": "F", "age_years": 40.0}
    return known | {"label": label, "log_odds": 0.0, "probability": probability, "threshold": 0.5}


def test_evaluation_leaves_results_rows_and_pictures(run, config) -> None:
    results = evaluate_run(run, config.data_dir)
    folder = run / "evaluation" / "default-test"
    assert list(results) == KEYS
    assert plain(folder / "results.json") == results
    names = {"results.json", "per_image.parquet", *PICTURES["lung_segmentation"]}
    assert {path.name for path in folder.iterdir()} == names
    for name in PICTURES["lung_segmentation"]:
        with Image.open(folder / name) as image:
            assert image.format == "PNG" and min(image.size) > 200 and np.asarray(image).std() > 0
    rows = read_per_image(folder)
    assert [row["id"] for row in rows] == sorted(load_rows(config)["test"]["id"])
    assert (results["task"], results["protocol"], results["fold"]) == ("lung_segmentation", "default", None)
    assert (results["split"], results["images"], results["use"]) == ("test", len(rows), {})
    assert results["launch"] == {"processes": 1, "mixed_precision": "no"}
    assert set(results["versions"]) == {"torch", "transformers", "datasets", "accelerate"}
    assert results["synthetic"] == results["images"]
    dices = [row["dice"] for row in rows]
    assert results["metrics"]["all"]["dice"]["value"] == pytest.approx(np.mean(dices))
    assert results["metrics"]["all"]["n"] == len(rows)
    worst = sorted((row["dice"], row["id"]) for row in rows)[:5]
    assert [(one["dice"], one["id"]) for one in results["worst"]] == worst


def test_results_of_a_run_are_not_overwritten(untrained, config) -> None:
    with pytest.raises(ValueError, match="is a run folder, whose own results would be lost: pass another"):
        evaluate_run(untrained, config.data_dir, output=untrained)


def test_model_of_the_hub_is_tested_as_its_run(hub, as_user, finished_run, phantoms, tmp_path, no_pictures) -> None:
    expected = read_json(finished_run / RESULTS_NAME)["metrics"]
    with as_user():
        push_model(finished_run, "alice/m", license="mit", version="v1")
        with pytest.raises(ValueError, match="alice/m is not a folder to write into: pass --output"):
            evaluate_run("alice/m", phantoms)
        options = {"output": tmp_path / "there", "compared": finished_run, "revision": "v1"}
        results = evaluate_run("alice/m", phantoms, **options)
    assert results["metrics"] == expected
    assert results["differences"]["all"]["auroc"]["value"] == 0
    assert str(finished_run) in results["compared_with"] and (tmp_path / "there" / "results.json").is_file()


def test_older_model_is_tested_on_area_averages(config, make_run, tiny_resnet, tmp_path, no_pictures) -> None:
    options = {"task": "tb_classification", "model": str(tiny_resnet), "output_dir": str(tmp_path / "new")}
    new = make_run(dataclasses.replace(config, **options))
    old = Path(shutil.copytree(new, tmp_path / "old"))
    path = old / "preprocessor_config.json"
    path.write_text(json.dumps(plain(path) | {"resample": int(Image.Resampling.BOX)}))
    probabilities = {}
    for run in (new, old):
        evaluate_run(run, config.data_dir, output=tmp_path / "tested" / run.name)
        rows, trained = read_per_image(tmp_path / "tested" / run.name), TrainedModel.from_run(run)
        test = load_rows(TrainConfig.load(run), ("test",))["test"]
        images = dict(zip(test["id"], test["image"], strict=True))
        read = [trained(images[row["id"]]) for row in rows]
        assert [row["probability"] for row in rows] == pytest.approx(read, abs=1e-6)
        probabilities[run.name] = read
    assert probabilities["old"] != pytest.approx(probabilities["new"], abs=1e-5)


def test_lung_model_that_is_not_here_is_named(make_run, tiny_resnet, config, tmp_path) -> None:
    gone = str(tmp_path / "LUNGS")
    options = {"model": str(tiny_resnet), "image_size": 32, "region": "lungs", "segmenter": gone}
    run = make_run(TrainConfig(config.data_dir, str(tmp_path / "tb"), "tb_classification", **options))
    said = f"{run} was trained with the lung model {gone}, which is not here: pass a segmenter"
    with pytest.raises(FileNotFoundError, match=said):
        evaluate_run(run, config.data_dir)


def test_unknown_split_is_refused(untrained, config) -> None:
    with pytest.raises(ValueError, match="split must be one of train, validation, test, all, got tst"):
        evaluate_run(untrained, config.data_dir, "tst")


def test_another_split_protocol_and_folder(untrained, config, tmp_path, no_pictures) -> None:
    validation = evaluate_run(untrained, config.data_dir, "validation")
    assert validation["images"] == len(load_rows(config)["validation"])
    assert (untrained / "evaluation" / "default-validation" / "results.json").is_file()
    across = evaluate_run(untrained, config.data_dir, protocol="shenzhen_to_mc", output=tmp_path / "there")
    assert (across["protocol"], across["split"], across["images"]) == ("shenzhen_to_mc", "test", 24)
    assert {row["site"] for row in read_per_image(tmp_path / "there")} == {"Montgomery"}


def test_results_on_other_x_rays_are_not_overwritten(untrained, config, tmp_path, no_pictures) -> None:
    evaluate_run(untrained, config.data_dir, output=tmp_path / "there")
    evaluate_run(untrained, f"{config.data_dir}/", output=tmp_path / "there")  # the same ones
    other = write_phantoms(tmp_path / "other", 12, 12, 80, seed=9)
    with pytest.raises(ValueError, match="there holds the results on .*: pass another --output"):
        evaluate_run(untrained, other, output=tmp_path / "there")


def test_model_trained_on_its_test_patients_is_refused(run, config, no_pictures) -> None:
    with pytest.raises(ValueError, match="was trained on patients of .* X-rays to test on"):
        evaluate_run(run, config.data_dir, protocol="mc_to_shenzhen")
    assert not (run / "evaluation" / "mc_to_shenzhen-test").exists()
    train = evaluate_run(run, config.data_dir, "train")  # which nobody takes for a test
    assert train["images"] == len(load_rows(config)["train"])


def test_refusals_come_before_x_rays_are_read(run, untrained, config, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(report, "prepare_splits", lambda *_: pytest.fail("X-rays were read"))
    for model, other in ((run, None), (untrained, run)):  # the trained one has seen most of the other fold
        with pytest.raises(ValueError, match=f"{run} was trained on patients of"):
            evaluate_run(model, config.data_dir, protocol="folds", fold=1, compared=other, output=tmp_path / "out")
    with held(tmp_path / "out"), pytest.raises(ValueError, match="another launch is writing to"):
        evaluate_run(untrained, config.data_dir, output=tmp_path / "out")


def test_model_without_a_record_of_its_training_is_refused(run, config, tmp_path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "data.json").unlink()
    with pytest.raises(FileNotFoundError, match="no data.json"):
        evaluate_run(tmp_path / "run", config.data_dir)


def test_another_use_of_the_model_is_written_down(untrained, config, tmp_path, no_pictures) -> None:
    results = evaluate_run(untrained, config.data_dir, output=tmp_path / "used", views=3, two_lungs=True)
    assert results["use"] == {"views": 3, "two_lungs": True}
    as_it_is = evaluate_run(untrained, config.data_dir, output=tmp_path / "plain")
    assert as_it_is["metrics"]["all"]["dice"] != results["metrics"]["all"]["dice"]


def test_two_models_are_compared_on_the_same_x_rays(run, untrained, config, tmp_path, no_pictures) -> None:
    results = evaluate_run(run, config.data_dir, compared=untrained, output=tmp_path / "both")
    assert results["compared_with"] == str(untrained)
    alone = [evaluate_run(one, config.data_dir, output=tmp_path / one.name)["metrics"] for one in (run, untrained)]
    assert set(results["differences"]) == set(alone[0])
    for group, differences in results["differences"].items():
        mine, theirs = (metrics[group]["dice"]["value"] for metrics in alone)
        assert differences["dice"]["value"] == pytest.approx(mine - theirs)
    assert plain(tmp_path / "both" / "results.json") == results
    same = evaluate_run(run, config.data_dir, compared=run, output=tmp_path / "same")["differences"]["all"]
    assert same["dice"] == {"value": 0, "low": 0, "high": 0}


@pytest.fixture(scope="module")
def tb_run(config, run, make_run, tiny_resnet) -> Path:
    """A run folder of TB classification that sees the lungs that `run` finds."""
    options = {"task": "tb_classification", "model": str(tiny_resnet), "region": "lungs", "segmenter": str(run)}
    config = dataclasses.replace(config, **options, output_dir=f"{config.output_dir}-tb")
    return make_run(config, **describe(config, load_rows(config)))


def test_two_lungs_of_a_model_without_masks_are_refused(tb_run, config) -> None:
    with pytest.raises(ValueError, match="two_lungs is only for lung masks"):
        evaluate_run(tb_run, config.data_dir, two_lungs=True)


def test_tb_run_is_held_against_the_who(tb_run, config) -> None:
    results = evaluate_run(tb_run, config.data_dir)
    assert list(results) == [*KEYS[:8], "who_triage_minimum", *KEYS[8:]]
    folder = tb_run / "evaluation" / "default-test"
    assert plain(folder / "results.json") == results
    names = {"results.json", "per_image.parquet", *PICTURES["tb_classification"]}
    assert {path.name for path in folder.iterdir()} == names
    target = results["who_triage_minimum"]
    assert (target["sensitivity"], target["specificity"]) == (0.9, 0.7)
    for group, verdict in target["groups"].items():
        found = results["metrics"][group]["specificity_at_90_sensitivity"]["value"]
        assert verdict["reachable"] == (found is not None and found >= 0.7)


def test_models_of_two_tasks_are_not_compared(run, tb_run, config, monkeypatch) -> None:
    monkeypatch.setattr(report, "prepare_splits", lambda *_: pytest.fail("X-rays were read"))
    with pytest.raises(ValueError, match="is a model for tb_classification, .* for lung_segmentation"):
        evaluate_run(run, config.data_dir, compared=tb_run)


def test_folds_are_tested_apart_and_pooled(config, make_run, tmp_path, no_pictures) -> None:
    folder = tmp_path / "run"
    for fold in range(5):
        one = dataclasses.replace(config, protocol="folds", fold=fold, output_dir=str(folder / f"fold-{fold}"))
        make_run(one, seed=fold, **describe(one, load_rows(one)))
    results = evaluate_run(folder, config.data_dir)
    rows = read_per_image(folder / "evaluation" / "folds-test")
    usable = [TASKS["lung_segmentation"].usable(rows)["id"] for rows in load_splits(config.data_dir).values()]
    assert [row["id"] for row in rows] == sorted(id for ids in usable for id in ids)  # each once
    assert (results["protocol"], results["fold"], results["images"]) == ("folds", None, len(rows))
    alone = evaluate_run(folder / "fold-3", config.data_dir)
    assert (alone["protocol"], alone["fold"]) == ("folds", 3)
    pooled = {row["id"]: row["dice"] for row in rows}
    of_fold = read_per_image(folder / "fold-3" / "evaluation" / "folds-fold-3-test")
    assert all(pooled[row["id"]] == row["dice"] for row in of_fold)
    with pytest.raises(ValueError, match="was trained on patients of"):
        evaluate_run(folder / "fold-3", config.data_dir, fold=2)


def test_worst_are_five_sorted_by_figure_then_id(config, tmp_path, no_pictures) -> None:
    dices = {"f": 0.9, "b": 0.2, "a": 0.2, "d": 0.4, "c": 0.1, "e": 0.5}
    per_image = [of_lungs(id, dice) for id, dice in sorted(dices.items())]
    results = write(tmp_path, config, per_image)
    expected = [("c", 0.1), ("a", 0.2), ("b", 0.2), ("d", 0.4), ("e", 0.5)]
    assert [(one["id"], one["dice"]) for one in results["worst"]] == expected


def write(folder: Path, config: TrainConfig, per_image: list[dict], **more: object) -> dict:
    """Results of given rows, for tests without pictures."""
    return write_report(folder, Evaluated(config, "test", per_image, NO_ROWS, None), Accelerator(), dict(more))


def test_who_verdict_by_hand(tmp_path, no_pictures) -> None:
    # The ninth of 10 positives lies at .6: 3 of 10 normal ones at A are at least that, 4 of 10 at B, 7 of 20 of all.
    config = TrainConfig("data", "out", "tb_classification")
    found = [0.9] * 8 + [0.6, 0.1]
    per_image = [
        of_tb(number, label, probability, site)
        for site, wrong in (("A", 3), ("B", 4))
        for number, (label, probability) in enumerate(
            [(1, one) for one in found] + [(0, 0.7)] * wrong + [(0, 0.2)] * (10 - wrong)
        )
    ]
    results = write(tmp_path, config, per_image, note="kept")
    groups = results["who_triage_minimum"]["groups"]
    verdicts = [groups[name]["reachable"] for name in ("site: A", "site: B", "all")]
    assert verdicts == [True, False, False]
    # at the stored threshold, .5, the positive at .1 is missed too: sensitivity .9; specificity as above
    assert [groups[name]["met"] for name in ("site: A", "site: B", "all")] == verdicts
    assert results["metrics"]["site: A"]["specificity_at_90_sensitivity"]["value"] == pytest.approx(0.7)
    assert results["note"] == "kept" and "synthetic" not in results
    # the five on the wrong side of .5 that are furthest from their label
    assert results["worst"][:2] == [{"id": f"{site}9", "label": 1, "probability": 0.1} for site in "AB"]
    assert [one["id"] for one in results["worst"][2:]] == ["A10", "A11", "A12"]
    one_class = write(tmp_path, config, [row for row in per_image if row["label"] == 1])
    for verdict in one_class["who_triage_minimum"]["groups"].values():
        assert verdict == {"reachable": False, "met": False}  # undefined is not met


@pytest.mark.parametrize(
    "probabilities, warned",
    [([0.1, 0.9] * 4, True), ([0.6, 0.4] * 4 + [0.4, 0.6] * 3, True), ([0.9, 0.1] * 4, False)],  # AUROC 0, 28/49, 1
)
def test_chance_is_said(probabilities: list[float], warned: bool, tmp_path, no_pictures, caplog) -> None:
    per_image = [of_tb(number, 1 - number % 2, one, "A") for number, one in enumerate(probabilities)]
    with caplog.at_level("WARNING"):
        write(tmp_path, TrainConfig("data", "out", "tb_classification"), per_image)
    assert ("chance" in caplog.text) == warned


def test_old_results_do_not_stand_for_new_rows(tmp_path, monkeypatch, no_pictures) -> None:
    config = TrainConfig("data", "out")
    write(tmp_path, config, [of_lungs("a", 0.5)])

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setitem(report.PICTURES, config.task, {"dice.png": fail})
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, Evaluated(config, "test", [of_lungs("b", 0.5)], NO_ROWS, None), Accelerator(), {})
    assert not (tmp_path / RESULTS_NAME).exists()


def test_one_line_shows_sites_and_all() -> None:
    def figure(value: float | None, low: float | None = None, high: float | None = None) -> dict:
        return {"n": 3, "auroc": {"value": value, "low": low, "high": high}}

    metrics = {"all": figure(0.91234, 0.8, 0.95678), "site: A": figure(0.5), "site: B": figure(None)}
    results = {"main_metric": "auroc", "metrics": metrics | {"sex: F": figure(0.1)}}
    assert shown(results) == "auroc: all 0.9123 [0.800, 0.957] (n 3), A 0.5000 (n 3), B undefined (n 3)"
