import io
import shutil
import subprocess
from pathlib import Path

import gdcm
import jpeg_ls
import numpy as np
import pydicom
import pytest
from dicom_frames import by_pillow, compressed, framed, transcoded
from PIL import Image
from pydicom import uid
from tiny import dicom, dicom_bytes, without

from chest_xray_masks import dicom_png
from hub_models.imaging.dicom import read_dicom, read_header
from hub_models.imaging.dicom_pixels import stored_pixels

XRAY = np.random.default_rng(0).integers(0, 4096, (48, 36)).astype(np.uint16)


LOSSLESS = {
    "RLE": lambda data, _: compressed(data, uid.RLELossless),
    "JPEG-LS": lambda data, _: compressed(data, uid.JPEGLSLossless),
    "JPEG 2000": lambda data, _: compressed(data, uid.JPEG2000Lossless),
    "JPEG lossless": lambda data, at: transcoded(data, gdcm.TransferSyntax.JPEGLosslessProcess14, at),
    "JPEG lossless SV1": lambda data, at: transcoded(data, gdcm.TransferSyntax.JPEGLosslessProcess14_1, at),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_compression_changes_nothing(kind: str, tmp_path: Path) -> None:
    xrays = {
        "12 bits": dicom(XRAY),
        "inverted": dicom(XRAY, photometric="MONOCHROME1", WindowCenter=1000, WindowWidth=1500),
        "16 bits": dicom(XRAY * 16 + 7, 16),
        "8 bits": dicom((XRAY // 16).astype(np.uint8), 8),
        "signed": dicom(XRAY.astype(np.int16) - 2048, 12, signed=True),
    }
    for name, data in xrays.items():
        packed = LOSSLESS[kind](data, tmp_path)
        assert pydicom.dcmread(io.BytesIO(packed)).file_meta.TransferSyntaxUID.is_compressed
        np.testing.assert_array_equal(read_dicom(packed).gray, read_dicom(data).gray, err_msg=name)


def test_lossy_compression_changes_little() -> None:
    y, x = np.mgrid[:64, :48]
    smooth = (2000 + 1500 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint16)
    gray, eight = smooth * np.float32(255 / 4095), (smooth // 16).astype(np.uint8)
    for packed in (
        compressed(dicom(smooth), uid.JPEG2000, j2k_cr=[8]),
        compressed(dicom(smooth), uid.JPEGLSNearLossless, jls_error=4),
        framed(by_pillow(eight, "JPEG", quality=95), uid.JPEGBaseline8Bit, eight, 8),
    ):
        shown = read_dicom(packed).gray
        assert 0 < np.abs(shown - gray).max() < 4


def test_colour_jpeg_is_the_gray_it_shows() -> None:
    y, x = np.mgrid[:64, :48]
    gray = (120 + 90 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8)
    colour = np.stack([gray] * 3, -1)
    frame = by_pillow(colour, "JPEG", quality=95)
    image = read_dicom(framed(frame, uid.JPEGBaseline8Bit, colour, 8, "YBR_FULL_422"))
    assert np.abs(image.gray - gray).max() < 4 and image.flags == ()


def unsaid(data: bytes) -> bytes:
    """A DICOM file without the transfer syntax in its meta header."""
    header = pydicom.dcmread(io.BytesIO(data))
    del header.file_meta.TransferSyntaxUID
    buffer = io.BytesIO()
    header.save_as(buffer, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


WRONG = {
    "cut": (lambda: dicom(XRAY)[:-5], r"\(Explicit VR Little Endian, 12 bits\): get a sound copy$"),
    "cut, compressed": (lambda: compressed(dicom(XRAY), uid.RLELossless)[:-300], "holds no pixels, or is cut off"),
    "damaged": (lambda: framed(b"\xff\x4f\xff\x51 and so on", uid.JPEG2000Lossless, XRAY), r"\(JPEG 2000 .*, 12 bits"),
    "no pixels": (lambda: without(dicom(XRAY), "PixelData"), "holds no pixels, or is cut off"),
    "movie": (lambda: framed(b"movie", uid.MPEG2MPML, XRAY), "transfer syntax MPEG2 Main Profile / Main Level, not"),
    "of no syntax, compressed": (
        lambda: unsaid(compressed(dicom(XRAY), uid.RLELossless)),
        "compressed, and it does not say",
    ),
    "private syntax": (lambda: framed(b"any", "1.2.3.4", XRAY), "transfer syntax a private one, not"),
}


@pytest.mark.filterwarnings("ignore:End of file reached before delimiter")
@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_decoded_ends_in_one_sentence(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as caught:
        stored_pixels(read_header(make(), pixels=True), "xray.dcm")
    assert "xray.dcm" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_plug_in_names_the_syntax_and_the_extra(tmp_path: Path) -> None:
    data = transcoded(dicom(XRAY), gdcm.TransferSyntax.JPEGLosslessProcess14_1, tmp_path)
    decoder = pydicom.pixels.get_decoder(uid.JPEGLosslessSV1)
    decoder.remove_plugin("gdcm")
    try:
        with pytest.raises(ImportError, match=r"transfer syntax JPEG Lossless, .* pip install .*\[dicom\]"):
            read_dicom(data)
    finally:
        decoder.add_plugin("gdcm", ("pydicom.pixels.decoders.gdcm", "_decode_frame"))
    assert read_dicom(data).gray.shape == XRAY.shape


def test_12_bit_lossy_jpeg_changes_little(tmp_path: Path) -> None:
    """GDCM reads it, though pydicom's plug-in refuses to call it."""
    y, x = np.mgrid[:64, :48]
    stored = (2000 + 1500 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint16)
    files = {
        "unsigned": dicom(stored),
        "inverted": dicom(stored, photometric="MONOCHROME1"),
    }
    for name, plain in files.items():
        packed = transcoded(plain, gdcm.TransferSyntax.JPEGExtendedProcess2_4, tmp_path)
        assert pydicom.dcmread(io.BytesIO(packed)).file_meta.TransferSyntaxUID == uid.JPEGExtended12Bit
        difference = np.abs(read_dicom(packed).gray - read_dicom(plain).gray).max()
        assert 0 < difference < 4, name
        with Image.open(io.BytesIO(dicom_png(packed, "x.dcm"))) as image:
            pixels = np.asarray(image).astype(int)
        with Image.open(io.BytesIO(dicom_png(plain, "x.dcm"))) as image:
            assert np.abs(pixels - np.asarray(image)).max() < 64


@pytest.mark.skipif(not shutil.which("dcmcjpeg"), reason="dcmtk is not installed")
@pytest.mark.parametrize("option", ["+ee", "+el", "+e1"])
def test_jpeg_of_dcmtk_is_read(option: str, tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :48]
    whole = np.sin(x / 9) * np.cos(y / 7)  # dcmcjpeg stores values from 0 to its top
    stored = (4095 * (whole - whole.min()) / np.ptp(whole)).astype(np.uint16)
    plain = dicom(stored, StudyInstanceUID="1.2.4")
    (tmp_path / "plain.dcm").write_bytes(plain)
    subprocess.run(["dcmcjpeg", option, "plain.dcm", "packed.dcm"], cwd=tmp_path, check=True)
    assert np.abs(read_dicom(tmp_path / "packed.dcm").gray - read_dicom(plain).gray).max() < 4


TALL, WIDE = np.zeros((48, 36), np.uint8), np.zeros((36, 48), np.uint8)


@pytest.mark.parametrize(
    ("make", "syntax"),
    [
        (lambda gray: by_pillow(gray, "JPEG"), uid.JPEGBaseline8Bit),
        (lambda gray: by_pillow(gray, "JPEG", comment="x" * 500, restart_marker_rows=1), uid.JPEGBaseline8Bit),
        (lambda gray: by_pillow(gray, "JPEG2000", no_jp2=True), uid.JPEG2000),
        (lambda gray: by_pillow(gray, "JPEG2000", no_jp2=False), uid.JPEG2000),
        (lambda gray: bytes(jpeg_ls.encode(gray)), uid.JPEGLSLossless),
    ],
    ids=["JPEG", "JPEG with comment", "JPEG 2000", "JP2", "JPEG-LS"],
)
def test_frame_of_another_size_than_the_header_says_is_not_decoded(make, syntax: str) -> None:
    """A frame of a kilobyte can ask for gigabytes; here for as many pixels, so that decoders would do."""
    assert read_dicom(framed(make(TALL), syntax, TALL, 8)).gray.shape == (48, 36)
    with pytest.raises(ValueError, match="the pixels of DICOM bytes cannot be decoded"):
        read_dicom(framed(make(WIDE), syntax, TALL, 8))
    with pytest.raises(ValueError, match="cannot be decoded"):  # its header is behind another one
        read_dicom(framed(make(TALL)[:2] + make(WIDE), syntax, TALL, 8))


def test_size_is_checked_before_the_pixels_are_touched() -> None:
    """A file that says 4 billion pixels and holds none is refused as too large, not as damaged."""
    header = pydicom.dcmread(io.BytesIO(framed(b"any", uid.JPEG2000Lossless, XRAY)))
    header.Rows = header.Columns = 65535
    with pytest.raises(ValueError, match="65535x65535 pixels, more than"):
        read_dicom(dicom_bytes(header))
