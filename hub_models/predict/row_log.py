"""Log the rows of a long job: each process appends its own, the next launch resumes, one table comes in the end."""

import faulthandler
import heapq
import json
import logging
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from threading import get_ident
from typing import Any, BinaryIO

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from hub_models.files import new_file

logger = logging.getLogger(__name__)

ROWS_NAME = "rows"  # holds a folder for each launch with a file for each process, until the table is whole
NUMBER = "number"  # of a row; each file's are in rising order
LONGEST_ROW = 2**20  # bytes, more than any row takes
TABLE_ROWS = 10_000  # of the table that are in memory at a time, and in a row group of Parquet
MOST_DEATHS = 3  # of processes while they decoded the same X-ray, of which nothing is known: it may be chance once
# Cells that spreadsheets take for formulas: OWASP's list, "CSV Injection", with the full-width forms of its signs.
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
NUMBER_TEXT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def is_whole(folder: Path, name: str) -> bool:
    """Return whether `close_row_log` has written both tables of this name."""
    return all((folder / f"{name}.{kind}").exists() for kind in ("parquet", "csv"))


def open_row_log(folder: Path) -> None:
    """Make a new launch's place in `folder`, and cut off what killed launches left half-written.

    One process calls this before any calls `done_before` or `file_of`.
    """
    rows = folder / ROWS_NAME
    for path in rows.glob("*/*.jsonl"):
        with path.open("r+b") as file:
            start = max(0, file.seek(0, 2) - LONGEST_ROW)
            file.seek(start)
            file.truncate(start + file.read().rfind(b"\n") + 1)
    number = max((int(one.name) + 1 for one in _launches(folder)), default=0)
    (rows / f"{number:05d}").mkdir(parents=True)


def _launches(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / ROWS_NAME).glob("*") if path.is_dir() and path.name.isdecimal())


def done_before(folder: Path, count: int, stands: Callable[[dict[str, Any]], bool] = bool) -> np.ndarray:
    """Return (count,) bool: which numbers have rows of earlier launches, of which `stands` is true."""
    done = np.zeros(count, bool)
    for launch in _launches(folder)[:-1]:
        for path in launch.glob("*.jsonl"):
            done[np.fromiter((row[NUMBER] for row in _rows(path, count) if stands(row)), np.int64)] = True
    return done


def file_of(folder: Path, process: int) -> Path:
    """Return the file to which a process of this launch appends its rows, a JSON object a line, `number` rising."""
    return _launches(folder)[-1] / f"{process:05d}.jsonl"


@contextmanager
def open_notes(folder: Path, process: int) -> Iterator[BinaryIO]:
    """Open the file to which a process of this launch writes what it decodes, and of what it dies."""
    was_enabled = faulthandler.is_enabled()
    with file_of(folder, process).with_suffix(".notes").open("ab", buffering=0) as notes:
        faulthandler.enable(notes)
        try:
            yield notes
        finally:
            faulthandler.disable()
            if was_enabled and sys.__stderr__ is not None:
                faulthandler.enable(sys.__stderr__)


@contextmanager
def noted(notes: BinaryIO | None, number: int) -> Iterator[None]:
    """Note before and after a block that this thread decodes an X-ray."""

    def note(sign: str) -> None:
        if notes is not None:
            notes.write(f"{sign}{number} {get_ident():x}\n".encode())  # in one call, which no kill cuts off

    note("+")
    try:
        yield
    finally:
        note("-")


def fatal_before(folder: Path) -> frozenset[int]:
    """Return the numbers of the X-rays whose decoding ended processes of earlier launches.

    What a process dies of by itself is in its notes, with the thread: the X-ray that this thread decoded is one. Of a
    process that was killed nothing is known, and its X-rays are tried again, but for `MOST_DEATHS` of them.
    """
    fatal, deaths = set(), Counter[int]()
    for launch in _launches(folder)[:-1]:
        for path in launch.glob("*.notes"):
            text, begun = path.read_text(errors="replace"), {}
            for sign, number, thread in re.findall(r"^([+-])([0-9]+) (\w+)$", text, re.M):
                if sign == "+":
                    begun[int(number)] = thread
                else:
                    begun.pop(int(number), None)
            died = re.search(r"^Current thread 0x0*(\w+)", text, re.M)
            fatal |= {number for number, thread in begun.items() if died and died[1] == thread}
            deaths.update(begun.keys())
    return frozenset(fatal | {number for number, count in deaths.items() if count >= MOST_DEATHS})


def _rows(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file whose numbers rise below `count`; a damaged line is passed over, and its X-ray read."""
    last = -1
    with path.open("rb") as file:
        for place, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                if type(row[NUMBER]) is not int or not last < row[NUMBER] < count or not row["source"]:
                    raise ValueError(f"number {row[NUMBER]} of {count}")
            except (ValueError, TypeError, LookupError, RecursionError) as error:
                logger.warning("line %d of %s is damaged, and passed over: %s", place, path, error)
                continue
            last = row[NUMBER]
            yield row


def close_row_log(folder: Path, name: str, schema: pyarrow.Schema, count: int) -> None:
    """Write all rows by their numbers to `name`.parquet and `name`.csv, and delete the files of the processes.

    Raises:
        ValueError: one of `count` numbers has no row; no table is written then.
    """
    files = [path for launch in _launches(folder) for path in launch.glob("*.jsonl")]
    rows = heapq.merge(*(_rows(path, count) for path in files), key=itemgetter(NUMBER))
    # a process that outlived its launch may have read some X-rays twice
    single, written = (next(same) for _, same in groupby(rows, key=itemgetter(NUMBER))), 0
    with new_file(folder / f"{name}.parquet") as parquet_path, new_file(folder / f"{name}.csv") as csv_path:
        with (
            pyarrow.parquet.ParquetWriter(parquet_path, schema) as parquet,
            pyarrow.csv.CSVWriter(csv_path, schema) as csv,
        ):
            while block := list(islice(single, TABLE_ROWS)):
                table = pyarrow.Table.from_pylist(block, schema)
                parquet.write_table(table)
                csv.write_table(pyarrow.Table.from_pylist([_harmless(row) for row in block], schema))
                written += len(block)
        if written != count:
            raise ValueError(f"{folder} holds {written} of {count} rows: start the same command again")
    drop_rows(folder)


def _harmless(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a CSV, with a quote before each text that a spreadsheet would take for a formula."""

    def is_formula(text: str) -> bool:
        return FORMULA.match(text) is not None and not NUMBER_TEXT.fullmatch(text)

    return {name: f"'{cell}" if isinstance(cell, str) and is_formula(cell) else cell for name, cell in row.items()}


def as_it_was(text: str) -> str:
    """Return a cell without the quote that `close_row_log` put before it."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def drop_rows(folder: Path) -> None:
    """Delete the files of the processes, if any."""
    if (folder / ROWS_NAME).is_dir():
        shutil.rmtree(folder / ROWS_NAME)
