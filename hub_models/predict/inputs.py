"""Find X-rays to read wherever they are: a file, folder, zip, glob, list, Parquet or dataset, here or at a URL."""

import csv
import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import datasets
import fsspec
import pyarrow
from fsspec.implementations.local import LocalFileSystem

from chest_xray_masks import read_member, reason, regular_size, scan
from hub_models.imaging.source import Source
from hub_models.predict.dataset_rows import (
    INDEX_BLOCK,
    Entry,
    IndexRow,
    OpenSource,
    Sources,
    index_of,
    of_dataset,
    of_parquet,
)
from hub_models.predict.places import may_be_read, open_below, open_file, open_url
from hub_models.predict.row_log import as_it_was

logger = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".ppm", ".dcm", ".dicom"}
LIST_COLUMNS = ("source", "path", "file", "file_name", "image", "url")  # of a CSV, the first that it has
PASSED_OVER = re.compile(r"(^|/)(\.[^/]*|__MACOSX|DICOMDIR)(/|$)")  # hidden, a Mac's own, a table of contents


def find_sources(
    images: str,
    config: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    column: str | None = None,
    allow_paths: bool = False,
) -> Sources:
    """Return the X-rays of `images`, sorted by key unless they are rows.

    * A file, whatever its suffix; a folder, with all below it; a glob. A folder and a glob pass over what is no image
      by its suffix, but for DICOM files without one. Keys are paths, relative to the folder or the glob's fixed part.
      Of a folder that holds the set, masks and second copies of its X-rays are passed over. What is named as an image
      and is no file, and a folder that may not be read, raises its error when it is opened.
    * A zip: the same as a folder, by its members; zips in it are passed over.
    * A list, .txt with a line for each or .csv with a column of `LIST_COLUMNS`: paths, relative to the list, and URLs.
      One at a URL names files below its own folder only, unless `allow_paths`.
    * Parquet, a file, a glob or a folder without images: the rows of its image `column`. Keys are those of the column
      `id` where there is one without repeats, else file and row. Cells hold bytes; paths and URLs in them are opened
      with `allow_paths` only, since they lead anywhere.
    * The name of a dataset, of the Hub or `chest_xray_masks`, with `config`, `split` (else all) and `data_dir`. Keys
      are as those of Parquet, else split and row.

    All but the last may be at any URL that fsspec takes.

    Raises:
        FileNotFoundError: there is nothing, or no image.
        ValueError: a damaged zip, a list without a known column, a table without an image column or with several.
        ImportError: a URL whose file system needs another package.
    """
    if config or split or data_dir:
        return of_dataset(images, config, split, data_dir, column, allow_paths)
    files, path = fsspec.url_to_fs(images)
    if files.isdir(path):
        if isinstance(files, LocalFileSystem):
            open_file(files, path)  # raises where it may not be read
        found = _below(files, path)
        return _folder(files, path, found, images, column, allow_paths, _not_xrays(files, path))
    if files.isfile(path):
        name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix.lower()
        if suffix == ".zip":
            return _zip(files, path)
        if suffix in (".txt", ".csv"):
            return _list(files, path, images, allow_paths)
        if suffix == ".parquet":
            return of_parquet(files, {name: path}, column, allow_paths)
        return Sources(index_of([(name, path, None, files.size(path))]), partial(_stream, partial(open_file, files)))
    if fsspec.core.has_magic(path):
        root = re.split(r"[^/]*[*?[]", path, maxsplit=1)[0].rstrip("/")
        found = chain(_sized(files, files.glob(path, detail=True)), _unreadable(files, root, path))
        return _folder(files, root, found, images, column, allow_paths)
    if isinstance(files, LocalFileSystem) and os.path.lexists(path):
        regular_size(path)  # raises why it is none
    if "://" in images or Path(images).is_absolute() or PurePosixPath(images).suffix.lower() in SUFFIXES:
        raise FileNotFoundError(f"nothing at {images}: pass a file, folder, zip, glob, list, Parquet or dataset")
    return of_dataset(images, config, split, data_dir, column, allow_paths)


def _not_xrays(files: fsspec.AbstractFileSystem, path: str) -> frozenset[str]:
    """Return the relative names of masks and second copies in a folder or zip that holds the set.

    Each stands beside an X-ray of the same id. A folder of masks alone is read as it is.
    """
    if not isinstance(files, LocalFileSystem):
        return frozenset()
    tree = scan(path)
    root = Path(path).resolve()
    if root.is_file():
        named = [(file, file.member) for file in tree.files]
    else:
        named = [(file, Path(file.path).relative_to(root).as_posix()) for file in tree.files if not file.member]
    xrays: dict[str, str] = {}
    for file, name in named:  # the best copy of each comes first
        if file.role == "image":
            xrays.setdefault(file.id, name)
    others = [name for file, name in named if file.role != "reading" and name != xrays.get(file.id, name)]
    if others:
        logger.info("%s holds the set: %d masks and second copies passed over", path, len(others))
    return frozenset(others)


def _below(files: fsspec.AbstractFileSystem, path: str) -> Iterator[tuple[str, int | None]]:
    """Yield what `_sized` does of all below a folder; links are followed, but to a folder seen before."""
    if not isinstance(files, LocalFileSystem):
        yield from _sized(files, files.find(path, detail=True))
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
        yield from _sized(files, dict.fromkeys(entries, {}))
        waiting += [path for path, entry in reversed(entries.items()) if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or a folder that may not be entered
        return False


def _unreadable(files: fsspec.AbstractFileSystem, root: str, pattern: str) -> Iterator[tuple[str, None]]:
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


def _sized(files: fsspec.AbstractFileSystem, found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, int | None]]:
    """Yield path and size in bytes of the files of a listing, without size what is none by an image's name."""
    for path, info in found.items():
        if isinstance(files, LocalFileSystem):
            try:
                yield path, regular_size(path)
            except (OSError, ValueError) as error:  # it is told when the path is opened
                suffix = PurePosixPath(path).suffix.lower()
                if suffix in SUFFIXES or (not suffix and isinstance(error, PermissionError)):
                    yield path, None
        elif info["type"] == "file":
            yield path, info["size"]


def _folder(
    files: fsspec.AbstractFileSystem,
    root: str,
    found: Iterable[tuple[str, int | None]],
    images: str,
    column: str | None,
    allow_paths: bool,
    others: frozenset[str] = frozenset(),
) -> Sources:
    """Return the images among the files found under `root` but `others`, else their Parquet."""
    tables, zips, count, no_files = {}, 0, 0, 0

    def chosen() -> Iterator[Entry]:
        nonlocal zips, count, no_files
        for path, size in found:
            count += 1
            key = path[len(root) :].strip("/")
            if key not in others and _is_image(key, size, partial(files.read_block, path, 0, 132)):
                no_files += size is None
                yield key, path, None, size
            elif key.endswith(".parquet") and not PASSED_OVER.search(key):
                tables[key] = path
            zips += key.lower().endswith(".zip")

    index = index_of(chosen(), by_key=True)
    _say_zips(images, zips)
    if tables and len(index) == no_files:
        if no_files:
            said = f"{images} holds tables, and {index['source'][0]} that cannot be read"
            raise ValueError(f"{said}: take it away, or pass {images.rstrip('/')}/*.parquet")
        return of_parquet(files, dict(sorted(tables.items())), column, allow_paths)
    if len(index):
        return Sources(index, partial(_stream, partial(open_file, files)))
    raise _no_image(images, count)


def _say_zips(images: str, count: int) -> None:
    if count:
        logger.warning("warning: %s holds %d zips, which are not read: unpack them, or read each", images, count)


def _no_image(images: str, count: int) -> FileNotFoundError:
    known = ", ".join(sorted(SUFFIXES))
    return FileNotFoundError(f"no image in {images} ({count} other files): pass one that holds {known}, or Parquet")


def _is_image(key: str, size: int | None, head: Callable[[], bytes]) -> bool:
    """Return whether a file is an image by its name, or a DICOM file without suffix by its first 132 bytes.

    What has no size, or cannot be read, is one: opened, it raises why it cannot be.
    """
    if PASSED_OVER.search(key):
        return False
    suffix = PurePosixPath(key).suffix.lower()
    try:
        return suffix in SUFFIXES or size is None or (not suffix and head()[128:] == b"DICM")
    except Exception:  # of zips and file systems
        return True


def _stream(open_place: Callable[[str], Source], rows: datasets.Dataset) -> Iterator[tuple[IndexRow, OpenSource]]:
    for row in rows:
        yield row, partial(open_place, row["place"].decode(errors="surrogateescape"))


def _zip(files: fsspec.AbstractFileSystem, path: str) -> Sources:
    try:
        archive = zipfile.ZipFile(files.open(path))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no whole zip ({error}): get it again") from error

    def read(member: str, count: int = -1) -> bytes:
        return read_member(archive, member, f"{PurePosixPath(path).name}/{member}", count=count)

    members = {one.filename: one for one in archive.infolist()}
    for one in archive.infolist():
        if one.CRC != members[one.filename].CRC:
            raise ValueError(f"{path} holds two files {one.filename} that differ: get the zip again")
    _say_zips(path, sum(name.lower().endswith(".zip") for name in members))
    names = (name for name in members.keys() - _not_xrays(files, path) if _is_image(name, 0, partial(read, name, 132)))
    index = index_of(((name, name, None, members[name].file_size) for name in names), by_key=True)
    if not len(index):
        raise _no_image(path, len(members))
    return Sources(index, partial(_stream, read), (files.unstrip_protocol(path),))


def _list(files: fsspec.AbstractFileSystem, path: str, images: str, allow_paths: bool) -> Sources:
    try:
        with files.open(path, "rt", encoding="utf-8-sig", newline="") as file:
            keys = _once(_entries(file, images) if path.lower().endswith(".csv") else file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{images} is no list in UTF-8 ({reason(error)}): save it as one") from error
    if not len(keys):
        raise FileNotFoundError(f"{images} lists nothing: give it a path or URL a line")
    folder = files.unstrip_protocol(files._parent(path))
    places = ((key, key if "://" in key or key.startswith("/") else f"{folder}/{key}") for key in map(str, keys))
    is_own = allow_paths or isinstance(files, LocalFileSystem)
    open_place = open_url if is_own else partial(open_below, files, files._parent(path))
    return Sources(index_of((key, place, None, None) for key, place in places), partial(_stream, open_place))


def _entries(file: TextIO, images: str) -> Iterator[str]:
    """Yield the column of a CSV that names the X-rays."""
    reader = csv.DictReader(file)
    columns = [name for name in LIST_COLUMNS if name in (reader.fieldnames or [])]
    if not columns:
        known = ", ".join(LIST_COLUMNS)
        raise ValueError(f"{images} has the columns {reader.fieldnames}: give it one of {known}")
    for row in reader:
        entry = row[columns[0]] or ""
        yield as_it_was(entry) if columns[0] == "source" else entry  # of a table that `cxm predict` wrote


def _once(entries: Iterable[str]) -> pyarrow.ChunkedArray:
    """Return the entries that are not blank, in their order, each once."""
    plain, blocks = filter(None, map(str.strip, entries)), []
    while block := list(islice(plain, INDEX_BLOCK)):
        blocks.append(pyarrow.array(block))
    return pyarrow.chunked_array(blocks, pyarrow.string()).unique()
