r"""Push a finished run to the Hub (weights, configs, card, metrics, pictures), or the page that reads X-rays.

One commit, private unless told.

What would go, without sending anything:
    python scripts/push.py --model runs/lungs --repo_id OWNER/chest-xray-lungs --license apache-2.0 --dry_run
Private, as version v1 (log in once with `hf auth login`, or set HF_TOKEN):
    python scripts/push.py --model runs/lungs --repo_id OWNER/chest-xray-lungs --license apache-2.0 --version v1
Public, with the metrics of another evaluation and of a run across sites in the card:
    python scripts/push.py --model runs/lungs --repo_id OWNER/chest-xray-lungs --license apache-2.0 --public \
        --also runs/lungs/evaluation/default-validation runs/mc
A TB model of the lung region, with the lung model that its card names:
    python scripts/push.py --model runs/tb --repo_id OWNER/chest-xray-tb --license apache-2.0 \
        --segmenter OWNER/chest-xray-lungs
The page as a Space, which reads with models of the Hub:
    python scripts/push.py --space --repo_id OWNER/chest-xray-reader \
        --segmenter OWNER/chest-xray-lungs --classifier OWNER/chest-xray-tb

After a failure the same command resumes; an unchanged run makes no commit.
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["push", *sys.argv[1:]])
