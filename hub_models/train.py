"""`fit()`: the one Accelerate loop. What differs between the tasks stands in tasks.py."""

import json
import logging
import math
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup
from transformers.image_processing_utils import BaseImageProcessor

from chest_xray_masks import SITES, scan
from hub_models.augment import augment, draw
from hub_models.config import CONFIG_NAME, TrainConfig
from hub_models.data import Arrays, load_splits, prepare, training_loader
from hub_models.evaluation import evaluate, normalize, summarize_sites
from hub_models.files import write_json
from hub_models.tasks import TASKS, Task

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
DATA_NAME = "data.json"
RESULTS_NAME = "results.json"
LIBRARIES = ("torch", "transformers", "datasets", "accelerate")


@dataclass
class Run:
    """What stays the same from the first epoch to the last."""

    config: TrainConfig
    task: Task
    processor: BaseImageProcessor
    accelerator: Accelerator
    rows: dict[str, datasets.Dataset]  # part to usable rows, without images
    arrays: dict[str, Arrays]  # part to the same rows at the training size

    def figures(self, model: PreTrainedModel, part: str) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
        """Figures of each X-ray of a part, and the main one summarized per site."""
        rows = self.rows[part]
        per_image = evaluate(model, self.processor, self.task, rows, self.arrays[part], self.accelerator)
        sites = rows.features["site"].names
        per_image = [row | {"site": sites[row["site"]]} for row in per_image]
        return per_image, summarize_sites(per_image, self.task.main_figure)


def fit(config: TrainConfig) -> dict[str, Any]:
    """Results of the run that `config` asks for, leaving a run folder in `config.output_dir`.

    The folder holds the weights (safetensors), the image processor, `train_config.json`, `data.json` (which X-rays are
    in which part) and `results.json`, which is written last: a folder without it is not done, and the same call goes
    on from its newest whole epoch, with the same final weights as a run never stopped. A finished run of the same
    config is not trained again.

    Raises:
        ValueError: the folder holds something else or a run of another config or other X-rays, a part of the data is
            empty, or a loss is not finite.
        FileNotFoundError: nothing of the set under `config.data_dir`.
    """
    folder, task = Path(config.output_dir), TASKS[config.task]
    # a launcher of several processes takes them to have GPUs unless told
    cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, dataloader_config=DataLoaderConfiguration(split_batches=True))
    logger.disabled = not accelerator.is_main_process
    _check_folder(config, folder)
    if config.batch_size % accelerator.num_processes:
        processes = accelerator.num_processes
        raise ValueError(f"batch_size must be a multiple of the {processes} processes, got {config.batch_size}")
    set_seed(config.seed)
    rows, arrays = _load(config, task, accelerator)
    data = _describe_data(config, folder, rows)
    if (folder / RESULTS_NAME).exists():
        logger.info("%s is finished: delete it, or pass another output_dir, to train anew", folder)
        results = json.loads((folder / RESULTS_NAME).read_text())
        logger.info("test %s", _shown(results[task.main_figure], task))
        return results
    source = config.model or task.model
    model = task.build(source, config.from_scratch, task.labels)
    run = Run(config, task, task.processor(source, config.image_size), accelerator, rows, arrays)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        config.save(folder)
        write_json(data, folder / DATA_NAME)
    model = _train(run, model)
    per_image, summary = run.figures(model, "test")
    logger.info("test %s", _shown(summary, task))
    results = _results(run, per_image, summary)
    if accelerator.is_main_process:
        _save(folder, accelerator.unwrap_model(model), run.processor, results)
    accelerator.wait_for_everyone()
    return results


def _results(run: Run, per_image: list[dict[str, Any]], summary: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `results.json` holds: the test images' figures, and how they came about."""
    accelerator = run.accelerator
    return {
        "task": run.config.task,
        "split": "test",
        "images": {part: len(share) for part, share in run.rows.items()},
        run.task.main_figure: summary,
        "per_image": per_image,
        "launch": {"processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision},
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _shown(summary: dict[str, dict[str, Any]], task: Task) -> str:
    sites = (f"{site} {figure['mean']:.4f} (n {figure['n']})" for site, figure in summary.items())
    return f"{task.main_figure}: {', '.join(sites)}"


def _check_folder(config: TrainConfig, folder: Path) -> None:
    """Raise ValueError unless `folder` is new or empty, or holds a run of this config."""
    if not (folder / CONFIG_NAME).exists():
        if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise ValueError(f"output_dir {folder} holds files but no run: pass a new or an empty folder")
    elif differences := config.differences(TrainConfig.load(folder)):
        changed = "; ".join(differences)
        raise ValueError(f"output_dir {folder} holds a run of another config ({changed}): delete it, or pass another")


def _describe_data(config: TrainConfig, folder: Path, rows: dict[str, datasets.Dataset]) -> dict[str, Any]:
    """Fingerprint of the X-rays and the ids in each part; ValueError where the run in `folder` began with others."""
    fingerprint = scan(config.data_dir).fingerprint(SITES.get(config.config_name))
    data = {"fingerprint": fingerprint} | {part: list(share["id"]) for part, share in rows.items()}
    path = folder / DATA_NAME
    if path.exists() and json.loads(path.read_text()) != data:
        raise ValueError(f"{config.data_dir} changed since the run in {folder} began: pass another output_dir")
    return data


def _load(
    config: TrainConfig, task: Task, accelerator: Accelerator
) -> tuple[dict[str, datasets.Dataset], dict[str, Arrays]]:
    """Usable rows of each part, and the same at the training size; made by one process, then read by all."""
    with accelerator.main_process_first():
        rows = {part: task.usable(share) for part, share in load_splits(config.data_dir, config.config_name).items()}
        for part, share in rows.items():
            if not len(share):
                raise ValueError(
                    f"no {part} X-ray in {config.data_dir} is fit for {config.task}: pass more of the set"
                )
        arrays = {part: Arrays(prepare(share, config.image_size), config.image_size) for part, share in rows.items()}
    return {part: share.remove_columns("image") for part, share in rows.items()}, arrays


def _optimizer(config: TrainConfig, model: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, but no norm and no bias."""
    weights = list(model.parameters())
    decayed = {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": config.weight_decay}
    others = {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0}
    return torch.optim.AdamW([decayed, others], config.learning_rate or (6e-4 if config.from_scratch else 2e-4))


def _train(run: Run, model: PreTrainedModel) -> torch.nn.Module:
    """The model after all epochs, those done before read from the newest checkpoint."""
    config, accelerator = run.config, run.accelerator
    optimizer = _optimizer(config, model)
    loader = training_loader(run.arrays["train"], config.batch_size, config.seed)
    updates = config.epochs * math.ceil(len(loader) / accelerator.gradient_accumulation_steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(config.warmup_share * updates), updates)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    checkpoints = Path(config.output_dir) / CHECKPOINTS
    first = _resume(checkpoints, accelerator)
    shown = {"total": config.epochs * len(loader), "initial": first * len(loader), "unit": "step"}
    shown |= {"disable": None if accelerator.is_main_process else True, "dynamic_ncols": True}  # None: no terminal
    with logging_redirect_tqdm(), tqdm(**shown) as progress:
        for epoch in range(first, config.epochs):
            loader.set_epoch(epoch)
            loss = _train_epoch(run, model, loader, optimizer, schedule, epoch, progress)
            _, summary = run.figures(model, "validation")
            _checkpoint(checkpoints, epoch + 1, accelerator)
            logger.info("epoch %d: loss %.4f, validation %s", epoch + 1, loss, _shown(summary, run.task))
    return model


def _train_epoch(
    run: Run,
    model: torch.nn.Module,
    loader: torch.utils.data.DataLoader,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    epoch: int,
    progress: tqdm,
) -> float:
    """Mean loss of an epoch over all processes."""
    config, accelerator = run.config, run.accelerator
    model.train()
    losses = []
    for batch in loader:
        images, masks = batch["pixels"].float() / 255, batch.get("mask")
        if config.augment:
            images, masks = augment(images, masks, draw(batch["seed"].tolist(), config.seed, epoch))
        inputs, references = normalize(images, run.processor), batch | {"mask": masks}
        with accelerator.accumulate(model):
            with accelerator.autocast():
                logits = model(pixel_values=inputs).logits
            loss = run.task.loss(logits, references)
            if not torch.isfinite(loss):
                raise ValueError(f"the loss is {loss.item()} in epoch {epoch + 1}: lower learning_rate")
            accelerator.backward(loss)
            if accelerator.sync_gradients:  # else the gradient is only a part of the step's
                accelerator.clip_grad_norm_(model.parameters(), config.gradient_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
        progress.set_postfix(epoch=epoch + 1, loss=f"{loss.item():.3f}", refresh=False)
        progress.update()
    return accelerator.gather(torch.stack(losses)).mean().item()


def _checkpoint(folder: Path, epochs: int, accelerator: Accelerator) -> None:
    """Keep the state after `epochs` epochs, whole or not at all, and drop the one before."""
    aside = folder / ".writing"
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        older = list(folder.glob("epoch-*"))
        aside.rename(folder / f"epoch-{epochs:05d}")
        for path in older:
            shutil.rmtree(path)


def _resume(folder: Path, accelerator: Accelerator) -> int:
    """Count of the epochs behind the newest checkpoint, its state loaded; 0 where there is none."""
    newest = max(folder.glob("epoch-*"), default=None)
    if newest is None:
        return 0
    accelerator.load_state(str(newest))
    logger.info("going on from %s", newest)
    return int(newest.name.removeprefix("epoch-"))


def _save(folder: Path, model: PreTrainedModel, processor: BaseImageProcessor, results: dict[str, Any]) -> None:
    """Weights and processor, each file whole or absent, then the results that mark the run as done."""
    aside = folder / ".writing"
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    processor.save_pretrained(aside)
    for path in aside.iterdir():
        path.chmod((folder / CONFIG_NAME).stat().st_mode)  # safetensors' own would shut out colleagues
        path.replace(folder / path.name)
    aside.rmdir()
    write_json(results, folder / RESULTS_NAME)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
