"""Ratios that tell whether the commands, the reader and the page start fast, against torch and transformers alone."""

import socket
import statistics
import subprocess
import sys
import time
from functools import partial
from urllib.error import URLError
from urllib.request import urlopen

from hub_models.benchmarks.rounds import speed_ratio, timed_rounds
from hub_models.hub_client.bundled import BUNDLED

PAIRS = 5
READER_IMPORT = "import hub_models.predict.reader"
LIBRARY_IMPORTS = (
    "import torch; from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, "
    "AutoModelForSemanticSegmentation, PreTrainedModel, SegformerImageProcessorPil, ViTImageProcessorPil"
)
LUNGS, TB = BUNDLED.values()
WEIGHTS_IMPORT = (
    f"{LIBRARY_IMPORTS}; AutoModelForSemanticSegmentation.from_pretrained({str(LUNGS)!r}); "
    f"AutoModelForImageClassification.from_pretrained({str(TB)!r})"
)
READY = "from hub_models.predict import ChestXrayReader; ChestXrayReader()"


def start_ratios() -> dict[str, float]:
    """Return medians over `PAIRS` pairs of fresh processes, their own start included.

    `start_time`: the seconds of `READER_IMPORT` over those of `LIBRARY_IMPORTS`, what it uses of both libraries.
    `start_more_seconds`: the first less the second.
    `help_time`: `cxm --help` over the import of torch.
    `ready_time`: the reader with the bundled models over `WEIGHTS_IMPORT`: imports, and weights by transformers alone.
    `page_time`: `cxm app` up to the page's first answer, over the same.
    """
    codes = {"reader": READER_IMPORT, "libraries": LIBRARY_IMPORTS, "torch": "import torch"}
    codes |= {"weights": WEIGHTS_IMPORT, "ready": READY}
    works = {name: partial(run, "-c", code) for name, code in codes.items()}
    taken = timed_rounds(works | {"help": partial(run, "-m", "hub_models.cli", "--help"), "page": first_answer}, PAIRS)
    reader, libraries = taken["reader"], taken["libraries"]
    return {
        "start_time": speed_ratio(libraries, reader),
        "start_more_seconds": statistics.median(ours - theirs for ours, theirs in zip(reader, libraries, strict=True)),
        "help_time": speed_ratio(taken["torch"], taken["help"]),
        "ready_time": speed_ratio(taken["weights"], taken["ready"]),
        "page_time": speed_ratio(taken["weights"], taken["page"]),
    }


def run(*options: str) -> None:
    """Run Python with options to its end."""
    subprocess.run([sys.executable, *options], check=True, capture_output=True)


def first_answer() -> None:
    """Serve the page, wait for its first answer, and end it.

    Raises:
        RuntimeError: the page ended before.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "hub_models.cli", "app", "--port", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as page:
        try:
            while page.poll() is None:
                try:
                    return urlopen(f"http://127.0.0.1:{port}/").close()
                except URLError:
                    time.sleep(0.05)
        finally:
            page.terminate()
    raise RuntimeError("the page ended before it answered: cxm app says why")
