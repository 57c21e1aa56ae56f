"""Files and folders that are written whole or not at all, by one launch at a time, and never over files of others."""

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
    """Yield a path to write to; if the block succeeds, its file becomes `path` in one step.

    The yielded path is always the same, so the file of a killed launch is overwritten. Launches that could write the
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
    """Flush a file, or every file of a folder, to the disk."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())


@contextmanager
def new_folder(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder to fill; if the block succeeds, it replaces `path`.

    It lies in `aside` (default: a hidden folder beside `path`). The files of a killed launch there are deleted.

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
    """Raise FileExistsError if `folder` is a file or holds one that is not ours.

    Args:
        folder: to write to.
        kind: what is written, for the error.
        is_ours: whether a file may be there, by its relative path with slashes (default: none may).
    """
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file: pass a new or an empty folder")
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if (other := next((name for name in names if not is_ours(name)), None)) is not None:
        raise FileExistsError(f"{folder} holds {other}, which belongs to no {kind}: pass a new or an empty folder")


def is_hidden(name: str) -> bool:
    """Return whether a relative path is hidden, as locks and files of the system are."""
    return name.startswith(".")


@contextmanager
def held(folder: Path, is_main: bool = True) -> Iterator[None]:
    """Make `folder` and keep other launches out of it while a block runs; the lock ends with the process.

    Of the processes of a launch, the main one holds the lock for all; the others only run the block.

    Raises:
        ValueError: another launch holds the folder.
    """
    if not is_main:
        yield
        return
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
