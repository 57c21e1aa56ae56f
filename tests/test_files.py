import json
import subprocess
import sys
from pathlib import Path

import pytest

from hub_models.files import check_output, held, is_hidden, new_file, new_folder, sync, write_json

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


def test_new_file_replaces_the_old_one_if_its_block_succeeds(tmp_path) -> None:
    path = tmp_path / "a.bin"
    for data in (b"first", b"second"):
        with new_file(path) as aside:
            aside.write_bytes(data)
            assert path.exists() == (data == b"second")
        assert path.read_bytes() == data
    (tmp_path / ".a.bin.writing").write_bytes(b"of a killed launch, longer")
    with pytest.raises(RuntimeError), new_file(path) as aside:
        aside.write_bytes(b"third")
        raise RuntimeError
    assert path.read_bytes() == b"second" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("aside", [None, ".here"])
def test_new_folder_replaces_the_old_one_if_its_block_succeeds(tmp_path, aside: str | None) -> None:
    path, place = tmp_path / "deep" / "set", None if aside is None else tmp_path / "deep" / aside
    for name in ("first", "second"):
        with new_folder(path, place) as new:
            (new / "in").mkdir()
            (new / "in" / name).touch()
            sync(new)
            with pytest.raises(ValueError, match="another launch"), new_folder(path, place):
                pass
        assert [one.name for one in (path / "in").iterdir()] == [name]
    left = path.with_name(aside or ".set.writing")
    (left / "new").mkdir(parents=True)
    (left / "new" / "half").touch()
    path.rename(left / "replaced")  # killed between the two steps
    with pytest.raises(RuntimeError), new_folder(path, place) as new:
        assert not list(new.iterdir()) and (path / "in" / "second").is_file()
        raise RuntimeError
    assert (path / "in" / "second").is_file() and list((tmp_path / "deep").iterdir()) == [path]


def test_folder_with_files_of_others_is_refused(tmp_path) -> None:
    check_output(tmp_path / "new", "run")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path, "run")
    (tmp_path / ".lock").touch()
    check_output(tmp_path, "run", is_hidden)
    with pytest.raises(FileExistsError, match=f"{tmp_path} holds .lock, which belongs to no run: pass a new"):
        check_output(tmp_path, "run")
    (tmp_path / "empty" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="holds empty/thesis.tex"):
        check_output(tmp_path, "run", is_hidden)
    check_output(tmp_path, "run", lambda name: is_hidden(name) or name == "empty/thesis.tex")
    with pytest.raises(FileExistsError, match="thesis.tex is a file"):
        check_output(tmp_path / "empty" / "thesis.tex", "run")


def test_held_folder_is_refused_and_removed_if_empty(tmp_path) -> None:
    folder = tmp_path / "run"
    refusal = pytest.raises(ValueError, match=f"another launch is writing to {folder}: let it end")
    with held(folder), refusal, held(folder):
        raise AssertionError("held twice")
    assert not folder.exists()  # nothing was written
    with held(folder):
        (folder / "weights").touch()
    assert [one.name for one in folder.iterdir()] == ["weights"]


def test_other_processes_of_a_launch_hold_nothing(tmp_path) -> None:
    folder = tmp_path / "run"
    with held(folder, is_main=False):
        assert not folder.exists()
    with held(folder), held(folder, is_main=False):
        pass


def test_lock_ends_with_its_process(tmp_path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another launch"), held(Path(tmp_path)):
            pass
        other.kill()
    with held(tmp_path):
        pass
