"""Serve a page that reads X-rays: drop one, see its lungs, the probability of tuberculosis, flags and limits.

On this machine, with the bundled models, those of `make demo` (run folders) or of the Hub:
    python scripts/app.py
    python scripts/app.py --segmenter demo/runs-phantoms/lungs --classifier demo/runs-phantoms/tb
    python scripts/app.py --segmenter OWNER/chest-xray-lungs --classifier OWNER/chest-xray-tb
For others on the network, whose browsers then send X-rays to it without encryption:
    python scripts/app.py --segmenter runs/lungs --classifier runs/tb --host 0.0.0.0 --port 8080

One of the two models may be left out, unless the other needs it. Nothing that is uploaded is kept. Ctrl-C ends it.
"""

import sys

from hub_models.cli import main

if __name__ == "__main__":
    main(["app", *sys.argv[1:]])
