"""The command `cxm` as `python -m hub_models`."""

from hub_models.cli import main

main()
