"""A model's figures: one row per image, gathered from all processes, then intervals for all, per site, sex and age."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers.image_processing_utils import BaseImageProcessor

from hub_models.dataset.batches import Arrays
from hub_models.files import new_file
from hub_models.metrics.intervals import paired_difference, with_intervals
from hub_models.models.saliency import measure_saliency
from hub_models.models.tasks import Task
from hub_models.models.trained_model import TrainedModel, forward_views
from hub_models.runs.data import Split
from hub_models.runs.run_folder import PER_IMAGE_NAME

CHUNK = 16  # images in a forward pass without gradients
AGE_BANDS = ((0, 15), (15, 35), (35, 55), (55, np.inf))  # years, the upper end left out
KNOWN = ("id", "patient_id", "site", "label", "sex", "age_years")
REPEATS = 1000  # of the bootstrap


def validate(
    model: torch.nn.Module, image_processor: BaseImageProcessor, task: Task, arrays: Arrays, accelerator: Accelerator
) -> dict[str, np.ndarray]:
    """Per-image columns (n,) of prepared X-rays at the training size, for the loop; the same on every process."""

    def work(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
        """Columns of a batch as rows."""
        columns = task.validate(logits, batch)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    rows = _forward(model, lambda images: forward_views(model, image_processor, images)[0], arrays, accelerator, work)
    return columns_of(rows) | {"label": np.array(arrays.prepared["label"], float)}


def measure(trained: TrainedModel, part: Split, accelerator: Accelerator) -> list[dict[str, Any]]:
    """Figures of each X-ray of a part on its own pixels, sorted by id, the same list on every process."""
    task, settings = trained.task, trained.settings
    model = trained.model.to(accelerator.device)
    names = {name: part.rows.features[name].names for name in ("site", "sex")}

    images = part.rows.remove_columns("image")  # its decoding is spared

    def work(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
        """Figures of a batch, a row for each X-ray."""
        rows = [images[index] for index in batch["index"].tolist()]
        looks = measure_saliency(trained, batch["pixels"], rows) if task.explained else [{}] * len(rows)
        found = []
        for row, one, seen in zip(rows, logits, looks, strict=True):
            known = {name: row[name] for name in KNOWN}
            known |= {name: None if row[name] is None else labels[row[name]] for name, labels in names.items()}
            found.append(known | task.measure(one, row, settings) | seen)
        return found

    def see(images: torch.Tensor) -> torch.Tensor:
        return forward_views(model, trained.image_processor, images, settings.views)[0]

    per_image = _forward(model, see, part.arrays, accelerator, work)
    return sorted(per_image, key=lambda row: row["id"])


def measure_features(
    model: torch.nn.Module, image_processor: BaseImageProcessor, arrays: Arrays, accelerator: Accelerator
) -> np.ndarray:
    """(N, D) features of prepared X-rays (see `out_of_distribution.features_of`); the same on every process."""
    see = partial(forward_views, model, image_processor, with_features=True)
    rows = _forward(
        model, lambda images: see(images)[1], arrays, accelerator, lambda features, _: list(features.cpu().numpy())
    )
    return np.stack(rows)


@torch.no_grad()  # inference_mode() would spoil sharded weights for training
def _forward(
    model: torch.nn.Module,
    see: Callable[[torch.Tensor], torch.Tensor],
    arrays: Arrays,
    accelerator: Accelerator,
    work: Callable[[torch.Tensor, dict[str, torch.Tensor]], list[Any]],
) -> list[Any]:
    """What `work` makes, for each X-ray, of what `see` sees in a batch and of the batch, in the order of the arrays.

    `see` takes gray images (B, S, S) float in [0, 1] to the model. Nothing is averaged before all processes join.

    Every process makes as many forward passes (sharded models wait for each other); what repeats is dropped.
    """
    model.eval()
    found: list[tuple[int, Any]] = []
    with accelerator.split_between_processes(list(range(len(arrays))), apply_padding=True) as mine:
        for start in range(0, len(mine), CHUNK):
            indices = mine[start : start + CHUNK]
            batch = {name: values.to(accelerator.device) for name, values in arrays.__getitems__(indices).items()}
            found += zip(indices, work(see(batch["pixels"].float() / 255), batch), strict=True)
    by_index = dict(gather_object(found))
    return [by_index[index] for index in sorted(by_index)]


def columns_of(per_image: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Numbers of per-image rows as float columns (n,), nan where None; those that every row has."""
    names = [name for name, value in per_image[0].items() if not isinstance(value, str) and name != "sex"]
    names = [name for name in names if all(name in row for row in per_image)]  # rows of older folds lack some
    return {name: np.array([np.nan if row[name] is None else row[name] for row in per_image], float) for name in names}


def groups_of(per_image: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Indices of the images of each group, under "all", "site: X", "sex: X" and "age: a-b"; unknown ones named so."""
    groups: dict[str, list[int]] = {"all": list(range(len(per_image)))}
    for index, row in enumerate(per_image):
        for name in (f"site: {row['site']}", f"sex: {row['sex'] or 'unknown'}", f"age: {_band(row['age_years'])}"):
            groups.setdefault(name, []).append(index)
    order = {"all": 0, "site": 1, "sex": 2, "age": 3}
    return dict(sorted(groups.items(), key=lambda group: (order[group[0].split(":")[0]], group[0])))


def _band(age_years: float | None) -> str:
    if age_years is None:
        return "unknown"
    low, high = next(band for band in AGE_BANDS if band[0] <= age_years < band[1])
    return f"{low:02d}-{high - 1}" if high < np.inf else f"{low} and over"


def summarize(per_image: list[dict[str, Any]], task: Task, repeats: int = REPEATS) -> dict[str, dict[str, Any]]:
    """Per group: `n`, `patients`, and each figure of the task with `value`, and `low` and `high` of its 95 % interval.

    The interval is the percentile bootstrap over patients; None where undefined.
    """
    summary = {}
    for name, indices in groups_of(per_image).items():
        rows = [per_image[index] for index in indices]
        patients = [row["patient_id"] for row in rows]
        metrics = with_intervals(task.metrics, columns_of(rows), patients, repeats)
        summary[name] = {"n": len(rows), "patients": len(set(patients))} | metrics
    return summary


def compare(
    per_image: list[dict[str, Any]], other: list[dict[str, Any]], task: Task, repeats: int = REPEATS
) -> dict[str, dict[str, Any]]:
    """Per group, each figure of `per_image` minus that of `other` on the same X-rays, with its 95 % interval.

    Raises:
        ValueError: the two are not of the same X-rays.
    """
    if [row["id"] for row in per_image] != [row["id"] for row in other]:
        raise ValueError("the two models were tested on different X-rays: give both the same data, protocol and split")
    differences = {}
    for name, indices in groups_of(per_image).items():
        mine, theirs = ([rows[index] for index in indices] for rows in (per_image, other))
        patients = [row["patient_id"] for row in mine]
        differences[name] = paired_difference(task.metrics, columns_of(mine), columns_of(theirs), patients, repeats)
    return differences


def write_per_image(per_image: list[dict[str, Any]], folder: Path) -> None:
    """Write `per_image.parquet`, whole or not at all."""
    with new_file(folder / PER_IMAGE_NAME) as aside:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(per_image), aside)
