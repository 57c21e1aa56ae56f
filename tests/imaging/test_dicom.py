import io
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from tiny import SECRET, dicom, dicom_bytes, dicom_with_patient, without

from chest_xray_masks import HEAD_BYTES, MAX_PIXELS, dicom_png
from hub_models.imaging.dicom import DICOM_TAGS, DicomImage, read_dicom
from hub_models.imaging.file_kinds import is_dicom
from hub_models.imaging.flags import Flag
from hub_models.imaging.gray import read_xray

XRAY = np.random.default_rng(0).integers(0, 4096, (48, 36)).astype(np.uint16)


def test_file_and_bytes_give_the_same_x_ray(tmp_path: Path) -> None:
    data = dicom(XRAY)
    (tmp_path / "xray").write_bytes(data)
    images = [read_dicom(source) for source in (data, tmp_path / "xray", str(tmp_path / "xray"))]
    for image in images:
        assert isinstance(image, DicomImage) and image.gray.dtype == np.float32
        np.testing.assert_allclose(image.gray, XRAY * (255 / 4095), rtol=1e-5)
        assert image.spacing_mm is None and image.flags == ()


def test_dicom_is_known_without_a_suffix() -> None:
    assert is_dicom(dicom(XRAY)[:132])
    assert is_dicom(b"", "a.DCM") and is_dicom(b"x", "b.dicom")
    assert not is_dicom(b"\x89PNG", "a.png") and not is_dicom(b"")


@pytest.mark.parametrize(
    ("fields", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.2, 0.1]}, (0.2, 0.1)),
        ({"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.3, 0.3]}, (0.2, 0.1)),
        ({"ImagerPixelSpacing": [0.3, 0.15]}, (0.3, 0.15)),
        # what is 0.3 mm on the detector is 0.25 mm in a chest whose picture is 1.2 times as large
        ({"ImagerPixelSpacing": [0.3, 0.15], "EstimatedRadiographicMagnificationFactor": 1.2}, (0.25, 0.125)),
        ({"PixelSpacing": [0.2, 0.1], "EstimatedRadiographicMagnificationFactor": 1.2}, (0.2, 0.1)),
        ({"ImagerPixelSpacing": [0.3, 0.3], "NominalScannedPixelSpacing": [0.1, 0.1]}, (0.3, 0.3)),
        ({"NominalScannedPixelSpacing": [0.0875, 0.0875]}, (0.0875, 0.0875)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.3, 0.3]}, (0.3, 0.3)),
        ({"PixelSpacing": None, "ImagerPixelSpacing": 0.3}, None),
    ],
)
def test_spacing(fields: dict[str, object], spacing: tuple[float, float] | None) -> None:
    assert read_dicom(dicom(XRAY, **fields)).spacing_mm == (pytest.approx(spacing) if spacing else None)


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"BodyPartExamined": "HAND"}, Flag.OTHER_BODY_PART),
        ({"ViewPosition": "LL"}, Flag.NOT_FRONTAL),
        ({"ViewPosition": "lateral"}, Flag.NOT_FRONTAL),
        ({"PatientOrientation": ["P", "F"]}, Flag.NOT_FRONTAL),
        ({"PatientOrientation": ["A", "F"], "ViewPosition": "LL"}, Flag.NOT_FRONTAL),
        ({"PatientOrientation": ["F", "L"]}, Flag.NOT_FRONTAL),  # turned by a quarter
        ({"PatientOrientation": ["R", "H"]}, Flag.NOT_FRONTAL),  # turned by half
        ({"PatientOrientation": ["R", "F"]}, Flag.MIRRORED),
        ({"PatientOrientation": ["RF", "FL"]}, Flag.MIRRORED),  # a little turned: the first letter counts
        ({"PresentationIntentType": "FOR PROCESSING"}, Flag.RAW_DETECTOR_DATA),
        ({"BurnedInAnnotation": "YES"}, Flag.BURNED_IN_TEXT),
    ],
)
def test_flags(fields: dict[str, str], flag: Flag) -> None:
    assert read_dicom(dicom(XRAY, **fields)).flags == (flag.raised(),)


def test_colour_is_flagged_but_not_what_jpeg_does_to_gray() -> None:
    assert read_dicom(dicom(np.tile(np.uint8([100, 110, 116]), (2, 2, 1)), 8, "RGB")).flags == ()
    flags = read_dicom(dicom(np.tile(np.uint8([100, 110, 117]), (2, 2, 1)), 8, "RGB")).flags
    assert flags == (Flag.COLOUR.raised(),)


def test_frontal_chest_has_no_flags() -> None:
    fields = {"BodyPartExamined": "CHEST", "ViewPosition": "PA", "PresentationIntentType": "FOR PRESENTATION"}
    for modality in ("CR", "DX", "RG", "SC", "OT", ""):
        assert read_dicom(dicom(XRAY, Modality=modality, BurnedInAnnotation="NO", **fields)).flags == ()


@pytest.mark.parametrize("said", [["L", "F"], ["l ", "FR"], None, "", "L", ["", ""], ["R", SECRET], ["R", "F", "F"]])
@pytest.mark.filterwarnings("ignore:.*Invalid value for VR CS", "ignore:.*value for VR CS")
def test_usual_orientation_has_no_flags_and_one_that_is_none_neither(said: object) -> None:
    assert read_dicom(dicom(XRAY, PatientOrientation=said)).flags == ()


def test_big_endian() -> None:
    header = pydicom.Dataset()
    header.update(pydicom.dcmread(io.BytesIO(dicom(XRAY))))
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    header.PixelData = XRAY.astype(">u2").tobytes()
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.add_new("LUTData", "OW", np.arange(4095, -1, -1, dtype=">u2").tobytes())
    header.VOILUTSequence = [table]
    np.testing.assert_allclose(read_dicom(dicom_bytes(header)).gray, (4095 - XRAY) * np.float32(255 / 4095), rtol=1e-5)


def directory() -> bytes:
    header = pydicom.dcmread(io.BytesIO(dicom(XRAY)))
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = uid.MediaStorageDirectoryStorage
    return dicom_bytes(header)


def bare(data: bytes, implicit: bool = True, little: bool = True, meta: bool = False) -> bytes:
    """The elements of a DICOM file without preamble and meta header; with `meta`, one of no transfer syntax."""
    header = pydicom.Dataset()
    header.update(pydicom.dcmread(io.BytesIO(data)))
    header["PixelData"].VR = "OW"
    if not little:
        header.PixelData = np.frombuffer(header.PixelData, "<u2").astype(">u2").tobytes()
    buffer = io.BytesIO()
    if meta:
        buffer.write(bytes(128) + b"DICM")
        about = pydicom.dataset.FileMetaDataset()
        about.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
        pydicom.filewriter.write_file_meta_info(buffer, about, enforce_standard=False)
    header.save_as(buffer, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    return buffer.getvalue()


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_without_a_transfer_syntax_the_first_element_tells(tmp_path, implicit: bool, little: bool, meta: bool) -> None:
    plain = dicom(XRAY, Modality="DX", PixelSpacing=[0.2, 0.1])
    data = bare(plain, implicit, little, meta)
    assert is_dicom(data[:HEAD_BYTES])
    (tmp_path / "IM000001").write_bytes(data)
    for source in (data, tmp_path / "IM000001"):
        xray = read_xray(source)
        np.testing.assert_array_equal(np.asarray(xray.gray), read_dicom(plain).gray)
        assert xray.spacing_mm == (0.2, 0.1)
    assert dicom_png(data, "x.dcm") == dicom_png(plain, "x.dcm")


def test_meta_header_without_preamble_is_read() -> None:
    plain = dicom(XRAY)
    np.testing.assert_array_equal(read_dicom(plain[132:]).gray, read_dicom(plain).gray)


@pytest.mark.parametrize("head", [b"\x08\0", b"\x08\0\x05\0" + b"\xff" * 300, b"\x02\0\0\0UL\x04\0" + bytes(500)])
def test_bytes_that_only_begin_like_elements_are_no_dicom(head: bytes) -> None:
    assert not is_dicom(head)


WRONG = {
    "empty": (lambda: b"", "is not a DICOM file, or is cut off"),
    "text": (lambda: b"no DICOM" * 100, "is not a DICOM file, or is cut off"),
    "cut in the meta header": (lambda: dicom(XRAY)[:200], "is not a DICOM file, or is cut off"),
    "cut in the header": (lambda: dicom(XRAY)[:400], "cannot be read|holds no image|is cut off"),
    "no rows": (lambda: without(dicom(XRAY), "Rows"), "holds no image: pass the file of the X-ray itself"),
    "no bits": (lambda: without(dicom(XRAY), "BitsStored"), "the header of .* cannot be read: get a sound copy"),
    "no photometric": (
        lambda: without(dicom(XRAY), "PhotometricInterpretation"),
        "not say whether 0 is black or white",
    ),
    "DICOMDIR": (directory, "is a DICOMDIR, a table of contents: pass its folder"),
    "CT": (lambda: dicom(XRAY, Modality="CT"), "is a CT slice, not a chest X-ray: pass a file of modality CR, DX"),
    "mammogram": (lambda: dicom(XRAY, Modality="MG"), "is a mammogram, not a chest X-ray"),
    "unknown modality": (lambda: dicom(XRAY, Modality="DOE"), "is of another modality, not a chest X-ray"),
    "palette": (lambda: dicom(XRAY, photometric="PALETTE COLOR"), "neither gray, RGB nor YBR .*: save it as MONO"),
    "two frames": (lambda: dicom(XRAY, NumberOfFrames=2, Rows=24), "has 2 frames, an X-ray has one: save the frame"),
    "1 bit": (lambda: dicom(XRAY, BitsAllocated=1, BitsStored=1), "has values of 1 bits, 1 of them in use"),
    "32 bits": (lambda: dicom(XRAY.astype(np.uint32), 32), "has values of 32 bits, 32 of them in use"),
    "deep colour": (lambda: dicom(np.zeros((2, 2, 3), np.uint16), 16, "RGB"), "16 bits, 16 of them .* with 8$"),
    "too large": (lambda: dicom(XRAY, Rows=20_000, Columns=20_000), f"20000x20000 pixels, more than {MAX_PIXELS}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_ends_in_one_sentence(name: str, tmp_path: Path) -> None:
    make, message = WRONG[name]
    (tmp_path / "xray.dcm").write_bytes(make())
    for source, called in ((make(), "DICOM bytes"), (tmp_path / "xray.dcm", "xray.dcm")):
        with pytest.raises(ValueError, match=message) as caught:
            read_dicom(source)
        assert called in str(caught.value) and "\n" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_missing_pydicom_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"DICOM bytes is DICOM, which needs pydicom: pip .*\[dicom\]"):
        read_dicom(b"any")


@pytest.mark.parametrize(
    "edit", [{}, {"Rows": 0}, {"Modality": "CT"}, {"BodyPartExamined": SECRET}, {"Modality": SECRET}]
)
def test_nothing_of_the_patient_comes_out(edit: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, which writes the file
        header = dicom_with_patient(DICOM_TAGS)
        for keyword, value in edit.items():
            setattr(header, keyword, value)
        data = dicom_bytes(header)
    assert data.count(SECRET.encode()) > 1000
    caplog.clear()
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        try:
            said = repr(vars(read_dicom(data)))
        except ValueError as error:
            assert set(edit) <= {"Rows", "Modality"}
            said = str(error)
        else:
            assert set(edit) <= {"BodyPartExamined"}
    assert SECRET not in said + caplog.text + "".join(str(one.message) for one in warned)


def test_damage_never_quotes_the_header(caplog: pytest.LogCaptureFixture) -> None:
    """Lengths that lead into the next element: what reads the wrong bytes must not repeat them."""
    sound = dicom(XRAY, PatientName=SECRET, WindowCenter=100, WindowWidth=50, PixelSpacing=[0.1, 0.1])
    random, refused = np.random.default_rng(0), 0
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        for _ in range(300):
            bad = np.frombuffer(sound, np.uint8).copy()
            bad[random.integers(128, sound.index(b"\xe0\x7f\x10\x00"), 3)] = random.integers(0, 256, 3)
            try:
                read_dicom(bad.tobytes())
            except ValueError as error:
                assert "DOE" not in str(error)
                refused += 1
    assert 30 < refused < 300
    assert "DOE" not in caplog.text + "".join(str(one.message) for one in warned)
