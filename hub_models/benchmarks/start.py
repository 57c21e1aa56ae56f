"""Ratio that tells whether the reader starts fast: its import against that of torch and transformers alone."""

import statistics
import subprocess
import sys
from functools import partial

from hub_models.benchmarks.rounds import speed_ratio, timed_rounds

READER_IMPORT = "import hub_models.predict.reader"
LIBRARY_IMPORTS = (
    "import torch; from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, "
    "AutoModelForSemanticSegmentation, PreTrainedModel, SegformerImageProcessorPil, ViTImageProcessorPil"
)


def start_ratios() -> dict[str, float]:
    """Return medians over 5 pairs of fresh processes, their own start included.

    `start_time`: the seconds of `READER_IMPORT` over those of `LIBRARY_IMPORTS`, what it uses of both libraries.
    `start_more_seconds`: the first less the second.
    """
    codes = {"reader": READER_IMPORT, "libraries": LIBRARY_IMPORTS}
    works = {name: partial(subprocess.run, [sys.executable, "-c", code], check=True) for name, code in codes.items()}
    reader, libraries = timed_rounds(works, 5).values()
    more = statistics.median(ours - theirs for ours, theirs in zip(reader, libraries, strict=True))
    return {"start_time": speed_ratio(libraries, reader), "start_more_seconds": more}
