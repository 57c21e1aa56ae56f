"""Load the X-rays and show what is in them.

The counts of each split, and the first row:
    python scripts/show_dataset.py --data_dir DATA
"""

import argparse

from datasets import load_dataset

import chest_xray_masks  # noqa: F401  makes the name known to load_dataset
from hub_models.console import plain_terminal

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder or zip that holds the X-rays")
    parser.add_argument("--config", default="all", help="all, MC or Shenzhen")
    arguments = parser.parse_args()
    with plain_terminal():
        splits = load_dataset("chest_xray_masks", arguments.config, data_dir=arguments.data_dir)
        print(splits)
        print(next((row for split in splits.values() for row in split), None))
