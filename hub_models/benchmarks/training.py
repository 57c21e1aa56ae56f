"""Ratios that tell whether training keeps the device busy: our loop, bare compute and transformers' example loop."""

import copy
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import set_seed
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel, default_data_collator
from transformers.image_processing_utils import BaseImageProcessor

from chest_xray_masks import SITE_OF_PREFIX
from hub_models.dataset.batches import Arrays, training_loader
from hub_models.dataset.phantoms import write_phantoms
from hub_models.models.architectures import build, normalize
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import Split, load_rows, load_run_splits
from hub_models.training.checkpoints import Stop
from hub_models.training.loop import Run, make_learner, train_epoch
from hub_models.training.optimization import make_optimizer
from hub_models.training.train import make_run, training_accelerator

MODELS = {"lung_segmentation": "segformer-light", "tb_classification": "resnet-light"}  # those of `make demo`
ROUNDS = 3  # that count; the one before warms up
STEPS_PER_WORKER = 2  # so that an epoch is long beside the start of its workers
NATIVE = {"Montgomery": 4892, "Shenzhen": 3000}  # longest side of the originals in pixels
DRAWN = 1223  # longest side at which phantoms are drawn: a quarter of 4892, and 1005 of 4020
GRAIN = {"Montgomery": 0.4, "Shenzhen": 2.0}  # sd in gray levels: smooth pictures would be decoded faster than X-rays


def native_phantoms(root: Path, images: int = 24, longest: dict[str, int] | None = None, drawn: int = DRAWN) -> Path:
    """The data_dir, root, of phantoms as large as the originals and in their PNG modes, both sites in their shares.

    Montgomery comes as 8-bit gray of 4020x4892 or 4892x4020, Shenzhen as palette (one in 25 as RGB) with a longest
    side of 3000 pixels; masks are as large. They are drawn `drawn` pixels long, enlarged to `longest`, by site, and
    get a fine grain.

    Raises:
        ValueError: counts or sizes that no set can have.
        FileExistsError: root holds other things.
    """
    montgomery = round(images * 138 / 800)
    write_phantoms(root, montgomery, images - montgomery, image_size=drawn)
    (root / "phantoms.json").unlink()  # they are no longer what it says
    shutil.rmtree(root / "Lung Segmentation" / "test")  # copies
    files = sorted(root.rglob("*.png"))
    with ThreadPoolExecutor() as pool:
        enlarged = pool.map(partial(_enlarge, longest or NATIVE), files)
        list(tqdm(enlarged, desc="Phantoms at native size", total=len(files), disable=None))
    return root


def _enlarge(longest: dict[str, int], path: Path) -> None:
    with Image.open(path) as image:
        site, mode = SITE_OF_PREFIX[path.name.split("_")[0]], image.mode
        size = [round(side * longest[site] / max(image.size)) for side in image.size]
        if path.parent.name == "masks":
            return image.resize(size, Image.Resampling.NEAREST).save(path)
        gray = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC))  # (H, W)
    grain = np.random.default_rng(gray.shape).standard_normal(gray.shape, np.float32) * np.float32(GRAIN[site])
    values = (gray + grain).round().clip(0, 255).astype(np.uint8)
    Image.fromarray(values).convert(mode).save(path)


def training_ratios(
    data_dir: str | Path | None = None,
    task: str = "lung_segmentation",
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int = 8,
    steps: int | None = None,
    precision: str = "no",
    images: int = 24,
) -> dict[str, float]:
    """Ratios of training speeds, medians over `ROUNDS` rounds of epochs of `steps` steps taken in turn, and speeds.

    Three loops train the same model from random weights, in batches of the same size, in one process:

    * compute: forward, loss, backward, clipping and update on one normalized batch that stays on the device;
    * loop: an epoch as `fit` trains it, from X-rays that `data.prepare` scaled once;
    * example: an epoch as transformers' example scripts train it: every sample of every epoch decoded from its file by
      PIL and given to the image processor, in a DataLoader with no worker or with one for each core, the faster of the
      two (`example_workers`). It has no augmentation, no clipping and the model's own loss, so no more work than ours.

    `prepare_epochs`: how many epochs of pure compute over the same X-rays the one-time scaling took. The Arrow set,
    which every loop reads, is built before. All are kept in a temporary folder, so that nothing is cached.

    Args:
        data_dir: a set, or None for `images` `native_phantoms`.
        task: key of TASKS.
        model: an architecture by name or a folder with a config.json (by default the one of `make demo`).
        image_size: side in pixels of the model's input (by default the task's).
        batch_size: images in a step.
        steps: of an epoch (by default 2 for each core, 4 or more).
        precision: "no" or "bf16".
        images: phantoms to make.

    Raises:
        ValueError: steps below 1, or settings or X-rays that cannot be trained with.
        FileNotFoundError: nothing of the set under `data_dir`.

    Source of the example: run_semantic_segmentation_no_trainer.py and run_image_classification_no_trainer.py in
    github.com/huggingface/transformers, examples/pytorch.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    chosen = {"model": model or MODELS.get(task), "image_size": image_size, "batch_size": batch_size}
    with tempfile.TemporaryDirectory() as name, _caching_in(folder := Path(name)):
        source = str(data_dir or folder / "phantoms")
        rest = {"from_scratch": True, "epochs": ROUNDS + 1, "tracker": "none"}
        config = TrainConfig(source, str(folder / "run"), task, **chosen, **rest)
        if data_dir is None:
            native_phantoms(Path(source), images)
        return _measure(config, steps or STEPS_PER_WORKER * max(2, os.cpu_count() or 1), precision)


@contextmanager
def _caching_in(folder: Path) -> Iterator[None]:
    """Let `datasets` keep all it makes under `folder`."""
    former, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, folder / "cache"
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = former


def _measure(config: TrainConfig, steps: int, precision: str) -> dict[str, float]:
    set_seed(config.seed)
    accelerator = training_accelerator(config, mixed_precision=precision)
    load_rows(config, ("train",))
    started = time.perf_counter()
    part = load_run_splits(config, accelerator, ("train",))["train"]
    prepared = (time.perf_counter() - started) / len(part.rows)
    run = make_run(config, accelerator, {"train": repeated(part, steps * config.batch_size)})
    size = run.splits["train"].arrays.image_size
    model = build(run.task.kind, config.model, True, run.task.labels, size)
    works = {"compute": _compute(run, copy.deepcopy(model), steps), "loop": _loop(run, copy.deepcopy(model))}
    works |= _examples(run, model)
    seconds = {name: [] for name in works}
    for _ in tqdm(range(ROUNDS + 1), desc="Rounds", disable=None):
        for name, work in works.items():
            seconds[name].append(_seconds(work))
    return summarize({name: taken[1:] for name, taken in seconds.items()}, steps * config.batch_size, prepared)


def repeated(part: Split, count: int) -> Split:
    """`count` X-rays of a part, evenly spread over it and each as often as the others, or one time more."""
    indices = [place * len(part.rows) // count for place in range(count)]
    arrays = part.arrays
    prepared = arrays.prepared.select(indices).flatten_indices()  # as it comes from data.prepare, without a detour
    return Split(part.rows.select(indices), Arrays(prepared, arrays.image_size, arrays.ranges, arrays.seed))


def summarize(seconds: dict[str, list[float]], images: int, prepare_seconds: float) -> dict[str, float]:
    """Ratios, medians over rounds, from the seconds of each round's epochs of so many images.

    `seconds` has the keys compute, loop and, for each example loop, its number of workers; `prepare_seconds` is one
    image's.
    """
    workers = min((name for name in seconds if name.isdigit()), key=lambda name: statistics.median(seconds[name]))
    compute, loop, example = seconds["compute"], seconds["loop"], seconds[workers]

    def faster(ours: list[float], theirs: list[float]) -> float:
        """How many times as fast ours is, the median over rounds."""
        return statistics.median(there / here for here, there in zip(ours, theirs, strict=True))

    ratios = {
        "loop_over_compute": faster(loop, compute),
        "example_over_compute": faster(example, compute),
        "loop_over_example": faster(loop, example),
        "prepare_epochs": prepare_seconds * images / statistics.median(compute),
    }
    speeds = {"compute": compute, "loop": loop, "example": example}
    per_second = {f"{name}_images_per_second": images / statistics.median(one) for name, one in speeds.items()}
    return ratios | per_second | {"example_workers": int(workers)}


def _seconds(work: Callable[[], Any]) -> float:
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    """Until the device has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def _compute(run: Run, model: PreTrainedModel, steps: int) -> Callable[[], None]:
    """An epoch on one batch, in plain torch."""
    config, device = run.config, run.accelerator.device
    model = model.to(device).train()
    optimizer = make_optimizer(config, model)
    first = next(iter(training_loader(run.splits["train"].arrays, config.batch_size, config.seed)))
    batch = {name: value.to(device) for name, value in first.items()}
    batch["weight"] = torch.ones(len(batch["label"]), device=device)
    inputs = normalize(batch["pixels"].float() / 255, run.image_processor)  # (B, 3, S, S)
    half = run.accelerator.mixed_precision == "bf16"

    def epoch() -> None:
        """Steps on the one batch."""
        for _ in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                logits = model(pixel_values=inputs).logits
            run.task.loss(logits, batch, 0.0).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_norm)
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def _loop(run: Run, model: PreTrainedModel) -> Callable[[], Any]:
    return partial(train_epoch, run, make_learner(run, model), tqdm(disable=True), Stop())


def _examples(run: Run, model: PreTrainedModel) -> dict[str, Callable[[], None]]:
    """Epochs of the example scripts by their number of workers."""
    accelerator, part = run.accelerator, run.splits["train"]
    target = "mask" if run.task.learns_masks else "label"
    samples = part.rows.select_columns(["image", target]).with_transform(partial(example_samples, run.image_processor))
    model, optimizer = accelerator.prepare(model.train(), torch.optim.AdamW(model.parameters(), lr=5e-5))

    def epoch(loader: torch.utils.data.DataLoader) -> None:
        """One pass over a loader."""
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()

    options = {"batch_size": run.config.batch_size, "shuffle": True, "collate_fn": default_data_collator}
    loaders = {
        str(workers): accelerator.prepare(torch.utils.data.DataLoader(samples, num_workers=workers, **options))
        for workers in (0, os.cpu_count() or 1)
    }
    return {workers: partial(epoch, loader) for workers, loader in loaders.items()}


def example_samples(image_processor: BaseImageProcessor, rows: dict[str, list[Any]]) -> dict[str, Any]:
    """`pixel_values` (B, 3, S, S) and `labels` of decoded rows with image and mask, or image and label.

    Labels are (B, S, S) int64 of 0 and 1 for masks, else the rows' own.
    """
    images = [image.convert("RGB") for image in rows["image"]]
    if "mask" not in rows:
        return {**image_processor(images=images, return_tensors="pt"), "labels": rows["label"]}
    inputs = image_processor(images=images, segmentation_maps=rows["mask"], return_tensors="pt")
    return {**inputs, "labels": inputs["labels"].clamp(max=1)}  # 255 is lung
