import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file
from small_disk import largest_file, small_disk

from hub_models.files import (
    DiskFullError,
    check_output,
    held,
    is_hidden,
    named_disk,
    new_file,
    new_folder,
    sync,
    write_json,
)

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
    with held(folder), refusal as refused, held(folder):
        raise AssertionError("held twice")
    assert f"(process {os.getpid()} on " in str(refused.value)
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
        with pytest.raises(ValueError, match=rf"another launch .*\(process {other.pid} on "), held(Path(tmp_path)):
            pass
        other.kill()
    with held(tmp_path):
        pass


def test_what_a_killed_launch_left_is_deleted_and_nothing_else(tmp_path) -> None:
    (tmp_path / ".results.json.writing").write_text("{")
    kept = {".writing", ".hidden", "notes.writing", ".folder.writing"}
    for name in kept - {".folder.writing"}:
        (tmp_path / name).touch()
    (tmp_path / ".folder.writing").mkdir()  # another launch may be making one
    with held(tmp_path):
        assert {one.name for one in tmp_path.iterdir()} == kept | {".lock"}


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(bytes(300_000)),
    "safetensors": lambda path: save_file({"a": torch.zeros(300_000)}, path),
    "torch": lambda path: torch.save(torch.zeros(300_000), path),
    "parquet": lambda path: pyarrow.parquet.write_table(pyarrow.table({"a": [os.urandom(300_000)]}), path),
}


def assert_named(error: DiskFullError, folder: Path) -> None:
    """The text is one line, and names the folder; the error keeps all that on its way between processes."""
    assert f"the disk of {folder} is full" in str(error) and "\n" not in str(error) and error.folder == folder
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.folder, again.errno) == (DiskFullError, folder, error.errno)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("make", [new_file, new_folder])
def test_limit_of_a_file_is_named_whichever_library_writes(kind: str, make: Callable, tmp_path) -> None:
    (tmp_path / "old").write_text("stands")
    with largest_file(100_000), pytest.raises(DiskFullError) as caught, make(tmp_path / "new") as new:
        WRITERS[kind](new / "a" if make is new_folder else new)
    assert_named(caught.value, tmp_path)
    assert caught.value.errno == (errno.ENOSPC if kind == "torch" else errno.EFBIG)  # torch keeps no number
    assert [one.name for one in tmp_path.iterdir()] == ["old"]  # nothing is left half-written


@pytest.mark.parametrize("kind", WRITERS)
def test_full_disk_is_named_whichever_library_writes(kind: str, tmp_path) -> None:
    with small_disk(tmp_path / "disk", 100) as disk:
        for place in (disk / "a", disk / "deep" / "a"):
            with pytest.raises(DiskFullError) as caught, held(place.parent):
                WRITERS[kind](place)
            assert_named(caught.value, place.parent)
            assert caught.value.errno == errno.ENOSPC
            place.unlink(missing_ok=True)


def test_full_disk_is_found_behind_the_errors_made_of_it(tmp_path) -> None:
    def fail() -> None:
        try:
            raise OSError(errno.EDQUOT, "quota")
        except OSError:
            raise ValueError("closed file")  # noqa: B904  # as libraries do when they tidy up

    with pytest.raises(DiskFullError) as caught, named_disk(tmp_path):
        fail()
    assert caught.value.errno == errno.EDQUOT
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one  # a ring
    for error in (one, PermissionError(errno.EACCES, "no", "x"), RuntimeError("other")):
        with pytest.raises(type(error)) as plain, named_disk(tmp_path):
            raise error
        assert plain.value is error
