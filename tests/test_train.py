import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from launch import accelerate, kill_when
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from chest_xray_masks import split_of
from hub_models.config import TrainConfig
from hub_models.data import load_splits
from hub_models.tasks import TASKS
from hub_models.train import _optimizer, fit


@pytest.fixture(scope="module")
def config(phantoms, tiny_segformer, tmp_path_factory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("runs") / "first"
    settings = {"image_size": 32, "epochs": 12, "batch_size": 4, "learning_rate": 0.005}
    return TrainConfig(str(phantoms), str(folder), model=str(tiny_segformer), from_scratch=True, **settings)


@pytest.fixture(scope="module")
def results(config) -> dict:
    return fit(config)


def line(config: TrainConfig) -> list[str]:
    """Command line of a config."""
    given = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    return ["scripts/train.py", *(text for name, value in given.items() for text in (f"--{name}", str(value)))]


def test_run_folder_is_complete_and_loads_with_transformers(config, results) -> None:
    folder = Path(config.output_dir)
    names = {"config.json", "model.safetensors", "preprocessor_config.json"}
    names |= {"train_config.json", "data.json", "results.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert TrainConfig.load(folder) == config
    assert json.loads((folder / "results.json").read_text()) == results
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    assert model.config.id2label == {0: "background", 1: "lung"}
    assert AutoImageProcessor.from_pretrained(folder).size == {"height": 32, "width": 32}


def test_results_are_of_the_test_images_and_add_up(config, results) -> None:
    rows = TASKS["lung_segmentation"].usable(load_splits(config.data_dir)["test"])
    per_image = results["per_image"]
    assert [one["id"] for one in per_image] == sorted(rows["id"])
    assert all(split_of(row["patient_id"]) == "test" for row in rows)
    assert results["images"]["test"] == len(rows)
    for site, summary in results["dice"].items():
        of_site = [one["dice"] for one in per_image if site in (one["site"], "all")]
        assert summary["n"] == len(of_site)
        assert summary["mean"] == pytest.approx(sum(of_site) / len(of_site))
    assert results["dice"]["all"]["mean"] > 0.5  # even this small a model learns in 12 epochs; a blank mask gets 0


def test_finished_run_is_not_trained_again(config, results) -> None:
    written = (Path(config.output_dir) / "model.safetensors").stat().st_mtime_ns
    assert fit(config) == results
    assert (Path(config.output_dir) / "model.safetensors").stat().st_mtime_ns == written


def test_other_config_for_the_same_folder_names_the_field(config, results) -> None:
    with pytest.raises(ValueError, match=r"run of another config \(epochs: 9, not 12\)"):
        fit(dataclasses.replace(config, epochs=9))


def test_changed_x_rays_are_noticed(config, phantoms, tmp_path) -> None:
    shutil.copytree(phantoms, tmp_path / "set")
    run = dataclasses.replace(config, data_dir=str(tmp_path / "set"), output_dir=str(tmp_path / "run"), epochs=1)
    data = json.loads((Path(config.output_dir) / "data.json").read_text())
    assert all(split_of(id[:-2]) == part for part in ("validation", "test") for id in data[part] if id[:3] == "CHN")
    results = fit(run)
    assert fit(run) == results
    next((tmp_path / "set").rglob("CXR_png/*.png")).touch()
    with pytest.raises(ValueError, match="set changed since the run in .*run began"):
        fit(run)


def test_folder_of_something_else_is_left_alone(config, tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds files but no run"):
        fit(dataclasses.replace(config, output_dir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_part_without_masks_is_named_before_training(config, phantoms, tmp_path) -> None:
    shutil.copytree(phantoms, tmp_path / "set")
    for mask in (tmp_path / "set").rglob("masks/*.png"):
        if split_of(mask.name[:11]) == "validation":
            mask.unlink()
    with pytest.raises(ValueError, match="no validation X-ray in .*set is fit for lung_segmentation"):
        fit(dataclasses.replace(config, data_dir=str(tmp_path / "set"), output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_loss_that_is_not_finite_stops_the_run(config, tmp_path) -> None:
    with pytest.raises(ValueError, match="the loss is nan in epoch [12]: lower learning_rate"):
        fit(dataclasses.replace(config, learning_rate=1e30, output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run" / "results.json").exists()


def test_norms_and_biases_are_not_decayed(config) -> None:
    model = TASKS["lung_segmentation"].build(config.model, True, ("background", "lung"))
    decayed, others = _optimizer(config, model).param_groups
    names = {id(weight): name for name, weight in model.named_parameters()}
    assert not any("bias" in names[id(weight)] or "norm" in names[id(weight)] for weight in decayed["params"])
    assert all("bias" in names[id(weight)] or "norm" in names[id(weight)] for weight in others["params"])
    assert (decayed["weight_decay"], others["weight_decay"]) == (config.weight_decay, 0)
    assert len(names) == len(decayed["params"]) + len(others["params"])


def test_run_killed_and_started_again_ends_with_the_same_weights(config, results, tmp_path) -> None:
    again = dataclasses.replace(config, output_dir=str(tmp_path / "run"))
    kill_when((tmp_path / "run" / "checkpoints" / "epoch-00002").exists, *line(again))
    assert not (tmp_path / "run" / "results.json").exists()
    log = accelerate(*line(again)).stderr
    assert "going on from" in log and "epoch 1:" not in log and "epoch 12:" in log
    weights, resumed = (
        load_file(Path(folder) / "model.safetensors") for folder in (config.output_dir, again.output_dir)
    )
    assert all(torch.equal(weights[name], resumed[name]) for name in weights | resumed)
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_two_processes_train_and_test_each_image_once(config, results, tmp_path) -> None:
    shutil.copytree(config.data_dir, tmp_path / "set")
    masks = [mask for mask in (tmp_path / "set").rglob("masks/*.png") if split_of(mask.name[:11]) == "validation"]
    for mask in masks[1:]:  # one validation image is left: one process has none
        mask.unlink()
    both = dataclasses.replace(config, data_dir=str(tmp_path / "set"), output_dir=str(tmp_path / "run"))
    accelerate(*line(both), processes=2)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [one["id"] for one in found["per_image"]] == [one["id"] for one in results["per_image"]]
    assert found["images"] == results["images"] | {"validation": 1}
    assert found["launch"] == {"processes": 2, "mixed_precision": "no"}
    assert found["dice"]["all"]["mean"] > 0.5


def test_batch_must_fit_the_processes(config, tmp_path) -> None:
    odd = dataclasses.replace(config, batch_size=3, output_dir=str(tmp_path / "run"))
    done = accelerate(*line(odd), processes=2, check=False)
    assert done.returncode and "batch_size must be a multiple of the 2 processes, got 3" in done.stderr
    assert not (tmp_path / "run").exists()
