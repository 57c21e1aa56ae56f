"""Files that are whole or absent: written aside, then renamed; and folders that one launch at a time writes to."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK_NAME = ".lock"


def write_json(values: Any, path: Path) -> None:
    """Write `values` as indented JSON to `path`, replacing it in one step."""
    write_bytes((json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode(), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write `data` to `path`, replacing it in one step."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


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
