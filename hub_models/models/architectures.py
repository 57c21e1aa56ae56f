"""Models of transformers by name, from a checkpoint or random weights, and the image processors saved with them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from hub_models.imaging.resizing import BILINEAR

AUTO_CLASSES = {
    "segmentation": transformers.AutoModelForSemanticSegmentation,
    "classification": transformers.AutoModelForImageClassification,
}
IMAGE_PROCESSORS: dict[str, Callable[..., BaseImageProcessor]] = {
    "segmentation": partial(transformers.SegformerImageProcessorPil, do_reduce_labels=False),
    "classification": transformers.ViTImageProcessorPil,
}
FAMILIES = {"segmentation": ("segformer",), "classification": tuple(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)}


def _segformer(hidden_sizes: tuple[int, ...], depths: tuple[int, ...], decoder: int) -> tuple[str, dict[str, Any]]:
    return "segformer", {"hidden_sizes": [*hidden_sizes], "depths": [*depths], "decoder_hidden_size": decoder}


def _vit(family: str, width: int, heads: int) -> tuple[str, dict[str, Any]]:
    return family, {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}


def _resnet(width: int, depth: int) -> tuple[str, dict[str, Any]]:
    widths = [width * 2**stage for stage in range(4)]
    return "resnet", {"layer_type": "basic", "embedding_size": width, "hidden_sizes": widths, "depths": [depth] * 4}


# Architectures that can be made from random weights without a download, under the names of their checkpoints.
# Sources: SegFormer, arXiv 2105.15203, table 6; ViT, 2010.11929, table 1; DeiT, 2012.12877, table 1; Swin, 2103.14030,
# section 3.3; ResNet, 1512.03385, table 1. The "light" ones are this project's, for training on a CPU.
_WIDE = (64, 128, 320, 512)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "nvidia/mit-b0": _segformer((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "nvidia/mit-b1": _segformer(_WIDE, (2, 2, 2, 2), 256),
    "nvidia/mit-b2": _segformer(_WIDE, (3, 4, 6, 3), 768),
    "nvidia/mit-b3": _segformer(_WIDE, (3, 4, 18, 3), 768),
    "nvidia/mit-b4": _segformer(_WIDE, (3, 8, 27, 3), 768),
    "nvidia/mit-b5": _segformer(_WIDE, (3, 6, 40, 3), 768),
    "segformer-light": _segformer((16, 32, 80, 128), (2, 2, 2, 2), 64),
    "google/vit-base-patch16-224": _vit("vit", 768, 12),
    "facebook/deit-tiny-patch16-224": _vit("deit", 192, 3),
    "facebook/deit-small-patch16-224": _vit("deit", 384, 6),
    "microsoft/swin-tiny-patch4-window7-224": ("swin", {}),
    "microsoft/resnet-18": _resnet(64, 2),
    "resnet-light": _resnet(16, 1),
}


def build(
    kind: str, source: str, from_scratch: bool, labels: tuple[str, ...], image_size: int, dropout: float = 0.0
) -> transformers.PreTrainedModel:
    """Return a model of `kind` ("segmentation" or "classification") for `labels`, on images of `image_size` pixels.

    `source` is a Hub id or a folder; a head for other labels, or of another kind, gets random weights. From scratch it
    is a name of ARCHITECTURES or a folder with a config.json. `dropout` is that of the classifier and of whole layers
    where the architecture has them, else of hidden values; other dropout is off.

    Raises:
        OSError: nothing at `source`.
        ValueError: a model of another family, or of another image size.
    """
    config = config_of(kind, source, from_scratch)
    config.id2label, config.label2id = dict(enumerate(labels)), {label: index for index, label in enumerate(labels)}
    rates = {"classifier_dropout_prob": dropout, "drop_path_rate": dropout, "attention_probs_dropout_prob": 0.0}
    rates["hidden_dropout_prob"] = 0.0 if hasattr(config, "drop_path_rate") else dropout
    for name, rate in rates.items():
        if hasattr(config, name):
            setattr(config, name, rate)
    if from_scratch:
        if hasattr(config, "image_size"):
            config.image_size = image_size
        config.architectures = config.architectures or []  # None stops AutoModel for families of several, as DeiT
        return AUTO_CLASSES[kind].from_config(config)
    # the encoder checkpoints have no head, and others may have one for other classes; without trust_remote_code=False
    # transformers asks the user whether to run a repository's code
    from_pretrained = AUTO_CLASSES[kind].from_pretrained
    model = from_pretrained(source, config=config, ignore_mismatched_sizes=True, trust_remote_code=False)
    check_side(model, source, image_size)
    return model


def check_side(model: transformers.PreTrainedModel, source: str, image_size: int) -> None:
    """Raise ValueError where a model has a position for each patch of images of another size."""
    side = getattr(model.config, "image_size", image_size)
    if side != image_size and any("position_embedding" in name for name, _ in model.named_parameters()):
        given = f"got image_size {image_size}: pass --image_size {side}"
        raise ValueError(f"{source} takes images of {side} pixels, {given}")


def config_of(kind: str, source: str, from_scratch: bool) -> transformers.PretrainedConfig:
    """Return the config of a model as `build` takes it, without its weights; raise as `build` does."""
    is_folder = Path(source).is_dir()
    if from_scratch and source in ARCHITECTURES:
        family, sizes = ARCHITECTURES[source]
        config = transformers.AutoConfig.for_model(family, **sizes)
    elif from_scratch and not is_folder:
        raise ValueError(f"from_scratch knows the architectures {', '.join(ARCHITECTURES)} and folders, got {source}")
    else:
        try:
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError) as error:
            where = "no config.json in it" if is_folder else "no such folder, and the Hub does not give it"
            raise OSError(f"no model at {source!r}: {where}; pass another --model, or --from_scratch") from error
    if config.model_type not in FAMILIES[kind]:
        known = ", ".join(FAMILIES[kind][:8])
        raise ValueError(f"{source} is a {config.model_type} model, and this task takes {known}: pass another --model")
    return config


def image_processor_for(kind: str, source: str, from_scratch: bool, image_size: int) -> BaseImageProcessor:
    """Return the image processor to save with the weights: bilinear to `image_size`, the checkpoint's mean and sd.

    Mean and sd are ImageNet's from scratch and where the checkpoint has none. Both backends of transformers take it:
    PIL's sees the pixels of `resize_gray`, torchvision's differs by rounding.
    """
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if not from_scratch:
        with suppress(OSError):  # a checkpoint without preprocessor_config.json
            theirs = transformers.AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
            mean, std = theirs.image_mean, theirs.image_std
    size = {"height": image_size, "width": image_size}
    return IMAGE_PROCESSORS[kind](size=size, resample=BILINEAR, image_mean=list(mean), image_std=list(std))


@contextmanager
def quiet_weights() -> Iterator[None]:
    """Hide transformers' progress bars of weights within a block, unless it is verbose or its bars are forced."""
    is_verbose = transformers_logging.get_verbosity() <= transformers_logging.INFO
    if is_verbose or HF_HUB_DISABLE_PROGRESS_BARS is False or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def normalize(pixels: torch.Tensor, image_processor: BaseImageProcessor) -> torch.Tensor:
    """Return the model input (B, 3, S, S) of gray (B, S, S) float in [0, 1], as the saved image processor makes it."""
    means, stds = (getattr(image_processor, name) for name in ("image_mean", "image_std"))  # not of the base class
    return torch.stack([(pixels - mean) / std for mean, std in zip(means, stds, strict=True)], 1)  # (B, 3, S, S)
