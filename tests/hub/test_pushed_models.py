"""Pushed models serve people who have none of this project: their cards' code, in environments of their own."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from installs import ROOT, TORCH, TORCHVISION, build_wheel, fresh_python
from loopback_hub import LoopbackHub
from PIL import Image

from hub_models.hub.push import push_model
from hub_models.metrics import count_overlap, dice
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import TrainConfig
from hub_models.runs.run_folder import RunFolder

PLAIN = (TORCH, "transformers", "pillow")
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with transformers, torch, torchvision and Pillow."""
    return fresh_python(tmp_path_factory.mktemp("plain") / "venv", *PLAIN, alone=TORCHVISION)


@pytest.fixture(scope="module")
def wheel_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with a wheel of this project, installed as a card says."""
    folder = tmp_path_factory.mktemp("wheel")
    return fresh_python(folder / "venv", TORCH, f"{build_wheel(folder)}[models]")


@pytest.fixture
def pushed(
    hub: LoopbackHub, as_user: Callable, make_run, finish, finished_run, tiny_segformer, phantoms: Path, tmp_path: Path
) -> tuple[Path, Path]:
    """The runs of a lung model and of a TB model that sees whole X-rays, which `alice` pushed."""
    options = {"model": str(tiny_segformer), "from_scratch": True, "image_size": 64}
    lungs = finish(make_run(TrainConfig(str(phantoms), str(tmp_path / "lungs"), **options)))
    with as_user("alice"):
        for run, name in ((lungs, "lungs"), (finished_run, "tb")):
            push_model(run, f"alice/{name}", license="apache-2.0", private=False)
    return lungs, finished_run


def said_by(python: Path, hub: LoopbackHub, code: str, folder: Path) -> str:
    """What a program prints, whose clients use the hub."""
    environment = hub.environment(hub.add_user("bob"), folder / "home") | {"PYTHONPATH": str(ROOT / "tests")}
    (folder / "code.py").write_text(code)
    words = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([python, "code.py"], **words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks_of(repo_id: str, as_user: Callable) -> list[str]:
    """The Python of a pushed model's card."""
    with as_user("bob"):
        return BLOCK.findall(ModelCard.load(repo_id).content)


@pytest.mark.parametrize("bits", [8, 16])
def test_card_of_a_plain_model_works_with_transformers_alone(
    bits: int, plain_python: Path, pushed: tuple[Path, Path], hub: LoopbackHub, as_user, phantoms: Path, tmp_path: Path
) -> None:
    pixels = np.asarray(Image.open(next(phantoms.rglob("CXR_png/*.png"))).convert("L"))
    Image.fromarray(pixels if bits == 8 else pixels.astype(np.uint16) * 257).save(tmp_path / "xray.png")
    for run, name in zip(pushed, ("lungs", "tb"), strict=True):
        code, opened = blocks_of(f"alice/{name}", as_user)
        if bits == 16:
            code = re.sub(r"^xray = .*$", opened, code, flags=re.MULTILINE)
        told = said_by(plain_python, hub, f"import torchvision_ops\nimport transformers\n{code}", tmp_path)
        expected = TrainedModel.from_run(run)(tmp_path / "xray.png")
        if name == "lungs":
            found = np.asarray(Image.open(tmp_path / "lungs.png")) > 0
            assert dice(count_overlap(found, expected)) >= 0.99  # of random weights
        else:
            probability, decision = told.split()
            assert float(probability) == pytest.approx(expected, abs=0.01)
            assert decision == str(float(probability) >= RunFolder.read(run).settings.threshold)


def test_code_that_cards_name_comes_with_the_wheel(
    wheel_python: Path, pushed, hub, as_user, make_run, finish, tiny_resnet, phantoms: Path, tmp_path: Path
) -> None:
    xray = next(phantoms.rglob("CXR_png/*.png"))
    (tmp_path / "xray.png").write_bytes(xray.read_bytes())
    options = {"model": str(tiny_resnet), "from_scratch": True, "image_size": 32, "region": "lungs"}
    options |= {"segmenter": str(pushed[0])}
    tb = finish(make_run(TrainConfig(str(phantoms), str(tmp_path / "tb"), "tb_classification", **options)))
    with as_user("alice"):
        push_model(tb, "alice/tb-of-lungs", license="apache-2.0", private=False, segmenter="alice/lungs")
    (code,) = blocks_of("alice/tb-of-lungs", as_user)
    probability, threshold, decision = said_by(wheel_python, hub, code, tmp_path).split(maxsplit=2)
    from hub_models.predict import ChestXrayReader

    (expected,) = ChestXrayReader(pushed[0], tb).read(xray)
    assert float(probability) == pytest.approx(expected.probability, abs=1e-6)
    assert float(threshold) == expected.threshold and decision.strip() == expected.decision
