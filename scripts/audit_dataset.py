"""Check a copy of the chest X-rays against the published 800, and list what is odd in it; nothing is changed.

    python scripts/audit_dataset.py --data DATA
As JSON too, and with exit status 1 if something is off:
    python scripts/audit_dataset.py --data DATA --json report.json --strict

DATA is the set as a folder or a zip. The first line says whether it is complete. Exit status: 1 with --strict if
something is off beyond the published set's own oddities; 2 if there is no X-ray to check; else 0.
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["audit", *sys.argv[1:]])
