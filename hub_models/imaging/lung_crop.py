"""Box of the lungs on an X-ray, and the X-ray cut to it at one brightness."""

from typing import Literal

import numpy as np
from PIL import Image

from hub_models.imaging.masks import widen

Region = Literal["image", "lungs"]
REGIONS = ("image", "lungs")  # what of an X-ray a model sees
MARGIN = 0.07  # around the lungs, of the sides of their box, where no other is given
LUNG_MEAN, LUNG_SD = 128, 42.5  # of the cut image, so that three standard deviations each way are kept


def lungs_box(mask: np.ndarray, margin: float) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right), the last two excluded, of an (H, W) bool mask, widened within its image.

    `margin` is the fraction of the box's height and width, rounded to pixels, that is added on each side.

    Raises:
        ValueError: the mask holds no lung, or the margin is negative.
    """
    if not margin >= 0:
        raise ValueError(f"margin must not be negative, got {margin}")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError(f"the mask of {mask.shape[0]}x{mask.shape[1]} pixels holds no lung: pass one that does")
    (top, bottom), (left, right) = ((int(one[0]), int(one[-1]) + 1) for one in (rows, columns))
    down, across = round(margin * (bottom - top)), round(margin * (right - left))
    height, width = mask.shape
    return max(0, top - down), max(0, left - across), min(height, bottom + down), min(width, right + across)


def crop_to_lungs(gray: Image.Image, mask: np.ndarray, margin: float) -> Image.Image:
    """Return the gray image cut to the `lungs_box` of its (H, W) bool mask, as mode `L`, at one brightness.

    The lungs' mean and standard deviation become LUNG_MEAN and LUNG_SD, clipped to [0, 255]; all else is LUNG_MEAN.
    So exposure, detector and markers beside the lungs do not give away the site. The lungs are the mask widened by
    half the margin of the box's longer side, along rows and columns (a square, no disc).

    Raises:
        ValueError: the mask is not as large as the image or holds no lung, or the margin is negative.
    """
    if mask.shape != (gray.height, gray.width):
        shapes = f"{mask.shape[0]}x{mask.shape[1]} pixels, its X-ray {gray.height}x{gray.width}"
        raise ValueError(f"a lung mask of {shapes}: pass the mask on the X-ray's own pixels")
    top, left, bottom, right = lungs_box(mask, 0)
    reach = round(margin / 2 * max(bottom - top, right - left))
    top, left, bottom, right = lungs_box(mask, margin)
    lungs = widen(mask[top:bottom, left:right], reach)
    values = np.asarray(gray.crop((left, top, right, bottom)))  # (bottom - top, right - left)
    if gray.mode == "L":  # each of 256 grays once, which is quicker than each pixel
        grays, counts = np.arange(256), Image.fromarray(values[lungs][None]).histogram()
        mean = np.average(grays, weights=counts)
        spread = np.average((grays - mean) ** 2, weights=counts) ** 0.5
        table = _evened(grays, mean, spread) ^ LUNG_MEAN  # so that 0 stands for mid-gray
        even = np.asarray(Image.fromarray(values).point(table.tolist()))
        return Image.fromarray((even & -lungs.view(np.uint8)) ^ np.uint8(LUNG_MEAN))
    inside = values[lungs].astype(np.float64)
    return Image.fromarray(np.where(lungs, _evened(values, inside.mean(), inside.std()), np.uint8(LUNG_MEAN)))


def _evened(values: np.ndarray, mean: float, spread: float) -> np.ndarray:
    """Return values as uint8, scaled so that `mean` and `spread` become LUNG_MEAN and LUNG_SD; a spread of 0 stays."""
    return (LUNG_MEAN + LUNG_SD * (values - mean) / (spread or 1.0)).round().clip(0, 255).astype(np.uint8)
