"""Run the trials and print their table, of which docs/reliability.md keeps one.

PYTHONPATH=tests python -m trials                        # all: some 30 minutes of two cores
PYTHONPATH=tests python -m trials --share 0.05 --only kill damaged
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pytest

from trials.table import TRIALS, Workshop


def main() -> int:
    """Exit status: 1 where anything was not survived."""
    parser = argparse.ArgumentParser("trials", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the number of each trial, at least one")
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of the names of trials")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    options = parser.parse_args()
    problems: list[str] = []
    print("| trial | n | survived |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="trials_") as name, Workshop(Path(name), options.seed) as shop:
        for trial in (one for one in TRIALS if one.name.startswith(tuple(options.only))):
            began = time.monotonic()
            try:
                said = list(trial.run(shop, max(1, round(options.share * trial.n))))
            except pytest.skip.Exception as reason:
                print(f"| {trial.name} | not run: {reason} | |", flush=True)
                continue
            wrong = [one for one in said if one]
            print(f"| {trial.name} | {len(said)} | {len(said) - len(wrong)} |", flush=True)
            print(f"{trial.name}: {time.monotonic() - began:.0f} s", *wrong, sep="\n  ", file=sys.stderr)
            problems += wrong
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
