"""Measure the project against its yardsticks; prints ratios, as seconds differ from machine to machine.

The dataset builder against `load_dataset("imagefolder")` on the same files:
    python scripts/benchmark.py dataset --data_dir DATA
"""

import argparse

from hub_models.benchmark import dataset_ratios
from hub_models.console import plain_terminal

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["dataset"], help="what to measure")
    parser.add_argument(
        "--data_dir", default="demo/phantoms", help="folder that holds the X-rays (default: %(default)s)"
    )
    arguments = parser.parse_args()
    with plain_terminal():
        for name, ratio in dataset_ratios(arguments.data_dir).items():
            print(f"{name} {ratio:.2f}")
