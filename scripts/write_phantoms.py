"""Write synthetic chest X-rays with lungs, lesions and readings, in the layout of the Kaggle set.

120 of them, always the same:
    python scripts/write_phantoms.py --output phantoms
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["phantoms", *sys.argv[1:]])
