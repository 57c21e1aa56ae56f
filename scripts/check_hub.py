"""Check the Hub itself: a tiny model and a tiny set are made, pushed, pulled and deleted.

Logged in (`hf auth login`, or HF_TOKEN) with a token that may write and delete, by Xet and by plain LFS:
    python scripts/check_hub.py
    HF_HUB_DISABLE_XET=1 python scripts/check_hub.py
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["check-hub", *sys.argv[1:]])
