import json
import subprocess
import sys
from pathlib import Path

import pytest

from hub_models.files import held, write_json

HOLD = """
import sys, time
from pathlib import Path
from hub_models.files import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_json_is_replaced_in_one_step(tmp_path) -> None:
    path = tmp_path / "a.json"
    write_json({"é": 1}, path)
    with pytest.raises(TypeError):
        write_json({"b": object()}, path)  # JSON knows no such value
    assert json.loads(path.read_text()) == {"é": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_folder_is_kept_from_others_and_left_as_it_was(tmp_path) -> None:
    folder = tmp_path / "run"
    refusal = pytest.raises(ValueError, match=f"another launch is writing to {folder}: let it end")
    with held(folder), refusal, held(folder):
        raise AssertionError("held twice")
    assert not folder.exists()  # nothing was written
    with held(folder):
        (folder / "weights").touch()
    assert [one.name for one in folder.iterdir()] == ["weights"]


def test_process_that_is_killed_lets_go(tmp_path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another launch"), held(Path(tmp_path)):
            pass
        other.kill()
    with held(tmp_path):
        pass
