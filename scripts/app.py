"""Serve a page that reads X-rays: drop one, see its lungs, the probability of tuberculosis, flags and limits.

On this machine, with the models of `make demo` (run folders) or of the Hub:
    python scripts/app.py --segmenter demo/runs-phantoms/lungs --classifier demo/runs-phantoms/tb
    python scripts/app.py --segmenter OWNER/chest-xray-lungs --classifier OWNER/chest-xray-tb
For others on the network, whose browsers then send X-rays to it without encryption:
    python scripts/app.py --segmenter runs/lungs --classifier runs/tb --host 0.0.0.0 --port 8080

One of the two models may be left out, unless the other needs it. Nothing that is uploaded is kept. Ctrl-C ends it.
"""

import argparse

from hub_models.console import plain_terminal

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segmenter", help="lung model: a run folder or a Hub id")
    parser.add_argument("--classifier", help="TB model: a run folder or a Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of those that come from the Hub (default: main)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    arguments = vars(parser.parse_args())
    with plain_terminal():
        from hub_models.app import serve  # here, so that a missing gradio is one sentence too

        serve(**arguments)
