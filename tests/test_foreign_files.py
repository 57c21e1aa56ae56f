"""Copies of the set that strangers made: what is not opened, not read to its end, or not believed."""

import io
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from test_layouts import STORED, examples

import chest_xray_masks as cxm
from hub_models.dataset.audit import audit
from hub_models.imaging.source import open_image
from hub_models.predict.inputs import find_sources

ID = "MCUCXR_0001_0"
TOP = "Lung Segmentation"
IMAGE, MASK, READING = f"{TOP}/CXR_png/{ID}.png", f"{TOP}/masks/{ID}.png", f"{TOP}/ClinicalReadings/{ID}.txt"
ROOT = Path(__file__).parents[1]
MEGABYTES = 900  # that a child may hold beside what its imports take


def findings(source: Path) -> str:
    found = audit(source, progress=False)
    assert found.is_off
    return "\n".join(f"{one.ids} {one.message}" for one in found.of_kind("unreadable file"))


CHILD = """
import sys
from pathlib import Path
from test_foreign_files import findings
from test_layouts import examples
try:
    examples(sys.argv[1])
except (ValueError, OSError) as error:
    print("load:", error)
print("audit:", findings(Path(sys.argv[1])))
"""


def trial(source: Path, **environment: str) -> str:
    """What load and audit say of a copy, in a process of its own: it may neither hang nor fill the memory."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEGABYTES * 2**20, MEGABYTES * 2**20))

    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(source)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=bound,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# Formats


def eps() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(tiny.pixels_of(ID)).save(buffer, "EPS")
    return buffer.getvalue()


OTHER_FORMATS = {
    "eps": eps(),
    "psd": b"8BPS\0\1" + bytes(6) + b"\0\1" + b"\0\0\0\x14\0\0\0\x14\0\x08\0\1" + bytes(12) + b"\0\0" + bytes(400),
    "fits": b"".join(
        line.ljust(80).encode()
        for line in ("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 20", "NAXIS2  = 20", "END")
    ).ljust(2880)
    + bytes(400),
}


def test_other_formats_are_of_pillow() -> None:
    assert [Image.open(io.BytesIO(data)).format.lower() for data in OTHER_FORMATS.values()] == list(OTHER_FORMATS)


@pytest.mark.parametrize("place", [IMAGE, MASK])
@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_refused(name: str, place: str, tmp_path: Path) -> None:
    tiny.write_tree(tiny.kaggle() | {place: OTHER_FORMATS[name]}, tmp_path)
    with pytest.raises(ValueError, match=rf"{place} cannot be decoded as an image"):
        examples(tmp_path)
    said = "is a Photoshop file, which is not read" if name == "psd" else "cannot be decoded as an image"
    assert f"{place} {said}" in findings(tmp_path)


def test_every_format_that_pillow_writes_is_refused_but_those_of_x_rays() -> None:
    Image.init()
    image = Image.fromarray(tiny.pixels_of(ID))
    refused, taken = set(), set()
    for kind in sorted(Image.SAVE):
        buffer = io.BytesIO()
        try:
            image.save(buffer, kind)
            read = Image.open(io.BytesIO(buffer.getvalue())).format
        except Exception:  # noqa: S112  not of gray, or not read again
            continue
        try:
            cxm.check_image(buffer.getvalue(), "a.png")
            taken.add(read)
        except ValueError:
            refused.add(read)
    assert taken <= {*cxm.FORMATS, "MPO"} and {"EPS", "PCX", "SGI", "TGA"} <= refused


@pytest.mark.slow
def test_postscript_never_starts_ghostscript(tmp_path: Path) -> None:
    stub = tmp_path / "bin" / "gs"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    stub.chmod(0o755)
    tiny.write_tree(tiny.kaggle() | {IMAGE: OTHER_FORMATS["eps"], MASK: OTHER_FORMATS["eps"]}, tmp_path / "set")
    path = f"{stub.parent}:{os.environ['PATH']}"
    load = "import io; from PIL import Image; from test_foreign_files import eps; Image.open(io.BytesIO(eps())).load()"
    environment = os.environ | {"PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    subprocess.run([sys.executable, "-c", load], env=environment, capture_output=True, timeout=60)
    (tmp_path / "started").unlink()  # plain Pillow does start it: the trial sees what it looks for
    assert "cannot be decoded as an image" in trial(tmp_path / "set", PATH=path)
    assert not (tmp_path / "started").exists()


def test_every_image_is_opened_with_the_closed_list() -> None:
    files = [ROOT / "chest_xray_masks.py", *ROOT.glob("hub_models/**/*.py")]
    calls = [call for path in files for call in re.findall(r"Image\.open\(.*", path.read_text())]
    own = [call for call in calls if "example.data" in call or call == "Image.open(path) as image:"]  # made here
    assert calls and not [call for call in calls if "formats=" not in call and call not in own]


def test_several_pictures_are_refused_as_by_the_reader(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(tiny.pixels_of(ID)).save(
        buffer, "TIFF", save_all=True, append_images=[Image.fromarray(tiny.pixels_of(ID))]
    )
    for read in (lambda: cxm.check_image(buffer.getvalue(), "a.png"), lambda: open_image(buffer.getvalue())):
        with pytest.raises(ValueError, match="is a TIFF of several pictures"):
            read()


# Only regular files


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o20600, os.makedev(1, 5))  # as /dev/zero
    except PermissionError:
        path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    old = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have 107 bytes
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(old)


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo,
    "socket": listening,
    "device": device,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a FIFO": lambda path: (os.mkfifo(f"{path}.fifo"), path.symlink_to(f"{path}.fifo")),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nowhere": lambda path: path.symlink_to("nowhere.png"),
    "folder": Path.mkdir,
    "sparse file": lambda path: (path.touch(), os.truncate(path, 5 * 2**30)),
}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="others have no such files")


@pytest.mark.parametrize("kind", IRREGULAR)
def test_what_is_no_file_is_told_and_not_read(kind: str, tmp_path: Path) -> None:
    for number, place in enumerate((IMAGE, MASK, READING)):
        path = tiny.write_tree(tiny.kaggle(), tmp_path / str(number)) / place
        path.unlink()
        IRREGULAR[kind](path)
        with pytest.raises((ValueError, OSError), match=re.escape(place)) as caught:
            examples(tmp_path / str(number))
        assert not isinstance(caught.value, MemoryError)
        assert path.name in findings(tmp_path / str(number))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in IRREGULAR if kind not in ("folder", "link to nowhere")])
def test_what_is_no_file_takes_neither_time_nor_memory(kind: str, tmp_path: Path) -> None:
    tiny.write_tree(tiny.kaggle(), tmp_path)
    for place in (IMAGE, MASK, READING, f"{TOP}/other.zip"):
        (tmp_path / place).unlink(missing_ok=True)
        IRREGULAR[kind](tmp_path / place)
    said = trial(tmp_path)
    assert said.startswith("load: ") and all(
        Path(place).name in said.partition("audit: ")[2] for place in (IMAGE, MASK)
    )


@pytest.mark.parametrize("kind", ["FIFO", "device", "link to itself", "socket"])
def test_data_dir_that_is_no_file(kind: str, tmp_path: Path) -> None:
    IRREGULAR[kind](tmp_path / "set.zip")
    with pytest.raises((ValueError, OSError), match=r"set\.zip"):
        cxm.scan(tmp_path / "set.zip")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of its own for a user without rights, who the test is from here on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield folder
            return
        os.chown(folder, 65534, 65534)
        os.setresgid(65534, 65534, 0)
        os.setresuid(65534, 65534, 0)
        try:
            yield folder
        finally:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
@pytest.mark.parametrize("place", ["masks", "CXR_png"])
def test_folder_that_may_not_be_read_is_no_empty_one(place: str, mode: int, as_nobody: Path) -> None:
    tiny.write_tree(tiny.kaggle(), as_nobody)
    closed = as_nobody / TOP / place
    closed.chmod(mode)
    try:
        tree = cxm.scan(as_nobody)
        with pytest.raises(ValueError, match=place):
            cxm.rows_of(tree)
        assert place in findings(as_nobody)
    finally:
        closed.chmod(0o700)


def test_folders_that_link_each_other_are_read_once(tmp_path: Path) -> None:
    folders = [tmp_path / f"folder{number}" for number in range(16)]
    for folder in folders:
        folder.mkdir()
        for other in folders:
            (folder / other.name).symlink_to(other)
    tiny.write_tree(tiny.kaggle(), folders[-1])
    assert tuple(examples(tmp_path)) == tiny.IDS
    assert len(cxm.scan(tmp_path).files) == len(cxm.scan(folders[-1]).files) == len(cxm.scan(tmp_path).chosen())
    found = find_sources(str(tmp_path))
    assert [Path(key).stem for key in found.index["source"]] == [*tiny.IDS]


def test_folders_a_thousand_deep_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_tree(tiny.kaggle(), tmp_path)
    monkeypatch.chdir(tmp_path)
    try:
        for _ in range(1200):
            Path("d").mkdir(), os.chdir("d")
        assert tuple(examples(tmp_path)) == tiny.IDS and len(find_sources(str(tmp_path)).index) == len(tiny.IDS)
    finally:
        os.chdir(tmp_path)
        subprocess.run(["rm", "-r", "d"], check=True)  # pytest cannot: shutil gives up


def test_link_of_a_folder_to_nowhere_is_told(tmp_path: Path) -> None:
    tiny.write_tree({name: data for name, data in tiny.kaggle().items() if "/masks/" not in name}, tmp_path)
    (tmp_path / TOP / "masks").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"masks cannot be read \(No such file or directory\)"):
        examples(tmp_path)


# Bytes and time of zips and readings


def set_with(place: str, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    return tiny.zip_bytes(tiny.kaggle() | {place: data}, method)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_reading_of_more_than_64_kb_is_refused(kind: str, tmp_path: Path) -> None:
    for size, is_taken in ((cxm.MAX_READING, True), (cxm.MAX_READING + 1, False)):
        files = tiny.kaggle() | {READING: b"male 46yrs " + b"x" * (size - 11)}
        folder = tmp_path / str(size)
        source = tiny.write_tree(files, folder) if kind == "folder" else tiny.write_zip(files, folder / "set.zip")
        if is_taken:
            assert len(examples(source)[ID]["reading"]) == size
        else:
            with pytest.raises(ValueError, match=rf"{READING} .*65537 bytes"):
                examples(source)
            assert "65537 bytes" in findings(source)


@pytest.mark.parametrize("place", [IMAGE, MASK, READING])
def test_member_that_unpacks_to_far_more_than_it_takes(place: str, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(set_with(place, bytes(100 * 2**20)))
    with pytest.raises(ValueError, match=rf"{place} cannot be read from its zip \(it would unpack to 104857600 bytes"):
        examples(tmp_path / "set.zip")
    assert "104857600" in findings(tmp_path / "set.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_member_of_another_method_is_not_unpacked(method: int, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(set_with(IMAGE, tiny.image_png(ID), method))
    with pytest.raises(ValueError, match=rf"packed by method {method}, not by deflate"):
        examples(tmp_path / "set.zip")


def with_sizes(data: bytes, name: str, packed: int | None = None, unpacked: int | None = None) -> bytes:
    """A zip whose directory claims other sizes for a member."""
    changed = bytearray(data)
    at = data.rindex(name.encode()) - 46
    for offset, value in ((20, packed), (24, unpacked)):
        if value is not None:
            changed[at + offset : at + offset + 4] = value.to_bytes(4, "little")
    return bytes(changed)


@pytest.mark.parametrize("claim", [{"unpacked": 100}, {"packed": 2**30}, {"packed": 2**30, "unpacked": 2**29}])
def test_claims_of_a_zip_are_not_believed(claim: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(with_sizes(set_with(IMAGE, bytes(10 * 2**20)), IMAGE, **claim))
    with pytest.raises(ValueError, match=rf"{IMAGE} cannot be read from its zip"):
        examples(tmp_path / "set.zip")
    assert f"{IMAGE} cannot be read from its zip" in findings(tmp_path / "set.zip")


@pytest.mark.slow
def test_gigabyte_of_zeros_takes_neither_time_nor_memory(tmp_path: Path) -> None:
    for place in (IMAGE, READING):
        with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in (tiny.kaggle() | {place: b""}).items():
                with archive.open(name, "w", force_zip64=True) as file:
                    for _ in range(1024 if name == place else 0):
                        file.write(bytes(2**20))
                    file.write(data)
        said = trial(tmp_path / "set.zip")
        assert f"{place} cannot be read from its zip" in said and said.count("1073741824") == 2


@pytest.mark.parametrize("name", ["more.zip", "deep/MORE.ZIP"])
def test_zip_in_a_zip_is_told_and_not_read(name: str, tmp_path: Path) -> None:
    tiny.write_zip(tiny.kaggle() | {name: tiny.zip_bytes(tiny.nlm_montgomery())}, tmp_path / "set.zip")
    with pytest.raises(ValueError, match=rf"set\.zip/{name} is a zip in a zip, which is not read: unpack it"):
        examples(tmp_path / "set.zip")
    assert "is a zip in a zip" in findings(tmp_path / "set.zip")


# Copies


def resaved(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


OTHER = {IMAGE: tiny.png(255 - tiny.pixels_of(ID)), MASK: tiny.png(np.zeros(tiny.pixels_of(ID).shape, np.uint8))}
OTHER[READING] = tiny.reading(ID).replace(b"normal", b"defect")


@pytest.mark.parametrize("kind", ["folder", "zip", "zip beside"])
@pytest.mark.parametrize("place", OTHER)
def test_copies_of_one_id_that_differ_are_refused(place: str, kind: str, tmp_path: Path) -> None:
    copies = {f"copy/{name}": data for name, data in tiny.kaggle().items()} | {f"copy/{place}": OTHER[place]}
    if kind == "folder":
        source = tiny.write_tree(tiny.kaggle() | copies, tmp_path)
    elif kind == "zip":
        source = tiny.write_zip(tiny.kaggle() | copies, tmp_path / "set.zip")
    else:
        source = tiny.write_tree(tiny.kaggle(), tmp_path)
        tiny.write_zip(tiny.kaggle() | {place: OTHER[place]}, tmp_path / "archive.zip")
    with pytest.raises(ValueError, match=rf"are copies of {ID} that differ: keep one") as caught:
        examples(source)
    assert str(caught.value).count(place) == 2
    found = audit(source, progress=False).of_kind("copies differ")
    assert [one.ids for one in found] == [(ID,)]


def test_image_and_mask_of_two_copies_are_no_pair(tmp_path: Path) -> None:
    copy = {f"copy/{IMAGE}": OTHER[IMAGE], f"copy/{MASK}": tiny.mask_png(ID)}
    tiny.write_tree({IMAGE: tiny.image_png(ID)} | copy, tmp_path)
    with pytest.raises(ValueError, match="copies of MCUCXR_0001_0 that differ"):
        examples(tmp_path)


def test_copies_of_other_bytes_and_the_same_content_are_read(tmp_path: Path) -> None:
    others = {IMAGE: resaved(tiny.image_png(ID)), MASK: resaved(tiny.mask_png(ID))}
    others[READING] = tiny.reading(ID).replace(b"\n", b"\r\n")
    tiny.write_tree(tiny.kaggle() | {f"copy/{name}": data for name, data in others.items()}, tmp_path)
    assert tuple(examples(tmp_path)) == tiny.IDS


def test_member_that_stands_twice_in_a_zip_is_refused(tmp_path: Path) -> None:
    tiny.write_zip(tiny.kaggle(), tmp_path / "set.zip")
    with zipfile.ZipFile(tmp_path / "set.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(IMAGE, OTHER[IMAGE])
    with pytest.raises(ValueError, match=f"are copies of {ID} that differ"):
        examples(tmp_path / "set.zip")


# Digits, and headers of patients


@pytest.mark.parametrize("name", ["CHNCXR_٠٠٠١_0", "MCUCXR_०००१_0", "MCUCXR_0001_１"])  # noqa: RUF001
def test_digits_are_0_to_9(name: str, tmp_path: Path) -> None:
    tiny.write_tree(tiny.kaggle() | {f"{TOP}/CXR_png/{name}.png": tiny.image_png(ID)}, tmp_path)
    assert tuple(examples(tmp_path)) == tiny.IDS


def test_digits_of_a_reading_are_0_to_9() -> None:
    assert cxm.parse_reading("male ٤٦yrs\nnormal").age_years is None
    assert cxm.patients_of({"MCUCXR_0200_0": "same pt as MCUCXR_٠١٧٠_1"}) == cxm.patients_of({})


def test_no_expression_of_the_project_takes_other_digits() -> None:
    files = [ROOT / "chest_xray_masks.py", *ROOT.glob("hub_models/**/*.py"), *ROOT.glob("scripts/*.py")]
    assert not [path.name for path in files if r"\d" in path.read_text()]


def broken_dicoms() -> Iterator[bytes]:
    """DICOM files whose headers say SECRET wherever text is allowed, each broken in another way."""
    header = tiny.dicom_with_patient(spared=("PhotometricInterpretation", "TransferSyntaxUID"))
    whole = tiny.dicom_bytes(header)
    yield from (whole[:cut] for cut in (200, len(whole) // 2, len(whole) - 5))
    yield whole.replace(b"MONOCHROME2 ", tiny.SECRET[:12].encode())
    header.NumberOfFrames, header.Rows = 2, 3
    yield tiny.dicom_bytes(header)
    yield tiny.without(whole, "BitsStored")
    yield tiny.without(whole, "PixelData")


@pytest.mark.parametrize("number", range(7))
def test_no_value_of_a_dicom_header_is_quoted(number: int, recwarn: pytest.WarningsRecorder, caplog) -> None:
    data = list(broken_dicoms())[number]
    recwarn.clear(), caplog.clear()
    with pytest.raises(ValueError, match=r"a\.dcm cannot be read as a gray DICOM X-ray") as caught:
        cxm.dicom_png(data, "a.dcm")
    said = f"{caught.value} {[str(one.message) for one in recwarn]} {caplog.text}"
    assert not [part for part in ("DOE", "JOHN", "SECRET") if part in said]
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_sound_dicom_is_read_whatever_its_header_says() -> None:
    data = tiny.dicom(STORED, PatientName="x" * 70)
    assert cxm.check_image(cxm.dicom_png(data, "a.dcm"), "a.dcm") == STORED.shape[::-1]
