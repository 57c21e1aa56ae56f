import os
import re
import shutil
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from PIL import Image
from tiny import IDS, SHENZHEN_IDS, dicom, image_png, kaggle, nlm_montgomery, png, write_tree, write_zip

from hub_models.dataset.folders import list_folder
from hub_models.imaging.source import open_image
from hub_models.predict import index, lists
from hub_models.predict.index import Sources
from hub_models.predict.inputs import find_sources

FILES = {name: image_png(id) for name, id in (("b/x.png", "MCUCXR_0001_0"), ("a/x.png", "CHNCXR_0001_0"))}
FILES |= {"a/x.JPG": b"no image", "c/IMG00001": b"\0" * 128 + b"DICM and so on", "z.dcm": b"no image"}
OTHERS = {"a/reading.txt": b"normal", "Thumbs.db": b"", ".hidden.png": b"", "__MACOSX/a/._x.png": b"", "c/notes": b"-"}
OTHERS |= {"DICOMDIR": b"\0" * 128 + b"DICM"}
KEYS = ["a/x.JPG", "a/x.png", "b/x.png", "c/IMG00001", "z.dcm"]


def keys(sources: Sources) -> list[str]:
    return list(sources.index["source"])


def opened(sources: Sources) -> dict[str, bytes]:
    """Bytes of each X-ray by its key."""
    found = {row["source"]: open_source() for row, open_source in sources.stream(sources.index)}
    return {key: one if isinstance(one, bytes) else one.read_bytes() for key, one in found.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tree(FILES | OTHERS, tmp_path_factory.mktemp("xrays"))


def test_folder_is_read_to_its_bottom_and_other_files_are_passed_over(folder) -> None:
    sources = find_sources(str(folder))
    assert keys(sources) == KEYS
    assert (
        str(sources.passed_over)
        == "6 files passed over (1 .db, 1 .txt, 1 DICOMDIR, 2 hidden, 1 no image by its first bytes)"
    )
    assert opened(sources) == {key: FILES[key] for key in KEYS}
    assert list(sources.index["size"]) == [len(FILES[key]) for key in KEYS]


def test_what_a_command_wrote_is_passed_over(finished_run: Path, tmp_path: Path, caplog) -> None:
    shutil.copytree(finished_run, tmp_path / "in" / "runs" / "tb")
    write_tree(
        {"x.png": FILES["b/x.png"], "out/overlays/x.png": FILES["b/x.png"], "out/predict.json": b"{}"}, tmp_path / "in"
    )
    assert keys(find_sources(str(tmp_path / "in"))) == ["x.png"]
    assert all(f"in/{name} is passed over" in caplog.text for name in ("out", "runs/tb"))
    assert keys(find_sources(str(tmp_path / "in" / "out"))) == ["overlays/x.png"]  # which was asked for


SET = kaggle() | {"Lung Segmentation/notes.png": FILES["b/x.png"]}  # which is none of the set's
TWICE = nlm_montgomery() | {f"copy/{name}": data for name, data in nlm_montgomery().items()}


@pytest.mark.parametrize(
    ("files", "expected", "others"),
    [
        (SET, [*(f"Lung Segmentation/CXR_png/{id}.png" for id in IDS), "Lung Segmentation/notes.png"], 6),
        (TWICE, [name for name in nlm_montgomery() if "CXR_png" in name], 15),
        ({f"masks/{id}_mask.png": png(np.eye(9) > 0) for id in SHENZHEN_IDS}, None, 0),  # no X-ray beside them
        ({f"test/{id}.png": image_png(id) for id in IDS}, None, 0),
    ],
)
def test_masks_and_copies_of_the_set_are_passed_over(tmp_path, caplog, files, expected, others: int) -> None:
    folder, archive = write_tree(files, tmp_path / "set"), write_zip(files, tmp_path / "set.zip")
    for images in (folder, archive):
        caplog.clear()
        with caplog.at_level("INFO", "hub_models"):
            assert keys(find_sources(str(images))) == sorted(expected or files)
        assert f"{others} masks and second copies" in caplog.text if others else not caplog.text


def test_links_are_followed(folder, tmp_path) -> None:
    (tmp_path / "tree").symlink_to(folder / "a")
    (tmp_path / "linked.png").symlink_to(folder / "b" / "x.png")
    (tmp_path / "gone.png").symlink_to(folder / "nowhere")
    (tmp_path / "up").symlink_to(tmp_path)
    assert keys(find_sources(str(tmp_path))) == ["gone.png", "linked.png", "tree/x.JPG", "tree/x.png"]
    sources = find_sources(f"{tmp_path}/*.png")
    assert keys(sources) == ["gone.png", "linked.png"]
    (_, open_gone), _ = sources.stream(sources.index)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        open_image(open_gone())


@pytest.mark.skipif(sys.platform != "linux", reason="others take no such name")
def test_name_that_is_no_utf8_is_a_printable_key(tmp_path) -> None:
    for name in (b"x.png", b"patient_\xe9.png", b"patient_\xe8.png", b"\xe9/\xe9.png"):
        write_tree({os.fsdecode(name): name}, tmp_path / "xrays")
    for images in (str(tmp_path / "xrays"), f"{tmp_path}/xrays/**"):
        sources = find_sources(images)
        assert keys(sources) == ["\\udce9/\\udce9.png", "patient_\\udce8.png", "patient_\\udce9.png", "x.png"]
        found = list(opened(sources).values())
        assert found == [b"\xe9/\xe9.png", b"patient_\xe8.png", b"patient_\xe9.png", b"x.png"]
        assert len(set(sources.index["output"])) == 4
        assert all(re.fullmatch(r"[\w/]+", output, re.ASCII) for output in sources.index["output"])


def test_file_is_read_whatever_its_suffix(folder) -> None:
    assert opened(find_sources(str(folder / "b" / "x.png"))) == {"x.png": FILES["b/x.png"]}
    assert opened(find_sources(str(folder / "c" / "notes"))) == {"notes": b"-"}


@pytest.mark.parametrize(("pattern", "found"), [("*/x.png", ["a/x.png", "b/x.png"]), ("**", KEYS), ("a/*", KEYS[:2])])
def test_glob(folder, pattern: str, found: list[str]) -> None:
    root = "a/" if pattern == "a/*" else ""
    assert [root + key for key in keys(find_sources(f"{folder}/{pattern}"))] == found


def test_brackets_in_a_name_are_no_glob(tmp_path) -> None:
    write_tree({"xrays [2]/x.png": b"", "xrays 2/y.png": b""}, tmp_path)
    assert keys(find_sources(str(tmp_path / "xrays [2]"))) == ["x.png"]


MIXED = {
    "DICOM/ST1/DX.1.2.826.0.1.3680043.8.45": dicom(np.zeros((40, 40), np.uint16)),
    "DICOM/ST1/IM000001": dicom(np.ones((40, 40), np.uint16)),
    "DICOM/ST1/IM000002": dicom(np.zeros((40, 40), np.uint16))[132:],  # without preamble
    "DICOM/IM3.IMA": dicom(np.zeros((40, 40), np.uint16)),
    "phone/IMG_0001.HEIC": b"\0\0\0\x24ftypheic\0\0\0\0mif1heic",
    "phone/IMG_0002": b"\0\0\0\x24ftypheic\0\0\0\0mif1heic",
    "phone/p.jfif": b"\xff\xd8\xff\xe0 cut off",
    "JPCLN001.IMG": bytes(2048),
}
REST = {
    "DICOMDIR": dicom(np.zeros((40, 40), np.uint16)),
    "viewer/run.exe": b"MZ",
    "viewer/help.txt": b"help",
    "viewer/notes.txt": b"notes",
    "viewer/data.45": b"of a program",
    "more.7z": b"7z",
    ".DS_Store": b"",
}


def test_file_is_what_its_bytes_say_and_what_is_passed_over_is_counted(tmp_path) -> None:
    folder, archive = write_tree(MIXED | REST, tmp_path / "cd"), write_zip(MIXED | REST, tmp_path / "cd.zip")
    for images in (str(folder), str(archive), f"{folder}/**"):
        sources = find_sources(images)
        assert keys(sources) == sorted(MIXED)
        found = {reason: count for reason, (count, _) in sources.passed_over.items()}
        assert found.pop("hidden", 1) == 1  # a glob names no hidden file
        assert found == {
            "DICOMDIR": 1,
            ".exe": 1,
            ".txt": 2,
            "no image by its first bytes": 1,
            ".7z to be unpacked": 1,
        }
        assert sources.passed_over["no image by its first bytes"] == (1, "viewer/data.45")
    assert str(find_sources(str(folder)).passed_over).startswith("7 files passed over (1 .7z to be unpacked, 1 .exe, ")


def test_heads_are_read_where_the_suffix_is_unknown_only(tmp_path, monkeypatch) -> None:
    folder = write_tree({f"{number}.png": b"" for number in range(9)} | {"a.txt": b"", "b.x": b"", "c": b""}, tmp_path)
    read, names = LocalFileSystem.read_block, []
    monkeypatch.setattr(
        LocalFileSystem,
        "read_block",
        lambda files, path, *args: names.append(Path(path).name) or read(files, path, *args),
    )
    assert len(find_sources(str(folder)).index) == 9
    assert names == ["b.x", "c"]


def test_dead_links_and_what_is_no_file_are_counted(tmp_path) -> None:
    write_tree({"x.png": FILES["b/x.png"]}, tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert dict(find_sources(str(tmp_path)).passed_over) == {"dead link or no regular file": (2, "gone")}


def test_long_list_with_an_entry_twice_keeps_its_order(tmp_path) -> None:
    names = [f"{number * 7919 % 1000}.png" for number in range(1000)]
    (tmp_path / "list.txt").write_text("\n".join([*names, names[500]]))
    assert keys(find_sources(str(tmp_path / "list.txt"))) == names


def test_zip_is_as_its_folder(folder, tmp_path) -> None:
    archive = write_zip(FILES | OTHERS, tmp_path / "xrays.zip")
    assert opened(find_sources(str(archive))) == opened(find_sources(str(folder)))


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_list_is_read_in_its_order_once_each(folder, tmp_path, name: str) -> None:
    other = write_tree({"d.png": b"d"}, tmp_path)
    entries = ["b/x.png", str(other / "d.png"), "a/x.png", "b/x.png", "nowhere.png", (other / "d.png").as_uri()]
    lines = ["", *entries] if name == "list.txt" else ["label,path", *(f"0,{entry}" for entry in entries)]
    (folder / name).write_text("\r\n".join(lines))
    sources = find_sources(str(folder / name))
    (folder / name).unlink()
    assert keys(sources) == [*entries[:3], "nowhere.png", entries[-1]]
    opens = [open_source for _, open_source in sources.stream(sources.index)]
    assert [opens[place]() for place in (0, 1, 4)] == [folder / "b/x.png", other / "d.png", other / "d.png"]


def test_memory_file_system_stands_for_object_stores(folder) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/xrays", recursive=True)
    try:
        here = opened(find_sources(str(folder)))
        assert opened(find_sources("memory://bucket/xrays")) == here
        assert keys(find_sources("memory://bucket/xrays/*/x.png")) == ["a/x.png", "b/x.png"]
        memory.pipe("/bucket/list.txt", b"xrays/a/x.png\nmemory://bucket/xrays/b/x.png")
        assert list(opened(find_sources("memory://bucket/list.txt")).values()) == [here["a/x.png"], here["b/x.png"]]
        memory.pipe("/bucket/xrays.zip", write_zip(FILES, folder.with_suffix(".zip")).read_bytes())
        assert opened(find_sources("memory://bucket/xrays.zip")) == here
        assert opened(find_sources("memory://bucket/xrays/a/x.png")) == {"x.png": here["a/x.png"]}
    finally:
        memory.rm("/bucket", recursive=True)


def test_digest_tells_places_names_and_sizes_apart(folder, tmp_path, monkeypatch) -> None:
    digest = find_sources(str(folder)).digest
    assert digest == find_sources(f"{folder}/").digest == find_sources(folder.as_uri()).digest
    monkeypatch.chdir(folder.parent)
    assert digest == find_sources(folder.name).digest
    assert digest != find_sources(str(write_tree(FILES, tmp_path / "copy"))).digest
    for number, change in enumerate(({"new.png": b""}, {"z.dcm": b"other bytes, other length"})):
        assert find_sources(str(write_tree(FILES | change, tmp_path / str(number)))).digest != digest


@pytest.mark.parametrize("name", ["list.txt", "xrays.zip"])
def test_digest_tells_same_names_in_other_places_apart(tmp_path, name: str) -> None:
    for place in ("A", "B"):
        write_tree({f"{place}/list.txt": b"x.png", f"{place}/x.png": place.encode()}, tmp_path)
        write_zip({"x.png": place.encode()}, tmp_path / place / "xrays.zip")
    first, second = (find_sources(str(tmp_path / place / name)) for place in ("A", "B"))
    assert keys(first) == keys(second) and first.digest != second.digest
    assert first.digest == find_sources(str(tmp_path / "A" / name)).digest


@pytest.mark.parametrize(
    "outputs",
    [
        # capitals count for nothing on some disks, so the fourth gets a number; x_ is both of x? and x*
        {"a/x.png": "a/x", "b/x.png": "b/x", "a/x.jpg": "a/x.jpg", "A/X.PNG": "A/X.PNG", "../x.png": "x"}
        | {"/data/x.png": "data/x", "s3://bucket/x.png": "s3_/bucket/x", "x?.png": "x_", "x*.png": "x_-2"}
        | {"a" * 300 + ".dcm": "a" * 200, ".png": "image"},
        {"a/x.png": "a/x", "A/X.png": "A/X-2", "a/x": "a/x-3"},
        # none is both file and folder
        {"a": "a", "a.png/b": "a_png/b", "c.PNG/d": "c_PNG/d", "c": "c", "e.dcm/f.dcm/g": "e_dcm/f_dcm/g", "e": "e"}
        | {"a_png/b": "a_png/b-2", "x.png.d/y": "x.png.d/y"},
    ],
)
def test_outputs_are_unique_relative_and_plain(tmp_path, outputs: dict[str, str]) -> None:
    (tmp_path / "list.txt").write_text("\n".join(outputs))
    assert list(find_sources(str(tmp_path / "list.txt")).index["output"]) == list(outputs.values())
    write_tree({f"{one}.{kind}": b"" for one in outputs.values() for kind in ("png", "dcm")}, tmp_path / "out")
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*")) == 2 * len(outputs)


def test_millions_of_x_rays_take_little_memory(tmp_path, monkeypatch) -> None:
    for module in (index, lists):
        monkeypatch.setattr(module, "INDEX_BLOCK", 500)
    count = 10_000
    (tmp_path / "list.txt").write_text("\n".join(f"xrays/{number:09d}.png" for number in range(count)))
    tracemalloc.start()
    sources = find_sources(str(tmp_path / "list.txt"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sources.index) == count and sources.index["output"][count - 1] == "xrays/000009999"
    place = len(f"{tmp_path.as_uri()}/xrays/000000000.png")
    # its columns: number, row and size of 8 bytes, key, output and place with 4 of each for where it begins
    assert sources.index.data.nbytes < count * (3 * 8 + 19 + 15 + place + 3 * 4 + 5)
    assert peak < 200 * count  # of Python: an int and its place in a set, 73 bytes, and a block


def test_nothing_to_read_is_said_before_anything_else(tmp_path) -> None:
    write_tree({"a/notes.txt": b"", "b.pdf": b""}, tmp_path)
    (tmp_path / "list.txt").write_text("\n \n")
    write_zip({"a.txt": b""}, tmp_path / "none.zip")
    for images, said in {
        str(tmp_path): r"4 files passed over \(1 \.pdf, 2 \.txt, 1 \.zip to be unpacked\); pass .*DICOM",
        f"{tmp_path}/none.zip": r"none\.zip: 1 file passed over \(\.txt\)",
        f"{tmp_path}/*.png": "no image in",
        "/no/where": "/no/where does not exist",
        "./nowhere": "./nowhere does not exist",
        "xrays/x.png": r"xrays/x\.png does not exist",
        "memory://nowhere": "memory://nowhere does not exist",
        f"{tmp_path}/list.txt": r"list\.txt lists nothing",
    }.items():
        with pytest.raises(FileNotFoundError, match=said):
            find_sources(images)


def test_what_cannot_be_looked_into_is_told(tmp_path) -> None:
    (tmp_path / "half.zip").write_bytes(write_zip(FILES, tmp_path / "whole.zip").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"half\.zip is not a whole zip"):
        find_sources(str(tmp_path / "half.zip"))
    (tmp_path / "list.csv").write_text("id,label\n1,0\n")
    with pytest.raises(ValueError, match=r"list\.csv has the columns \['id', 'label'\]: give it one of source, path"):
        find_sources(str(tmp_path / "list.csv"))


@pytest.mark.parametrize("look", [find_sources, list_folder], ids=["predict", "train"])
def test_zip_that_lists_a_file_without_a_name_is_damaged(look: Callable[..., object], tmp_path) -> None:
    path = write_zip(FILES, tmp_path / "xrays.zip")
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")  # of the directory; 28 bytes on: lengths of name, extra field and comment
    length = int.from_bytes(data[entry + 28 : entry + 30], "little")
    data[entry + 28 : entry + 34] = struct.pack("<HHH", 0, 0, length)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"xrays\.zip is .* whole zip \(.*no name"):
        look(path if look is list_folder else str(path))


def test_damaged_member_is_an_error_of_its_own(tmp_path) -> None:
    path = write_zip({"a.png": FILES["a/x.png"], "b.png": FILES["b/x.png"]}, tmp_path / "xrays.zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[0].header_offset
    data[start + 60] ^= 255  # in the bytes of a.png
    path.write_bytes(data)
    sources = find_sources(str(path))
    damaged, sound = (open_source for _, open_source in sources.stream(sources.index))
    with pytest.raises(Exception, match=r"CRC|invalid|Error"):
        damaged()
    assert np.asarray(open_image(sound())).size


def test_file_system_of_another_package_is_named() -> None:
    with pytest.raises(ImportError, match="s3fs"):
        find_sources("s3://bucket/xrays")


def test_masks_of_any_folder_are_passed_over_and_counted(tmp_path: Path) -> None:
    for name in ("xrays/a.png", "xrays/b_mask.png", "seg/a.png", "masks/left/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    found = find_sources(str(tmp_path))
    assert found.index["source"][:] == ["xrays/a.png"]
    assert found.passed_over == {"mask, by its place or name": (3, "masks/left/a.png")}
    assert find_sources(str(tmp_path / "seg")).index["source"][:] == ["a.png"]
