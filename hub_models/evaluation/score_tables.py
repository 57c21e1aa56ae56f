"""Read scores and confirmed status from two tables, matched by id: nothing is left out without a word."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hub_models.dataset.columns import NEGATIVE, PAIR, POSITIVE, age_of, sex_of
from hub_models.dataset.tables import shown
from hub_models.evaluation.age_bands import age_band
from hub_models.evaluation.calibration import Scores
from hub_models.evaluation.calibration_warnings import CalibrationWarning, RaisedWarning
from hub_models.evaluation.table_rows import TableRows, read_rows
from hub_models.imaging.file_kinds import IMAGE_SUFFIXES

# Names of columns that are taken without being told, the first that a table has; without case, spaces and underscores
COLUMN_NAMES = {
    "id": (
        "id",
        "source",
        "image_id",
        "study_id",
        "image_index",
        "file_name",
        "filename",
        "name",
        "file",
        "image",
        "path",
    ),
    "score": ("probability", "score", "tb_score", "prediction", "y_score", "y_prob"),
    "label": ("label", "tb", "tuberculosis", "truth", "target", "class", "status", "y_true"),
    "patient_id": ("patient_id", "patient", "person_id", "subject_id"),
    "sex": ("sex", "gender"),
    "age": ("age_years", "age"),
    "site": ("site", "hospital", "facility"),
    "threshold": ("threshold",),
}
GROUP_COLUMNS = ("sex", "age", "site")
EMPTY = ("", "nan", "none", "null", "na", "n/a")
RowsById = dict[str, dict[str, Any]]


def columns_from(text: str | None) -> dict[str, str]:
    """Return the columns named by an option such as "id=study,score=cad"; raise ValueError for another form."""
    found = {}
    for part in PAIR.split(text or ""):
        role, equals, name = (one.strip() for one in part.partition("="))
        if not part.strip():
            continue
        if not equals or not name or role not in COLUMN_NAMES:
            known = ", ".join(COLUMN_NAMES)
            raise ValueError(f"columns must be such as id=study,score=cad, of {known}; got {part.strip()!r}")
        found[role] = name
    return found


def column_of(
    rows: TableRows, role: str, named: Mapping[str, str], path: str | Path, needed: bool = True
) -> str | None:
    """Return the column of a table for a role: the one named, else the first known name that it has.

    Raises:
        ValueError: none, where one is `needed`; the text lists what the table has.
    """
    held = list(rows[0])
    if named.get(role) in held:
        return named[role]
    if role in named and role != "id" and not needed:
        return None  # it is of the other table, and no guess goes before a name
    plain = {squeezed(name): name for name in reversed(held)}
    found = next((plain[squeezed(name)] for name in COLUMN_NAMES[role] if squeezed(name) in plain), None)
    if found is None and needed:
        wanted = f"column {named[role]!r}" if role in named else f"column for the {role}"
        raise ValueError(f"{path} has no {wanted}, but {', '.join(held)}: pass --columns {role}=NAME")
    return found


def squeezed(name: str) -> str:
    """Return the letters and digits of a name, in small letters."""
    return re.sub(r"[\W_]", "", name.lower())


def known_text(value: Any) -> str:
    """Return the text of a cell; "" where it stands for no value."""
    text = shown(value)
    return "" if text.lower() in EMPTY else text


def _by_id(
    rows: TableRows, role: str, named: Mapping[str, str], table: str | Path
) -> tuple[RowsById, str, list[RaisedWarning]]:
    """Return the first row of each id, the column of `role`, and a warning of repeats.

    Raises:
        ValueError: no such column, an empty id, or an id that repeats with another value.
    """
    id_column, column = (str(column_of(rows, one, named, table)) for one in ("id", role))
    found: RowsById = {}
    repeated: dict[str, None] = {}
    for row in rows:
        id = shown(row[id_column])
        if not id:
            raise ValueError(f"{table} has a row with an empty {id_column}: give each X-ray its id")
        first = found.setdefault(id, row)
        if first is not row:
            repeated[id] = None
        if shown(first[column]) != shown(row[column]):
            values = f"{shown(first[column])!r} and {shown(row[column])!r}"
            raise ValueError(f"{table} has {id} twice, with {column} {values}: leave one row of it")
    name = Path(table).name
    return found, column, [CalibrationWarning.REPEATED.raised(list(repeated), table=name)] if repeated else []


def read_scores(
    predictions: str | Path, truth: str | Path, columns: str | None = None, positive: str | None = None
) -> Scores:
    """Return the X-rays of both tables; its `warnings` say what is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, no id is in both, an id repeats with another value, or a score or label cannot
            be read.
    """
    named = columns_from(columns)
    tables = {predictions: read_rows(predictions), truth: read_rows(truth)}
    held = {name for rows in tables.values() for name in rows[0]}
    if unknown := [name for name in named.values() if name not in held]:
        raise ValueError(f"no column {unknown[0]!r} in {predictions} or {truth}: they have {', '.join(sorted(held))}")
    scored, score, repeated = _by_id(tables[predictions], "score", named, predictions)
    known, label, repeated_truth = _by_id(tables[truth], "label", named, truth)
    warnings = [*repeated, *repeated_truth]
    if not scored.keys() & known.keys():
        scored, known = _named_alike(scored, known, predictions, truth)
        warnings.append(CalibrationWarning.MATCHED_BY_NAME.raised())
    warnings += _counted(CalibrationWarning.NO_TRUTH, scored.keys() - known.keys())
    warnings += _counted(CalibrationWarning.NO_PREDICTION, known.keys() - scored.keys())
    both = sorted(scored.keys() & known.keys())
    values = {id: _score(scored[id][score], id, predictions) for id in both}
    labels, negatives = _labels({id: known[id][label] for id in both}, positive, truth, label)
    warnings += [CalibrationWarning.COUNTED_NEGATIVE.raised(values=", ".join(negatives))] if negatives else []
    warnings += _counted(CalibrationWarning.NO_SCORE, (id for id in both if values[id] is None))
    warnings += _counted(CalibrationWarning.NO_LABEL, (id for id in both if labels[id] is None))
    ids = [id for id in both if values[id] is not None and labels[id] is not None]
    if not ids:
        raise ValueError(f"no X-ray of {predictions} and {truth} has both a score and a label: fill them in")
    others = _others([(known, truth), (scored, predictions)], ids, named)
    groups, unreadable = _groups(others, ids)
    patients = None if (cells := others["patient_id"]) is None else list(map(known_text, cells))
    unnamed = [id for id, one in zip(ids, patients or ids, strict=True) if not one]
    warnings += _counted(CalibrationWarning.NO_PATIENT, unnamed)
    warnings += [*unreadable, *([CalibrationWarning.NO_PATIENT_ID.raised()] if patients is None else [])]
    return Scores(
        ids,
        ids if patients is None else [one or f"X-ray {id}" for id, one in zip(ids, patients, strict=True)],
        np.array([labels[id] for id in ids]),
        np.array([values[id] for id in ids], float),
        _stored(others["threshold"]),
        groups,
        tuple(warnings),
    )


def _counted(code: CalibrationWarning, ids: Iterable[str]) -> list[RaisedWarning]:
    """Return a warning of ids, or none of none."""
    named = sorted(ids)
    return [code.raised(named)] if named else []


def _others(
    tables: Sequence[tuple[RowsById, str | Path]], ids: list[str], named: Mapping[str, str]
) -> dict[str, list[Any] | None]:
    """Return the cells of X-rays by role, of the first table that has a column for it; None where none has."""
    found: dict[str, list[Any] | None] = {}
    for role in ("patient_id", *GROUP_COLUMNS, "threshold"):
        columns = [(rows, column_of(list(rows.values()), role, named, path, needed=False)) for rows, path in tables]
        held = [[rows[id][column] for id in ids] for rows, column in columns if column is not None]
        found[role] = held[0] if held else None
    return found


def _named_alike(
    scored: RowsById, known: RowsById, predictions: str | Path, truth: str | Path
) -> tuple[RowsById, RowsById]:
    """Return rows by file name, without folder and an image's suffix; raise ValueError where that does not help."""
    found = []
    for rows, path in ((scored, predictions), (known, truth)):
        stems = {id: _stem(id) for id in rows}
        if repeated := [stem for stem, count in Counter(stems.values()).items() if count > 1]:
            same = ", ".join(id for id, stem in stems.items() if stem == repeated[0])
            raise ValueError(f"ids match by file name at best, and {path} has {same}: give both tables the same ids")
        found.append({stems[id]: row for id, row in rows.items()})
    if not found[0].keys() & found[1].keys():
        one, other = min(scored), min(known)
        raise ValueError(
            f"no id of {predictions} (such as {one}) is in {truth} (such as {other}): give both tables the same ids, "
            "or name their columns with --columns id=NAME"
        )
    return found[0], found[1]


def _stem(id: str) -> str:
    path = PurePosixPath(id.replace("\\", "/"))
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def _score(value: Any, id: str, path: str | Path) -> float | None:
    """Return a score; None for an empty one. Raise ValueError for what is not a finite number."""
    text = shown(value)
    if text.lower() in EMPTY:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"the score of {id} in {path} is {text!r}, no number: write it with digits and a point")
    return number


def _labels(
    cells: Mapping[str, Any], positive: str | None, path: str | Path, column: str
) -> tuple[dict[str, int | None], list[str]]:
    """Return the label of each id, None for an empty one, and which values count as negative for not being `positive`.

    Raises:
        ValueError: a value that is neither positive nor negative by itself, or none is `positive`.
    """
    texts = {id: re.sub(r"^([0-9])[.]0+$", r"\1", shown(value).lower()) for id, value in cells.items()}
    if positive is not None:
        wanted = {one.strip().lower() for one in positive.split(",")}
        held = sorted(set(texts.values()) - set(EMPTY))
        if not wanted & set(held):
            raise ValueError(f"no {column} in {path} is {positive}: it has {', '.join(held[:10])}")
        found = {id: None if text in EMPTY else int(text in wanted) for id, text in texts.items()}
        return found, [text for text in held if text not in wanted and text not in NEGATIVE]
    meant: dict[str, int | None] = dict.fromkeys(EMPTY) | dict.fromkeys(POSITIVE, 1) | dict.fromkeys(NEGATIVE, 0)
    for id, text in texts.items():
        if text not in meant:
            raise ValueError(
                f"{column} of {id} in {path} is {text!r}, neither 0 nor 1: pass --positive with those of TB"
            )
    return {id: meant[text] for id, text in texts.items()}, []


def _stored(cells: Iterable[Any] | None) -> float | None:
    """Return the threshold that all predictions name; None where they name none, or several."""
    texts = {shown(cell) for cell in cells or ()}
    try:
        return float(texts.pop()) if len(texts) == 1 else None
    except ValueError:
        return None


def _groups(
    others: Mapping[str, list[Any] | None], ids: list[str]
) -> tuple[dict[str, list[str]], list[RaisedWarning]]:
    """Return the value of each X-ray by sex, age and site, where there is a column, and a warning of ages."""
    found = {role: list(map(known_text, cells)) for role in GROUP_COLUMNS if (cells := others[role])}
    if "sex" in found:
        found["sex"] = [sex_of(text) or text for text in found["sex"]]
    found = {role: [text or "unknown" for text in texts] for role, texts in found.items()}
    bands, unreadable = list[str](), list[str]()
    for id, text in zip(ids, found.get("age", ()), strict=False):
        age = age_of(text)
        bands.append(age_band(age))
        unreadable += [id] if age is None and text != "unknown" else []
    if bands:
        found["age"] = bands
    return found, [CalibrationWarning.UNREADABLE_AGE.raised(unreadable)] if unreadable else []
