"""Ratio that decides on the default backend of a CPU: reading X-rays with onnxruntime against torch."""

import tempfile
from collections import deque
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from hub_models.benchmarks.native_phantoms import native_phantoms
from hub_models.benchmarks.prediction import items_of
from hub_models.benchmarks.rounds import ROUNDS, speed_ratio, speeds, timed_rounds
from hub_models.predict.export import export_model
from hub_models.predict.reader import ChestXrayReader
from hub_models.predict.stream import StreamOutput, read_stream

MODEL_INPUTS = 16  # squares of noise that the models alone are timed on, one at a time


def backend_ratios(segmenter: str | Path, classifier: str | Path, xrays: int = 16) -> dict[str, float]:
    """Return ratios of speeds of two backends, medians over `ROUNDS` rounds of the same files, and both speeds.

    * onnx_over_torch: `cxm predict` on `xrays` phantoms of native size with both models, masks written, all cores.
    * onnx_models_over_torch: the forward passes of both models alone, one square at a time, with all cores.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `export_model`; or `xrays` below 1.
    """
    if xrays < 1:
        raise ValueError(f"xrays must be at least 1, got {xrays}")
    with tempfile.TemporaryDirectory() as name:
        folder, rounds = Path(name), count()
        lungs, tb = (export_model(run, folder / kind) for run, kind in ((segmenter, "lungs"), (classifier, "tb")))
        readers = {
            "torch": ChestXrayReader(segmenter, classifier, backend="torch"),
            "onnx": ChestXrayReader(lungs, tb),
        }
        paths = sorted(native_phantoms(folder / "native", xrays).rglob("CXR_png/*.png"))

        def read(reader: ChestXrayReader) -> None:
            output = StreamOutput(reader, folder / str(next(rounds)))
            deque(read_stream(output, items_of(paths)), maxlen=0)

        def compute(reader: ChestXrayReader) -> None:
            for model in (reader.segmenter, reader.classifier):
                if model is not None:
                    side = model.settings.image_size
                    for seed in range(MODEL_INPUTS):
                        model.forward([np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)])

        works = {backend: partial(read, reader) for backend, reader in readers.items()}
        works |= {f"{backend}_models": partial(compute, reader) for backend, reader in readers.items()}
        seconds = timed_rounds(works, ROUNDS)
        return {
            "onnx_over_torch": speed_ratio(seconds["onnx"], seconds["torch"]),
            "onnx_models_over_torch": speed_ratio(seconds["onnx_models"], seconds["torch_models"]),
            **speeds({backend: seconds[backend] for backend in readers}, xrays),
        }
