"""Ratios that tell whether reading many X-rays is fast: ours, its stages alone, and transformers' pipeline."""

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from hub_models.benchmarks.dataset import measure_alone
from hub_models.benchmarks.native_phantoms import native_phantoms
from hub_models.benchmarks.rounds import ROUNDS, Seconds, Works, fastest, speed_ratio, speeds, timed_rounds
from hub_models.dataset.phantoms import write_phantoms
from hub_models.models.answers import FORWARD_SIZE, FORWARD_SIZES
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.index import IndexRow, OpenSource
from hub_models.predict.job import read_all
from hub_models.predict.reader import ChestXrayReader
from hub_models.predict.stream import StreamOutput, cores, read_stream

FEW_XRAYS = 100  # to compare many with
SMALL_SIDE = 128  # pixels of a small X-ray's longer side, about
DIFFERENT = 20  # small X-rays; the others are links


def prediction_ratios(
    segmenter: str | Path, classifier: str | Path, xrays: int = 16, images: int = 10_000
) -> dict[str, float]:
    """Return ratios of speeds, medians over `ROUNDS` rounds of the same files, and the speeds in images per second.

    Each work takes `xrays` phantoms of native size, in one process:

    * predict: `cxm predict` with both models, masks and rows written;
    * decode: the same files to gray, on all cores, and nothing else; decode_alone, on one core; decode_pillow, on one
      core by Pillow;
    * compute: both models on batches that are there already, all cores, and nothing else;
    * predict_lungs: as predict, with the lung model alone;
    * pipeline: `pipeline("image-segmentation")` of transformers with the same lung model and files, with no worker or
      one for each core, the faster of the two (`pipeline_workers`). It writes nothing. It takes the longest, so it
      runs in the last round only.

    `predict_over_slower` is over the slower of decode and compute; `predict_over_both` over the two one after the
    other, the best that is possible where one processor does both.

    `time_per_image`, `cpu_time_per_image` (of all cores; a busy machine changes it less) and `memory` (its peak):
    `images` small X-rays over `FEW_XRAYS` of them, each in a process of its own, without the start.
    `bytes_per_image`: growth of that peak for each.

    Raises:
        FileNotFoundError, ValueError: as ChestXrayReader; or counts below 1, or `images` not above `FEW_XRAYS`.
    """
    if xrays < 1 or images <= FEW_XRAYS:
        raise ValueError(f"xrays must be at least 1 and images above {FEW_XRAYS}, got {xrays} and {images}")
    reader, lung_reader = ChestXrayReader(segmenter, classifier), ChestXrayReader(segmenter)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = reading_ratios(reader, lung_reader, folder / "large", xrays)
        shutil.rmtree(folder / "large")
        return found | growth(folder, {"segmenter": str(segmenter), "classifier": str(classifier)}, images)


def reading_ratios(
    reader: ChestXrayReader, lung_reader: ChestXrayReader, folder: Path, xrays: int
) -> dict[str, float]:
    """Return what `prediction_ratios` does of large phantoms, which it writes to a new folder."""
    paths = sorted(native_phantoms(folder / "native", xrays).rglob("CXR_png/*.png"))
    works = works_on(reader, lung_reader, paths, folder)
    return summarize(timed_rounds(works, ROUNDS, [one for one in works if one.isdigit()]), xrays)


def works_on(reader: ChestXrayReader, lung_reader: ChestXrayReader, paths: list[Path], folder: Path) -> Works:
    """Return what is measured, by name; pipelines by their number of workers."""
    models = [one for one in (reader.segmenter, reader.classifier) if isinstance(one, TrainedModel)]
    lungs, rounds = models[0].model, count()
    device, names = next(lungs.parameters()).device, list(map(str, paths))
    size = FORWARD_SIZES.get(device.type, FORWARD_SIZE)

    def read(reader: ChestXrayReader) -> None:
        output = StreamOutput(reader, folder / str(next(rounds)))
        deque(read_stream(output, items_of(paths), device), maxlen=0)

    def decode(threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            deque(pool.map(lambda path: reader.decode(path) and None, paths), maxlen=0)  # frees each X-ray at once

    def decode_pillow() -> None:
        for path in paths:
            with Image.open(path) as image:
                image.convert("L")

    image_processor = AutoImageProcessor.from_pretrained(lungs.name_or_path, backend="pil")
    segment = pipeline("image-segmentation", model=lungs, image_processor=image_processor, device=device)
    inputs = [torch.rand(size, 3, one.settings.image_size, one.settings.image_size, device=device) for one in models]
    return {
        "predict": partial(read, reader),
        "decode": partial(decode, cores()),
        "decode_alone": partial(decode, 1),
        "decode_pillow": decode_pillow,
        "compute": _compute([one.model for one in models], inputs, len(paths)),
        "predict_lungs": partial(read, lung_reader),
        **{str(workers): partial(segment, names, batch_size=size, num_workers=workers) for workers in (0, cores())},
    }


def items_of(paths: list[Path]) -> Iterator[tuple[IndexRow, OpenSource]]:
    """Yield what `read_stream` takes for each file."""
    for number, path in enumerate(paths):
        row = IndexRow(number=number, source=path.name, output=path.stem, place=b"", row=None, size=None)
        yield row, partial(Path, path)


def _compute(models: list[torch.nn.Module], inputs: list[torch.Tensor], images: int) -> Callable[[], None]:
    """Return forward passes of all models over `images`, in batches (B, 3, S, S) of `inputs`, a core each on a CPU."""
    size, device = len(inputs[0]), inputs[0].device
    batches = [min(size, images - start) for start in range(0, images, size)]

    @torch.inference_mode()
    def forward(count: int) -> None:
        for model, batch in zip(models, inputs, strict=True):
            model(pixel_values=batch[:count]).logits.cpu()

    def compute() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(cores() if device.type == "cpu" else 1) as pool:
                list(pool.map(forward, batches))
        finally:
            torch.set_num_threads(before)

    return compute


def summarize(seconds: Seconds, images: int) -> dict[str, float]:
    """Return ratios and speeds from each round's seconds for so many images; see `prediction_ratios`."""
    workers = fastest(seconds)
    named = {name: taken for name, taken in seconds.items() if not name.isdigit()} | {"pipeline": seconds[workers]}
    predict, decode, compute = (named[name] for name in ("predict", "decode", "compute"))
    return {
        "predict_over_decode": speed_ratio(predict, decode),
        "predict_over_compute": speed_ratio(predict, compute),
        "predict_over_slower": speed_ratio(predict, list(map(max, decode, compute))),
        "predict_over_both": speed_ratio(predict, [sum(both) for both in zip(decode, compute, strict=True)]),
        "decode_over_pillow": speed_ratio(named["decode_alone"], named["decode_pillow"]),
        "predict_lungs_over_pipeline": speed_ratio(named["predict_lungs"], named["pipeline"]),
        **speeds(named, images),
        "pipeline_workers": int(workers),
    }


def growth(folder: Path, models: dict[str, str], images: int) -> dict[str, float]:
    """Return ratios of time for each of `images` small X-rays and of peak memory, over those of `FEW_XRAYS`."""
    write_phantoms(folder / "small", 0, DIFFERENT, image_size=SMALL_SIDE)
    originals = sorted((folder / "small").rglob("CXR_png/*.png"))
    costs = []
    for number in (1, FEW_XRAYS, images):
        home = folder / f"small-{number}"
        home.mkdir()
        for place in range(number):
            (home / f"{place:06d}.png").symlink_to(originals[place % DIFFERENT])
        costs.append(measure_alone(partial(_read, models), home))
    start, few, many = costs
    more = (images - 1) / (FEW_XRAYS - 1)  # without the first, which pays for the start
    seconds, cpu_seconds = many.seconds - start.seconds, many.cpu_seconds - start.cpu_seconds
    return {
        "time_per_image": seconds / (few.seconds - start.seconds) / more,
        "cpu_time_per_image": cpu_seconds / (few.cpu_seconds - start.cpu_seconds) / more,
        "memory": many.peak_bytes / few.peak_bytes,
        "bytes_per_image": (many.peak_bytes - few.peak_bytes) / (images - FEW_XRAYS),
        "small_images_per_second": (images - 1) / seconds,
    }


def _read(models: dict[str, str], images: str, cache: str) -> None:
    read_all(images, f"{cache}/out", models["segmenter"], models["classifier"])
