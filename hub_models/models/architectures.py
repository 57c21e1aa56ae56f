"""Models of transformers by name, from a checkpoint, a trained folder or random weights."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

import torch
import transformers
from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from hub_models.hub_client.downloads import HUB_ID, SETTINGS_KEY, hub_file
from hub_models.hub_client.model_files import (
    CODE_FILES,
    SOUND,
    check_types,
    damaged,
    first_line,
    levels,
    read_json,
    refuse_foreign,
)
from hub_models.models.weights import AUTO_CLASSES, load_weights, start_from

OF_LUNGS = "chest-xray-masks-that-sees-lungs-only"  # a model_type that transformers knows not, and so refuses
# tried ones first; Siglip2 takes patches in place of images
TRIED = ("vit", "deit", "swin", "resnet", "segformer", "convnext", "dinov2", "dinov2_with_registers", "siglip", "clip")
FAMILIES = {
    "segmentation": ("segformer",),
    "classification": tuple(
        name
        for name in dict.fromkeys((*TRIED, *MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES))
        if name not in ("timm_wrapper", "dinat")  # these load other packages
    ),
}
UNTRAINED = {  # weights that a classifier has and does not use, by family
    "dinov2": ("mask_token",),
    "dinov2_with_registers": ("mask_token",),
    "siglip": ("vision_model.head.",),
    "clip": ("vision_model.post_layernorm.",),
}
INTERPOLATING = ("dinov2", "dinov2_with_registers")  # fit their position embeddings to the image themselves
STEP = 32  # pixels: the side of an image is a multiple of it, but for a plain ViT, where it is the patch
# beyond what models of images have: a whole number of a config (SigLIP's words are 256,000), weights and their tensors
LARGEST_SIZE, MOST_WEIGHTS, MOST_TENSORS = 1 << 18, 1 << 31, 5_000


def _segformer(hidden_sizes: tuple[int, ...], depths: tuple[int, ...], decoder: int) -> tuple[str, dict[str, Any]]:
    return "segformer", {"hidden_sizes": [*hidden_sizes], "depths": [*depths], "decoder_hidden_size": decoder}


def _vit(family: str, width: int, heads: int, layers: int = 12, patch: int = 16) -> tuple[str, dict[str, Any]]:
    sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
    return family, sizes | {"num_hidden_layers": layers, "patch_size": patch}


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
    "vit-light": _vit("vit", 192, 3, layers=8, patch=8),
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
    outline = outline_at(kind, source, from_scratch, image_size)
    config = outline.config
    _set_dropout(config, dropout)
    if from_scratch:
        config.id2label, config.label2id = dict(enumerate(labels)), {one: index for index, one in enumerate(labels)}
        model = random_model(kind, config)
    else:
        model = start_from(outline, source, labels)
    for name, weight in model.named_parameters():
        if any(part in name for part in UNTRAINED.get(config.model_type, ())):
            weight.requires_grad_(False)  # several processes would wait for its gradient
    return model


def load(kind: str, folder: Path, labels: tuple[str, ...], image_size: int) -> transformers.PreTrainedModel:
    """Return the trained model in a folder, with every weight from its `model.safetensors`, to predict.

    Raises:
        ValueError: a model of another family, image size or other labels, or weights that do not fit (load_weights).
    """
    outline = outline_at(kind, str(folder), False, image_size)
    config = outline.config
    if config.id2label != dict(enumerate(labels)):
        raise ValueError(f"config.json of {folder} has the labels {config.id2label}, not {', '.join(labels)}: {SOUND}")
    _set_dropout(config, 0.0)
    return load_weights(outline, folder)


def random_model(kind: str, config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """Return the model of a config with random weights."""
    config.architectures = config.architectures or []  # None stops AutoModel for families of several, as DeiT
    return AUTO_CLASSES[kind].from_config(config)


def outline_of(kind: str, config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """Return the model of a config with layers and no numbers in their weights.

    Raises:
        ValueError: it would have MOST_WEIGHTS, or the config is of no model that can be built.
    """
    built = [0, 0]

    def count(module: torch.nn.Module, name: str, weights: torch.nn.Parameter | None) -> None:
        built[:] = built[0] + 1, built[1] + (0 if weights is None else weights.numel())
        if built[0] > MOST_TENSORS or built[1] > MOST_WEIGHTS:
            raise ValueError(f"more than {MOST_TENSORS} tensors or {MOST_WEIGHTS} weights")

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            return random_model(kind, config)
    except Exception as error:  # of many kinds, by the value that is wrong and the layer that meets it
        raise ValueError(f"no model can be built of it ({first_line(error)})") from error
    finally:
        counting.remove()


def _set_dropout(config: transformers.PretrainedConfig, dropout: float) -> None:
    rates = {"classifier_dropout_prob": dropout, "drop_path_rate": dropout, "attention_probs_dropout_prob": 0.0}
    rates["hidden_dropout_prob"] = 0.0 if hasattr(config, "drop_path_rate") else dropout
    for name, rate in rates.items():
        if hasattr(config, name):
            setattr(config, name, rate)


def check_side(model: transformers.PreTrainedModel, source: str, image_size: int) -> None:
    """Raise ValueError where a model cannot take images of a size.

    A plain ViT takes multiples of its patch, and most have a position for each patch of one size; others halve their
    maps up to five times.
    """
    config, seen = model.config, vision_of(model.config)
    patch, step = getattr(seen, "patch_size", None), STEP
    if isinstance(patch, int) and hasattr(seen, "num_hidden_layers") and not hasattr(seen, "depths"):
        step = patch
    if image_size % step:
        near = max(step, round(image_size / step) * step)
        raise ValueError(
            f"{source} takes images with sides of a multiple of {step} pixels, got image_size {image_size}: "
            f"pass --image_size {near}"
        )
    side = getattr(seen, "image_size", image_size)
    if side == image_size or config.model_type in INTERPOLATING:
        return
    if any("position_embedding" in name for name, _ in model.named_parameters()):
        given = f"got image_size {image_size}: pass --image_size {side}"
        raise ValueError(f"{source} takes images of {side} pixels, {given}")


def vision_of(config: transformers.PretrainedConfig) -> transformers.PretrainedConfig:
    """Return the config of the image encoder, of CLIP and SigLIP that of one of two."""
    return getattr(config, "vision_config", config)


def outline_at(kind: str, source: str, from_scratch: bool, image_size: int) -> transformers.PreTrainedModel:
    """Return the `outline_of` a model as `build` makes it, from its config alone; raise as `build` does."""
    if from_scratch and source in ARCHITECTURES:
        family, sizes = ARCHITECTURES[source]
        config = transformers.AutoConfig.for_model(family, **sizes)
    elif from_scratch and not Path(source).is_dir():
        known = ", ".join(name for name, (family, _) in ARCHITECTURES.items() if family in FAMILIES[kind])
        raise ValueError(f"from_scratch knows no architecture {source}: pass one of {known}, or a folder")
    else:
        config = _config_at(source)
    if config.model_type not in FAMILIES[kind]:
        known = ", ".join(FAMILIES[kind][:10])
        raise ValueError(f"{source} is a {config.model_type} model, and this task takes {known}: pass another --model")
    if from_scratch and hasattr(vision_of(config), "image_size"):
        vision_of(config).image_size = image_size
    try:
        outline = outline_of(kind, config)
    except ValueError as error:
        raise damaged(f"config.json of {source}", error) from error
    check_side(outline, source, image_size)
    return outline


def _config_at(source: str) -> transformers.PretrainedConfig:
    """Return the config in a folder or of a Hub id."""
    try:
        path = file_at(source, "config.json")
    except OSError as error:  # of the four kinds of hub_file
        way = f"no such folder, and {error}; or pass another --model, or --from_scratch"
        raise type(error)(f"no model at {source!r}: {way}") from error
    if path is None:
        raise OSError(f"no model at {source!r}: no config.json in it; pass another --model, or --from_scratch")
    _refuse_code(source)
    values = read_model_config(path, f"config.json of {source}")
    sizes = [one for level in levels(values) for one in level if isinstance(one, int) and abs(one) > LARGEST_SIZE]
    if sizes:
        raise ValueError(f"config.json of {source} has a size of {sizes[0]}, above {LARGEST_SIZE}: {SOUND}")
    try:
        return transformers.AutoConfig.for_model(values["model_type"]).from_dict(values)
    except Exception as error:  # of many kinds, by the value that is wrong
        said = first_line(error).split(". ")[0]
        raise ValueError(f"config.json of {source} is of no model that transformers knows ({said})") from error


def _refuse_code(source: str) -> None:
    """Raise ValueError where a folder or Hub id holds a file that transformers would read beside the model's own."""
    if Path(source).is_dir():
        refuse_foreign(Path(source), CODE_FILES)
        return
    with suppress(ConnectionError):  # the model is in the cache, and transformers reads no more than that
        if hub_file(source, CODE_FILES[-1]):
            raise ValueError(f"{source} holds {CODE_FILES[-1]}, by which another model is loaded: pass that one")


def file_at(source: str, name: str) -> Path | None:
    """Return a file in a folder or of a Hub id; None where it has none of that name."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    if not HUB_ID.fullmatch(source):
        raise FileNotFoundError("no Hub id: pass a folder, or <owner>/<name> on the Hub")
    return hub_file(source, name)


class RefusedConfig(TypedDict):
    """What `refused_config` adds to a config.json."""

    family: str
    model: dict[str, Any]


def refused_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a config.json that only this project reads, for a model that must not see a whole X-ray.

    The model_type is OF_LUNGS, the true one is `family`, and the rest of the model's own config stands under `model`.
    With a model_type in there, transformers' classes would find it.
    """
    shown = {name: values[name] for name in ("architectures", SETTINGS_KEY) if name in values}
    inner = {name: value for name, value in values.items() if name not in (*shown, "model_type")}
    return {"model_type": OF_LUNGS, "family": values["model_type"], **shown, "model": inner}


def read_model_config(path: Path, name: str | None = None) -> dict[str, Any]:
    """Return the model's own values of a config.json, as `refused_config` took them; raise as `read_json`."""
    values = read_json(path, name)
    if values.get("model_type") != OF_LUNGS:
        return values
    check_types(values, RefusedConfig, name or path)
    shown = {name: value for name, value in values.items() if name not in ("model", "family")}
    return shown | {"model_type": values["family"]} | values["model"]


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
