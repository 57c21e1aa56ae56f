r"""Push a finished run to the Hub (weights, configs, card, figures, pictures), or the page that reads X-rays.

All goes in one commit, private unless told.

What would go, without sending anything:
    python scripts/push.py --run runs/lungs --repo_id OWNER/chest-xray-lungs --license apache-2.0 --dry_run
Private, as version v1 (log in once with `hf auth login`, or set HF_TOKEN):
    python scripts/push.py --run runs/lungs --repo_id OWNER/chest-xray-lungs --license apache-2.0 --version v1
For all to see, with the figures of another evaluation and of a run across sites in the card:
    python scripts/push.py --run runs/lungs --repo_id OWNER/chest-xray-lungs --license apache-2.0 --public \
        --also runs/lungs/evaluation/default-validation runs/mc
A TB model of the lung region, with the lung model that its card is to name:
    python scripts/push.py --run runs/tb --repo_id OWNER/chest-xray-tb --license apache-2.0 \
        --segmenter OWNER/chest-xray-lungs
The page as a Space, which reads with models of the Hub:
    python scripts/push.py --space --repo_id OWNER/chest-xray-reader \
        --segmenter OWNER/chest-xray-lungs --classifier OWNER/chest-xray-tb

After a failure the same command goes on; an unchanged run makes no commit.
"""

import argparse
from pathlib import Path

from hub_models.console import plain_terminal

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="run folder that scripts/train.py made")
    parser.add_argument("--space", action="store_true", help="push the page, in place of a run")
    parser.add_argument("--repo_id", required=True, help="OWNER/NAME on the Hub, or NAME to be your own")
    parser.add_argument("--license", help="the Hub's name of a licence (default: the one in the run's README.md)")
    parser.add_argument("--public", action="store_true", help="let everyone see it")
    parser.add_argument("--version", help="tag to set, such as v1; without it none is set")
    parser.add_argument("--revision", help="branch to push to (default: main)")
    parser.add_argument("--also", nargs="+", type=Path, default=(), help="evaluations and runs for the card's table")
    parser.add_argument("--segmenter", help="Hub id of the lung model, for the card of a TB model or the page")
    parser.add_argument("--classifier", help="Hub id of the TB model, for the page")
    parser.add_argument("--replace", action="store_true", help="let another model or other files there go")
    parser.add_argument("--dry_run", action="store_true", help="say what would go, and send nothing")
    arguments = vars(parser.parse_args())
    with plain_terminal():
        from hub_models.space import push  # here, so that a wrong argument is told at once

        print(push(private=not arguments.pop("public"), **arguments))
