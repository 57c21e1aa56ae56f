import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from hub_models import data
from hub_models.data import Arrays, EpochOrder, example_seed, load_splits, prepare, training_loader
from hub_models.pixels import resize_gray, resize_mask, to_gray, to_mask


@pytest.fixture(scope="module")
def splits(phantoms) -> datasets.DatasetDict:
    return load_splits(phantoms)


def test_splits_hold_every_phantom_once(splits) -> None:
    ids = [id for part in ("train", "validation", "test") for id in splits[part]["id"]]
    assert len(ids) == len(set(ids)) == 60


def test_bad_file_is_named_without_the_wrapper_of_datasets(phantoms, tmp_path) -> None:
    shutil.copytree(phantoms, tmp_path / "set")
    broken = min((tmp_path / "set").rglob("CXR_png/MCU*.png"))
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match=broken.name):
        load_splits(tmp_path / "set")


def test_prepared_arrays_are_the_scaled_originals(splits) -> None:
    prepared = prepare(splits["train"], 32)
    assert len(prepared) == len(splits["train"])
    arrays = Arrays(prepared, 32)
    for index, row in enumerate(splits["train"]):
        batch = arrays.__getitems__([index])
        np.testing.assert_array_equal(batch["pixels"][0], resize_gray(to_gray(row["image"]), 32))
        assert (prepared[index]["width"], prepared[index]["height"]) == row["image"].size
        assert ("mask" in batch) == (row["mask"] is not None)
        if row["mask"] is not None:
            np.testing.assert_array_equal(batch["mask"][0].bool(), resize_mask(to_mask(row["mask"]), 32))
        assert batch["label"].tolist() == [row["label"]]
        assert batch["seed"].tolist() == [example_seed(row["id"])]


def test_preparing_again_reads_the_cache(splits) -> None:
    (file,) = {file["filename"] for file in prepare(splits["test"], 64).cache_files}
    written = Path(file).stat().st_mtime_ns
    assert {again["filename"] for again in prepare(splits["test"], 64).cache_files} == {file}
    assert Path(file).stat().st_mtime_ns == written


def test_another_code_is_another_cache(splits, monkeypatch) -> None:
    first = prepare(splits["test"], 64).cache_files
    monkeypatch.setattr(data, "CODE_HASH", "another")
    assert prepare(splits["test"], 64).cache_files != first


def test_error_of_the_disk_keeps_its_own_words(phantoms, tmp_path, monkeypatch) -> None:
    def full(self, file):
        raise OSError(28, "No space left on device")

    shutil.copytree(phantoms, tmp_path / "set")
    next((tmp_path / "set").rglob("*.txt")).touch()  # else it is the same set, and read from the cache
    monkeypatch.setattr("chest_xray_masks.Reader.__call__", full)
    with pytest.raises(OSError, match="No space left"):
        load_splits(tmp_path / "set")


def test_another_size_is_another_cache(splits) -> None:
    sides = {len(prepare(splits["test"], side)[0]["pixels"]) for side in (32, 64)}
    assert sides == {32 * 32, 64 * 64}


def test_many_rows_are_prepared_by_several_processes(splits, monkeypatch) -> None:
    alone = prepare(splits["train"], 96)
    monkeypatch.setattr(data, "ROWS_PER_PROCESS", 10)
    monkeypatch.setattr(data.os, "cpu_count", lambda: 2)
    together = prepare(splits["train"].select(range(len(splits["train"]))), 96)
    assert alone["pixels"] == together["pixels"] and alone["id"] == together["id"]


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    order = EpochOrder(20, seed=3)
    first = list(order)
    assert sorted(first) == list(range(20)) and first == list(EpochOrder(20, seed=3))
    order.set_epoch(1)
    assert list(order) != first
    assert list(EpochOrder(20, seed=4)) != first
    order.set_epoch(0)
    assert list(order) == first


def test_loader_leaves_out_the_incomplete_batch_unless_it_is_the_only_one(splits) -> None:
    arrays = Arrays(prepare(splits["train"], 32), 32)
    count = len(arrays)
    loader = training_loader(arrays, 8, seed=0)
    batches = list(loader)
    assert len(batches) == len(loader) == count // 8
    assert all(batch["pixels"].shape == (8, 32, 32) and batch["pixels"].dtype == torch.uint8 for batch in batches)
    (only,) = training_loader(arrays, count + 5, seed=0)
    assert len(only["pixels"]) == count
