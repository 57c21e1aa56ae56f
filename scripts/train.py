# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "chest-xray-masks[models,tracking] @ git+https://github.com/chest-xray-masks/chest-xray-masks",
#     "torch>=2.6",
# ]
# ///
r"""Train a model on the chest X-rays.

From random weights (no download), on a CPU; leave out --config_file on a GPU:
    accelerate launch --config_file scripts/accelerate/cpu.yaml scripts/train.py --data DATA \
        --output runs/lungs --from_scratch
From the ImageNet checkpoint nvidia/mit-b0:
    accelerate launch scripts/train.py --data DATA --output runs/lungs
In two processes on a machine without a GPU:
    accelerate launch --config_file scripts/accelerate/cpu_2_processes.yaml scripts/train.py --data DATA \
        --output runs/lungs --from_scratch

TB, of the whole X-ray; with --region lungs --segmenter runs/lungs, of the lungs that a lung run finds:
    accelerate launch --config_file scripts/accelerate/cpu.yaml scripts/train.py --task tb_classification \
        --data DATA --output runs/tb --model resnet-light --from_scratch --image_size 96 --batch_size 16
To the Hub in the same command, private; what the Hub would refuse is refused before the training:
    accelerate launch scripts/train.py --data DATA --output runs/lungs --push OWNER/NAME --license apache-2.0
On a machine of the Hub, without a clone; this file names what it needs, and DATA is a URL of the set's zip:
    hf jobs uv run --flavor t4-small --secrets HF_TOKEN scripts/train.py --data DATA \
        --output runs/lungs --push OWNER/NAME --license apache-2.0

After a stop, the same command resumes from the newest checkpoint: each epoch's, and every `--checkpoint_steps`.
`--help` lists the options.
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
