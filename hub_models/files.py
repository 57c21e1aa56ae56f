"""Files and folders that are whole or absent, that one launch at a time writes to, and that hold nothing else."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK_NAME = ".lock"
NEW_NAME, OLD_NAME = "new", "replaced"  # in the folder aside: what is being made, and what it takes the place of


def write_json(values: Any, path: Path) -> None:
    """Write `values` as indented JSON to `path`, replacing it in one step."""
    write_bytes((json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode(), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write `data` to `path`, replacing it in one step."""
    with new_file(path) as aside:
        aside.write_bytes(data)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; where the block ends well, the file there becomes `path` in one step.

    The path aside is always the same, so what a killed launch left there is overwritten. Launches that could write the
    same file at one time keep each other out by `held`.
    """
    aside = path.with_name(f".{path.name}.writing")
    try:
        yield aside
        sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk hold a file, or every file of a folder, before its name says that it is whole."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())


@contextmanager
def new_folder(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """Give an empty folder to fill; where the block ends well, it becomes `path`, in place of what was there.

    It lies in `aside`, a hidden folder beside `path` unless given. What a killed launch left there is swept.

    Raises:
        ValueError: another launch is making the same.
    """
    path = path.absolute()
    aside = aside or path.with_name(f".{path.name}.writing")
    with held(aside):
        try:
            _sweep(aside, path)
            (aside / NEW_NAME).mkdir()
            yield aside / NEW_NAME
            if path.exists():
                path.rename(aside / OLD_NAME)
            (aside / NEW_NAME).rename(path)
        finally:
            _sweep(aside, path)


def _sweep(aside: Path, path: Path) -> None:
    """Delete what is in `aside`; a folder that was moved there, and not replaced, goes back to `path` first."""
    if (aside / OLD_NAME).is_dir() and not path.exists():
        (aside / OLD_NAME).rename(path)
    for one in aside.iterdir():
        if one.name != LOCK_NAME:
            shutil.rmtree(one)


def check_output(folder: Path, kind: str, is_ours: Callable[[str], bool] = lambda name: False) -> None:
    """Raise FileExistsError unless `folder` is new, or each file in it is one that may be written beside or replaced.

    Args:
        folder: to write to.
        kind: what is written, for the error.
        is_ours: whether the file of a relative path, with slashes, may be there; none may unless given.
    """
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file: pass a new or an empty folder")
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if (other := next((name for name in names if not is_ours(name)), None)) is not None:
        raise FileExistsError(f"{folder} holds {other}, which belongs to no {kind}: pass a new or an empty folder")


def is_hidden(name: str) -> bool:
    """Return whether a relative path is of a hidden file or folder, such as a lock or what a system puts there."""
    return name.startswith(".")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other launches out of `folder`, which is made, while a block runs; the system lets go where a process dies.

    Raises:
        ValueError: another launch holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another launch is writing to {folder}: let it end, or pass another folder") from error
    try:
        yield
    finally:
        (folder / LOCK_NAME).unlink(missing_ok=True)
        lock.release()
        if not any(folder.iterdir()):  # the block wrote nothing
            folder.rmdir()
