"""Files, bytes and arrays to PIL images."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeGuard

import numpy as np
from PIL import Image

from hub_models.imaging.dicom import read_dicom
from hub_models.imaging.file_kinds import check_kind, is_dicom, unread_kind
from hub_models.imaging.windowing import BIT_DEPTHS, luminance

# Pillow warns of pictures that are smaller than MAX_PIXELS, which every picture is held against
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Source = Image.Image | str | Path | bytes | np.ndarray
IMAGE_BYTES = "image bytes"  # of no name, in errors
RAW_TAGS = {50706, 33421}  # DNGVersion and CFARepeatPatternDim: of a camera's raw image in TIFF


def open_image(source: Source, name: str | None = None) -> Image.Image:
    """Return the PIL image of a file, its bytes, an array or an image; DICOM as 16-bit gray, as displayed.

    Errors call bytes by their `name`.

    A file is turned upright by its EXIF, and a TIFF in which 0 is white inverted. An image's EXIF is not looked at.
    Arrays are (H, W), or (H, W, 3) in colour: bool, integers or floats.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: the file is DICOM, and pydicom or the plug-in for its compression is missing.
        ValueError: the source cannot be decoded, or holds more than `MAX_PIXELS` or several pictures.
    """
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if is_dicom_source(source, name):
        return Image.fromarray((read_dicom(source, name).gray * 257).round().astype(np.uint16))
    if isinstance(source, Image.Image):
        from chest_xray_masks import black_as_zero  # late: the builder imports `datasets`

        return _loaded(source, "the image", black_as_zero)
    if isinstance(source, bytes):
        return _decoded(io.BytesIO(source), name or IMAGE_BYTES)
    with Path(source).open("rb") as file:
        return _decoded(file, str(source))


def is_dicom_source(source: Source, name: str | None = None) -> TypeGuard[str | Path | bytes]:
    """Return whether a file or its bytes, which errors call `name`, are DICOM.

    Raises:
        FileNotFoundError: the file does not exist.
        TypeError: the source is none of `Source`.
        ValueError: the source is not a regular file, empty, or of more than `MAX_BYTES`.
    """
    from chest_xray_masks import HEAD_BYTES, MAX_BYTES, regular_size  # late: the builder imports `datasets`

    if not isinstance(source, Source):
        way = "pass a path, the bytes of a file, a PIL image or a numpy array"
        raise TypeError(f"{name or 'the X-ray'} is of type {type(source).__name__}: {way}")
    if isinstance(source, Image.Image | np.ndarray):
        return False
    if isinstance(source, bytes):
        path, size, head = name or "", len(source), source[:HEAD_BYTES]
    else:
        path, size = str(source), regular_size(source)
        with Path(source).open("rb") as file:
            head = file.read(min(size, HEAD_BYTES))
    called = path or name or IMAGE_BYTES
    if size > MAX_BYTES:
        raise ValueError(f"{called} has {size} bytes, more than {MAX_BYTES}: scale it down")
    if not head:
        raise ValueError(f"{called} cannot be decoded, being empty: pass a sound file")
    return is_dicom(head, path)


def _decoded(file: BinaryIO, name: str) -> Image.Image:
    """Decode an open file as it is shown; one that is too large or holds several pictures is refused by its header."""
    from chest_xray_masks import HEAD_BYTES, as_shown, open_image_file  # late: the builder imports `datasets`

    check_kind(file.read(HEAD_BYTES), name)
    file.seek(0)
    opened = open_image_file(file, name)
    _refuse_raw(opened, name)
    return _loaded(opened, name, as_shown)


def _refuse_raw(image: Image.Image, name: str) -> None:
    if getattr(image, "tag_v2", {}).keys() & RAW_TAGS:
        raise ValueError(f"{name} {unread_kind(b'', 'x.dng')}")


def check_xray(data: bytes, name: str) -> tuple[int, int]:
    """Return (width, height), upright, of an image file of a kind that is read, whose header and checksums are sound.

    Raises:
        ValueError: it is of another kind, cut off or damaged.
        TooManyPixelsError: it holds more than `MAX_PIXELS`.
    """
    from chest_xray_masks import HEAD_BYTES, check_image, open_image_file  # late: the builder imports `datasets`

    check_kind(data[:HEAD_BYTES], name)
    if data.startswith((b"II", b"MM")):  # TIFF, the only format with RAW_TAGS
        with open_image_file(io.BytesIO(data), name) as opened:
            _refuse_raw(opened, name)
    return check_image(data, name)


def _loaded(image: Image.Image, name: str, load: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Decode the pixels of a PIL image by `load`, unless they are too many."""
    from chest_xray_masks import MAX_PIXELS, TooManyPixelsError, reason  # late: the builder imports `datasets`

    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise TooManyPixelsError(f"{name} has {size} pixels, more than {MAX_PIXELS}: scale it down")
    try:
        return load(image)
    except Exception as error:  # as above
        raise ValueError(f"{name} cannot be decoded as an image ({reason(error)}): pass a sound file") from error


def _of_array(values: np.ndarray) -> Image.Image:
    """Return the PIL image of (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) values; the fourth, alpha, is dropped."""
    from chest_xray_masks import MAX_PIXELS  # late: the builder imports `datasets`

    if values.ndim == 3 and values.shape[2] in (1, 3, 4):
        values = values[..., 0] if values.shape[2] == 1 else values[..., :3]
    elif values.ndim != 2:
        raise ValueError(f"an array of shape {values.shape} is not an X-ray: pass (H, W), or (H, W, 3) in colour")
    height, width = values.shape[:2]
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"an array has {width}x{height} pixels, not 1 to {MAX_PIXELS}: pass another size")
    if values.dtype.kind not in "buif":
        raise ValueError(f"an array of {values.dtype} is not an X-ray: pass bool, integers or floats")
    if not np.isfinite(values).all():
        raise ValueError("an array holds values that are not finite: replace them by numbers")
    if values.dtype == bool:
        values = values * np.uint8(255)
    if values.dtype == np.uint8:
        return Image.fromarray(values)
    is_deep = values.dtype.kind == "f" or values.min() < 0 or values.max() >= 2 ** BIT_DEPTHS[-1]
    values = luminance(values) if values.ndim == 3 else values
    return Image.fromarray(values.astype(np.float32) if is_deep else values.round().astype(np.int32))
