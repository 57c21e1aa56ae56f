r"""Test a model with intervals, per site, sex and age: results.json, per_image.parquet and pictures.

On the test part that its run left out:
    python scripts/evaluate.py --model runs/lungs --data_dir DATA
On another site, or another part:
    python scripts/evaluate.py --model runs/mc --data_dir DATA --protocol mc_to_shenzhen
    python scripts/evaluate.py --model runs/lungs --data_dir DATA --split validation
Against another model, on the same X-rays:
    python scripts/evaluate.py --model runs/lungs --data_dir DATA --compare runs/lungs2
A model of the Hub:
    python scripts/evaluate.py --model OWNER/chest-xray-lungs --data_dir DATA --output evaluation
"""

import argparse

from chest_xray_masks import PARTS
from hub_models.console import plain_terminal
from hub_models.protocols import PROTOCOLS

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="run folder that scripts/train.py made, or Hub id")
    parser.add_argument("--data_dir", required=True, help="folder or zip that holds the X-rays")
    parser.add_argument("--split", choices=PARTS, default="test", help="part to test on (default: %(default)s)")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help="division of the X-rays (default: the run's own)")
    parser.add_argument("--fold", type=int, help="of protocol folds (default: the run's own)")
    parser.add_argument("--segmenter", help="lung model, run folder or Hub id, for a TB model of the lung region")
    parser.add_argument("--output", help="folder to write to (default: evaluation/PROTOCOL-SPLIT in the run folder)")
    parser.add_argument("--views", type=int, choices=range(1, 6), help="times to look at each X-ray, slightly moved")
    parser.add_argument("--two_lungs", action="store_true", help="keep the two largest regions of a lung mask")
    parser.add_argument("--compare", help="a second model, run folder or Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of models that come from the Hub (default: main)")
    arguments = vars(parser.parse_args())
    with plain_terminal():
        from hub_models.report import evaluate_run  # here, so that a wrong argument is told at once

        evaluate_run(compared=arguments.pop("compare"), **arguments)
