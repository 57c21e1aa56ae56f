"""The one Accelerate loop, of every task: `learn()` trains the model of a run and returns the weights to keep."""

import dataclasses
import hashlib
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from hub_models.dataset.augmentation import STRENGTHS, augment
from hub_models.dataset.batches import training_loader
from hub_models.evaluation.measure import validate
from hub_models.models.image_processors import normalize
from hub_models.models.tasks import Objective
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import Split
from hub_models.training.adaptation import adapt, plain_model
from hub_models.training.checkpoints import (
    CHECKPOINTS,
    Progress,
    Stop,
    checkpoints_in,
    load_checkpoint,
    load_kept,
    save_checkpoint,
    save_kept,
)
from hub_models.training.frozen import learned_from, write_features
from hub_models.training.optimization import make_optimizer, make_schedule, running_mean, synchronize_batch_norms

logger = logging.getLogger(__name__)

WATCH_STEPS = 10  # steps between checks of the losses, each of which waits for the device
TRACKING = "tracking"  # folder of TensorBoard in the run folder
PROJECT = "chest-xray-masks"  # of other trackers
LOG_SECONDS = 30  # between log lines within an epoch where there is no terminal
Watched = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # of a step: indices of its X-rays, loss, gradient norm


@dataclass
class Run:
    """What stays the same from the first epoch to the last."""

    config: TrainConfig
    task: Objective
    image_processor: BaseImageProcessor
    accelerator: Accelerator
    splits: dict[str, Split]
    class_weights: torch.Tensor | None  # (classes,), mean 1 over the training images

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, deleted once the run is finished."""
        return Path(self.config.output_dir) / CHECKPOINTS


@dataclass
class Learner:
    """What changes while training."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    loader: DataLoaderShard
    mean: AveragedModel | None
    progress: Progress = field(default_factory=Progress)
    clock: float = field(default_factory=time.perf_counter)  # when `tick` was last called
    logged: float = field(default_factory=time.perf_counter)  # when the last line was logged

    def tick(self) -> None:
        """Add the time since the last tick to that of the training."""
        now = time.perf_counter()
        self.progress.seconds, self.clock = self.progress.seconds + now - self.clock, now

    @property
    def kept_model(self) -> torch.nn.Module:
        """The model that is validated and kept: the running mean of the weights where there is one."""
        return self.model if self.mean is None else self.mean.module


def learn(run: Run, model: PreTrainedModel) -> tuple[PreTrainedModel, Progress]:
    """Return the model to keep after all epochs, resumed from the newest checkpoint."""
    config, accelerator = run.config, run.accelerator
    run = dataclasses.replace(run, splits=learned_from(config, run.splits))
    learner = make_learner(run, model)
    learner.progress = progress = load_checkpoint(run.checkpoints, accelerator)
    # by the encoder of the checkpoint, whatever has become of the model's source
    whole = accelerator.unwrap_model(learner.model)
    write_features(run.splits, run.checkpoints, whole, run.image_processor, accelerator)
    if resumed := bool(progress.epoch or progress.step):
        logger.info("resuming from epoch %d, step %d", progress.epoch + 1, progress.step)
    _start_trackers(run, resumed)
    with _bar(run, learner) as bar, logging_redirect_tqdm(), Stop().listening() as stop:
        while progress.epoch < config.epochs and not _is_stale(config.patience, progress):
            loss, images, seconds = train_epoch(run, learner, bar, stop)
            metric, name = _validate_epoch(run, learner), run.task.main_metric
            epoch = {"loss": loss, f"validation_{name}": metric}
            progress.history.append(epoch)
            save_checkpoint(run.checkpoints, progress, config.checkpoints, accelerator)
            accelerator.log(epoch, step=progress.epoch * len(learner.loader))
            logger.info(
                "epoch %d: loss %.4f, validation %s %.4f (best %.4f, epoch %d), %.1f images/s",
                progress.epoch, loss, name, metric, progress.best, progress.best_epoch, images / seconds,
            )  # fmt: skip
            learner.logged = time.perf_counter()
            if stop.agreed(accelerator) and progress.epoch < config.epochs:
                raise KeyboardInterrupt(f"stopped after epoch {progress.epoch}: the same command resumes from there")
    for tracker in accelerator.trackers:  # not end_training(), which would part the processes before the test
        tracker.finish()
    kept = plain_model(config, model, load_kept(run.checkpoints))  # whole, where the learner's weights may be sharded
    torch.nn.Module.to(kept, accelerator.device)  # in place; transformers wraps `to` without its types
    return kept, progress


def _start_trackers(run: Run, resumed: bool) -> None:
    """Start the trackers; one that keeps its logs elsewhere than in the run folder knows the run by its place."""
    config, accelerator, folder = run.config, run.accelerator, Path(run.config.output_dir).absolute()
    values = {name: str(value) for name, value in dataclasses.asdict(config).items()}
    name = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    trackio = {"name": name, "resume": "allow" if resumed else "never", "embed": False}
    trackio |= {"auto_log_cpu": False, "auto_log_gpu": False}  # which would log every ten seconds
    is_local = any(str(one) == "tensorboard" for one in accelerator.log_with)
    accelerator.init_trackers(TRACKING if is_local else PROJECT, values, {"trackio": trackio})


def make_learner(run: Run, model: PreTrainedModel) -> Learner:
    """Return the learner of a run at its start, everything on its device."""
    config, accelerator = run.config, run.accelerator
    if accelerator.num_processes > 1:
        synchronize_batch_norms(model)
    learned = adapt(config, model, run.splits["train"].arrays.image_size)
    optimizer = make_optimizer(config, model)
    loader = training_loader(
        run.splits["train"].arrays, config.batch_size, config.seed, balanced=config.balance == "sampling"
    )
    schedule = make_schedule(config, optimizer, len(loader))
    # copied before Accelerate ties the model's forward to its own weights
    mean = running_mean(learned, config.ema).to(accelerator.device) if config.ema else None
    learned, optimizer, loader, schedule = accelerator.prepare(learned, optimizer, loader, schedule)
    if mean is not None:
        accelerator.register_for_checkpointing(mean)
    return Learner(learned, optimizer, schedule, loader, mean)


def _bar(run: Run, learner: Learner) -> tqdm:
    """Return a progress bar over all steps, shown on the main process of a terminal."""
    steps = len(learner.loader)
    done = learner.progress.epoch * steps + learner.progress.step
    hidden = None if run.accelerator.is_main_process else True  # None: hidden where there is no terminal
    return tqdm(total=run.config.epochs * steps, initial=done, unit="step", disable=hidden, dynamic_ncols=True)


def _is_stale(patience: int, progress: Progress) -> bool:
    """Return whether validation has not become better for `patience` epochs."""
    if stale := 0 < patience <= progress.epoch - progress.best_epoch:
        logger.info("stopping early: validation was best in epoch %d", progress.best_epoch)
    return stale


def train_epoch(run: Run, learner: Learner, bar: tqdm, stop: Stop) -> tuple[float, int, float]:
    """Train an epoch, from the step at which a resumed one stood.

    Returns:
        The mean loss over all processes, the count of images trained on now, and the seconds that this took.
    """
    config, accelerator, progress = run.config, run.accelerator, learner.progress
    arrays, steps = run.splits["train"].arrays, len(learner.loader)
    arrays.epoch = progress.epoch
    learner.loader.set_epoch(progress.epoch)
    learner.model.train()
    learner.loader.skip_batches = progress.step
    watched: list[Watched] = []
    done, started = progress.step, time.perf_counter()
    for batch in learner.loader:
        watched.append((batch["index"], *_step(run, learner, batch)))
        progress.step += 1
        bar.update()
        if bar.disable:
            _log_step(run, learner)
        due = bool(config.checkpoint_steps) and progress.step % config.checkpoint_steps == 0
        alone = accelerator.num_processes == 1 and stop.requested
        if progress.step < steps and not due and not alone and progress.step % WATCH_STEPS:
            continue
        _check_steps(run, learner, watched, bar)
        watched.clear()
        stopping = stop.agreed(accelerator)
        if progress.step < steps and accelerator.sync_gradients and (due or stopping):
            save_checkpoint(run.checkpoints, progress, config.checkpoints, accelerator)
            if stopping:
                where = f"epoch {progress.epoch + 1}, step {progress.step}"
                raise KeyboardInterrupt(f"stopped after {where}: the same command resumes from there")
    learner.loader.skip_batches = 0
    images = (progress.step - done) * min(config.batch_size, len(arrays))
    loss = float(np.mean(progress.losses))
    progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, []
    return loss, images, time.perf_counter() - started


def _log_step(run: Run, learner: Learner) -> None:
    """Log how far the epoch is, if no line was logged for `LOG_SECONDS`."""
    progress, now = learner.progress, time.perf_counter()
    if now - learner.logged < LOG_SECONDS:
        return
    learner.logged = now
    loss = f", loss {progress.losses[-1]:.4f}" if progress.losses else ""
    where = progress.epoch + 1, run.config.epochs, progress.step, len(learner.loader)
    logger.info("epoch %d of %d, step %d of %d%s", *where, loss)


def _step(run: Run, learner: Learner, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Train on one batch and return its loss and gradient norm, scalars on the device, without waiting for it."""
    config, accelerator = run.config, run.accelerator
    inputs, references = _inputs(run, batch)
    norm = torch.zeros((), device=accelerator.device)
    with accelerator.accumulate(learner.model):
        with accelerator.autocast():
            logits = learner.model(**inputs).logits
        loss = run.task.loss(logits, references, config.label_smoothing)
        accelerator.backward(loss)
        if accelerator.sync_gradients:  # else the gradient is not yet that of the whole update
            clipped = accelerator.clip_grad_norm_(learner.model.parameters(), config.gradient_norm)
            clipped = clipped.full_tensor() if hasattr(clipped, "full_tensor") else clipped  # of sharded weights
            norm = torch.as_tensor(0.0 if clipped is None else clipped, device=norm.device)  # None: of DeepSpeed
        learner.optimizer.step()
        if accelerator.sync_gradients:
            learner.schedule.step()
            if learner.mean is not None:
                learner.mean.update_parameters(accelerator.unwrap_model(learner.model))
        learner.optimizer.zero_grad()
    return loss.detach(), norm.detach()


@torch.no_grad()
def _inputs(run: Run, batch: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what the model takes of a batch, and what its loss does."""
    weights = run.class_weights
    references = batch if weights is None else batch | {"weight": weights[batch["label"]]}
    if "features" in batch:  # of X-rays as they are
        return {"features": batch["features"]}, references
    images = batch["pixels"].float() / 255  # (B, S, S)
    masks = batch["mask"].bool() if run.task.learns_masks else None
    if "drawn" in batch:
        images, masks = augment(images, masks, batch["drawn"], STRENGTHS[run.config.augment])
    if "own" in batch:  # mixed with the next of the batch, on each process
        images = images.lerp(images.roll(-1, 0), (1 - batch["own"])[:, None, None])
    inputs = {name: batch[name] for name in batch if name == "noise"}  # that hides patches
    inputs["pixel_values"] = normalize(images, run.image_processor)
    return inputs, references if masks is None else references | {"mask": masks}


def _check_steps(run: Run, learner: Learner, watched: list[Watched], bar: tqdm) -> None:
    """Show and track the last loss; raise ValueError where a loss or gradient norm since then is not finite."""
    accelerator, progress = run.accelerator, learner.progress
    losses = accelerator.reduce(torch.stack([loss for _, loss, _ in watched]), "mean").tolist()
    norms = torch.stack([norm for *_, norm in watched]).tolist()
    scaled = accelerator.mixed_precision == "fp16"  # whose scaler skips steps of infinite gradients by itself
    for back, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if not math.isfinite(loss) or not (scaled or math.isfinite(norm)):
            ids = run.splits["train"].arrays.prepared[watched[back][0].tolist()]["id"]
            step = progress.step - len(watched) + back + 1
            way = "pass another" if checkpoints_in(run.checkpoints) else "use the same"
            raise ValueError(
                f"loss {loss}, gradient norm {norm} in epoch {progress.epoch + 1}, step {step}, of {', '.join(ids)}: "
                f"lower learning_rate, or look at these X-rays; {way} output folder"
            )
    progress.losses += losses
    learner.tick()
    bar.set_postfix(epoch=progress.epoch + 1, loss=f"{losses[-1]:.3f}", refresh=False)
    step = progress.epoch * len(learner.loader) + progress.step
    accelerator.log({"step_loss": losses[-1], "learning_rate": learner.schedule.get_last_lr()[-1]}, step=step)


def _validate_epoch(run: Run, learner: Learner) -> float:
    """Return the main metric on the validation images, and save the weights where they are the ones to keep."""
    progress, accelerator, model = learner.progress, run.accelerator, learner.kept_model
    with accelerator.autocast():
        columns = validate(model, run.image_processor, run.task, run.splits["validation"].arrays, accelerator)
    learner.tick()
    weights = np.ones((1, len(columns["label"])))
    metric = float(run.task.metrics(columns, weights)[run.task.main_metric][0])
    better = progress.best is None or metric > progress.best
    if better:
        progress.best, progress.best_epoch = metric, progress.epoch
    if better or run.config.keep == "last":
        state = accelerator.get_state_dict(model) if learner.mean is None else model.state_dict()
        save_kept(run.checkpoints, state, accelerator)
    return metric
