import io

import numpy as np
import pytest
from pictures import camera_tiff
from PIL import Image, features
from tiny import dicom

from hub_models.evaluation.calibration_report import CALIBRATION_FILES
from hub_models.hub.dataset_export import RECORD_NAME
from hub_models.hub_client.model_files import ENCODER_CONFIG_NAME
from hub_models.imaging.file_kinds import is_image, is_written, unread_kind
from hub_models.imaging.gray import to_gray
from hub_models.imaging.source import open_image
from hub_models.predict.job import SETTINGS_NAME
from hub_models.runs.config import CONFIG_NAME
from hub_models.runs.run_folder import PER_IMAGE_NAME, RESULTS_NAME

GRAY = Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64).astype(np.uint8))


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    GRAY.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "JPEG2000", "PPM"])
def test_picture_is_one_whatever_its_name(kind: str, tmp_path) -> None:
    data = encoded(kind)
    assert is_image(data[:512]) and unread_kind(data, "x.img") is None
    for name in ("DX.1.2.840.45", "IM0001", "x.dcm", "x.ima", "x.img", "x.heic"):
        (tmp_path / name).write_bytes(data)
        assert to_gray(tmp_path / name).size == GRAY.size
        assert to_gray(tmp_path / name).mode == "L"


@pytest.mark.parametrize("name", ["x.png", "x.IMA", "x.img", "x.45"])
def test_dicom_is_dicom_whatever_its_name(name: str, tmp_path) -> None:
    stored = np.array([[0, 1000], [2000, 4095]], np.uint16)
    (tmp_path / name).write_bytes(dicom(stored))
    np.testing.assert_allclose(np.asarray(to_gray(tmp_path / name)), stored * (255 / 4095), rtol=1e-5)


UNREAD = {
    "HEIC": (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "HEIC"),
    "HEIF": (b"\0\0\0\x1cftypmif1\0\0\0\0", "HEIF"),
    "AVIF": (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
    "CR3": (b"\0\0\0\x18ftypcrx \0\0\0\x01", "camera's raw image"),
    "RAF": (b"FUJIFILMCCD-RAW 0201", "camera's raw image"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "NRRD": (b"NRRD0004\n", "volume"),
    "NIfTI": (bytes(344) + b"n+1\0", "volume"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_what_is_not_read_says_what_it_is_and_the_way_out(kind: str, tmp_path) -> None:
    data, message = UNREAD[kind]
    assert is_image(data.ljust(512, b"\0"))
    (tmp_path / "IMG_0001").write_bytes(data)
    with pytest.raises(ValueError, match=f"IMG_0001 is .*{message}.*: save"):
        open_image(tmp_path / "IMG_0001")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.NEF", encoded("TIFF"), "camera's raw image"),  # its TIFF is a preview
        ("x.dng", b"", "empty"),
        ("JPCLN001.IMG", bytes(4096), r"without a header, as JSRT's \(2048x2048, .*: save it as PNG"),
        ("x.heic", b"cut", "HEIC"),
        ("x.nii", b"cut", "volume"),
    ],
)
def test_name_tells_where_the_bytes_do_not(name: str, data: bytes, message: str, tmp_path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        to_gray(tmp_path / name)


def test_raw_image_of_any_name_is_known_by_its_tags() -> None:
    with pytest.raises(ValueError, match="camera's raw image"):
        open_image(camera_tiff())


@pytest.mark.skipif(not features.check("avif"), reason="Pillow writes no AVIF")
def test_avif_of_pillow_is_known() -> None:
    with pytest.raises(ValueError, match="image bytes is AVIF"):
        open_image(encoded("AVIF"))


@pytest.mark.parametrize(
    "head", [b"", b"text of any kind", b"PK\3\4", b"BM of a note", b"P1 patient", b"\x7fELF", bytes(512)]
)
def test_other_bytes_are_no_image(head: bytes) -> None:
    assert not is_image(head.ljust(512, b" "))


def test_folders_that_commands_write_are_known_by_their_files() -> None:
    for names in (
        {SETTINGS_NAME, "predictions.csv"},
        {CONFIG_NAME},
        {ENCODER_CONFIG_NAME},
        {RESULTS_NAME, PER_IMAGE_NAME, "outlines.png"},
        {*CALIBRATION_FILES},
        {RECORD_NAME, "README.md", "data"},
    ):
        assert is_written(names)
    assert not is_written({RESULTS_NAME, "labels.csv", "a.png"}) and not is_written(set())
