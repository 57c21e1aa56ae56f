"""Write synthetic chest X-rays with lungs, lesions and readings, in the layout of the Kaggle set.

120 of them, always the same:
    python scripts/write_phantoms.py --output phantoms
"""

import argparse
from pathlib import Path

from hub_models.console import plain_terminal
from hub_models.phantom import write_phantoms

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path, help="folder to make")
    parser.add_argument("--montgomery", type=int, default=40, help="count of Montgomery-like X-rays")
    parser.add_argument("--shenzhen", type=int, default=80, help="count of Shenzhen-like X-rays")
    parser.add_argument("--image_size", type=int, default=256, help="larger side in pixels, about")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other patients")
    options = vars(parser.parse_args())
    with plain_terminal():
        print(f"wrote {write_phantoms(options.pop('output'), **options)}")
