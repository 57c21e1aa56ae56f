"""Which weights of a model are trained: all, the head alone (freeze), or low-rank updates and the head (LoRA)."""

import logging
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from hub_models.models.architectures import outline_at
from hub_models.models.tasks import TASKS
from hub_models.models.weights import backbone_of
from hub_models.runs.config import TrainConfig, resolved
from hub_models.training.frozen import FrozenEncoder, head_of

if TYPE_CHECKING:
    from peft import LoraModel

logger = logging.getLogger(__name__)

LORA_EXTRA = "pip install 'chest-xray-masks[lora]'"


def check_adaptation(config: TrainConfig) -> None:
    """Raise an error where the model of a resolved config cannot be adapted as it says; no weights are read.

    Raises:
        ImportError: lora without its extra.
        ValueError: a model without one head to train alone, or without linear layers of attention.
    """
    if config.lora and find_spec("peft") is None:
        raise ImportError(f"lora {config.lora} needs peft: {LORA_EXTRA}")
    if config.lora == 0 and config.freeze == "none":
        return
    kind = TASKS[config.task].kind
    name, size = resolved(config.model, "model"), resolved(config.image_size, "image_size")
    model = outline_at(kind, name, config.from_scratch, size)
    if config.lora:
        attention_layers(model)
    else:
        head_of(model)


def attention_layers(model: PreTrainedModel) -> list[str]:
    """Return the names of the linear layers in the attention of an encoder: query, key, value and output.

    Raises:
        ValueError: there are none, as in a ResNet.
    """
    encoder = backbone_of(model)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith(encoder) and re.search("attention|attn", name)
    ]
    if not names:
        raise ValueError(
            f"a {model.config.model_type} model has no linear layer of attention, which lora adapts: leave out lora, "
            "or pass another model"
        )
    return names


def adapt(config: TrainConfig, model: PreTrainedModel, image_size: int) -> torch.nn.Module:
    """Return what is trained of `model`, whose weights it holds; those not to be trained need no gradient."""
    if config.freeze == "none" and not config.lora:
        return model
    learned: torch.nn.Module = model
    if config.lora:
        add_lora(model, config.lora)
    else:
        learned = FrozenEncoder(model, image_size)
    sizes = [(one.numel(), one.requires_grad) for one in model.parameters()]
    trained, whole = sum(size for size, is_trained in sizes if is_trained), sum(size for size, _ in sizes)
    logger.info("training %d of %d weights", trained, whole)
    return learned


def add_lora(model: PreTrainedModel, rank: int) -> "LoraModel":
    """Put a trainable update of `rank` beside each layer of `attention_layers`, in place, and return peft's handle.

    The layer's weight W acts as W + B A, with A random and B 0. Of the other weights only the head's are trained.
    Source: Hu 2021, arXiv 2106.09685.
    """
    from peft import LoraConfig, LoraModel  # an extra

    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=attention_layers(model))
    tuner = LoraModel(model, settings, "default")
    for name, weight in model.named_parameters():
        if not name.startswith(backbone_of(model)):
            weight.requires_grad_(True)
    return tuner


def plain_model(config: TrainConfig, model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """Return a model of transformers alone, like the one given to `adapt`, with the weights of what it returned.

    LoRA's updates are merged into the layers.
    """
    plain = type(model)(model.config)
    if config.lora:
        tuner = add_lora(plain, config.lora)
        plain.load_state_dict(weights)
        tuner.merge_and_unload()  # in place
        return plain
    named = {name.removeprefix("model."): values for name, values in weights.items()}  # as FrozenEncoder names them
    plain.load_state_dict(weights if config.freeze == "none" else named)
    return plain
