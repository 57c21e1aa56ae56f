"""The command `cxm` as a module: `accelerate launch -m hub_models.cli predict ...`."""

from hub_models.cli import main

main()
