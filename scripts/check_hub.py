"""Check the Hub itself: a tiny model and a tiny set, made on the spot, go there, come back and are deleted.

Logged in (`hf auth login`, or HF_TOKEN) with a token that may write and delete, by Xet and by plain LFS:
    python scripts/check_hub.py
    HF_HUB_DISABLE_XET=1 python scripts/check_hub.py
"""

import argparse

from hub_models.console import plain_terminal
from hub_models.rehearsal import rehearse

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--owner", help="user or organization under whom to make the repositories (default: you)")
    with plain_terminal():
        rehearse(parser.parse_args().owner)
        print("all is well")
