"""Weights from files: all of them sound and of the model, or one sentence; and the head of another checkpoint."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.utils import logging as transformers_logging

from hub_models.hub_client.model_files import SOUND, damaged
from hub_models.hub_client.requests import plain_errors

logger = logging.getLogger(__name__)

AUTO_CLASSES = {
    "segmentation": transformers.AutoModelForSemanticSegmentation,
    "classification": transformers.AutoModelForImageClassification,
}
PRETRAINING_TOKEN = "mask_token"  # of pre-training; some checkpoints leave it out


def load_weights(outline: transformers.PreTrainedModel, folder: Path) -> transformers.PreTrainedModel:
    """Return the model of an outline with the weights of `model.safetensors` in a folder, every one of them.

    Raises:
        ValueError: the file is damaged, lacks a tensor, holds one that is not the model's, of another shape, with NaN
            or infinity, or all 0 where none of a trained model is.
    """
    where = f"model.safetensors in {folder}"
    model, found = _read(outline, str(folder))
    _refuse_others(found["missing_keys"], found, where)
    if extra := sorted(found["unexpected_keys"]):
        raise ValueError(f"{where} does not fit config.json, which has no {extra[0]}: {SOUND}")
    _refuse_shapes(found["mismatched_keys"], where)
    _check_numbers(model, where)
    return model


def start_from(
    outline: transformers.PreTrainedModel, source: str, labels: tuple[str, ...]
) -> transformers.PreTrainedModel:
    """Return a model for `labels` with the weights of a checkpoint, a folder or a Hub id, to train further.

    The config of `outline` is the checkpoint's and gets the labels. A head for the same labels in another order is
    permuted; one for other labels, or of another kind of model, gets random weights. The log says so.

    Raises:
        OSError: no weights at `source`, or the Hub does not give them.
        ValueError: the file is damaged, or lacks a tensor of the encoder, holds it in another shape, with NaN or
            infinity, or all 0.
    """
    config = outline.config
    named = {int(index): str(label) for index, label in (config.id2label or {}).items()}
    known = [named[index].lower() for index in sorted(named)]
    config.id2label, config.label2id = dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}
    model, found = _read(outline, source)
    backbone, where = backbone_of(model), f"model.safetensors in {source}" if Path(source).is_dir() else source
    missing = {name for name in found["missing_keys"] if not name.endswith(PRETRAINING_TOKEN)}
    _refuse_others({name for name in missing if name.startswith(backbone)}, found, where)
    _refuse_shapes([one for one in found["mismatched_keys"] if one[0].startswith(backbone)], where)
    _check_numbers(model, where, backbone)
    if missing or found["mismatched_keys"] or sorted(known) != sorted(labels):
        _renew_head(model)
        others = f"a head for {', '.join(known[:3])}{', ...' if len(known) > 3 else ''}"
        had = "no head of this kind" if missing else others
        logger.info("%s has %s: one for %s starts from random weights", source, had, ", ".join(labels))
    elif known != list(labels):
        _permute_head(model, [known.index(label) for label in labels])
        logger.info("the head of %s is permuted from %s to %s", source, ", ".join(known), ", ".join(labels))
    return model


@torch.no_grad()
def _renew_head(model: transformers.PreTrainedModel) -> None:
    for layer in output_layers(model):
        nn.init.normal_(layer.weight, std=getattr(model.config, "initializer_range", 0.02))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def _permute_head(model: transformers.PreTrainedModel, order: Sequence[int]) -> None:
    for layer in output_layers(model):
        for weights in layer.parameters():  # a row for each label
            weights.copy_(weights[list(order)])


def output_layers(model: transformers.PreTrainedModel) -> list[nn.Linear | nn.Conv2d]:
    """Return the last layers of a model's head: those outside the encoder with an output for each label."""
    backbone, count = backbone_of(model), model.config.num_labels
    return [
        module
        for name, module in model.named_modules()
        if not name.startswith(backbone)
        and (
            (isinstance(module, nn.Linear) and module.out_features == count)
            or (isinstance(module, nn.Conv2d) and module.out_channels == count)
        )
    ]


def backbone_of(model: transformers.PreTrainedModel) -> str:
    """Return what the names of the encoder's weights begin with, such as "vit."."""
    own = model.base_model_prefix
    return f"{own if hasattr(model, own) else 'vision_model'}."  # CLIP's and SigLIP's prefix names both towers


def _check_numbers(model: transformers.PreTrainedModel, where: str, part: str = "") -> None:
    """Raise ValueError, naming the first, where weights are NaN or infinite, or all 0 in a `part` of the model.

    A bias, token or table of positions may be 0. A kernel, a matrix, the scale of a norm or a variance is not: that of
    a GRN alone begins so (ConvNeXtV2's, the one `weight` of a single axis that is not its only one).
    """
    for name, values in model.state_dict().items():
        if not bool(values.isfinite().all()):
            raise ValueError(f"{where} has weights that are not finite ({name}): {SOUND}")
        is_grn = values.ndim > 1 and values.numel() == max(values.shape)
        if name.startswith(part) and name.endswith((".weight", ".running_var")) and not (is_grn or bool(values.any())):
            raise ValueError(f"{where} has weights that are all 0 ({name}): {SOUND}")


def _refuse_shapes(changed: Collection[tuple[str, Sequence[int], Sequence[int]]], where: str) -> None:
    for name, stored, wanted in sorted(changed):
        shapes = f"{name} is {_shape(stored)}, not {_shape(wanted)}"
        raise ValueError(f"{where} does not fit config.json: {shapes}; {SOUND}")


def _refuse_others(lost: Collection[str], found: dict[str, Any], where: str) -> None:
    if lost:
        raise ValueError(f"{where} does not fit config.json: it lacks {min(lost)}; {SOUND}")
    if found["error_msgs"]:
        raise ValueError(f"{where} cannot be loaded ({found['error_msgs'][0]}): {SOUND}")


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "a number"


def _read(outline: transformers.PreTrainedModel, source: str) -> tuple[transformers.PreTrainedModel, dict[str, Any]]:
    """Return the model in float32 and what did not fit, of whatever fits of the weights at `source`."""
    is_folder = Path(source).is_dir()
    try:
        with nullcontext() if is_folder else plain_errors("downloading", f"model {source}"), _quiet_report():
            loaded: Any = type(outline).from_pretrained(
                None if is_folder else source,  # in a folder transformers would look for more than weights
                config=outline.config,
                state_dict=_tensors(Path(source)) if is_folder else None,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # what does not fit is told here, or made new
                output_loading_info=True,
            )
    except (SafetensorError, RuntimeError, UnpicklingError) as error:
        raise damaged(f"model.safetensors in {source}", error) from error
    model, found = loaded
    model.name_or_path = source
    return model, found


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a folder, from one safetensors file or several; raise OSError where there is none."""
    whole = folder / "model.safetensors"
    if not (paths := [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))):
        raise OSError(f"no weights in {folder}: pass a folder with model.safetensors, or a Hub id")
    return {name: values for path in paths for name, values in load_file(path).items()}


@contextmanager
def _quiet_report() -> Iterator[None]:
    """Hide transformers' table of weights that do not fit, which are told here in a sentence."""
    before = transformers_logging.get_verbosity()
    if before > transformers_logging.INFO:
        transformers_logging.set_verbosity(max(before, transformers_logging.ERROR))
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
