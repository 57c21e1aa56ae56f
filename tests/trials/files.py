"""Damaged files of every format, read in processes of their own: a sentence or a reading, and never a death."""

import io
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image
from pydicom import dcmread, uid
from tiny import dicom, png

from trials.jobs import seeded

BATCH = 100  # files of a task
SECONDS = 120  # that a task may take
MOST = 600  # characters of a sentence
SYNTAXES = {
    "DICOM, RLE": uid.RLELossless,
    "DICOM, JPEG 2000": uid.JPEG2000Lossless,
    "DICOM, JPEG-LS": uid.JPEGLSLossless,
}
PICTURES = {"JPEG": "L", "TIFF": "L", "BMP": "L", "GIF": "P", "WEBP": "RGB", "JPEG2000": "L", "PPM": "L"}


def sound_files() -> dict[str, bytes]:
    """A small file of each format that is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8)
    pixels[8:40, 8:56] //= 4
    found = {
        "PNG, gray": png(pixels),
        "PNG, palette": png(pixels, "P"),
        "PNG, 16 bits": png(pixels.astype("u2") * 257),
    }
    for kind, mode in PICTURES.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, kind)
        found[kind] = buffer.getvalue()
    plain = dicom(pixels.astype(np.uint16) * 16)
    found["DICOM, uncompressed"] = plain
    for name, syntax in SYNTAXES.items():
        header = dcmread(io.BytesIO(plain))
        header.compress(syntax)
        buffer = io.BytesIO()
        header.save_as(buffer)
        found[name] = buffer.getvalue()
    found["DICOM, JPEG"] = _jpeg_dicom(found["JPEG"], plain)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(3):
            packed.writestr(f"x{number}.png", found["PNG, gray"])
    found["zip"] = buffer.getvalue()
    buffer = io.BytesIO()
    rows = {"id": ["a", "b"], "image": [{"bytes": found["PNG, gray"], "path": None}] * 2}
    pyarrow.parquet.write_table(pyarrow.table(rows), buffer)
    found["Parquet"] = buffer.getvalue()
    return found


def _jpeg_dicom(jpeg: bytes, plain: bytes) -> bytes:
    from pydicom.encaps import encapsulate

    header = dcmread(io.BytesIO(plain))
    header.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelData = 7, encapsulate([jpeg])
    header["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    header.save_as(buffer)
    return buffer.getvalue()


def damaged(data: bytes, random: Random) -> bytes:
    """The bytes with one damage: a bit flipped, bytes changed, cut off, taken out, put in twice or zeroed."""
    kind, at = random.randrange(6), random.randrange(len(data))
    until = min(len(data), at + random.choice((1, 4, 16, 200)))
    middle = data[at:until]
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    new = {2: random.randbytes(len(middle)), 3: b"", 4: middle * 2, 5: bytes(len(middle))}[kind]
    return data[:at] + new + data[until:]


def read_damaged(format: str, first: int, count: int, seed: int) -> list[str]:
    """Read so many damaged files; what was said of each that is no reading and no sentence."""
    from hub_models.imaging.gray import read_xray
    from hub_models.predict.inputs import find_sources

    sound, wrong = sound_files()[format], []
    for number in range(first, first + count):
        data = damaged(sound, seeded(seed, format, number))
        try:
            if format not in ("zip", "Parquet"):
                read_xray(data)
                continue
            with TemporaryDirectory() as folder:
                path = Path(folder) / f"x.{format.lower()}"
                path.write_bytes(data)
                sources = find_sources(str(path))
                for _, open_source in sources.stream(sources.index):
                    with suppress(Exception):  # of a row of the table, whatever it is
                        read_xray(open_source())
        except (OSError, ValueError) as error:
            if problem := _check_sentence(error):
                wrong.append(f"{format} {number}: {problem}")
        except Exception as error:
            wrong.append(f"{format} {number}: {type(error).__name__}: {error}"[:MOST])
    return wrong


def _check_sentence(error: Exception) -> str:
    text = str(error)
    return (
        "" if text and "\n" not in text and len(text) < MOST else f"{type(error).__name__} without a sentence: {text}"
    )


def mutations(format: str, n: int, seed: int) -> Iterator[str]:
    """Read `n` damaged files of a format; yield "" for each that was read or refused by a sentence."""
    pool = new_pool()
    try:
        for first in range(0, n, BATCH):
            count = min(BATCH, n - first)
            task: Future[list[str]] = pool.submit(read_damaged, format, first, count, seed)
            try:
                wrong = task.result(SECONDS)
            except (BrokenProcessPool, TimeoutError) as error:
                wrong = [f"{format} {first} to {first + count}: {type(error).__name__}"]
                end(pool)
                pool = new_pool()
            yield from wrong
            yield from [""] * (count - len(wrong))
    finally:
        end(pool)


def new_pool() -> ProcessPoolExecutor:
    """One process, without what this one has loaded."""
    return ProcessPoolExecutor(1, get_context("spawn"))


def end(pool: ProcessPoolExecutor) -> None:
    """End the process of a pool, even one that hangs."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
