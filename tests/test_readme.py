"""The README's commands and code, run as written on the phantoms that `make demo` writes."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch import ROOT
from loopback_hub import LoopbackHub
from PIL import Image

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def block_with(text: str) -> str:
    """The one block of Python that holds `text`."""
    (block,) = (block for block in blocks("python") if text in block)
    return block


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of somebody who is logged in as `you` to a Hub, that of the tests."""
    with LoopbackHub() as hub:
        yield hub.environment(hub.add_user("you"), tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def demo(online: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's files in which `make demo` was run, with this environment as its `.venv`."""
    root = tmp_path_factory.mktemp("clone") / "project"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    environment = root / ".venv"
    environment.symlink_to(sys.prefix)
    if not (environment / ".installed").exists():
        pytest.skip("not in the environment that `make install` makes")
    os.utime(root / "constraints.txt", (0, 0))
    os.utime(root / "pyproject.toml", (0, 0))  # older than .installed: nothing to install
    run("make demo", root, online)
    return root


def run(command: str, root: Path, online: dict[str, str]) -> str:
    """Output of a shell command with the environment's programs first on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = online | {"PATH": path, "PYTHONPATH": str(root), "MAKEFLAGS": ""}
    done = subprocess.run(command, shell=True, cwd=root, env=environment, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def test_first_screen_says_what_and_what_not() -> None:
    first = README.splitlines()[:12]
    assert any("not a medical device" in line for line in first)
    assert any(line.startswith("![") for line in first)
    assert (ROOT / re.search(r"!\[.*?\]\((.*?)\)", README)[1]).is_file()
    assert "make demo" in blocks("bash")[0] and "make test" in blocks("bash")[0]
    assert len([line for line in blocks("python")[0].splitlines() if line]) == 8


@pytest.mark.slow
def test_demo_ends_above_090_with_its_pictures(demo: Path) -> None:
    lungs, tb = (demo / "demo" / "runs-phantoms" / name for name in ("lungs", "tb"))
    results = json.loads((lungs / "results.json").read_text())
    assert results["figures"]["all"]["dice"]["value"] > 0.90
    for picture in (lungs / "overlays.png", lungs / "dice.png", tb / "roc.png", tb / "reliability.png"):
        assert Image.open(picture).size[0] > 500
    screening = json.loads((tb / "results.json").read_text())["figures"]["all"]
    assert screening["n"] == 21 and 0 <= screening["auroc"]["low"] <= screening["auroc"]["high"] <= 1
    assert json.loads((demo / "demo" / "audit.json").read_text())["counts"]["MC"]["images"] == 40


@pytest.mark.slow
def test_eight_lines_run(demo: Path, online: dict[str, str]) -> None:
    (demo / "eight_lines.py").write_text(blocks("python")[0])
    id, share, probability, *words = run("python eight_lines.py", demo, online).split()
    assert id[:6] in ("MCUCXR", "CHNCXR") and words[0] == "tuberculosis"
    assert 0.1 < float(share) < 0.5  # of the picture are lungs
    assert 0 < float(probability) < 1


@pytest.mark.slow
def test_modules_of_evaluate_give_what_the_comments_say(demo: Path, online: dict[str, str]) -> None:
    block = block_with("import evaluate")
    (demo / "modules.py").write_text(block)
    said = [float(value) for value in re.findall(r"# ([\d.]+)$", block, re.M)]
    assert [float(line) for line in run("python modules.py", demo, online).split()] == pytest.approx(said)


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for block in blocks("bash")[1:] for line in block.splitlines() if line])
def test_command_runs(command: str, demo: Path, online: dict[str, str]) -> None:
    run(command, demo, online)


@pytest.mark.slow
def test_what_was_pushed_is_read_from_there(demo: Path, online: dict[str, str]) -> None:
    """After the README's commands, which push."""
    (demo / "back.py").write_text(block_with("pull_model"))
    lines = run("python back.py", demo, online).splitlines()
    assert len(lines) == 2
    for line in lines:
        id, share, probability, *_ = line.split()
        assert id.startswith("MCUCXR") and 0 <= float(share) < 0.5 and 0 < float(probability) < 1


@pytest.mark.slow
def test_tutorial_ends_with_a_read_x_ray(demo: Path, online: dict[str, str]) -> None:
    """After the README's commands, the tutorial's among them."""
    (demo / "tutorial.py").write_text(block_with("you/first-lungs"))
    shape, lungs, probability, decision, flags = run("python tutorial.py", demo, online).splitlines()
    assert re.fullmatch(r"\(\d+, \d+\)", shape) and lungs.startswith("Lungs(right_share=0.") and flags.startswith("(")
    assert 0 < float(probability) < 1 and decision.startswith("tuberculosis ")


def test_every_command_is_found() -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert all(line.split()[0] in ("make", "python", "accelerate") for line in commands)
    assert len(blocks("python")) == 4
    scripts = {path.name for path in (ROOT / "scripts").glob("*.py")}
    assert {"train.py", "audit_dataset.py", "show_dataset.py", "evaluate.py", "benchmark.py"} <= scripts
