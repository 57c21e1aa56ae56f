"""The optional columns of the builder: findings in fixed words, and the NLM's lesions of Shenzhen X-rays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tiny

import chest_xray_masks as cxm

TRAIN, SICK, OTHER = "CHNCXR_0003_0", "CHNCXR_0327_1", "MCUCXR_0104_1"  # all in train
IDS = (TRAIN, SICK, OTHER)
Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load_dataset` of a tree's train split, with a cache of the test's own."""

    def load(tree: Path, **options: Any) -> datasets.Dataset:
        options |= {"data_dir": str(tree), "split": "train", "cache_dir": str(tmp_path / "cache")}
        return datasets.load_dataset("chest_xray_masks", "all", **options)

    return load


def by_id(rows: datasets.Dataset) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows}


def make(tmp_path: Path, more: dict[str, bytes] | None = None) -> Path:
    return tiny.write_tree(tiny.kaggle(IDS) | (more or {}), tmp_path / "set")


@pytest.mark.parametrize("streaming", [False, True])
def test_findings_as_columns(streaming: bool, tmp_path: Path, load: Load) -> None:
    reading = b"male 46yrs\r\ncavitary infiltrate RUL, no effusion, ?adenopathy; active TB"
    tree = make(tmp_path, {f"Lung Segmentation/ClinicalReadings/{SICK}.txt": reading})
    rows = load(tree, with_findings=True, streaming=streaming)
    assert list(rows.features) == [*cxm.FEATURES, *cxm.FINDINGS_FEATURES]
    row = by_id(rows)[SICK]
    named = {name: rows.features[name].int2str(row[name]) for name in ("side", "activity", "cavity", "effusion")}
    assert named == {"side": "right", "activity": "active", "cavity": "present", "effusion": "absent"}
    assert (row["zones"], row["miliary"]) == (["upper"], None)
    assert rows.features["adenopathy"].int2str(row["adenopathy"]) == "uncertain"
    well = by_id(rows)[TRAIN]
    assert (well["side"], well["zones"], well["activity"], well["cavity"]) == (None, [], None, 0)  # 0 is absent


def test_default_columns_and_cache_stay(tmp_path: Path, load: Load) -> None:
    tree = make(tmp_path)
    plain, said = load(tree), load(tree, with_findings=False)
    assert list(plain.features) == list(cxm.FEATURES)
    assert plain.cache_files == said.cache_files
    assert load(tree, with_findings=True).cache_files != plain.cache_files


def test_a_split_without_rows_has_the_columns(tmp_path: Path, load: Load) -> None:
    rows = load(make(tmp_path), with_findings=True)
    assert rows.num_rows == 3
    empty = datasets.load_dataset(
        "chest_xray_masks",
        "all",
        data_dir=str(tmp_path / "set"),
        split="test",
        with_findings=True,
        cache_dir=str(tmp_path / "cache"),
    )
    assert (empty.num_rows, list(empty.features)) == (0, list(rows.features))


def region(name: str, finding: str, **shape: Any) -> dict[str, Any]:
    return {"shape_attributes": {"name": name} | shape, "region_attributes": {finding: "good"}}


POLYGON = region("polygon", "Cavity", all_points_x=[2, 9, 9], all_points_y=[3, 3, 8])
POINT = region("point", "Pleural_Effusion", cx=4, cy=10)
RECT = region("rect", "Small_Infiltrate_(non-linear)", x=1, y=2, width=5, height=4)


def via(*regions: dict[str, Any], id: str = SICK) -> dict[str, Any]:
    """An entry of VGG's Image Annotator: its key is the file's name and size."""
    return {f"{id}.png1234": {"filename": f"{id}.png", "size": 1234, "regions": list(regions), "file_attributes": {}}}


def annotations(top: str = "Annotations") -> dict[str, bytes]:
    """The folder as the paper and its users describe it: one file of all, one for each X-ray, masks."""
    everything = json.dumps(via(POLYGON, POINT) | via(id="CHNCXR_0341_1")).encode()
    mask = np.zeros(tiny.size_of(SICK)[::-1], bool)
    mask[3:8, 2:9] = True
    return {
        f"{top}/Annotations_json/Annotations_AllinOne_json.json": everything,
        f"{top}/Annotations_json/SeparateFiles/{SICK}.json": json.dumps(via(POLYGON, POINT)).encode(),
        f"{top}/masks/{SICK}_Cavity_1.png": tiny.png(mask),
        f"{top}/masks/{SICK}_Clustered_Nodule_(2mm-5mm_apart)_3.png": tiny.png(mask),
        f"{top}/Statistics_ShenzhenDataset_US.csv": b"imagename,Cavity\n",
    }


@pytest.mark.parametrize("form", ["folder", "zip", "stream"])
def test_lesions(form: str, tmp_path: Path, load: Load) -> None:
    again = {"Annotations-2/Annotations_json/SeparateFiles/one.json": json.dumps(via(RECT)).encode()}
    tree = make(tmp_path, annotations() | again)
    if form == "zip":
        files = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
        tree = tmp_path / "set.zip"
        tree.write_bytes(tiny.zip_bytes(files))
    rows = by_id(load(tree, with_lesions=True, streaming=form == "stream"))
    assert rows[TRAIN]["lesions"] is None and rows[OTHER]["lesions"] is None
    lesions = rows[SICK]["lesions"]
    polygons = {(one["annotation"], one["finding"], *one["x"], *one["y"]) for one in lesions if one["mask"] is None}
    assert polygons == {
        ("Annotations", "Cavity", 2, 9, 9, 3, 3, 8),
        ("Annotations", "Pleural_Effusion", 4, 10),
        ("Annotations-2", "Small_Infiltrate_(non-linear)", 1, 6, 6, 1, 2, 2, 6, 6),
    }
    masks = {one["finding"]: np.asarray(one["mask"]) for one in lesions if one["mask"] is not None}
    assert set(masks) == {"Cavity", "Clustered_Nodule_(2mm-5mm_apart)"}
    assert masks["Cavity"][5, 5] == 255 and masks["Cavity"].sum() == 35 * 255


def test_lesions_are_no_files_of_the_set(tmp_path: Path) -> None:
    plain = cxm.scan(make(tmp_path / "a"))
    with_lesions = cxm.scan(make(tmp_path / "b", annotations()))
    assert len(with_lesions.files) == len(plain.files) and len(with_lesions.lesions) == 4


def test_an_annotated_xray_without_a_lesion_has_an_empty_list(tmp_path: Path) -> None:
    found = cxm.lesions_of(cxm.scan(make(tmp_path, annotations())))
    assert found["CHNCXR_0341_1"] == []


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (b"{", "one.json"),
        (b'{"a": 1}', "one.json"),
        (json.dumps(via(region("ellipse", "Cavity", cx=1, cy=1, rx=1, ry=1))).encode(), "ellipse"),
        (json.dumps(via(region("point", "Fracture", cx=1, cy=1))).encode(), "Fracture"),
        (json.dumps(via(region("point", "Cavity", cx=1, cy=4000))).encode(), "4000"),
    ],
)
def test_lesions_that_cannot_be_read_are_errors_that_name_them(
    entry: bytes, named: str, tmp_path: Path, load: Load
) -> None:
    tree = make(tmp_path, {"Annotations/Annotations_json/one.json": entry})
    with pytest.raises((ValueError, datasets.exceptions.DatasetGenerationError)) as caught:
        load(tree, with_lesions=True)
    assert named in f"{caught.value} {caught.value.__cause__}"


def test_a_tree_without_lesions_is_an_error_that_says_so(tmp_path: Path, load: Load) -> None:
    with pytest.raises(FileNotFoundError, match="Annotations"):
        load(make(tmp_path), with_lesions=True)
