"""Models of transformers by name, from a checkpoint or random weights, and the image processors saved with them."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from hub_models.hub_client.downloads import HUB_ID, SETTINGS_KEY, hub_file
from hub_models.imaging.resizing import BILINEAR
from hub_models.models.weights import AUTO_CLASSES, SOUND, load_weights, start_from

IMAGE_PROCESSORS: dict[str, Callable[..., BaseImageProcessor]] = {
    "segmentation": partial(transformers.SegformerImageProcessorPil, do_reduce_labels=False),
    "classification": transformers.ViTImageProcessorPil,
}
OF_LUNGS = "chest-xray-masks-that-sees-lungs-only"  # a model_type that transformers knows not, and so refuses
# tried ones first; Siglip2 takes patches in place of images
TRIED = ("vit", "deit", "swin", "resnet", "segformer", "convnext", "dinov2", "dinov2_with_registers", "siglip", "clip")
FAMILIES = {
    "segmentation": ("segformer",),
    "classification": tuple(dict.fromkeys((*TRIED, *MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES))),
}
UNTRAINED = {  # weights that a classifier has and does not use, by family
    "dinov2": ("mask_token",),
    "dinov2_with_registers": ("mask_token",),
    "siglip": ("vision_model.head.",),
    "clip": ("vision_model.post_layernorm.",),
}
INTERPOLATING = ("dinov2", "dinov2_with_registers")  # fit their position embeddings to the image themselves
STEP = 32  # pixels: the side of an image is a multiple of it, but for a plain ViT, where it is the patch


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
    """Return a model of `kind` ("segmentation" or "classification") to train for `labels`, on images of `image_size`.

    `source` is a Hub id or a folder, whose head is taken as `weights.start_from` says. From scratch it is a name of
    ARCHITECTURES or a folder with a config.json. `dropout` is that of the classifier and of whole layers where the
    architecture has them, else of hidden values; other dropout is off.

    Raises:
        OSError: nothing at `source`, or the Hub does not give it.
        ValueError: a model of another family, or of another image size, or damaged weights.
    """
    config = config_of(kind, source, from_scratch, image_size)
    _set_dropout(config, dropout)
    if from_scratch:
        config.id2label, config.label2id = dict(enumerate(labels)), {one: index for index, one in enumerate(labels)}
        model = random_model(kind, config)
    else:
        model = start_from(kind, source, config, labels)
    for name, weight in model.named_parameters():
        if any(part in name for part in UNTRAINED.get(config.model_type, ())):
            weight.requires_grad_(False)  # several processes would wait for its gradient
    return model


def load(kind: str, folder: Path, labels: tuple[str, ...], image_size: int) -> transformers.PreTrainedModel:
    """Return the trained model in a folder, with every weight from its `model.safetensors`, to predict.

    Raises:
        ValueError: a model of another family, image size or other labels, or weights that do not fit (load_weights).
    """
    config = config_of(kind, str(folder), False, image_size)
    if config.id2label != dict(enumerate(labels)):
        raise ValueError(f"config.json of {folder} has the labels {config.id2label}, not {', '.join(labels)}: {SOUND}")
    _set_dropout(config, 0.0)
    return load_weights(kind, folder, config)


def random_model(kind: str, config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """Return the model of a config with random weights."""
    config.architectures = config.architectures or []  # None stops AutoModel for families of several, as DeiT
    return AUTO_CLASSES[kind].from_config(config)


def outline_of(kind: str, config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """Return the model of a config with layers and no numbers in their weights."""
    with torch.device("meta"):
        return random_model(kind, config)


def _set_dropout(config: transformers.PretrainedConfig, dropout: float) -> None:
    rates = {"classifier_dropout_prob": dropout, "drop_path_rate": dropout, "attention_probs_dropout_prob": 0.0}
    rates["hidden_dropout_prob"] = 0.0 if hasattr(config, "drop_path_rate") else dropout
    for name, rate in rates.items():
        if hasattr(config, name):
            setattr(config, name, rate)


def check_side(kind: str, config: transformers.PretrainedConfig, source: str, image_size: int) -> None:
    """Raise ValueError where a model cannot take images of a size.

    A plain ViT takes multiples of its patch, and most have a position for each patch of one size; others halve their
    maps up to five times.
    """
    seen = vision_of(config)
    patch, step = getattr(seen, "patch_size", None), STEP
    if isinstance(patch, int) and hasattr(seen, "num_hidden_layers") and not hasattr(seen, "depths"):
        step = patch
    if image_size % step:
        near = max(step, round(image_size / step) * step)
        raise ValueError(
            f"{source} takes images of a multiple of {step} pixels, got image_size {image_size}: "
            f"pass --image_size {near}"
        )
    side = getattr(seen, "image_size", image_size)
    if side == image_size or config.model_type in INTERPOLATING:
        return
    model = outline_of(kind, config)
    if any("position_embedding" in name for name, _ in model.named_parameters()):
        given = f"got image_size {image_size}: pass --image_size {side}"
        raise ValueError(f"{source} takes images of {side} pixels, {given}")


def vision_of(config: transformers.PretrainedConfig) -> transformers.PretrainedConfig:
    """Return the config of the image encoder, of CLIP and SigLIP that of one of two."""
    return getattr(config, "vision_config", config)


def config_of(kind: str, source: str, from_scratch: bool, image_size: int) -> transformers.PretrainedConfig:
    """Return the config of a model as `build` takes it, without its weights; raise as `build` does."""
    if from_scratch and source in ARCHITECTURES:
        family, sizes = ARCHITECTURES[source]
        config = transformers.AutoConfig.for_model(family, **sizes)
    elif from_scratch and not Path(source).is_dir():
        raise ValueError(f"from_scratch knows the architectures {', '.join(ARCHITECTURES)} and folders, got {source}")
    else:
        config = _config_at(source)
    if config.model_type not in FAMILIES[kind]:
        known = ", ".join(FAMILIES[kind][:10])
        raise ValueError(f"{source} is a {config.model_type} model, and this task takes {known}: pass another --model")
    if from_scratch and hasattr(vision_of(config), "image_size"):
        vision_of(config).image_size = image_size
    check_side(kind, config, source, image_size)
    return config


def _config_at(source: str) -> transformers.PretrainedConfig:
    """Return the config in a folder or of a Hub id."""
    try:
        path = _file_at(source, "config.json")
    except OSError as error:  # of the four kinds of hub_file
        way = f"no such folder, and {error}; or pass another --model, or --from_scratch"
        raise type(error)(f"no model at {source!r}: {way}") from error
    if path is None:
        raise OSError(f"no model at {source!r}: no config.json in it; pass another --model, or --from_scratch")
    try:
        return _config_of_lungs(path) or transformers.AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
    except (OSError, ValueError) as error:
        said = str(error).split(". ")[0].splitlines()[0]
        raise ValueError(f"config.json of {source} is of no model that transformers knows ({said})") from error


def _file_at(source: str, name: str) -> Path | None:
    """Return a file in a folder or of a Hub id; None where it has none of that name."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    if not HUB_ID.fullmatch(source):
        raise FileNotFoundError("no Hub id: pass a folder, or <owner>/<name> on the Hub")
    return hub_file(source, name)


def refused_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a config.json that only this project reads, for a model that must not see a whole X-ray.

    The model_type is OF_LUNGS, the true one is `family`, and the rest of the model's own config stands under `model`.
    With a model_type in there, transformers' classes would find it.
    """
    shown = {name: values[name] for name in ("architectures", SETTINGS_KEY) if name in values}
    inner = {name: value for name, value in values.items() if name not in (*shown, "model_type")}
    return {"model_type": OF_LUNGS, "family": values["model_type"], **shown, "model": inner}


def inner_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return the model's own config from the values of any config.json, as `refused_config` took it."""
    if values.get("model_type") != OF_LUNGS:
        return values
    shown = {name: value for name, value in values.items() if name not in ("model", "family")}
    return shown | {"model_type": values["family"]} | values["model"]


def _config_of_lungs(path: Path) -> transformers.PretrainedConfig | None:
    """Return the config inside a `refused_config`; None where the file holds another."""
    values = json.loads(path.read_bytes())
    if not isinstance(values, dict) or values.get("model_type") != OF_LUNGS:
        return None
    inner = inner_config(values)
    return transformers.AutoConfig.for_model(inner["model_type"]).from_dict(inner)


def image_processor_for(kind: str, source: str, from_scratch: bool, image_size: int) -> BaseImageProcessor:
    """Return the image processor to save with the weights: bilinear to `image_size`, the checkpoint's mean and sd.

    Mean and sd are read from preprocessor_config.json itself: transformers does not know the types that older ones
    name. They are ImageNet's from scratch and where the checkpoint has none. Both backends of transformers take the
    processor: PIL's sees the pixels of `resize_gray`, torchvision's differs by rounding.

    Raises:
        ValueError: mean or sd are not three numbers, each.
    """
    mean, std = list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
    path = None if from_scratch else _file_at(source, "preprocessor_config.json")
    if path is not None:
        theirs = json.loads(path.read_bytes())
        mean, std = theirs.get("image_mean") or mean, theirs.get("image_std") or std
        for values in (mean, std):
            is_known = isinstance(values, list) and all(isinstance(one, int | float) for one in values)
            if not (is_known and len(values) == 3):
                raise ValueError(f"preprocessor_config.json of {source} has {values}, not three numbers: {SOUND}")
    size = {"height": image_size, "width": image_size}
    return IMAGE_PROCESSORS[kind](size=size, resample=BILINEAR, image_mean=mean, image_std=std)


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
