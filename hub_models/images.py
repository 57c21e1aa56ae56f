"""Files, bytes and arrays to PIL images, and what is none refused in one sentence; DICOM by way of `dicom`."""

import io
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from chest_xray_masks import MAX_PIXELS, TooManyPixelsError, reason
from hub_models.dicom import is_dicom, read_dicom
from hub_models.display import BIT_DEPTHS, luminance

# What X-rays come in. Pillow reads more, but starts other programs for some of them (EPS).
FORMATS = ("PNG", "JPEG", "TIFF", "JPEG2000", "BMP", "GIF", "WEBP", "PPM")
CAMERA_FORMATS = ("JPEG", "MPO")  # a phone's photograph of a film: upright only by its EXIF, in MPO beside previews

Source = Image.Image | str | Path | bytes | np.ndarray


def open_image(source: Source) -> Image.Image:
    """PIL image of a file, its bytes, an array or an image; DICOM comes as 16-bit gray, as displayed.

    A JPEG file is turned as its EXIF says, being perhaps a phone's photograph of a film; an image that is handed over
    decoded stays as it is. Arrays are (H, W), or (H, W, 3) in colour: bool, integers or floats.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: it is DICOM, and pydicom or its plug-in for the file's compression is missing.
        ValueError: it cannot be decoded, or holds more than `MAX_PIXELS` or several pictures.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if is_dicom_source(source):
        return Image.fromarray((read_dicom(source).gray * 257).round().astype(np.uint16))
    if isinstance(source, Image.Image):
        return _loaded(source, "the image")
    if isinstance(source, bytes):
        return _decoded(io.BytesIO(source), "image bytes")
    with Path(source).open("rb") as file:
        return _decoded(file, str(source))


def is_dicom_source(source: Source) -> bool:
    """Whether a file or its bytes are DICOM.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is a folder, or empty.
    """
    if isinstance(source, Image.Image | np.ndarray):
        return False
    if isinstance(source, bytes):
        head, name = source[:132], ""
    else:
        name = str(source)
        if Path(source).is_dir():
            raise ValueError(f"{source} is a folder: pass the file of one X-ray")
        with Path(source).open("rb") as file:
            head = file.read(132)
    if not head:
        raise ValueError(f"{name or 'image bytes'} cannot be decoded, being empty: pass a sound file")
    return is_dicom(head, name)


def _decoded(file: BinaryIO, name: str) -> Image.Image:
    """PIL image of an open file, upright; refused by its header alone where it is too large or holds several."""
    try:
        image = Image.open(file, formats=FORMATS)
        is_several = image.format not in CAMERA_FORMATS and getattr(image, "is_animated", False)
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"{name} has more than {MAX_PIXELS} pixels: scale it down") from error
    except Exception as error:  # PIL raises whatever its many decoders raise
        ways = "pass a sound PNG, JPEG, TIFF or DICOM file"
        raise ValueError(f"{name} cannot be decoded as an image ({reason(error)}): {ways}") from error
    if is_several:
        raise ValueError(f"{name} is a {image.format} of several pictures: save the one to be read on its own")
    kind, image = image.format, _loaded(image, name)
    if kind in CAMERA_FORMATS:
        with suppress(Exception):  # EXIF that cannot be read says nothing
            ImageOps.exif_transpose(image, in_place=True)
    return image


def _loaded(image: Image.Image, name: str) -> Image.Image:
    """A PIL image with its pixels decoded, if they are not too many."""
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise TooManyPixelsError(f"{name} has {size} pixels, more than {MAX_PIXELS}: scale it down")
    try:
        image.load()
    except Exception as error:  # as above
        raise ValueError(f"{name} cannot be decoded as an image ({reason(error)}): pass a sound file") from error
    return image


def _of_array(values: np.ndarray) -> Image.Image:
    """PIL image of (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) values, the fourth, alpha, dropped.

    Raises:
        ValueError: another shape, no pixels or more than `MAX_PIXELS`, no numbers, or not all finite.
    """
    if values.ndim == 3 and values.shape[2] in (1, 3, 4):
        values = values[..., 0] if values.shape[2] == 1 else values[..., :3]
    elif values.ndim != 2:
        raise ValueError(f"an array of shape {values.shape} is no X-ray: pass (H, W), or (H, W, 3) in colour")
    height, width = values.shape[:2]
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"an array has {width}x{height} pixels, not 1 to {MAX_PIXELS}: pass another size")
    if values.dtype.kind not in "buif":
        raise ValueError(f"an array of {values.dtype} is no X-ray: pass bool, integers or floats")
    if not np.isfinite(values).all():
        raise ValueError("an array holds values that are not finite: replace them by numbers")
    if values.dtype == bool:
        values = values * np.uint8(255)
    if values.dtype == np.uint8:
        return Image.fromarray(values)
    is_deep = values.dtype.kind == "f" or values.min() < 0 or values.max() >= 2 ** BIT_DEPTHS[-1]
    values = luminance(values) if values.ndim == 3 else values
    return Image.fromarray(values.astype(np.float32) if is_deep else values.round().astype(np.int32))
