"""Train a run from its config to its folder; the loop is in loop.py, what differs between tasks in models/tasks.py."""

import dataclasses
import json
import logging
import shutil
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DataLoaderConfiguration, DistributedType, LoggerType, parse_flag_from_env, set_seed
from transformers import PreTrainedModel

from hub_models.console import counted
from hub_models.dataset.folds import FOLDS
from hub_models.evaluation.evaluate import Evaluated, make_accelerator, pool, shown, write_report
from hub_models.evaluation.measure import measure, measure_features, validate
from hub_models.evaluation.pictures import PICTURES
from hub_models.files import check_output, held, is_hidden, write_bytes, write_json
from hub_models.hub.model_card import model_card
from hub_models.models.architectures import build, config_of, image_processor_for, quiet_weights
from hub_models.models.out_of_distribution import LEAST, OUT_OF_DISTRIBUTION_NAME, OutOfDistribution
from hub_models.models.tasks import TASKS, Settings, Task
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import CONFIG_NAME, TrainConfig
from hub_models.runs.data import Split, describe, load_run_splits, resolve
from hub_models.runs.notes import CARD_NAME, finished, refuse_edited
from hub_models.runs.run_folder import DATA_NAME, PER_IMAGE_NAME, RESULTS_NAME, RunFolder
from hub_models.training.checkpoints import CHECKPOINTS
from hub_models.training.loop import TRACKING, Run, learn
from hub_models.training.optimization import divide_logits

logger = logging.getLogger(__name__)

FOLDERS = tuple(f"fold-{fold}" for fold in range(FOLDS))
TRACKING_EXTRA = "pip install 'chest-xray-masks[tracking]'"
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def train(config: TrainConfig) -> dict[str, Any]:
    """Results of the run that `config` asks for, leaving a run folder in `config.output_dir`.

    The folder holds the weights (safetensors), the image processor, `train_config.json`, `data.json` (which X-rays are
    in which part), per-image figures, pictures, `results.json`, and the card made of them (`README.md`). A folder
    without `results.json` is not done, and the same call goes on from its newest checkpoint, with the same final
    weights as a run never stopped. A lung model's folder also tells X-rays like those of its training from others
    (`out_of_distribution.safetensors`). A finished run of the same config is not trained again; what it lacks of the
    last two files, it gets. Protocol folds without a fold trains all, each in a folder `fold-K`, and pools the rows of
    their test splits; a `model` or `segmenter` of all folds gives each its own.

    Raises:
        ValueError: the folder holds a run of another config, launch or other X-rays, or is another launch's at this
            time, a part of the data is unfit, an earlier model has seen test patients, or a loss is not finite.
        FileExistsError: the folder holds something else.
        FileNotFoundError: nothing of the set under `config.data_dir`.
        KeyboardInterrupt: somebody stopped the run; a checkpoint was kept.
    """
    config = resolve(config)
    if config.protocol == "folds" and config.fold is None:
        return _train_folds(config)
    return _run(config)[0]


def _train_folds(config: TrainConfig) -> dict[str, Any]:
    folder, members = Path(config.output_dir), []
    own = {*FOLDERS, RESULTS_NAME, PER_IMAGE_NAME, *PICTURES[config.task]}
    check_output(folder, "run of all folds", lambda name: is_hidden(name) or name.split("/")[0] in own)
    for fold in range(FOLDS):
        logger.info("fold %d of %d", fold + 1, FOLDS)
        places = {"output_dir": str(folder / f"fold-{fold}")}
        for name in ("model", "segmenter"):
            source = getattr(config, name)
            if source and (Path(source) / f"fold-{fold}").is_dir():
                places[name] = str(Path(source) / f"fold-{fold}")
        _, evaluated = _run(dataclasses.replace(config, fold=fold, **places))
        members.append(evaluated)
    accelerator = make_accelerator()
    with held(folder) if accelerator.is_main_process else nullcontext():
        return write_report(folder, pool(members), accelerator, {})


def _run(config: TrainConfig) -> tuple[dict[str, Any], Evaluated]:
    folder = Path(config.output_dir)
    accelerator = training_accelerator(config)
    _check(config, folder, accelerator)
    with held(folder) if accelerator.is_main_process else nullcontext():
        return _train_held(config, accelerator)


def _train_held(config: TrainConfig, accelerator: Accelerator) -> tuple[dict[str, Any], Evaluated]:
    folder, task = Path(config.output_dir), TASKS[config.task]
    set_seed(config.seed)
    if not (folder / RESULTS_NAME).exists():
        config_of(task.kind, config.model or task.model, config.from_scratch)  # refused before X-rays are decoded
    splits = load_run_splits(config, accelerator)
    data = describe(config, {part: share.rows for part, share in splits.items()})
    _check_data(config, folder, data)
    run = make_run(config, accelerator, splits)
    training = None if (folder / RESULTS_NAME).exists() else _train(run, folder, data)
    if task.learns_masks and not (folder / OUT_OF_DISTRIBUTION_NAME).exists():
        _fit_out_of_distribution(run, folder)
    results, evaluated = _result(run, folder, training)
    if training is not None:
        value = training["epochs"][training["kept_epoch"] - 1][f"validation_{task.main_metric}"]
        epoch, which = f"epoch {training['kept_epoch']}", "best " if config.keep == "best" else ""
        logger.info("wrote %s (%s kept, %svalidation %s %.4f)", folder, epoch, which, task.main_metric, value)
    return results, evaluated


def _train(run: Run, folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """Train the run's model, or resume that, and write it into `folder`; what results.json tells of the training."""
    config, task, accelerator = run.config, run.task, run.accelerator
    _announce(run)
    size = run.splits["train"].arrays.image_size
    model = build(task.kind, config.model or task.model, config.from_scratch, task.labels, size, config.dropout)
    Settings(config.task, size, config.fit, config.region).store(model)
    if accelerator.is_main_process:
        if not _has_begun(folder):  # what is left of a run that failed is not of this one
            shutil.rmtree(folder / TRACKING, ignore_errors=True)
        config.save(folder)
        write_json(data, folder / DATA_NAME)
    model, progress = learn(run, model)
    _finish(run, model, folder)
    kept_epoch = progress.best_epoch if config.keep == "best" else progress.epoch
    used = {"device": device_name(accelerator), "duration_seconds": round(progress.seconds, 1)}
    return {"kept_epoch": kept_epoch, "epochs": progress.history} | used


def device_name(accelerator: Accelerator) -> str:
    """Return what a process computes on: "cpu", or the kind of accelerator with its model's name."""
    device = accelerator.device
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _announce(run: Run) -> None:
    """Log what is about to be trained: on which device and X-rays, with which settings."""
    config, accelerator = run.config, run.accelerator
    if accelerator.device.type == "cpu" and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        logger.info("no GPU found: training on the CPU")
    launch = f"{counted(accelerator.num_processes, 'process')}, precision {accelerator.mixed_precision}"
    splits = ", ".join(f"{len(part.rows)} {name}" for name, part in run.splits.items())
    logger.info("training on %s (%s); X-rays: %s", device_name(accelerator), launch, splits)
    count = len(run.splits["train"].rows)
    logger.info(
        "%s%s, %d px, %s, batch size %d, %s of %s, learning rate %g",
        config.model, " from random weights" if config.from_scratch else "", run.splits["train"].arrays.image_size,
        config.task, config.batch_size, counted(config.epochs, "epoch"),
        counted(max(1, count // config.batch_size), "step"), config.learning_rate,
    )  # fmt: skip
    if config.batch_size > count:
        images = counted(count, "X-ray")
        logger.info("batch_size %d is more than the %s to train on: each step sees all", config.batch_size, images)


def make_run(config: TrainConfig, accelerator: Accelerator, splits: dict[str, Split]) -> Run:
    """What stays the same in a run of `config` on `parts`, of which "train" is one."""
    task = TASKS[config.task]
    size = config.image_size or task.image_size
    image_processor = image_processor_for(task.kind, config.model or task.model, config.from_scratch, size)
    return Run(
        config, task, image_processor, accelerator, splits, _class_weights(config, task, splits["train"], accelerator)
    )


def training_accelerator(config: TrainConfig, **options: Any) -> Accelerator:
    """Accelerator of a run, with its tracker.

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


def _check(config: TrainConfig, folder: Path, accelerator: Accelerator) -> None:
    """Raise an error unless `folder` is new, or holds a run of this config, and the batch can be shared."""
    if not (folder / CONFIG_NAME).exists():
        check_output(folder, "run", is_hidden)
    elif _has_begun(folder) and (differences := config.differences(resolve(TrainConfig.load(folder)))):
        way = f"; to train its model for longer, pass --model {folder} too" if "epochs" in differences[0] else ""
        changed = f"holds a run of another config ({'; '.join(differences)})"
        raise ValueError(f"output_dir {folder} {changed}: delete it, or pass another{way}")
    elif not (folder / RESULTS_NAME).exists():
        refuse_edited(folder)  # the card is written at the end
    if config.ema and accelerator.distributed_type in SHARDED:
        raise ValueError(f"ema {config.ema} needs whole weights on each process: leave it out with sharded ones")
    if config.batch_size % accelerator.num_processes:
        processes = accelerator.num_processes
        raise ValueError(f"batch_size must be a multiple of the {processes} processes, got {config.batch_size}")


def _has_begun(folder: Path) -> bool:
    """Whether a run in `folder` came to its first checkpoint; what it wrote before is worth nothing."""
    weights = [*folder.glob("model*.safetensors"), *(folder / CHECKPOINTS).glob("epoch-*")]
    return bool(weights) or (folder / RESULTS_NAME).exists()


def _check_data(config: TrainConfig, folder: Path, data: dict[str, Any]) -> None:
    """Raise ValueError where the run in `folder` began with other X-rays, or from another model."""
    path = folder / DATA_NAME
    known = json.loads(path.read_text()) if path.exists() and _has_begun(folder) else {}
    others = {name for name, value in known.items() if data.get(name) != value}
    if others:
        name = next((one for one in ("fingerprint", "model", "segmenter") if one in others), "fingerprint")
        place = config.data_dir if name == "fingerprint" else getattr(config, name)
        raise ValueError(f"{place} changed since the run in {folder} began: pass another output_dir")


def _class_weights(config: TrainConfig, task: Task, part: Split, accelerator: Accelerator) -> torch.Tensor | None:
    if task.learns_masks:
        return None
    counts = np.bincount(part.rows["label"], minlength=len(task.labels))
    even = config.balance != "weights"
    weights = np.ones(len(counts)) if even else counts.sum() / (len(counts) * counts)
    return torch.tensor(weights, dtype=torch.float32, device=accelerator.device)


def _finish(run: Run, model: PreTrainedModel, folder: Path) -> None:
    """Weights with their decision, and the processor, each file whole or absent; then the checkpoints go."""
    accelerator = run.accelerator
    columns = validate(model, run.image_processor, run.task, run.splits["validation"].arrays, accelerator)
    settings = run.task.decide(Settings.of(model), columns)
    if settings.temperature != 1:
        divide_logits(model, settings.temperature)
    settings.store(model)
    if accelerator.is_main_process:
        with TemporaryDirectory() as scratch:
            with quiet_weights():
                model.save_pretrained(scratch)
            run.image_processor.save_pretrained(scratch)
            for path in sorted(Path(scratch).iterdir()):  # as bytes: safetensors' own file would shut out colleagues
                write_bytes(path.read_bytes(), folder / path.name)
    accelerator.wait_for_everyone()


def _fit_out_of_distribution(run: Run, folder: Path) -> None:
    """Write what tells the X-rays of the training from others, where they are enough to tell."""
    accelerator, arrays = run.accelerator, run.splits["train"].arrays
    if len(arrays) < LEAST:
        logger.info("%d X-rays of training are too few to tell others from them: %d are needed", len(arrays), LEAST)
        return
    trained = TrainedModel.from_run(folder)
    features = measure_features(trained.model.to(accelerator.device), run.image_processor, arrays, accelerator)
    if accelerator.is_main_process:
        OutOfDistribution.of(features).save(folder)
    accelerator.wait_for_everyone()


def _result(run: Run, folder: Path, training: dict[str, Any] | None) -> tuple[dict[str, Any], Evaluated]:
    """Results of the finished run, tested now unless they were written before."""
    accelerator, part = run.accelerator, run.splits["test"]
    trained = TrainedModel.from_run(folder)
    evaluated = Evaluated(run.config, "test", [], part.rows, lambda id: trained)
    if (folder / RESULTS_NAME).exists():
        known = RunFolder.read(folder)
        results, evaluated.per_image = known.results, known.per_image
        logger.info("%s is finished: delete it, or pass another output_dir, to train anew", folder)
        logger.info("test %s", shown(results))
        if accelerator.is_main_process and not (folder / CARD_NAME).exists():
            write_card(folder)
        return results, evaluated
    evaluated.per_image = measure(trained, part, accelerator)
    counts = {name: len(one.rows) for name, one in run.splits.items()}
    results = write_report(folder, evaluated, accelerator, {"splits": counts, "training": training})
    if accelerator.is_main_process:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        write_card(folder)
    accelerator.wait_for_everyone()
    return results, evaluated


def write_card(folder: Path) -> None:
    """Write README.md, the card of a finished run under its folder's name, without a licence; a push names one."""
    run = RunFolder.read(folder)
    card = finished(str(model_card(run, folder.resolve().name, None)), run.notes)
    write_bytes(card.encode(), folder / CARD_NAME)
