"""Measure the project against its yardsticks; prints ratios, as seconds differ from machine to machine.

The dataset builder against `load_dataset("imagefolder")` on the same files:
    python scripts/benchmark.py dataset --data_dir DATA
The training loop against bare compute and against the loop of transformers' example scripts, on phantoms as large as
the originals (takes some minutes), or on a set:
    python scripts/benchmark.py train
    python scripts/benchmark.py train --data_dir DATA --task tb_classification --precision bf16
Reading X-rays with trained models, against decoding alone, the models alone and transformers' pipeline, on phantoms as
large as the originals; and whether time and memory stay as they are for many small ones:
    python scripts/benchmark.py predict --segmenter runs/lungs --classifier runs/tb
"""

import argparse

from hub_models.benchmark import dataset_ratios
from hub_models.console import plain_terminal
from hub_models.prediction_benchmark import prediction_ratios
from hub_models.tasks import TASKS
from hub_models.training_benchmark import training_ratios

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="{dataset,train,predict}")
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
    predict = commands.add_parser("predict", help="reading with trained models")
    predict.set_defaults(measure=prediction_ratios)
    predict.add_argument(
        "--segmenter", default="demo/runs-phantoms/lungs", help="run folder of a lung model (default: %(default)s)"
    )
    predict.add_argument(
        "--classifier", default="demo/runs-phantoms/tb", help="run folder of a TB model (default: %(default)s)"
    )
    predict.add_argument("--films", type=int, default=16, help="phantoms of native size (default: %(default)s)")
    predict.add_argument("--images", type=int, default=10_000, help="small phantoms (default: %(default)s)")
    options = vars(parser.parse_args())
    with plain_terminal():
        for name, ratio in options.pop("measure")(**options).items():
            print(f"{name} {ratio:.2f}")
