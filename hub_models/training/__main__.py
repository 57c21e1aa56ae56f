"""Train a model in every process of a launch: `accelerate launch -m hub_models.training --data DATA --output RUN`."""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
