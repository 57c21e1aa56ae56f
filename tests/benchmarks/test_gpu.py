from pathlib import Path

import pytest
import torch

from hub_models.benchmarks import gpu
from hub_models.benchmarks.gpu import Training, differences, gpu_ratios, launch_ratios, launched
from hub_models.predict.reader import ChestXrayReader


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_machine_without_a_gpu_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no GPU"):
        gpu_ratios()


def test_one_device_differs_from_itself_in_nothing(phantoms) -> None:
    paths = sorted(phantoms.rglob("CXR_png/*.png"))[:2]
    assert differences(ChestXrayReader(), paths) == {"least_dice": 1.0, "largest_difference": 0.0}


@pytest.mark.slow
def test_launches_end_as_one_does(phantoms, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "LAUNCHES", {"cpu": (), "cpu_2_processes": ("--num_processes", "1")})
    training = Training("lung_segmentation", "segformer-light", 64, 4)
    found = launch_ratios(phantoms, tmp_path / "launches", training)
    # to the bit on one CPU
    assert found == {"cpu_2_processes_loss_over_cpu": 1.0, "resumed_dice_difference": 0.0}
    with pytest.raises(RuntimeError, match="the launch cpu failed: .*no-such-model"):
        launched("cpu", phantoms, Path(tmp_path / "bad"), training._replace(model="no-such-model"))
