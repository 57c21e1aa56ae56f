"""Rows of a table that people bring, CSV or Parquet, in the encodings and with the separators of spreadsheets."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

from hub_models.dataset.tables import csv_rows

FORMULAS = ("'=", "'+", "'-", "'@", "'\t", "'\r")  # how `cxm predict` writes a text that a spreadsheet would run
TableRows = list[dict[str, Any]]


def read_rows(path: str | Path) -> TableRows:
    """Return the rows of a CSV (UTF-8, UTF-16 or cp1252; comma, semicolon, tab or bar) or a Parquet file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, has no rows, or a row of another length than the head.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: pass a table, CSV or Parquet")
    data = path.read_bytes()
    rows = _parquet_rows(data, path) if data[:4] == b"PAR1" else _csv_rows(data, path)
    if not rows:
        raise ValueError(f"{path} has no rows: pass a table of X-rays")
    return rows


def _parquet_rows(data: bytes, path: Path) -> TableRows:
    import pyarrow.parquet  # late: slow to import

    try:
        return pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]}): write it again") from error


def _csv_rows(data: bytes, path: Path) -> TableRows:
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    if "\0" in text:
        raise ValueError(f"{path} is not a table: pass CSV or Parquet; save a spreadsheet as CSV")
    try:
        names, *cells = csv_rows(text, strict=True)
    except csv.Error as error:
        raise ValueError(f"{path}, {error}, is not CSV: save the table again") from error
    except ValueError:
        return []
    names = [name.strip() for name in names]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path} has {repeated[0]!r} twice in its head: give each column a name of its own")
    for number, line in enumerate(cells, 2):
        if len(line) != len(names):
            raise ValueError(f"{path}, row {number}, has {len(line)} cells, and its head {len(names)}: save it again")
    return [dict(zip(names, map(_unquoted, line), strict=True)) for line in cells]


def _unquoted(cell: str) -> str:
    cell = cell.strip()
    return cell[1:] if cell.startswith(FORMULAS) else cell
