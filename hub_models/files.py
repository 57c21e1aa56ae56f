"""Files that are whole or absent: written aside, then renamed."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(values: Any, path: Path) -> None:
    """Write `values` as indented JSON to `path`, replacing it in one step."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
