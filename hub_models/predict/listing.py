"""List the files below a folder or of a glob, with their sizes; what may not be read is told when it is opened."""

import logging
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from chest_xray_masks import regular_size
from hub_models.imaging.file_kinds import OTHERS, is_written
from hub_models.predict.passed_over import NO_FILE, ROWS
from hub_models.predict.places import may_be_read

logger = logging.getLogger(__name__)


def files_below(files: fsspec.AbstractFileSystem, path: str) -> Iterator[tuple[str, int | None]]:
    """Yield what `sized` does of all below a folder; links are followed, but to a folder seen before."""
    if not isinstance(files, LocalFileSystem):
        yield from sized(files, files.find(path, detail=True))
        return
    waiting, seen = [path], set()
    while waiting:
        folder = waiting.pop()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as listing:
                entries = {entry.path: entry for entry in sorted(listing, key=lambda entry: entry.name)}
        except OSError:
            yield folder, None
            continue
        if folder != path and is_written({entry.name for entry in entries.values()}):
            logger.warning("warning: %s is passed over: a command of this project wrote it", folder)
            continue
        yield from sized(files, dict.fromkeys(entries, {}))
        waiting += [place for place, entry in reversed(entries.items()) if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or a folder that may not be entered
        return False


def unreadable_folders(files: fsspec.AbstractFileSystem, root: str, pattern: str) -> Iterator[tuple[str, None]]:
    """Yield each folder below `root` that may not be read and may hold what a glob names; fsspec leaves it out."""
    if not isinstance(files, LocalFileSystem):
        return
    parts = pattern[len(root) :].strip("/").split("/")
    for folder, folders, _ in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        deep = "**" in parts[: depth + 1]
        folders[:] = [name for name in folders if deep or (depth + 1 < len(parts) and fnmatchcase(name, parts[depth]))]
        paths = (f"{folder.rstrip('/')}/{name}" for name in folders)
        yield from ((path, None) for path in paths if not may_be_read(path))


def sized(files: fsspec.AbstractFileSystem, found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, int | None]]:
    """Yield path and size in bytes of the files of a listing.

    What is not a file has no size where it is named as an image or may not be looked at, else NO_FILE. Folders are
    left out, unless they are named as images.
    """
    for path, info in found.items():
        if isinstance(files, LocalFileSystem):
            suffix = PurePosixPath(path).suffix.lower()
            try:
                yield path, regular_size(path)
            except (OSError, ValueError) as error:  # it is told when the path is opened
                is_folder = isinstance(error, ValueError) and Path(path).is_dir()
                is_denied = isinstance(error, PermissionError) and suffix not in OTHERS
                if suffix in ROWS or not is_folder:
                    yield path, None if suffix in ROWS or is_denied else NO_FILE
        elif info["type"] == "file":
            yield path, info["size"]
