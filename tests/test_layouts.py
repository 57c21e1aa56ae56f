"""Every layout in which users hold the set, as folder and as zip, and every way in which a copy can be broken."""

import io
import os
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from tiny import dicom

import chest_xray_masks
from chest_xray_masks import Reader, TooManyPixelsError, check_image, dicom_png, mask_png, read_row, rows_of, scan


def kmader() -> dict[str, bytes]:
    return tiny.nlm_montgomery(top="Montgomery/MontgomerySet/") | tiny.nlm_shenzhen(
        top="ChinaSet_AllFiles/ChinaSet_AllFiles/"
    )


NO_SHENZHEN_MASKS = tiny.SHENZHEN_IDS
LAYOUTS = {  # name -> (files, ids without mask)
    "kaggle": (tiny.kaggle(), [tiny.WITHOUT_MASK]),
    "kaggle_in_data": (tiny.kaggle(top="data/Lung Segmentation/"), [tiny.WITHOUT_MASK]),
    "kaggle_twice": (tiny.kaggle() | tiny.kaggle(top="data/Lung Segmentation/"), [tiny.WITHOUT_MASK]),
    "kaggle_deep": (tiny.kaggle(top="a/b c/d/Lung Segmentation/"), [tiny.WITHOUT_MASK]),
    "kaggle_flat": (tiny.kaggle(top=""), [tiny.WITHOUT_MASK]),
    "kmader": (kmader(), NO_SHENZHEN_MASKS),
    "nlm": (tiny.nlm_montgomery() | tiny.nlm_shenzhen(), NO_SHENZHEN_MASKS),
    "nlm_and_masks": (tiny.nlm_montgomery() | tiny.nlm_shenzhen() | tiny.shenzhen_masks(), [tiny.WITHOUT_MASK]),
}


def examples(source: str | Path, site: str | None = None) -> dict[str, dict]:
    """Rows by id, as the builder yields them."""
    with Reader() as reader:
        return {row.id: read_row(row, reader) for row in rows_of(scan(str(source)), site)}


def write(files: dict[str, bytes], kind: str, folder: Path) -> Path:
    return tiny.write_tree(files, folder) if kind == "folder" else tiny.write_zip(files, folder / "set.zip")


def pixels(cell: dict) -> np.ndarray:
    with Image.open(io.BytesIO(cell["bytes"])) as image:
        return np.asarray(image)


def check_rows(rows: dict[str, dict], ids: tuple[str, ...] = tiny.IDS, without_mask: tuple[str, ...] = ()) -> None:
    """The rows are those of `ids`, each with its own image, mask and reading."""
    assert tuple(rows) == ids
    for id, row in rows.items():
        assert row["image"]["bytes"] == tiny.image_png(id)
        if id in without_mask:
            assert row["mask"] is None
        else:
            left, right = tiny.lungs_of(id)
            with Image.open(io.BytesIO(row["mask"]["bytes"])) as mask:
                assert mask.mode == "L"
            assert np.array_equal(pixels(row["mask"]), np.where(left | right, 255, 0))
        assert row["label"] == int(id[-1])
        assert row["patient_id"] == id[:-2]
        assert row["site"] == ("Montgomery" if id.startswith("MCU") else "Shenzhen")
        assert (row["sex"], row["age_years"]) == (("female", 31) if id.startswith("MCU") else ("male", 46))
        assert row["findings"] == ("infiltrate left" if id.endswith("1") else "normal")
        assert row["reading"].encode() == tiny.reading(id)


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str, kind: str, tmp_path: Path) -> None:
    files, without_mask = LAYOUTS[name]
    check_rows(examples(write(files, kind, tmp_path)), without_mask=without_mask)


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_site_of_a_layout(name: str, tmp_path: Path) -> None:
    source = tiny.write_tree(LAYOUTS[name][0], tmp_path)
    check_rows(examples(source, "Montgomery"), tiny.MC_IDS)
    check_rows(examples(source, "Shenzhen"), tiny.SHENZHEN_IDS, LAYOUTS[name][1])


def test_zips_side_by_side(tmp_path: Path) -> None:
    tiny.write_zip(tiny.nlm_montgomery(), tmp_path / "NLM-MontgomeryCXRSet.zip")
    tiny.write_zip(tiny.nlm_shenzhen(), tmp_path / "NLM-ChinaCXRSet.ZIP")
    tiny.write_zip(tiny.shenzhen_masks(), tmp_path / "deep" / "shcxr-lung-mask.zip")
    (tmp_path / "._NLM-MontgomeryCXRSet.zip").write_bytes(b"Mac OS X")
    check_rows(examples(tmp_path), without_mask=[tiny.WITHOUT_MASK])


def test_one_zip_per_folder_of_the_set(tmp_path: Path) -> None:
    """The folder's name is the zip's: CXR_png.zip holds bare files."""
    for folder in ("CXR_png", "masks", "ClinicalReadings", "test"):
        files = {name.rpartition("/")[2]: data for name, data in tiny.kaggle().items() if f"/{folder}/" in name}
        tiny.write_zip(files, tmp_path / f"{folder}.zip")
    check_rows(examples(tmp_path), without_mask=[tiny.WITHOUT_MASK])


def test_folder_beside_its_own_zip_is_read_from_the_folder(tmp_path: Path) -> None:
    tiny.write_tree(tiny.kaggle(), tmp_path)
    tiny.write_zip(tiny.kaggle(), tmp_path / "archive.zip")
    check_rows(examples(tmp_path), without_mask=[tiny.WITHOUT_MASK])
    assert {file.member for file in scan(str(tmp_path)).chosen().values()} == {""}
    assert len(scan(str(tmp_path)).files) == 2 * len(scan(str(tmp_path)).chosen())


def test_half_unpacked_zip_is_completed_from_the_zip(tmp_path: Path) -> None:
    tiny.write_zip(tiny.kaggle(), tmp_path / "archive.zip")
    tiny.write_tree(tiny.kaggle(tiny.IDS[:2]), tmp_path)
    check_rows(examples(tmp_path), without_mask=[tiny.WITHOUT_MASK])


def test_zip_written_on_windows(tmp_path: Path) -> None:
    files = {name.replace("/", "\\"): data for name, data in tiny.kaggle().items()}
    check_rows(examples(tiny.write_zip(files, tmp_path / "set.zip")), without_mask=[tiny.WITHOUT_MASK])


def test_test_folder_is_never_counted(tmp_path: Path) -> None:
    tiny.write_tree(tiny.kaggle(), tmp_path)
    tree = scan(str(tmp_path))
    assert sorted(file.id for file in tree.files if file.role == "image") == list(tiny.IDS)
    assert [file.id for file in tree.files if file.role == "test_copy"] == [tiny.WITHOUT_MASK]
    for folder in ("test", "masks", "ClinicalReadings"):  # none holds an image
        with pytest.raises(
            FileNotFoundError, match=f"no Montgomery or Shenzhen chest X-rays in .*{folder}: looked for"
        ):
            rows_of(scan(str(tmp_path / "Lung Segmentation" / folder)))


def test_mask_beside_the_images_is_a_mask(tmp_path: Path) -> None:
    files = {name.replace("/masks/CHN", "/CXR_png/CHN"): data for name, data in tiny.kaggle().items()}
    check_rows(examples(tiny.write_tree(files, tmp_path)), without_mask=[tiny.WITHOUT_MASK])


def test_data_dir_may_be_the_image_folder_itself(tmp_path: Path) -> None:
    tiny.write_tree(tiny.kaggle(), tmp_path)
    rows = examples(tmp_path / "Lung Segmentation" / "CXR_png")
    assert tuple(rows) == tiny.IDS
    columns = ("mask", "sex", "age_years", "findings", "reading")
    assert {row[column] for row in rows.values() for column in columns} == {None}


def test_names_in_any_case(tmp_path: Path) -> None:
    files = {name.replace("CXR_png", "cxr_PNG").replace(".png", ".PNG"): data for name, data in tiny.kaggle().items()}
    files = {name.replace(".txt", ".Txt").replace("/masks", "/MASKS"): data for name, data in files.items()}
    check_rows(examples(tiny.write_tree(files, tmp_path)), without_mask=[tiny.WITHOUT_MASK])
    lower = {name.replace("CHNCXR", "chncxr").replace("MCUCXR", "mcucxr"): data for name, data in files.items()}
    check_rows(examples(tiny.write_tree(lower, tmp_path / "lower")), without_mask=[tiny.WITHOUT_MASK])


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_systems_leave_behind_is_ignored(kind: str, tmp_path: Path) -> None:
    files, id = tiny.kaggle(), "CHNCXR_0009_1"
    for name in (
        f"__MACOSX/Lung Segmentation/CXR_png/{id}.png",
        f"__MACOSX/CXR_png/._{id}.png",
        f"Lung Segmentation/CXR_png/._{id}.png",
        f"Lung Segmentation/CXR_png/.ipynb_checkpoints/{id}.png",
        f"Lung Segmentation/CXR_png/.ipynb_checkpoints/{id}-checkpoint.png",
        f"Lung Segmentation/CXR_png/{id} (1).png",
        f"Lung Segmentation/CXR_png/{id}.png.part",
        f"Lung Segmentation/previews/{id}.png",
        "Lung Segmentation/CXR_png/CHNCXR_0009_2.png",
        "Lung Segmentation/ClinicalReadings/._CHNCXR_0001_0.txt",
        "Lung Segmentation/ClinicalReadings/CHNCXR_0001_0_mask.txt",
    ):
        files[name] = b"no image of the set"
    check_rows(examples(write(files, kind, tmp_path)), without_mask=[tiny.WITHOUT_MASK])


def test_one_lung_of_two_is_no_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = tiny.nlm_montgomery()
    del files["MontgomerySet/ManualMask/rightMask/MCUCXR_0002_0.png"]
    rows = examples(tiny.write_tree(files, tmp_path))
    check_rows(rows, tiny.MC_IDS, without_mask=["MCUCXR_0002_0"])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "leftMask/MCUCXR_0002_0.png is one lung of two: MCUCXR_0002_0 has no mask" in caplog.text


def test_a_whole_mask_is_preferred_to_two_lungs(tmp_path: Path) -> None:
    files = tiny.nlm_montgomery() | {f"masks/{id}.png": tiny.mask_png(id) for id in tiny.MC_IDS}
    files["MontgomerySet/ManualMask/leftMask/MCUCXR_0001_0.png"] = b"not even read"
    check_rows(examples(tiny.write_tree(files, tmp_path)), tiny.MC_IDS)


def test_what_is_absent_is_null(tmp_path: Path) -> None:
    files = tiny.kaggle()
    del files["Lung Segmentation/masks/MCUCXR_0001_0.png"]
    del files["Lung Segmentation/ClinicalReadings/MCUCXR_0001_0.txt"]
    files["Lung Segmentation/ClinicalReadings/MCUCXR_0002_0.txt"] = b""
    files["Lung Segmentation/ClinicalReadings/MCUCXR_0104_1.txt"] = b"no idea"
    files["Lung Segmentation/masks/CHNCXR_0333_1_mask.png"] = tiny.mask_png("CHNCXR_0333_1")  # of no image
    rows = examples(tiny.write_tree(files, tmp_path))
    said = {id: [row[key] for key in ("sex", "age_years", "findings", "reading")] for id, row in rows.items()}
    assert said["MCUCXR_0001_0"] == [None] * 4 and rows["MCUCXR_0001_0"]["mask"] is None
    assert said["MCUCXR_0002_0"] == [None, None, None, ""]
    assert said["MCUCXR_0104_1"] == [None, None, "no idea", "no idea"]
    assert tuple(rows) == tiny.IDS


def test_tree_with_one_site(tmp_path: Path) -> None:
    tiny.write_tree(tiny.nlm_montgomery(), tmp_path)
    check_rows(examples(tmp_path), tiny.MC_IDS)
    with pytest.raises(FileNotFoundError, match="no Shenzhen chest X-rays in "):
        examples(tmp_path, "Shenzhen")


def test_images_of_one_patient_share_an_id(tmp_path: Path) -> None:
    ids = ("MCUCXR_0113_1", "MCUCXR_0117_1", "MCUCXR_0162_1", "MCUCXR_0166_1", "MCUCXR_0170_1", "MCUCXR_0200_0")
    files = tiny.kaggle(ids)
    files["Lung Segmentation/ClinicalReadings/MCUCXR_0200_0.txt"] = b"NO REPORT (same pt as MCUCXR_0170_1)"
    expected = ["MCUCXR_0113", "MCUCXR_0113", *["MCUCXR_0162"] * 4]
    assert [row.patient_id for row in rows_of(scan(str(tiny.write_tree(files, tmp_path))))] == expected


# Folders


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_linked_folders_and_a_circle(tmp_path: Path) -> None:
    real = tiny.write_tree(tiny.kaggle(), tmp_path / "store") / "Lung Segmentation"
    tree = tmp_path / "tree"
    tree.mkdir()
    # read before CXR_png, by names that say nothing: the images must not be taken for seen
    (tree / "A_link").symlink_to(real / "CXR_png")
    for name in ("CXR_png", "masks", "ClinicalReadings", "test"):
        (tree / name).symlink_to(real / name)
    (tree / "again").symlink_to(tree)
    (tree / "CXR_again").symlink_to(tmp_path)
    check_rows(examples(tree), without_mask=[tiny.WITHOUT_MASK])
    (tmp_path / "link").symlink_to(tree)
    check_rows(examples(tmp_path / "link"), without_mask=[tiny.WITHOUT_MASK])


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_linked_files_and_a_dead_link(tmp_path: Path) -> None:
    store = tiny.write_tree(tiny.kaggle(), tmp_path / "store")
    for name in tiny.kaggle():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).symlink_to(store / name)
    check_rows(examples(tmp_path / "tree"), without_mask=[tiny.WITHOUT_MASK])
    (store / "Lung Segmentation/CXR_png/MCUCXR_0001_0.png").unlink()
    with pytest.raises(ValueError, match=r"CXR_png/MCUCXR_0001_0.png cannot be read \(.*No such file.*\): replace"):
        examples(tmp_path / "tree")


def test_relative_and_home_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_tree(tiny.kaggle(), tmp_path / "my süt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in ("my süt", "my süt/", "./my süt/../my süt", "~/my süt", ".", tmp_path / "my süt"):
        assert [row.id for row in rows_of(scan(source))] == list(tiny.IDS)
    monkeypatch.chdir(tmp_path / "my süt/Lung Segmentation/CXR_png")
    assert [row.id for row in rows_of(scan("."))] == list(tiny.IDS)


def test_nothing_of_the_set(tmp_path: Path) -> None:
    tiny.write_tree({"cats/cat.png": tiny.png(np.zeros((4, 4), np.uint8)), "notes.txt": b"x"}, tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        rows_of(scan(str(tmp_path)))
    for said in (
        str(tmp_path),
        "CXR_png",
        "MCUCXR",
        "Lung Segmentation",
        "MontgomerySet",
        "ChinaSet_AllFiles",
        ".dcm",
    ):
        assert said in str(error.value)


# Zips


@pytest.mark.parametrize("data", [b"", b"PK", b"<html>no zip</html>" * 100], ids=["empty", "short", "html"])
@pytest.mark.parametrize("inside", [False, True])
def test_file_that_is_no_zip(data: bytes, inside: bool, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"set\.zip is not a whole zip \(.*\): download it again, or pass"):
        rows_of(scan(str(tmp_path if inside else tmp_path / "set.zip")))


def test_zip_cut_anywhere(tmp_path: Path) -> None:
    data = tiny.zip_bytes(tiny.kaggle())
    path = tmp_path / "set.zip"
    for cut in [*range(1, len(data), len(data) // 150), *range(len(data) - 30, len(data))]:
        path.write_bytes(data[:cut])
        with pytest.raises(ValueError, match="set.zip.* get the zip again|set.zip is not a whole zip"):
            examples(path)


@pytest.mark.parametrize(
    "name", ["/CXR_png/{}", "../CXR_png/{}", "a/../../CXR_png/{}", "C:/CXR_png/{}", "c:\\CXR_png\\{}", "\\CXR_png\\{}"]
)
def test_zip_member_with_an_unsafe_path(name: str, tmp_path: Path) -> None:
    files = tiny.kaggle() | {name.format("MCUCXR_0003_0.png"): tiny.image_png("MCUCXR_0003_0")}
    tiny.write_zip(files, tmp_path / "set.zip")
    with pytest.raises(ValueError, match=r"MCUCXR_0003_0\.png has an unsafe path in the zip: get the zip again"):
        rows_of(scan(str(tmp_path / "set.zip")))


def break_member(data: bytes, name: str, broken: bytes, offset: int) -> bytes:
    """The zip with `broken` at `offset` behind the local name of a member."""
    at = data.index(name.encode()) + len(name) + offset
    return data[:at] + broken + data[at + len(broken) :]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("CXR_png/MCUCXR_0001_0.png", 30),
        ("masks/MCUCXR_0001_0.png", 30),
        ("masks/CHNCXR_0001_0_mask.png", 30),
        ("ClinicalReadings/MCUCXR_0001_0.txt", 3),
    ],
)
def test_damaged_zip_member(name: str, offset: int, method: int, tmp_path: Path) -> None:
    name = f"Lung Segmentation/{name}"
    data = break_member(tiny.zip_bytes(tiny.kaggle(), method), name, b"\x55\xaa\x55\xaa", offset)
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(ValueError, match=rf"set\.zip/{name} cannot be read from its zip \(.*\): get the zip again"):
        examples(tmp_path / "set.zip")


# bit 0 of the flags: encrypted; two bytes behind them the method of compression
@pytest.mark.parametrize(("offset", "value", "said"), [(6, 1, "encrypted"), (8, 99, "")], ids=["encrypted", "unknown"])
def test_zip_member_that_cannot_be_unpacked(offset: int, value: int, said: str, tmp_path: Path) -> None:
    data = bytearray(tiny.zip_bytes({"CXR_png/MCUCXR_0001_0.png": tiny.image_png("MCUCXR_0001_0")}))
    for signature, start in ((b"PK\x03\x04", offset), (b"PK\x01\x02", offset + 2)):
        data[data.index(signature) + start] = value
    (tmp_path / "set.zip").write_bytes(data)
    with pytest.raises(ValueError, match=rf"MCUCXR_0001_0\.png cannot be read from its zip \(.*{said}.*\): get"):
        examples(tmp_path / "set.zip")


# Images


@pytest.mark.parametrize(
    "data",
    [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + tiny.png_chunk(b"IEND", b"")]
    + [tiny.bare_png(18, 20)[:33] + tiny.png_chunk(b"IEND", b""), b"<html>", b"\xff\xd8\xff\xe0"],
)
@pytest.mark.parametrize("folder", ["CXR_png", "masks"])
def test_garbage_image(data: bytes, folder: str, tmp_path: Path) -> None:
    files = tiny.kaggle() | {f"Lung Segmentation/{folder}/MCUCXR_0002_0.png": data}
    with pytest.raises(ValueError, match=rf"{folder}/MCUCXR_0002_0\.png cannot be decoded as an image \("):
        examples(tiny.write_tree(files, tmp_path))


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_png_cut_anywhere(mode: str) -> None:
    """Each cut is found: in the signature, in a chunk, and at the border of two, as each offset is tried."""
    data = tiny.png(np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8), mode)
    assert check_image(data, "a.png") == (16, 16)
    for cut in range(len(data)):
        with pytest.raises(ValueError, match=r"a\.png cannot be decoded as an image"):
            check_image(data[:cut], "a.png")


def test_png_cut_between_its_data_chunks() -> None:
    packed = chest_xray_masks.zlib.compress(bytes(17 * 16))
    half = len(packed) // 2
    header = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", packed[:half]), (b"IDAT", packed[half:]), (b"IEND", b"")]
    splits = [b"\x89PNG\r\n\x1a\n", *(tiny.png_chunk(*chunk) for chunk in chunks)]
    assert check_image(b"".join(splits), "a.png") == (16, 16)
    for length in range(1, len(splits)):
        with pytest.raises(ValueError, match=r"a\.png cannot be decoded as an image"):
            check_image(b"".join(splits[:length]), "a.png")


def test_any_changed_byte_of_a_png_is_found() -> None:
    data = tiny.png(np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8))
    for at in range(len(data)):
        with pytest.raises(ValueError, match=r"a\.png "):
            check_image(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :], "a.png")


def test_jpeg_named_png_is_unpacked_to_be_sure() -> None:
    buffer = io.BytesIO()
    Image.fromarray(tiny.pixels_of("MCUCXR_0001_0")).save(buffer, "JPEG")
    assert check_image(buffer.getvalue(), "a.png") == tiny.size_of("MCUCXR_0001_0")
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded as an image"):
        check_image(buffer.getvalue()[:-100], "a.png")


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (10_000, 10_001),  # past MAX_PIXELS, 100 million
        (100_000_001, 1),
        (14_000, 14_000),  # past the double of PIL's own limit, 89 million, where PIL raises
        (2**31 - 1, 2**31 - 1),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_image_past_a_sane_size(width: int, height: int, tmp_path: Path) -> None:
    files = {"CXR_png/MCUCXR_0001_0.png": tiny.bare_png(width, height)}
    with pytest.raises(TooManyPixelsError, match=r"CXR_png/MCUCXR_0001_0\.png has .*more than 100000000"):
        examples(tiny.write_tree(files, tmp_path))


def test_mask_of_another_size(tmp_path: Path) -> None:
    files = tiny.kaggle()
    files["Lung Segmentation/masks/MCUCXR_0002_0.png"] = tiny.png(np.zeros((18, 20), np.uint8))
    # image 2 is 18x20 (width x height), so a transposed mask is found too
    with pytest.raises(ValueError, match=r"masks/MCUCXR_0002_0\.png is a mask of 20x18 pixels, its image 18x20: make"):
        examples(tiny.write_tree(files, tmp_path))


def test_mask_whose_pixels_cannot_be_unpacked(tmp_path: Path) -> None:
    """Checksums right, pixels wrong: found in a mask, which is unpacked; in an image it is the audit's to find."""
    broken = tiny.bare_png(*tiny.size_of("MCUCXR_0002_0"), pixels=b"not packed")
    files = tiny.kaggle() | {"Lung Segmentation/masks/MCUCXR_0002_0.png": broken}
    with pytest.raises(ValueError, match=r"masks/MCUCXR_0002_0\.png cannot be decoded as a mask \(.*\): get"):
        examples(tiny.write_tree(files, tmp_path))
    assert check_image(broken, "a.png") == tiny.size_of("MCUCXR_0002_0")


MASK = np.array([[True, False, True], [False, False, True]])


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(MASK),
        Image.fromarray(MASK.astype(np.uint8)),  # 0 and 1
        Image.fromarray(MASK * np.uint8(255)),
        Image.fromarray(np.where(MASK, 128, 127).astype(np.uint8)),  # soft edges: above 127 is lung
        Image.fromarray(MASK * np.uint16(65535)),
        Image.fromarray(np.where(MASK, 40000, 2000).astype(np.uint16)),
        Image.fromarray(MASK * np.uint8(255)).convert("P"),
        Image.fromarray(MASK * np.uint8(255)).convert("RGB"),
        Image.fromarray(MASK * np.uint8(255)).convert("RGBA"),
        Image.fromarray(MASK * np.uint8(255)).convert("LA"),
    ],
    ids=["1", "L01", "L", "soft", "I;16", "I;16 soft", "P", "RGB", "RGBA", "LA"],
)
def test_masks_of_any_mode(image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    with Image.open(io.BytesIO(mask_png([("m.png", buffer.getvalue())], (3, 2)))) as mask:
        assert mask.mode == "L"
        assert np.array_equal(np.asarray(mask), np.where(MASK, 255, 0))


def test_empty_and_full_masks() -> None:
    for value in (0, 255):
        data = mask_png([("m.png", tiny.png(np.full((2, 3), value, np.uint8)))], (3, 2))
        assert np.array_equal(pixels({"bytes": data}), np.full((2, 3), value))


# DICOM


STORED = np.array([[0, 1, 255, 256], [2048, 4000, 4094, 4095]], np.uint16)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (lambda: dicom(STORED, 12), STORED),
        (lambda: dicom(STORED, 12, "MONOCHROME1"), 4095 - STORED),  # 0 was white
        (lambda: dicom(STORED * 16, 16), STORED * 16),
        (lambda: dicom(STORED * 16, 16, "MONOCHROME1"), 65535 - STORED * 16),
        (lambda: dicom((STORED % 256).astype(np.uint8), 8), STORED % 256),
        # signed 12 bits from -2048 to 2047: shifted to start at 0
        (lambda: dicom((STORED.astype(np.int16) - 2048), 12, signed=True), STORED),
        (lambda: dicom((STORED.astype(np.int16) - 2048), 12, "MONOCHROME1", signed=True), 4095 - STORED),
    ],
    ids=["12", "12 inverted", "16", "16 inverted", "8", "signed", "signed inverted"],
)
def test_dicom_pixels_keep_their_values(data, expected: np.ndarray) -> None:
    with Image.open(io.BytesIO(dicom_png(data(), "a.dcm"))) as image:
        assert image.mode == "I;16"
        assert np.array_equal(np.asarray(image), expected)


def dicom_tree() -> dict[str, bytes]:
    files = {name: data for name, data in tiny.nlm_montgomery().items() if "/CXR_png/" not in name}
    suffixes = (".dcm", ".DCM", ".dicom")
    for id, suffix in zip(tiny.MC_IDS, suffixes, strict=True):
        files[f"MontgomerySet/CXR_dcm/{id}{suffix}"] = dicom(tiny.pixels_of(id).astype(np.uint16) * 16, 12)
    return files


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_dicom_layout(kind: str, tmp_path: Path) -> None:
    rows = examples(write(dicom_tree(), kind, tmp_path))
    assert tuple(rows) == tiny.MC_IDS
    for id, row in rows.items():
        assert np.array_equal(pixels(row["image"]), tiny.pixels_of(id).astype(np.uint16) * 16)
        assert np.array_equal(pixels(row["mask"]) == 255, np.logical_or(*tiny.lungs_of(id)))


def test_png_is_preferred_to_dicom(tmp_path: Path) -> None:
    files = dicom_tree() | {f"MontgomerySet/CXR_png/{id}.png": tiny.image_png(id) for id in tiny.MC_IDS}
    check_rows(examples(tiny.write_tree(files, tmp_path)), tiny.MC_IDS)


def test_dicom_without_pydicom_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.write_tree(dicom_tree(), tmp_path)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"MCUCXR_0001_0\.dcm is DICOM, which needs pydicom: pip install pydicom$"):
        examples(source)
    assert len(scan(str(source)).chosen()) == 4 * 3  # to look at the tree needs no pydicom


@pytest.mark.parametrize(
    "data",
    [
        lambda: b"",
        lambda: b"no DICOM" * 100,
        lambda: dicom(STORED, 12)[:-5],
        lambda: dicom(STORED, 12)[:200],
        lambda: dicom(np.zeros((2, 4, 3), np.uint8), 8, "RGB"),
        lambda: dicom(np.zeros((4, 4), np.uint16), 12, NumberOfFrames=2, Rows=2),
    ],
    ids=["empty", "garbage", "cut", "cut in the header", "colour", "two frames"],
)
def test_dicom_that_cannot_be_read(data) -> None:
    with pytest.raises(ValueError, match=r"a\.dcm cannot be read as a gray DICOM X-ray \(.*\): get a sound copy"):
        dicom_png(data(), "a.dcm")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_file_without_the_right_to_read_it(tmp_path: Path) -> None:
    path = tiny.write_tree(tiny.kaggle(), tmp_path) / "Lung Segmentation/CXR_png/MCUCXR_0001_0.png"
    path.chmod(0)
    with pytest.raises(PermissionError, match="MCUCXR_0001_0"):
        examples(tmp_path)


def test_a_file_that_goes_away_meanwhile_is_named(tmp_path: Path) -> None:
    rows = rows_of(scan(str(tiny.write_tree(tiny.kaggle(), tmp_path))))
    shutil.rmtree(tmp_path / "Lung Segmentation" / "CXR_png")
    with Reader() as reader, pytest.raises(FileNotFoundError, match=r"CXR_png.CHNCXR_0001_0\.png"):
        read_row(rows[0], reader)
