"""X-rays to read, found wherever they are: a file, folder, zip, glob, list, Parquet or dataset, here or at a URL."""

import csv
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

from hub_models.imaging.source import Source
from hub_models.predict.dataset_rows import (
    BLOCK,
    Entry,
    Open,
    Sources,
    index_of,
    of_dataset,
    of_parquet,
    open_file,
    open_url,
)

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".ppm", ".dcm", ".dicom"}
LIST_SUFFIXES = (".txt", ".csv")
LIST_COLUMNS = ("source", "path", "file", "file_name", "image", "url")  # of a CSV, the first that it has
PASSED_OVER = re.compile(r"(^|/)(\.[^/]*|__MACOSX|DICOMDIR)(/|$)")  # hidden, a Mac's own, a table of contents


def find_sources(
    images: str,
    config: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    column: str | None = None,
) -> Sources:
    """The X-rays of `images`, sorted by key unless they are rows.

    * A file, whatever its suffix; a folder, with all below it; a glob. Of the last two what is no image by its suffix
      is passed over, but for DICOM files without one. Keys are paths, relative to the folder, or to the glob's fixed
      part.
    * A zip: the same, by its members.
    * A list, .txt with a line for each or .csv with a column `source`, `path`, `file`, `file_name`, `image` or `url`:
      paths, relative to the list, and URLs, as given.
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
        return _folder(files, path, _below(files, path), images, column)
    if files.isfile(path):
        suffix = PurePosixPath(path).suffix.lower()
        if suffix == ".zip":
            return _zip(files, path)
        if suffix in LIST_SUFFIXES:
            return _list(files, path, images)
        if suffix == ".parquet":
            return of_parquet(files, {PurePosixPath(path).name: path}, column)
        return _files(files, index_of([(PurePosixPath(path).name, path, None, files.size(path))]))
    if fsspec.core.has_magic(path):
        root = re.split(r"[^/]*[*?[]", path, maxsplit=1)[0].rstrip("/")
        return _folder(files, root, _sized(files, files.glob(path, detail=True)), images, column)
    if "://" in images or Path(images).is_absolute() or PurePosixPath(images).suffix.lower() in SUFFIXES:
        raise FileNotFoundError(f"nothing at {images}: pass a file, folder, zip, glob, list, Parquet or dataset")
    return of_dataset(images, config, split, data_dir, column)


def _below(files: fsspec.AbstractFileSystem, path: str) -> Iterator[tuple[str, int]]:
    """Path of each file below a folder, and its size in bytes; links are followed, but to a folder seen before."""
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
    """Path and size in bytes of what of a listing is a file, or a link to one."""
    for path, info in found.items():
        if isinstance(files, LocalFileSystem):
            if (one := Path(path)).is_file():
                yield path, one.stat().st_size
        elif info["type"] == "file":
            yield path, info["size"]


def _folder(
    files: fsspec.AbstractFileSystem, root: str, found: Iterable[tuple[str, int]], images: str, column: str | None
) -> Sources:
    """Images among the files found under `root`, else their Parquet."""
    tables, count = {}, 0

    def chosen() -> Iterator[Entry]:
        """The images; Parquet is noted, and all are counted."""
        nonlocal count
        for path, size in found:
            count += 1
            key = path[len(root) :].strip("/")
            if _is_image(key, partial(_head, files, path)):
                yield key, path, None, size
            elif key.endswith(".parquet") and not PASSED_OVER.search(key):
                tables[key] = path

    index = index_of(chosen(), by_key=True)
    if len(index):
        return _files(files, index)
    if tables:
        return of_parquet(files, dict(sorted(tables.items())), column)
    raise FileNotFoundError(_no_image(images, count))


def _no_image(images: str, count: int) -> str:
    known = ", ".join(sorted(SUFFIXES))
    return f"no image in {images} ({count} other files): pass one that holds {known}, or Parquet"


def _is_image(key: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is one by its name, or as one without suffix by its `head`."""
    if PASSED_OVER.search(key):
        return False
    suffix = PurePosixPath(key).suffix.lower()
    return suffix in SUFFIXES or (not suffix and head()[128:] == b"DICM")


def _head(files: fsspec.AbstractFileSystem, path: str) -> bytes:
    return files.read_block(path, 0, 132)


def _files(files: fsspec.AbstractFileSystem, index: datasets.Dataset) -> Sources:
    return Sources(index, partial(_stream, partial(open_file, files)))


def _stream(open_place: Callable[[str], Source], rows: datasets.Dataset) -> Iterator[tuple[dict[str, Any], Open]]:
    for row in rows:
        yield row, partial(open_place, row["place"].decode(errors="surrogateescape"))


def _zip(files: fsspec.AbstractFileSystem, path: str) -> Sources:
    try:
        archive = zipfile.ZipFile(files.open(path))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no whole zip ({error}): get it anew") from error

    def head(member: str) -> bytes:
        """As `_head`, of a member."""
        with archive.open(member) as file:
            return file.read(132)

    members = {one.filename: one for one in archive.infolist() if not one.is_dir()}
    chosen = ((name, one) for name, one in members.items() if _is_image(name, partial(head, name)))
    index = index_of(((name, name, None, one.file_size) for name, one in chosen), by_key=True)
    if not len(index):
        raise FileNotFoundError(_no_image(path, len(members)))
    return Sources(index, partial(_stream, archive.read), (files.unstrip_protocol(path),))


def _list(files: fsspec.AbstractFileSystem, path: str, images: str) -> Sources:
    with files.open(path, "rt", encoding="utf-8-sig", newline="") as file:
        keys = _once(_entries(file, images) if path.lower().endswith(".csv") else file)
    if not len(keys):
        raise FileNotFoundError(f"{images} lists nothing: give it a path or URL a line")
    folder = files.unstrip_protocol(files._parent(path))

    def entries() -> Iterator[Entry]:
        """As listed, with their places."""
        for key in map(str, keys):
            yield key, key if "://" in key or key.startswith("/") else f"{folder}/{key}", None, None

    return Sources(index_of(entries()), partial(_stream, open_url))


def _entries(file: TextIO, images: str) -> Iterator[str]:
    """Of a CSV, the column that names the X-rays."""
    reader = csv.DictReader(file)
    columns = [name for name in LIST_COLUMNS if name in (reader.fieldnames or [])]
    if not columns:
        known = ", ".join(LIST_COLUMNS)
        raise ValueError(f"{images} has the columns {reader.fieldnames}: give it one of {known}")
    for row in reader:
        yield row[columns[0]] or ""


def _once(entries: Iterable[str]) -> pyarrow.StringArray:
    """Those that are not blank, in their order, the first of the same."""
    plain, blocks = filter(None, map(str.strip, entries)), []
    while block := list(islice(plain, BLOCK)):
        blocks.append(pyarrow.array(block))
    return pyarrow.chunked_array(blocks, pyarrow.string()).unique()
