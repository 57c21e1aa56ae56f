from pathlib import Path

import pytest

from hub_models.benchmarks import backend
from hub_models.runs.config import TrainConfig


def test_ratios_are_of_both_backends_on_the_same_files(make_run, tiny_segformer, tiny_resnet, tmp_path, monkeypatch):
    from hub_models.dataset.phantoms import write_phantoms

    monkeypatch.setattr(
        backend, "native_phantoms", lambda root, count: write_phantoms(Path(root), 0, count, image_size=64)
    )
    monkeypatch.setattr(backend, "ROUNDS", 1)
    lungs = make_run(TrainConfig("data", str(tmp_path / "lungs"), model=str(tiny_segformer), image_size=64))
    options = {"model": str(tiny_resnet), "image_size": 64, "region": "lungs"}
    tb = make_run(TrainConfig("data", str(tmp_path / "tb"), "tb_classification", **options))
    found = backend.backend_ratios(lungs, tb, 3)
    speeds = [found[f"{name}_images_per_second"] for name in ("onnx", "torch")]
    assert found["onnx_over_torch"] == pytest.approx(speeds[0] / speeds[1]) and found["onnx_models_over_torch"] > 0
    with pytest.raises(ValueError, match="at least 1, got 0"):
        backend.backend_ratios(lungs, tb, 0)
