"""Draw the worst, median and best test images of a run with their true and predicted masks.

Run it after scripts/train.py:
    python scripts/draw_overlays.py --model runs/lungs --data_dir DATA --output overlays.png
"""

import argparse

from transformers.utils import logging as transformers_logging

from hub_models.figures import draw_run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="run folder that scripts/train.py made")
    parser.add_argument("--data_dir", required=True, help="folder or zip that the run was trained on")
    parser.add_argument("--output", required=True, help="PNG file to write")
    transformers_logging.set_verbosity_error()  # its advice on torchvision, which nothing here needs
    transformers_logging.disable_progress_bar()
    arguments = parser.parse_args()
    print(f"wrote {draw_run(arguments.model, arguments.data_dir, arguments.output)}")
