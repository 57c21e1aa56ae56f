"""Any X-ray to gray with its full range kept, and what an X-ray says of itself: spacing, flags, colour."""

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hub_models.dicom import read_dicom, read_spacing
from hub_models.display import BIT_DEPTHS, full_scale
from hub_models.flags import RaisedFlag
from hub_models.images import Source, is_dicom_source, open_image
from hub_models.resizing import BOX

SYNTHETIC = ("Warning", "synthetic, not an X-ray of a patient")  # keyword and text in the PNG of a phantom


class DecodedXray(NamedTuple):
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


def read_xray(source: Source) -> DecodedXray:
    """An X-ray in any form: a file, its bytes, a PIL image or an array; see `to_gray`.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `open_image`, or its values are not finite.
    """
    if not is_dicom_source(source):
        image = open_image(source)
        return DecodedXray(_gray(image), chroma=chroma(image))
    found = read_dicom(source)
    return DecodedXray(Image.fromarray(found.gray), found.spacing_mm, found.flags)


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
