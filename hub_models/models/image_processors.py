"""Image processors: saved with a model's weights, read again, and computed on the accelerator."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from hub_models.hub_client.model_files import SOUND, damaged, read_json
from hub_models.imaging.resizing import BILINEAR
from hub_models.models.architectures import file_at
from hub_models.models.settings import check_normalization

PREPROCESSOR_NAME = "preprocessor_config.json"
CHECKED_APART = {"resample", "image_processor_type"}  # of which older runs have others
IMAGE_PROCESSORS: dict[str, Callable[..., BaseImageProcessor]] = {
    "segmentation": partial(transformers.SegformerImageProcessorPil, do_reduce_labels=False),
    "classification": transformers.ViTImageProcessorPil,
}


def image_processor_for(kind: str, source: str, from_scratch: bool, image_size: int) -> BaseImageProcessor:
    """Return the image processor to save with the weights: bilinear to `image_size`, the checkpoint's mean and sd.

    Mean and sd are read from preprocessor_config.json itself: transformers does not know the types that older ones
    name. They are ImageNet's from scratch and where the checkpoint has none. Both backends of transformers take the
    processor: PIL's sees the pixels of `resize_gray`, torchvision's differs by rounding.

    Raises:
        ValueError: the file is damaged, or mean or sd are not three numbers, each.
    """
    path = None if from_scratch else file_at(source, PREPROCESSOR_NAME)
    theirs = {} if path is None else read_json(path, f"{PREPROCESSOR_NAME} of {source}")
    check_normalization(theirs, f"{PREPROCESSOR_NAME} of {source}")
    mean, std = theirs.get("image_mean") or IMAGENET_DEFAULT_MEAN, theirs.get("image_std") or IMAGENET_DEFAULT_STD
    size = {"height": image_size, "width": image_size}
    return IMAGE_PROCESSORS[kind](size=size, resample=BILINEAR, image_mean=list(mean), image_std=list(std))


def load_image_processor(kind: str, folder: Path, image_size: int) -> BaseImageProcessor:
    """Return the image processor of a trained model, made as training makes it: transformers would read other files.

    Raises:
        ValueError: preprocessor_config.json is damaged, or says what no training writes but for its `resample`.
    """
    made = image_processor_for(kind, str(folder), False, image_size)
    stored = read_json(folder / PREPROCESSOR_NAME)
    if (size := stored.get("size")) != {"height": image_size, "width": image_size}:
        raise ValueError(f"{folder / PREPROCESSOR_NAME} scales to {size}, the model takes {image_size}: {SOUND}")
    known = json.loads(made.to_json_string())  # with lists for tuples
    steps = {name for name in known | stored if name in known or name.startswith("do_")} - CHECKED_APART
    if others := sorted(name for name in steps if (known.get(name) or None) != (stored.get(name) or None)):
        raise ValueError(f"{folder / PREPROCESSOR_NAME} has other {', '.join(others)} than a training writes: {SOUND}")
    family = known["image_processor_type"]
    if not str(stored.get("image_processor_type")).startswith(family):  # an earlier transformers appended Fast
        raise damaged(folder / PREPROCESSOR_NAME, f"image_processor_type is no {family}")
    if stored.get("resample") not in [*Image.Resampling]:
        raise damaged(folder / PREPROCESSOR_NAME, f"resample {stored.get('resample')}")
    made.resample = stored["resample"]  # type: ignore[attr-defined]  # not of the base class
    return made


def normalize(pixels: torch.Tensor, image_processor: BaseImageProcessor) -> torch.Tensor:
    """Return the model input (B, 3, S, S) of gray (B, S, S) float in [0, 1], as the saved image processor makes it."""
    means, stds = (getattr(image_processor, name) for name in ("image_mean", "image_std"))  # not of the base class
    return torch.stack([(pixels - mean) / std for mean, std in zip(means, stds, strict=True)], 1)  # (B, 3, S, S)
