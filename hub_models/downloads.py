"""Models from the Hub or from this machine, as a folder."""

from pathlib import Path


def local_run(source: str | Path, revision: str | None = None) -> Path:
    """Folder of a run.

    Raises:
        FileNotFoundError: there is none.
    """
    if not Path(source).is_dir():
        raise FileNotFoundError(f"no folder {source}: pass a run folder that scripts/train.py made")
    return Path(source)
