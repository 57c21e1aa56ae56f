"""Measure the project against other code; ratios are printed, as seconds differ from machine to machine.

The dataset builder against `load_dataset("imagefolder")` on the same files:
    python scripts/benchmark.py dataset --data DATA
The training loop against bare compute and against the loop of transformers' example scripts, on phantoms as large as
the originals (takes some minutes), or on a set:
    python scripts/benchmark.py train
    python scripts/benchmark.py train --data DATA --task tb_classification --precision bf16
Epochs with a frozen encoder and with LoRA, against those that train all weights:
    python scripts/benchmark.py adapt
Reading X-rays with trained models, against decoding alone, the models alone and transformers' pipeline, on phantoms as
large as the originals; and whether time and memory grow with many small ones:
    python scripts/benchmark.py predict --segmenter runs/lungs --classifier runs/tb
The import of the reader, against that of torch and transformers:
    python scripts/benchmark.py start
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
