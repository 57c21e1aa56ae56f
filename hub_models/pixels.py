"""Any X-ray to gray without clipping, any mask to bool, both to the training size; the room that knows image modes."""

import io
import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from chest_xray_masks import binarize
from hub_models.dicom import read_dicom, read_spacing
from hub_models.display import BIT_DEPTHS, full_scale
from hub_models.flags import RaisedFlag
from hub_models.images import Source, is_dicom_source, open_image
from hub_models.masks import widen

BOX = Image.Resampling.BOX  # plain area average; the saved image processors use it too, so both see the same pixels
FITS = ("squash", "pad")  # how an X-ray fills the square: its aspect squashed, or kept between black bars
MARGIN = 0.07  # around the lungs, of the sides of their box, where no other is asked for
MID_GRAY, LUNG_SD = 128, 42.5  # so that three standard deviations each way are kept
SYNTHETIC = ("Warning", "synthetic, not an X-ray of a patient")  # keyword and text in the PNG of a phantom

Fit = Literal["squash", "pad"]


class Xray(NamedTuple):
    """An X-ray as decoded once.

    Attributes:
        gray: as `to_gray` gives it.
        spacing_mm: (row, column) distance of the pixels' centres, of DICOM only; None where it is not known.
        flags: what speaks against trusting a model on it, as a DICOM header says.
        chroma: as `chroma` gives it; 0 of DICOM, whose flags tell of colour.
    """

    gray: Image.Image
    spacing_mm: tuple[float, float] | None = None
    flags: tuple[RaisedFlag, ...] = ()
    chroma: float = 0.0


def read_xray(source: Source) -> Xray:
    """An X-ray in any form: a file, its bytes, a PIL image or an array; see `to_gray`.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `open_image`, or its values are not finite.
    """
    if not is_dicom_source(source):
        image = open_image(source)
        return Xray(_gray(image), chroma=chroma(image))
    found = read_dicom(source)
    return Xray(Image.fromarray(found.gray), found.spacing_mm, found.flags)


def spacing_mm(source: Source) -> tuple[float, float] | None:
    """(row, column) spacing in mm of a DICOM file's pixels, which are not decoded; else None.

    What a PNG or a JPEG says of its resolution is of a print or a screen, and not believed.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `read_xray`, but for the pixels.
    """
    return read_spacing(source) if is_dicom_source(source) else None


def to_gray(source: Source) -> Image.Image:
    """Gray image with its full range kept: mode `L` from 8-bit sources, else mode `F` in [0, 255].

    Palette and colour images become luminance (R=G=B stays what it is); alpha is dropped. Integers deeper than 8 bits
    are scaled by the smallest of 8, 10, 12, 14 or 16 bits that holds their maximum (12-bit values in a 16-bit file by
    4095), floats from their minimum to their maximum. A constant float image is 0 everywhere. DICOM comes in mode `F`,
    as `hub_models.display` shows it: by its own window, never scaled by its maximum too.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `read_xray`.
    """
    return Image.fromarray(read_dicom(source).gray) if is_dicom_source(source) else _gray(open_image(source))


def _gray(image: Image.Image) -> Image.Image:
    """As `to_gray`, of a PIL image.

    Raises:
        ValueError: a value is not finite, or the mode has no gray.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        try:
            return image.convert("L")
        except ValueError as error:
            raise ValueError(f"an image of mode {image.mode} cannot be made gray: save it as RGB") from error
    values = np.asarray(image).astype(np.float32)  # (H, W)
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        raise ValueError("an image holds values that are not finite: replace them by numbers")
    if image.mode == "F" or low < 0 or high >= 2 ** BIT_DEPTHS[-1]:
        scale = (high - low) or 1.0
    else:
        low, scale = 0.0, full_scale(high)
    return Image.fromarray((values - low) * np.float32(255 / scale))


def synthetic_mark() -> PngInfo:
    """What a PNG of a synthetic X-ray is saved with, so that it says so itself wherever it goes."""
    mark = PngInfo()
    mark.add_text(*SYNTHETIC)
    return mark


def is_synthetic(png: bytes) -> bool:
    """Whether an image says of itself that it is synthetic; its pixels are not decoded."""
    with Image.open(io.BytesIO(png)) as image:
        return image.info.get(SYNTHETIC[0]) == SYNTHETIC[1]


def chroma(source: Source) -> float:
    """Mean over the image of the largest less the smallest of red, green and blue, in [0, 255]; 0 of a gray image.

    Colours are averaged over a 64th of the sides first: the noise of a gray image saved as colour JPEG is gone then.
    """
    image = open_image(source)
    if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I"):
        return 0.0
    if image.mode == "P" and not np.ptp(np.reshape(image.getpalette(), (-1, 3)), axis=1).any():
        return 0.0
    colours = np.asarray(image.convert("RGB").resize((64, 64), BOX), np.int16)  # (64, 64, 3)
    return float(np.ptp(colours, axis=2).mean())


def to_mask(source: Source) -> np.ndarray:
    """(H, W) bool of a mask in any mode: above 127 of 255, of other ranges (0/1, 16 bits) above half of its top."""
    return binarize(open_image(source))


def content_box(height: int, width: int, size: int, fit: Fit = "squash") -> tuple[int, int, int, int]:
    """(top, left, bottom, right), the last two excluded, in pixels of the square of what an X-ray fills there.

    `squash` fills it all. `pad` keeps the aspect: the longer side fills the square, the shorter is centred, rounded
    to whole pixels, at least one; an odd bar is the wider one below or to the right.

    Raises:
        ValueError: a side below 1 pixel, or an unknown fit.
    """
    if fit not in FITS:
        raise ValueError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")
    if min(height, width, size) < 1:
        raise ValueError(f"an X-ray of {height}x{width} pixels has no place in a square of {size}: pass sides above 0")
    if fit == "squash":
        return 0, 0, size, size
    rows, columns = (max(1, round(size * side / max(height, width))) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    return top, left, top + rows, left + columns


def resize_gray(gray: Image.Image, size: int, fit: Fit = "squash") -> np.ndarray:
    """(size, size) uint8 by area average, in its `content_box`, black around it; `gray` as `to_gray` gives it."""
    top, left, bottom, right = content_box(gray.height, gray.width, size, fit)
    small = gray.resize((right - left, bottom - top), BOX)
    values = np.asarray(small) if small.mode == "L" else np.asarray(small).round().clip(0, 255).astype(np.uint8)
    return np.pad(values, ((top, size - bottom), (left, size - right)))


def resize_mask(mask: np.ndarray, size: int, fit: Fit = "squash") -> np.ndarray:
    """(size, size) bool by nearest neighbour of an (H, W) bool mask, in its `content_box`, no lung around it."""
    top, left, bottom, right = content_box(*mask.shape, size, fit)
    small = np.asarray(Image.fromarray(mask).resize((right - left, bottom - top), Image.Resampling.NEAREST))
    return np.pad(small, ((top, size - bottom), (left, size - right)))


def lungs_box(mask: np.ndarray, margin: float) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), the last two excluded, of an (H, W) bool mask, widened and clipped to its image.

    `margin`: the share of the box's own height and width, rounded to pixels, that is added on each side.

    Raises:
        ValueError: a mask without any lung, or a negative margin.
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
    """The gray image cut to the `lungs_box` of its (H, W) bool mask, as mode `L`: the lungs alone, at one brightness.

    The lungs' mean and standard deviation become MID_GRAY and LUNG_SD, clipped to [0, 255], and all else MID_GRAY:
    what an exposure, a detector or a marker beside the lungs tells of the site is gone. Of the lungs is what lies
    within half the margin of the mask, of the longer side of its box, along rows and columns (a square, no disc).

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
        table = _evened(grays, mean, spread) ^ MID_GRAY  # so that 0 stands for mid-gray
        even = np.asarray(Image.fromarray(values).point(table.tolist()))
        return Image.fromarray((even & -lungs.view(np.uint8)) ^ np.uint8(MID_GRAY))
    inside = values[lungs].astype(np.float64)
    return Image.fromarray(np.where(lungs, _evened(values, inside.mean(), inside.std()), np.uint8(MID_GRAY)))


def _evened(values: np.ndarray, mean: float, spread: float) -> np.ndarray:
    """Values as uint8, their mean and spread those of the lungs; a constant image has no spread."""
    return (MID_GRAY + LUNG_SD * (values - mean) / (spread or 1.0)).round().clip(0, 255).astype(np.uint8)
