"""Ratios that tell what a frozen encoder and LoRA save: epochs of training against those of all weights."""

import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from hub_models.benchmarks.rounds import ROUNDS, speed_ratio, timed_rounds
from hub_models.benchmarks.training import caching_in, repeated, synchronized
from hub_models.dataset.phantoms import write_phantoms
from hub_models.models.architectures import build
from hub_models.models.image_processors import image_processor_for
from hub_models.models.tasks import TASKS
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import load_run_splits, resolve
from hub_models.training.adaptation import check_adaptation
from hub_models.training.checkpoints import Stop
from hub_models.training.frozen import Features, learned_from, write_features
from hub_models.training.loop import make_learner, train_epoch
from hub_models.training.train import make_run, training_accelerator

MODELS = {"lung_segmentation": "segformer-light", "tb_classification": "facebook/deit-tiny-patch16-224"}


def adaptation_ratios(
    data_dir: str | Path | None = None,
    task: Literal["lung_segmentation", "tb_classification"] = "lung_segmentation",
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int = 8,
    steps: int = 8,
    rank: int = 8,
) -> dict[str, float]:
    """Return how fast epochs of `freeze` and `lora` are, and how much they train, against all weights.

    * `freeze_over_full`, `lora_over_full`: ratios of speeds, medians over `ROUNDS` rounds of epochs of `steps` steps;
    * `freeze_percent`, `lora_percent`: of the weights that are trained;
    * `features_epochs`: how many epochs of all weights the features of the same X-rays take, once;
    * `features_mb_per_image`: MB of features on disk for an X-ray.

    `model` is an architecture of ARCHITECTURES or a folder with a config.json; its weights are random, as they do not
    change how long an epoch takes. Without `data_dir`, the X-rays are phantoms.

    Raises:
        ImportError: peft is not installed.
        ValueError: a model that cannot be adapted, or settings or X-rays that cannot be trained with.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    with tempfile.TemporaryDirectory() as name, caching_in(folder := Path(name)):
        full = resolve(
            TrainConfig(
                str(data_dir or folder / "phantoms"), str(folder / "run"), task, model=str(folder / "model"),
                image_size=image_size, batch_size=batch_size, epochs=ROUNDS + 1, augment="none", tracker="none",
            )
        )  # fmt: skip
        kind, labels, size = TASKS[task].kind, TASKS[task].labels, full.image_size or 0
        source = model or MODELS[task]
        build(kind, source, True, labels, size).save_pretrained(folder / "model")
        image_processor_for(kind, source, True, size).save_pretrained(folder / "model")
        ways = {"full": full, "freeze": replace(full, freeze="encoder"), "lora": replace(full, lora=rank)}
        for config in ways.values():
            check_adaptation(config)
        if data_dir is None:
            write_phantoms(Path(full.data_dir))
        return _measure(ways, steps)


def _measure(ways: dict[str, TrainConfig], steps: int) -> dict[str, float]:
    full = ways["full"]
    accelerator = training_accelerator(full)
    split = load_run_splits(full, accelerator, ("train",))["train"]
    split = repeated(split, steps * full.batch_size)
    works, percent, features, seconds = {}, {}, np.empty(0), 0.0
    for name, config in ways.items():
        set_seed(config.seed)
        run = make_run(config, accelerator, learned_from(config, {"train": split}))
        task, arrays = TASKS[config.task], run.splits["train"].arrays
        model = build(task.kind, str(config.model), False, task.labels, arrays.image_size)
        learner = make_learner(run, model)
        counts = [(one.numel(), one.requires_grad) for one in learner.model.parameters()]
        percent[name] = 100 * sum(count for count, is_trained in counts if is_trained) / sum(one for one, _ in counts)
        if isinstance(arrays, Features):
            started = time.perf_counter()
            write_features(run.splits, run.checkpoints, learner.model, run.image_processor, accelerator)
            seconds, features = time.perf_counter() - started, arrays.features
        works[name] = synchronized(partial(train_epoch, run, learner, tqdm(disable=True), Stop()))
    taken = timed_rounds(works, ROUNDS)
    return {
        "freeze_over_full": speed_ratio(taken["freeze"], taken["full"]),
        "lora_over_full": speed_ratio(taken["lora"], taken["full"]),
        "freeze_percent": percent["freeze"],
        "lora_percent": percent["lora"],
        "features_epochs": seconds / statistics.median(taken["full"]),
        "features_mb_per_image": features.nbytes / 1e6 / len(split.rows),
    }
