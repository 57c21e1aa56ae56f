"""The builder through `datasets`: every way to load it, its cache, its splits and its download."""

import csv
import http.server
import io
import os
import pickle
import re
import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import tiny
from PIL import Image

import chest_xray_masks
from chest_xray_masks import FEATURES, SITES, SPLITS, ChestXrayMasks, patients_of, rows_of, scan, split_of

# Which split each id belongs to follows from the salt: these fill all splits of both sites.
MC = {
    "train": ["MCUCXR_0001_0", "MCUCXR_0002_0", "MCUCXR_0104_1"],
    "validation": ["MCUCXR_0043_0", "MCUCXR_0188_1"],
    "test": ["MCUCXR_0022_0", "MCUCXR_0140_1"],
}
SHENZHEN = {
    "train": ["CHNCXR_0003_0", "CHNCXR_0004_0", "CHNCXR_0327_1"],
    "validation": ["CHNCXR_0005_0", "CHNCXR_0341_1"],
    "test": ["CHNCXR_0006_0", "CHNCXR_0331_1"],
}
EXPECTED = {"MC": MC, "Shenzhen": SHENZHEN, "all": {name: SHENZHEN[name] + MC[name] for name in SPLITS}}
IDS = tuple(sorted(id for ids in EXPECTED["all"].values() for id in ids))
COLUMNS = ["id", "patient_id", "site", "image", "mask", "label", "sex", "age_years", "findings", "reading"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tiny.write_tree(tiny.kaggle(IDS), tmp_path / "the set")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., datasets.DatasetDict]:
    """`load_dataset` of the builder by its name, with a cache of the test's own."""
    cache = str(tmp_path / "cache")
    return lambda *args, **kwargs: datasets.load_dataset("chest_xray_masks", *args, cache_dir=cache, **kwargs)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry, the number of rows, for each split that is really built."""
    splits, generate = [], ChestXrayMasks._generate_examples

    def counted(self: ChestXrayMasks, shards: list, ahead: int) -> Iterator:
        splits.append(sum(map(len, shards)))
        return generate(self, shards, ahead)

    monkeypatch.setattr(ChestXrayMasks, "_generate_examples", counted)
    return splits


def raw_rows(split: datasets.Dataset | datasets.IterableDataset) -> list[dict]:
    """Rows with the images' bytes."""
    for column in ("image", "mask"):
        split = split.cast_column(column, datasets.Image(decode=False))
    return list(split)


def ids_of(splits: dict) -> dict[str, list[str]]:
    return {name: [row["id"] for row in raw_rows(split)] for name, split in splits.items()}


# Ways to load


@pytest.mark.parametrize("config", EXPECTED)
@pytest.mark.parametrize("how", [{}, {"streaming": True}, {"num_proc": 2}], ids=["plain", "streaming", "num_proc"])
def test_load_dataset(config: str, how: dict, tree: Path, load: Callable) -> None:
    splits = load(config, data_dir=str(tree), **how)
    assert list(splits) == list(SPLITS)
    assert ids_of(splits) == EXPECTED[config]
    for name in SPLITS:
        assert splits[name].features == FEATURES
        assert list(splits[name].features) == list(next(iter(splits[name]))) == COLUMNS


@pytest.mark.parametrize("streaming", [False, True])
def test_one_split(streaming: bool, tree: Path, load: Callable) -> None:
    split = load("MC", data_dir=str(tree), split="test", streaming=streaming)
    assert [row["id"] for row in split] == MC["test"]
    assert str(split.split) == "test"


@pytest.mark.parametrize("how", [{}, {"streaming": True}], ids=["plain", "streaming"])
def test_load_is_load_dataset(how: dict, tree: Path, tmp_path: Path) -> None:
    place = {"data_dir": tree, "cache_dir": str(tmp_path)}
    assert ids_of(chest_xray_masks.load(**place, **how)) == EXPECTED["all"]
    assert [row["id"] for row in chest_xray_masks.load("MC", split="test", **place, **how)] == MC["test"]


def test_data_files_are_not_dropped_in_silence(tree: Path, load: Callable) -> None:
    with pytest.raises(ValueError, match=r"takes no data_files, got .*set\.zip.*: pass data_dir"):
        load("MC", data_files="set.zip")


def test_slices_of_splits(tree: Path, load: Callable) -> None:
    assert [row["id"] for row in load("MC", data_dir=str(tree), split="train+test")] == MC["train"] + MC["test"]
    assert [row["id"] for row in load("MC", data_dir=str(tree), split="train[:2]")] == MC["train"][:2]
    last = datasets.ReadInstruction("test", from_=-1, unit="abs")
    assert [row["id"] for row in load("MC", data_dir=str(tree), split=last)] == MC["test"][-1:]


def test_unknown_config_and_split(tree: Path, load: Callable) -> None:
    with pytest.raises(
        ValueError, match=r"BuilderConfig 'Montgomery' not found. Available: \['MC', 'Shenzhen', 'all'\]"
    ):
        load("Montgomery", data_dir=str(tree))
    with pytest.raises(ValueError, match='Unknown split "dev"'):
        load("MC", data_dir=str(tree), split="dev")


def test_every_way_gives_the_same_rows(tree: Path, load: Callable, tmp_path: Path) -> None:
    packed = str(tiny.write_zip(tiny.kaggle(IDS), tmp_path / "archive.zip"))
    ways = {
        "plain": load(data_dir=str(tree)),
        "streaming": load(data_dir=str(tree), streaming=True),
        "num_proc": load(data_dir=str(tree), num_proc=2, download_mode="force_redownload"),
        "zip": load(data_dir=packed),
        "zip streaming": load(data_dir=packed, streaming=True),
        "zip num_proc": load(data_dir=packed, num_proc=2, download_mode="force_redownload"),
    }
    rows = {way: {name: raw_rows(split) for name, split in splits.items()} for way, splits in ways.items()}
    for way in ways:
        assert rows[way] == rows["plain"], way


def test_a_row(tree: Path, load: Callable) -> None:
    row = load("MC", data_dir=str(tree), split="train")[2]
    left, right = tiny.lungs_of("MCUCXR_0104_1")
    image, mask = row.pop("image"), row.pop("mask")
    assert row == {
        "id": "MCUCXR_0104_1",
        "patient_id": "MCUCXR_0104",
        "site": 0,
        "label": 1,
        "sex": 0,
        "age_years": 31.0,
        "findings": "infiltrate left",
        "reading": "Patient's Sex: F \nPatient's Age: 031Y\ninfiltrate left\n",
    }
    assert np.array_equal(np.asarray(image), tiny.pixels_of("MCUCXR_0104_1"))
    assert (mask.mode, mask.size) == ("L", image.size)
    assert np.array_equal(np.asarray(mask), np.where(left | right, 255, 0))


def test_class_names(tree: Path, load: Callable) -> None:
    features = load("MC", data_dir=str(tree), split="train").features
    assert features["site"].names == ["Montgomery", "Shenzhen"]
    assert features["label"].names == ["normal", "tuberculosis"]
    assert features["sex"].names == ["female", "male", "other"]
    assert features["age_years"].dtype == "float32"


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_absent_is_null(streaming: bool, tree: Path, load: Callable) -> None:
    (tree / "Lung Segmentation/ClinicalReadings/CHNCXR_0006_0.txt").unlink()
    rows = load("Shenzhen", data_dir=str(tree), split="test", streaming=streaming)
    absent = {"mask", "sex", "age_years", "findings", "reading"}
    assert {name for name, value in next(iter(rows)).items() if value is None} == absent


@pytest.mark.parametrize("how", [{}, {"streaming": True}, {"num_proc": 2}], ids=["plain", "streaming", "num_proc"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_tree_too_small_for_all_splits(count: int, how: dict, tmp_path: Path, load: Callable) -> None:
    ids = ("MCUCXR_0001_0", "MCUCXR_0002_0", "MCUCXR_0022_0")[:count]  # train, train, test
    splits = load(data_dir=str(tiny.write_tree(tiny.kaggle(ids), tmp_path / "few")), **how)
    assert ids_of(splits) == {"train": list(ids[:2]), "validation": [], "test": list(ids[2:])}
    assert all(split.features == FEATURES for split in splits.values())
    if not how:
        assert splits["validation"].num_rows == 0
        assert splits["train"].info.description == splits["validation"].info.description
        assert load(data_dir=str(tmp_path / "few"), split="validation").column_names == COLUMNS
        joined = datasets.concatenate_datasets([splits["validation"], splits["train"]])
        assert joined["id"][:] == list(ids[:2])


# The builder itself


@pytest.mark.parametrize("config", EXPECTED)
def test_builder(config: str, tree: Path, tmp_path: Path) -> None:
    builder = ChestXrayMasks(config_name=config, data_dir=str(tree), cache_dir=str(tmp_path / "cache"))
    assert builder.info.features == FEATURES
    assert ids_of(builder.as_streaming_dataset()) == EXPECTED[config]
    builder.download_and_prepare()
    assert ids_of(builder.as_dataset()) == EXPECTED[config]
    assert builder.as_dataset(split="test")["id"][:] == EXPECTED[config]["test"]
    assert "NLM" in builder.info.license
    assert "10.1109/TMI.2013.2284099" in builder.info.citation


def image_bytes(rows: list[dict]) -> dict[str, bytes]:
    return {row["id"]: row["image"]["bytes"] for row in rows}


@pytest.mark.parametrize("num_proc", [None, 2])
def test_parquet_holds_the_files_own_bytes(num_proc: int | None, tree: Path, tmp_path: Path) -> None:
    builder = ChestXrayMasks(config_name="all", data_dir=str(tree), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet", num_proc=num_proc)
    shutil.rmtree(tree)  # they must not lean on the tree
    for name in SPLITS:
        files = sorted(str(path) for path in (tmp_path / "out").glob(f"*-{name}*.parquet"))
        rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "parquet"))
        assert rows.features == FEATURES
        assert image_bytes(raw_rows(rows)) == {id: tiny.image_png(id) for id in EXPECTED["all"][name]}


def test_arrow_holds_the_files_own_bytes(tree: Path, load: Callable, tmp_path: Path) -> None:
    splits = load(data_dir=str(tree))
    shutil.rmtree(tree)
    (tmp_path / "out").mkdir()
    for name, split in splits.items():
        assert image_bytes(raw_rows(split)) == {id: tiny.image_png(id) for id in EXPECTED["all"][name]}
        split.to_parquet(str(tmp_path / "out" / f"{name}.parquet"))
    again = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "parquet"))
    for name, split in splits.items():
        assert raw_rows(again[name]) == raw_rows(split)
        assert again[name].features == FEATURES


def test_empty_split_as_parquet(tmp_path: Path) -> None:
    source = tiny.write_tree(tiny.kaggle(("MCUCXR_0001_0",)), tmp_path / "one")
    builder = ChestXrayMasks(data_dir=str(source), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet")
    assert builder.info.splits["train"].num_examples == 1
    empty = pyarrow.parquet.read_table(next((tmp_path / "out").glob("*validation*.parquet")))
    assert (empty.num_rows, empty.column_names) == (0, COLUMNS)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_stream_splits_among_workers(kind: str, tree: Path, load: Callable, tmp_path: Path) -> None:
    """As a DataLoader does: each worker unpickles the stream and reads its fraction of the shards."""
    source = tree if kind == "folder" else tiny.write_zip(tiny.kaggle(IDS), tmp_path / "archive.zip")
    stream = load(data_dir=str(source), split="train", streaming=True)
    assert stream.num_shards == len(EXPECTED["all"]["train"])
    workers = [pickle.loads(pickle.dumps(stream.shard(3, index))) for index in range(3)]
    seen = [[row["id"] for row in raw_rows(worker)] for worker in workers]
    assert all(seen)
    assert sorted(sum(seen, [])) == sorted(EXPECTED["all"]["train"])
    assert ids_of({"train": stream.shuffle(seed=0)})["train"] != EXPECTED["all"]["train"]


def test_stream_stopped_and_resumed(tree: Path, load: Callable) -> None:
    stream = load(data_dir=str(tree), split="train", streaming=True)
    rows = iter(stream)
    first = [next(rows)["id"] for _ in range(2)]
    state = stream.state_dict()
    rows.close()
    resumed = load(data_dir=str(tree), split="train", streaming=True)
    resumed.load_state_dict(state)
    assert first + [row["id"] for row in resumed] == EXPECTED["all"]["train"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_first_streamed_row_reads_no_other_image(kind: str, tmp_path: Path, load: Callable) -> None:
    files = tiny.kaggle(IDS)
    for name in files:
        if "/CXR_png/" in name or "/masks/" in name:
            files[name] = files[name] if "CHNCXR_0003_0" in name else b"no image"
    source = tmp_path / "set"
    source = tiny.write_tree(files, source) if kind == "folder" else tiny.write_zip(files, tmp_path / "set.zip")
    rows = iter(load(data_dir=str(source), split="train", streaming=True))
    assert next(rows)["id"] == "CHNCXR_0003_0"
    with pytest.raises(ValueError, match=r"CHNCXR_0004_0\.png cannot be decoded"):
        next(rows)


@pytest.mark.parametrize("how", [{}, {"num_proc": 2}], ids=["plain", "num_proc"])
def test_a_broken_image_stops_the_build_and_leaves_nothing(how: dict, tree: Path, load: Callable) -> None:
    path = tree / "Lung Segmentation/CXR_png/CHNCXR_0004_0.png"
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    with pytest.raises(datasets.exceptions.DatasetGenerationError) as error:
        load(data_dir=str(tree), **how)
    assert "CHNCXR_0004_0.png cannot be decoded" in str(error.value.__cause__)
    path.write_bytes(data)
    assert ids_of(load(data_dir=str(tree), **how)) == EXPECTED["all"]


# The cache


def test_unchanged_tree_is_not_built_again(tree: Path, load: Callable, built: list[int]) -> None:
    first = load("MC", data_dir=str(tree))
    assert built == [3, 2, 2]
    again = load("MC", data_dir=str(tree))
    assert built == [3, 2, 2]
    for name in SPLITS:
        assert again[name].cache_files == first[name].cache_files
        assert again[name]._fingerprint == first[name]._fingerprint


def test_builder_by_hand_shares_the_cache_and_what_was_mapped(
    tree: Path, load: Callable, built: list[int], tmp_path: Path
) -> None:
    mapped = load("MC", data_dir=str(tree))["train"].map(lambda row: {"letters": len(row["id"])})
    builder = ChestXrayMasks(config_name="MC", data_dir=str(tree), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    assert built == [3, 2, 2]
    assert all(Path(file["filename"]).is_file() for file in mapped.cache_files)
    assert builder.as_dataset()["train"].cache_files == load("MC", data_dir=str(tree))["train"].cache_files


def replace_with_same_size(folder: Path) -> None:
    path = folder / "CXR_png/MCUCXR_0001_0.png"
    before = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))


CHANGES = {
    "image added": lambda folder: (folder / "CXR_png/MCUCXR_0003_0.png").write_bytes(tiny.image_png("MCUCXR_0003_0")),
    "image removed": lambda folder: (folder / "CXR_png/MCUCXR_0001_0.png").unlink(),
    "mask removed": lambda folder: (folder / "masks/MCUCXR_0001_0.png").unlink(),
    "mask replaced": lambda folder: (folder / "masks/MCUCXR_0001_0.png").write_bytes(tiny.mask_png("MCUCXR_0017_0")),
    "reading changed": lambda folder: (folder / "ClinicalReadings/MCUCXR_0001_0.txt").write_bytes(b"male 9yrs\nPTB"),
    "image of the same size": replace_with_same_size,
    "image touched": lambda folder: (folder / "CXR_png/MCUCXR_0001_0.png").touch(),
    "zip that is cut off": lambda folder: (folder / "more.zip").write_bytes(b"PK\x03\x04"),
}
NO_CHANGES = {
    "other site": lambda folder: (folder / "CXR_png/CHNCXR_0003_0.png").unlink(),
    "copy in test": lambda folder: (folder / "test/CHNCXR_0006_0.png").unlink(),
    "no file of the set": lambda folder: (folder / "CXR_png/Thumbs.db").write_bytes(b"changed"),
    "second copy": lambda folder: shutil.copytree(folder / "CXR_png", folder / "a copy" / "CXR_png"),
    "moved": lambda folder: folder.rename(folder.parent / "elsewhere"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_tree_is_built_again(change: Callable, tree: Path, load: Callable, built: list[int]) -> None:
    before = load("MC", data_dir=str(tree))
    built.clear()
    change(tree / "Lung Segmentation")
    if (tree / "Lung Segmentation" / "more.zip").exists():
        with pytest.raises(ValueError, match="more.zip is not a whole zip"):
            load("MC", data_dir=str(tree))
        return
    after = load("MC", data_dir=str(tree))
    assert len(built) == 3
    assert after["train"].cache_files != before["train"].cache_files
    assert after["train"]._fingerprint != before["train"]._fingerprint
    fresh = ChestXrayMasks(config_name="MC", data_dir=str(tree)).as_streaming_dataset()
    assert {name: raw_rows(split) for name, split in after.items()} == {
        name: raw_rows(split) for name, split in fresh.items()
    }


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_what_is_not_used_does_not_matter(change: Callable, tree: Path, load: Callable, built: list[int]) -> None:
    load("MC", data_dir=str(tree))
    built.clear()
    change(tree / "Lung Segmentation")
    assert ids_of(load("MC", data_dir=str(tree))) == MC
    assert built == []


def test_changed_zip_is_built_again(tmp_path: Path, load: Callable, built: list[int]) -> None:
    path = tmp_path / "set.zip"
    files = tiny.kaggle(IDS)
    tiny.write_zip(files, path)
    load("MC", data_dir=str(path))
    load("MC", data_dir=str(path))
    assert len(built) == 3
    files["Lung Segmentation/ClinicalReadings/MCUCXR_0001_0.txt"] = tiny.reading("MCUCXR_0001_0").replace(b"31", b"32")
    state = path.stat()
    tiny.write_zip(files, path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # same name, size and time: the members tell
    assert load("MC", data_dir=str(path), split="train")[0]["age_years"] == 32
    assert len(built) == 6


def test_names_of_one_tree_share_a_cache(
    tree: Path, load: Callable, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    monkeypatch.setenv("HOME", str(tree.parent))
    for source in (str(tree), tree, "the set", "the set/", "./the set", "~/the set", str(tree) + os.sep):
        assert ids_of(load("MC", data_dir=source)) == MC
        assert ids_of(load("MC", data_dir=source, streaming=True)) == MC
    assert built[:4] == [3, 2, 2, 1]  # built once, then streamed shard by shard
    assert 3 not in built[3:]


def test_path_with_spaces_and_other_letters(tmp_path: Path, load: Callable) -> None:
    for kind, source in (
        ("folder", tiny.write_tree(tiny.kaggle(IDS), tmp_path / "Röntgen  胸片 [1] {a} 100%")),
        ("zip", tiny.write_zip(tiny.kaggle(IDS), tmp_path / "Röntgen 胸片 #2.zip")),
    ):
        assert ids_of(load("MC", data_dir=str(source))) == MC, kind
        assert ids_of(load("MC", data_dir=str(source), streaming=True)) == MC, kind


# The trap: load_dataset looks for files by itself, in data_dir or in the current folder


def test_current_folder_of_the_same_names_is_not_read(
    tree: Path, load: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask in the current folder has its image's name: it must not stand in for the image."""
    monkeypatch.chdir(tree / "Lung Segmentation" / "masks")
    for how in ({}, {"streaming": True}, {"num_proc": 2, "download_mode": "force_redownload"}):
        rows = raw_rows(load("MC", data_dir=str(tree), split="train", **how))
        assert image_bytes(rows) == {id: tiny.image_png(id) for id in MC["train"]}


@pytest.mark.parametrize("inside", ["full", "empty"])
def test_current_folder_does_not_key_the_cache(
    inside: str, tree: Path, load: Callable, built: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("MC", data_dir=str(tree))
    folder = tmp_path / inside
    folder.mkdir()
    if inside == "full":
        for name in ("train/a.png", "test/b.png", "metadata.csv", "data/train.csv", "c.jpg"):
            tiny.write_tree({name: tiny.png(np.zeros((4, 4), np.uint8))}, folder)
    monkeypatch.chdir(folder)
    load("MC", data_dir=str(tree))
    assert len(built) == 3


def test_other_packaged_modules_still_find_their_files(tmp_path: Path) -> None:
    tiny.write_tree({f"train/{i}.png": tiny.png(np.zeros((4, 4), np.uint8)) for i in range(3)}, tmp_path / "pictures")
    rows = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "pictures"), cache_dir=str(tmp_path / "cache"))
    assert rows["train"].num_rows == 3


def test_errors_reach_the_user(tmp_path: Path, load: Callable) -> None:
    with pytest.raises(FileNotFoundError, match="data_dir .*nowhere does not exist: pass the folder or the zip"):
        load("MC", data_dir=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    for how in ({}, {"streaming": True}):
        with pytest.raises(FileNotFoundError, match="no Montgomery chest X-rays in .*empty: looked for"):
            load("MC", data_dir=str(tmp_path / "empty"), **how)
        with pytest.raises(FileNotFoundError, match="no Montgomery or Shenzhen chest X-rays in"):
            load(data_dir=str(tmp_path / "empty"), **how)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"pictures/MCUCXR_0001_0.jpg": b"", "pictures/MCUCXR_0002_0.JPEG": b""},
            "2 files named like X-rays of the set in pictures/ are not used",
        ),
        ({"pictures/a.jpg": b"", "pictures/b.jpg": b""}, "2 images not named like theirs, such as a.jpg"),
        ({"MC/train-00000-of-00001.parquet": b""}, 'load_dataset("'),
        ({"dataset_dict.json": b"{}"}, 'load_from_disk("'),
    ],
    ids=["another folder", "other names", "exported", "saved to disk"],
)
def test_a_folder_that_is_nearly_the_set_is_named(
    files: dict[str, bytes], said: str, tmp_path: Path, load: Callable
) -> None:
    folder = tiny.write_tree(files, tmp_path / "nearly")
    with pytest.raises(FileNotFoundError, match=re.escape(said)):
        load("MC", data_dir=str(folder))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_dir_behind_an_address(streaming: bool, server: "Server", load: Callable) -> None:
    server.fault = "ranges"
    assert ids_of(load("MC", data_dir=server.url, streaming=streaming)) == MC
    url = "http://127.0.0.1:9/set.zip"  # nobody listens there
    with pytest.raises(ConnectionError, match=f"{url} cannot be reached"):
        load("MC", data_dir=url, streaming=streaming)


# The published splits


def published() -> list[dict[str, str]]:
    """id and has_mask of the full set, 800 images."""
    with (Path(__file__).parent / "data" / "ids.csv").open() as table:
        return list(csv.DictReader(table))


def split_of_fold(id: str) -> str:
    return split_of(patients_of({}).get(id[:-2], id[:-2]))


def test_id_table_is_the_published_one() -> None:
    table = published()
    counts = Counter((row["id"][:3], row["id"][-1]) for row in table)
    assert counts == {("MCU", "0"): 80, ("MCU", "1"): 58, ("CHN", "0"): 326, ("CHN", "1"): 336}
    assert sum(row["has_mask"] == "1" for row in table) == 704


def test_every_group_keeps_its_fractions() -> None:
    groups = defaultdict(Counter)
    for row in published():
        groups[row["id"][:3], row["id"][-1], row["has_mask"]][split_of_fold(row["id"])] += 1
    # site x label x has-mask; Montgomery has all its masks
    assert set(groups) == {("MCU", *key) for key in product("01", "1")} | {
        ("CHN", *key) for key in product("01", "01")
    }
    for group, splits in groups.items():
        total = sum(splits.values())
        for name, fraction in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
            assert abs(splits[name] / total - fraction) <= 0.02, (group, name, splits)


def test_no_patient_is_in_two_splits_nor_are_x_rays_that_resemble_one_patient() -> None:
    for patients in (("0113", "0117"), ("0162", "0166", "0170"), ("0254", "0255"), ("0372", "0375")):
        assert len({split_of_fold(f"MCUCXR_{number}_1") for number in patients}) == 1


def test_any_subset_of_files_splits_alike(tmp_path: Path) -> None:
    """Without readings, without the other files, from either config: an image stays in its split."""
    ids = ("MCUCXR_0113_1", "MCUCXR_0117_1", "MCUCXR_0162_1", "MCUCXR_0166_1", "MCUCXR_0170_1", *IDS)
    files = {f"CXR_png/{id}.png": tiny.image_png(id) for id in ids}
    whole = {row.id: split_of(row.patient_id) for row in rows_of(scan(str(tiny.write_tree(files, tmp_path / "all"))))}
    for id in ids:
        (row,) = rows_of(scan(str(tiny.write_tree({f"CXR_png/{id}.png": files[f"CXR_png/{id}.png"]}, tmp_path / id))))
        assert split_of(row.patient_id) == whole[id]


def test_fractions_of_many_patients() -> None:
    counts = Counter(split_of(f"MCUCXR_{number}") for number in range(20_000))
    # three standard deviations of 20,000 draws: 3 * sqrt(.7 * .3 / 20000) = .0097
    for name, fraction in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        assert abs(counts[name] / 20_000 - fraction) < 0.01


# The download


class Server(http.server.ThreadingHTTPServer):
    """A loopback server of one zip; `fault` says how it fails, "" not at all, `requests` what came."""

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.fault, self.requests = data, "", []
        self.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api/download"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        fault, data, status = self.server.fault, self.server.data, 200
        wanted = self.headers.get("Range")
        self.server.requests.append((self.command, self.path, wanted))
        if fault.isdigit():
            status, data = int(fault), b"<html>sorry</html>"
        elif fault == "html":
            data = b"<html>please sign in</html>" * 50
        elif fault == "redirect" and not self.path.endswith("/moved"):
            self.send_response(302)
            self.send_header("Location", self.path + "/moved")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        length, headers = len(data), {}
        if fault == "ranges":
            headers["Accept-Ranges"] = "bytes"
            if wanted:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                end = min(int(last) + 1 if last else length, length)
                status, headers["Content-Range"] = 206, f"bytes {first}-{end - 1}/{length}"
                data, length = data[int(first) : end], end - int(first)
        self.send_response(status)
        if fault == "cut, no length":
            headers["Connection"] = "close"
        else:
            headers["Content-Length"] = str(length)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data[: len(data) // 2] if fault.startswith("cut") else data)
        if fault.startswith("cut"):
            self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # it is loopback
    with Server(tiny.zip_bytes(tiny.kaggle(IDS))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("fault", ["", "redirect", "ranges"])
def test_download(fault: str, server: Server, load: Callable) -> None:
    server.fault = fault
    assert ids_of(load(url=server.url)) == EXPECTED["all"]
    gets = sum(command == "GET" for command, *_ in server.requests)
    assert ids_of(load("MC", url=server.url)) == MC  # the zip is kept
    assert ids_of(load(url=server.url)) == EXPECTED["all"]
    assert sum(command == "GET" for command, *_ in server.requests) == gets


def test_another_url_is_another_cache(server: Server, load: Callable) -> None:
    load("MC", url=server.url)
    server.data = tiny.zip_bytes(tiny.kaggle(("MCUCXR_0001_0",)))
    splits = load("MC", url=server.url + "/other")
    assert ids_of(splits) == {"train": ["MCUCXR_0001_0"], "validation": [], "test": []}


FAULTS = {
    "404": "404",
    "500": "500",
    "html": "is not a whole zip",
    "cut": "ContentLength|payload|is not a whole zip",
    "cut, no length": "is not a whole zip",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("num_proc", [None, 2])
def test_failed_download_says_so_and_a_healed_one_works(
    fault: str, num_proc: int | None, server: Server, load: Callable, tmp_path: Path
) -> None:
    server.fault = fault
    with pytest.raises(ConnectionError) as error:
        load("MC", url=server.url, num_proc=num_proc)
    assert server.url in str(error.value)
    assert "data_dir=" in str(error.value)
    assert chest_xray_masks.HOMEPAGE in str(error.value)
    assert any(said in str(error.value) for said in FAULTS[fault].split("|"))
    kept = [
        path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix not in (".lock", ".json")
    ]
    assert [path for path in kept if ".incomplete" not in path.name] == []
    server.fault = ""
    assert ids_of(load("MC", url=server.url, num_proc=num_proc)) == MC


def test_nobody_answers(load: Callable, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"the download of http.* failed \(.*pass data_dir="):
        load("MC", url=server.url)


def test_offline(load: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"kaggle.com.* failed \(OfflineModeIsEnabled.*pass data_dir="):
        load("MC")


def test_streaming_from_the_url(server: Server, load: Callable) -> None:
    server.fault = "ranges"
    assert ids_of(load("MC", url=server.url, streaming=True)) == MC
    assert all(wanted for command, _, wanted in server.requests if command == "GET")


@pytest.mark.parametrize("fault", ["404", "500", "html"])
def test_streaming_from_a_url_that_fails(fault: str, server: Server, load: Callable, monkeypatch) -> None:
    server.fault = fault
    if hasattr(datasets.config, "STREAMING_OPEN_MAX_RETRIES"):
        monkeypatch.setattr(datasets.config, "STREAMING_OPEN_RETRY_INTERVAL", 0, raising=False)
        monkeypatch.setattr(datasets.config, "STREAMING_OPEN_MAX_RETRIES", 1)
    with pytest.raises((ValueError, OSError), match=r"http://127.*(zip|download)"):
        load("MC", url=server.url, streaming=True)


# The real X-rays


def test_real_x_rays(real_data_dir: Path, load: Callable) -> None:
    splits = load(data_dir=str(real_data_dir))
    rows = datasets.concatenate_datasets(list(splits.values())).remove_columns("image")
    rows = rows.cast_column("mask", datasets.Image(decode=False))
    assert rows.num_rows == 525
    assert Counter(rows["site"]) == {0: 87, 1: 438}
    assert sum(mask is not None for mask in rows["mask"]) == 449
    assert None not in rows["sex"] and None not in rows["age_years"]
    assert len(set(rows["id"])) == 525
    with Image.open(io.BytesIO(rows[0]["mask"]["bytes"])) as mask:
        assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_sites_cover_the_configs() -> None:
    assert list(SITES) == [config.name for config in ChestXrayMasks.BUILDER_CONFIGS][:-1]
