import logging
import shutil

import pytest
from launch import python

from hub_models.console import plain_terminal


@pytest.mark.parametrize(
    "error", [ValueError("bad size 3"), FileNotFoundError("no folder x"), ImportError("no pydicom")]
)
def test_bad_input_ends_with_one_sentence(error: Exception) -> None:
    with pytest.raises(SystemExit, match=f"error: {error}"), plain_terminal():
        raise error


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(KeyError), plain_terminal():
        raise KeyError("a bug")
    assert logging.getLogger("hub_models").isEnabledFor(logging.INFO)


@pytest.mark.parametrize("what", ["no folder", "empty folder", "cut zip", "broken image"])
def test_scripts_name_the_fault_without_a_traceback(what: str, phantoms, tmp_path) -> None:
    path = tmp_path / "set"
    if what == "empty folder":
        path.mkdir()
    elif what == "cut zip":
        path.write_bytes(b"PK cut")
    elif what == "broken image":
        shutil.copytree(phantoms, path)
        min(path.rglob("CXR_png/*.png")).write_bytes(b"no image")
    done = python("scripts/show_dataset.py", "--data_dir", path, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and str(path) in done.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--image_size", "300"), "image_size must be a multiple of 32, got 300"),
        (("--image_sze", "64"), "image_sze"),
        (("--model", "runs/typo", "--from_scratch", "False"), "no model at 'runs/typo'"),
        (("--model", "runs/typo", "--from_scratch"), "got runs/typo"),
        (("--config_name", "mc"), "invalid choice: 'mc'"),
    ],
)
def test_training_names_the_option(option: tuple[str, ...], said: str, phantoms, tmp_path) -> None:
    arguments = ("--data_dir", phantoms, "--output_dir", tmp_path / "run", "--image_size", "32", *option)
    done = python("scripts/train.py", *arguments, check=False)
    assert done.returncode and "Traceback" not in done.stderr
    assert said in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()
