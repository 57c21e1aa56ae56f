"""Find X-rays to read wherever they are: a file, folder, zip, glob, list, Parquet or dataset, here or at a URL."""

import csv
import logging
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import datasets
import fsspec
import pyarrow
from fsspec.implementations.local import LocalFileSystem

from chest_xray_masks import scan
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
    open_file,
    open_url,
)

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
) -> Sources:
    """Return the X-rays of `images`, sorted by key unless they are rows.

    * A file, whatever its suffix; a folder, with all below it; a glob. A folder and a glob pass over what is no image
      by its suffix, but for DICOM files without one. Keys are paths, relative to the folder or the glob's fixed part.
      Of a folder that holds the set, masks and second copies of its X-rays are passed over.
    * A zip: the same as a folder, by its members.
    * A list, .txt with a line for each or .csv with a column of `LIST_COLUMNS`: paths, relative to the list, and URLs.
    * Parquet, a file, a glob or a folder without images: the rows of its image `column`. Keys are those of the column
      `id` where there is one without repeats, else file and row.
    * The name of a dataset, of the Hub or `chest_xray_masks`, with `config`, `split` (else all) and `data_dir`. Keys
      are as those of Parquet, else split and row.

    All but the last may be at any URL that fsspec takes.

    Raises:
        FileNotFoundError: there is nothing, or no image.
        ValueError: a damaged zip, a list without a known column, a table without an image column or with several.
        ImportError: a URL whose file system needs another package.
    """
    if config or split or data_dir:
        return of_dataset(images, config, split, data_dir, column)
    files, path = fsspec.url_to_fs(images)
    if files.isdir(path):
        return _folder(files, path, _below(files, path), images, column, _not_xrays(files, path))
    if files.isfile(path):
        name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix.lower()
        if suffix == ".zip":
            return _zip(files, path)
        if suffix in (".txt", ".csv"):
            return _list(files, path, images)
        if suffix == ".parquet":
            return of_parquet(files, {name: path}, column)
        return Sources(index_of([(name, path, None, files.size(path))]), partial(_stream, partial(open_file, files)))
    if fsspec.core.has_magic(path):
        root = re.split(r"[^/]*[*?[]", path, maxsplit=1)[0].rstrip("/")
        return _folder(files, root, _sized(files, files.glob(path, detail=True)), images, column)
    if "://" in images or Path(images).is_absolute() or PurePosixPath(images).suffix.lower() in SUFFIXES:
        raise FileNotFoundError(f"nothing at {images}: pass a file, folder, zip, glob, list, Parquet or dataset")
    return of_dataset(images, config, split, data_dir, column)


def _not_xrays(files: fsspec.AbstractFileSystem, path: str) -> frozenset[str]:
    """Return the relative names of masks and second copies in a folder or zip that holds the set.

    Each stands beside an X-ray of the same id. A folder of masks alone is read as it is.
    """
    if not isinstance(files, LocalFileSystem):
        return frozenset()
    try:
        tree = scan(path)
    except OSError:  # a folder that must not be entered
        return frozenset()
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


def _below(files: fsspec.AbstractFileSystem, path: str) -> Iterator[tuple[str, int]]:
    """Yield path and size in bytes of each file below a folder; links are followed, but to a folder seen before."""
    if not isinstance(files, LocalFileSystem):
        yield from _sized(files, files.find(path, detail=True))
        return
    seen = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        if (real := Path(folder).resolve()) in seen:
            folders.clear()
        else:
            folders.sort()
            yield from _sized(files, dict.fromkeys((f"{folder.rstrip('/')}/{name}" for name in names), {}))
        seen.add(real)


def _sized(files: fsspec.AbstractFileSystem, found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, int]]:
    """Yield path and size in bytes of what of a listing is a file, or a link to one."""
    for path, info in found.items():
        if isinstance(files, LocalFileSystem):
            if (one := Path(path)).is_file():
                yield path, one.stat().st_size
        elif info["type"] == "file":
            yield path, info["size"]


def _folder(
    files: fsspec.AbstractFileSystem,
    root: str,
    found: Iterable[tuple[str, int]],
    images: str,
    column: str | None,
    others: frozenset[str] = frozenset(),
) -> Sources:
    """Return the images among the files found under `root` but `others`, else their Parquet."""
    tables, count = {}, 0

    def chosen() -> Iterator[Entry]:
        nonlocal count
        for path, size in found:
            count += 1
            key = path[len(root) :].strip("/")
            if key not in others and _is_image(key, partial(files.read_block, path, 0, 132)):
                yield key, path, None, size
            elif key.endswith(".parquet") and not PASSED_OVER.search(key):
                tables[key] = path

    index = index_of(chosen(), by_key=True)
    if len(index):
        return Sources(index, partial(_stream, partial(open_file, files)))
    if tables:
        return of_parquet(files, dict(sorted(tables.items())), column)
    raise _no_image(images, count)


def _no_image(images: str, count: int) -> FileNotFoundError:
    known = ", ".join(sorted(SUFFIXES))
    return FileNotFoundError(f"no image in {images} ({count} other files): pass one that holds {known}, or Parquet")


def _is_image(key: str, head: Callable[[], bytes]) -> bool:
    """Return whether a file is an image by its name, or a DICOM file without suffix by its first 132 bytes."""
    if PASSED_OVER.search(key):
        return False
    suffix = PurePosixPath(key).suffix.lower()
    return suffix in SUFFIXES or (not suffix and head()[128:] == b"DICM")


def _stream(open_place: Callable[[str], Source], rows: datasets.Dataset) -> Iterator[tuple[IndexRow, OpenSource]]:
    for row in rows:
        yield row, partial(open_place, row["place"].decode(errors="surrogateescape"))


def _zip(files: fsspec.AbstractFileSystem, path: str) -> Sources:
    try:
        archive = zipfile.ZipFile(files.open(path))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no whole zip ({error}): get it again") from error

    def head(member: str) -> bytes:
        with archive.open(member) as file:
            return file.read(132)

    members = {one.filename: one for one in archive.infolist() if not one.is_dir()}
    chosen = (name for name in members.keys() - _not_xrays(files, path) if _is_image(name, partial(head, name)))
    index = index_of(((name, name, None, members[name].file_size) for name in chosen), by_key=True)
    if not len(index):
        raise _no_image(path, len(members))
    return Sources(index, partial(_stream, archive.read), (files.unstrip_protocol(path),))


def _list(files: fsspec.AbstractFileSystem, path: str, images: str) -> Sources:
    with files.open(path, "rt", encoding="utf-8-sig", newline="") as file:
        keys = _once(_entries(file, images) if path.lower().endswith(".csv") else file)
    if not len(keys):
        raise FileNotFoundError(f"{images} lists nothing: give it a path or URL a line")
    folder = files.unstrip_protocol(files._parent(path))
    places = ((key, key if "://" in key or key.startswith("/") else f"{folder}/{key}") for key in map(str, keys))
    return Sources(index_of((key, place, None, None) for key, place in places), partial(_stream, open_url))


def _entries(file: TextIO, images: str) -> Iterator[str]:
    """Yield the column of a CSV that names the X-rays."""
    reader = csv.DictReader(file)
    columns = [name for name in LIST_COLUMNS if name in (reader.fieldnames or [])]
    if not columns:
        known = ", ".join(LIST_COLUMNS)
        raise ValueError(f"{images} has the columns {reader.fieldnames}: give it one of {known}")
    for row in reader:
        yield row[columns[0]] or ""


def _once(entries: Iterable[str]) -> pyarrow.ChunkedArray:
    """Return the entries that are not blank, in their order, each once."""
    plain, blocks = filter(None, map(str.strip, entries)), []
    while block := list(islice(plain, INDEX_BLOCK)):
        blocks.append(pyarrow.array(block))
    return pyarrow.chunked_array(blocks, pyarrow.string()).unique()
