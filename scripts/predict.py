r"""Read any number of X-rays: lung masks, and a table with areas, probability, decision in words and flags.

A file, a folder with all below it, a zip, a glob:
    python scripts/predict.py --data XRAYS --output OUT --segmenter runs/lungs --classifier runs/tb
A list of paths and URLs (.txt, or .csv with a column `path`), Parquet, a URL such as s3://BUCKET/XRAYS:
    python scripts/predict.py --data list.txt --output OUT --segmenter runs/lungs
A dataset of the Hub, or this project's own:
    python scripts/predict.py --data chest_xray_masks --data_dir DATA --split test --output OUT --classifier runs/tb
On several GPUs, or machines with a shared disk:
    accelerate launch --config_file scripts/accelerate/many_gpus.yaml scripts/predict.py --data XRAYS --output OUT \
        --segmenter runs/lungs --classifier runs/tb

OUT gets predictions.parquet, predictions.csv and masks/. A file that cannot be read is a row that says why. After a
stop, the same command resumes. Models are run folders of scripts/train.py or Hub ids.
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
