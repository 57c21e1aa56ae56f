"""Wheels of this project and fresh environments, for tests of what people install; packages come from an index."""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCH, TORCHVISION = "torch==2.13.0", "torchvision==0.28.0"  # made for each other
OUTSIDE = {"PYTHONPATH": ""}  # environment variables: pip takes a clone on the path for an installed package


def tracked() -> list[str]:
    """Files of the working tree that git tracks, or would."""
    line = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def build_wheel(folder: Path) -> Path:
    """A wheel of the tracked files, in the folder."""
    for name in tracked():
        copy = folder / "project" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder]
    line = [sys.executable, "-m", "pip", "wheel", *options, folder / "project"]
    subprocess.run(line, check=True, cwd=folder, env=os.environ | OUTSIDE)
    (wheel,) = folder.glob("*.whl")
    return wheel


def fresh_python(folder: Path, *packages: str | Path, alone: str | None = None) -> Path:
    """The interpreter of a new environment that holds these packages, and `alone` without what it needs."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    # What a test imports is compiled then, a small part of all.
    line = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt"]
    for words in (packages, ("--no-deps", alone)):
        if words[-1]:
            subprocess.run([*line, *words], check=True, env=os.environ | OUTSIDE, cwd=folder)
    return python
