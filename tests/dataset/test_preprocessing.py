import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import chest_xray_masks
from hub_models.dataset import preprocessing as data
from hub_models.dataset.batches import Arrays
from hub_models.dataset.preprocessing import prepare
from hub_models.dataset.published import pixel_spacing_mm
from hub_models.dataset.sources import load_splits
from hub_models.imaging.gray import to_gray
from hub_models.imaging.lung_crop import MARGIN, crop_to_lungs, lungs_box
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import BOX, resize_gray, resize_mask

PREPARE = """
import json, sys
from pathlib import Path
from hub_models.dataset import preprocessing as data
from hub_models.dataset.sources import load_splits
rows = load_splits(sys.argv[1])["test"]
print(json.dumps([str(Path(data.__file__).parents[2]), rows.cache_files, data.prepare(rows, 64).cache_files]))
"""


@pytest.fixture(scope="module")
def splits(phantoms) -> datasets.DatasetDict:
    return load_splits(phantoms)


def test_splits_hold_every_phantom_once(splits) -> None:
    ids = [id for rows in splits.values() for id in rows["id"]]
    assert len(ids) == len(set(ids)) == 60


def test_bad_file_is_named_without_the_wrapper_of_datasets(phantoms, tmp_path) -> None:
    shutil.copytree(phantoms, tmp_path / "set")
    broken = min((tmp_path / "set").rglob("CXR_png/MCU*.png"))
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match=broken.name):
        load_splits(tmp_path / "set")


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_prepared_arrays_are_the_scaled_originals(splits, fit: str) -> None:
    rows = splits["train"]
    prepared = prepare(rows, 32, fit)
    assert len(prepared) == len(rows)
    arrays = Arrays(prepared, 32)
    for index, row in enumerate(rows):
        batch = arrays.__getitems__([index])
        np.testing.assert_array_equal(batch["pixels"][0], resize_gray(to_gray(row["image"]), 32, fit))
        assert (prepared[index]["width"], prepared[index]["height"]) == row["image"].size
        assert ("mask" in batch) == (row["mask"] is not None)
        if row["mask"] is not None:
            np.testing.assert_array_equal(batch["mask"][0].bool(), resize_mask(to_mask(row["mask"]), 32, fit))
        assert batch["label"].tolist() == [row["label"]] and batch["index"].tolist() == [index]
        assert "drawn" not in batch


def test_prepared_rows_keep_what_divides_and_measures_them(splits) -> None:
    prepared = prepare(splits["train"], 32)
    kept = ["id", "patient_id", "site", "label"]
    spacing = ["spacing_row_mm", "spacing_column_mm"]
    assert sorted(prepared.column_names) == sorted([*kept, "pixels", "mask", "height", "width", "digest", *spacing])
    for name in kept:
        assert prepared.features[name] == splits["train"].features[name]
        assert list(prepared[name]) == list(splits["train"][name])
    for row in prepared:
        expected = pixel_spacing_mm(row["id"], row["height"], row["width"]) or (None, None)
        assert [row[name] for name in spacing] == [value and pytest.approx(value, rel=1e-6) for value in expected]
    assert {row["spacing_row_mm"] is None for row in prepared} == {True, False}  # Shenzhen has none


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


@pytest.mark.parametrize(
    ("rule", "said"),
    [({"fit": "crop"}, "'crop', 'image'"), ({"region": "heart"}, "'heart'"), ({"region": "lungs"}, "CHN.* no lung")],
)
def test_unknown_rules_and_lungs_without_a_mask_are_refused(splits, rule: dict, said: str) -> None:
    bare = splits["train"].select([[row["mask"] is None for row in splits["train"]].index(True)])
    with pytest.raises(ValueError, match=said):
        prepare(bare, 32, **rule)


def test_another_rule_or_size_is_another_cache(masked) -> None:
    rules = [(32, fit, region) for fit in ("squash", "pad") for region in ("image", "lungs")] + [(64,)]
    rules += [(64, "squash", "image", BOX)]
    assert len({prepare(masked, *rule).cache_files[0]["filename"] for rule in rules}) == 6


def test_preparing_again_reads_the_cache_of_this_version(splits, monkeypatch) -> None:
    (file,) = {file["filename"] for file in prepare(splits["test"], 64).cache_files}
    written = Path(file).stat().st_mtime_ns
    assert {again["filename"] for again in prepare(splits["test"], 64).cache_files} == {file}
    assert Path(file).stat().st_mtime_ns == written
    monkeypatch.setattr(data, "PREPARED_VERSION", data.PREPARED_VERSION + 1)
    assert prepare(splits["test"], 64).cache_files[0]["filename"] != file


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
    columns = {"image": [image], "mask": [mask], "id": ["CHNCXR_0001_0"], "patient_id": ["1"], "site": [1]}
    columns |= {"label": [0]}
    features = datasets.Features({name: chest_xray_masks.FEATURES[name] for name in columns})
    rows = datasets.Dataset.from_dict(columns, features)
    made = [prepare(rows, 32, fit)[0][name] for fit in ("squash", "pad") for name in ("pixels", "mask")]
    # another digest for the same input: raise PREPARED_VERSION, then write the digest here
    assert (data.PREPARED_VERSION, hashlib.sha256(b"".join(made)).hexdigest()[:16]) == (3, "787a349c086513d8")


def test_error_of_the_disk_keeps_its_own_words(phantoms, tmp_path, monkeypatch) -> None:
    def full(self, file):
        raise OSError(28, "No space left on device")

    shutil.copytree(phantoms, tmp_path / "set")
    next((tmp_path / "set").rglob("*.txt")).touch()  # else it is the same set, and read from the cache
    monkeypatch.setattr("chest_xray_masks.Reader.__call__", full)
    with pytest.raises(OSError, match="No space left"):
        load_splits(tmp_path / "set")


def test_many_rows_are_prepared_by_several_processes(splits, monkeypatch) -> None:
    alone = prepare(splits["train"], 96)
    monkeypatch.setattr("hub_models.dataset.sources.ROWS_PER_PROCESS", 10)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    together = prepare(splits["train"].select(range(len(splits["train"]))), 96)
    assert alone["pixels"] == together["pixels"] and alone["id"] == together["id"]


def prepare_in_another_process(rows: datasets.Dataset, said: Path) -> multiprocessing.Process:
    """Start a process that prepares `rows` and writes a digest of the result to `said`."""
    process = multiprocessing.get_context("fork").Process(target=lambda: said.write_text(digest(prepare(rows, 40))))
    process.start()
    return process


def digest(prepared: datasets.Dataset) -> str:
    pixels = b"".join(prepared["pixels"])
    return f"{len(prepared)} {hashlib.sha256(pixels).hexdigest()}"


def test_cache_is_whole_whoever_else_writes_it_or_is_killed(splits, tmp_path, monkeypatch) -> None:
    def slowly(source: bytes, name: str) -> Image.Image:
        time.sleep(0.02)
        return to_gray(source, name)

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
