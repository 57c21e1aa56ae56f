"""Both backends of transformers' image processors: plain pipelines with torchvision say what our reader says."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from installs import TORCHVISION

from hub_models.metrics import count_overlap, dice
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import TrainConfig
from hub_models.runs.run_folder import RunFolder

PIPELINES = """
import torchvision_ops  # noqa: F401  # before torchvision
import json, sys
import numpy as np
from transformers import pipeline
lungs, tb, images, output = sys.argv[1:]
segment, classify = pipeline("image-segmentation", model=lungs), pipeline("image-classification", model=tb)
found = {"backends": [segment.image_processor.backend, classify.image_processor.backend], "tb": {}}
masks = {}
for path in json.loads(images):
    masks[path] = np.asarray({one["label"]: one["mask"] for one in segment(path)}["lung"]) > 0
    found["tb"][path] = {one["label"]: one["score"] for one in classify(path)}["tuberculosis"]
np.savez(output, **{str(number): mask for number, mask in enumerate(masks.values())})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def with_torchvision(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a Python that has torchvision, and nothing of this project."""
    folder = tmp_path_factory.mktemp("torchvision")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), TORCHVISION]
    subprocess.run(command, check=True)
    (folder / "torchvision_ops.py").write_bytes((Path(__file__).parents[1] / "torchvision_ops.py").read_bytes())
    return os.environ | {"PYTHONPATH": str(folder)}


def differences(
    environment: dict[str, str], lungs: Path, tb: Path, paths: list[str], folder: Path
) -> list[np.ndarray]:
    """Dice of the masks, and the absolute differences of the probabilities, of the pipelines and of our reader."""
    command = [sys.executable, "-c", PIPELINES, lungs, tb, json.dumps(paths), folder / "masks.npz"]
    done = subprocess.run(command, env=environment, cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    found, masks = json.loads(done.stdout), np.load(folder / "masks.npz")
    assert found["backends"] == ["torchvision"] * 2
    segment, classify = TrainedModel.from_run(lungs), TrainedModel.from_run(tb)
    pairs = [(masks[str(number)], segment(path)) for number, path in enumerate(paths)]
    overlaps = [dice(count_overlap(*pair)) for pair in pairs]
    return [np.array(overlaps), np.array([abs(found["tb"][path] - classify(path)) for path in paths])]


@pytest.mark.slow
def test_pipelines_with_torchvision_read_as_we_do(
    with_torchvision: dict[str, str],
    make_run: Callable[..., Path],
    phantoms: Path,
    tiny_segformer: Path,
    tiny_resnet: Path,
    tmp_path: Path,
) -> None:
    lungs = make_run(TrainConfig("data", str(tmp_path / "lungs"), model=str(tiny_segformer), image_size=64))
    tb_config = TrainConfig("data", str(tmp_path / "tb"), "tb_classification", model=str(tiny_resnet), image_size=64)
    paths = sorted(map(str, next(phantoms.rglob("CXR_png")).glob("*.png")))[::8]
    overlaps, gaps = differences(with_torchvision, lungs, make_run(tb_config), paths, tmp_path)
    assert overlaps.min() >= 0.99  # random weights leave wide regions near 0, which rounding moves
    assert gaps.max() <= 0.01


@pytest.mark.slow
def test_pipelines_with_torchvision_read_the_real_test_xrays_as_we_do(
    with_torchvision: dict[str, str], real_data_dir: Path, real_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    places = {path.stem: str(path) for path in real_data_dir.rglob("CXR_png/*.png")}
    paths = [places[id] for id in RunFolder.read(real_runs[1]).data["test"]]
    overlaps, gaps = differences(with_torchvision, *real_runs, paths, tmp_path)
    print(f"n {len(paths)}: least Dice {overlaps.min():.5f}, largest difference {gaps.max():.5f}")  # a card says it
    assert len(paths) == 95 and overlaps.min() >= 0.999 and gaps.max() <= 0.01
