r"""Test a model with intervals, per site, sex and age: results.json, per_image.parquet and pictures.

On the test split of its run:
    python scripts/evaluate.py --model runs/lungs --data DATA
On another site, or another split:
    python scripts/evaluate.py --model runs/mc --data DATA --protocol mc_to_shenzhen
    python scripts/evaluate.py --model runs/lungs --data DATA --split validation
Against another model, on the same X-rays:
    python scripts/evaluate.py --model runs/lungs --data DATA --compare runs/lungs2
A model of the Hub:
    python scripts/evaluate.py --model OWNER/chest-xray-lungs --data DATA --output evaluation
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
