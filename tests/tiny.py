"""Tiny copies of the set, a file or a tree at a time, for the tests of the builder; on numpy and PIL alone."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pydicom import Dataset

SECRET = "DOE^JOHN-SECRET"  # what a patient's header says
MC_READING = "Patient's Sex: F \nPatient's Age: 031Y\n{findings}\n"
SHENZHEN_READING = "male 46yrs\r\n{findings}"


def number_of(id: str) -> int:
    """Seed of an image: the number in its id."""
    return int(id.split("_")[1])


def size_of(id: str) -> tuple[int, int]:
    """(width, height) of an image, 16 to 33, not square."""
    return 16 + number_of(id) % 16, 18 + number_of(id) % 16


def pixels_of(id: str) -> np.ndarray:
    """(H, W) uint8 of an image."""
    width, height = size_of(id)
    return np.random.default_rng(number_of(id)).integers(0, 256, (height, width), np.uint8)


def lungs_of(id: str) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool of the lung at the image's left and of the one at its right."""
    width, height = size_of(id)
    y, x = np.mgrid[:height, :width]
    inside = (y > 2) & (y < height - 2 - number_of(id) % 3)
    return inside & (x > 1) & (x < width // 2 - 1), inside & (x > width // 2) & (x < width - 2)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    """PNG bytes of an array: bool as 1-bit, uint8 as gray, or in `mode`."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


def image_png(id: str) -> bytes:
    """An image as its site's originals are: gray of Montgomery, palette of Shenzhen."""
    return png(pixels_of(id), None if id.startswith("MCU") else "P")


def mask_png(id: str) -> bytes:
    """A mask with soft edges, as re-saved copies have: 200 and 255 in the lungs, 0 and 100 outside."""
    left, right = lungs_of(id)
    mask = np.where(left | right, 255, 0).astype(np.uint8)
    mask[2] = np.where(mask[2] == 0, 100, mask[2])
    mask[5] = np.where(mask[5] == 255, 200, mask[5])
    return png(mask)


def reading(id: str) -> bytes:
    """A reading in the form of its site: a woman of 31 or a man of 46."""
    form = MC_READING if id.startswith("MCU") else SHENZHEN_READING
    return form.format(findings="normal" if id.endswith("0") else "infiltrate left").encode()


def mask_name(id: str) -> str:
    """File name of a mask in the Kaggle set: the image's in Montgomery, with _mask in Shenzhen."""
    return f"{id}.png" if id.startswith("MCU") else f"{id}_mask.png"


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG, checksum right."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bare_png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A gray PNG that says it is `width` x `height` and holds `pixels`, packed or not, whatever they are."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def dicom(
    stored: np.ndarray, bits: int = 12, photometric: str = "MONOCHROME2", signed: bool = False, **fields: object
) -> bytes:
    """A DICOM file that holds `stored` as it is, in colour where it is (H, W, 3), `bits` of each value in use."""
    import pydicom  # an extra

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Rows, data.Columns, data.SamplesPerPixel = (*stored.shape, 1)[:3]
    data.PhotometricInterpretation, data.PixelRepresentation = photometric, int(signed)
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * stored.itemsize, bits, bits - 1
    if stored.ndim == 3:
        data.PlanarConfiguration = 0
    data.PixelData = stored.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    return dicom_bytes(data)


def dicom_bytes(header: "Dataset") -> bytes:
    """The file of a DICOM header and its pixels."""
    buffer = io.BytesIO()
    header.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def without(data: bytes, keyword: str) -> bytes:
    """The DICOM file without one of its elements."""
    import pydicom

    header = pydicom.dcmread(io.BytesIO(data))
    del header[keyword]
    return dicom_bytes(header)


def dicom_with_patient(spared: Iterable[str]) -> "Dataset":
    """A sound X-ray that says SECRET in the standard's elements of text, but `spared` ones, and in private ones."""
    import pydicom

    header = pydicom.dcmread(io.BytesIO(dicom(np.arange(48 * 36, dtype=np.uint16).reshape(48, 36))))
    for number, (kind, _, _, _, keyword) in pydicom.datadict.DicomDictionary.items():
        is_text = kind in ("LO", "LT", "PN", "SH", "ST", "UC", "UT", "UR", "AE", "AS", "CS", "DA", "DT", "TM")
        if is_text and number >> 16 > 2 and keyword not in (*spared, "SpecificCharacterSet"):
            header.add_new(number, kind, SECRET)
    for number, kind, value in ((0x90010, "LO", SECRET), (0x91001, "PN", SECRET), (0x91002, "UN", SECRET.encode())):
        header.add_new(number, kind, value)
    return header


MC_IDS = ("MCUCXR_0001_0", "MCUCXR_0002_0", "MCUCXR_0104_1")
SHENZHEN_IDS = ("CHNCXR_0001_0", "CHNCXR_0006_0", "CHNCXR_0327_1")
IDS = (*SHENZHEN_IDS, *MC_IDS)  # sorted
WITHOUT_MASK = "CHNCXR_0006_0"


def kaggle(ids: tuple[str, ...] = IDS, top: str = "Lung Segmentation/") -> dict[str, bytes]:
    """Files by name of the Kaggle set: masks for all but `WITHOUT_MASK`, which stands in test/ again."""
    files = {f"{top}NLM-readme.txt": b"about the set", f"{top}CXR_png/Thumbs.db": b"of no use"}
    for id in ids:
        files[f"{top}CXR_png/{id}.png"] = image_png(id)
        files[f"{top}ClinicalReadings/{id}.txt"] = reading(id)
        if id == WITHOUT_MASK:
            files[f"{top}test/{id}.png"] = png(pixels_of(id), "RGB")
        else:
            files[f"{top}masks/{mask_name(id)}"] = mask_png(id)
    return files


def nlm_montgomery(ids: tuple[str, ...] = MC_IDS, top: str = "MontgomerySet/") -> dict[str, bytes]:
    """Files by name of NLM's Montgomery set: a 1-bit mask for each lung."""
    files = {f"{top}NLM-MontgomeryCXRSet-ReadMe.pdf": b"%PDF"}
    for id in ids:
        left, right = lungs_of(id)
        files[f"{top}CXR_png/{id}.png"] = image_png(id)
        files[f"{top}ManualMask/leftMask/{id}.png"] = png(left)
        files[f"{top}ManualMask/rightMask/{id}.png"] = png(right)
        files[f"{top}ClinicalReadings/{id}.txt"] = reading(id)
    return files


def nlm_shenzhen(ids: tuple[str, ...] = SHENZHEN_IDS, top: str = "ChinaSet_AllFiles/") -> dict[str, bytes]:
    """Files by name of NLM's Shenzhen set: no masks."""
    files = {f"{top}NLM-ChinaCXRSet-ReadMe.docx": b"PK"}
    for id in ids:
        files[f"{top}CXR_png/{id}.png"] = image_png(id)
        files[f"{top}ClinicalReadings/{id}.txt"] = reading(id)
    return files


def shenzhen_masks(ids: tuple[str, ...] = SHENZHEN_IDS, top: str = "mask/mask/") -> dict[str, bytes]:
    """Files by name of Kaggle's masks for Shenzhen."""
    return {f"{top}{mask_name(id)}": mask_png(id) for id in ids if id != WITHOUT_MASK}


def write_tree(files: dict[str, bytes], folder: Path) -> Path:
    """`folder`, filled with the files."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of the files, always the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def write_zip(files: dict[str, bytes], path: Path) -> Path:
    """`path`, a zip of the files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zip_bytes(files))
    return path
