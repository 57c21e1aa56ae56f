"""Measure the project against its yardsticks; prints ratios, as seconds differ from machine to machine.

The dataset builder against `load_dataset("imagefolder")` on the same files:
    python scripts/benchmark.py dataset --data_dir DATA
The training loop against bare compute and against the loop of transformers' example scripts, on phantoms as large as
the originals (takes some minutes), or on a set:
    python scripts/benchmark.py train
    python scripts/benchmark.py train --data_dir DATA --task tb_classification --precision bf16
"""

import argparse

from hub_models.benchmark import dataset_ratios
from hub_models.console import plain_terminal
from hub_models.tasks import TASKS
from hub_models.training_benchmark import training_ratios

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="{dataset,train}")
    dataset = commands.add_parser("dataset", help="the dataset builder")
    dataset.set_defaults(measure=dataset_ratios)
    dataset.add_argument(
        "--data_dir", default="demo/phantoms", help="folder that holds the X-rays (default: %(default)s)"
    )
    train = commands.add_parser("train", help="the training loop")
    train.set_defaults(measure=training_ratios)
    train.add_argument("--data_dir", help="folder that holds the X-rays (default: phantoms of native size)")
    train.add_argument("--images", type=int, default=24, help="phantoms to make (default: %(default)s)")
    train.add_argument("--task", choices=list(TASKS), default="lung_segmentation", help="default: %(default)s")
    train.add_argument("--model", help="architecture, or folder with a config.json (default: that of make demo)")
    train.add_argument("--image_size", type=int, help="side in pixels (default: the task's)")
    train.add_argument("--batch_size", type=int, default=8, help="images in a step (default: %(default)s)")
    train.add_argument("--steps", type=int, help="steps of an epoch (default: 2 for each core, 4 or more)")
    train.add_argument("--precision", choices=["no", "bf16"], default="no", help="default: %(default)s")
    options = vars(parser.parse_args())
    with plain_terminal():
        for name, ratio in options.pop("measure")(**options).items():
            print(f"{name} {ratio:.2f}")
