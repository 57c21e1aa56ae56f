"""A DICOM X-ray as a radiologist's screen shows it, with its pixel spacing and flags.

Only the elements of `DICOM_TAGS` are read: the patient's name, birth date, identifiers and remarks stay in the file.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hub_models.imaging.dicom_pixels import stored_pixels
from hub_models.imaging.flags import Flag, RaisedFlag
from hub_models.imaging.windowing import displayed, numbers, usable_windows, word

if TYPE_CHECKING:
    from pydicom import Dataset

DICOM_TAGS = [
    "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "PixelData", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape", "PresentationIntentType",
    "BodyPartExamined", "ViewPosition", "PatientOrientation", "BurnedInAnnotation", "PixelSpacing",
    "ImagerPixelSpacing", "NominalScannedPixelSpacing", "EstimatedRadiographicMagnificationFactor",
]  # fmt: skip
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage
MODALITIES = ("", "CR", "DX", "RG", "SC", "OT")  # computed, digital, radiographic; secondary capture, other; unknown
OTHER_MODALITIES = {
    "CT": "a CT slice",
    "MR": "an MR slice",
    "PT": "a PET slice",
    "NM": "a scintigram",
    "US": "an ultrasound image",
    "MG": "a mammogram",
    "XA": "an angiogram",
    "RF": "a fluoroscopy image",
    "IO": "an X-ray of teeth",
    "PX": "an X-ray of teeth",
    "SEG": "a segmentation",
    "SR": "a report",
}
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
LATERAL = ("LATERAL", "LAT", "LL", "RL")
COLOUR_SPREAD = 16  # of 255, between the channels of a pixel: JPEG alone makes less out of gray
CHEST = ("", "CHEST", "THORAX", "LUNG", "LUNGS")


@dataclass(frozen=True, eq=False)
class DicomImage:
    """A DICOM X-ray as a screen shows it."""

    gray: np.ndarray  # (H, W) float32 in [0, 255], white is dense
    spacing_mm: tuple[float, float] | None  # (row, column) distance of the pixels' centres; None where it is unknown
    flags: tuple[RaisedFlag, ...]  # reasons not to trust a model on it; without any text of the header


def read_dicom(source: bytes | str | Path, name: str | None = None) -> DicomImage:
    """Read the one frame of a DICOM file or of its bytes, called `name`, as `windowing.displayed` shows it.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: pydicom is missing, or its plug-in for the file's compression.
        ValueError: the file is cut, no DICOM, no X-ray, has several frames or more than `MAX_PIXELS`, or no plug-in
            reads its compression.
    """
    name = name_of(source, name)
    header = read_header(source, name=name)
    with errors_as(f"the header of {name} cannot be read: get a sound copy"):
        objection = _objection(header)
    if objection:
        raise ValueError(f"{name} {objection}")
    stored = stored_pixels(read_header(source, pixels=True, name=name), name)
    with errors_as(f"the header of {name} does not say how to show its pixels: get a sound copy"):
        gray, shown_flags = displayed(header, stored)
        return DicomImage(gray, _spacing(header), _flags(header, stored) + shown_flags)


def name_of(source: bytes | str | Path, name: str | None = None) -> str:
    """Return what errors call a file, or bytes of a `name`."""
    return name or "DICOM bytes" if isinstance(source, bytes) else str(source)


@contextmanager
def errors_as(sentence: str) -> Iterator[None]:
    """Raise ValueError with `sentence` alone where a block fails: pydicom's own errors may quote the header."""
    try:
        yield
    except Exception:  # of any kind: pydicom reads lazily, with many parsers
        raise ValueError(sentence) from None


def read_header(
    source: bytes | str | Path, tags: list[str] = DICOM_TAGS, pixels: bool = False, name: str | None = None
) -> "Dataset":
    """Read the elements `tags` of a DICOM file or of its bytes, called `name`; with `pixels`, these too, undecoded.

    Whatever lengths the file claims, no more is read than an X-ray of its rows and columns has.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: pydicom is missing.
        ValueError: the source is not a DICOM file, or is cut off.
    """
    from chest_xray_masks import (  # late: the builder imports `datasets`
        HEADER_BYTES,
        DicomFile,
        longest_pixels,
        read_dicom_file,
    )

    name = name_of(source, name)
    broken = f"{name} is not a DICOM file, or is cut off: get a sound copy"
    try:
        import pydicom
    except ImportError as error:
        way_out = "pip install 'chest-xray-masks[dicom]'"
        raise ImportError(f"{name} is DICOM, which needs pydicom: {way_out}") from error
    # pydicom's warnings and log would quote the header; its context manager for this is not thread-safe
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    longest = HEADER_BYTES
    if pixels:
        with errors_as(broken):
            longest = longest_pixels(read_header(source, name=name))
    with DicomFile(source, longest) as file, errors_as(broken):
        return read_dicom_file(file, stop_before_pixels=not pixels, specific_tags=tags)


def _objection(header: "Dataset") -> str | None:
    """Return why a file is not read as an X-ray, as the end of a sentence; None where it is."""
    from chest_xray_masks import MAX_PIXELS  # late: the builder imports `datasets`

    if header.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY_CLASS:
        return "is a DICOMDIR, a table of contents: pass its folder"
    modality = word(header, "Modality")
    if modality not in MODALITIES:
        what = OTHER_MODALITIES.get(modality, "of another modality")
        return f"is {what}, not a chest X-ray: pass a file of modality CR, DX, RG, SC or OT"
    rows, columns = (int(header.get(side) or 0) for side in ("Rows", "Columns"))
    if not rows * columns:
        return "holds no image: pass the file of the X-ray itself"
    if rows * columns > MAX_PIXELS:
        return f"has {columns}x{rows} pixels, more than {MAX_PIXELS}: scale it down"
    if (frames := int(header.get("NumberOfFrames") or 1)) > 1:
        return f"has {frames} frames, an X-ray has one: save the frame to be read as a file of its own"
    colours = word(header, "PhotometricInterpretation")
    if not colours:
        return "does not say whether 0 is black or white: set its Photometric Interpretation to MONOCHROME2 or 1"
    if colours not in ("MONOCHROME1", "MONOCHROME2", *COLOURS):
        return "is neither gray, RGB nor YBR (a palette?): save it as MONOCHROME2"
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    if not 0 < stored <= allocated <= 16 or allocated % 8 or (colours in COLOURS and allocated > 8):
        ways = "8" if colours in COLOURS else "8 or 16"
        return f"has values of {allocated} bits, {stored} of them in use: save it with {ways}"
    return None


def _spacing(header: "Dataset") -> tuple[float, float] | None:
    """Return the (row, column) pixel spacing of a header in mm; None where it has none.

    Pixel Spacing is preferred, then Imager Pixel Spacing (of the detector's plane) divided by the estimated
    magnification, then Nominal Scanned Pixel Spacing (of a digitized X-ray).

    Source: DICOM PS3.3 10.7.1.3 (spacing of projection radiographs).
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing, factor = numbers(header, keyword), 1.0
        if len(spacing) == 2 and min(spacing) > 0:
            magnification = numbers(header, "EstimatedRadiographicMagnificationFactor")
            if keyword == "ImagerPixelSpacing" and magnification and magnification[0] > 0:
                factor = magnification[0]
            return spacing[0] / factor, spacing[1] / factor
    return None


def _orientation(header: "Dataset") -> str:
    """Return the first letter of the direction of rows and of columns; empty where the header does not say.

    LF (to the patient's left and foot) is a frontal X-ray as a screen shows it, RF its mirror image.

    Source: DICOM PS3.3 C.7.6.1.1.1 (patient orientation).
    """
    values = np.atleast_1d(np.asarray(header.get("PatientOrientation") or "", dtype=object))
    letters = "".join(str(value).strip()[:1] for value in values).upper()
    return letters if re.fullmatch("[APLRHF]{2}", letters) else ""


def _flags(header: "Dataset", stored: np.ndarray) -> tuple[RaisedFlag, ...]:
    """Return `DicomImage.flags`."""
    has_window = header.get("WindowCenter") is not None and not header.get("VOILUTSequence")
    orientation = _orientation(header)
    is_lateral = word(header, "ViewPosition") in LATERAL
    holds = {
        Flag.OTHER_BODY_PART: word(header, "BodyPartExamined") not in CHEST,
        Flag.NOT_FRONTAL: is_lateral or orientation not in ("", "LF", "RF"),
        Flag.MIRRORED: orientation == "RF",
        Flag.RAW_DETECTOR_DATA: word(header, "PresentationIntentType") == "FOR PROCESSING",
        Flag.BURNED_IN_TEXT: word(header, "BurnedInAnnotation") == "YES",
        Flag.UNUSABLE_WINDOW: has_window and stored.ndim == 2 and not usable_windows(header),
        Flag.COLOUR: stored.ndim == 3 and np.ptp(stored.astype(np.int16), axis=2).max() > COLOUR_SPREAD,
    }
    return tuple(flag.raised() for flag, is_raised in holds.items() if is_raised)
