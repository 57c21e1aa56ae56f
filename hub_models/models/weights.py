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
from torch import nn
from transformers.utils import logging as transformers_logging

from hub_models.hub_client.requests import plain_errors

logger = logging.getLogger(__name__)

AUTO_CLASSES = {
    "segmentation": transformers.AutoModelForSemanticSegmentation,
    "classification": transformers.AutoModelForImageClassification,
}
SOUND = "pass a sound copy of the model"
PRETRAINING_TOKEN = "mask_token"  # of pre-training; some checkpoints leave it out


def load_weights(kind: str, folder: Path, config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """Return the model of a config with the weights of `model.safetensors` in a folder, every one of them.

    Raises:
        ValueError: the file is damaged, lacks a tensor, holds one that is not the model's, of another shape, or with
            NaN or infinity.
    """
    where = f"model.safetensors in {folder}"
    model, found = _read(kind, str(folder), config, use_safetensors=True, local_files_only=True)
    _refuse_others(found["missing_keys"], found, where)
    if extra := sorted(found["unexpected_keys"]):
        raise ValueError(f"{where} does not fit config.json, which has no {extra[0]}: {SOUND}")
    _refuse_shapes(found["mismatched_keys"], where)
    _check_finite(model, where)
    return model


def start_from(
    kind: str, source: str, config: transformers.PretrainedConfig, labels: tuple[str, ...]
) -> transformers.PreTrainedModel:
    """Return a model for `labels` with the weights of a checkpoint, a folder or a Hub id, to train further.

    `config` is the checkpoint's and gets the labels. A head for the same labels in another order is permuted; one for
    other labels, or of another kind of model, gets random weights. The log says so.

    Raises:
        OSError: no weights at `source`, or the Hub does not give them.
        ValueError: the file is damaged, or lacks a tensor of the encoder, holds it in another shape or with NaN or
            infinity.
    """
    named = {int(index): str(label) for index, label in (config.id2label or {}).items()}
    known = [named[index].lower() for index in sorted(named)]
    config.id2label, config.label2id = dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}
    model, found = _read(kind, source, config)
    backbone = backbone_of(model)
    missing = {name for name in found["missing_keys"] if not name.endswith(PRETRAINING_TOKEN)}
    _refuse_others({name for name in missing if name.startswith(backbone)}, found, source)
    _refuse_shapes([one for one in found["mismatched_keys"] if one[0].startswith(backbone)], source)
    _check_finite(model, source)
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


def _check_finite(model: transformers.PreTrainedModel, where: str) -> None:
    """Raise ValueError, naming the first, where weights are NaN or infinite."""
    for name, values in model.state_dict().items():
        if not bool(values.isfinite().all()):
            raise ValueError(f"{where} has weights that are not finite ({name}): {SOUND}")


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


def _read(
    kind: str, source: str, config: transformers.PretrainedConfig, **options: bool
) -> tuple[transformers.PreTrainedModel, dict[str, Any]]:
    """Return the model and what did not fit, of whatever fits of the weights at `source`."""
    is_folder = Path(source).is_dir()
    try:
        with nullcontext() if is_folder else plain_errors("downloading", f"model {source}"), _quiet_report():
            model, found = AUTO_CLASSES[kind].from_pretrained(
                source,
                config=config,
                ignore_mismatched_sizes=True,  # what does not fit is told here, or made new
                output_loading_info=True,
                trust_remote_code=False,  # else transformers asks the user whether to run a repository's code
                **options,
            )
    except (SafetensorError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"model.safetensors in {source} is damaged ({error}): {SOUND}") from error
    except OSError as error:
        if not is_folder:
            raise
        raise OSError(f"no weights in {source}: pass a folder with model.safetensors, or a Hub id") from error
    return model, found


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
