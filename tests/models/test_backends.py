"""Both backends of transformers' image processors: plain pipelines with torchvision say what our reader says."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hub_models.metrics import count_overlap, dice
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import TrainConfig

TORCHVISION = "torchvision==0.28.0"  # made for torch 2.13
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
    tb = make_run(tb_config)
    paths = sorted(map(str, next(phantoms.rglob("CXR_png")).glob("*.png")))[::8]
    command = [sys.executable, "-c", PIPELINES, lungs, tb, json.dumps(paths), tmp_path / "masks.npz"]
    done = subprocess.run(command, env=with_torchvision, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    found, masks = json.loads(done.stdout), np.load(tmp_path / "masks.npz")
    assert found["backends"] == ["torchvision"] * 2
    segment, classify = TrainedModel.from_run(lungs), TrainedModel.from_run(tb)
    for number, path in enumerate(paths):
        image = Image.open(path)
        # random weights leave wide regions near 0, which rounding moves
        assert dice(count_overlap(masks[str(number)], segment(image))) >= 0.99
        assert found["tb"][path] == pytest.approx(classify(image), abs=0.01)
