"""What models found in an X-ray as a DICOM Structured Report: Measurement Report, template TID 1500."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chest_xray_masks import reason
from hub_models.imaging.dicom import name_of
from hub_models.imaging.dicom_reference import Algorithm, reference_of
from hub_models.imaging.dicom_seg import SEGMENTS
from hub_models.imaging.flags import RaisedFlag

if TYPE_CHECKING:
    from highdicom.sr import (
        AlgorithmIdentification,
        CodedConcept,
        Measurement,
        MeasurementReport,
        MeasurementsAndQualitativeEvaluations,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        ReferencedSegmentationFrame,
    )
    from pydicom import Dataset

    Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations

# The standard has codes for probability, area, lungs, tuberculosis and comments. It has none for the threshold of a
# probability ("Threshold Value" is one of dose), for what follows from it, for an area as a fraction of the image, nor
# for flags on an image: these are of a private scheme, whose codes for flags are those of `Flag`.
SCHEME = "99CXM"
PRIVATE = {
    "threshold": "Probability from which on a finding is suspected",
    "area_fraction": "Area as a fraction of the image",
    "decision": "Decision by the threshold",
    "suspected": "Suspected: a radiologist and a laboratory must tell",
    "not_suspected": "Not suspected, and not ruled out",
    "flag": "What speaks against trusting the result",
}


@dataclass(frozen=True)
class TbResult:
    """What the TB model found: the calibrated probability and the threshold, in [0, 1]."""

    probability: float
    threshold: float
    algorithm: Algorithm


@dataclass(frozen=True)
class LungAreas:
    """What the lung model found.

    Attributes:
        areas: by label in `SEGMENTS`; in mm² or as fractions of the image in [0, 1].
        is_mm2: whether they are in mm².
        algorithm: the lung model.
        segmentation: bytes of the DICOM Segmentation that holds the lungs; None where there is none.
    """

    areas: Mapping[str, float]
    is_mm2: bool
    algorithm: Algorithm
    segmentation: bytes | None = None


def measurement_report(
    source: bytes | str | Path,
    screening: TbResult | None = None,
    lungs: LungAreas | None = None,
    flags: Sequence[RaisedFlag] = (),
) -> bytes:
    """Return the bytes of a DICOM Structured Report of an X-ray, given as its DICOM file or bytes.

    It is in the X-ray's study, refers to the X-ray and the segmentation, and names each model. Of the X-ray's header
    it copies what `REFERENCE_TAGS` names. Nobody has verified it: it is preliminary.

    Raises:
        FileNotFoundError: the X-ray does not exist.
        ImportError: highdicom is missing.
        ValueError: nothing was found, a label is unknown, or the X-ray is not DICOM or lacks an identifier.

    Source: DICOM PS3.16 TID 1500 (measurement report), PS3.3 A.35.3 (Comprehensive SR).
    """
    if screening is None and lungs is None:
        raise ValueError("nothing to report: pass screening, lungs, or both")
    if lungs and (unknown := [label for label in lungs.areas if label not in SEGMENTS]):
        raise ValueError(f"no segment {unknown[0]!r}: choose from {', '.join(SEGMENTS)}")
    reference = reference_of(source, "report")
    try:
        from highdicom import UID
        from highdicom.sr import ComprehensiveSR
    except ImportError as error:
        raise ImportError("DICOM SR needs highdicom: pip install 'chest-xray-masks[dicom]'") from error
    import pydicom

    evidence, buffer = [reference], io.BytesIO()
    if lungs and lungs.segmentation is not None:
        evidence.append(pydicom.dcmread(io.BytesIO(lungs.segmentation)))
    try:
        report = ComprehensiveSR(
            evidence,
            _content(evidence, screening, lungs, flags),
            series_instance_uid=UID(),
            series_number=1,
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="chest-xray-masks",
            is_complete=True,
            series_description="Research use, not a medical device",
        )
        report.save_as(buffer, enforce_file_format=True)
    except Exception as error:  # of any kind, by highdicom
        raise ValueError(f"no report can refer to {name_of(source)} ({reason(error)}): save it as CR or DX") from error
    return buffer.getvalue()


def _content(
    evidence: "list[Dataset]", screening: TbResult | None, lungs: LungAreas | None, flags: Sequence[RaisedFlag]
) -> "MeasurementReport":
    """Return the content of the report on `evidence`: the X-ray and, where there is one, the segmentation."""
    from highdicom import UID
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    observer = DeviceObserverIdentifyingAttributes(UID(), name="chest-xray-masks")
    groups: list[Group] = [] if screening is None else [_screening_group(evidence[0], screening)]
    groups += [] if lungs is None else _lung_groups(evidence, lungs)
    for flag in flags:  # of the X-ray as a whole, so of its first group
        groups[0][0].ContentSequence.append(_flag_item(flag))
    return MeasurementReport(
        ObservationContext(ObserverContext(codes.DCM.Device, observer)),
        _concept("399208008", "Plain chest X-ray"),
        groups,
    )


def _private(code: str) -> "CodedConcept":
    from highdicom.sr import CodedConcept

    return CodedConcept(code, SCHEME, PRIVATE[code])


def _screening_group(xray: "Dataset", found: TbResult) -> "MeasurementsAndQualitativeEvaluations":
    """Return the group of the TB model: probability, threshold, decision."""
    from highdicom.sr import (
        FindingSite,
        Measurement,
        MeasurementsAndQualitativeEvaluations,
        QualitativeEvaluation,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )
    from pydicom.sr.codedict import codes

    suspected = "suspected" if found.probability >= found.threshold else "not_suspected"
    names = {codes.DCM.Probability: found.probability, _private("threshold"): found.threshold}
    return MeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(identifier="tuberculosis"),
        finding_type=_concept("56717001", "Tuberculosis"),
        finding_sites=[FindingSite(codes.SCT.Lung)],
        algorithm_id=_algorithm(found.algorithm),
        measurements=[Measurement(name, value, codes.UCUM.NoUnits) for name, value in names.items()],
        qualitative_evaluations=[QualitativeEvaluation(_private("decision"), _private(suspected))],
        source_images=[SourceImageForMeasurementGroup(xray.SOPClassUID, xray.SOPInstanceUID)],
    )


def _lung_groups(evidence: "list[Dataset]", found: LungAreas) -> "list[Group]":
    """Return a group for each lung: its area, of its segment where the segmentation has one, else of the X-ray."""
    from highdicom.sr import (
        MeasurementsAndQualitativeEvaluations,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )

    groups: list[Group] = []
    uids = evidence[0].SOPClassUID, evidence[0].SOPInstanceUID
    frames = {label: frame for seg in evidence[1:] for label, frame in _frames(seg, uids).items()}
    for label, area in found.areas.items():
        tracking, measured = TrackingIdentifier(identifier=label), [_area(area, found.is_mm2)]
        finding, algorithm = _concept(SEGMENTS[label], label), _algorithm(found.algorithm)
        group = (
            PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking,
                referenced_segment=frames[label],
                finding_type=finding,
                algorithm_id=algorithm,
                measurements=measured,
            )
            if label in frames
            else MeasurementsAndQualitativeEvaluations(
                tracking,
                finding_type=finding,
                algorithm_id=algorithm,
                measurements=measured,
                source_images=[SourceImageForMeasurementGroup(*uids)],
            )
        )
        groups.append(group)
    return groups


def _frames(seg: "Dataset", uids: tuple[str, str]) -> "dict[str, ReferencedSegmentationFrame]":
    """Return the frame of each segment by its label; `uids` are the X-ray's, of class and instance."""
    from highdicom.sr import ReferencedSegmentationFrame, SourceImageForSegmentation

    frames = {}
    labels = {one.SegmentNumber: one.SegmentLabel for one in seg.SegmentSequence}
    shared = seg.SharedFunctionalGroupsSequence[0]
    for number, item in enumerate(seg.PerFrameFunctionalGroupsSequence, 1):
        group = item if "SegmentIdentificationSequence" in item else shared  # shared where there is one segment
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        image = SourceImageForSegmentation(*uids)
        frame = ReferencedSegmentationFrame(seg.SOPClassUID, seg.SOPInstanceUID, number, segment, image)
        del frame[0].ReferencedSOPSequence[0].ReferencedSegmentNumber  # PS3.3 C.18.4: absent beside a frame number
        frames[labels[segment]] = frame
    return frames


def _concept(code: str, meaning: str) -> "CodedConcept":
    from highdicom.sr import CodedConcept

    return CodedConcept(code, "SCT", meaning)


def _area(area: float, is_mm2: bool) -> "Measurement":
    from highdicom.sr import Measurement
    from pydicom.sr.codedict import codes

    if is_mm2:
        return Measurement(codes.SCT.Area, area, codes.UCUM.SquareMillimeter)
    return Measurement(_private("area_fraction"), area, codes.UCUM.NoUnits)


def _algorithm(model: Algorithm) -> "AlgorithmIdentification":
    """Return the identification of a model: name, version and, as a parameter, its digest."""
    from highdicom.sr import AlgorithmIdentification

    parameters = [f"digest={model.digest}"] if model.digest else None
    return AlgorithmIdentification(model.name, model.version, parameters, manufacturer="chest-xray-masks")


def _flag_item(flag: RaisedFlag) -> "Dataset":
    """Return the content item of a flag: its code, with the message as a property."""
    from highdicom.sr import CodeContentItem, CodedConcept, ContentSequence, TextContentItem
    from pydicom.sr.codedict import codes

    meaning = CodedConcept(flag.code.value, SCHEME, flag.code.value.replace("_", " "))
    item = CodeContentItem(_private("flag"), meaning, "CONTAINS")
    message = flag.message.encode("ascii", "backslashreplace").decode()  # the X-ray's character set may lack a sign
    item.ContentSequence = ContentSequence([TextContentItem(codes.DCM.Comment, message, "HAS PROPERTIES")])
    return item
