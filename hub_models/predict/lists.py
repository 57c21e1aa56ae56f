"""Read lists of X-rays: a path or URL a line, or a table of text with a column of them."""

import csv
import logging
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import fsspec
import pyarrow
from fsspec.implementations.local import LocalFileSystem

from chest_xray_masks import HEAD_BYTES, reason
from hub_models.dataset.folders import PathFinder, list_folder
from hub_models.imaging.source import Source
from hub_models.predict.index import CARRIED, INDEX_BLOCK, Sources, carried_text, check_ids, index_of, stream_places
from hub_models.predict.places import OpenPath, open_below, open_file, open_url
from hub_models.predict.row_log import as_it_was

logger = logging.getLogger(__name__)

LIST_SUFFIXES = (".txt", ".csv", ".tsv")
# of a table, the first that it has, in any capitals and with blanks for underlines: `Image Index` of NIH
LIST_COLUMNS = (
    *("source", "path", "file", "file_name", "filename", "file_path", "filepath", "image", "image_path"),
    *("image_file", "image_name", "url", "image_index", "image_id", "study_id"),
)
SEPARATORS = ",;\t|"


def read_list(
    files: fsspec.AbstractFileSystem, path: str, images: str, allow_paths: bool, id_column: str | None
) -> Sources:
    """Return the X-rays that a list names, each once; see `inputs.find_sources`.

    Its text is UTF-8, UTF-16 or UTF-32, else Windows-1252, which the log says.

    Raises:
        FileNotFoundError: it lists nothing.
        ValueError: it is not text, has no column of paths, or no `id_column` with a value of its own in each row.
    """
    with files.open(path) as head:
        encodings = _encodings(head.read(HEAD_BYTES))
    for encoding in encodings:
        try:
            with files.open(path, "rt", encoding=encoding, newline="") as file:
                table = _once(_entries(file, path, images, id_column), images, id_column)
        except (UnicodeError, csv.Error) as error:
            if encoding == encodings[-1] or isinstance(error, csv.Error):
                raise ValueError(f"{images} is not a list in UTF-8 ({reason(error)}): save it as one") from error
            logger.warning("warning: %s is not in UTF-8: it is read as Windows-1252, save it as UTF-8", images)
        else:
            break
    if not len(table):
        raise FileNotFoundError(f"{images} lists nothing: give it a path or URL a line")
    is_here = isinstance(files, LocalFileSystem)
    folder = files.unstrip_protocol(files._parent(path))
    entries = zip(*(map(str, table[name]) for name in ("key", "entry")), strict=True)
    index = index_of(
        ((key, _place(entry, folder, files if is_here else None), None, None) for key, entry in entries),
        carried=table.select(CARRIED),
    )
    open_place: OpenPath = open_url
    if is_here and not path.lower().endswith(".txt"):  # a table, as `cxm train` takes
        open_place = _opening_below(Path(files._parent(path)))
    elif not (is_here or allow_paths):
        open_place = partial(open_below, files, files._parent(path))
    return Sources(index, partial(stream_places, open_place))


def _opening_below(folder: Path) -> OpenPath:
    """Return what opens the places of a table in a `folder` of this machine.

    A file that is not there is looked for below the folder, as `cxm train` finds those of a table.
    """

    @cache
    def finder() -> PathFinder:
        try:
            return PathFinder(list_folder(folder).xrays)
        except PermissionError as error:  # once, not for each file that is not there
            logger.warning("warning: files are not searched for below %s: %s", folder, error)
            return PathFinder(())

    def open_place(place: str) -> Source:
        files, path = fsspec.url_to_fs(place)
        if not isinstance(files, LocalFileSystem) or os.path.lexists(path):
            return open_file(files, path)
        found = finder().find(os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path)
        if not found:
            raise FileNotFoundError(
                f"no {path}, and no single file below {folder} that could be meant: correct the table"
            )
        return folder / found

    return open_place


def _encodings(head: bytes) -> tuple[str, ...]:
    """Return in what a text may be encoded, by its first bytes."""
    if head[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return ("utf-32",)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ("utf-16",)
    if b"\0" in head[:2]:
        return ("utf-16-be" if head[:1] == b"\0" else "utf-16-le",)
    return "utf-8-sig", "cp1252"


def _entries(file: TextIO, path: str, images: str, id_column: str | None) -> Iterator[tuple[str | None, ...]]:
    """Yield path, id, label, site and split of each line; None for what a list has not."""
    first = file.readline()
    said = re.fullmatch(r"sep=(.)\s*", first, re.I)  # of Excel
    first = file.readline() if said else first
    separator = said[1] if said else max(SEPARATORS, key=lambda one: (_has_paths(first, one), first.count(one)))
    is_list = path.lower().endswith(".txt") and not (separator in first and _has_paths(first, separator))
    if is_list:
        if id_column:
            raise ValueError(f"{images} is a list of paths without columns: leave --id_column out, or pass a table")
        # the Explorer of Windows copies paths in quotes
        yield from ((line.strip().strip('"'), None, None, None, None) for line in chain([first], file))
        return
    names = next(csv.reader([first], delimiter=separator), [])
    known = {_plain(name): name for name in reversed(names)}
    column = next((known[name] for name in LIST_COLUMNS if name in known), None)
    if column is None:
        raise ValueError(f"{images} has the columns {names}: give it one of {', '.join(LIST_COLUMNS)}")
    if id_column and id_column not in names:
        raise ValueError(f"{images} has the columns {names}, none is {id_column}: name one of them with --id_column")
    wanted = [id_column, *(known.get(name) for name in CARRIED)]
    for row in csv.DictReader(file, names, delimiter=separator):
        entry = row[column] or ""
        entry = as_it_was(entry) if column == "source" else entry  # of a table that `cxm predict` wrote
        yield entry.strip(), *(carried_text(row[name]) if name else None for name in wanted)


def _has_paths(header: str, separator: str) -> bool:
    return any(_plain(name) in LIST_COLUMNS for name in next(csv.reader([header], delimiter=separator), []))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _once(entries: Iterable[tuple[str | None, ...]], images: str, id_column: str | None) -> pyarrow.Table:
    """Return the entries that are not blank, in their order, each once, as a table with the columns `key` and `entry`.

    There may be millions: at most INDEX_BLOCK of them are Python's objects at a time.
    """
    schema = pyarrow.schema(dict.fromkeys(("entry", "id", *CARRIED), pyarrow.string()))
    blocks, named = [], (row for row in entries if row[0])
    while block := list(islice(named, INDEX_BLOCK)):
        blocks.append(pyarrow.record_batch([pyarrow.array(one, "string") for one in zip(*block, strict=True)], schema))
    table = pyarrow.Table.from_batches(blocks, schema)
    if id_column:
        check_ids(table["id"].to_pylist(), id_column, images)
        return table.append_column("key", table["id"])
    if len(table["entry"].unique()) < len(table):
        numbers = table.append_column("number", pyarrow.array(range(len(table))))
        first = numbers.group_by("entry", use_threads=False).aggregate([("number", "min")])
        table = table.take(first["number_min"].combine_chunks().sort())  # groups come in an order of hashes
    return table.append_column("key", table["entry"])


def _place(entry: str, folder: str, here: LocalFileSystem | None) -> str:
    """Return where an entry of a list in `folder` leads; a backslash is one of Windows, unless a file is named so."""
    if "\\" in entry and not (here and here.exists(f"{folder}/{entry}")):
        entry = re.sub(r"^(\./)+", "", entry.replace("\\", "/"))
    return entry if "://" in entry or entry.startswith("/") else f"{folder}/{entry}"
