from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from launch import python
from PIL import Image

from chest_xray_masks import rows_of, scan
from hub_models.benchmarks import dataset as benchmark
from hub_models.benchmarks.dataset import COPIES, _link_copies, dataset_ratios, measure_alone
from hub_models.benchmarks.native_phantoms import DRAWN, NATIVE, native_phantoms
from hub_models.benchmarks.training import example_samples, repeated, summarize, training_ratios
from hub_models.dataset.augmentation import STRENGTHS
from hub_models.dataset.batches import Arrays
from hub_models.dataset.preprocessing import prepare
from hub_models.dataset.sources import load_splits
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import resize_mask
from hub_models.models.image_processors import image_processor_for
from hub_models.models.tasks import TASKS
from hub_models.runs.data import Split

NAMES = ["loop_over_compute", "example_over_compute", "loop_over_example", "prepare_epochs", "prepare_over_decode"]
NAMES += [f"{name}_images_per_second" for name in ("compute", "loop", "example")] + ["example_workers"]


def test_linked_copies_are_rows_with_masks_and_readings(phantoms, tmp_path) -> None:
    _link_copies(phantoms, tmp_path)
    rows, originals = rows_of(scan(str(tmp_path))), rows_of(scan(str(phantoms)))
    assert len(rows) == COPIES * len(originals)
    assert sum(bool(row.masks) for row in rows) == COPIES * sum(bool(row.masks) for row in originals)
    assert all(row.reading for row in rows)


def hold(data_dir: str, cache: str) -> None:
    np.ones(int(data_dir) * 2**20, np.uint8)


@pytest.mark.slow
def test_cost_leaves_out_the_parent_process() -> None:
    held = np.ones(1500 * 2**20, np.uint8)  # by the parent, and nothing to the child
    small, large = (measure_alone(hold, megabytes) for megabytes in ("1", "400"))
    assert large.peak_bytes < held.nbytes and 350 < (large.peak_bytes - small.peak_bytes) / 2**20 < 450
    assert large.cpu_seconds > 0 and large.seconds > 0 and large.png_files == 0


@pytest.mark.slow
def test_script_prints_its_ratios(phantoms) -> None:
    lines = python("scripts/benchmark.py", "dataset", "--data", phantoms).stdout.splitlines()
    ratios = {name: float(value) for name, value in map(str.split, lines)}
    assert list(ratios) == ["build_time", "build_time_listed", "build_memory", "first_row_files"]
    assert ratios["first_row_files"] in (1, 2)  # the image, and its mask if it has one


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(real_data_dir, monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "BUILD_REPEATS", 1)
    # 4 times 85 MB: kept in memory, they would more than double the 200 MB of one build
    assert dataset_ratios(real_data_dir)["build_memory"] < 1.3


@pytest.fixture(scope="module")
def large_phantoms(tmp_path_factory) -> Path:
    return native_phantoms(tmp_path_factory.mktemp("large") / "set", 24, {"Montgomery": 320, "Shenzhen": 200}, 80)


def test_native_phantoms_have_the_sizes_and_modes_of_the_originals(large_phantoms) -> None:
    rows = rows_of(scan(str(large_phantoms)))
    assert sum(row.id.startswith("MCU") for row in rows) == 4 and len(rows) == 24  # 24 * 138 / 800 = 4.1
    modes = []
    for row in rows:
        image = Image.open(row.image.path)
        if row.id.startswith("MCU"):  # 80 x 66 (80 * 4020 / 4892 = 65.7), 4 times
            assert image.mode == "L" and sorted(image.size) == [264, 320]
        else:
            assert max(image.size) == 200
            modes.append(image.mode)
        for file in row.masks:
            mask = Image.open(file.path)
            assert mask.size == image.size and set(mask.getdata()) == {0, 255}
    assert sorted(set(modes)) == ["P", "RGB"] and modes.count("RGB") == 1  # 27 of the 662
    # native: drawn at a quarter, 1223 * 4020 / 4892 = 1005.0
    assert (DRAWN * 4, round(DRAWN * 4020 / 4892) * 4) == (4892, 4020) and NATIVE["Montgomery"] == 4892


def test_native_phantoms_are_grainy(tmp_path, monkeypatch) -> None:
    sizes = []
    for name in ("grain", "smooth"):
        native_phantoms(tmp_path / name, 2, {"Montgomery": 320, "Shenzhen": 320}, 80)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / name).rglob("CXR_png/*.png")))
        monkeypatch.setattr("hub_models.benchmarks.native_phantoms.GRAIN", {"Montgomery": 0.0, "Shenzhen": 0.0})
    assert sizes[0] > 1.3 * sizes[1]


def test_summary_is_of_medians_by_round() -> None:
    seconds = {"compute": [1.0, 2.0, 4.0], "loop": [2.0, 2.0, 5.0], "0": [8.0, 9.0, 9.0], "3": [4.0, 4.0, 16.0]}
    found = summarize(seconds, images=10, prepare_seconds=0.4, decode_seconds=0.3)
    # per round: 1/2, 2/2, 4/5; the workers' medians are 9 and 4, so 3: 1/4, 2/4, 4/16 and 4/2, 4/2, 16/5
    assert [found[name] for name in NAMES[:3]] == pytest.approx([0.8, 0.25, 2.0])
    assert found["prepare_epochs"] == pytest.approx(0.4 * 10 / 2)
    assert found["prepare_over_decode"] == pytest.approx(0.75)
    assert [found[name] for name in NAMES[5:]] == pytest.approx([5, 5, 2.5, 3])  # 10 over 2, 2 and 4 s


@pytest.mark.parametrize(("count", "places"), [(2, [0, 3]), (6, [0, 1, 2, 3, 4, 5]), (9, [0, 0, 1, 2, 2, 3, 4, 4, 5])])
def test_repeated_spreads_evenly(phantoms, count: int, places: list[int]) -> None:
    rows = load_splits(phantoms)["train"].select(range(6))
    split = repeated(Split(rows, Arrays(prepare(rows, 32), 32, STRENGTHS["light"], 7)), count)
    assert split.rows["id"] == split.arrays.prepared["id"] == [rows["id"][place] for place in places]
    assert split.arrays.prepared._indices is None  # a read of neighbours is one of the memory map
    assert (split.arrays.ranges, split.arrays.seed, split.arrays.image_size) == (STRENGTHS["light"], 7, 32)


def test_example_samples_are_what_the_models_take(phantoms) -> None:
    rows = TASKS["lung_segmentation"].usable(load_splits(phantoms)["train"])[:3]
    image_processor = image_processor_for("segmentation", "segformer-light", True, 64)
    lungs = example_samples(image_processor, {"image": rows["image"], "mask": rows["mask"]})
    assert lungs["pixel_values"].shape == (3, 3, 64, 64)
    expected = np.stack([resize_mask(to_mask(mask), 64) for mask in rows["mask"]])
    assert lungs["labels"].dtype == torch.int64
    assert (lungs["labels"].numpy() != expected).mean() < 0.01  # nearest neighbour, too
    tb = example_samples(image_processor, {"image": rows["image"], "label": [0, 1, 0]})
    assert torch.equal(tb["pixel_values"], lungs["pixel_values"]) and tb["labels"] == [0, 1, 0]


def test_all_of_training_is_measured_for_tb(phantoms, tiny_resnet, monkeypatch) -> None:
    monkeypatch.setattr("hub_models.benchmarks.training.ROUNDS", 1)
    cache = datasets.config.HF_DATASETS_CACHE
    found = training_ratios(phantoms, "tb_classification", str(tiny_resnet), 32, 4, steps=2)
    assert list(found) == NAMES
    assert all(value > 0 for name, value in found.items() if name != "example_workers")
    assert cache == datasets.config.HF_DATASETS_CACHE


@pytest.mark.parametrize("setting", [{"steps": 0}, {"image_size": 100}], ids=str)
def test_bad_setting_is_named_before_phantoms_are_made(setting: dict[str, int], monkeypatch) -> None:
    monkeypatch.setattr("hub_models.benchmarks.training.native_phantoms", None)
    (name, value), *_ = setting.items()
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
        training_ratios(**setting)


@pytest.mark.slow
def test_script_prints_training_ratios(phantoms, tiny_segformer) -> None:
    options = {"--data": phantoms, "--model": tiny_segformer, "--image_size": 32, "--batch_size": 2, "--steps": 2}
    done = python("scripts/benchmark.py", "train", *(text for option in options.items() for text in option))
    found = dict(line.split() for line in done.stdout.splitlines())
    assert list(found) == NAMES
    assert all(float(value) > 0 for name, value in found.items() if name != "example_workers")
