from functools import partial
from pathlib import Path

import pytest

from hub_models.benchmarks import prediction as prediction_benchmark
from hub_models.benchmarks.native_phantoms import native_phantoms
from hub_models.benchmarks.prediction import growth, prediction_ratios, summarize
from hub_models.runs.config import TrainConfig

RATIOS = [f"predict_over_{name}" for name in ("decode", "compute", "slower", "both")]
RATIOS += ["decode_over_pillow", "predict_lungs_over_pipeline"]
SPEEDS = ["predict", "decode", "decode_alone", "decode_pillow", "compute", "predict_lungs", "pipeline"]
GROWTH = ["time_per_image", "cpu_time_per_image", "memory", "bytes_per_image", "small_images_per_second"]


@pytest.fixture(scope="module")
def models(make_run, tiny_segformer, tiny_resnet, tmp_path_factory) -> dict[str, str]:
    folders = [str(tmp_path_factory.mktemp(name)) for name in ("lungs", "tb")]
    lungs = make_run(TrainConfig("data", folders[0], model=str(tiny_segformer), image_size=64))
    options = {"region": "lungs", "model": str(tiny_resnet), "image_size": 64}
    tb = make_run(TrainConfig("data", folders[1], "tb_classification", **options))
    return {"segmenter": str(lungs), "classifier": str(tb)}


def test_summary_is_of_medians_by_round() -> None:
    seconds = {"predict": [4.0, 5.0, 8.0], "decode": [3.0, 4.0, 2.0], "compute": [1.0, 1.0, 6.0]}
    seconds |= {"decode_alone": [6.0, 4.0, 4.0], "decode_pillow": [12.0, 12.0, 10.0]}
    seconds |= {"predict_lungs": [2.0, 2.0, 4.0], "0": [30.0], "3": [20.0]}
    found = summarize(seconds, images=12)
    # per round: 3/4, 4/5, 2/8; 1/4, 1/5, 6/8; the larger of both; their sums 4/4, 5/5, 8/8; 12/6, 12/4, 10/4;
    # 20/2, 20/2, 20/4
    assert [found[name] for name in RATIOS] == pytest.approx([0.75, 0.25, 0.75, 1.0, 2.5, 10.0])
    assert [found[f"{name}_images_per_second"] for name in SPEEDS] == pytest.approx([12 / 5, 4, 3, 1, 12, 6, 0.6])
    assert found["pipeline_workers"] == 3


def test_all_is_measured(models, tmp_path, monkeypatch) -> None:
    small = partial(native_phantoms, longest={"Montgomery": 320, "Shenzhen": 200}, drawn=80)
    monkeypatch.setattr(prediction_benchmark, "native_phantoms", small)
    monkeypatch.setattr(prediction_benchmark, "growth", lambda folder, models, images: {"images": images})
    monkeypatch.setattr(prediction_benchmark, "ROUNDS", 1)
    found = prediction_ratios(**models, xrays=6, images=101)
    assert list(found) == [*RATIOS, *(f"{name}_images_per_second" for name in SPEEDS), "pipeline_workers", "images"]
    assert all(value > 0 for name, value in found.items() if name != "pipeline_workers")


def test_bad_counts_are_refused(models) -> None:
    with pytest.raises(ValueError, match="xrays must be at least 1 and images above 100, got 0 and 1000"):
        prediction_ratios(**models, xrays=0)
    with pytest.raises(ValueError, match="got 16 and 100"):
        prediction_ratios(**models, images=100)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        prediction_ratios("nowhere", models["classifier"])


@pytest.mark.slow
def test_memory_stays_as_it_is_however_many_x_rays(models, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prediction_benchmark, "FEW_XRAYS", 500)
    found = growth(tmp_path, models, 2000)
    assert list(found) == GROWTH
    # gray and mask of 128x128 pixels take 32 KB; an X-ray of the index takes 0.5 KB, and of all 1500 more only half a
    # block of the row log, 2 KB each, and what the system's memory is scattered over: 3 KB, at times more
    assert found["memory"] < 1.05 and found["bytes_per_image"] < 10_000
    assert found["cpu_time_per_image"] < 1.5
