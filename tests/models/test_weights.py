"""Weights of files that are whole, damaged or of others, and heads for other labels."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, ViTForImageClassification

from hub_models.evaluation.evaluate import evaluate_run
from hub_models.models.architectures import build, load
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel
from hub_models.models.weights import output_layers
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import find_lungs

TB = TASKS["tb_classification"].labels
Tensors = dict[str, torch.Tensor]
HEAD = "classifier.weight"


def encoder_tensor(weights: Tensors) -> str:
    """The first of the encoder's kernels by name."""
    return min(name for name, values in weights.items() if values.ndim > 1 and not name.startswith("classifier"))


@pytest.fixture(scope="module")
def lungs_folder(make_run, tiny_segformer, tmp_path_factory) -> Path:
    """A run folder of lung segmentation."""
    folder = str(tmp_path_factory.mktemp("lungs"))
    return make_run(TrainConfig("data", folder, model=str(tiny_segformer), image_size=64))


def change(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file(edit(load_file(path)), path, {"format": "pt"})


DAMAGES = {
    "missing": lambda weights, name: {key: value for key, value in weights.items() if key != name},
    "shape": lambda weights, name: weights | {name: torch.zeros(7, *weights[name].shape[1:])},
    "nan": lambda weights, name: weights | {name: weights[name] * float("nan")},
    "infinite": lambda weights, name: weights | {name: weights[name] + float("inf")},
    "more": lambda weights, name: weights | {f"{name}s": torch.zeros(1)},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_are_not_the_models_are_refused_by_every_loader(damage, finished_run, lungs_folder, tmp_path):
    folders = [Path(shutil.copytree(one, tmp_path / one.name)) for one in (finished_run, lungs_folder)]
    names = []
    for folder in folders:
        names.append(encoder_tensor(load_file(folder / "model.safetensors")))
        change(folder, lambda weights, name=names[-1]: DAMAGES[damage](weights, name))
    classifier, segmenter = folders
    loaders = (
        (0, lambda: TrainedModel.from_run(classifier)),
        (0, lambda: ChestXrayReader(classifier=classifier)),
        (0, lambda: evaluate_run(classifier, TrainConfig.load(classifier).data_dir, output=tmp_path / "out")),
        (1, lambda: ChestXrayReader(segmenter=segmenter)),
        (1, lambda: find_lungs(None, segmenter)),
    )
    for which, loader in loaders:
        with pytest.raises(ValueError) as error:
            loader()
        said = str(error.value)
        assert f"model.safetensors in {folders[which]}" in said and names[which] in said and "\n" not in said


def test_lost_head_is_refused_where_it_is_to_predict(finished_run, tmp_path) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    change(folder, lambda weights: {name: one for name, one in weights.items() if not name.startswith("classifier")})
    with pytest.raises(ValueError, match="it lacks classifier"):
        TrainedModel.from_run(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is damaged"):
        TrainedModel.from_run(folder)


def test_labels_in_another_order_are_refused_where_it_is_to_predict(finished_run, tmp_path) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    values = json.loads((folder / "config.json").read_text())
    values["id2label"] = {"0": "tuberculosis", "1": "normal"}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="has the labels .*'tuberculosis', 1: 'normal'"):
        TrainedModel.from_run(folder)


def checkpoint(tiny_vit: Path, folder: Path, labels: tuple[str, ...]) -> PreTrainedModel:
    """A ViT for these labels, whose head is not that of a fresh model, saved in `folder`."""
    torch.manual_seed(5)
    model = build("classification", str(tiny_vit), True, labels, 32).eval()
    with torch.no_grad():
        model.classifier.weight.normal_()
        model.classifier.bias.normal_()
    model.save_pretrained(folder)
    return model


def test_head_of_another_order_is_permuted(tiny_vit, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, "hub_models")
    theirs = checkpoint(tiny_vit, tmp_path, ("tuberculosis", "normal"))
    ours = build("classification", str(tmp_path), False, TB, 32).eval()
    inputs = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(inputs).logits, theirs(inputs).logits.flip(1), rtol=0, atol=0)
    assert ours.config.id2label == {0: "normal", 1: "tuberculosis"}
    assert "permuted from tuberculosis, normal to normal, tuberculosis" in caplog.text


@pytest.mark.parametrize("labels", [("cat", "dog"), ("LABEL_0", "LABEL_1"), ("normal", "tuberculosis", "other")])
def test_head_for_other_labels_is_made_anew(labels, tiny_vit, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, "hub_models")
    theirs = checkpoint(tiny_vit, tmp_path, labels).state_dict()
    ours = build("classification", str(tmp_path), False, TB, 32).state_dict()
    assert ours[HEAD].shape == (2, 8)
    assert 0 < ours[HEAD].abs().max() < 0.1  # normal, of standard deviation .02
    assert not ours["classifier.bias"].any()
    assert all(torch.equal(ours[name], one) for name, one in theirs.items() if not name.startswith("classifier"))
    assert labels[0].lower() in caplog.text and "random weights" in caplog.text


def test_head_for_the_same_labels_is_kept_and_nothing_said(tiny_vit, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, "hub_models")
    theirs = checkpoint(tiny_vit, tmp_path, TB)
    ours = build("classification", str(tmp_path), False, TB, 32)
    assert all(torch.equal(one, theirs.state_dict()[name]) for name, one in ours.state_dict().items())
    assert not caplog.records


def test_encoder_without_head_starts_with_a_random_one(tiny_vit, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, "hub_models")
    checkpoint(tiny_vit, tmp_path, TB).vit.save_pretrained(tmp_path / "encoder")
    build("classification", str(tmp_path / "encoder"), False, TB, 32)
    assert "no head of this kind" in caplog.text and "random weights" in caplog.text
    with pytest.raises(ValueError, match="lacks classifier.bias"):
        load("classification", tmp_path / "encoder", TB, 32)


def test_encoder_of_a_checkpoint_is_never_random(tiny_vit, tmp_path) -> None:
    weights = checkpoint(tiny_vit, tmp_path, TB).state_dict()
    name = encoder_tensor(weights)
    for damage in ("missing", "shape", "nan"):
        save_file(DAMAGES[damage](weights, name), tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=name):
            build("classification", str(tmp_path), False, TB, 32)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=f"no weights in {tmp_path}"):
        build("classification", str(tmp_path), False, TB, 32)


def test_output_layers(tiny_segformer, tiny_vit) -> None:
    segmenter = build("segmentation", str(tiny_segformer), True, ("background", "lung"), 32)
    assert output_layers(segmenter) == [segmenter.decode_head.classifier]
    classifier = build("classification", str(tiny_vit), True, TB, 32)
    assert isinstance(classifier, ViTForImageClassification)
    assert output_layers(classifier) == [classifier.classifier]
