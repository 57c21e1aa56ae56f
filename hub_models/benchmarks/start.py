"""Ratio that tells whether the reader starts fast: its import against that of torch and transformers alone."""

import statistics
import subprocess
import sys
import time

REPEATS = 5
READER = "import hub_models.predict.reader"
LIBRARIES = (
    "import torch; from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, "
    "AutoModelForSemanticSegmentation, PreTrainedModel, SegformerImageProcessorPil, ViTImageProcessorPil"
)


def start_ratios() -> dict[str, float]:
    """Return medians over `REPEATS` pairs of fresh processes, taken in turn.

    `start_time`: the seconds of `READER` over those of `LIBRARIES`, what it uses of torch and transformers.
    `start_more_seconds`: the first less the second.
    """
    pairs = [(_seconds(READER), _seconds(LIBRARIES)) for _ in range(REPEATS)]
    return {
        "start_time": statistics.median(ours / theirs for ours, theirs in pairs),
        "start_more_seconds": statistics.median(ours - theirs for ours, theirs in pairs),
    }


def _seconds(code: str) -> float:
    """Return how long a fresh Python takes for `code`, its own start included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started
