"""Runs and what is sent of them, for the tests of pushes and pulls."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub

from hub_models.hub.run_files import bytes_of, release
from hub_models.runs.run_folder import RunFolder

AsUser = Callable[..., Any]
BOTH = pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])


def content(run: Path, repo_id: str = "alice/m") -> dict[str, bytes]:
    """What a push of the run is to leave in the repository."""
    return {name: bytes_of(one) for name, one in release(RunFolder.read(run), repo_id, "mit").items()}


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change the values of a JSON file."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def said_by(kind: type[Exception] | tuple[type[Exception], ...], call: Callable[[], object], hub: LoopbackHub) -> str:
    """The one sentence of an error, in which there is nothing secret."""
    with pytest.raises(kind) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and "signature=" not in text and not any(token in text for token in hub.users)
    return text
