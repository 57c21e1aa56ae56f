r"""Build the set as Parquet with its card, as a folder that `load_dataset` reads, and push it to the Hub.

To a folder:
    python scripts/build_dataset.py --data DATA --output chest-xrays
To a private repository of yours (log in with `hf auth login` first); first without sending anything:
    python scripts/build_dataset.py --data DATA --repo_id USER/chest-xrays --dry_run
    python scripts/build_dataset.py --data DATA --repo_id USER/chest-xrays
To one that everybody sees; the terms of the X-rays may forbid it:
    python scripts/build_dataset.py --data DATA --repo_id USER/chest-xrays --public --i_accept_the_terms

DATA is the set as a folder or a zip. The same set makes the same files, and no second commit. After a stop, run the
same command again: what was uploaded is not sent again.
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
