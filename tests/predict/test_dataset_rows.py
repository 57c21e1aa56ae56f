import shutil
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tiny import image_png

from hub_models.dataset.sources import load_splits
from hub_models.imaging.source import open_image
from hub_models.predict.index import Sources
from hub_models.predict.inputs import find_sources

PNGS = [image_png("MCUCXR_0001_0"), image_png("CHNCXR_0001_0"), image_png("CHNCXR_0327_1")]


def opened(sources: Sources, rows: list[int] | None = None) -> dict[str, bytes]:
    chosen = sources.index if rows is None else sources.index.select(rows)
    return {row["source"]: open_source() for row, open_source in sources.stream(chosen)}


def write(path: Path, group: int = 100, **columns: list) -> Path:
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def test_parquet_of_datasets_is_read_by_its_ids(tmp_path) -> None:
    images = [{"bytes": png, "path": None} for png in PNGS]
    rows = datasets.Dataset.from_dict({"id": ["c", "a", "b"], "image": images})
    rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / "xrays.parquet")
    sources = find_sources(str(tmp_path / "xrays.parquet"))
    assert opened(sources) == dict(zip("cab", PNGS, strict=True))  # in the table's own order
    assert find_sources(str(tmp_path)).digest == sources.digest  # the folder holds no image, but the table


def test_damaged_page_of_ids_is_told_in_one_line(tmp_path) -> None:
    path = write(tmp_path / "xrays.parquet", image=PNGS, id=["a", "b", "c"])
    chunk = pyarrow.parquet.read_metadata(path).row_group(0).column(1)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + 8] = b"\xff" * 8  # its header
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"\Axrays\.parquet is not a whole Parquet file \([^\n]*\): get it again\Z"):
        find_sources(str(path))
    with pytest.raises(ValueError, match=r"\A[^\n]*xrays\.parquet cannot be read as a dataset \([^\n]*\Z"):
        load_splits(path)


def test_parquet_of_bytes_is_read_by_file_and_row_where_ids_repeat(tmp_path) -> None:
    write(tmp_path / "b.parquet", png=PNGS[:2], id=[7, 7])
    write(tmp_path / "a.parquet", png=PNGS[2:], id=[8])
    found = opened(find_sources(f"{tmp_path}/*.parquet"))
    keys = ["a.parquet/0", "b.parquet/0", "b.parquet/1"]
    assert found == dict(zip(keys, [PNGS[2], *PNGS[:2]], strict=True))


def test_chosen_rows_come_from_their_row_groups(tmp_path) -> None:
    cells = [str(number).encode() for number in range(20)]
    for group in (1, 3, 20):
        sources = find_sources(str(write(tmp_path / "many.parquet", group, image=cells)))
        assert list(opened(sources, [0, 2, 3, 11, 19]).values()) == [b"0", b"2", b"3", b"11", b"19"]


def test_damaged_row_group_is_an_error_of_its_rows(tmp_path) -> None:
    path = write(tmp_path / "xrays.parquet", 2, image=[str(number).encode() for number in range(6)])
    column = pyarrow.parquet.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[column.dictionary_page_offset] ^= 255  # the header of its first page
    path.write_bytes(data)
    sources = find_sources(str(path))
    opens = [open_source for _, open_source in sources.stream(sources.index)]
    assert [opens[row]() for row in (0, 1, 4, 5)] == [b"0", b"1", b"4", b"5"]
    for row in (2, 3):
        with pytest.raises(ValueError, match=r"^row group 1 cannot be read \(.*\): get a sound copy$"):
            opens[row]()
    (row,) = sources.stream(sources.index.select([3]))
    with pytest.raises(ValueError, match="row group 1"):
        row[1]()


def test_parquet_of_an_object_store() -> None:
    memory = fsspec.filesystem("memory")
    with memory.open("/bucket/xrays.parquet", "wb") as file:
        pyarrow.parquet.write_table(pyarrow.table({"image": PNGS}), file)
    try:
        assert list(opened(find_sources("memory://bucket/xrays.parquet")).values()) == PNGS
        assert list(opened(find_sources("memory://bucket/*.parquet")).values()) == PNGS
    finally:
        memory.rm("/bucket", recursive=True)


def test_cell_may_hold_a_path_if_allowed_and_an_empty_one_is_an_error_of_its_row(tmp_path) -> None:
    (tmp_path / "x.png").write_bytes(PNGS[0])
    image = [{"bytes": None, "path": str(tmp_path / "x.png")}, {"bytes": None, "path": None}]
    sources = find_sources(str(write(tmp_path / "xrays.parquet", image=image)), allow_paths=True)
    first, second = (open_source for _, open_source in sources.stream(sources.index))
    assert first() == tmp_path / "x.png"
    with pytest.raises(ValueError, match="the row holds no image"):
        second()


def test_column_is_the_one_named_image_the_only_one_or_wanted(tmp_path) -> None:
    path = str(write(tmp_path / "xrays.parquet", front=PNGS, side=PNGS[::-1]))
    with pytest.raises(ValueError, match=r"has the image columns \['front', 'side'\], got None: name one of them"):
        find_sources(path)
    with pytest.raises(ValueError, match="got back: name one of them with --image_column"):
        find_sources(path, column="back")
    assert list(opened(find_sources(path, column="side")).values()) == PNGS[::-1]
    with pytest.raises(ValueError, match=r"none\.parquet has no image column, but \['text'\]"):
        find_sources(str(write(tmp_path / "none.parquet", text=["a"])))


def test_digest_tells_columns_and_tables_apart(tmp_path) -> None:
    paths = [write(tmp_path / name / "xrays.parquet", front=PNGS, side=PNGS) for name in ("a", "b")]
    front, side, other = (
        find_sources(str(path), column=column).digest
        for path, column in ((paths[0], "front"), (paths[0], "side"), (paths[1], "front"))
    )
    assert len({front, side, other}) == 3
    assert front == find_sources(f"{tmp_path}/a/*.parquet", column="front").digest


def test_digest_tells_how_a_dataset_was_wanted(phantoms, tmp_path, monkeypatch) -> None:
    name, split = "chest_xray_masks", "test[:2]"
    digest = find_sources(name, "MC", split, str(phantoms)).digest
    copy = shutil.copytree(phantoms, tmp_path / "copy")
    for others in (("MC", split, str(copy)), ("MC", "test[:100%]", str(phantoms)), ("all", split, str(phantoms))):
        assert find_sources(name, *others).digest != digest
    monkeypatch.chdir(phantoms.parent)
    assert find_sources(name, "MC", split, phantoms.name).digest == digest


def test_own_dataset_is_read_by_its_ids(phantoms) -> None:
    splits = load_splits(phantoms)
    sources = find_sources("chest_xray_masks", data_dir=str(phantoms))
    assert list(sources.index["source"]) == [id for part in splits.values() for id in part["id"]]
    test = find_sources("chest_xray_masks", "MC", "test[:2]", str(phantoms))
    ids = list(test.index["source"])
    assert len(ids) == 2 and all(id.startswith("MCUCXR") for id in ids)
    rows = {row["id"]: row["image"] for row in splits["test"]}
    for id, data in opened(test).items():
        np.testing.assert_array_equal(np.asarray(open_image(data)), np.asarray(rows[id]))


def test_split_of_the_set_is_that_of_the_builder(tiny_set, tmp_path) -> None:
    """Kaggle's folder `test` holds other X-rays, those without a mask."""
    tree = shutil.copytree(tiny_set, tmp_path / "set")
    (other,) = {path.parent for path in tree.rglob("CXR_png/*.png")}
    shutil.copytree(other, other.parent / "test")
    sources = find_sources(str(tree), split="test")
    assert sources.digest == find_sources("chest_xray_masks", split="test", data_dir=str(tree)).digest
    assert list(sources.index["source"]) == list(load_splits(tree)["test"]["id"])
    of_site = find_sources(str(tree), "MC", "train")
    assert list(of_site.index["source"]) == [id for id in load_splits(tree)["train"]["id"] if id.startswith("MC")]


@pytest.mark.parametrize(("name", "way"), [("", {"split": "test"}), ("xrays/*.png", {"config": "MC"})])
def test_folder_of_files_has_no_splits_here(name, way, tmp_path) -> None:
    """`datasets` would take its masks for X-rays, and its folders for labels."""
    for folder in ("xrays", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.png").write_bytes(PNGS[0])
    (tmp_path / "labels.csv").write_text("file,split\none.png,test\n")
    with pytest.raises(ValueError, match="--split and --config_name are of a dataset or the set"):
        find_sources(str(tmp_path / name), **way)


def test_split_that_a_dataset_has_not_is_named(tmp_path) -> None:
    write(tmp_path / "train.parquet", image=PNGS)
    with pytest.raises(ValueError, match=f"{tmp_path} has no split fold1 .*train"):
        find_sources(str(tmp_path), split="fold1")


def test_dataset_without_ids_is_read_by_split_and_row(tmp_path, monkeypatch) -> None:
    write(tmp_path / "train.parquet", image=[{"bytes": png, "path": None} for png in PNGS])
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": [{"bytes": png, "path": None} for png in PNGS]}, features).to_parquet(
        tmp_path / "train.parquet"
    )
    sources = find_sources(str(tmp_path), split="train")
    assert opened(sources) == {f"train/{row}": PNGS[row] for row in range(3)}
    monkeypatch.chdir(tmp_path.parent)
    assert find_sources(tmp_path.name, split="train").digest == sources.digest


def test_no_dataset_of_that_name_is_said() -> None:
    with pytest.raises(FileNotFoundError, match="no file, folder or dataset xrays"):
        find_sources("xrays")
