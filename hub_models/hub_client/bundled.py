"""The two models that come with the package: a folder of each, checked against SHA256SUMS before it is read."""

import hashlib
from functools import cache
from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "weights"
SUMS_NAME = "SHA256SUMS"  # as sha256sum writes and checks it
BUNDLED_LICENSE = "cc-by-nc-sa-4.0"  # that of the Shenzhen masks, which they learned from
BUNDLED_PREFIX = "bundled:"  # no Hub id has a colon
DEFAULT_MODELS = ("bundled:lungs", "bundled:tb")  # what reads where neither a lung nor a TB model is named
BUNDLED = dict(zip(DEFAULT_MODELS, (WEIGHTS / "lungs", WEIGHTS / "tb"), strict=True))


def known_place(source: str | Path) -> str:
    """Return the folder of a bundled model in place of its name; any other `source` as it is."""
    return str(bundled_run(str(source))) if str(source).startswith(BUNDLED_PREFIX) else str(source)


@cache
def bundled_run(name: str) -> Path:
    """Return the run folder of a bundled model by its name; each of its files has the digest in SHA256SUMS.

    Raises:
        FileNotFoundError: no bundled model of that name, or a file of it is missing.
        ValueError: a file has another digest.
    """
    if name not in BUNDLED:
        raise FileNotFoundError(f"no bundled model {name}: pass {' or '.join(BUNDLED)}, a run folder or a Hub id")
    folder = BUNDLED[name]
    try:
        listed = [line.split("  ", 1) for line in (WEIGHTS / SUMS_NAME).read_text().splitlines()]
        digests = {WEIGHTS / path: digest for digest, path in listed}
        for path in (path for path in digests if path.is_relative_to(folder)):
            if hashlib.sha256(path.read_bytes()).hexdigest() != digests[path]:
                raise ValueError(f"{path} is not as it was published: install the package again")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no {error.filename}, of the bundled models: install the package again") from error
    return folder
