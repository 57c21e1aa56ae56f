"""Stored values of a DICOM X-ray to the gray that a screen shows: modality, then values of interest, then polarity."""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

BIT_DEPTHS = (8, 10, 12, 14, 16)
LEAST_WIDTHS = {"LINEAR": 1, "LINEAR_EXACT": 1e-6, "SIGMOID": 1e-6}  # of a window, by its function


def displayed(header: "Dataset", stored: np.ndarray) -> np.ndarray:
    """Return the gray (H, W), float32 in [0, 255], of (H, W) stored integers or (H, W, 3) uint8; white is dense.

    A VOI LUT is preferred to the first window (LINEAR, LINEAR_EXACT or SIGMOID). Without either, or with an unusable
    window, the image keeps its full range, as in the dataset builder: from 0 to the `full_scale` of its values.
    Signed values are shifted to start at 0. MONOCHROME1 and the presentation shape INVERSE are inverted. Padding
    becomes as dark as the darkest real pixel. Colour becomes luminance.

    Source: DICOM PS3.3 C.11.1 (modality), C.11.2 (VOI), C.7.6.3.1.2 (photometric), C.7.5.1.1.2 (padding).
    """
    if stored.ndim == 3:
        return luminance(stored).round()
    codes = stored.astype(stored.dtype.newbyteorder("="), copy=False).view(f"u{stored.itemsize}")
    is_present = np.zeros(2 ** (8 * codes.itemsize), bool)
    is_present[codes] = True
    levels = np.flatnonzero(is_present).astype(codes.dtype).view(f"{stored.dtype.kind}{stored.itemsize}")
    table = np.zeros(len(is_present), np.float32)
    table[is_present] = _shown(header, levels)  # of the values, far fewer than pixels
    return table[codes]


def _shown(header: "Dataset", levels: np.ndarray) -> np.ndarray:
    """Return the gray of the (N,) values that a gray image holds, as `displayed`."""
    real = _real(header, levels)
    shown = _of_interest(header, levels, real)
    if word(header, "PhotometricInterpretation") == "MONOCHROME1" or word(header, "PresentationLUTShape") == "INVERSE":
        shown = 255 - shown
    shown = shown.clip(0, 255)
    shown[~real] = shown[real].min()
    return shown


def _real(header: "Dataset", levels: np.ndarray) -> np.ndarray:
    """Return which values are not padding, (N,) bool; all of them where none would be left."""
    padding, limit = header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")
    if padding is None:
        return np.ones(levels.shape, bool)
    # some files write the padding of signed pixels as unsigned: in their own type both are equal
    ends = np.array([padding, padding if limit is None else limit]).astype(levels.dtype)
    real = (levels < ends.min()) | (levels > ends.max())
    return real if real.any() else np.ones(levels.shape, bool)


def _of_interest(header: "Dataset", levels: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the gray (N,) before the polarity, in [0, 255] except for padding; `real` are the values without it."""
    slope, intercept = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
    values, top = levels * slope + intercept, 0
    if table := header.get("ModalityLUTSequence"):
        values, top = _looked_up(levels, table[0], header)
    if table := header.get("VOILUTSequence"):
        values, top = _looked_up(values, table[0], header)
    elif window := usable_window(header):
        from pydicom.pixels import apply_windowing

        return apply_windowing(values, window)
    if top:
        return values * (255 / top)
    raised = levels.astype(np.int32) + (2 ** (int(header.BitsStored) - 1) if header.PixelRepresentation else 0)
    fraction = raised / full_scale(raised[real].max())
    return 255 * (fraction if slope > 0 else 1 - fraction)


def _looked_up(values: np.ndarray, table: "Dataset", header: "Dataset") -> tuple[np.ndarray, int]:
    """Return a lookup table's entry for each value, and the `full_scale` of its entries: it may claim too many bits.

    Values below the table get its first entry, values above it its last. pydicom's `apply_voi` is not used: it wraps
    the values of 8-bit tables of more than 256 entries.
    """
    count, first = int(table.LUTDescriptor[0]) or 2**16, int(table.LUTDescriptor[1])
    entries = table.LUTData
    if isinstance(entries, bytes):
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        entries = np.frombuffer(entries, np.uint8 if len(entries) < 2 * count else f"{order}u2")
    entries = np.atleast_1d(np.asarray(entries))[:count]
    at = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)
    return entries[at].astype(np.float64), full_scale(entries.max())


def luminance(colours: np.ndarray) -> np.ndarray:
    """Return the luminance (H, W), float32, of (H, W, 3) red, green and blue in any range, by ITU-R BT.601 as PIL."""
    return colours.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def full_scale(highest: float) -> int:
    """Return the maximum of the smallest of `BIT_DEPTHS` that holds a value: 255 for 200, 4095 for 4000.

    Raises:
        ValueError: a value of more than 16 bits.
    """
    for bits in BIT_DEPTHS:
        if highest < 2**bits:
            return 2**bits - 1
    raise ValueError(f"a value of {highest} needs more than {BIT_DEPTHS[-1]} bits: scale the gray down to them")


def usable_window(header: "Dataset") -> "Dataset | None":
    """Return the first window, for an output from 0 to 255; None where no window can be used."""
    from pydicom import Dataset

    centers, widths = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
    function = word(header, "VOILUTFunction") or "LINEAR"
    if not (centers and widths) or widths[0] < LEAST_WIDTHS.get(function, math.inf):
        return None
    window = Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = centers[0], widths[0], function
    window.BitsStored, window.PixelRepresentation, window.PhotometricInterpretation = 8, 0, "MONOCHROME2"
    return window


def word(header: "Dataset", keyword: str) -> str:
    """Return one code of a header in capitals, empty where it is absent."""
    return str(header.get(keyword) or "").strip().upper()


def numbers(header: "Dataset", keyword: str) -> list[float]:
    """Return the values of an element; [] where it is absent or empty, or one is not finite."""
    value = header.get(keyword)
    values = [] if value is None else [float(one) for one in np.atleast_1d(np.asarray(value, dtype=object))]
    return values if all(map(math.isfinite, values)) else []
