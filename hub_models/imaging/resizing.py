"""X-rays and masks on the square of a model's input, squashed or padded."""

from typing import Literal

import numpy as np
from PIL import Image

BILINEAR = Image.Resampling.BILINEAR  # antialiased: Pillow widens it by the factor; torchvision's backend knows it too
BOX = Image.Resampling.BOX  # plain area average; models of version 0.2 have it in their image processor
FITS = ("squash", "pad")  # how an X-ray fills the square: its aspect squashed, or kept between black bars

Fit = Literal["squash", "pad"]


def content_box(height: int, width: int, size: int, fit: Fit = "squash") -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right), the last two excluded, of what an X-ray fills in the square, in its pixels.

    `squash` fills all of it. `pad` keeps the aspect: the longer side fills the square, the shorter one is centred and
    rounded to at least one whole pixel. Of two uneven bars the wider one lies below or to the right.

    Raises:
        ValueError: a side below 1 pixel, or an unknown fit.
    """
    if fit not in FITS:
        raise ValueError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")
    if min(height, width, size) < 1:
        raise ValueError(f"an X-ray of {height}x{width} pixels does not fit a square of {size}: pass sides above 0")
    if fit == "squash":
        return 0, 0, size, size
    rows, columns = (max(1, round(size * side / max(height, width))) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    return top, left, top + rows, left + columns


def resize_gray(
    gray: Image.Image, size: int, fit: Fit = "squash", resample: Image.Resampling = BILINEAR
) -> np.ndarray:
    """Return the image of `to_gray` as (size, size) uint8: resampled into its `content_box`, black around it."""
    top, left, bottom, right = content_box(gray.height, gray.width, size, fit)
    small = gray.resize((right - left, bottom - top), resample)
    values = np.asarray(small) if small.mode == "L" else np.asarray(small).round().clip(0, 255).astype(np.uint8)
    return np.pad(values, ((top, size - bottom), (left, size - right)))


def resize_mask(mask: np.ndarray, size: int, fit: Fit = "squash") -> np.ndarray:
    """Return an (H, W) bool mask as (size, size) bool: nearest neighbours in its `content_box`, no lung around it."""
    top, left, bottom, right = content_box(mask.shape[0], mask.shape[1], size, fit)
    rows, columns = nearest(bottom - top, mask.shape[0]), nearest(right - left, mask.shape[1])
    return np.pad(mask[np.ix_(rows, columns)], ((top, size - bottom), (left, size - right)))


def nearest(count: int, size: int) -> np.ndarray:
    """Return (count,) int32: the nearest of `size` pixels to each of `count` on the same length, as PIL finds it."""
    line = Image.fromarray(np.arange(size, dtype=np.int32)[None])
    return np.asarray(line.resize((count, 1), Image.Resampling.NEAREST))[0]
