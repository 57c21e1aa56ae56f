"""Map the columns of any table to the fields of an X-ray, and its values to theirs."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

import chest_xray_masks as cxm

logger = logging.getLogger(__name__)

# Names of columns that are guessed, in letters and digits only, by field; the first that a table has is taken.
GUESSED = {
    "image": "image filename file filepath path imagepath imagefile imageindex imageid img xray studyid source",
    "mask": "mask maskpath maskfile lungmask lungs segmentation seg",
    "label": "label tb tuberculosis target class diagnosis tbstatus",
    "patient_id": "patientid patient subjectid subject pid mrn patientcode subjectcode participantid participant",
    "split": "split subset partition set",
    "site": "site hospital center centre institution facility",
    "sex": "sex gender patientsex patientgender",
    "age": "age ageyears patientage ageatexam ageatstudy ageatscan",
    "findings": "findings finding report",
    "id": "id",
}
NO_COLUMN = "-"  # in place of a column's name: the field is not read
XRAY_FIELDS = tuple(GUESSED)
POSITIVE = frozenset({"1", "true", "yes", "y", "positive", "pos", "tb", "tbc", "tuberculosis"})
NEGATIVE = frozenset({"0", "false", "no", "n", "negative", "neg", "normal", "healthy", "no tb", "not tb", "non tb"})
WORDS_OF_SPLIT = {"train": "train training", "validation": "val valid validation dev", "test": "test testing"}
SPLIT_OF_WORD = {word: split for split, words in WORDS_OF_SPLIT.items() for word in words.split()}
PAIR = re.compile(r"[,\s]+(?=\w+=)")
SHOWN_VALUES = 8  # values that an error lists


class Labels(NamedTuple):
    """How values become labels: `positive` ones are tuberculosis, those of `negative` normal; None: all the others."""

    positive: frozenset[str] = POSITIVE
    negative: frozenset[str] | None = NEGATIVE

    def knows(self, value: str) -> bool:
        """Return whether a value is a named or known one of either class."""
        return plain(value) in self.positive | (self.negative or NEGATIVE)

    def of(self, value: str) -> int | None:
        """Return 1 for tuberculosis, 0 for normal, None for no value and one that is neither."""
        value = _whole(value)
        if value in self.positive:
            return 1
        return 0 if value and (self.negative is None or value in self.negative) else None


def plain(value: str) -> str:
    """Return a value in small letters, its white space, `_` and `-` each one blank; a number keeps its minus."""
    value = value.strip()
    minus = "-" if re.match(r"-[0-9.]", value) else ""
    return minus + re.sub(r"[\s_-]+", " ", value).strip().casefold()


def _whole(value: str) -> str:
    """Return a plain value; a whole number without the zeros that pandas writes beside an empty cell."""
    return re.sub(r"^([0-9]+)[.]0+$", r"\1", plain(value))


def parse_columns(text: str | None) -> dict[str, str]:
    """Return the column of each field in "image=file, label=Diagnosis".

    Raises:
        ValueError: a part is not FIELD=COLUMN, or names an unknown field.
    """
    found: dict[str, str] = {}
    for pair in PAIR.split((text or "").strip()):
        field, equals, column = (part.strip() for part in pair.partition("="))
        if pair and not (equals and column):
            raise ValueError(f"columns holds {pair!r}: write FIELD=COLUMN, such as label=diagnosis")
        if pair and field not in XRAY_FIELDS:
            raise ValueError(f"columns names an unknown field {field!r}: choose from {', '.join(XRAY_FIELDS)}")
        found |= {field: column} if pair else {}
    return found


def parse_positive(text: str | None) -> Labels:
    """Return how values become labels where "TB,tuberculosis,1" are the positive ones; by known words without."""
    words = frozenset(filter(None, map(plain, (text or "").split(","))))
    return Labels(words, None) if words else Labels()


def guess_columns(names: Iterable[str], given: Mapping[str, str], place: str) -> dict[str, str]:
    """Return the column of each field that a table has: those `given`, else by its name.

    Raises:
        ValueError: a given column is not there.
    """
    names = list(names)
    if missing := [f"{field}={column}" for field, column in given.items() if column not in (*names, NO_COLUMN)]:
        raise ValueError(f"{place} has no column for {', '.join(missing)}: it has {', '.join(names)}")
    known = {re.sub(r"[^a-z0-9]", "", name.casefold()): name for name in reversed(names)}
    found = dict(given)
    for field, words in GUESSED.items():
        column = next((known[word] for word in words.split() if word in known), None)
        if column and field not in found and column not in found.values():
            found[field] = column
    return {field: column for field, column in found.items() if column != NO_COLUMN}


def columns_here(given: Mapping[str, str], names: Iterable[str], place: str) -> dict[str, str]:
    """Return the columns named for another source as they hold here: all where all are there, none where none is.

    Fields that are left out stay so. Raise ValueError where only some of the columns are among the `names`.
    """
    names, columns = list(names), {field: column for field, column in given.items() if column != NO_COLUMN}
    missing = [f"{field}={column}" for field, column in columns.items() if column not in names]
    if 0 < len(missing) < len(columns):
        ways = "rename its columns so that it has all that --columns names, or none of them: then they are guessed"
        raise ValueError(f"{place} has no column for {', '.join(missing)}: it has {', '.join(names)}; {ways}")
    return {field: column for field, column in given.items() if field not in columns or not missing}


def described(place: str, fields: Mapping[str, str], names: Iterable[str]) -> str:
    """Return a line that says which column each field of a table is, and which columns are not used."""
    mapping = ", ".join(f"{field}={column}" for field, column in fields.items())
    unused = [name for name in names if name not in fields.values()]
    return f"{place}: columns {mapping}" + (f"; not used: {', '.join(unused)}" if unused else "")


def labels_of(values: Iterable[str], labels: Labels, place: str) -> list[int | None]:
    """Return the label of each value, None for a row without one.

    Raises:
        ValueError: a value is neither; or positive values were named and no row has one of them.
    """
    values = list(values)
    found = [labels.of(value) for value in values]
    held = Counter(value for value in values if value)
    unknown = [value for value in held if labels.of(value) is None]
    if unknown or (held and labels.negative is None and 1 not in found):
        shown = ", ".join(f"{value!r} ({count})" for value, count in held.most_common(SHOWN_VALUES))
        known = [value for value in held if plain(value) in POSITIVE - {"1"}]
        if labels.negative is None:  # of which no row has one
            by_plain = {plain(value): value for value in held}
            close = [by_plain[one] for word in labels.positive for one in get_close_matches(word, by_plain)]
            known, shown = known or close, f"{shown}, and none of {', '.join(sorted(labels.positive))}"
        example = ",".join(known) or "VALUE"  # all that are known; never a number, whose meaning is not known
        ways = (
            f'name every value that means tuberculosis, as in --positive "{example}": all others then count as '
            "normal, so empty the cells that mean neither; or use no labels, with --columns label=-"
        )
        raise ValueError(f"{place} holds {shown}: {ways}")
    if held and labels.negative is None:
        warn_of_unmatched(labels, held, place)
    return found


def warn_of_unmatched(labels: Labels, values: Iterable[str], place: str) -> None:
    """Warn of named positives that no value is: whoever wrote them may have meant one that now counts as normal."""
    held = set(map(_whole, values))
    if missing := sorted(labels.positive - held):
        others = ", ".join(sorted(held - labels.positive - {""})[:SHOWN_VALUES]) or "none"
        text = "warning: --positive names %s, and there is no such value in %s (counted as normal: %s)"
        logger.warning(text, ", ".join(missing), place, others)


def splits_of(values: Iterable[str], place: str) -> list[str | None]:
    """Return train, validation or test of each value, None for a row without one; raise ValueError for another."""
    values = list(map(plain, values))
    if unknown := sorted({value for value in values if value and value not in SPLIT_OF_WORD}):
        raise ValueError(
            f"{place} holds {unknown[0]!r}: splits are {', '.join(SPLIT_OF_WORD)}; pass --columns split=..."
        )
    return [SPLIT_OF_WORD.get(value) for value in values]


def sex_of(value: str) -> str | None:
    """Return female, male or other; None for no value and an unknown one."""
    return cxm.parse_reading(f"Sex: {value}").sex if value else None


def age_of(value: str) -> float | None:
    """Return years in (0, 120] of "45", "45.5", "031Y" or "16 months"; None for no value and an unknown one."""
    try:
        years = float(value)
    except ValueError:
        return cxm.parse_reading(f"Age: {value}").age_years if value else None
    return years if 0 < years <= 120 else None
