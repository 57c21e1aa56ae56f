r"""Train a model on the chest X-rays.

From random weights (no download), on a CPU; leave out --cpu on a GPU:
    accelerate launch --cpu --num_processes 1 scripts/train.py --data_dir DATA --output_dir runs/lungs --from_scratch
From the ImageNet checkpoint nvidia/mit-b0:
    accelerate launch scripts/train.py --data_dir DATA --output_dir runs/lungs
In two processes on a machine without a GPU:
    accelerate launch --config_file scripts/accelerate/cpu_2_processes.yaml scripts/train.py --data_dir DATA \
        --output_dir runs/lungs --from_scratch

Stopped at any moment, the same command goes on from the last whole epoch. `--help` lists the options.
"""

import logging

from transformers import HfArgumentParser
from transformers.utils import logging as transformers_logging

from hub_models.config import TrainConfig
from hub_models.train import fit

if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hub_models").setLevel(logging.INFO)
    transformers_logging.set_verbosity_error()  # its advice on torchvision, which nothing here needs
    transformers_logging.disable_progress_bar()
    (config,) = HfArgumentParser(TrainConfig).parse_args_into_dataclasses()
    fit(config)
