"""What a model is given of an X-ray, and what its logits say of it; without torch, for every backend alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import expit

from hub_models.hub_client.model_files import SOUND, first_line
from hub_models.imaging.lung_crop import MARGIN, crop_to_lungs
from hub_models.imaging.masks import keep_two_lungs
from hub_models.imaging.resizing import content_box, resize_gray
from hub_models.models.settings import Settings
from hub_models.models.upsampling import is_above_zero

FORWARD_SIZES = {"cpu": 4}  # images in a forward pass by the kind of device; on a CPU single ones take twice as long
FORWARD_SIZE = 16  # on other devices
PREDICTION_VERSION = 3  # raise when the output for an X-ray changes: masks, probabilities, flags


def pixels_of(
    gray: Image.Image, mask: np.ndarray | None, settings: Settings, resample: Image.Resampling
) -> np.ndarray:
    """Return the (S, S) uint8 pixels of a gray image, or of its lungs by the (H, W) bool mask if it sees those.

    Raises:
        ValueError: the model sees the lungs only, and there is no mask.
    """
    if settings.region != "image":
        if mask is None:
            raise ValueError("this model sees the lungs only: pass their mask, from a lung_segmentation model")
        gray = crop_to_lungs(gray, or_whole(mask), MARGIN)
    return resize_gray(gray, settings.image_size, settings.fit, resample)


def or_whole(lungs: np.ndarray) -> np.ndarray:
    """Return the mask, or one of the whole X-ray where it is empty: better seen whole than not at all."""
    return lungs if lungs.any() else np.ones_like(lungs)


def _lungs_from_logits(logits: np.ndarray, height: int, width: int, settings: Settings) -> np.ndarray:
    """Lung mask (height, width) bool of one X-ray's logits (2, s, s)."""
    margin = logits[1] - logits[0]  # (s, s)
    if settings.fit == "squash":
        mask = is_above_zero(margin, height, width)
    else:
        side = max(height, width)
        top, left, bottom, right = content_box(height, width, side, settings.fit)
        mask = np.ascontiguousarray(is_above_zero(margin, side, side)[top:bottom, left:right])
    return keep_two_lungs(mask) if settings.two_lungs else mask


def _probability_from_logits(logits: np.ndarray, height: int, width: int, settings: Settings) -> float:
    """Calibrated probability of tuberculosis of one X-ray's logits (2,); the weights hold the temperature already."""
    return float(np.float32(expit(np.float64(logits[1]) - logits[0])))  # no more digits than the logits have


# By task: (logits of one X-ray, its height and width, settings) to what a user gets.
ANSWERS: dict[str, Callable[[np.ndarray, int, int, Settings], Any]] = {
    "lung_segmentation": _lungs_from_logits,
    "tb_classification": _probability_from_logits,
}


def check_answer(model: Any, folder: Path) -> None:
    """Raise ValueError where a loaded model of either backend has no finite logits for a blank X-ray.

    Of a segmenter the features must be those that its out-of-distribution score knows.
    """
    settings = model.settings
    known = model.out_of_distribution if settings.task == "lung_segmentation" else None
    try:
        blank = np.zeros((settings.image_size, settings.image_size), np.uint8)
        logits, features = model.forward([blank], known is not None)
        if logits.shape[:2] != (1, 2) or not np.isfinite(logits).all():
            raise ValueError(f"its logits, of shape {logits.shape}, are not finite numbers of two classes")
        if known is not None:
            known.distances(features)
    except Exception as error:  # of many kinds, by the layer and the library that meet what is wrong
        raise ValueError(f"the model in {folder} cannot read an X-ray ({first_line(error)}): {SOUND}") from error
