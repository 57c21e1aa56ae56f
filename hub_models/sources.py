"""X-rays to read, found wherever they are: a file, folder, zip, glob, list, Parquet or dataset, here or at a URL."""

import csv
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import fsspec
from fsspec.implementations.local import LocalFileSystem

from hub_models.pixels import Source
from hub_models.rows import Open, Sources, index_of, of_dataset, of_parquet, open_file, open_url, printable

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
        return _files(files, {PurePosixPath(path).name: (path, files.size(path))})
    if fsspec.core.has_magic(path):
        root = re.split(r"[^/]*[*?[]", path, maxsplit=1)[0].rstrip("/")
        return _folder(files, root, _sizes(files, files.glob(path, detail=True)), images, column)
    if "://" in images or Path(images).is_absolute() or PurePosixPath(images).suffix.lower() in SUFFIXES:
        raise FileNotFoundError(f"nothing at {images}: pass a file, folder, zip, glob, list, Parquet or dataset")
    return of_dataset(images, config, split, data_dir, column)


def _below(files: fsspec.AbstractFileSystem, path: str) -> dict[str, int]:
    """Size in bytes of each file below a folder, by its path; links are followed, but to a folder seen before."""
    if not isinstance(files, LocalFileSystem):
        return _sizes(files, files.find(path, detail=True))
    found, seen = {}, set()
    for folder, folders, names in os.walk(path, followlinks=True):
        if (real := Path(folder).resolve()) in seen:
            folders.clear()
        else:
            folders.sort()
            found |= dict.fromkeys((f"{folder.rstrip('/')}/{name}" for name in names), {})
        seen.add(real)
    return _sizes(files, found)


def _sizes(files: fsspec.AbstractFileSystem, found: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Size in bytes of what of a listing is a file, or a link to one."""
    if isinstance(files, LocalFileSystem):
        return {path: Path(path).stat().st_size for path in found if Path(path).is_file()}
    return {path: info["size"] for path, info in found.items() if info["type"] == "file"}


def _folder(
    files: fsspec.AbstractFileSystem, root: str, sizes: dict[str, int], images: str, column: str | None
) -> Sources:
    """Images among the files found under `root`, else their Parquet."""
    keys = {path[len(root) :].strip("/"): path for path in sizes}
    chosen = {key: path for key, path in keys.items() if _is_image(key, partial(_head, files, path))}
    if chosen:
        return _files(files, {key: (path, sizes[path]) for key, path in chosen.items()})
    tables = {key: path for key, path in keys.items() if key.endswith(".parquet") and not PASSED_OVER.search(key)}
    if tables:
        return of_parquet(files, dict(sorted(tables.items())), column)
    raise FileNotFoundError(_no_image(images, len(keys)))


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


def _files(files: fsspec.AbstractFileSystem, found: dict[str, tuple[str, int | None]]) -> Sources:
    """Files by key, each with its path and size."""
    keys = sorted(found, key=printable)
    places, sizes = zip(*(found[key] for key in keys), strict=True)
    return Sources(index_of(keys, places, sizes=sizes), partial(_stream, partial(open_file, files)))


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
    keys = sorted(name for name in members if _is_image(name, partial(head, name)))
    if not keys:
        raise FileNotFoundError(_no_image(path, len(members)))
    index = index_of(keys, keys, sizes=[members[key].file_size for key in keys])
    return Sources(index, partial(_stream, archive.read), (files.unstrip_protocol(path),))


def _list(files: fsspec.AbstractFileSystem, path: str, images: str) -> Sources:
    text = files.cat_file(path).decode("utf-8-sig")
    if path.lower().endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text))
        columns = [name for name in LIST_COLUMNS if name in (reader.fieldnames or [])]
        if not columns:
            known = ", ".join(LIST_COLUMNS)
            raise ValueError(f"{images} has the columns {reader.fieldnames}: give it one of {known}")
        entries = [row[columns[0]] or "" for row in reader]
    else:
        entries = text.splitlines()
    keys = list(dict.fromkeys(entry.strip() for entry in entries if entry.strip()))
    if not keys:
        raise FileNotFoundError(f"{images} lists nothing: give it a path or URL a line")
    folder = files.unstrip_protocol(files._parent(path))
    places = [key if "://" in key or key.startswith("/") else f"{folder}/{key}" for key in keys]
    return Sources(index_of(keys, places), partial(_stream, open_url))
