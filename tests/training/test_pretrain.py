import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import accelerate, kill_when, python
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification

from hub_models.dataset.sources import load_splits
from hub_models.evaluation.evaluate import evaluate_run
from hub_models.hub.push import push_model
from hub_models.imaging.gray import to_gray
from hub_models.models.architectures import build
from hub_models.models.tasks import TASKS
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs.config import TrainConfig
from hub_models.runs.pretrain_config import PretrainConfig
from hub_models.runs.run_folder import read_data
from hub_models.training.optimization import make_optimizer
from hub_models.training.pretrain import pretrain
from hub_models.training.train import train

TB = "tb_classification"
LABELS = TASKS[TB].labels


@pytest.fixture(scope="module")
def small_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small_vit")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ViTConfig(**sizes, patch_size=8).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config(phantoms, small_vit, tmp_path_factory) -> PretrainConfig:
    folder = tmp_path_factory.mktemp("encoders") / "first"
    settings = {"image_size": 32, "epochs": 12, "batch_size": 4, "learning_rate": 5e-3, "checkpoint_steps": 3}
    return PretrainConfig(str(phantoms), str(folder), model=str(small_vit), tracker="none", **settings)


@pytest.fixture(scope="module")
def results(config) -> dict:
    return pretrain(config)


def words(config: PretrainConfig) -> list[str]:
    """Command line of a config."""
    known = ("model", "image_size", "epochs", "batch_size", "learning_rate", "checkpoint_steps", "tracker")
    options = [text for name in known for text in (f"--{name}", str(getattr(config, name)))]
    return ["-m", "hub_models", "pretrain", "--data", *config.sources, "--output", config.output_dir, *options]


def fine_tuning(config: PretrainConfig, folder: Path, **more: object) -> TrainConfig:
    given = {"task": TB, "model": config.output_dir, "image_size": 32, "epochs": 1, "batch_size": 8, "tracker": "none"}
    return TrainConfig(**{"data_dir": config.data_dir, "output_dir": str(folder)} | given | more)


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def plain_folder(rows: object, folder: Path) -> Path:
    """The X-rays of rows as pictures under other names, without a table, whose marks are gone."""
    folder.mkdir(parents=True)
    for index, row in enumerate(rows):
        to_gray(row["image"]).save(folder / f"x{index:03d}.png")
    return folder


def test_loss_falls_and_the_folder_is_complete(config, results) -> None:
    folder = Path(config.output_dir)
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "pretrain_config.json", "data.json"}
    assert {path.name for path in folder.iterdir()} == names | {"results.json", "README.md"}
    assert PretrainConfig.load(folder) == config
    assert json.loads((folder / "results.json").read_text()) == results == pretrain(config)
    epochs = results["training"]["epochs"]
    losses = [epoch["validation_loss"] for epoch in epochs]
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.05 and epochs[-1]["loss"] < epochs[0]["loss"] - 0.05
    assert all(epoch["validation_r2"] == pytest.approx(1 - epoch["validation_loss"]) for epoch in epochs)
    assert results["training"]["kept_epoch"] == 1 + int(np.argmin(losses))
    card = (folder / "README.md").read_text()
    assert "not a reader" in card and str(folder.parent) not in card and "| phantoms | 45 | 7 |" in card


def test_test_split_is_left_out_and_recorded(config, results) -> None:
    data, rows = read_data(Path(config.output_dir)), load_splits(config.data_dir)
    assert {split: set(data[split]) for split in rows} == {split: set(one["id"]) for split, one in rows.items()}
    assert results["splits"] == {split: len(rows[split]) for split in ("train", "validation")}
    assert {name for name, held in data["pixels"].items() if held} == {"train", "validation"}
    assert data["synthetic_learned"] == len(data["train"]) + len(data["validation"]) and data["earlier"] == []


def test_every_weight_of_the_encoder_is_fine_tuned_from(config, results, caplog) -> None:
    saved = [one.tolist() for one in weights_of(config.output_dir).values()]  # under names of older versions
    with caplog.at_level("INFO", "hub_models"):
        ours = build("classification", config.output_dir, False, LABELS, 32)
    assert "has no head of this kind" in caplog.text
    theirs = ViTForImageClassification.from_pretrained(config.output_dir)
    for model in (ours, theirs):
        held = [one.tolist() for name, one in model.state_dict().items() if name.startswith("vit.")]
        assert sorted(held, key=repr) == sorted(saved, key=repr)
    assert list(AutoImageProcessor.from_pretrained(config.output_dir).image_mean) == [0.5] * 3
    decaying = dataclasses.replace(fine_tuning(config, Path("run")), layer_decay=0.7, learning_rate=1.0)
    rates = {group["lr"] for group in make_optimizer(decaying, ours).param_groups}
    assert sorted(rates) == pytest.approx([0.7**3, 0.7**2, 0.7, 1])  # embeddings, two layers, norm and head


def test_fine_tuned_run_knows_what_its_encoder_saw(config, results, tmp_path) -> None:
    done = train(fine_tuning(config, tmp_path / "run", mixup=0.4, ema=0.9))
    data, seen = read_data(tmp_path / "run"), read_data(Path(config.output_dir))
    assert done["images"] == len(seen["test"]) and data["earlier"] == sorted(seen["train"])
    assert data["validation"] == seen["validation"]  # with which both chose their epoch
    assert data["pixels"]["earlier"] == seen["pixels"]["train"]
    chosen_with = evaluate_run(tmp_path / "run", config.data_dir, "validation", output=tmp_path / "validation")
    assert chosen_with["images"] == len(seen["validation"])
    with pytest.raises(ValueError, match="was trained on patients of"):
        evaluate_run(tmp_path / "run", config.data_dir, protocol="folds", fold=0, output=tmp_path / "fold")
    assert "pre-trained without labels" in (tmp_path / "run" / "README.md").read_text()
    prediction = ChestXrayReader(classifier=tmp_path / "run").read([Image.effect_noise((80, 80), 60)])[0]
    assert 0 < prediction.probability < 1


def test_encoder_that_saw_a_test_patient_is_refused(config, results, tmp_path) -> None:
    with pytest.raises(ValueError, match="was trained on patients of 8 of the 9"):
        train(fine_tuning(config, tmp_path / "run", protocol="folds", fold=1))
    assert not (tmp_path / "run").exists()


def test_encoder_that_saw_the_pixels_of_a_test_x_ray_is_refused(config, phantoms, tmp_path) -> None:
    copies = plain_folder(load_splits(phantoms)["test"], tmp_path / "copies")
    seeing = dataclasses.replace(config, whole=[str(copies)], epochs=1, output_dir=str(tmp_path / "encoder"))
    done = pretrain(seeing)
    assert done["sources"][1] == {"source": "copies", "train": 8, "validation": 0}
    data = read_data(tmp_path / "encoder")
    assert len(data["patients"]["train"]) == 8 and data["source"] == "phantoms, copies"  # of the set, ids tell them
    with pytest.raises(ValueError, match="was trained on the pixels of 8"):
        train(fine_tuning(seeing, tmp_path / "run"))


def test_own_x_rays_are_divided_whatever_the_protocol_and_the_set_is_never_whole(config, phantoms, tmp_path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for index in range(30):
        Image.effect_noise((40 + index, 40), 60).save(own / f"{index}.png")
    given = {
        "more_data": [str(own)],
        "protocol": "mc_to_shenzhen",
        "epochs": 1,
        "output_dir": str(tmp_path / "encoder"),
    }
    counts = pretrain(dataclasses.replace(config, **given))["sources"]
    divided = load_splits(own)
    assert counts[1] == {"source": "own", "train": len(divided["train"]), "validation": len(divided["validation"])}
    data = read_data(tmp_path / "encoder")
    assert len(data["test"]) > len(divided["test"]) > 0  # all of Shenzhen
    assert {id[:3] for id in data["train"] if id[3:6] == "CXR"} == {"MCU"}
    with pytest.raises(ValueError, match=r"holds X-rays of the set.*: pass it as --data"):
        pretrain(dataclasses.replace(config, whole=[str(phantoms)], output_dir=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


def test_patient_in_the_test_split_of_another_source_is_named(config, phantoms, tmp_path) -> None:
    rows = load_splits(phantoms)
    held, lines = rows["test"], ["file,id,patient,split"]
    folder = plain_folder(held, tmp_path / "again")
    lines += [f"x{index:03d}.png,{id},{id},train" for index, id in enumerate(held["id"])]
    (folder / "list.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"phantoms has 8 test X-rays of patients who would be learned from in"):
        pretrain(dataclasses.replace(config, more_data=[str(folder)], output_dir=str(tmp_path / "encoder")))


@pytest.mark.slow
def test_all_folds_have_an_encoder_each_for_the_training_of_all_folds(config, tmp_path) -> None:
    many = dataclasses.replace(config, protocol="folds", epochs=1, output_dir=str(tmp_path / "encoders"))
    assert len(pretrain(many)["folds"]) == 5
    left_out = [read_data(tmp_path / "encoders" / f"fold-{fold}")["test"] for fold in range(5)]
    assert sorted(id for one in left_out for id in one) == sorted(id for one in left_out for id in set(one))
    assert len({id for one in left_out for id in one}) == 60
    done = train(fine_tuning(many, tmp_path / "runs", protocol="folds", image_size=32))
    assert done["images"] == 60


@pytest.mark.parametrize(
    "use",
    [
        lambda folder: evaluate_run(folder, folder.parent),
        lambda folder: ChestXrayReader(classifier=folder),
        lambda folder: push_model(folder, "owner/name", license="mit", dry_run=True),
    ],
    ids=["evaluate", "predict", "push"],
)
def test_encoder_is_no_model_to_read_with(use: Callable[[Path], object], config, results) -> None:
    with pytest.raises(ValueError, match=r"holds a pre-trained encoder.*cxm train --task tb_classification --model"):
        use(Path(config.output_dir))


@pytest.mark.parametrize("name", ["balance", "layer_decay", "task"])
def test_option_of_a_training_with_labels_is_refused(name: str) -> None:
    value = {"balance": "weights", "layer_decay": 0.7, "task": "lung_segmentation"}[name]
    with pytest.raises(ValueError, match=f"{name} .* is an option of cxm train"):
        PretrainConfig("data", "out", **{name: value})


def test_another_folder_or_config_is_left_alone(config, results, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"\(mask_ratio: 0.5, not 0.75\): delete it, or pass another$"):
        pretrain(dataclasses.replace(config, mask_ratio=0.5))
    with pytest.raises(FileExistsError, match="which belongs to no run"):
        train(fine_tuning(config, Path(config.output_dir)))


@pytest.mark.slow
def test_killed_pre_training_ends_with_the_same_weights(config, results, tmp_path) -> None:
    again = dataclasses.replace(config, output_dir=str(tmp_path / "run"))
    kill_when((tmp_path / "run" / "checkpoints" / "epoch-00002-step-000003").exists, *words(again))
    assert not (tmp_path / "run" / "results.json").exists()
    log = accelerate(*words(again)).stderr
    assert "resuming from epoch 3" in log and "epoch 2:" not in log and "pre-training, batch size 4" in log
    weights, others = weights_of(config.output_dir), weights_of(tmp_path / "run")
    assert all(torch.equal(weights[name], others[name]) for name in weights | others)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_one_process_and_two_learn_the_same(config, tmp_path) -> None:
    one, two = (
        dataclasses.replace(config, epochs=3, learning_rate=1e-3, output_dir=str(tmp_path / name)) for name in "ab"
    )
    expected = pretrain(one)
    accelerate(*words(two), processes=2)
    found = json.loads((tmp_path / "b" / "results.json").read_text())
    assert (expected["launch"]["processes"], found["launch"]["processes"]) == (1, 2)
    for first, second in zip(expected["training"]["epochs"], found["training"]["epochs"], strict=True):
        assert second == pytest.approx(first, abs=1e-4)
    weights, others = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    for name in weights:
        torch.testing.assert_close(others[name], weights[name], atol=2e-4, rtol=0)


@pytest.mark.slow
def test_command_takes_several_sources_in_bf16(config, phantoms, tmp_path) -> None:
    own = plain_folder(load_splits(phantoms)["train"], tmp_path / "own")
    several = dataclasses.replace(config, more_data=[str(own)], epochs=1, output_dir=str(tmp_path / "run"))
    python(*words(several))
    shutil.rmtree(tmp_path / "run")
    accelerate("--mixed_precision", "bf16", *words(several))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [one["source"] for one in results["sources"]] == ["phantoms", "own"]
    assert results["launch"]["mixed_precision"] == "bf16" and results["training"]["epochs"][0]["loss"] < 1.5
