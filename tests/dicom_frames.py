"""DICOM files whose pixels are compressed in each way, and damaged ones of every kind."""

import io
import random
from collections.abc import Iterator
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from tiny import dicom, dicom_bytes

# Of JPEG-LS, 64x48 pixels of 255 bits: an uncaught exception of GDCM's C++ ends the process.
FATAL_FRAME = bytes.fromhex("ffd8fff7000bff0040003001011100ffda00080101000000") + b"\xff\xb0" * 20 + b"\xff\xd9"


def compressed(data: bytes, syntax: str, **options: object) -> bytes:
    """The same file, its pixels compressed by pydicom's plug-ins."""
    header = pydicom.dcmread(io.BytesIO(data))
    header.compress(syntax, **options)
    return dicom_bytes(header)


def transcoded(data: bytes, syntax: int, folder: Path) -> bytes:
    """The same file, its pixels compressed by GDCM."""
    (folder / "plain.dcm").write_bytes(data)
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(folder / "packed.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return (folder / "packed.dcm").read_bytes()


def framed(frame: bytes, syntax: str, stored: np.ndarray, *args: object) -> bytes:
    """A DICOM file whose header is that of `stored`, whose pixels are a compressed frame made elsewhere."""
    header = pydicom.dcmread(io.BytesIO(dicom(stored, *args)))
    header.PixelData = pydicom.encaps.encapsulate([frame])
    header["PixelData"].VR = "OB"
    header.file_meta.TransferSyntaxUID = syntax
    return dicom_bytes(header)


def by_pillow(gray: np.ndarray, kind: str, **options: object) -> bytes:
    """The frame of an image in JPEG or JPEG 2000."""
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, kind, **options)
    return buffer.getvalue()


def fatal_dicom() -> bytes:
    """A DICOM file that ends the process in which GDCM decodes it."""
    return framed(FATAL_FRAME, uid.JPEGLSLossless, np.zeros((64, 48), np.uint16))


def smooth(height: int = 64, width: int = 48) -> np.ndarray:
    """(H, W) uint16 of 12 bits, as smooth as an X-ray."""
    y, x = np.mgrid[:height, :width]
    return (2000 + 1500 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint16)


def of_every_kind(folder: Path) -> dict[str, bytes]:
    """Sound files of 64x48 pixels by their compression."""
    deep = smooth()
    eight = (deep // 16).astype(np.uint8)
    colour = np.stack([eight, eight[::-1], eight[:, ::-1]], -1)
    plain = dicom(deep)
    lossless = gdcm.TransferSyntax.JPEGLosslessProcess14_1
    return {
        "none": plain,
        "RLE": compressed(plain, uid.RLELossless),
        "JPEG": framed(by_pillow(eight, "JPEG", quality=90), uid.JPEGBaseline8Bit, eight, 8),
        "JPEG in colour": framed(by_pillow(colour, "JPEG"), uid.JPEGBaseline8Bit, colour, 8, "YBR_FULL_422"),
        "JPEG lossless": transcoded(plain, lossless, folder),
        "JPEG-LS": compressed(plain, uid.JPEGLSLossless),
        "JPEG-LS near": compressed(plain, uid.JPEGLSNearLossless, jls_error=4),
        "JPEG 2000": compressed(plain, uid.JPEG2000Lossless),
        "JPEG 2000 lossy": compressed(plain, uid.JPEG2000, j2k_cr=[8]),
        "JPEG 2000 in colour": compressed(dicom(colour, 8, "RGB"), uid.JPEG2000Lossless),
    }


def damaged(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damaged copies of a file: one bit flipped; some bytes changed; some taken out or put in; cut off."""
    draw = random.Random(seed)
    for number in range(count):
        copy = bytearray(data)
        at = draw.randrange(len(data) // 3, len(data))
        if number % 4 == 0:
            copy[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif number % 4 == 1:
            for _ in range(draw.randrange(1, 8)):
                copy[draw.randrange(len(data) // 3, len(data))] = draw.randrange(256)
        elif number % 4 == 2:
            copy[at : at + draw.randrange(20)] = draw.randbytes(draw.randrange(20))
        else:
            del copy[at:]
        yield bytes(copy)
