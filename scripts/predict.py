r"""Read any number of X-rays: lung masks, and a table with areas, probability, decision in words and flags.

A file, a folder with all below it, a zip, a glob:
    python scripts/predict.py --images XRAYS --output OUT --segmenter runs/lungs --classifier runs/tb
A list of paths and URLs (.txt, or .csv with a column `path`), Parquet, a URL such as s3://BUCKET/XRAYS:
    python scripts/predict.py --images list.txt --output OUT --segmenter runs/lungs
A dataset of the Hub, or this project's own:
    python scripts/predict.py --images chest_xray_masks --data_dir DATA --split test --output OUT --classifier runs/tb
On several GPUs, or machines with a shared disk:
    accelerate launch --config_file scripts/accelerate/many_gpus.yaml scripts/predict.py --images XRAYS --output OUT \
        --segmenter runs/lungs --classifier runs/tb

OUT gets predictions.parquet, predictions.csv and masks/. A file that cannot be read is a row that says why. Stopped at
any moment, the same command goes on from there. Models are run folders of scripts/train.py or Hub ids.
"""

import argparse

from hub_models.console import plain_terminal

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="file, folder, zip, glob, list, Parquet, URL, or a dataset")
    parser.add_argument("--output", required=True, help="folder to write to")
    parser.add_argument("--segmenter", help="run folder or Hub id of a lung model")
    parser.add_argument("--classifier", help="run folder or Hub id of a TB model")
    parser.add_argument("--revision", help="branch, tag or commit of the models that come from the Hub")
    parser.add_argument("--overlays", action="store_true", help="write pictures of the lungs, too")
    parser.add_argument("--saliency", action="store_true", help="write pictures of where the TB model looks, too")
    parser.add_argument("--dicom_seg", action="store_true", help="write lungs of DICOM X-rays as DICOM-SEG, too")
    parser.add_argument("--batch_size", type=int, help="X-rays in a forward pass (default: 16, on a CPU 4)")
    parser.add_argument("--config", help="of a dataset")
    parser.add_argument("--split", help="of a dataset (default: all)")
    parser.add_argument("--data_dir", help="folder or zip of a dataset that is on this machine")
    parser.add_argument("--image_column", dest="column", help="of a dataset or Parquet with several")
    arguments = vars(parser.parse_args())
    with plain_terminal():
        from hub_models.batch import read_all  # here, so that a wrong argument is told at once

        read_all(**arguments)
