"""Read a table of X-rays as columns of text: CSV with any separator, JSON lines, Parquet."""

import csv
import io
import json
import re
from pathlib import PurePosixPath

import chest_xray_masks as cxm

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
SPREADSHEETS = (".xlsx", ".xls", ".ods")
TABLE_SEPARATORS = ",;\t|"
NO_VALUES = ("", "na", "n/a", "nan", "none", "null", "-")
TextColumns = dict[str, list[str]]  # by name, all of one length; "" where a row has no value


def refuse_spreadsheet(name: str) -> None:
    """Raise ValueError where a name is that of a spreadsheet."""
    if name.lower().endswith(SPREADSHEETS):
        raise ValueError(f"{name} is a spreadsheet, which is not read: save it as CSV (UTF-8)")


class EmptyTableError(ValueError):
    """A table has no rows."""


def read_table(data: bytes, name: str) -> TextColumns:
    """Return the columns of a table, whose kind its `name` tells.

    Raises:
        ValueError: it is damaged, has a row that is longer than its header, or two columns of one name.
    """
    suffix = PurePosixPath(name).suffix.lower()
    try:
        if suffix == ".parquet":
            columns = _of_parquet(data)
        elif suffix == ".jsonl":
            columns = _of_json(cxm.decode_text(data))
        else:
            columns = _of_csv(cxm.decode_text(data))
    except (csv.Error, json.JSONDecodeError, ValueError, OSError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be read as a table ({why}): save it again") from error
    if not columns or not next(iter(columns.values())):
        raise EmptyTableError(f"{name} is a table without rows: pass one with a row for each X-ray")
    return columns


def csv_rows(text: str, strict: bool = False) -> list[list[str]]:
    """Return the rows of a CSV that are not blank, its header first, whatever its separator.

    Raises:
        csv.Error: it is not CSV; `strict` refuses quotes within a value, too.
    """
    text = text.lstrip("\r\n")
    said = re.match(r"sep=(.)[ \t]*\r?\n", text, re.I)  # of Excel
    text = text[said.end() :] if said else text
    header = text.partition("\n")[0]
    separator = said[1] if said else max(TABLE_SEPARATORS, key=header.count)  # of a header without any, the first
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict)
    try:
        return [row for row in lines if any(map(str.strip, row))]
    except csv.Error as error:
        raise csv.Error(f"line {lines.line_num}: {error}") from error


def _of_csv(text: str) -> TextColumns:
    rows = csv_rows(text)
    if not rows:
        return {}
    names = [name.strip() for name in rows[0]]
    if repeated := {name for name in names if name and names.count(name) > 1}:
        raise ValueError(f"it has several columns {sorted(repeated)[0]!r}")
    for number, row in enumerate(rows[1:], 2):
        if any(map(str.strip, row[len(names) :])):
            raise ValueError(f"row {number} has {len(row)} values, its header {len(names)} names")
    return {
        name: [known(row[index]) if index < len(row) else "" for row in rows[1:]]
        for index, name in enumerate(names)
        if name
    }


def _of_json(text: str) -> TextColumns:
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if other := next((row for row in rows if not isinstance(row, dict)), None):
        raise ValueError(f"a line holds {other!r}, not names with values")
    return {
        name: [text_of(row.get(name)) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)
    }


def _of_parquet(data: bytes) -> TextColumns:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except pyarrow.ArrowException as error:
        raise ValueError(error) from error
    return {name: list(map(text_of, table[name].to_pylist())) for name in table.column_names}


def known(text: str) -> str:
    """Return a text; "" of one that stands for no value, as programs write them."""
    return "" if text.strip().lower() in NO_VALUES else text.strip()


def shown(value: object) -> str:
    """Return a value as a table shows it; "" for none, and a whole number without its fraction of 0."""
    if value is None or value != value:  # nan, of a number that is missing
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def text_of(value: object) -> str:
    """Return a value as `shown`; "" of one that stands for no value."""
    return known(shown(value))
