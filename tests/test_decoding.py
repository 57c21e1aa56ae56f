"""Damaged DICOM files end a process of their own, never that of the builder or the reader."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import psutil
import pydicom
import pytest
import tiny
from dicom_frames import compressed, damaged, fatal_dicom, framed, of_every_kind, smooth
from pydicom import uid

import chest_xray_masks
from chest_xray_masks import MAX_BYTES, MAX_PIXELS, TooManyPixelsError, decode_dicom, dicom_png
from hub_models.imaging.gray import to_gray

DECODERS = chest_xray_masks._DECODERS
pytestmark = pytest.mark.filterwarnings("ignore:End of file reached before delimiter")


def decoded(data: bytes) -> np.ndarray:
    return decode_dicom(pydicom.dcmread(io.BytesIO(data)))


def png_of(data: bytes) -> bytes:
    return dicom_png(data, "x.dcm")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return of_every_kind(tmp_path_factory.mktemp("sound"))


def test_pixels_are_those_that_pydicom_decodes(sound: dict[str, bytes]) -> None:
    for kind, data in sound.items():
        header = pydicom.dcmread(io.BytesIO(data))
        for plugin in (
            ("",) if kind == "none" else pydicom.pixels.get_decoder(header.file_meta[2, 16].value).available_plugins
        ):
            expected = pydicom.pixels.pixel_array(header, index=0, decoding_plugin=plugin)
            np.testing.assert_array_equal(decode_dicom(header), expected, err_msg=f"{kind} by {plugin}", strict=True)


@pytest.mark.parametrize("read", [to_gray, png_of])
def test_frame_that_ends_its_decoder_is_an_error(read: Callable, sound: dict[str, bytes]) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match=r"; its decoder ended with code -6\)|: its decoder ended with code -6\)"):
            read(fatal_dicom())
        assert read(sound["JPEG lossless"])
    with pytest.raises(ChildProcessError):
        decoded(fatal_dicom())


def test_no_error_quotes_the_header() -> None:
    header = pydicom.dcmread(io.BytesIO(tiny.dicom(smooth())))
    header.PatientName = header.PhotometricInterpretation = tiny.SECRET
    for bad in (tiny.dicom_bytes(header), tiny.dicom_bytes(header)[:-9]):
        with pytest.raises(ValueError, match="x.dcm") as caught:
            png_of(bad)
        assert "DOE" not in str(caught.value) and caught.value.__suppress_context__


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_decoder_that_hangs_is_stopped_and_one_that_was_killed_replaced(sound: dict[str, bytes], monkeypatch) -> None:
    expected = decoded(sound["JPEG lossless"])
    for process in DECODERS.all:
        process.send_signal(signal.SIGKILL)
    np.testing.assert_array_equal(decoded(sound["JPEG lossless"]), expected)
    for process in DECODERS.all:
        process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(chest_xray_masks, "DECODING_SECONDS", 0.3)
    with pytest.raises(ValueError, match="its decoder took more than 0 s"):
        to_gray(sound["JPEG lossless"])
    monkeypatch.undo()
    np.testing.assert_array_equal(decoded(sound["JPEG lossless"]), expected)


def test_decoder_ends_itself_where_nobody_does(monkeypatch) -> None:
    """As one would that hangs when the process that uses it is killed."""
    monkeypatch.setattr(chest_xray_masks.threading.Timer, "start", lambda timer: None)
    monkeypatch.setattr(chest_xray_masks, "DECODING_SECONDS", 0.05 - 2e-6 * 700 * 700)
    slow = compressed(
        tiny.dicom(np.random.default_rng(0).integers(0, 4096, (700, 700), np.uint16)), uid.JPEG2000Lossless
    )
    with pytest.raises(TimeoutError):
        decoded(slow)


def test_threads_share_the_decoders(sound: dict[str, bytes]) -> None:
    expected = decoded(sound["JPEG 2000"])
    with ThreadPoolExecutor(8) as pool:
        jobs = [(pool.submit(decoded, sound["JPEG 2000"]), pool.submit(decoded, fatal_dicom())) for _ in range(3)]
    for good, bad in jobs:
        np.testing.assert_array_equal(good.result(), expected)
        assert isinstance(bad.exception(), ChildProcessError)
    assert len(DECODERS.all) <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forks_that_may_have_no_children_decode_too(sound: dict[str, bytes]) -> None:
    expected = decoded(sound["JPEG-LS"])
    with multiprocessing.get_context("fork").Pool(2) as pool:  # of daemonic processes, as those of datasets
        for one in pool.map(decoded, [sound["JPEG-LS"]] * 6):
            np.testing.assert_array_equal(one, expected)
    np.testing.assert_array_equal(decoded(sound["JPEG-LS"]), expected)


SCRIPT = """
import io, sys, time
import pydicom
import chest_xray_masks as builder
print(builder.decode_dicom(pydicom.dcmread(sys.argv[1])).shape)
print(*[process.pid for process in builder._DECODERS.all], flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_decoders_end_with_the_process_that_uses_them(sound: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(sound["JPEG 2000"])
    (tmp_path / "numpy.py").write_text("raise RuntimeError('imported from the current folder')")
    path = os.pathsep.join(one for one in sys.path if one)
    for seconds in ("0", "600"):
        start = [sys.executable, "-P", "-c", SCRIPT, "x.dcm", seconds]
        with subprocess.Popen(
            start, stdout=subprocess.PIPE, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}
        ) as process:
            assert process.stdout and process.stdout.readline() == b"(64, 48)\n"
            (worker,) = map(int, process.stdout.readline().split())
            if seconds == "600":
                process.kill()
            assert process.wait(20) == (0 if seconds == "0" else -signal.SIGKILL)
        for _ in range(100):
            if not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"{worker} lives on")


def trial(files: dict[str, bytes], count: int) -> Counter[str]:
    """Read damaged copies of files by the reader and the builder; return how often each was read or an error."""
    ends: Counter[str] = Counter()
    for kind, data in files.items():
        for bad in damaged(data, count, seed=len(kind)):
            for read in (to_gray, png_of):
                try:
                    read(bad)
                    ends[kind, "read"] += 1
                except ValueError as error:
                    assert "\n" not in str(error)
                    ends[kind, "ended" if "its decoder" in str(error) else "error"] += 1
    return ends


def test_damaged_files_are_read_or_errors(sound: dict[str, bytes]) -> None:
    ends = trial(sound | {"fatal": fatal_dicom()}, 4)
    assert ends.total() == 11 * 4 * 2 and ends["fatal", "ended"] > 0


@pytest.mark.slow
def test_many_damaged_files_are_read_or_errors(sound: dict[str, bytes]) -> None:
    assert trial(sound, 100).total() == 10 * 100 * 2


@pytest.mark.slow
@pytest.mark.parametrize("processes", [None, 2])
def test_set_is_built_from_compressed_dicom_or_a_file_is_named(sound, tmp_path: Path, processes: int | None) -> None:
    gray = [data for kind, data in sound.items() if "colour" not in kind]
    names = [f"MontgomerySet/CXR_dcm/MCUCXR_{number:04d}_0.dcm" for number in range(1, len(gray) + 1)]
    source = tiny.write_tree(dict(zip(names, gray, strict=True)), tmp_path / "set")
    options = {"data_dir": source, "cache_dir": str(tmp_path / "cache"), "num_proc": processes}
    splits = chest_xray_masks.load("MC", **options)
    images = {row["id"]: np.asarray(row["image"]) for rows in splits.values() for row in rows}
    for name, data in zip(names, gray, strict=True):
        np.testing.assert_array_equal(images[Path(name).stem], decoded(data))
    (source / names[2]).write_bytes(fatal_dicom())
    with pytest.raises(datasets.exceptions.DatasetGenerationError) as caught:
        chest_xray_masks.load("MC", **options)
    assert "MCUCXR_0003_0.dcm cannot be read as a gray DICOM X-ray" in str(caught.value.__cause__)


# Bounds


def sparse(folder: Path, data: bytes, size: int) -> Path:
    """A file of `size` bytes that begins with `data`, and takes no more on the disk."""
    with (folder / "sparse.dcm").open("wb") as file:
        file.write(data)
        file.truncate(size)
    return folder / "sparse.dcm"


HEAD = tiny.dicom(np.zeros((40, 40), np.uint16)).partition(b"\xe0\x7f\x10\x00")[0]
PIXELS, LUT, PRIVATE = b"\xe0\x7f\x10\x00OW\0\0", b"\x28\0\x10\x30SQ\0\0", b"\x29\0\x10\x10UN\0\0"
CLAIMS = {
    "pixels": PIXELS + b"\xf0\xff\xff\xff",
    "pixels of any length": PIXELS + b"\xff\xff\xff\xff",
    "a fragment": PIXELS + b"\xff\xff\xff\xff\xfe\xff\x00\xe0\xf0\xff\xff\xff",
    "a table": LUT + b"\xf0\xff\xff\xff",
    "a table of nothing": LUT + b"\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * 200_000,
    "private": PRIVATE + b"\xff\xff\xff\xff",
    "nothing": b"",
}


@pytest.mark.skipif(sys.platform == "win32", reason="no sparse files")
@pytest.mark.parametrize("claim", CLAIMS)
def test_claimed_lengths_are_not_read(claim: str, tmp_path: Path) -> None:
    before = psutil.Process().memory_info().rss
    with pytest.raises(ValueError, match="sparse.dcm is not a DICOM file, or is cut off"):
        to_gray(sparse(tmp_path, HEAD + CLAIMS[claim], MAX_BYTES))
    assert psutil.Process().memory_info().rss - before < 3e8


def test_more_than_the_most_pixels_are_refused_before_they_are_decoded() -> None:
    large = tiny.dicom(np.zeros((4, 4), np.uint8), 8, Rows=12_000, Columns=12_000)
    with pytest.raises(TooManyPixelsError, match=f"x.dcm has more than {MAX_PIXELS} pixels \\(12000x12000\\)"):
        png_of(large)
    with pytest.raises(ValueError, match="12000x12000 pixels, more than"):
        to_gray(large)
    frame = b"\xff\xd8\xff\xc0\x00\x0b\x08\x2e\xe0\x2e\xe0\x01\x01\x11\x00"  # says 12000x12000
    for read in (to_gray, png_of):
        with pytest.raises(ValueError, match="cannot be"):
            read(framed(frame, uid.JPEGBaseline8Bit, np.zeros((4, 4), np.uint8), 8))


def deflated(data: bytes, more: int = 0) -> bytes:
    """The same file, deflated as a whole, with more zeros behind it."""
    header = pydicom.dcmread(io.BytesIO(data))
    header.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    if more:
        header.DataSetTrailingPadding = bytes(more)
    return tiny.dicom_bytes(header)


def test_deflated_file_is_read_and_unpacked_to_no_more_than_an_x_ray() -> None:
    plain = tiny.dicom(smooth(), PatientName="DOE")
    for data in (deflated(plain), deflated(plain, 2**28)):
        np.testing.assert_array_equal(np.asarray(to_gray(data)), np.asarray(to_gray(plain)))
    assert png_of(deflated(plain)) == png_of(plain)
    bomb = deflated(plain, 2**28)
    tracemalloc.start()
    to_gray(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26
    for read in (to_gray, png_of):
        with pytest.raises(ValueError, match="x-ray|DICOM"):
            read(deflated(plain)[:600])
