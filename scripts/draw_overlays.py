"""Draw the worst, median and best test images of a run with their true and predicted masks.

Run it after scripts/train.py:
    python scripts/draw_overlays.py --model runs/lungs --data_dir DATA --output overlays.png
"""

import argparse

from hub_models.console import plain_terminal
from hub_models.figures import draw_run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="run folder that scripts/train.py made")
    parser.add_argument("--data_dir", required=True, help="folder or zip that the run was trained on")
    parser.add_argument("--output", required=True, help="PNG file to write")
    arguments = parser.parse_args()
    with plain_terminal():
        print(f"wrote {draw_run(arguments.model, arguments.data_dir, arguments.output)}")
