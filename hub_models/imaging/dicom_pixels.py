"""Decode the stored pixels of a DICOM file by pydicom and its plug-ins."""

import re
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

# Markers of a JPEG or JPEG-LS frame's header, behind which its precision, height and width stand.
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def stored_pixels(header: "Dataset", name: str) -> np.ndarray:
    """Decode the one frame of a file, called `name` in errors, to (H, W) integers or (H, W, 3) red, green, blue.

    Raises:
        ImportError: the plug-in for its compression is not installed.
        ValueError: the file is cut off or damaged, or no plug-in is known.
    """
    from pydicom.pixels import get_decoder

    syntax = header.file_meta.TransferSyntaxUID
    kind = "a private one" if syntax.is_private else syntax.name
    if "PixelData" not in header:
        raise ValueError(f"{name} holds no pixels, or is cut off before them: get a sound copy")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ValueError(f"{name} has transfer syntax {kind}, not one of an X-ray: save it uncompressed") from None
    if not decoder.is_available:
        way_out = "pip install 'chest-xray-masks[dicom]', or save it uncompressed"
        raise ImportError(f"{name} has transfer syntax {kind}, which needs a plug-in of pydicom: {way_out}")
    try:
        return _decoded(header)
    except Exception:  # of any kind, by the plug-in; some quote the file
        ways = "get a sound copy, or save it uncompressed" if syntax.is_compressed else "get a sound copy"
        what = f"{kind}, {header.BitsStored} bits"
        raise ValueError(f"the pixels of {name} cannot be decoded ({what}): {ways}") from None


def _decoded(header: "Dataset") -> np.ndarray:
    """Decode the frame as `stored_pixels`, with whatever error the decoder raises."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array
    from pydicom.uid import RLELossless

    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != RLELossless:  # RLE packs to a 64th at most
        claimed = _claimed_sizes(get_frame(header.PixelData, 0, number_of_frames=1))
        if claimed != {(header.Rows, header.Columns)}:  # decoders allocate what the frame asks for
            raise ValueError("the compressed frame is of another size than its header says")
    return pixel_array(header, index=0)


def _claimed_sizes(frame: bytes) -> set[tuple[int, int]]:
    """Return the (height, width) that a frame of JPEG, JPEG-LS or JPEG 2000 claims; several where it is ambiguous.

    Source: ISO/IEC 10918-1 B.2.2 (frame header), 14495-1 C.2.2 (the same in JPEG-LS), 15444-1 A.5.1 (SIZ).
    """
    if frame[:2] != b"\xff\xd8":
        found = (struct.unpack(">4I", match[1]) for match in re.finditer(rb"\xff\x4f\xff\x51....(.{16})", frame, re.S))
        return {(bottom - top, right - left) for right, bottom, left, top in found}
    at = 2
    while frame[at] == 0xFF:
        if frame[at + 1] in FRAME_MARKERS:
            return {struct.unpack(">HH", frame[at + 5 : at + 9])}
        at += 1 if frame[at + 1] == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4])
    return set()
