"""Metrics of a model: a row per image, gathered from all processes, then intervals for all, per site, sex and age."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers.image_processing_utils import BaseImageProcessor

from chest_xray_masks import parse_findings
from hub_models.dataset.batches import Arrays
from hub_models.evaluation.age_bands import age_band
from hub_models.evaluation.charts import WORST, Rows, confidently_wrong
from hub_models.files import new_file
from hub_models.metrics.intervals import Interval, paired_difference, with_intervals
from hub_models.models.image_processors import normalize
from hub_models.models.saliency import measure_saliency
from hub_models.models.tasks import SENSITIVITY, Objective, Task
from hub_models.models.trained_model import TrainedModel, forward_views
from hub_models.runs.data import Split
from hub_models.runs.run_folder import PER_IMAGE_NAME

EVALUATION_BATCH = 16  # images in a forward pass without gradients
WHO_SPECIFICITY = 0.7  # Source: WHO 2014, target product profile of a TB triage test, at sensitivity 0.9
IMAGE_COLUMNS = ("id", "patient_id", "site", "label", "sex", "age_years")  # of the data, in every per-image row
NOT_NUMBERS = ("sex", "findings", "activity")  # columns of words, any of which may be None
GROUP_ORDER = ("all", "site", "sex", "age", "finding", "activity")
Batch = dict[str, torch.Tensor]
PerImage = TypeVar("PerImage")


def validate(
    model: torch.nn.Module,
    image_processor: BaseImageProcessor,
    task: Objective,
    arrays: Arrays,
    accelerator: Accelerator,
) -> dict[str, np.ndarray]:
    """Return per-image columns (n,) of prepared X-rays at the training size; the same on every process.

    Where the arrays hold the `features` of an encoder, `model` takes these, and the `noise` that hides patches.
    """

    def work(images: torch.Tensor, batch: Batch) -> Rows:
        if "features" in batch:
            logits = model(features=batch["features"]).logits
        elif "noise" in batch:
            logits = model(pixel_values=normalize(images, image_processor), noise=batch["noise"]).logits
        else:
            logits, _ = forward_views(model, image_processor, images)
        columns = task.validate(logits, batch)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    rows = _forward(model, arrays, accelerator, work)
    return columns_of(rows) | {"label": np.array(arrays.prepared["label"], float)}


def measure(trained: TrainedModel, split: Split, accelerator: Accelerator) -> Rows:
    """Return the metrics of each X-ray of a split on its own pixels, sorted by id; the same on every process."""
    task, settings, model = trained.task, trained.settings, trained.model.to(accelerator.device)
    names = {name: split.rows.features[name].names for name in ("site", "sex")}
    without_image = split.rows.remove_columns("image")  # its decoding is spared

    def work(images: torch.Tensor, batch: Batch) -> Rows:
        logits, _ = forward_views(model, trained.image_processor, images, settings.views)
        rows = [without_image[index] for index in batch["index"].tolist()]
        saliencies = measure_saliency(trained, batch["pixels"], rows) if task.explained else [{}] * len(rows)
        found = []
        for row, one, salient in zip(rows, logits, saliencies, strict=True):
            known = {name: row[name] for name in IMAGE_COLUMNS}
            known |= {name: None if row[name] is None else labels[row[name]] for name, labels in names.items()}
            said = parse_findings(row.get("findings"))
            known |= {"findings": said.present, "activity": said.activity}
            found.append(known | task.measure(one, row, settings) | salient)
        return found

    return sorted(_forward(model, split.arrays, accelerator, work), key=lambda row: row["id"])


def measure_features(
    model: torch.nn.Module, image_processor: BaseImageProcessor, arrays: Arrays, accelerator: Accelerator
) -> np.ndarray:
    """Return (N, D) features of prepared X-rays (see `features_of`); the same on every process."""

    def work(images: torch.Tensor, batch: Batch) -> list[np.ndarray]:
        _, features = forward_views(model, image_processor, images, with_features=True)
        if features is None:
            raise ValueError(f"{type(model).__name__} gives no features: pass a lung model")
        return list(features.cpu().numpy())

    rows = _forward(model, arrays, accelerator, work)
    return np.stack(rows)


@torch.no_grad()  # inference_mode() would spoil sharded weights for training
def _forward(
    model: torch.nn.Module,
    arrays: Arrays,
    accelerator: Accelerator,
    work: Callable[[torch.Tensor, Batch], list[PerImage]],
) -> list[PerImage]:
    """Return what `work` makes of each X-ray, in the order of the arrays, once all processes have joined.

    `work` takes gray images (B, S, S) float in [0, 1] and their batch. Every process makes as many forward passes,
    since sharded models wait for each other; repeated X-rays are dropped.
    """
    model.eval()
    found: list[tuple[int, PerImage]] = []
    with accelerator.split_between_processes(list(range(len(arrays))), apply_padding=True) as mine:
        for start in range(0, len(mine), EVALUATION_BATCH):
            indices = mine[start : start + EVALUATION_BATCH]
            batch = {name: values.to(accelerator.device) for name, values in arrays.__getitems__(indices).items()}
            found += zip(indices, work(batch["pixels"].float() / 255, batch), strict=True)
    by_index = dict(gather_object(found))
    return [by_index[index] for index in sorted(by_index)]


def columns_of(per_image: Rows) -> dict[str, np.ndarray]:
    """Return the numbers of per-image rows as float columns (n,), nan for None; only those that every row has."""
    names = [name for name, value in per_image[0].items() if not isinstance(value, str) and name not in NOT_NUMBERS]
    names = [name for name in names if all(name in row for row in per_image)]  # rows of older folds lack some
    return {name: np.array([np.nan if row[name] is None else row[name] for row in per_image], float) for name in names}


def groups_of(per_image: Rows) -> dict[str, list[int]]:
    """Return the indices of the images of "all" and of each group.

    These are "site: X", "sex: X" and "age: a-b", or "X: unknown", and of what readings say "finding: X" (present) and
    "activity: X".
    """
    groups: dict[str, list[int]] = {"all": list(range(len(per_image)))}
    for index, row in enumerate(per_image):
        names = [f"site: {row['site']}", f"sex: {row['sex'] or 'unknown'}", f"age: {age_band(row['age_years'])}"]
        names += [f"finding: {name.replace('_', ' ')}" for name in row.get("findings") or ()]  # older rows lack them
        names += [f"activity: {row['activity']}"] if row.get("activity") else []
        for name in names:
            groups.setdefault(name, []).append(index)
    return dict(sorted(groups.items(), key=lambda group: (GROUP_ORDER.index(group[0].split(":")[0]), group[0])))


def _with_normal(name: str, indices: list[int], per_image: Rows, task: Task) -> list[int]:
    """Return the indices of a group; of findings and activity with all normal X-rays, to tell them from, of labels."""
    if task.learns_masks or not name.startswith(("finding: ", "activity: ")):
        return indices
    return sorted({*indices, *(index for index, row in enumerate(per_image) if not row["label"])})


def summarize(per_image: Rows, task: Task, repeats: int = 1000) -> dict[str, dict[str, Any]]:
    """Return `n`, `patients` and each metric of the task, per group of `groups_of`.

    A metric has its `value`, and `low` and `high` of its 95 % interval: the percentile bootstrap over patients.
    All three are None where undefined. Groups of findings and activity have `cases`, how many X-rays are of them; a
    task of labels tests these together with all normal X-rays.
    """
    summary = {}
    for name, cases in groups_of(per_image).items():
        rows = [per_image[index] for index in _with_normal(name, cases, per_image, task)]
        patients = [row["patient_id"] for row in rows]
        counts = {"n": len(rows), "patients": len(set(patients))}
        if name.startswith(("finding: ", "activity: ")):
            counts["cases"] = len(cases)
        summary[name] = counts | with_intervals(task.metrics, columns_of(rows), patients, repeats)
    return summary


def metrics_of(per_image: Rows, task: Task) -> dict[str, Any]:
    """Return what `results.json` says of per-image rows: metrics of each group, the worst, the WHO's minimum."""
    metrics = summarize(per_image, task)
    found = {"main_metric": task.main_metric, "metrics": metrics, "worst": _worst(per_image, task.main_metric)}
    return found | who_triage_minimum(metrics)


def _worst(per_image: Rows, metric: str) -> Rows:
    """Return the images with the lowest metric; the most confidently wrong where it is not a metric of one image."""
    if metric in per_image[0]:
        names, ranked = ["id", metric], sorted(per_image, key=lambda row: (row[metric], row["id"]))[:WORST]
    else:
        names, ranked = ["id", "label", "probability"], confidently_wrong(per_image)
    return [{name: row[name] for name in names} for row in ranked]


def who_triage_minimum(metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return whether each group reaches the WHO's minimum of a triage test; empty where the task has no such metric.

    `reachable`: at the threshold that gives the sensitivity on these images; `met`: at the stored one.
    """
    name = "specificity_at_90_sensitivity"
    if name not in metrics["all"]:
        return {}

    def at_least(group: dict[str, Any], name: str, least: float) -> bool:
        return group[name]["value"] is not None and group[name]["value"] >= least

    groups = {
        key: {
            "reachable": at_least(group, name, WHO_SPECIFICITY),
            "met": at_least(group, "sensitivity", SENSITIVITY) and at_least(group, "specificity", WHO_SPECIFICITY),
        }
        for key, group in metrics.items()
    }
    return {"who_triage_minimum": {"sensitivity": SENSITIVITY, "specificity": WHO_SPECIFICITY, "groups": groups}}


def compare(per_image: Rows, other: Rows, task: Task, repeats: int = 1000) -> dict[str, dict[str, Interval]]:
    """Return each metric of `per_image` less that of `other` on the same X-rays, with its 95 % interval, per group.

    Raises:
        ValueError: the two are not of the same X-rays.
    """
    if [row["id"] for row in per_image] != [row["id"] for row in other]:
        raise ValueError("the two models were tested on different X-rays: give both the same data, protocol and split")
    differences = {}
    for name, indices in groups_of(per_image).items():
        indices = _with_normal(name, indices, per_image, task)
        first, second = ([rows[index] for index in indices] for rows in (per_image, other))
        patients = [row["patient_id"] for row in first]
        differences[name] = paired_difference(task.metrics, columns_of(first), columns_of(second), patients, repeats)
    return differences


def write_per_image(per_image: Rows, folder: Path) -> None:
    """Write `per_image.parquet`, whole or not at all."""
    with new_file(folder / PER_IMAGE_NAME) as aside:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(per_image), aside)
