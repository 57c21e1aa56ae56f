"""Any X-ray to gray with its full range kept, and what an X-ray says of itself: spacing, flags, colour."""

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImagePalette
from PIL.PngImagePlugin import PngInfo

from hub_models.imaging.dicom import read_dicom
from hub_models.imaging.flags import RaisedFlag
from hub_models.imaging.resizing import BOX
from hub_models.imaging.source import Source, is_dicom_source, open_image
from hub_models.imaging.windowing import BIT_DEPTHS, full_scale

SYNTHETIC = ("Warning", "synthetic, not an X-ray of a patient")  # keyword and text in the PNG of a phantom


class DecodedXray(NamedTuple):
    """An X-ray, decoded once."""

    gray: Image.Image  # as `to_gray` returns it
    spacing_mm: tuple[float, float] | None = None  # of DICOM's header: a PNG or JPEG gives that of a print or a screen
    flags: tuple[RaisedFlag, ...] = ()  # reasons not to trust a model on it, from a DICOM header
    chroma: float = 0.0  # as `chroma` returns it; 0 of DICOM, which has a flag for colour
    is_synthetic: bool = False  # by the mark of `synthetic_mark`


def read_xray(source: Source, name: str | None = None) -> DecodedXray:
    """Read an X-ray in any form: a file, its bytes, which errors call `name`, a PIL image or an array; see `to_gray`.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `open_image`, or its values are not finite.
    """
    if not is_dicom_source(source, name):
        image = open_image(source, name)
        return DecodedXray(_gray(image), chroma=chroma(image), is_synthetic=_is_marked(image))
    found = read_dicom(source, name)
    return DecodedXray(Image.fromarray(found.gray), found.spacing_mm, found.flags)


def to_gray(source: Source, name: str | None = None) -> Image.Image:
    """Return the gray image with its full range kept: mode `L` from 8-bit sources, else mode `F` in [0, 255].

    Palette and colour images become luminance (R=G=B keeps its value); alpha is dropped. Integers deeper than 8 bits
    are scaled by the smallest of 8, 10, 12, 14 or 16 bits that holds their maximum (12-bit values in a 16-bit file by
    4095). Floats are scaled from their minimum to their maximum; a constant one is 0 everywhere. DICOM is mode `F`,
    shown by its own window (`hub_models.imaging.windowing`) and not scaled by its maximum. Errors call bytes `name`.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `read_xray`.
    """
    if is_dicom_source(source, name):
        return Image.fromarray(read_dicom(source, name).gray)
    return _gray(open_image(source, name))


def _gray(image: Image.Image) -> Image.Image:
    """Return the gray of a PIL image, as `to_gray`."""
    if image.mode == "P" and image.palette is not None and image.palette.mode == "RGB":
        return _gray_of_palette(image, image.palette)
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


def _gray_of_palette(image: Image.Image, palette: ImagePalette.ImagePalette) -> Image.Image:
    """Return an image of mode P as gray by a table of 256, in half of the time of `convert`."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    ramp.putpalette(palette)
    return image.point(np.asarray(ramp.convert("L"))[0].tolist(), "L")


def synthetic_mark() -> PngInfo:
    """Return the PNG text that marks an image as synthetic wherever the file goes."""
    mark = PngInfo()
    mark.add_text(*SYNTHETIC)
    return mark


def is_synthetic(png: bytes) -> bool:
    """Return whether an image carries the mark of `synthetic_mark`; its pixels are not decoded."""
    from chest_xray_masks import FORMATS  # late: the builder imports `datasets`

    with Image.open(io.BytesIO(png), formats=FORMATS) as image:
        return _is_marked(image)


def _is_marked(image: Image.Image) -> bool:
    return bool(image.info.get(SYNTHETIC[0]) == SYNTHETIC[1])


def chroma(source: Source) -> float:
    """Return the mean over the image of the largest less the smallest of red, green and blue, in [0, 255]; 0 of gray.

    Colours are first averaged over a 64th of the sides, which removes the noise of gray saved as colour JPEG.
    """
    image = open_image(source)
    if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I"):
        return 0.0
    if image.mode == "P" and not np.ptp(np.reshape(image.getpalette() or [], (-1, 3)), axis=1).any():
        return 0.0
    colours = np.asarray(image.convert("RGB").resize((64, 64), BOX), np.int16)  # (64, 64, 3)
    return float(np.ptp(colours, axis=2).mean())
