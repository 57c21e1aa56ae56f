"""Templates and addresses of all cards. Cards of data need no torch, so nothing here may."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import jinja2

HUB_URL = "https://huggingface.co"
CODE_URL = "https://github.com/chest-xray-masks/chest-xray-masks"
INSTALL = f'pip install "chest-xray-masks[models] @ git+{CODE_URL}"'


def card_template(name: str) -> jinja2.Template:
    """Return a template of this folder; a line that holds only a tag leaves no line behind."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return jinja2.Template(re.sub(r"^({%.*%})\n", r"\1", text, flags=re.M))


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; empty without rows."""
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings), *lines]) if lines else ""
