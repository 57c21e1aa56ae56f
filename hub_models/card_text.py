"""Whether a card's words say what is known: the same sections, tables and numbers, whatever else is written."""

import html
import re
from collections import Counter
from itertools import zip_longest
from typing import Any

SHARE = r"(?:%|per ?cent\b)"
NUMBER = re.compile(rf"(?<![\w.])(?:\d+(?:\.\d+)?|\.\d+)(?![\w.]*\w)(?: ?{SHARE})?")
NAMES = re.compile(r"`[^`]*`|\]\([^)]*\)|https?://\S+|doi \S+|arXiv \S+|CC BY(?:-\w+)* \d\.\d")  # of no figure


def check_text(stated: str, known: str, source: str) -> None:
    """Nothing, if a card's text holds the sections, tables and numbers of the one that was made from files.

    Words may be changed and added, numbers not: of added ones only whole numbers without % are let go. `source` is
    what errors call the files, such as "the run's files".

    Raises:
        ValueError: a section is missing, a number differs, is missing or stands in none of the files.
    """
    mine, theirs = sections(stated), sections(known)
    if absent := [heading for heading in theirs if heading not in mine]:
        raise ValueError(f"the card has no section {absent[0]!r}: write the card anew")
    for heading, lines in mine.items():
        compare(heading, _cells(lines), _cells(theirs.get(heading, [])), source)
    for heading, lines in mine.items():
        said, true = _numbers(lines), _numbers(theirs.get(heading, []))
        if missing := sorted(true - said):
            raise ValueError(f"the card lacks {missing[0]} in {heading!r}, which {source} hold")
        if invented := sorted(number for number in said - true if re.search("[.%]|cent", number)):
            raise ValueError(f"the card says {invented[0]} in {heading!r}, which stands in none of {source}")


def compare(where: str, stated: dict[str, Any], known: dict[str, Any], source: str) -> None:
    """Nothing, if both say the same.

    Raises:
        ValueError: the first figure that differs, by its name.
    """
    for name in [*known, *stated]:
        if stated.get(name) != known.get(name):
            said, true = (pairs.get(name, "nothing") for pairs in (stated, known))
            raise ValueError(f"the card says {said} for {name} in {where!r}, {source} {true}: write it anew")


def sections(text: str) -> dict[str, list[str]]:
    """Lines under each heading `## `, without code; "the first lines" are those before."""
    sections, heading = {}, "the first lines"
    for line in re.sub(r"```.*?```", "", text, flags=re.S).splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ").strip()
        sections.setdefault(heading, []).append(line)
    return sections


def _cells(lines: list[str]) -> dict[str, str]:
    """Cells of all tables of a section, named by their row and heading."""
    cells, headings, table = {}, [], 0
    for above, line in zip_longest(["", *lines], lines, fillvalue=""):
        if not _is_of_table(line) or not line.strip("|- "):
            continue
        name, *row = (cell.strip() for cell in line.strip().strip("|").split("|"))
        if not _is_of_table(above):
            headings, table = row, table + 1
            continue
        for heading, cell in zip_longest(headings, row, fillvalue=""):
            cells[f"{heading} of {name} (line {len(cells)}, table {table})"] = cell
    return cells


def _numbers(lines: list[str]) -> Counter[str]:
    """Numbers of a section's prose: without its tables, code, ids and links; emphasis and entities as they look."""
    prose = NAMES.sub("", "\n".join(line for line in lines if not _is_of_table(line)))
    plain = re.sub(rf"(?<=\d)\s*(?={SHARE})", " ", html.unescape(prose).replace("*", ""))
    return Counter(NUMBER.findall(re.sub(r"\b0,(?=\d)", "0.", plain)))


def _is_of_table(line: str) -> bool:
    return line.lstrip().startswith("|")
