import io
import sys
import warnings
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from tiny import SECRET, dicom, dicom_bytes, dicom_with_patient, without

from hub_models.imaging.dicom_reference import PATIENT_TAGS, REFERENCE_TAGS, Algorithm
from hub_models.imaging.dicom_seg import segmentation

XRAY = np.random.default_rng(0).integers(0, 4096, (48, 36)).astype(np.uint16)
UIDS = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}
MODEL = Algorithm("m", "1")
CT, CAPTURE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"
RIGHT, LEFT = np.zeros((2, 48, 36), bool)
RIGHT[5:40, 3:15] = LEFT[5:40, 20:33] = True  # the patient's right lung is at the left of the image


def test_lungs_come_back_by_the_side_with_what_they_refer_to(tmp_path: Path) -> None:
    (tmp_path / "xray.dcm").write_bytes(dicom(XRAY, **UIDS, FrameOfReferenceUID="1.2.6"))
    masks = {"Right lung": RIGHT, "Left lung": LEFT}
    (tmp_path / "lungs.dcm").write_bytes(
        segmentation(tmp_path / "xray.dcm", masks, Algorithm("segformer-light", "cb90f45", "ab12"))
    )
    found = highdicom.seg.segread(tmp_path / "lungs.dcm")
    assert found.segmentation_type.value == "BINARY"
    assert found.get_source_image_uids() == [("1.2.4", "1.2.5", "1.2.3")]  # study, series, instance
    assert (found.StudyInstanceUID, found.FrameOfReferenceUID) == ("1.2.4", "1.2.6")
    assert found.SeriesInstanceUID != "1.2.5" and found.SOPInstanceUID != "1.2.3"
    pixels = found.get_pixels_by_source_instance(["1.2.3"], ignore_spatial_locations=True)
    np.testing.assert_array_equal(pixels[0], np.stack([RIGHT, LEFT], -1))
    for number, (label, code) in enumerate([("Right lung", "3341006"), ("Left lung", "44029006")], 1):
        segment = found.get_segment_description(number)
        assert segment.segment_label == label and segment.algorithm_type.value == "AUTOMATIC"
        kind = segment.segmented_property_type
        assert (kind.value, kind.scheme_designator) == (code, "SCT")
        algorithm = segment.algorithm_identification
        assert (algorithm.name, algorithm.version) == ("segformer-light", "cb90f45")
        assert algorithm.parameters == {"digest": "ab12"}


def test_one_mask_is_one_lung_segment(tmp_path: Path) -> None:
    (tmp_path / "lungs.dcm").write_bytes(segmentation(dicom(XRAY, **UIDS), RIGHT | LEFT, MODEL))
    found = highdicom.seg.segread(tmp_path / "lungs.dcm")
    assert found.number_of_segments == 1
    assert found.get_segment_description(1).segmented_property_type.value == "39607008"
    np.testing.assert_array_equal(pydicom.dcmread(tmp_path / "lungs.dcm").pixel_array, RIGHT | LEFT)
    assert "FrameOfReferenceUID" not in found and found.LossyImageCompression == "00"


@pytest.mark.parametrize("end", ["7.2", "7.3", "12.1", "12.2"])  # two secondary captures, angiogram, fluoroscopy
@pytest.mark.parametrize("frames", [{}, {"NumberOfFrames": 1}])
def test_class_that_may_have_several_frames_is_referred_to(tmp_path: Path, end: str, frames: dict[str, int]) -> None:
    source = dicom(XRAY, **UIDS, **frames, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{end}", FrameOfReferenceUID="1.2.6")
    (tmp_path / "lungs.dcm").write_bytes(segmentation(source, RIGHT, MODEL))
    found = highdicom.seg.segread(tmp_path / "lungs.dcm")
    (source_image,) = found.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    assert source_image.ReferencedSOPClassUID == f"1.2.840.10008.5.1.4.1.1.{end}"
    assert found.get_source_image_uids() == [("1.2.4", "1.2.5", "1.2.3")]
    pixels = found.get_pixels_by_source_instance(["1.2.3"], ignore_spatial_locations=True)
    np.testing.assert_array_equal(pixels[0, ..., 0], RIGHT)
    assert "PixelMeasuresSequence" not in found.SharedFunctionalGroupsSequence[0]  # of which nothing is known


def test_lung_that_was_not_found_takes_no_frame_and_loss_is_said(tmp_path: Path) -> None:
    masks = {"Right lung": RIGHT, "Left lung": np.zeros_like(LEFT)}
    source = dicom(XRAY, **UIDS, LossyImageCompression="01")
    (tmp_path / "lungs.dcm").write_bytes(segmentation(source, masks, MODEL))
    found = highdicom.seg.segread(tmp_path / "lungs.dcm")
    assert found.number_of_segments == 2 and found.NumberOfFrames == 1 and found.LossyImageCompression == "01"


def test_nothing_else_of_the_header_is_in_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, which writes the file
        header = dicom_with_patient(REFERENCE_TAGS)
        header.StudyInstanceUID, header.SeriesInstanceUID = UIDS.values()
        header.FrameOfReferenceUID = SECRET  # no UID: left out
        data = dicom_bytes(header)
    assert data.count(SECRET.encode()) > 700
    written = segmentation(data, RIGHT, MODEL)
    assert b"DOE" not in written and b"SECRET" not in written
    found = pydicom.dcmread(io.BytesIO(written))
    assert "FrameOfReferenceUID" not in found


def test_patient_and_study_are_those_of_the_x_ray_and_what_is_not_valid_is_blank() -> None:
    visit = {"PatientID": "7340211", "PatientBirthDate": "19510317", "StudyDate": "20190228", "StudyID": "9"}
    kept = segmentation(dicom(XRAY, **UIDS, **visit, PatientAge="067Y"), RIGHT, MODEL)
    found = pydicom.dcmread(io.BytesIO(kept))
    for keyword in PATIENT_TAGS:
        assert keyword in found and str(found[keyword].value or "") == visit.get(keyword, "")
    assert b"067Y" not in kept
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, which writes the file
        bad = dicom(XRAY, **UIDS, PatientBirthDate="DOE", StudyTime="noon")
    found = pydicom.dcmread(io.BytesIO(segmentation(bad, RIGHT, MODEL)))
    assert not found.PatientBirthDate and not found.StudyTime


@pytest.mark.parametrize(
    ("source", "masks", "message"),
    [
        (lambda: b"no DICOM" * 100, RIGHT, "DICOM bytes is not a DICOM file"),
        (
            lambda: without(dicom(XRAY, **UIDS), "StudyInstanceUID"),
            RIGHT,
            "no valid StudyInstanceUID in DICOM bytes: .* get the original",
        ),
        (lambda: dicom(XRAY, **UIDS | {"StudyInstanceUID": SECRET}), RIGHT, "no valid StudyInstanceUID in DICOM byt"),
        (lambda: dicom(XRAY, **UIDS | {"StudyInstanceUID": ["1.2", "1.3"]}), RIGHT, "no valid StudyInstanceUID in D"),
        (lambda: dicom(XRAY, **UIDS, SOPClassUID=CT), RIGHT, "no segmentation can refer to DICOM bytes .*: save"),
        (lambda: dicom(XRAY, **UIDS, SOPClassUID=f"{CAPTURE}.2", NumberOfFrames=2), RIGHT, "Only a single frame"),
        (lambda: without(dicom(XRAY, **UIDS), "Rows"), RIGHT, "the header of DICOM bytes cannot be read"),
        (lambda: dicom(XRAY, **UIDS, SOPClassUID="1.2.3.4"), RIGHT, "is of a class that is not of the standard"),
        (lambda: dicom(XRAY, **UIDS), RIGHT[:9], "Lung is a mask of 9x36 pixels, DICOM bytes 48x36: pass the mask on"),
        (lambda: dicom(XRAY, **UIDS), {"Heart": RIGHT}, "no segment 'Heart': choose from Lung, Left lung, Right lung"),
        (lambda: dicom(XRAY, **UIDS), np.zeros_like(RIGHT), "no lung in the masks of DICOM bytes: there is nothing"),
        (lambda: dicom(XRAY, **UIDS), {}, "no lung in the masks of DICOM bytes"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Invalid value for VR UI")
def test_what_cannot_be_written(source, masks: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        segmentation(source(), masks, MODEL)
    assert SECRET not in str(caught.value)


def test_missing_highdicom_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom(XRAY, **UIDS)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r"DICOM-SEG needs highdicom: pip .*\[dicom\]"):
        segmentation(data, RIGHT, MODEL)
