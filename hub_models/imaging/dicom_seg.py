"""Lung masks as DICOM Segmentations that refer to their X-ray, in its study."""

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chest_xray_masks import reason
from hub_models.imaging.dicom import name_of
from hub_models.imaging.dicom_reference import Algorithm, reference_of

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset

SEGMENTS = {"Lung": "39607008", "Left lung": "44029006", "Right lung": "3341006"}  # label -> code in SNOMED CT


def segmentation(
    source: bytes | str | Path, masks: np.ndarray | Mapping[str, np.ndarray], algorithm: Algorithm
) -> bytes:
    """Return the bytes of a binary DICOM Segmentation that holds the lungs.

    The file refers to the X-ray by the unique identifiers (UIDs) of its study, series, class, instance and frame of
    reference, and copies what `REFERENCE_TAGS` names: the standard wants patient and study equal within a study.

    Args:
        source: the DICOM file of the X-ray, or its bytes.
        masks: (H, W) bool lungs on its pixels, or several by label in `SEGMENTS`; left and right are the patient's.
        algorithm: the model that found them.

    Raises:
        FileNotFoundError: the X-ray does not exist.
        ImportError: highdicom is missing.
        ValueError: the X-ray is not DICOM, lacks an identifier or is of a class that cannot be referred to; a mask is
            of another size; a label is unknown; or no mask holds a lung.

    Source: DICOM PS3.3 A.51 (segmentation), PS3.16 CID 7151 (segmented property types).
    """
    name = name_of(source)
    reference = reference_of(source, "segmentation")
    masks = dict(masks) if isinstance(masks, Mapping) else {"Lung": masks}
    if unknown := [label for label in masks if label not in SEGMENTS]:
        raise ValueError(f"no segment {unknown[0]!r}: choose from {', '.join(SEGMENTS)}")
    for label, mask in masks.items():
        if mask.shape != (reference.Rows, reference.Columns):
            shapes = f"{'x'.join(map(str, mask.shape))} pixels, {name} {reference.Rows}x{reference.Columns}"
            raise ValueError(f"{label} is a mask of {shapes}: pass the mask on the X-ray's own pixels")
    if not any(mask.any() for mask in masks.values()):
        raise ValueError(f"no lung in the masks of {name}: there is nothing to write")
    descriptions, buffer = _described(masks, algorithm), io.BytesIO()
    try:
        _segmentation(reference, masks, descriptions).save_as(buffer, enforce_file_format=True)
    except KeyError as error:  # highdicom knows the classes of the standard
        raise ValueError(f"{name} is of a class that is not of the standard: save it as CR or DX") from error
    except Exception as error:  # raised where the X-ray lacks what its class needs
        raise ValueError(f"no segmentation can refer to {name} ({reason(error)}): save it as CR or DX") from error
    return buffer.getvalue()


def _described(labels: Collection[str], model: Algorithm) -> "list[SegmentDescription]":
    """Return the description of each segment: what it is, and which model found it."""
    try:
        from highdicom import AlgorithmIdentificationSequence
    except ImportError as error:
        raise ImportError("DICOM-SEG needs highdicom: pip install 'chest-xray-masks[dicom]'") from error
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    parameters = {"digest": model.digest} if model.digest else None
    family = codes.cid7162.ArtificialIntelligence
    algorithm = AlgorithmIdentificationSequence(model.name, family, model.version, parameters=parameters)
    structure = codes.cid7150.AnatomicalStructure
    found = {label: CodedConcept(SEGMENTS[label], "SCT", label) for label in labels}
    return [
        SegmentDescription(number, label, structure, kind, "AUTOMATIC", algorithm)
        for number, (label, kind) in enumerate(found.items(), 1)
    ]


def _segmentation(
    reference: "Dataset", masks: dict[str, np.ndarray], descriptions: "list[SegmentDescription]"
) -> "Segmentation":
    """Return the Segmentation, with one frame for each mask that is not empty."""
    from highdicom import UID
    from highdicom.seg import Segmentation
    from pydicom import Dataset

    # highdicom needs these, and the number of frames, for a class that may have several
    shared = Dataset()
    shared.PixelMeasuresSequence, reference.SharedFunctionalGroupsSequence = [Dataset()], [shared]
    algorithm = descriptions[0].algorithm_identification
    if algorithm is None:
        raise ValueError("a segment has no algorithm identification: describe it by `_described`")
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
    found.SharedFunctionalGroupsSequence[0].pop("PixelMeasuresSequence", None)  # empty, see above
    if "PatientOrientation" not in found:  # required where nothing says how the plane lies, if only empty
        found.PatientOrientation = reference.PatientOrientation
    return found
