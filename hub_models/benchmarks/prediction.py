"""Ratios that tell whether reading many X-rays is fast: ours, its parts alone, and transformers' pipeline."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, pipeline

from hub_models.benchmarks.dataset import measure_alone
from hub_models.benchmarks.training import native_phantoms
from hub_models.dataset.phantoms import write_phantoms
from hub_models.predict.job import read_all
from hub_models.predict.reader import ChestXrayReader
from hub_models.predict.stream import BATCH_SIZE, BATCH_SIZES, Desk, cores, read_stream

ROUNDS = 3  # that count; the one before warms up
FEW = 100  # X-rays to compare many with
SMALL = 128  # pixels of their longer side, about
DIFFERENT = 20  # of them; the others are links
Works = dict[str, Callable[[], Any]]


def prediction_ratios(
    segmenter: str | Path, classifier: str | Path, xrays: int = 16, images: int = 10_000
) -> dict[str, float]:
    """Ratios of speeds of reading X-rays, medians over `ROUNDS` rounds of the same files taken in turn, and speeds.

    Read are `films` `native_phantoms`, in one process, masks and rows written:

    * predict: as scripts/predict.py reads them, with both models;
    * decode: the same files to gray, on all cores, and nothing else;
    * compute: both models on batches that are there already, all cores, and nothing else;
    * predict_lungs: with the lung model alone;
    * pipeline: `pipeline("image-segmentation")` of transformers with the same lung model, given the same files, with
      no worker or with one for each core, the faster of the two (`pipeline_workers`). It writes nothing, and is
      measured in the last round only, as it takes the longest.

    `predict_over_slower` is over the slower of decode and compute; `predict_over_both` over the two done one behind
    the other, which is all that can be had where one processor does both.

    `time_per_image`, `cpu_time_per_image` (of all cores, which a busy machine changes less) and `memory`: reading
    `images` small X-rays, over FEW of them, each in a process of its own: the time of each, without the start, and the
    peak of memory. `bytes_per_image`: how much that peak grew for each.

    Raises:
        FileNotFoundError, ValueError: as ChestXrayReader; or counts below 1, or `images` not above FEW.
    """
    if xrays < 1 or images <= FEW:
        raise ValueError(f"xrays must be at least 1 and images above {FEW}, got {xrays} and {images}")
    reader = ChestXrayReader(segmenter, classifier)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = sorted(native_phantoms(folder / "native", xrays).rglob("CXR_png/*.png"))
        found = summarize(_rounds(works_on(reader, paths, folder)), xrays)
        shutil.rmtree(folder / "native")
        return found | growth(folder, {"segmenter": str(segmenter), "classifier": str(classifier)}, images)


def works_on(reader: ChestXrayReader, paths: list[Path], folder: Path) -> Works:
    """What is measured, by name; pipelines by their number of workers."""
    device = next(reader.segmenter.model.parameters()).device
    size, rounds = BATCH_SIZES.get(device.type, BATCH_SIZE), count()
    lungs = ChestXrayReader(reader.segmenter.model.name_or_path)

    def read(reader: ChestXrayReader) -> None:
        """All, to a folder of its own."""
        for _ in read_stream(Desk(reader, folder / str(next(rounds))), _items(paths), device):
            pass

    def decode() -> None:
        """All, kept no longer than it takes."""
        with ThreadPoolExecutor(cores()) as pool:
            for _ in pool.map(lambda path: reader.decode(path) and None, paths):
                pass

    works = {"predict": partial(read, reader), "decode": decode, "compute": _compute(reader, len(paths), size, device)}
    works["predict_lungs"] = partial(read, lungs)
    image_processor = AutoImageProcessor.from_pretrained(lungs.segmenter.model.name_or_path, backend="pil")
    segment = pipeline(
        "image-segmentation", model=lungs.segmenter.model, image_processor=image_processor, device=device
    )
    names = list(map(str, paths))
    for workers in (0, cores()):
        works[str(workers)] = partial(segment, names, batch_size=size, num_workers=workers)
    return works


def _items(paths: list[Path]) -> Iterator[tuple[dict[str, Any], Callable[[], Path]]]:
    for number, path in enumerate(paths):
        yield {"number": number, "source": path.name, "output": path.stem}, partial(Path, path)


def _compute(reader: ChestXrayReader, images: int, size: int, device: torch.device) -> Callable[[], None]:
    """Both models on as many images as there are files, from batches that are on the device, a core each on a CPU."""
    models = [one.model for one in (reader.segmenter, reader.classifier)]
    sides = [one.settings.image_size for one in (reader.segmenter, reader.classifier)]
    inputs = [torch.rand(size, 3, side, side, device=device) for side in sides]
    batches = [min(size, images - start) for start in range(0, images, size)]

    @torch.inference_mode()
    def forward(count: int) -> None:
        """A batch of `count` through both."""
        for model, batch in zip(models, inputs, strict=True):
            model(pixel_values=batch[:count]).logits.cpu()

    def compute() -> None:
        """All batches, torch in the thread that calls it."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(cores() if device.type == "cpu" else 1) as pool:
                list(pool.map(forward, batches))
        finally:
            torch.set_num_threads(before)

    return compute


def _rounds(works: Works) -> dict[str, list[float]]:
    """Seconds of each work in each round that counts, of pipelines in the last."""
    seconds = {name: [] for name in works}
    for number in tqdm(range(ROUNDS + 1), desc="Rounds", disable=None):
        for name, work in works.items():
            if number < ROUNDS and name.isdigit():
                continue
            started = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def summarize(seconds: dict[str, list[float]], images: int) -> dict[str, float]:
    """Ratios, medians over rounds, from each round's seconds for so many images; see `prediction_ratios`."""
    workers = min((name for name in seconds if name.isdigit()), key=seconds.get)
    named = {name: np.array(taken) for name, taken in seconds.items() if not name.isdigit()}
    named["pipeline"] = np.array(seconds[workers])  # (1,)
    predict, decode, compute = (named[name] for name in ("predict", "decode", "compute"))
    ratios = {
        "predict_over_decode": decode / predict,
        "predict_over_compute": compute / predict,
        "predict_over_slower": np.maximum(decode, compute) / predict,
        "predict_over_both": (decode + compute) / predict,
        "predict_lungs_over_pipeline": named["pipeline"] / named["predict_lungs"],
    }
    per_second = {f"{name}_images_per_second": images / taken for name, taken in named.items()}
    medians = {name: float(np.median(values)) for name, values in (ratios | per_second).items()}
    return medians | {"pipeline_workers": int(workers)}


def growth(folder: Path, models: dict[str, str], images: int) -> dict[str, float]:
    """Ratios of time for each of `images` small X-rays and of peak memory, over those of FEW."""
    write_phantoms(folder / "small", 0, DIFFERENT, image_size=SMALL)
    originals = sorted((folder / "small").rglob("CXR_png/*.png"))
    taken = {}
    for number in (1, FEW, images):
        home = folder / f"small-{number}"
        home.mkdir()
        for place in range(number):
            (home / f"{place:06d}.png").symlink_to(originals[place % DIFFERENT])
        taken[number] = measure_alone(partial(_read, models), home)
    start, few, many = (taken[number] for number in (1, FEW, images))

    def for_each(name: str) -> tuple[float, float]:
        """Of the few and of the many, without the start."""
        begun = getattr(start, name)
        return (getattr(few, name) - begun) / (FEW - 1), (getattr(many, name) - begun) / (images - 1)

    seconds, cpu_seconds = for_each("seconds"), for_each("cpu_seconds")
    return {
        "time_per_image": seconds[1] / seconds[0],
        "cpu_time_per_image": cpu_seconds[1] / cpu_seconds[0],
        "memory": many.peak_bytes / few.peak_bytes,
        "bytes_per_image": (many.peak_bytes - few.peak_bytes) / (images - FEW),
        "small_images_per_second": 1 / seconds[1],
    }


def _read(models: dict[str, str], images: str, cache: str) -> None:
    read_all(images, f"{cache}/out", **models)
