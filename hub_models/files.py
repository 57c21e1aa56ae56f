"""Files and folders that are written whole or not at all, by one launch at a time, and never over files of others."""

import base64
import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from filelock import FileLock, Timeout

LOCK_NAME = ".lock"
ASIDE = ".writing"  # how the name of a file or folder that is being made ends
NEW_NAME, OLD_NAME = "new", "replaced"  # in the folder aside: what is being made, and what it takes the place of
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space left, over the quota, over the limit of a file
FULL_BYTES = 2**20  # fewer free bytes are those of a full disk
# what libraries written in Rust say in place of an errno, and torch, which keeps none
RUST_ERROR, TORCH_ERROR = (
    re.compile(r"\(os error ([0-9]+)\)"),
    re.compile("PytorchStreamWriter|inline_container|iostream"),
)


class DiskFullError(OSError):
    """A write that the disk, a quota or a limit refused; its text names the folder and what to do."""

    def __init__(self, folder: Path, number: int, stands: str = "what is finished is kept") -> None:
        """Name the `folder` that was written to, the `number` of the error, and what `stands` there."""
        said = f"{os.strerror(number)}: the disk of {folder} is full, or a quota or limit is reached; {stands}: "
        super().__init__(said + "free some space, and start the same command again")
        self.folder, self.number, self.errno = folder, number, number

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how a process makes the error of another one."""
        return type(self), (self.folder, self.number)


@contextmanager
def named_disk(folder: Path) -> Iterator[None]:
    """Run a block that writes into `folder`; raise DiskFullError where its disk is full, whichever library says so."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if (found := full_disk(error)) is None:
            raise
        number, name = found
        raise DiskFullError(_full_folder(Path(name).parent if name else folder.absolute()), number) from error


def full_disk(error: BaseException | None) -> tuple[int, str | None] | None:
    """Return the number of the error of a full disk that an error is, or was made of, and its file, if known."""
    seen: list[BaseException] = []  # a chain may be a ring
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error.errno, error.filename if isinstance(error.filename, str) else None
        if (found := RUST_ERROR.search(str(error))) and int(found[1]) in NO_ROOM:
            return int(found[1]), None
        if isinstance(error, RuntimeError) and TORCH_ERROR.search(str(error)):
            return errno.ENOSPC, None
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def _full_folder(folder: Path) -> Path:
    """Return `folder`, without the place aside in it; the folder of temporary files where that is the full one."""
    folder = next((one.parent for one in (folder, *folder.parents) if one.name.endswith(ASIDE)), folder)
    nearest = next(one for one in (folder, *folder.parents) if one.is_dir())
    free = {one: shutil.disk_usage(one).free for one in (nearest, Path(gettempdir()))}
    return Path(gettempdir()) if free.pop(Path(gettempdir())) < FULL_BYTES <= min(free.values(), default=0) else folder


def write_json(values: Any, path: Path) -> None:
    """Write `values` as indented JSON to `path`, replacing it in one step."""
    write_bytes((json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode(), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write `data` to `path`, replacing it in one step."""
    with new_file(path) as aside:
        aside.write_bytes(data)


def data_url(data: bytes, kind: str) -> str:
    """Return an address that holds the data itself, of a kind such as "image/png": a page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; if the block succeeds, its file becomes `path` in one step.

    The yielded path is always the same, so the file of a killed launch is overwritten. Launches that could write the
    same file at one time keep each other out by `held`.
    """
    aside = path.with_name(f".{path.name}{ASIDE}")
    try:
        with named_disk(path.parent):
            yield aside
            sync(aside)
            aside.replace(path)
            _sync_one(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder with all that is in it, to the disk."""
    for one in [path] if path.is_file() else [*path.rglob("*"), path]:
        _sync_one(one)


def _sync_one(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # which flushes no folder
        return
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def new_folder(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder to fill; if the block succeeds, it replaces `path`.

    It lies in `aside` (default: a hidden folder beside `path`). The files of a killed launch there are deleted.

    Raises:
        ValueError: another launch is making the same.
    """
    path = path.absolute()
    aside = aside or path.with_name(f".{path.name}{ASIDE}")
    with held(aside):
        try:
            _sweep(aside, path)
            (aside / NEW_NAME).mkdir()
            yield aside / NEW_NAME
            if path.exists():
                path.rename(aside / OLD_NAME)
            (aside / NEW_NAME).rename(path)
            _sync_one(path.parent)
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


def check_outside(output: Path, data: str) -> None:
    """Raise ValueError where `output` lies in the folder of X-rays `data`."""
    if Path(data).is_dir() and output.resolve().is_relative_to(Path(data).resolve()):
        raise ValueError(f"output {output} lies in {data}, and would be read itself: pass a folder outside of it")


def is_hidden(name: str) -> bool:
    """Return whether a relative path is hidden, as locks and files of the system are."""
    return name.startswith(".")


@contextmanager
def held(folder: Path, is_main: bool = True) -> Iterator[None]:
    """Make `folder` and keep other launches out of it while a block runs; the lock ends with the process.

    Of the processes of a launch, the main one holds the lock for all; the others only run the block. What a killed
    launch left half-written by `new_file` is deleted first.

    Raises:
        ValueError: another launch holds the folder.
        DiskFullError: the block found the disk full.
    """
    with named_disk(folder):
        if is_main:
            with _locked(folder):
                yield
        else:
            yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_NAME
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        holder = ""
        with suppress(OSError):  # Windows lets nobody read it
            holder = path.read_text()
        way = f"let it end{holder and f' ({holder})'}, or pass another folder"
        raise ValueError(f"another launch is writing to {folder}: {way}") from error
    try:
        with suppress(PermissionError):
            path.write_text(f"process {os.getpid()} on {platform.node()}")
        for left in folder.glob(f".*{ASIDE}"):
            if left.is_file():
                left.unlink()
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
        if not any(folder.iterdir()):  # the block wrote nothing
            with suppress(OSError):  # a disk of its own
                folder.rmdir()
