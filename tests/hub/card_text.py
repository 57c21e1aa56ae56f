"""Cards taken apart."""

import re

from huggingface_hub import RepoCard


def sections(card: RepoCard) -> dict[str, str]:
    """Text by heading; what stands before the first has an empty one."""
    splits = re.split(r"^## (.*)\n", card.text, flags=re.M)
    assert len(splits[1::2]) == len(set(splits[1::2]))
    return {"": splits[0]} | dict(zip(splits[1::2], splits[2::2], strict=True))


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Headings and rows of each Markdown table."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.M):
        headings, ruler, *rows = (
            [cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines()
        )
        assert set("".join(ruler)) == {"-"} and rows and all(len(row) == len(headings) for row in rows)
        found.append((headings, rows))
    return found


def plain_numbers(text: str) -> set[str]:
    """Numbers in the words of a card, without code, tables, links and citations."""
    prose = re.sub(r"```.*?```|`[^`]*`|^\|[^\n]*|\]\([^)]*\)", "", text.split("## Citations")[0], flags=re.M | re.S)
    return set(re.findall(r"(?<![\w.])\.?\d+(?:\.\d+)?", prose))
