"""Load the X-rays and show what is in them.

The counts of each split, and the first row:
    python scripts/show_dataset.py --data DATA
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["show", *sys.argv[1:]])
