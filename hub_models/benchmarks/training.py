"""Ratios that tell whether training keeps the device busy: our loop, bare compute and transformers' example loop."""

import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from accelerate.utils import set_seed
from tqdm.auto import tqdm
from transformers import PreTrainedModel, default_data_collator
from transformers.image_processing_utils import BaseImageProcessor

from hub_models.benchmarks.native_phantoms import native_phantoms
from hub_models.benchmarks.rounds import ROUNDS, Seconds, Works, fastest, speed_ratio, speeds, timed_rounds
from hub_models.dataset.batches import Arrays, training_loader
from hub_models.dataset.schema import with_files
from hub_models.dataset.sources import processes_for
from hub_models.imaging.gray import to_gray
from hub_models.imaging.masks import to_mask
from hub_models.models.architectures import build
from hub_models.models.image_processors import normalize
from hub_models.models.tasks import TASKS
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import Split, load_rows, load_run_splits, resolve
from hub_models.training.checkpoints import Stop
from hub_models.training.loop import Run, make_learner, train_epoch
from hub_models.training.optimization import make_optimizer
from hub_models.training.train import make_run, training_accelerator

DEMO_MODELS = {"lung_segmentation": "segformer-light", "tb_classification": "resnet-light"}
STEPS_PER_WORKER = 2  # so that an epoch is long beside the start of its workers


def training_ratios(
    data_dir: str | Path | None = None,
    task: Literal["lung_segmentation", "tb_classification"] = "lung_segmentation",
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int = 8,
    steps: int | None = None,
    precision: str = "no",
    images: int = 24,
) -> dict[str, float]:
    """Return ratios of training speeds, medians over `ROUNDS` rounds of epochs, and the speeds in images per second.

    Three loops train the same model from random weights, with the same batch size, in one process:

    * compute: forward, loss, backward, clipping and update on one normalized batch that stays on the device;
    * loop: an epoch of `train`, from X-rays that were scaled once;
    * example: an epoch of transformers' run_semantic_segmentation_no_trainer.py or
      run_image_classification_no_trainer.py: PIL decodes each sample in each epoch, with no worker or one for each
      core, the faster of the two (`example_workers`). It does no more work than ours: no augmentation, no clipping.

    `prepare_epochs`: how many epochs of compute over the same X-rays the scaling took. `prepare_over_decode`: its
    speed over that of decoding the same X-rays and masks in as many processes, and nothing else. All loops read one
    Arrow set, which is built before, in a temporary folder.

    Without `data_dir`, the set is `images` phantoms of native size. `model` is by default that of `make demo`,
    `image_size` the task's, and `steps`, of an epoch, 2 for each core but at least 4. `precision` is "no" or "bf16".

    Raises:
        ValueError: steps below 1, or settings or X-rays that cannot be trained with.
        FileNotFoundError: nothing of the set under `data_dir`.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    with tempfile.TemporaryDirectory() as name, caching_in(folder := Path(name)):
        config = resolve(
            TrainConfig(
                str(data_dir or folder / "phantoms"),
                str(folder / "run"),
                task,
                model=model or DEMO_MODELS.get(task),
                from_scratch=True,
                image_size=image_size,
                batch_size=batch_size,
                epochs=ROUNDS + 1,
                tracker="none",
            )
        )
        if data_dir is None:
            native_phantoms(Path(config.data_dir), images)
        return _measure(config, steps or STEPS_PER_WORKER * max(2, os.cpu_count() or 1), precision)


@contextmanager
def caching_in(folder: Path) -> Iterator[None]:
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
    split = load_run_splits(config, accelerator, ("train",))["train"]
    prepared = time.perf_counter()
    with_files(split.rows).map(
        _decode, remove_columns=split.rows.column_names, num_proc=processes_for(split.rows), load_from_cache_file=False
    )
    decoded = time.perf_counter()
    each = [seconds / len(split.rows) for seconds in (prepared - started, decoded - prepared)]
    images = steps * config.batch_size
    run = make_run(config, accelerator, {"train": repeated(split, images)})
    size = run.splits["train"].arrays.image_size
    task = TASKS[config.task]
    model = build(task.kind, str(config.model), True, task.labels, size)
    learner = make_learner(run, copy.deepcopy(model))
    works: Works = {
        "compute": _compute(run, copy.deepcopy(model), steps),
        "loop": partial(train_epoch, run, learner, tqdm(disable=True), Stop()),
        **_examples(run, model),
    }
    return summarize(timed_rounds({name: synchronized(work) for name, work in works.items()}, ROUNDS), images, *each)


def _decode(row: dict[str, Any]) -> dict[str, int]:
    to_gray(row["image"]["bytes"])
    if row["mask"] is not None:
        to_mask(row["mask"]["bytes"])
    return {"decoded": 1}


def repeated(split: Split, count: int) -> Split:
    """Return `count` X-rays of a split, evenly spread over it and each as often as the others, or one time more."""
    indices = [place * len(split.rows) // count for place in range(count)]
    arrays = split.arrays
    prepared = arrays.prepared.select(indices).flatten_indices()  # as it comes from data.prepare, without a detour
    return Split(split.rows.select(indices), Arrays(prepared, arrays.image_size, arrays.ranges, arrays.seed))


def summarize(seconds: Seconds, images: int, prepare_seconds: float, decode_seconds: float) -> dict[str, float]:
    """Return what `training_ratios` does, from the seconds of each round's epochs of so many images.

    `seconds` has the keys compute, loop and, for each example loop, its number of workers; `prepare_seconds`
    and `decode_seconds` are one image's.
    """
    workers = fastest(seconds)
    compute, loop, example = seconds["compute"], seconds["loop"], seconds[workers]
    return {
        "loop_over_compute": speed_ratio(loop, compute),
        "example_over_compute": speed_ratio(example, compute),
        "loop_over_example": speed_ratio(loop, example),
        "prepare_epochs": prepare_seconds * images / statistics.median(compute),
        "prepare_over_decode": decode_seconds / prepare_seconds,
        **speeds({"compute": compute, "loop": loop, "example": example}, images),
        "example_workers": int(workers),
    }


def synchronized(work: Callable[[], object]) -> Callable[[], None]:
    """Return a work that ends when the device has done all of it."""

    def run() -> None:
        work()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    return run


def _compute(run: Run, model: PreTrainedModel, steps: int) -> Callable[[], None]:
    """Return an epoch on one batch, in plain torch."""
    config, device = run.config, run.accelerator.device
    model = model.to(device).train()
    optimizer = make_optimizer(config, model)
    first = next(iter(training_loader(run.splits["train"].arrays, config.batch_size, config.seed)))
    batch = {name: value.to(device) for name, value in first.items()}
    batch["weight"] = torch.ones(len(batch["label"]), device=device)
    inputs = normalize(batch["pixels"].float() / 255, run.image_processor)  # (B, 3, S, S)
    half = run.accelerator.mixed_precision == "bf16"

    def epoch() -> None:
        for _ in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                logits = model(pixel_values=inputs).logits
            run.task.loss(logits, batch, 0.0).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_norm)
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def _examples(run: Run, model: PreTrainedModel) -> Works:
    """Return epochs of the example scripts by their number of workers."""
    accelerator, split = run.accelerator, run.splits["train"]
    columns = ["image", "mask" if run.task.learns_masks else "label"]
    samples = split.rows.select_columns(columns).with_transform(partial(example_samples, run.image_processor))
    model, optimizer = accelerator.prepare(model.train(), torch.optim.AdamW(model.parameters(), lr=5e-5))

    def loader(workers: int) -> torch.utils.data.DataLoader:
        size, collate = run.config.batch_size, default_data_collator
        return accelerator.prepare(
            torch.utils.data.DataLoader(samples, size, shuffle=True, num_workers=workers, collate_fn=collate)
        )

    def epoch(batches: torch.utils.data.DataLoader) -> None:
        for batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()

    return {str(workers): partial(epoch, loader(workers)) for workers in (0, os.cpu_count() or 1)}


def example_samples(image_processor: BaseImageProcessor, rows: dict[str, list[Any]]) -> dict[str, Any]:
    """Return `pixel_values` (B, 3, S, S) and `labels` of decoded rows with image and mask, or image and label.

    Labels are (B, S, S) int64 of 0 and 1 for masks, else the rows' own.
    """
    images = [image.convert("RGB") for image in rows["image"]]
    if "mask" not in rows:
        return {**image_processor(images=images, return_tensors="pt"), "labels": rows["label"]}
    inputs = image_processor.preprocess(images, segmentation_maps=rows["mask"], return_tensors="pt")
    return {**inputs, "labels": inputs["labels"].clamp(max=1)}  # 255 is lung
