"""Stored values of a DICOM X-ray to the gray that a screen shows: modality, then values of interest, then polarity."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from hub_models.imaging.flags import Flag, RaisedFlag

if TYPE_CHECKING:
    from pydicom import Dataset

BIT_DEPTHS = (8, 10, 12, 14, 16)
MOST_CLIPPED, LEAST_CONTRAST = 0.6, 0.125  # fractions; beyond them a window leaves no picture
SAMPLED_PIXELS = 1_000_000  # about as many tell what a window does
LEAST_WIDTHS = {"LINEAR": 1, "LINEAR_EXACT": 1e-6, "SIGMOID": 1e-6}  # of a window, by its function


def displayed(header: "Dataset", stored: np.ndarray) -> tuple[np.ndarray, tuple[RaisedFlag, ...]]:
    """Return the gray (H, W), float32 in [0, 255], of (H, W) stored integers or (H, W, 3) uint8, and flags.

    White is dense. A VOI LUT is preferred to the windows (LINEAR, LINEAR_EXACT or SIGMOID), and the first of them that
    leaves a picture (see `_clipping`) is used. Without one the image keeps its full range: of a modality table the
    range of its entries; else, as in the dataset builder, from 0 to the `full_scale` of its values. Signed values are
    shifted to start at 0. MONOCHROME1 is inverted. Padding becomes as dark as the darkest real pixel.
    Colour becomes luminance.

    Source: DICOM PS3.3 C.11.1 (modality), C.11.2 (VOI), C.7.6.3.1.2 (photometric), C.7.5.1.1.2 (padding), C.8.11.3
    (INVERSE with MONOCHROME1 only).
    """
    if stored.ndim == 3:
        return luminance(stored).round(), ()
    codes = stored.astype(stored.dtype.newbyteorder("="), copy=False).view(f"u{stored.itemsize}")
    is_present = np.zeros(2 ** (8 * codes.itemsize), bool)
    is_present[codes] = True
    levels = np.flatnonzero(is_present).astype(codes.dtype).view(f"{stored.dtype.kind}{stored.itemsize}")
    step = math.ceil(math.sqrt(codes.size / SAMPLED_PIXELS))
    counts = np.bincount(codes[::step, ::step].ravel(), minlength=len(is_present))[is_present]
    table = np.zeros(len(is_present), np.float32)
    table[is_present], flags = _shown(header, levels, counts)  # of the values, far fewer than pixels
    return table[codes], flags


def _shown(header: "Dataset", levels: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, tuple[RaisedFlag, ...]]:
    """Return the gray of the (N,) values that a gray image holds, `counts` times each, and flags, as `displayed`."""
    real = _real(header, levels)
    values, shown = _full_range(header, levels, real)
    flags: tuple[RaisedFlag, ...] = ()
    for windowed in _of_interest(header, values):
        if not (flags := _clipping(levels[real], windowed[real], shown[real], counts[real])):
            shown = windowed
            break
    is_inverse = word(header, "PhotometricInterpretation") == "MONOCHROME1"
    if is_inverse:
        shown = 255 - shown
    elif word(header, "PresentationLUTShape") == "INVERSE":
        flags += (Flag.UNCLEAR_POLARITY.raised(),)
    shown = shown.clip(0, 255)
    shown[~real] = shown[real].min()
    return shown, flags


def _clipping(
    levels: np.ndarray, windowed: np.ndarray, full: np.ndarray, counts: np.ndarray
) -> tuple[RaisedFlag, ...]:
    """Return the flag of a window or table that leaves no picture; of (N,) values, each in `counts` pixels.

    It clips more than `MOST_CLIPPED` of the pixels that are neither the least nor the largest value, which borders and
    bare detector have; or its contrast is less than `LEAST_CONTRAST` of that over the full range.
    """
    inner = counts.copy()
    inner[[levels.argmin(), levels.argmax()]] = 0
    if not inner.any():
        return ()
    is_clipped = (windowed < 0.5) | (windowed > 254.5)
    clipped = float(inner[is_clipped].sum() / inner.sum())
    contrast = _spread(windowed.clip(0, 255), counts) / max(_spread(full, counts), 1e-6)
    if clipped > MOST_CLIPPED:
        return (Flag.CLIPPING_WINDOW.raised(effect=f"clips {clipped:.0%} of the X-ray"),)
    if contrast < LEAST_CONTRAST:
        return (Flag.CLIPPING_WINDOW.raised(effect=f"leaves {contrast:.0%} of the contrast"),)
    return ()


def _spread(grays: np.ndarray, counts: np.ndarray) -> float:
    """Return the standard deviation of (N,) grays, each in `counts` pixels."""
    return float(np.sqrt(np.cov(grays, fweights=counts, ddof=0)))


def _real(header: "Dataset", levels: np.ndarray) -> np.ndarray:
    """Return which values are not padding, (N,) bool; all of them where none would be left."""
    padding, limit = header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")
    if padding is None:
        return np.ones(levels.shape, bool)
    # some files write the padding of signed pixels as unsigned: in their own type both are equal
    ends = np.array([padding, padding if limit is None else limit]).astype(levels.dtype)
    real = (levels < ends.min()) | (levels > ends.max())
    return real if real.any() else np.ones(levels.shape, bool)


def _full_range(header: "Dataset", levels: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) values behind the modality step, and their gray over the full range; `real` ones are not padding.

    A modality table takes the place of slope and intercept, where a file has both.
    """
    if table := header.get("ModalityLUTSequence"):
        values, entries = _looked_up(levels, table[0], header)
        low, high = float(entries.min()), float(entries.max())
        return values, (values - low) * (255 / ((high - low) or 1.0))
    slope, intercept = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
    raised = levels.astype(np.int32) + (2 ** (int(header.BitsStored) - 1) if header.PixelRepresentation else 0)
    fraction = raised / full_scale(raised[real].max())
    return levels * slope + intercept, 255 * (fraction if slope > 0 else 1 - fraction)


def _of_interest(header: "Dataset", values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the gray (N,) of values by the VOI table, then by each usable window: they are views to choose from."""
    if table := header.get("VOILUTSequence"):
        found, entries = _looked_up(values, table[0], header)
        yield found * (255 / full_scale(entries.max()))
    for window in usable_windows(header):
        from pydicom.pixels import apply_windowing

        yield apply_windowing(values, window)


def _looked_up(values: np.ndarray, table: "Dataset", header: "Dataset") -> tuple[np.ndarray, np.ndarray]:
    """Return a lookup table's entry for each value, and all of its entries: it may claim too many bits.

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
    return entries[at].astype(np.float64), entries


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


def usable_windows(header: "Dataset") -> list["Dataset"]:
    """Return the windows that can be used, in the order of the header, for an output from 0 to 255."""
    from pydicom import Dataset

    function = word(header, "VOILUTFunction") or "LINEAR"
    windows = []
    for center, width in zip(numbers(header, "WindowCenter"), numbers(header, "WindowWidth"), strict=False):
        if width >= LEAST_WIDTHS.get(function, math.inf):
            window = Dataset()
            window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, width, function
            window.BitsStored, window.PixelRepresentation, window.PhotometricInterpretation = 8, 0, "MONOCHROME2"
            windows.append(window)
    return windows


def word(header: "Dataset", keyword: str) -> str:
    """Return one code of a header in capitals, empty where it is absent."""
    return str(header.get(keyword) or "").strip().upper()


def numbers(header: "Dataset", keyword: str) -> list[float]:
    """Return the values of an element; [] where it is absent or empty, or one is not finite."""
    value = header.get(keyword)
    values = [] if value is None else [float(one) for one in np.atleast_1d(np.asarray(value, dtype=object))]
    return values if all(map(math.isfinite, values)) else []
