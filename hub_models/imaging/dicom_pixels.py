"""Decode the stored pixels of a DICOM file by pydicom and its plug-ins."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

UNDEFINED_LENGTH = 2**32 - 1  # of an element that a delimiter ends, as compressed pixels


def stored_pixels(header: "Dataset", name: str) -> np.ndarray:
    """Decode the one frame of a file, called `name` in errors, to (H, W) integers or (H, W, 3) red, green, blue.

    Raises:
        ImportError: the plug-in for its compression is not installed.
        ValueError: the file is cut off or damaged, its decoder ended or took too long, or no plug-in is known.
    """
    from pydicom.pixels import get_decoder

    from chest_xray_masks import decode_dicom  # late: the builder imports `datasets`

    syntax = header.file_meta.TransferSyntaxUID
    kind = "a private one" if syntax.is_private else syntax.name
    if "PixelData" not in header:
        raise ValueError(f"{name} holds no pixels, or is cut off before them: get a sound copy")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ValueError(f"{name} has transfer syntax {kind}, not one of an X-ray: save it uncompressed") from None
    if (
        not syntax.is_compressed
        and getattr(header.get_item("PixelData", keep_deferred=True), "length", 0) == UNDEFINED_LENGTH
    ):
        raise ValueError(f"the pixels of {name} are compressed, and it does not say how: export it as a DICOM file")
    if not decoder.is_available:
        way_out = "pip install 'chest-xray-masks[dicom]', or save it uncompressed"
        raise ImportError(f"{name} has transfer syntax {kind}, which needs a plug-in of pydicom: {way_out}")
    try:
        return decode_dicom(header)
    except Exception as error:  # of any kind, by the plug-in; some quote the file
        ways = "get a sound copy, or save it uncompressed" if syntax.is_compressed else "get a sound copy"
        ended = f"; {error}" if isinstance(error, ChildProcessError | TimeoutError) else ""
        what = f"{kind}, {header.BitsStored} bits{ended}"
        raise ValueError(f"the pixels of {name} cannot be decoded ({what}): {ways}") from None
