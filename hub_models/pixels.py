"""Any X-ray to gray without clipping, any mask to bool, both to the training size; the room that knows image modes."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from chest_xray_masks import binarize, dicom_png, reason

DICOM_SUFFIXES = {".dcm", ".dicom"}
BIT_DEPTHS = (8, 10, 12, 14, 16)
BOX = Image.Resampling.BOX  # plain area average; the saved image processors use it too, so both see the same pixels

Source = Image.Image | str | Path | bytes


def open_image(source: Source) -> Image.Image:
    """PIL image of a file, its bytes or an image; a DICOM file or DICOM bytes come as 16-bit gray.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it cannot be decoded.
    """
    if isinstance(source, Image.Image):
        return source
    name = "image bytes" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if data[128:132] == b"DICM" or Path(name).suffix.lower() in DICOM_SUFFIXES:
        data = dicom_png(data, name)
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be decoded as an image ({reason(error)}): pass a sound file") from error
    return image


def to_gray(source: Source) -> Image.Image:
    """Gray image with its full range kept: mode `L` from 8-bit sources, else mode `F` in [0, 255].

    Palette and colour images become luminance (R=G=B stays what it is); alpha is dropped. Integers deeper than 8 bits
    are scaled by the smallest of 8, 10, 12, 14 or 16 bits that holds their maximum (12-bit values in a 16-bit file by
    4095), floats from their minimum to their maximum. A constant float image is 0 everywhere.
    """
    image = open_image(source)
    if image.mode != "F" and not image.mode.startswith("I"):
        return image.convert("L")
    values = np.asarray(image).astype(np.float32)  # (H, W)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if image.mode == "F" or low < 0 or high >= 2 ** BIT_DEPTHS[-1]:
        low = float(values.min())
        scale = (high - low) or 1.0
    else:
        low, scale = 0.0, next(2**bits - 1 for bits in BIT_DEPTHS if high < 2**bits)
    return Image.fromarray((values - low) * np.float32(255 / scale))


def to_mask(source: Source) -> np.ndarray:
    """(H, W) bool of a mask in any mode: above 127 of 255, of other ranges (0/1, 16 bits) above half of its top."""
    return binarize(open_image(source))


def resize_gray(gray: Image.Image, size: int) -> np.ndarray:
    """(size, size) uint8 by area average, the aspect squashed; `gray` as `to_gray` gives it."""
    small = gray.resize((size, size), BOX)
    return np.asarray(small) if small.mode == "L" else np.asarray(small).round().clip(0, 255).astype(np.uint8)


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """(size, size) bool by nearest neighbour of an (H, W) bool mask, the aspect squashed."""
    return np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
