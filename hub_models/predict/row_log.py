"""Rows of a long work: appended by each process, taken up again by the next launch, made one table in the end."""

import heapq
import json
from collections.abc import Iterator
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from hub_models.files import new_file

ROWS_NAME = "rows"  # a folder in it for each launch, in that a file for each process, deleted when the table is whole
NUMBER = "number"  # of a row; each file's are in rising order
BLOCK = 2**20  # bytes, more than any row takes
TABLE_ROWS = 1_000  # of the table that are in memory at a time


def is_whole(folder: Path, name: str) -> bool:
    """Whether `close_ledger` has written the tables of this name."""
    return all(path.exists() for path in _tables(folder, name))


def _tables(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.parquet", folder / f"{name}.csv"


def open_row_log(folder: Path) -> None:
    """Make a new launch's place in `folder`, and cut off what those killed before left half-written.

    For one process, before any calls `done_before` and `file_of`.
    """
    rows = folder / ROWS_NAME
    for path in rows.glob("*/*.jsonl"):
        with path.open("r+b") as file:
            start = max(0, file.seek(0, 2) - BLOCK)
            file.seek(start)
            file.truncate(start + file.read().rfind(b"\n") + 1)
    (rows / f"{len(_launches(folder)):05d}").mkdir(parents=True)


def _launches(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / ROWS_NAME).glob("*") if path.is_dir())


def done_before(folder: Path, count: int) -> np.ndarray:
    """(count,) bool: which numbers have rows of earlier launches."""
    done = np.zeros(count, bool)
    for launch in _launches(folder)[:-1]:
        for path in launch.glob("*.jsonl"):
            done[[row[NUMBER] for row in _rows(path)]] = True
    return done


def file_of(folder: Path, process: int) -> Path:
    """File to which a process of this launch appends its rows, a JSON object each line, `number` rising."""
    return _launches(folder)[-1] / f"{process:05d}.jsonl"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        yield from map(json.loads, file)


def _merged(folder: Path) -> Iterator[dict[str, Any]]:
    """All rows by their numbers, none twice: a process that outlived its launch may have gone on for a while."""
    files = [path for launch in _launches(folder) for path in launch.glob("*.jsonl")]
    rows = heapq.merge(*map(_rows, files), key=itemgetter(NUMBER))
    return (next(same) for _, same in groupby(rows, key=itemgetter(NUMBER)))


def close_row_log(folder: Path, name: str, schema: pyarrow.Schema, count: int) -> None:
    """Write all rows, by their numbers, to `name`.parquet and `name`.csv, and delete the files of the processes.

    Both tables are whole or absent.

    Raises:
        ValueError: not each of `count` numbers has a row.
    """
    (parquet_path, csv_path), merged, written = _tables(folder, name), _merged(folder), 0
    with new_file(parquet_path) as parquet_aside, new_file(csv_path) as csv_aside:
        with (
            pyarrow.parquet.ParquetWriter(parquet_aside, schema) as parquet,
            pyarrow.csv.CSVWriter(csv_aside, schema) as csv,
        ):
            while block := list(islice(merged, TABLE_ROWS)):
                table = pyarrow.Table.from_pylist(block, schema)
                parquet.write_table(table)
                csv.write_table(table)
                written += len(block)
        if written != count:
            raise ValueError(f"{folder} holds {written} of {count} rows: start the same command again")
    drop_rows(folder)


def drop_rows(folder: Path) -> None:
    """Delete the files of the processes."""
    for launch in _launches(folder):
        for path in launch.iterdir():
            path.unlink()
        launch.rmdir()
    if (folder / ROWS_NAME).is_dir():
        (folder / ROWS_NAME).rmdir()
