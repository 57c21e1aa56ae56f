import logging
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from launch import ROOT, python

from hub_models.console import counted, plain_terminal


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


def test_interrupt_ends_with_its_text_and_status(capsys) -> None:
    with pytest.raises(SystemExit) as ended, plain_terminal():
        raise KeyboardInterrupt("stopped after epoch 2")
    assert ended.value.code == 130  # as shells have it: 128 and the number of SIGINT
    assert capsys.readouterr().err == "stopped after epoch 2\n"


@pytest.mark.parametrize("what", ["no folder", "empty folder", "cut zip", "broken image"])
def test_scripts_name_the_fault_without_a_traceback(what: str, phantoms, tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path / "set"
    if what == "empty folder":
        path.mkdir()
    elif what == "cut zip":
        path.write_bytes(b"PK cut")
    elif what == "broken image":
        shutil.copytree(phantoms, path)
        min(path.rglob("CXR_png/*.png")).write_bytes(b"no image")
    message = ended(monkeypatch, capsys, "scripts/show_dataset.py", "--data_dir", path)
    assert message.startswith("error: ") and str(path) in message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--model", "runs/typo", "--from_scratch", "False"), "no model at 'runs/typo'"),
        (("--model", "runs/typo", "--from_scratch"), "no architecture runs/typo"),
        (("--config_name", "mc"), "invalid choice: 'mc'"),
        (("--region", "lungs"), "region needs task tb_classification"),
        (("--task", "tb_classification", "--region", "lungs", "--from_scratch"), "pass --segmenter"),
    ],
)
def test_training_names_the_option(
    option: tuple[str, ...], message: str, phantoms, tmp_path, monkeypatch, capsys
) -> None:
    arguments = ("--data", phantoms, "--output", tmp_path / "run", "--image_size", "32", *option)
    assert message in ended(monkeypatch, capsys, "scripts/train.py", *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ((), "no train_config.json,"),
        (("--split", "whole"), "invalid choice: 'whole'"),
        (("--protocol", "mine"), "invalid choice: 'mine'"),
    ],
)
def test_evaluation_names_the_option(
    option: tuple[str, ...], message: str, phantoms, tmp_path, monkeypatch, capsys
) -> None:
    arguments = ("--model", tmp_path, "--data", phantoms, *option)
    assert message in ended(monkeypatch, capsys, "scripts/evaluate.py", *arguments)
    assert not list(tmp_path.iterdir())


def test_script_in_its_own_process_ends_with_one_sentence(tmp_path) -> None:
    done = python("scripts/show_dataset.py", "--data", tmp_path / "set", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and str(tmp_path / "set") in last


def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, script: str, *arguments: object) -> str:
    """Return the last line of a script, run within this process, which has loaded the libraries."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(Path(ROOT) / script), run_name="__main__")
    code, lines = caught.value.code, capsys.readouterr().err.strip().splitlines()
    return code if isinstance(code, str) else lines[-1]


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(1, "image", "1 image"), (0, "image", "0 images"), (2, "process", "2 processes"), (1, "process", "1 process")],
)
def test_counted(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text
