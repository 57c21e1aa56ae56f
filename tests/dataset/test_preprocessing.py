import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import chest_xray_masks
from hub_models.dataset import preprocessing as data
from hub_models.dataset.augmentation import STRENGTHS, draw
from hub_models.dataset.preprocessing import Arrays, EpochOrder, example_seed, load_splits, prepare, training_loader
from hub_models.dataset.published import pixel_spacing_mm
from hub_models.imaging.gray import to_gray
from hub_models.imaging.lung_crop import MARGIN, crop_to_lungs, lungs_box
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import resize_gray, resize_mask

PREPARE = """
import json, sys
from pathlib import Path
from hub_models.dataset import preprocessing as data
rows = data.load_splits(sys.argv[1])["test"]
print(json.dumps([str(Path(data.__file__).parents[2]), rows.cache_files, data.prepare(rows, 64).cache_files]))
"""


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
        assert batch["label"].tolist() == [row["label"]] and batch["index"].tolist() == [index]
        assert "drawn" not in batch


def test_prepared_rows_keep_what_divides_and_measures_them(splits) -> None:
    prepared = prepare(splits["train"], 32)
    kept = ["id", "patient_id", "site", "label"]
    spacing = ["spacing_row_mm", "spacing_column_mm"]
    assert sorted(prepared.column_names) == sorted([*kept, "pixels", "mask", "height", "width", *spacing])
    for name in kept:
        assert prepared.features[name] == splits["train"].features[name]
        assert list(prepared[name]) == list(splits["train"][name])
    for row in prepared:
        expected = pixel_spacing_mm(row["id"], row["height"], row["width"]) or (None, None)
        assert [row[name] for name in spacing] == [value and pytest.approx(value, rel=1e-6) for value in expected]
    assert {row["spacing_row_mm"] is None for row in prepared} == {True, False}  # Shenzhen has none


def test_padded_arrays_are_the_padded_originals(splits) -> None:
    prepared = prepare(splits["test"], 32, fit="pad")
    for index, row in enumerate(splits["test"]):
        batch = Arrays(prepared, 32).__getitems__([index])
        np.testing.assert_array_equal(batch["pixels"][0], resize_gray(to_gray(row["image"]), 32, "pad"))
        if row["mask"] is not None:
            np.testing.assert_array_equal(batch["mask"][0].bool(), resize_mask(to_mask(row["mask"]), 32, "pad"))


@pytest.fixture(scope="module")
def masked(splits) -> datasets.Dataset:
    return splits["train"].select([index for index, row in enumerate(splits["train"]) if row["mask"] is not None][:6])


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_lung_arrays_are_the_cropped_originals(masked, fit: str) -> None:
    prepared = prepare(masked, 32, fit, "lungs")
    arrays = Arrays(prepared, 32)
    for index, row in enumerate(masked):
        batch, mask = arrays.__getitems__([index]), to_mask(row["mask"])
        lungs = crop_to_lungs(to_gray(row["image"]), mask, MARGIN)
        np.testing.assert_array_equal(batch["pixels"][0], resize_gray(lungs, 32, fit))
        top, left, bottom, right = lungs_box(mask, MARGIN)
        np.testing.assert_array_equal(batch["mask"][0].bool(), resize_mask(mask[top:bottom, left:right], 32, fit))
        assert (prepared[index]["height"], prepared[index]["width"]) == mask.shape  # of the whole X-ray


def test_lungs_need_a_mask(splits) -> None:
    bare = splits["train"].select([[row["mask"] is None for row in splits["train"]].index(True)])
    with pytest.raises(ValueError, match=f"{bare[0]['id']} has no lung in its mask: pass a segmenter"):
        prepare(bare, 32, region="lungs")


@pytest.mark.parametrize(
    ("rule", "said"),
    [({"fit": "crop"}, "'crop', 'image'"), ({"region": "heart"}, "'heart'")],
)
def test_unknown_rules_are_refused(splits, rule: dict, said: str) -> None:
    with pytest.raises(ValueError, match=f"fit one of squash, pad, region one of image, lungs, .*{said}"):
        prepare(splits["test"], 32, **rule)


def test_another_rule_is_another_cache(masked) -> None:
    rules = [("squash", "image"), ("pad", "image"), ("squash", "lungs"), ("pad", "lungs")]
    assert len({prepare(masked, 32, *rule).cache_files[0]["filename"] for rule in rules}) == 4


def test_preparing_again_reads_the_cache(splits) -> None:
    (file,) = {file["filename"] for file in prepare(splits["test"], 64).cache_files}
    written = Path(file).stat().st_mtime_ns
    assert {again["filename"] for again in prepare(splits["test"], 64).cache_files} == {file}
    assert Path(file).stat().st_mtime_ns == written


def test_raised_version_is_another_cache(splits, monkeypatch) -> None:
    first = prepare(splits["test"], 64).cache_files
    monkeypatch.setattr(data, "PREPARED_VERSION", data.PREPARED_VERSION + 1)
    assert prepare(splits["test"], 64).cache_files != first


def test_changed_comments_leave_every_cache_as_it_is(splits, phantoms, tmp_path) -> None:
    root = Path(data.__file__).parents[2]
    shutil.copytree(root / "hub_models", tmp_path / "hub_models")
    shutil.copy(root / "chest_xray_masks.py", tmp_path)
    for module in (tmp_path / "chest_xray_masks.py", *tmp_path.rglob("hub_models/**/*.py")):
        module.write_text(f"{module.read_text()}# another comment\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, phantoms], env=env, cwd=tmp_path, text=True, capture_output=True
    )
    prepared = prepare(splits["test"], 64).cache_files
    assert json.loads(done.stdout or done.stderr) == [str(tmp_path), splits["test"].cache_files, prepared]


def test_output_that_changes_raises_the_version() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    image, mask = Image.fromarray(pixels), Image.fromarray(np.uint8(pixels[..., 0] > 99) * 255)
    columns = {
        "image": [image],
        "mask": [mask],
        "id": ["CHNCXR_0001_0"],
        "patient_id": ["1"],
        "site": [1],
        "label": [0],
    }
    features = datasets.Features({name: chest_xray_masks.FEATURES[name] for name in columns})
    rows = datasets.Dataset.from_dict(columns, features)
    made = [prepare(rows, 32, fit)[0][name] for fit in ("squash", "pad") for name in ("pixels", "mask")]
    # another digest for the same input: raise PREPARED_VERSION, then write the digest here
    assert (data.PREPARED_VERSION, hashlib.sha256(b"".join(made)).hexdigest()[:16]) == (1, "f5f55c9764caa838")


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


def prepare_in_another_process(rows: datasets.Dataset, said: Path) -> multiprocessing.Process:
    """A process of its own, started, that prepares `rows` and writes a digest of what it got to `said`."""

    def work() -> None:
        said.write_text(digest(prepare(rows, 40)))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def digest(prepared: datasets.Dataset) -> str:
    pixels = b"".join(prepared["pixels"])
    return f"{len(prepared)} {hashlib.sha256(pixels).hexdigest()}"


def test_cache_is_whole_whoever_else_writes_it_or_is_killed(splits, tmp_path, monkeypatch) -> None:
    def slowly(source: Image.Image) -> Image.Image:
        time.sleep(0.02)
        return to_gray(source)

    rows = splits["train"].filter(lambda label: True, input_columns="label")  # caches of its own
    folder = Path(rows.cache_files[0]["filename"]).parent
    monkeypatch.setattr(data, "to_gray", slowly)
    before = set(folder.iterdir())
    killed = prepare_in_another_process(rows, tmp_path / "killed")
    while not (begun := set(folder.iterdir()) - before):  # the file that gets its name when it is whole
        assert killed.is_alive()
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL and not (tmp_path / "killed").exists()
    assert not [file for file in begun if file.name.startswith("cache-")]

    both = [prepare_in_another_process(rows, tmp_path / name) for name in ("one", "two")]
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    monkeypatch.undo()
    apart = digest(prepare(splits["train"], 40))
    assert apart == (tmp_path / "one").read_text() == (tmp_path / "two").read_text() == digest(prepare(rows, 40))


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


def test_draws_are_of_the_x_ray_the_seed_and_the_epoch(splits) -> None:
    prepared, ranges = prepare(splits["train"], 32), STRENGTHS["light"]
    arrays = Arrays(prepared, 32, ranges, seed=5)
    seeds = [example_seed(id) for id in prepared["id"]]
    assert torch.equal(arrays.__getitems__([3, 1])["drawn"], draw([seeds[3], seeds[1]], 5, 0, ranges))
    arrays.epoch = 2
    alone = arrays.__getitems__([1])["drawn"]
    assert torch.equal(alone, draw([seeds[1]], 5, 2, ranges))
    assert torch.equal(arrays.__getitems__([3, 1])["drawn"][1:], alone)  # whatever else is in the batch
    assert not torch.equal(Arrays(prepared, 32, ranges, seed=6).__getitems__([1])["drawn"], alone)


def test_balanced_order_takes_each_group_equally_often() -> None:
    groups = [0] * 14 + [1] * 4 + [2] * 2  # of 20, so 6 or 7 each
    order = EpochOrder(20, seed=3, groups=groups)
    more = Counter()
    for epoch in range(30):
        order.set_epoch(epoch)
        taken = list(order)
        assert len(taken) == len(order) == 20
        counts = Counter(groups[index] for index in taken)
        assert set(counts.values()) <= {6, 7} and len(counts) == 3
        more.update(group for group in counts if counts[group] == 7)
        times = Counter(taken)
        assert max(times[index] for index in range(14)) == 1  # part of one shuffle
        assert {times[index] for index in range(14, 18)} <= {1, 2}  # two shuffles of 4, cut off
        assert {times[index] for index in range(18, 20)} <= {3, 4}
        assert taken == list(order)  # pure
    assert min(more.values()) > 5  # 20 = 6 + 7 + 7: two of three groups, 20 times of 30 on average
    seen = set()
    for epoch in range(30):
        order.set_epoch(epoch)
        seen.update(order)
    assert seen == set(range(20))


def test_balanced_order_needs_a_group_for_each() -> None:
    with pytest.raises(ValueError, match="3 X-rays to shuffle, but groups of 2"):
        EpochOrder(3, seed=0, groups=[0, 1])
    assert list(EpochOrder(0, seed=0, groups=[])) == []
    assert sorted(EpochOrder(3, seed=0, groups=[1, 1, 1])) == [0, 1, 2]  # one group: as without


def test_balanced_loader_shows_both_labels_alike(splits) -> None:
    arrays = Arrays(prepare(splits["train"], 32), 32)
    (batch,) = training_loader(arrays, len(arrays), seed=0, balanced=True)
    assert abs(len(arrays) - 2 * int(batch["label"].sum())) <= 1
    assert [len(arrays), 2] != [2 * sum(arrays.prepared["label"]), 2]  # which the plain order does not
    (plain,) = training_loader(arrays, len(arrays), seed=0)
    assert int(plain["label"].sum()) == sum(arrays.prepared["label"])
