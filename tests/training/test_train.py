import dataclasses
import json
import resource
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from launch import accelerate, interrupt_when, kill_when
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images
from small_disk import largest_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    ViTConfig,
)

from chest_xray_masks import split_of
from hub_models.dataset.sources import load_splits
from hub_models.files import DiskFullError, held
from hub_models.imaging.flags import Flag
from hub_models.models.image_processors import normalize
from hub_models.models.out_of_distribution import OUT_OF_DISTRIBUTION_NAME, OutOfDistribution
from hub_models.models.tasks import TASKS
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs import data
from hub_models.runs.config import TrainConfig
from hub_models.runs.notes import CARD_NAME, refuse_edited
from hub_models.runs.run_folder import read_per_image
from hub_models.training import loop
from hub_models.training import train as module
from hub_models.training.loop import train_epoch
from hub_models.training.train import train


@pytest.fixture(scope="module")
def config(phantoms, tiny_segformer, tmp_path_factory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("runs") / "first"
    settings = {"image_size": 32, "epochs": 12, "batch_size": 4, "learning_rate": 0.005, "checkpoint_steps": 3}
    return TrainConfig(str(phantoms), str(folder), model=str(tiny_segformer), from_scratch=True, seed=3, **settings)


@pytest.fixture(scope="module")
def tb_config(config, tiny_resnet, tmp_path_factory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("tb_runs") / "first"
    other = {"task": "tb_classification", "model": str(tiny_resnet), "output_dir": str(folder), "epochs": 8}
    return dataclasses.replace(config, **other, ema=0.9, accumulation=2)


@pytest.fixture(scope="module")
def results(config) -> dict:
    return train(config)


def line(config: TrainConfig) -> list[str]:
    """Command line of a config."""
    given = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    return ["scripts/train.py", *(text for name, value in given.items() for text in (f"--{name}", str(value)))]


def test_folder_of_another_launch_is_refused(config, tmp_path) -> None:
    other = dataclasses.replace(config, output_dir=str(tmp_path / "run"))
    with held(tmp_path / "run"), pytest.raises(ValueError, match=f"another launch is writing to {tmp_path}/run: let"):
        train(other)
    assert not list(tmp_path.iterdir())  # nothing is left of either


def test_run_folder_is_complete_and_loads_with_transformers(config, results) -> None:
    folder = Path(config.output_dir)
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "train_config.json", "data.json"}
    names |= {"results.json", "per_image.parquet", "overlays.png", "dice.png", "outlines.png", "tracking"}
    names |= {"out_of_distribution.safetensors", "README.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert TrainConfig.load(folder) == config
    assert results["training"]["device"] == "cpu" and results["training"]["duration_seconds"] > 0
    assert json.loads((folder / "results.json").read_text()) == results
    card = ModelCard.load(folder / "README.md")  # under the folder's name, of which no licence is known
    assert f"\n# {folder.name}\n" in card.text and "## Limits" in card.text and card.data.license is None
    refuse_edited(folder)
    model = AutoModelForSemanticSegmentation.from_pretrained(folder)
    assert model.config.id2label == {0: "background", 1: "lung"}
    assert AutoImageProcessor.from_pretrained(folder).size == {"height": 32, "width": 32}


def test_results_are_of_the_test_images_and_add_up(config, results) -> None:
    rows = TASKS["lung_segmentation"].usable(load_splits(config.data_dir)["test"])
    per_image = read_per_image(Path(config.output_dir))
    assert [one["id"] for one in per_image] == sorted(rows["id"])
    assert all(split_of(row["patient_id"]) == "test" for row in rows)
    assert results["images"] == results["splits"]["test"] == len(rows)
    for site in ("all", "Montgomery", "Shenzhen"):
        summary = results["metrics"]["all" if site == "all" else f"site: {site}"]
        of_site = [one["dice"] for one in per_image if site in (one["site"], "all")]
        assert summary["n"] == len(of_site)
        assert summary["dice"]["value"] == pytest.approx(sum(of_site) / len(of_site))
        assert summary["dice"]["low"] <= summary["dice"]["value"] <= summary["dice"]["high"]
    # even this small a model learns in 12 epochs; a blank mask gets 0
    assert results["metrics"]["all"]["dice"]["value"] > 0.5
    epochs = results["training"]["epochs"]
    best = max(range(12), key=lambda index: epochs[index]["validation_dice"])
    assert len(epochs) == 12 and results["training"]["kept_epoch"] == best + 1


def test_training_is_tracked(config, results) -> None:
    accumulator = EventAccumulator(str(Path(config.output_dir) / "tracking")).Reload()
    losses = [event.value for event in accumulator.Scalars("loss")]
    assert losses == pytest.approx([epoch["loss"] for epoch in results["training"]["epochs"]])


@pytest.mark.slow
def test_trackio_keeps_one_log_of_a_run_that_was_killed_and_another_of_a_new_one(
    config, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "logs"))
    run = dataclasses.replace(config, output_dir=str(tmp_path / "run"), epochs=4, tracker="trackio")
    kill_when((tmp_path / "run" / "checkpoints" / "epoch-00002-step-000000").exists, *line(run))
    accelerate(*line(run))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    shutil.rmtree(tmp_path / "run")
    accelerate(*line(dataclasses.replace(run, epochs=1)))
    with sqlite3.connect(tmp_path / "logs" / "chest-xray-masks.db") as logs:
        rows = logs.execute("select run_id, metrics from metrics order by id").fetchall()
    epochs = [(id, json.loads(metrics)["loss"]) for id, metrics in rows if b'"loss"' in metrics]
    first, *_, last = (id for id, _ in epochs)
    losses = [loss for id, loss in epochs if id == first]  # but those that the kill took
    assert losses[-2:] == pytest.approx([epoch["loss"] for epoch in results["training"]["epochs"]][-2:])
    assert 2 <= len(losses) <= 4 and [id for id, _ in epochs if id != first] == [last]
    assert not (tmp_path / "run" / "tracking").exists()


def test_other_config_for_the_same_folder_names_the_field(config, results) -> None:
    with pytest.raises(ValueError, match=rf"\(epochs: 9, not 12\).* with --model {config.output_dir}"):
        train(dataclasses.replace(config, epochs=9))


def test_config_is_saved_with_the_values_used_and_null_stands_for_them(config, tmp_path, caplog, monkeypatch) -> None:
    counts = []  # images of each epoch

    def count_images(*args: object) -> tuple[float, int, float]:
        counts.append((epoch := train_epoch(*args))[1])
        return epoch

    monkeypatch.setattr(loop, "train_epoch", count_images)
    bare = dataclasses.replace(
        config, learning_rate=None, epochs=1, batch_size=4096, output_dir=str(tmp_path / "run"), tracker="tensorboard"
    )
    with caplog.at_level("INFO", "hub_models"):
        results = train(bare)
    folder = tmp_path / "run"
    saved = json.loads((folder / "train_config.json").read_text())
    assert (saved["learning_rate"], saved["image_size"], saved["model"]) == (1e-3, 32, config.model)
    assert {name: value for name, value in results["config"].items() if value is not None}.items() <= saved.items()
    assert None not in saved.values() and saved["device"] == "cpu" and saved["duration_seconds"] > 0
    splits = results["splits"]
    said = caplog.messages
    assert f"X-rays: {splits['train']} train, {splits['validation']} validation, {splits['test']} test" in said[0]
    assert "cpu" in said[0] and "1 process," in said[0]
    assert "32 px" in said[1] and "1 epoch of 1 step" in said[1] and "learning rate 0.001" in said[1]
    assert said[2].startswith(f"batch_size 4096 is more than the {splits['train']} X-rays")
    value = results["training"]["epochs"][0]["validation_dice"]
    assert said[-1] == f"wrote {folder} (epoch 1 kept, best validation dice {value:.4f})"
    assert counts == [splits["train"]]  # not the batch size
    assert [line.endswith(" images/s") for line in said if line.startswith("epoch 1:")] == [True]
    (folder / "train_config.json").write_text(json.dumps(saved | {"learning_rate": None, "tracker": "none"}))
    assert train(bare) == results  # a folder of before, and another tracker


def test_changed_x_rays_are_noticed(config, results, phantoms, tmp_path) -> None:
    shutil.copytree(phantoms, tmp_path / "set")
    run = dataclasses.replace(config, data_dir=str(tmp_path / "set"), output_dir=str(tmp_path / "run"), epochs=1)
    data = json.loads((Path(config.output_dir) / "data.json").read_text())
    assert all(split_of(id[:-2]) == split for split in ("validation", "test") for id in data[split] if id[:3] == "CHN")
    results = train(run)
    assert train(run) == results
    next((tmp_path / "set").rglob("CXR_png/*.png")).touch()
    with pytest.raises(ValueError, match="run holds a run of other X-rays .*set is another source, or has changed"):
        train(run)
    written = json.loads((tmp_path / "run" / "data.json").read_text())
    (tmp_path / "run" / "data.json").write_text(json.dumps(written | {"model": "0" * 64, "earlier": ["x"]}))
    started = dataclasses.replace(run, model="runs/first")
    with pytest.raises(ValueError, match=r"holds a run from another model \(runs/first has changed\)"):
        module.check_data(started, tmp_path / "run", written | {"model": "1" * 64})


def test_folder_of_something_else_is_left_alone(config, tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds thesis.txt, which belongs to no run: pass a new"):
        train(dataclasses.replace(config, output_dir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_part_without_masks_is_named_before_training(config, phantoms, tmp_path) -> None:
    shutil.copytree(phantoms, tmp_path / "set")
    for mask in (tmp_path / "set").rglob("masks/*.png"):
        if split_of(mask.name[:11]) == "validation":
            mask.unlink()
    with pytest.raises(ValueError, match="no validation X-ray in .*set .* has a lung mask"):
        train(dataclasses.replace(config, data_dir=str(tmp_path / "set"), output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_model_that_does_not_fit_is_refused_before_x_rays_are_scaled(
    config, tiny_resnet, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(module, "load_run_rows", lambda *_: pytest.fail("X-rays were read"))
    for model, said in (
        (str(tiny_resnet), "is a resnet model, and this task takes"),
        ("nowhere", "no architecture nowhere"),
    ):
        with pytest.raises(ValueError, match=said):
            train(dataclasses.replace(config, model=model, output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_loss_that_is_not_finite_stops_the_run_and_names_step_and_x_rays(config, tmp_path) -> None:
    broken = dataclasses.replace(config, learning_rate=1e30, output_dir=str(tmp_path / "run"), tracker="none")
    said = r"in epoch 1, step \d+, of (MCU|CHN)CXR_.*: lower learning_rate.* use the same output folder"
    with pytest.raises(ValueError, match=said):
        train(broken)
    assert not (tmp_path / "run" / "results.json").exists()
    assert not list((tmp_path / "run").glob("checkpoints/epoch-*"))  # nothing spoilt is kept
    sound = dataclasses.replace(broken, learning_rate=0.001, epochs=1)
    assert train(sound)["training"]["kept_epoch"] == 1 and TrainConfig.load(tmp_path / "run") == sound
    with pytest.raises(ValueError, match="holds a run of another config"):
        train(broken)


def test_mixed_x_rays_are_of_two_of_the_step(tb_config) -> None:
    config = dataclasses.replace(tb_config, mixup=0.4, augment="none", tracker="none")
    accelerator = module.training_accelerator(config)
    run = module.make_run(config, accelerator, data.load_run_splits(config, accelerator))
    batch = run.splits["train"].arrays.__getitems__([0, 1, 2])
    inputs, references = loop._inputs(run, batch)
    images, own = batch["pixels"].float() / 255, batch["own"][:, None, None]
    mixed = own * images + (1 - own) * images[[1, 2, 0]]
    torch.testing.assert_close(inputs["pixel_values"], normalize(mixed, run.image_processor))
    assert "own" in references and "own" not in run.splits["validation"].arrays.__getitems__([0])


def test_named_tracker_must_be_installed(config, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "get_available_trackers", lambda: [])
    run = dataclasses.replace(config, output_dir=str(tmp_path / "run"), epochs=1, tracker="wandb")
    with pytest.raises(ImportError, match=r"tracker wandb .*pip install wandb.*chest-xray-masks\[tracking\]"):
        train(run)
    with pytest.raises(ImportError, match=r"tracker tensorboard .*: pip install 'chest-xray-masks\[tracking\]'"):
        train(dataclasses.replace(run, tracker="tensorboard"))
    assert not (tmp_path / "run").exists()
    with caplog.at_level("INFO", "hub_models"):
        assert module.training_accelerator(dataclasses.replace(run, tracker="auto")).log_with == []
    assert "chest-xray-masks[tracking]" in caplog.text


def test_a_line_is_logged_within_an_epoch_off_the_terminal(config, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(loop, "LOG_SECONDS", 0)
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    with caplog.at_level("INFO", "hub_models"):
        train(dataclasses.replace(config, output_dir=str(tmp_path / "run"), epochs=1, tracker="none", batch_size=2))
    steps = [line for line in caplog.messages if line.startswith("epoch 1 of 1, step ")]
    assert len(steps) > 10 and ", loss " in steps[-1]
    assert caplog.messages[0] == "no GPU found: training on the CPU"


def test_older_run_gets_its_out_of_distribution_file_and_card_alone(config, results) -> None:
    folder, lacking = Path(config.output_dir), (OUT_OF_DISTRIBUTION_NAME, CARD_NAME)
    written = [(folder / name).read_bytes() for name in lacking]
    for name in lacking:
        (folder / name).unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert train(config) == results
    assert [(folder / name).read_bytes() for name in lacking] == written
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name not in lacking}
    assert after == before


def test_edited_card_stops_a_run_before_it_is_written_over(config, results, tmp_path) -> None:
    folder = Path(shutil.copytree(config.output_dir, tmp_path / "run"))
    (folder / CARD_NAME).write_text("# My words\n")
    (folder / "results.json").unlink()
    with pytest.raises(ValueError, match="README.md was edited"):
        train(dataclasses.replace(config, output_dir=str(folder)))
    assert (folder / CARD_NAME).read_text() == "# My words\n"


def test_out_of_distribution_score_tells_other_x_rays(config, results) -> None:
    reader = ChestXrayReader(config.output_dir)
    known = reader.segmenter.out_of_distribution
    assert known.count == results["splits"]["train"] and known.mean.shape == (24 + 32,)  # the last two stages
    rows = load_splits(config.data_dir)["test"]
    found = reader.read(rows["image"])
    assert np.mean([one.distance > one.limit for one in found]) < 0.2
    flower = Image.fromarray(load_sample_images().images[1])
    colour, gray, turned = reader.read([flower, flower.convert("L"), rows[0]["image"].rotate(90)])
    assert colour.flag_codes[:2] == (Flag.COLOUR, Flag.OUT_OF_DISTRIBUTION)
    assert gray.flag_codes[0] == Flag.OUT_OF_DISTRIBUTION and turned.distance > turned.limit == known.limit


@pytest.mark.parametrize("size", [1_000, 300_000])
def test_full_disk_is_named_with_what_stands_and_the_same_call_resumes(size: int, config, results, tmp_path) -> None:
    run = dataclasses.replace(config, output_dir=str(tmp_path / "run"), epochs=1, checkpoint_steps=0, tracker="none")
    with largest_file(size), pytest.raises(DiskFullError) as caught:
        train(run)
    said, files = str(caught.value), [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert f"the disk of {tmp_path / 'run'}" in said and "no checkpoint was made before" in said
    assert not any(name.startswith(".") for name in files) and "model.safetensors" not in files
    assert train(run)["training"]["kept_epoch"] == 1


@pytest.mark.slow
def test_full_disk_names_the_checkpoint_that_stands(config, results, tmp_path, monkeypatch) -> None:
    run = dataclasses.replace(config, output_dir=str(tmp_path / "run"), epochs=3, checkpoint_steps=0, tracker="none")

    def fill(*args: object) -> tuple[float, int, float]:
        if any((tmp_path / "run" / "checkpoints").glob("epoch-*")):
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return train_epoch(*args)

    with monkeypatch.context() as patch, largest_file(2**40), pytest.raises(DiskFullError) as caught:
        patch.setattr(loop, "train_epoch", fill)
        train(run)
    assert f"the checkpoint {tmp_path}/run/checkpoints/epoch-00001-step-000000 is kept" in str(caught.value)
    train(run)
    whole = dataclasses.replace(run, output_dir=str(tmp_path / "whole"))
    train(whole)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_damaged_newest_checkpoint_costs_an_epoch_and_no_bit(config, results, tmp_path, monkeypatch, caplog) -> None:
    whole = dataclasses.replace(config, output_dir=str(tmp_path / "whole"), epochs=3, tracker="none", ema=0.9)
    train(whole)
    run = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "plain_model", stop)  # after the last epoch
        train(run)
    newest = tmp_path / "run" / "checkpoints" / "epoch-00003-step-000000"
    (newest / "random_states_0.pkl").unlink()
    (tmp_path / "run" / "checkpoints" / "kept.safetensors").write_bytes(b"")
    with caplog.at_level("INFO", "hub_models"):
        train(run)
    assert f"{newest} is passed over: random_states_0.pkl is missing" in caplog.text
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("name", ["train_config.json", "data.json", "results.json"])
def test_empty_file_of_a_run_is_named(name: str, config, results, tmp_path) -> None:
    folder = Path(shutil.copytree(config.output_dir, tmp_path / "run"))
    (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{folder / name} is damaged") as caught:
        train(dataclasses.replace(config, output_dir=str(folder)))
    assert "\n" not in str(caught.value)


def test_finished_run_loses_the_checkpoints_that_a_kill_left(config, results, tmp_path) -> None:
    folder = Path(shutil.copytree(config.output_dir, tmp_path / "run"))
    (folder / "checkpoints" / "epoch-00012-step-000000").mkdir(parents=True)
    (folder / "checkpoints" / "kept.safetensors").touch()
    (folder / ".results.json.writing").touch()
    assert train(dataclasses.replace(config, output_dir=str(folder))) == results
    assert not (folder / "checkpoints").exists() and not (folder / ".results.json.writing").exists()


@pytest.mark.parametrize("folds", [False, True])
def test_segmenter_that_has_seen_test_patients_is_refused_before_lungs_are_found(
    folds: bool, config, tb_config, results, tmp_path, monkeypatch
) -> None:
    for name in ("find_lungs", "prepare"):
        monkeypatch.setattr(data, name, lambda *_: pytest.fail("X-rays were read"))
    monkeypatch.setattr(module, "_train_run" if folds else "learn", lambda *_: pytest.fail("a model was trained"))
    lungs = Path(shutil.copytree(config.output_dir, tmp_path / "lungs"))
    known = json.loads((lungs / "data.json").read_text())
    (lungs / "data.json").write_text(json.dumps(known | {"earlier": known["test"]}))
    other = {"region": "lungs", "segmenter": str(lungs), "output_dir": str(tmp_path / "tb")}
    if folds:  # the last fold's alone has seen its test patients
        other |= {"protocol": "folds", "segmenter": str(tmp_path / "all")}
        for fold in range(5):
            shutil.copytree(lungs, tmp_path / "all" / f"fold-{fold}")
            empty = {"train": [], "validation": [], "earlier": known["test"] if fold == 4 else []}
            (tmp_path / "all" / f"fold-{fold}" / "data.json").write_text(json.dumps(known | empty))
    with pytest.raises(ValueError, match=f"{other['segmenter']}.* was trained on patients of .* X-rays to test on"):
        train(dataclasses.replace(tb_config, **other))
    assert not (tmp_path / "tb").exists()


def test_model_of_other_weights_is_refused_before_x_rays_are_read(
    config, tiny_segformer, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(module, "load_run_rows", lambda *_: pytest.fail("X-rays were read"))
    folder = Path(shutil.copytree(tiny_segformer, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=str(folder)):
        train(dataclasses.replace(config, model=str(folder), from_scratch=False, output_dir=str(tmp_path / "run")))


def test_few_training_x_rays_leave_no_out_of_distribution_score(config, results, phantoms, tmp_path) -> None:
    shutil.copytree(phantoms, tmp_path / "set")
    for id in json.loads((Path(config.output_dir) / "data.json").read_text())["train"][19:]:
        next((tmp_path / "set").rglob(f"masks/{id}*.png")).unlink()
    few = dataclasses.replace(config, data_dir=str(tmp_path / "set"), output_dir=str(tmp_path / "run"), epochs=1)
    assert train(few)["splits"]["train"] == 19
    assert not (tmp_path / "run" / OUT_OF_DISTRIBUTION_NAME).exists()
    assert ChestXrayReader(tmp_path / "run").read(Image.effect_noise((50, 50), 9))[0].distance is None


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def assert_same_run(folder: Path, config: TrainConfig) -> None:
    """The weights, to the bit, and the results of two runs are the same."""
    weights, again = weights_of(config.output_dir), weights_of(folder)
    assert all(torch.equal(weights[name], again[name]) for name in weights | again)
    if config.task == "lung_segmentation":
        one, other = (OutOfDistribution.load(Path(run)) for run in (config.output_dir, folder))
        assert (one.count, one.limit) == (other.count, pytest.approx(other.limit, rel=1e-3))  # sums of other threads
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-3, atol=1e-5)
    first, second = (json.loads((Path(run) / "results.json").read_text()) for run in (config.output_dir, folder))
    assert first.pop("config") | {"output_dir": ""} == second.pop("config") | {"output_dir": ""}
    first["training"].pop("duration_seconds"), second["training"].pop("duration_seconds")
    assert first == second
    assert not (folder / "checkpoints").exists()


def test_run_killed_and_started_again_ends_with_the_same_weights(config, results, tmp_path) -> None:
    again = dataclasses.replace(config, output_dir=str(tmp_path / "run"))
    kill_when((tmp_path / "run" / "checkpoints" / "epoch-00002-step-000000").exists, *line(again))
    assert not (tmp_path / "run" / "results.json").exists()
    log = accelerate(*line(again)).stderr
    assert "resuming from epoch" in log and "epoch 1:" not in log and "epoch 12:" in log
    assert_same_run(tmp_path / "run", config)


@pytest.mark.slow
def test_run_killed_within_an_epoch_ends_with_the_same_weights_though_it_draws_dropout(config, tmp_path) -> None:
    whole = dataclasses.replace(config, dropout=0.2, epochs=4, output_dir=str(tmp_path / "whole"))
    train(whole)
    again = dataclasses.replace(whole, output_dir=str(tmp_path / "run"))
    kill_when((tmp_path / "run" / "checkpoints" / "epoch-00001-step-000003").exists, *line(again))
    assert "resuming from epoch 2, step" in accelerate(*line(again)).stderr
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint_and_tb_with_all_extras_resumes_the_same(tb_config, tmp_path) -> None:
    train(tb_config)
    again = dataclasses.replace(tb_config, output_dir=str(tmp_path / "run"))
    checkpoints = tmp_path / "run" / "checkpoints"
    status, log = interrupt_when(lambda: any(checkpoints.glob("epoch-*")), *line(again))
    assert status and "the same command resumes from there" in log  # the launcher itself dies of the signal
    assert any(checkpoints.glob("epoch-*")) and not (tmp_path / "run" / "results.json").exists()
    accelerate(*line(again))
    assert_same_run(tmp_path / "run", tb_config)


def test_one_process_and_two_learn_the_same(config, results, tmp_path) -> None:
    both = dataclasses.replace(config, output_dir=str(tmp_path / "run"))
    accelerate(*line(both), processes=2)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["launch"] == {"processes": 2, "mixed_precision": "no"}
    for one, two in zip(results["training"]["epochs"], found["training"]["epochs"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
        # counted in pixels, of which one on the edge may fall to either side: of 32x32, with some 200 of lung
        assert two["validation_dice"] == pytest.approx(one["validation_dice"], abs=2e-3)
    pairs = zip(read_per_image(Path(config.output_dir)), read_per_image(tmp_path / "run"), strict=True)
    for one, two in pairs:
        assert two["id"] == one["id"] and two["dice"] == pytest.approx(one["dice"], abs=5e-3)
    for group, metrics in results["metrics"].items():
        assert found["metrics"][group]["dice"]["value"] == pytest.approx(metrics["dice"]["value"], abs=1e-3)


@pytest.mark.slow
def test_two_processes_test_each_image_once_even_where_one_has_none(config, results, tmp_path) -> None:
    shutil.copytree(config.data_dir, tmp_path / "set")
    masks = [mask for mask in (tmp_path / "set").rglob("masks/*.png") if split_of(mask.name[:11]) == "validation"]
    for mask in masks[1:]:  # one validation image is left: one process has none
        mask.unlink()
    both = dataclasses.replace(
        config, data_dir=str(tmp_path / "set"), output_dir=str(tmp_path / "run"), epochs=1, batch_size=2
    )
    accelerate(*line(both), processes=2)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [one["id"] for one in read_per_image(tmp_path / "run")] == sorted(
        TASKS["lung_segmentation"].usable(load_splits(both.data_dir)["test"])["id"]
    )
    assert found["splits"] == results["splits"] | {"validation": 1}


@pytest.mark.slow
def test_batch_must_fit_the_processes(config, tmp_path) -> None:
    odd = dataclasses.replace(config, batch_size=3, output_dir=str(tmp_path / "run"))
    done = accelerate(*line(odd), processes=2, check=False)
    assert done.returncode and "batch_size must be a multiple of the 2 processes, got 3" in done.stderr
    assert not (tmp_path / "run").exists()


def test_early_stop_keeps_the_best_epoch(config, tmp_path) -> None:
    # a learning rate of almost nothing: no epoch is better than the first by much, and the random ranking decides
    slow = dataclasses.replace(
        config, learning_rate=1e-12, patience=2, epochs=9, output_dir=str(tmp_path / "run"), tracker="none"
    )
    training = train(slow)["training"]
    metrics = [epoch["validation_dice"] for epoch in training["epochs"]]
    assert len(metrics) < 9 and len(metrics) - training["kept_epoch"] == 2
    assert training["kept_epoch"] == metrics.index(max(metrics)) + 1


def test_accumulated_steps_are_one_batch(config, tmp_path) -> None:
    """Three steps of 5 that make one update equal one step of 15, where the model has no batch norm."""
    settings = {"task": "tb_classification", "image_size": 32, "epochs": 2, "augment": "none", "keep": "last"}
    vit = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    vit.save_pretrained(tmp_path / "vit")
    weights = []
    for name, batch_size, accumulation in (("whole", 15, 1), ("thirds", 5, 3)):
        run = TrainConfig(
            config.data_dir, str(tmp_path / name), model=str(tmp_path / "vit"), from_scratch=True, tracker="none",
            batch_size=batch_size, accumulation=accumulation, **settings,
        )  # fmt: skip
        train(run)
        weights.append(weights_of(tmp_path / name))
    assert all(torch.allclose(one, weights[1][name], atol=1e-5) for name, one in weights[0].items())


@pytest.mark.slow
def test_all_folds_are_trained_and_every_x_ray_is_tested_once(tb_config, tmp_path) -> None:
    folds = dataclasses.replace(
        tb_config, protocol="folds", epochs=1, output_dir=str(tmp_path / "run"), tracker="none"
    )
    results = train(folds)
    rows = load_splits(folds.data_dir)
    assert results["images"] == sum(len(split) for split in rows.values())
    per_image = read_per_image(tmp_path / "run")
    assert [row["id"] for row in per_image] == sorted(id for split in rows.values() for id in split["id"])
    assert train(folds)["metrics"] == results["metrics"]  # from the finished folds
    with pytest.raises(FileExistsError, match="which belongs to no run of all folds: pass a new or an empty folder"):
        train(dataclasses.replace(folds, output_dir=str(tmp_path / "run" / "fold-0")))


@pytest.mark.slow
def test_folds_of_tb_take_the_segmenter_of_each_fold(config, tb_config, tmp_path) -> None:
    short = {"protocol": "folds", "epochs": 1, "tracker": "none"}
    train(dataclasses.replace(config, output_dir=str(tmp_path / "lungs"), **short))
    other = {"region": "lungs", "segmenter": str(tmp_path / "lungs")}
    results = train(dataclasses.replace(tb_config, output_dir=str(tmp_path / "tb"), **short, **other))
    assert results["images"] == 60
    assert TrainConfig.load(tmp_path / "tb" / "fold-3").segmenter == str(tmp_path / "lungs" / "fold-3")
    wrong = other | {"segmenter": str(tmp_path / "lungs" / "fold-0")}  # has seen most of the others' test X-rays
    with pytest.raises(
        ValueError, match="fold-0 was trained on patients of .* pass a model whose training left them out"
    ):
        train(dataclasses.replace(tb_config, output_dir=str(tmp_path / "no"), **short | {"fold": 1}, **wrong))
    assert not (tmp_path / "no").exists()


def test_tb_split_without_positives_is_named_before_training(tb_config, tmp_path) -> None:
    shutil.copytree(tb_config.data_dir, tmp_path / "set")
    for image in (tmp_path / "set").rglob("CXR_png/*_1.png"):
        if split_of(image.stem[:-2]) == "validation":
            image.unlink()
    bare = dataclasses.replace(tb_config, data_dir=str(tmp_path / "set"), output_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"no X-ray of validation \(protocol default\) is tuberculosis"):
        train(bare)
    assert not (tmp_path / "run").exists()


def test_calibrated_probabilities_and_the_threshold_are_in_the_model_itself(tb_config) -> None:
    train(tb_config)
    folder = Path(tb_config.output_dir)
    model = AutoModelForImageClassification.from_pretrained(folder)
    settings = model.config.chest_xray_masks
    assert settings["temperature"] > 0 and 0 < settings["threshold"] < 1
    row = load_splits(tb_config.data_dir)["test"][0]
    (found,) = [one for one in read_per_image(folder) if one["id"] == row["id"]]
    pixels = AutoImageProcessor.from_pretrained(folder)(row["image"].convert("RGB"), return_tensors="pt")
    with torch.no_grad():
        probability = model(**pixels).logits.softmax(1)[0, 1].item()
    assert probability == pytest.approx(found["probability"], abs=1e-5)
    assert found["threshold"] == settings["threshold"]
