"""The two sets as others offer them again: other folders, formats and tables; what is not used is said."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny
from PIL import Image
from test_layouts import check_rows, examples, pixels, write

import chest_xray_masks as cxm
from chest_xray_masks import ChestXrayMasks, Reader, read_row, rows_of, scan

Rename = Callable[[str], str]


def masks(form: str, ids: tuple[str, ...] = tiny.IDS) -> dict[str, bytes]:
    """Whole masks by name."""
    return {form.format(id=id): tiny.mask_png(id) for id in ids}


def halves(form: str, ids: tuple[str, ...] = tiny.IDS) -> dict[str, bytes]:
    """A mask of one lung each; `form` holds {side} and {id}."""
    sides = {id: zip(("left", "right"), tiny.lungs_of(id), strict=True) for id in ids}
    return {form.format(side=side, id=id): tiny.png(lung) for id, both in sides.items() for side, lung in both}


def images(form: str, ids: tuple[str, ...] = tiny.IDS) -> dict[str, bytes]:
    return {form.format(id=id): tiny.image_png(id) for id in ids}


def readings(form: str) -> dict[str, bytes]:
    return {form.format(id=id): tiny.reading(id) for id in tiny.IDS}


MC, SHENZHEN = tiny.MC_IDS, tiny.SHENZHEN_IDS
LAYOUTS = {
    "mendeley": images("Montgomery/img/{id}.png", MC)
    | masks("Montgomery/mask/{id}.png", MC)
    | images("Shenzhen/img/{id}.png", SHENZHEN)
    | masks("Shenzhen/mask/{id}.png", SHENZHEN),
    "dataset": images("dataset/images/{id}.png") | masks("dataset/masks/{id}.png"),
    "dataset, _mask": images("dataset/images/{id}.png") | masks("dataset/mask/{id}_mask.png"),
    "sites": images("data/montgomery/images/{id}.png", MC)
    | images("data/shenzhen/images/{id}.png", SHENZHEN)
    | halves("data/montgomery/masks/{side}/{id}.png", MC)
    | halves("data/shenzhen/masks/{side}/{id}.png", SHENZHEN)
    | readings("data/all/clinical_readings/{id}.txt"),
    "mask_left": images("CXR_png/{id}.png") | halves("mask_{side}/{id}_mask.png"),
    "leftMask, _mask": images("CXR_png/{id}.png") | halves("ManualMask/{side}Mask/{id}_mask.png"),
    "left_masks": images("Images/{id}.png") | halves("{side}_masks/{id}.png"),
    "side in the name": images("image/{id}.png") | halves("masks/{id}_{side}.png"),
    "side and mask in the name": images("imgs/{id}.png") | halves("lungs/{id}_{side}_mask.png"),
    "side of a lung": images("X-rays/{id}.png") | halves("Lung masks/{side} lung/{id}.png"),
    "split folders": images("images/train/{id}.png") | masks("masks/train/{id}.png"),
    "split at the top": images("test/images/{id}.png") | masks("test/masks/{id}.png"),
    "classes": images("images/Normal/{id}.png", tuple(id for id in tiny.IDS if id[-1] == "0"))
    | images("images/Tuberculosis/{id}.png", tuple(id for id in tiny.IDS if id[-1] == "1"))
    | masks("lung_masks/{id}.png"),
    "twice": images("images/images/{id}.png") | images("CXR_png/{id}.png") | masks("mask/mask/{id}_mask.png"),
    "sites in names": images("montgomery_images/{id}.png", MC)
    | images("shenzhen_cxr/{id}.png", SHENZHEN)
    | masks("MergedMask/{id}.png"),
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str, kind: str, tmp_path: Path) -> None:
    files = readings("ClinicalReadings/{id}.txt") | LAYOUTS[name]
    files = {path: data for path, data in files.items() if name != "sites" or "ClinicalReadings" not in path}
    check_rows(examples(write(files, kind, tmp_path)))


def saved(data: bytes, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("L").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "tif", "tiff"])
def test_copies_in_other_formats(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """X-rays and masks of JPEG or TIFF are read as they are; that JPEG loses detail is said."""
    kind = "JPEG" if suffix[0] in "jJ" else "TIFF"
    files = {name[:-3] + suffix: saved(data, kind) for name, data in LAYOUTS["dataset"].items()}
    rows = examples(tiny.write_tree(files, tmp_path))
    assert {id: row["image"]["bytes"] for id, row in rows.items()} == {
        id: files[f"dataset/images/{id}.{suffix}"] for id in tiny.IDS
    }
    for id, row in rows.items():  # of noise some pixels at an edge are off
        assert np.mean((pixels(row["mask"]) == 255) != np.logical_or(*tiny.lungs_of(id))) < 0.1
    assert ("6 X-rays of " in caplog.text and ".jpg copies" in caplog.text) == (kind == "JPEG")


def test_masks_as_jpeg_beside_x_rays_as_png(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {name: data for name, data in tiny.kaggle().items() if "/masks/" not in name}
    lungs = {id: np.kron(np.logical_or(*tiny.lungs_of(id)), np.ones((8, 8), bool)) for id in tiny.IDS}
    for id, mask in lungs.items():
        files[f"Lung Segmentation/CXR_png/{id}.png"] = tiny.png(mask * np.uint8(90))
        files[f"Lung Segmentation/masks/{tiny.mask_name(id)[:-4]}.jpg"] = saved(tiny.png(mask), "JPEG")
    rows = examples(tiny.write_tree(files, tmp_path))
    for id, row in rows.items():
        assert np.mean((pixels(row["mask"]) == 255) != lungs[id]) < 0.002
    assert not caplog.records


def test_a_tiff_in_which_0_is_white_is_turned(tmp_path: Path) -> None:
    stored = np.arange(20 * 16, dtype=np.uint16).reshape(20, 16) * 200
    for number, pixels_stored in ((1, stored), (2, stored // 16)):
        buffer = io.BytesIO()
        Image.fromarray(pixels_stored).save(buffer, "TIFF", tiffinfo={262: 0})
        tiny.write_tree({f"images/MCUCXR_000{number}_0.tif": buffer.getvalue()}, tmp_path)
    rows = examples(tmp_path)
    assert np.array_equal(pixels(rows["MCUCXR_0001_0"]["image"]), 65535 - stored)
    assert np.array_equal(pixels(rows["MCUCXR_0002_0"]["image"]), 4095 - stored // 16)


# Copies, and what is not used


def test_png_of_the_known_folders_goes_before_copies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = tiny.kaggle() | {f"images/{id}.png": tiny.png(tiny.pixels_of(id) // 2) for id in tiny.IDS}
    files |= {f"CXR_jpg/{id}.jpg": saved(tiny.image_png(id), "JPEG") for id in tiny.IDS[:4]}
    tree = tiny.write_tree(files, tmp_path)
    check_rows(examples(tree), without_mask=[tiny.WITHOUT_MASK])
    assert [row.message for row in cxm.unused(scan(tree))] == [
        "4 files named like X-rays of the set in CXR_jpg/ are not used (the X-rays are read from "
        "Lung Segmentation/CXR_png)",
        "6 files named like X-rays of the set in images/ are not used (the X-rays are read from "
        "Lung Segmentation/CXR_png)",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("other", ["masks/MCUCXR_0001_0_mask.png", "lung_masks/MCUCXR_0001_0.png"])
def test_two_masks_that_differ_are_both_named(other: str, tmp_path: Path) -> None:
    files = tiny.kaggle(("MCUCXR_0001_0",)) | {other: tiny.png(tiny.lungs_of("MCUCXR_0001_0")[0])}
    with pytest.raises(ValueError, match="of MCUCXR_0001_0 that differ: keep one") as error:
        examples(tiny.write_tree(files, tmp_path))
    assert other in str(error.value) and "Lung Segmentation/masks/MCUCXR_0001_0.png" in str(error.value)


@pytest.mark.parametrize("other", ["jpg", "tif"])
def test_a_mask_in_two_formats_must_be_of_the_same_lungs(other: str, tmp_path: Path) -> None:
    kind = {"jpg": "JPEG", "tif": "TIFF"}[other]
    lung = np.kron(np.logical_or(*tiny.lungs_of("MCUCXR_0001_0")), np.ones((16, 16), bool))
    files = {"images/MCUCXR_0001_0.png": tiny.png(lung * np.uint8(9)), "masks/MCUCXR_0001_0.png": tiny.png(lung)}
    files[f"masks/MCUCXR_0001_0.{other}"] = saved(tiny.png(lung), kind)
    assert len(examples(tiny.write_tree(files, tmp_path / "alike"))) == 1
    files[f"masks/MCUCXR_0001_0.{other}"] = saved(tiny.png(lung & np.roll(lung, 90, 1)), kind)
    with pytest.raises(ValueError, match=rf"MCUCXR_0001_0\.{other}.*MCUCXR_0001_0\.png are copies"):
        examples(tiny.write_tree(files, tmp_path / "other"))


UNUSED = {
    "unknown folder": ({"previews/CHNCXR_0001_0.png", "previews/CHNCXR_0002_0.jpg"}, "2 files .* in previews/ are"),
    "resized": ({"images_256/CHNCXR_0001_0.png"}, "1 file named like an X-ray of the set in images_256/ is"),
    "masked": ({"masked_images/CHNCXR_0001_0.png"}, "masked_images/ is not used"),
    "no folder": ({"CHNCXR_0001_0.png"}, "is not used"),
    "a second download": ({"CXR_png/CHNCXR_0001_0 (1).png"}, "CXR_png/ is"),
    "no label": ({"CXR_png/CHNCXR_0001.png"}, "CXR_png/ is"),
    "another format": ({"CXR_png/CHNCXR_0001_0.bmp"}, "CXR_png/ is"),
    "deep in a zip's folder": ({"a/b/c/CHNCXR_0009_1.jpeg"}, "a/b/c/ is"),
    "mask without X-ray": ({"masks/CHNCXR_0009_1_mask.png"}, r"masks/ is not used \(their X-rays are not there\)"),
    "test without X-ray": ({"test/CHNCXR_0009_1.png"}, r"test/ is not used \(their X-rays are not there\)"),
    "one lung without X-ray": ({"masks/left/CHNCXR_0009_1.png"}, "masks/left/ is"),
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("case", UNUSED)
def test_what_has_the_sets_names_and_is_not_used_is_said(
    case: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names, said = UNUSED[case]
    files = tiny.kaggle(("MCUCXR_0001_0", "CHNCXR_0003_0")) | dict.fromkeys(names, tiny.image_png("CHNCXR_0001_0"))
    source = write(files, kind, tmp_path)
    assert [row.id for row in rows_of(scan(source))] == ["CHNCXR_0003_0", "MCUCXR_0001_0"]
    assert [re.search(said, record.getMessage()) is not None for record in caplog.records] == [True]
    caplog.clear()
    rows_of(scan(source), "Montgomery")  # whose files are all used
    assert not caplog.records


def test_it_is_said_by_every_load_also_from_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = tiny.write_tree(tiny.kaggle() | images("previews/{id}.png"), tmp_path / "set")
    for _ in range(2):
        caplog.clear()
        datasets.load_dataset("chest_xray_masks", data_dir=str(tree), cache_dir=str(tmp_path / "cache"))
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert sum("6 files named like X-rays of the set in previews/ are not used" in one for one in said) == 1


def test_a_sound_copy_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows_of(scan(tiny.write_tree(tiny.kaggle() | tiny.kaggle(top="again/Lung Segmentation/"), tmp_path)))
    assert not caplog.records


def test_a_site_in_an_unknown_folder_is_no_silent_loss(tmp_path: Path) -> None:
    files = tiny.nlm_montgomery() | images("somewhere/{id}.png", SHENZHEN)
    with pytest.raises(FileNotFoundError, match="no Shenzhen .*3 files named like X-rays of the set in somewhere/"):
        examples(tiny.write_tree(files, tmp_path), "Shenzhen")


# Tables


def table(*rows: str, heading: str = "study_id,sex,age,findings") -> bytes:
    return "\n".join((heading, *rows)).encode()


def with_table(
    data: bytes, ids: tuple[str, ...], name: str = "shenzhen_metadata.csv", **more: bytes
) -> dict[str, bytes]:
    return images("images/images/{id}.png", ids) | {name: data} | more


def facts(folder: Path) -> dict[str, tuple]:
    return {id: (row["sex"], row["age_years"], row["findings"]) for id, row in examples(folder).items()}


def test_table(tmp_path: Path) -> None:
    rows = ("CHNCXR_0001_0.png,Male,45,normal", 'CHNCXR_0348_1.png,Female,32,"PTB , right pleural change"')
    ids = ("CHNCXR_0001_0", "CHNCXR_0002_0", "CHNCXR_0348_1")
    tree = tiny.write_tree(with_table(table(*rows, "CHNCXR_0662_1.png,,,x"), ids), tmp_path)
    assert facts(tree) == {
        "CHNCXR_0001_0": ("male", 45, "normal"),
        "CHNCXR_0002_0": (None, None, None),
        "CHNCXR_0348_1": ("female", 32, "PTB , right pleural change"),
    }
    assert examples(tree)["CHNCXR_0001_0"]["reading"] is None


@pytest.mark.parametrize(
    "data",
    [
        table("MCUCXR_0001_0;F;031Y;normal", heading="Study_ID;Gender;Age;Findings"),
        table("MCUCXR_0001_0.png\tfemale\t31.0\tnormal", heading="study_id\tsex\tage\tfindings"),
        table("normal,31,images\\MCUCXR_0001_0.PNG,f", heading="findings,age,filename,gender"),
        table("MCUCXR_0001_0.png,Female,31,normal").decode().encode("utf-16"),
        table("MCUCXR_0001_0.png,Female,31,normal\r").replace(b"findings", b"findings\r"),
        b"\xef\xbb\xbf" + table("mcucxr_0001_0.png,Female,31,normal"),
        table("MCUCXR_0001_0.png,,,female 31yrs normal"),
    ],
    ids=["semicolons", "tabs", "other columns", "UTF-16", "CRLF", "mark", "all in the findings"],
)
def test_tables_of_other_forms(data: bytes, tmp_path: Path) -> None:
    files = with_table(data, ("MCUCXR_0001_0",), "montgomery_metadata.csv")
    assert facts(tiny.write_tree(files, tmp_path)) == {"MCUCXR_0001_0": ("female", 31, "normal")}


def test_a_reading_goes_before_a_table(tmp_path: Path) -> None:
    files = with_table(table("CHNCXR_0202_0.png,Male,64,abnormal"), ("CHNCXR_0202_0",))
    files["ClinicalReadings/CHNCXR_0202_0.txt"] = b"female 64days\r\nnormal"
    assert facts(tiny.write_tree(files, tmp_path)) == {
        "CHNCXR_0202_0": ("female", pytest.approx(64 / 365.25), "normal")
    }


def test_known_errors_of_the_table_are_put_right_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = {
        "CHNCXR_0030_0": ("Male,38", ("female", 38, "normal")),
        "CHNCXR_0115_0": ("Male,16", ("male", pytest.approx(16 / 12), "normal")),
        "CHNCXR_0202_0": ("Female,64", ("female", pytest.approx(64 / 365.25), "normal")),
        "CHNCXR_0650_1": ("Male,50", (None, 50, "normal")),  # its reading is not known
    }
    right = {
        "CHNCXR_0116_0": ("Male,49", ("male", 49, "normal")),
        "CHNCXR_0201_0": ("Male,1.3", ("male", 1.3, "normal")),
    }
    rows = [f"{id}.png,{cells},normal" for id, (cells, _) in (wrong | right).items()]
    found = facts(tiny.write_tree(with_table(table(*rows), tuple(wrong | right)), tmp_path))
    assert found == {id: expected for id, (_, expected) in sorted((wrong | right).items())}
    assert f"sex or age of {', '.join(wrong)} are known to be wrong" in caplog.text


def test_what_is_no_sex_and_no_age_is_none(tmp_path: Path) -> None:
    ids = ("CHNCXR_0001_0", "CHNCXR_0002_0")
    rows = table("CHNCXR_0001_0.png,unknown,0,", "CHNCXR_0002_0.png,nan,150,nan")
    found = facts(tiny.write_tree(with_table(rows, ids), tmp_path))
    assert {id: one[:2] for id, one in found.items()} == dict.fromkeys(ids, (None, None))


def test_two_tables(tmp_path: Path) -> None:
    files = with_table(table("CHNCXR_0001_0.png,Male,45,normal"), ("CHNCXR_0001_0",))
    tree = tiny.write_tree(files | {"again/metadata.csv": files["shenzhen_metadata.csv"]}, tmp_path)
    assert facts(tree) == {"CHNCXR_0001_0": ("male", 45, "normal")}
    (tree / "again/metadata.csv").write_bytes(table("CHNCXR_0001_0.png,Male,46,normal"))
    with pytest.raises(ValueError, match="say different things of CHNCXR_0001_0: keep one") as error:
        examples(tree)
    assert "again/metadata.csv" in str(error.value) and "shenzhen_metadata.csv" in str(error.value)


@pytest.mark.parametrize("data", [b"", b"file_name,label\na.png,1\n", b"\0\xff" * 99, b"x" * 2**23])
def test_tables_of_other_images_do_not_matter(data: bytes, tmp_path: Path) -> None:
    tree = tiny.write_tree(tiny.kaggle() | {"metadata.csv": data}, tmp_path)
    check_rows(examples(tree), without_mask=[tiny.WITHOUT_MASK])


def test_a_table_says_which_x_rays_are_of_one_patient(tmp_path: Path) -> None:
    ids = ("MCUCXR_0101_1", "MCUCXR_0102_1")
    data = table("MCUCXR_0102_1.png,M,40,same pt as MCUCXR_0101_1")
    rows = rows_of(scan(tiny.write_tree(with_table(data, ids), tmp_path)))
    assert {row.patient_id for row in rows} == {"MCUCXR_0101"}


def test_a_changed_table_is_read_again(tmp_path: Path) -> None:
    tree = tiny.write_tree(with_table(table("CHNCXR_0001_0.png,Male,45,normal"), ("CHNCXR_0001_0",)), tmp_path / "set")
    for age in (45, 46):
        (tree / "shenzhen_metadata.csv").write_bytes(table(f"CHNCXR_0001_0.png,Male,{age},normal"))
        rows = datasets.load_dataset("chest_xray_masks", data_dir=str(tree), cache_dir=str(tmp_path / "cache"))
        assert [age for split in rows.values() for age in split["age_years"]] == [age]


# What is neither a folder nor a zip of the set


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"data_files": "x.png"}, ValueError, "takes no data_files, got x.png: pass data_dir"),
        ({"data_files": {"train": "*.png"}, "data_dir": "."}, ValueError, "takes no data_files"),
        ({"data_dir": "hf://datasets/you/chest_xray_masks"}, ValueError, 'load_dataset("you/chest_xray_masks")'),
        ({"data_dir": "hf://datasets/you/xrays@main/MC"}, ValueError, 'load_dataset("you/xrays")'),
        ({"data_dir": "https://huggingface.co/datasets/you/xrays"}, ValueError, 'load_dataset("you/xrays")'),
        ({"data_dir": "you/xrays"}, FileNotFoundError, 'load_dataset("you/xrays")'),
        ({"data_dir": "s3://bucket/set.zip"}, ConnectionError, "pass a folder or a zip of this machine"),
        ({"data_dir": ""}, ValueError, "data_dir is empty"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_the_way_out_is_said_at_once(
    options: dict, error: type[Exception], said: str, streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChestXrayMasks, "_download", lambda *_: pytest.fail("it was downloaded"))
    with pytest.raises(error, match=re.escape(said)):
        datasets.load_dataset("chest_xray_masks", "MC", cache_dir=str(tmp_path), streaming=streaming, **options)


def test_a_builder_made_by_hand_takes_no_data_files() -> None:
    with pytest.raises(ValueError, match="takes no data_files"):
        ChestXrayMasks(config_name="MC", data_files="*.png")


# Masks that can hardly be of lungs


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda mask: ~mask, "looks inverted: it covers"),
        (lambda mask: mask & False, "holds no lung"),
        (lambda mask: np.pad(np.ones_like(mask)[2:-2, 2:-2], 2), "covers "),
    ],
    ids=["inverted", "empty", "too much"],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_masks_of_no_lungs_are_said_once(
    change: Callable, said: str, streaming: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are kept as they are: which pixels are lung is not for the builder to guess."""
    files, ids = tiny.kaggle(), ("MCUCXR_0001_0", "MCUCXR_0002_0")  # both are in train
    masks = {id: change(np.logical_or(*tiny.lungs_of(id))) for id in ids}
    files |= {f"Lung Segmentation/masks/{id}.png": tiny.png(mask) for id, mask in masks.items()}
    tree = tiny.write_tree(files, tmp_path / "set")
    rows = cxm.load("all", tree, "train", streaming=streaming, cache_dir=str(tmp_path / "cache"))
    found = {row["id"]: np.asarray(row["mask"]) for row in rows if row["id"] in ids}
    assert all(np.array_equal(found[id] == 255, masks[id]) for id in ids)
    records = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(records) == (2 if streaming else 1)  # a stream goes shard by shard
    assert all(sum(f"the mask of {id} {said}" in record for record in records) == 1 for id in ids)
    assert not any("MCUCXR_0104_1" in record for record in records)


def test_real_masks_are_as_they_were(real_data_dir: Path) -> None:
    """All 449 hold what is above 127, and none is in doubt."""
    with Reader() as reader:
        for row in rows_of(scan(real_data_dir)):
            if row.masks:
                mask = np.asarray(Image.open(io.BytesIO(reader(row.masks[0]))).convert("L")) > 127
                assert np.array_equal(pixels(read_row(row, reader)["mask"]) == 255, mask), row.id
    assert not reader.odd_masks
