"""Check a copy of the chest X-rays against the published 800, and list what is odd in it; nothing is changed.

    python scripts/audit_dataset.py --data_dir DATA
As JSON too, and with exit status 1 if something is off:
    python scripts/audit_dataset.py --data_dir DATA --json report.json --strict

DATA is the set as a folder or a zip. The first line says whether it is complete. Exit status: 1 with --strict if
something is off that the published set itself has not; 2 if there is no X-ray to check; else 0.
"""

import argparse
from pathlib import Path

from rich.console import Console

from hub_models.audit import report

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="the set: a folder or a zip")
    parser.add_argument("--json", type=Path, help="file to write the whole report to")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if something is off")
    options = parser.parse_args()
    try:
        found = report(options.data_dir, options.json)
    except OSError as error:
        parser.exit(2, f"{error}\n")
    print(found.headline())
    Console().print(found.table())
    parser.exit(2 if found.is_empty else int(options.strict and found.is_off))
