"""`make demo`, as a newcomer runs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launch import ROOT, shell
from PIL import Image


@pytest.mark.slow
def test_demo_learns_and_leaves_its_pictures(online: dict[str, str], tmp_path: Path) -> None:
    """`make demo` in a copy of the project's files, with this environment as its `.venv`."""
    root = tmp_path / "project"
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
    shell("make demo THREADS=1", root, online, root)  # beside other tests, two threads wait for each other
    lungs, tb = (root / "demo" / "runs-phantoms" / name for name in ("lungs", "tb"))
    results = json.loads((lungs / "results.json").read_text())
    assert results["metrics"]["all"]["dice"]["value"] >= 0.96
    for picture in (lungs / "overlays.png", lungs / "dice.png", tb / "roc.png", tb / "reliability.png"):
        assert Image.open(picture).size[0] > 500
    screening = json.loads((tb / "results.json").read_text())["metrics"]["all"]
    assert screening["n"] == 65 and screening["auroc"]["value"] >= 0.88  # .92 here; its digits are the processor's
    assert json.loads((root / "demo" / "audit.json").read_text())["counts"]["MC"]["images"] == 100
