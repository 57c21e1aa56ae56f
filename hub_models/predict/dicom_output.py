"""Write what was found in a DICOM X-ray as DICOM: its lungs as a Segmentation, all of it as a Structured Report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chest_xray_masks import __version__, reason
from hub_models.imaging.dicom_reference import Algorithm
from hub_models.imaging.dicom_seg import segmentation
from hub_models.imaging.dicom_sr import LungAreas, TbResult, measurement_report
from hub_models.imaging.flags import Flag, RaisedFlag
from hub_models.imaging.source import Source, is_dicom_source
from hub_models.predict.checks import LEFT, RIGHT, sides_of
from hub_models.predict.reader import Prediction


@dataclass(frozen=True)
class DicomOutput:
    """What is written of a DICOM X-ray.

    Attributes:
        segmenter, classifier: the models, as the files identify them; None where there is none.
        has_report: whether a report is written, too.
    """

    segmenter: Algorithm | None = None
    classifier: Algorithm | None = None
    has_report: bool = False

    def files_of(self, source: Source, found: Prediction) -> tuple[dict[str, bytes], tuple[RaisedFlag, ...]]:
        """Return files by the names of their columns, `dicom_seg` and `dicom_sr`, and a flag for each that fails.

        A source that is not DICOM has none; where no lung is found there is no segmentation.
        """
        files: dict[str, bytes] = {}
        flags: tuple[RaisedFlag, ...] = ()
        try:
            if not is_dicom_source(source):
                return files, flags
        except OSError as error:  # of a file on the disk that is gone
            flag = Flag.NO_DICOM_SEG if self.segmenter else Flag.NO_DICOM_SR
            return files, (flag.raised(reason=reason(error)),)
        if self.segmenter is not None and found.mask is not None and found.mask.any():
            try:
                files["dicom_seg"] = _lungs(source, found, found.mask, self.segmenter)
            except (OSError, ValueError) as error:
                flags += (Flag.NO_DICOM_SEG.raised(reason=reason(error)),)
        if self.has_report:
            try:
                files["dicom_sr"] = self._report(source, found, files.get("dicom_seg"), found.flags + flags)
            except (OSError, ValueError) as error:
                flags += (Flag.NO_DICOM_SR.raised(reason=reason(error)),)
        return files, flags

    def _report(self, source: Source, found: Prediction, seg: bytes | None, flags: Sequence[RaisedFlag]) -> bytes:
        screening, lungs = None, None
        if self.classifier is not None and found.probability is not None and found.threshold is not None:
            screening = TbResult(found.probability, found.threshold, self.classifier)
        if self.segmenter is not None and (areas := _areas(found)):
            lungs = LungAreas(areas, found.spacing_mm is not None, self.segmenter, seg)
        return measurement_report(_file_of(source), screening, lungs, flags)


def algorithm(task: str, digest: str | None) -> Algorithm | None:
    """Return the model of a task, by the digest of its run; None without a digest."""
    return None if digest is None else Algorithm(f"chest-xray-masks {task}", __version__, digest)


def _file_of(source: Source) -> bytes | str | Path:
    if not isinstance(source, bytes | str | Path):
        raise ValueError(f"a {type(source).__name__} is not a DICOM file: pass a path or bytes")
    return source


def _lungs(source: Source, found: Prediction, mask: np.ndarray, segmenter: Algorithm) -> bytes:
    """Return the segmentation of lungs that are not empty, by side if frontal."""
    masks = {"Lung": mask}
    if Flag.NOT_FRONTAL not in found.flag_codes:
        sides = sides_of(mask, found.is_mirrored)
        masks = {"Right lung": mask & (sides == RIGHT), "Left lung": mask & (sides == LEFT)}
    return segmentation(_file_of(source), {label: lung for label, lung in masks.items() if lung.any()}, segmenter)


def _areas(found: Prediction) -> dict[str, float]:
    """Return the areas by segment, in mm² where the spacing is known, else as fractions; of both lungs if turned."""
    if (lungs := found.lungs) is None:
        return {}
    right, left = lungs.right_fraction, lungs.left_fraction
    if lungs.right_mm2 is not None and lungs.left_mm2 is not None:
        right, left = lungs.right_mm2, lungs.left_mm2
    return {"Lung": right + left} if Flag.NOT_FRONTAL in found.flag_codes else {"Right lung": right, "Left lung": left}
