"""Open X-rays by their places: files, URLs, and paths that the tables of others name, which could lead anywhere."""

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
from fsspec.core import split_protocol
from fsspec.implementations.local import LocalFileSystem

from chest_xray_masks import MAX_BYTES
from hub_models.imaging.source import Source

OpenPath = Callable[[str], Source]


def open_file(files: fsspec.AbstractFileSystem, path: str) -> Source:
    """Return a file's path where it is on this machine, else its bytes, `MAX_BYTES` and one at the most.

    Raises:
        PermissionError: a folder that may not be read.
    """
    if isinstance(files, LocalFileSystem):
        if Path(path).is_dir() and not may_be_read(path):
            raise PermissionError(f"{path} is a folder that may not be read: allow it to be read, or remove it")
        return Path(path)
    with files.open(path) as file:
        data: bytes = file.read(MAX_BYTES + 1)
    return data


def may_be_read(folder: str) -> bool:
    """Return whether a folder of this machine may be listed, and its files opened."""
    return os.access(folder, os.R_OK | os.X_OK)


def open_url(url: str) -> Source:
    """Return `open_file` of a path or URL."""
    return open_file(*fsspec.url_to_fs(url))


def open_beside(folder: str, path: str) -> Source:
    """Return `open_url` of what a table in a `folder` of this machine names; a relative path is tried there first."""
    beside = f"{folder}/{path}".replace("\\", "/")
    return open_url(beside if "://" not in path and not path.startswith("/") and Path(beside).exists() else path)


def refuse(path: str) -> Source:
    """Raise ValueError for a path or URL in a table of others, which could lead to any file or address."""
    why = "a table of others could name any file or address: trust it with --allow_paths"
    raise ValueError(f"the row names {path[:200]!r} and holds no image, and {why}")


def open_inside(folders: list[Path], path: str) -> Source:
    """Return a path in one of the folders, links resolved; refuse any other."""
    real = Path(os.path.realpath(path))
    return Path(path) if any(real.is_relative_to(os.path.realpath(folder)) for folder in folders) else refuse(path)


def open_below(files: fsspec.AbstractFileSystem, folder: str, place: str) -> Source:
    """Return `open_file` of a place below the folder of a file system; refuse any other."""
    protocol, _ = split_protocol(place)
    path = str(files._strip_protocol(place))
    is_there = protocol in (files.protocol, *files.protocol) and path.startswith(f"{folder.rstrip('/')}/")
    return open_file(files, path) if is_there and "::" not in place and ".." not in path.split("/") else refuse(place)


def printable(text: str) -> str:
    r"""Return the same text, but `\udce9` in place of a byte 0xe9 that is not UTF-8."""
    return text.encode(errors="backslashreplace").decode()
