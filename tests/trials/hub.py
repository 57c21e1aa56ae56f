"""Faults of the Hub at each request of a push and a pull: a sentence or success, and then the same call works."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loopback_hub import LoopbackHub, clients_of
from loopback_hub.steps import STEPS, STORAGE

from hub_models.hub.push import pull_model, push_model
from trials.jobs import digests, seeded

FAULTS: tuple[dict[str, Any], ...] = (
    *({"status": status} for status in (500, 503, 429, 408, 401, 403, 404, 409, 412, 413, 422)),
    *({"cut_after": size} for size in (0, 7)),
    {"corrupt": True},
    {"status": 500, "after": True},
    {"cut_after": 0, "after": True},
)
PULLS = {"info": "GET /api/models/", "tree": "GET .*/tree/", "file": "GET .*/resolve/", "bytes": "GET /(cdn|xorbs)/"}
PLAIN = (ConnectionError, PermissionError, FileNotFoundError, OSError, ValueError)


def faults(n: int, seed: int, run: Path, folder: Path) -> Iterator[str]:
    """Try `n` faults, drawn from all of them; yield "" for each that was survived."""
    pushes = [("push", xet, step) for xet in (True, False) for step in (STEPS | STORAGE[xet]).items()]
    pulls = [("pull", True, step) for step in PULLS.items()]
    cases = list(itertools.product(pushes + pulls, FAULTS, (1, None)))
    random = seeded(seed, "hub")
    random.shuffle(cases)
    expected = digests(run)
    for number, ((action, xet, (step, pattern)), fault, times) in enumerate(cases[:n]):
        case = f"{action} by {'Xet' if xet else 'LFS'}, {step}, {fault}, {'once' if times else 'always'}"
        with LoopbackHub() as hub, clients_of(hub, hub.add_user("alice"), folder / str(number), xet):
            if action == "pull":
                push_model(run, "alice/m", license="mit")
            hub.fail(pattern, times=times, **fault)
            work: Callable[[], object] = (
                (lambda: push_model(run, "alice/m", license="mit", version="v1"))
                if action == "push"
                else (lambda: pull_model("alice/m"))
            )
            yield _survived(case, work, hub, expected)


def _survived(case: str, work: Callable[[], object], hub: LoopbackHub, expected: dict[str, str]) -> str:
    try:
        work()
    except PLAIN as error:
        if "\n" in str(error) or not str(error):
            return f"{case}: {type(error).__name__} without a sentence: {error}"
    except Exception as error:
        return f"{case}: {type(error).__name__}: {error}"
    hub.clear_faults()
    try:
        work()
    except Exception as error:
        return f"{case}: the same call failed afterwards: {type(error).__name__}: {error}"
    held = hub.repo("alice/m").at("main").entries
    if "model.safetensors" not in held or held["model.safetensors"].sha256 != expected["model.safetensors"]:
        return f"{case}: the head does not hold the run's weights"
    return ""
