"""Train a run from its config to its folder."""

import dataclasses
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DataLoaderConfiguration, LoggerType, parse_flag_from_env, set_seed
from transformers import PreTrainedModel

from hub_models.console import counted
from hub_models.dataset.folds import FOLDS
from hub_models.evaluation.evaluate import Evaluated, pool, shown, write_report
from hub_models.evaluation.measure import measure, measure_features, validate
from hub_models.evaluation.pictures import PICTURES
from hub_models.files import check_output, held, is_hidden, write_bytes, write_json
from hub_models.hub.model_card import model_card
from hub_models.models.architectures import build
from hub_models.models.image_processors import image_processor_for
from hub_models.models.out_of_distribution import LEAST, OutOfDistribution
from hub_models.models.settings import Settings
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel, save_model
from hub_models.runs.config import TrainConfig, resolved
from hub_models.runs.data import (
    Split,
    describe,
    learned_pixels,
    load_run_rows,
    prepare_splits,
    request_of,
    resolve,
)
from hub_models.runs.earlier_models import check_earlier
from hub_models.runs.launch import device_name, lacks_bf16, make_accelerator
from hub_models.runs.leaks import LEARNED, check_pixels, seen_in
from hub_models.runs.notes import CARD_NAME, finished
from hub_models.runs.run_folder import DATA_NAME, PER_IMAGE_NAME, RESULTS_NAME, RunData, RunFolder
from hub_models.training.adaptation import check_adaptation
from hub_models.training.checkpoints import said_what_stands
from hub_models.training.folder import FOLD_FOLDERS, check_data, check_folder, has_begun, write_files
from hub_models.training.loop import TRACKING, Run, learn
from hub_models.training.optimization import divide_logits

logger = logging.getLogger(__name__)

TRACKING_EXTRA = "pip install 'chest-xray-masks[tracking]'"


def train(config: TrainConfig) -> dict[str, Any]:
    """Train the run of a config into the run folder `config.output_dir` and return its results.

    The folder holds the weights (safetensors), the image processor, `train_config.json`, `data.json` (the X-rays of
    each split), per-image metrics, pictures, `results.json`, the card made of them (`README.md`) and, of a lung model,
    `out_of_distribution.safetensors`. The same call resumes a run without `results.json` from its newest checkpoint,
    with the same final weights as a run never stopped. A finished run only gets the last two files, where they are
    missing. Protocol folds without a fold trains each in a folder `fold-K` and pools the rows of their test splits; a
    `model` or `segmenter` of all folds gives each fold its own.

    Raises:
        ValueError: the folder holds a run of another config, launch or other X-rays, or another launch writes to it;
            a split is unfit, an earlier model has seen test patients, or a loss is not finite.
        FileExistsError: the folder holds something else.
        FileNotFoundError: nothing of the set under `config.data_dir`.
        DiskFullError: a disk is full; the text names its folder, and the checkpoint that stands.
        KeyboardInterrupt: somebody stopped the run; a checkpoint was kept.
    """
    config = resolve(config)
    request_of(config).check()  # before a model is asked for
    if config.protocol == "folds" and config.fold is None:
        return _train_folds(config)
    return _train_run(config)[0]


def _train_folds(config: TrainConfig) -> dict[str, Any]:
    folder = Path(config.output_dir)
    own = {*FOLD_FOLDERS, RESULTS_NAME, PER_IMAGE_NAME, *PICTURES[config.task]}
    check_output(folder, "run of all folds", lambda name: is_hidden(name) or name.split("/")[0] in own)
    accelerator, folds = training_accelerator(config), []
    for fold, name in enumerate(FOLD_FOLDERS):
        sources = {"model": config.model, "segmenter": config.segmenter}
        of_fold: dict[str, Any]
        of_fold = {key: str(Path(one) / name) for key, one in sources.items() if one and (Path(one) / name).is_dir()}
        folds.append(dataclasses.replace(config, fold=fold, output_dir=str(folder / name), **of_fold))
    for one in folds:  # each is refused before the first is trained
        check_folder(one, Path(one.output_dir), accelerator)
        check_earlier(one, load_run_rows(one, accelerator)["test"])
    members = []
    for fold, one in enumerate(folds):
        logger.info("fold %d of %d", fold + 1, FOLDS)
        members.append(_train_run(one)[1])
    with said_what_stands(folder), held(folder, accelerator.is_main_process):
        return write_report(folder, pool(members), accelerator, {})


def _train_run(config: TrainConfig) -> tuple[dict[str, Any], Evaluated]:
    folder, accelerator = Path(config.output_dir), training_accelerator(config)
    check_folder(config, folder, accelerator)
    with said_what_stands(folder), held(folder, accelerator.is_main_process):
        set_seed(config.seed)
        finished = (folder / RESULTS_NAME).exists()
        model = None if finished else _built(config)  # refused before X-rays are decoded
        rows = load_run_rows(config, accelerator)
        data = describe(config, rows)  # which refuses a model that has seen test patients
        check_data(config, folder, data)
        splits = prepare_splits(config, rows, accelerator)
        data["pixels"] = learned_pixels(config, splits)
        check_pixels(config.data_dir, seen_in(data, LEARNED).pixels, splits["test"])
        run = make_run(config, accelerator, splits)
        training = None if model is None else fit(run, model, folder, data, _write_model)
        if run.task.learns_masks and OutOfDistribution.load(folder) is None:
            _fit_out_of_distribution(run, folder)
        return _finished(run, folder) if training is None else _tested(run, folder, training)


def _built(config: TrainConfig) -> PreTrainedModel:
    """Return the model of a resolved config as it is before training; raise an error where it does not fit."""
    task, name = TASKS[config.task], resolved(config.model, "model")
    size = resolved(config.image_size, "image_size")
    check_adaptation(config)
    model = build(task.kind, name, config.from_scratch, task.labels, size, config.dropout)
    Settings(config.task, size, config.fit, config.region).store(model)
    return model


def fit(
    run: Run,
    model: PreTrainedModel,
    folder: Path,
    data: RunData,
    write: Callable[[Run, PreTrainedModel, Path], None],
) -> dict[str, Any]:
    """Train or resume the model of a run, `write` it into `folder`, and return the `training` of results.json."""
    config, accelerator = run.config, run.accelerator
    _announce(run)
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        # a step of vit-light takes 0.7 of the time: torch's fused attention has no bf16 instructions for gradients
        model.set_attn_implementation("eager")
    if accelerator.is_main_process:
        if not has_begun(folder):  # what is left of a run that failed is not of this one
            shutil.rmtree(folder / TRACKING, ignore_errors=True)
        config.save(folder, device=device_name(accelerator))
        write_json(data, folder / DATA_NAME)
    kept, progress = learn(run, model)
    write(run, kept, folder)
    kept_epoch = progress.best_epoch if config.keep == "best" else progress.epoch
    device, seconds = device_name(accelerator), round(progress.seconds, 3)
    if accelerator.is_main_process:
        config.save(folder, device=device, duration_seconds=seconds)
    done = {"kept_epoch": kept_epoch, "epochs": progress.history}
    if accelerator.device.type == "cuda":
        done["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return done | {"device": device, "duration_seconds": seconds}


def _announce(run: Run) -> None:
    """Log what is about to be trained: on which device and X-rays, with which settings."""
    config, accelerator = run.config, run.accelerator
    if accelerator.device.type == "cpu" and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        logger.info("no GPU found: training on the CPU")
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16" and lacks_bf16():
        logger.warning(
            "warning: this CPU has no bf16 instructions, and bf16 is several times slower on it: leave bf16 out"
        )
    launch = f"{counted(accelerator.num_processes, 'process')}, precision {accelerator.mixed_precision}"
    splits = ", ".join(f"{len(split.rows)} {name}" for name, split in run.splits.items())
    logger.info("training on %s (%s); X-rays: %s", device_name(accelerator), launch, splits)
    count = len(run.splits["train"].rows)
    logger.info(
        "%s%s, %d px, %s, batch size %d, %s of %s, learning rate %g",
        config.model, " from random weights" if config.from_scratch else "", config.image_size, config.purpose,
        config.batch_size, counted(config.epochs, "epoch"), counted(max(1, count // config.batch_size), "step"),
        config.learning_rate,
    )  # fmt: skip
    if config.batch_size > count:
        images = counted(count, "X-ray")
        logger.info("batch_size %d is more than the %s to train on: each step sees all", config.batch_size, images)


def make_run(config: TrainConfig, accelerator: Accelerator, splits: dict[str, Split]) -> Run:
    """Return what stays the same in a run of a resolved config on `splits`, of which "train" is one."""
    task, train_split = TASKS[config.task], splits["train"]
    size = train_split.arrays.image_size
    image_processor = image_processor_for(task.kind, resolved(config.model, "model"), config.from_scratch, size)
    weights = None
    if not task.learns_masks:
        counts = np.bincount(train_split.rows["label"], minlength=len(task.labels))
        balanced = counts.sum() / (len(counts) * counts) if config.balance == "weights" else np.ones(len(counts))
        weights = torch.tensor(balanced, dtype=torch.float32, device=accelerator.device)
    return Run(config, task, image_processor, accelerator, splits, weights)


def training_accelerator(config: TrainConfig, **options: Any) -> Accelerator:
    """Return the Accelerator of a run, with its tracker.

    Raises:
        ImportError: the tracker that the config names is not installed.
        ValueError: Accelerate knows no such tracker.
    """
    installed = [str(one.value) for one in get_available_trackers()]
    tracker = None if config.tracker == "none" else config.tracker
    if tracker == "auto":
        tracker = "tensorboard" if "tensorboard" in installed else None
        if tracker is None:
            logger.info("TensorBoard is not installed, nothing is tracked: %s", TRACKING_EXTRA)
    elif tracker in {str(one.value) for one in LoggerType} - {"all", *installed}:
        way = "" if tracker == "tensorboard" else f"pip install {tracker.replace('_', '-')}, or for TensorBoard "
        raise ImportError(f"tracker {tracker} is not installed: {way}{TRACKING_EXTRA}")
    return make_accelerator(
        dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
        gradient_accumulation_steps=config.accumulation,
        log_with=tracker,
        project_dir=config.output_dir,
        step_scheduler_with_optimizer=False,  # one value per update, however many processes
        **options,
    )


def _write_model(run: Run, model: PreTrainedModel, folder: Path) -> None:
    """Write the weights, with their decision, and the image processor, each file whole or absent."""
    accelerator = run.accelerator
    columns = validate(model, run.image_processor, run.task, run.splits["validation"].arrays, accelerator)
    settings = TASKS[run.config.task].decide(Settings.of(model), columns)
    if settings.temperature != 1:
        divide_logits(model, settings.temperature)
    settings.store(model)
    write_files(folder, [partial(save_model, model), run.image_processor.save_pretrained], accelerator)


def _fit_out_of_distribution(run: Run, folder: Path) -> None:
    """Write the distribution of the features of the training X-rays, where there are enough of them."""
    accelerator, arrays = run.accelerator, run.splits["train"].arrays
    model = TrainedModel.from_run(folder).model.to(accelerator.device)
    fitted = OutOfDistribution.of(measure_features(model, run.image_processor, arrays, accelerator))
    if fitted is None:
        logger.info(
            "%d training X-rays are too few to tell X-rays unlike them apart: %d are needed", len(arrays), LEAST
        )
    elif accelerator.is_main_process:
        fitted.save(folder)
    accelerator.wait_for_everyone()


def _finished(run: Run, folder: Path) -> tuple[dict[str, Any], Evaluated]:
    """Return the results of a run that was finished before, whose card is written where it is missing."""
    known, trained = RunFolder.read(folder), TrainedModel.from_run(folder)
    logger.info("%s is finished: to train it again, delete it or pass another output folder", folder)
    logger.info("test %s", shown(known.results))
    if run.accelerator.is_main_process:
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # of a launch that was killed at the very end
        if not (folder / CARD_NAME).exists():
            write_card(folder)
    return known.results, Evaluated(run.config, "test", known.per_image, run.splits["test"].rows, lambda id: trained)


def _tested(run: Run, folder: Path, training: dict[str, Any]) -> tuple[dict[str, Any], Evaluated]:
    """Test the trained model, write the report and the card, and return the results."""
    accelerator, split, trained = run.accelerator, run.splits["test"], TrainedModel.from_run(folder)
    evaluated = Evaluated(run.config, "test", measure(trained, split, accelerator), split.rows, lambda id: trained)
    counts = {name: len(one.rows) for name, one in run.splits.items()}
    results = write_report(folder, evaluated, accelerator, {"splits": counts, "training": training})
    if accelerator.is_main_process:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        write_card(folder)
    accelerator.wait_for_everyone()
    metric, epoch, best = run.task.main_metric, training["kept_epoch"], "best " if run.config.keep == "best" else ""
    value = training["epochs"][epoch - 1][f"validation_{metric}"]
    logger.info("wrote %s (epoch %d kept, %svalidation %s %.4f)", folder, epoch, best, metric, value)
    return results, evaluated


def write_card(folder: Path, name: str | None = None) -> None:
    """Write README.md, the card of a finished run under a name (default: its folder's); a push names a licence."""
    run = RunFolder.read(folder)
    card = finished(str(model_card(run, name or folder.resolve().name, None)), run.notes)
    write_bytes(card.encode(), folder / CARD_NAME)
