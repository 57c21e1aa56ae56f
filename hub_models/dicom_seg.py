"""Lung masks as DICOM Segmentations that refer to the X-ray they were found in and hold nothing else of its header."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chest_xray_masks import reason
from hub_models.dicom import name_of, read_header, said

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset

# Labels of segments and their codes in SNOMED CT.
SEGMENTS = {"Lung": "39607008", "Left lung": "44029006", "Right lung": "3341006"}
UIDS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
TAGS = [*UIDS, "FrameOfReferenceUID", "NumberOfFrames", "Rows", "Columns", "LossyImageCompression"]
# What the standard demands to be there, if only empty.
BLANK = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
]


def segmentation(
    source: bytes | str | Path, masks: np.ndarray | Mapping[str, np.ndarray], model: str, version: str
) -> bytes:
    """The file of a binary DICOM Segmentation that holds the lungs.

    Of the X-ray it keeps what refers to it: the unique identifiers (UIDs) of its study, series, class, instance and
    frame of reference, its height and width, and whether it was ever compressed with loss. Names, dates, numbers and
    all else of the patient, the visit and the hospital are left blank, so an archive that files by patient must be
    told whose it is. A UID is no name, but whoever holds the X-ray finds it by its UID. The time of writing is in the
    file.

    Args:
        source: the DICOM file of the X-ray, or its bytes.
        masks: (H, W) bool lungs on its pixels, or some by their label in `SEGMENTS`; left and right are the patient's.
        model: name of the model that found them.
        version: its version, such as a commit.

    Raises:
        FileNotFoundError: the X-ray does not exist.
        ImportError: highdicom is missing.
        ValueError: the X-ray is no DICOM, lacks an identifier or is of a class that cannot be referred to, a mask is
            not as large as it, a label is unknown, or there is no lung in any mask.

    Source: DICOM PS3.3 A.51 (segmentation), PS3.16 CID 7151 (segmented property types).
    """
    name = name_of(source)
    reference = _reference(read_header(source, TAGS), name)
    masks = dict(masks) if isinstance(masks, Mapping) else {"Lung": masks}
    if unknown := [label for label in masks if label not in SEGMENTS]:
        raise ValueError(f"no segment {unknown[0]!r}: choose of {', '.join(SEGMENTS)}")
    for label, mask in masks.items():
        if mask.shape != (reference.Rows, reference.Columns):
            shapes = f"{'x'.join(map(str, mask.shape))} pixels, {name} {reference.Rows}x{reference.Columns}"
            raise ValueError(f"{label} is a mask of {shapes}: pass the mask on the X-ray's own pixels")
    if not any(mask.any() for mask in masks.values()):
        raise ValueError(f"no lung in the masks of {name}: there is nothing to write")
    descriptions, buffer = _described(masks, model, version), io.BytesIO()
    try:
        _segmentation(reference, masks, descriptions).save_as(buffer, enforce_file_format=True)
    except KeyError as error:  # highdicom knows the classes of the standard
        raise ValueError(f"{name} is of a class that is not of the standard: save it as CR or DX") from error
    except Exception as error:  # it raises whatever a class needs that the X-ray lacks
        raise ValueError(f"no segmentation can refer to {name} ({reason(error)}): save it as CR or DX") from error
    return buffer.getvalue()


def _reference(header: "Dataset", name: str) -> "Dataset":
    """A header made anew that refers to the X-ray and is blank elsewhere; so nothing can come along unnoticed.

    Raises:
        ValueError: the X-ray lacks what is needed to refer to it.
    """
    from pydicom import Dataset
    from pydicom.uid import UID

    reference, shared = Dataset(), Dataset()
    # highdicom asks for these, and the number of frames, of a class that may have several
    shared.PixelMeasuresSequence, reference.SharedFunctionalGroupsSequence = [Dataset()], [shared]
    for keyword in BLANK:
        setattr(reference, keyword, "")
    with said(f"the header of {name} cannot be read: get a sound copy"):
        reference.Rows, reference.Columns = int(header.Rows), int(header.Columns)
        reference.NumberOfFrames = int(header.get("NumberOfFrames") or 1)
        uids = {keyword: UID(str(header.get(keyword))) for keyword in (*UIDS, "FrameOfReferenceUID")}
        if header.get("LossyImageCompression") == "01":
            reference.LossyImageCompression = "01"
    for keyword, uid in uids.items():
        if uid.is_valid:  # one that is not could be anything
            setattr(reference, keyword, uid)
        elif keyword in UIDS:
            raise ValueError(f"no valid {keyword} in {name}: a segmentation cannot refer to it, get the original file")
    return reference


def _described(labels: Iterable[str], model: str, version: str) -> "list[SegmentDescription]":
    """What each segment is, and which model found it.

    Raises:
        ImportError: highdicom is missing.
    """
    try:
        from highdicom import AlgorithmIdentificationSequence
    except ImportError as error:
        raise ImportError("DICOM-SEG needs highdicom: pip install 'chest-xray-masks[dicom]'") from error
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence(model, codes.cid7162.ArtificialIntelligence, version)
    structure = codes.cid7150.AnatomicalStructure
    return [
        SegmentDescription(
            number, label, structure, CodedConcept(SEGMENTS[label], "SCT", label), "AUTOMATIC", algorithm
        )
        for number, label in enumerate(labels, 1)
    ]


def _segmentation(
    reference: "Dataset", masks: dict[str, np.ndarray], descriptions: "list[SegmentDescription]"
) -> "Segmentation":
    """One frame for each mask that is not empty."""
    from highdicom import UID
    from highdicom.seg import Segmentation

    algorithm = descriptions[0].algorithm_identification
    found = Segmentation(
        [reference],
        np.stack([mask.astype(bool).astype(np.uint8) for mask in masks.values()], -1)[None],  # (1, H, W, segments)
        "BINARY",
        descriptions,
        series_instance_uid=UID(),
        series_number=1,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="chest-xray-masks",
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number="none",
        content_label="LUNGS",
        content_description="Research use, not a medical device",
    )
    found.SharedFunctionalGroupsSequence[0].pop("PixelMeasuresSequence", None)  # empty, see `_reference`
    found.PatientIdentityRemoved, found.DeidentificationMethod = "YES", "All but the UIDs of the X-ray left out"
    return found
