"""The table `TASKS`: all that differs between the tasks, so that no other module depends on which task it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, interpolate

from hub_models import metrics
from hub_models.dataset.published import pixel_spacing_mm
from hub_models.imaging.masks import to_mask
from hub_models.metrics import DISTANCES, Overlap
from hub_models.metrics.intervals import SetMetrics
from hub_models.metrics.weighted import Columns
from hub_models.models.answers import ANSWERS
from hub_models.models.settings import Settings

if TYPE_CHECKING:
    import datasets

SENSITIVITY = 0.9  # at which the threshold is chosen. Source: WHO 2014, target product profile of a TB triage test
XrayRow = Mapping[str, Any]  # of the dataset, with `reference` where `mask` was found by a model


@dataclass(frozen=True)
class Objective:
    """What the training loop needs to know of what it trains for."""

    learns_masks: bool  # from each X-ray's own mask; else it learns from labels, which can be weighted
    # (logits, batch, label_smoothing) to a scalar, a plain mean over the batch's images
    loss: Callable[[torch.Tensor, dict[str, torch.Tensor], float], torch.Tensor]
    # (logits (B, ...), batch) to per-image columns at the training size, for the loop
    validate: Callable[[torch.Tensor, dict[str, torch.Tensor]], dict[str, list[float]]]
    metrics: SetMetrics  # of per-image columns; a weight is how often an image counts
    main_metric: str  # name of the metric that chooses epochs and heads reports; higher is better


@dataclass(frozen=True)
class Task(Objective):
    """What the other modules need to know of a task."""

    kind: str  # "segmentation" or "classification", the kind of its models
    explained: bool  # whether an evaluation measures the model's saliency
    labels: tuple[str, ...]  # names of the classes, in the order of the logits
    model: str  # checkpoint to start from unless another is given
    image_size: int  # side in pixels unless another is given
    usable: Callable[["datasets.Dataset"], "datasets.Dataset"]  # rows that can be learned from and tested on
    # (split, rows) raises ValueError where a split cannot be trained on or tested with
    check: Callable[[str, "datasets.Dataset"], None]
    # (logits of one image, its original row, settings) to its metrics, on its own pixels
    measure: Callable[[torch.Tensor, XrayRow, Settings], dict[str, float]]
    # (logits of one image, height, width, settings) to what a user gets; needs no torch
    predict: Callable[[np.ndarray, int, int, Settings], Any]
    # (settings, validation columns) to settings with temperature and threshold
    decide: Callable[[Settings, dict[str, np.ndarray]], Settings]
    chance: float | None = None  # main_metric of a model that has learned nothing, where that is known


def _rows_with_mask(rows: "datasets.Dataset") -> "datasets.Dataset":
    has_mask = rows.select_columns("mask").with_format("arrow")[:]["mask"].is_valid().to_numpy()  # decodes none
    return rows.select(np.flatnonzero(has_mask))


def _rows_with_label(rows: "datasets.Dataset") -> "datasets.Dataset":
    known = [index for index, label in enumerate(rows["label"]) if label is not None]
    return rows if len(known) == len(rows) else rows.select(known)


def _segmentation_loss(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float) -> torch.Tensor:
    from monai.losses import DiceCELoss  # of training only, and slow to import

    masks = batch["mask"].long()[:, None]  # (B, 1, S, S)
    logits = interpolate(logits.float(), masks.shape[-2:], mode="bilinear")  # (B, 2, S, S)
    return DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)(logits, masks)


def _validate_lungs(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    masks = batch["mask"].bool()  # (B, S, S)
    margin = (logits[:, 1:] - logits[:, :1]).float()  # (B, 1, s, s)
    predicted = interpolate(margin, masks.shape[-2:], mode="bilinear")[:, 0] > 0  # (B, S, S)
    pairs = (predicted & masks, predicted & ~masks, ~predicted & masks)
    counts = [Overlap(*one) for one in torch.stack([pair.sum((1, 2)) for pair in pairs], 1).tolist()]
    overlaps = {"dice": [metrics.dice(one) for one in counts], "iou": [metrics.iou(one) for one in counts]}
    columns = dict(zip(Overlap._fields, map(list, zip(*counts, strict=True)), strict=True))
    return overlaps | columns | {name: [np.nan] * len(counts) for name in DISTANCES}


def _measure_lungs(logits: torch.Tensor, row: XrayRow, settings: Settings) -> dict[str, float]:
    reference = to_mask(row["mask"])
    height, width = reference.shape
    predicted = ANSWERS["lung_segmentation"](logits.float().cpu().numpy(), height, width, settings)
    counts = metrics.count_overlap(predicted, reference)
    in_pixels = np.array(metrics.surface_distances(predicted, reference))
    spacing = pixel_spacing_mm(row["id"], height, width)
    in_mm = np.full(2, np.nan) if spacing is None else in_pixels * spacing[0]
    if spacing is not None and spacing[0] != spacing[1]:  # a squashed copy
        in_mm = np.array(metrics.surface_distances(predicted, reference, spacing))
    in_percent = 100 * in_pixels / np.hypot(height, width)
    distances = dict(zip(DISTANCES, [*in_mm.tolist(), *in_percent.tolist()], strict=True))
    return {"dice": metrics.dice(counts), "iou": metrics.iou(counts)} | counts._asdict() | distances


def _both_classes(split: str, rows: "datasets.Dataset") -> None:
    held = set(rows["label"])
    if missing := [name for index, name in enumerate(rows.features["label"].names) if index not in held]:
        ways = "pass more X-rays, or name other columns with --columns label=... split=..."
        raise ValueError(f"no X-ray of {split} is {' or '.join(missing)} ({len(rows)} rows): {ways}")


def _classification_loss(logits: torch.Tensor, batch: dict[str, torch.Tensor], label_smoothing: float) -> torch.Tensor:
    labels, weights = batch["label"], batch["weight"]
    losses = weights * cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)  # (B,)
    if (own := batch.get("own")) is not None:  # mixup with the next of the batch. Source: Zhang 2018, arXiv 1710.09412
        others = cross_entropy(logits.float(), labels.roll(-1), reduction="none", label_smoothing=label_smoothing)
        losses = own * losses + (1 - own) * weights.roll(-1) * others
    # divided by B, not by the sum of weights: the means of a batch's halves average to its own
    return losses.mean()


def _validate_tb(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    log_odds = logits[:, 1].float() - logits[:, 0].float()  # (B,)
    halves = [0.5] * len(log_odds)  # the threshold is chosen once training ends
    return {"log_odds": log_odds.tolist(), "probability": log_odds.sigmoid().tolist(), "threshold": halves}


def _measure_tb(logits: torch.Tensor, row: XrayRow, settings: Settings) -> dict[str, float]:
    columns = _validate_tb(logits[None], {})
    return {name: value for name, (value,) in columns.items()} | {"threshold": settings.threshold}


def _decide_tb(settings: Settings, columns: dict[str, np.ndarray]) -> Settings:
    """Settings with temperature and threshold from log odds and labels of the validation images."""
    temperature = metrics.fit_temperature(columns["log_odds"], columns["label"])
    calibrated = 1 / (1 + np.exp(-columns["log_odds"] / temperature))
    # lowered by what rounding to float32 may move a probability, so that the positive that set it stays above
    threshold = metrics.threshold_for_sensitivity(columns["label"], calibrated, SENSITIVITY) * (1 - 1e-5)
    return replace(settings, temperature=temperature, threshold=threshold)


def _screening_and_saliency(columns: Columns, weights: np.ndarray) -> dict[str, np.ndarray]:
    screening = metrics.screening_metrics(columns, weights, columns["threshold"])
    return screening | metrics.saliency_metrics(columns, weights)


TASKS = {
    "lung_segmentation": Task(
        kind="segmentation",
        learns_masks=True,
        explained=False,
        labels=("background", "lung"),
        model="nvidia/mit-b0",
        image_size=256,
        usable=_rows_with_mask,
        check=lambda split, rows: None,
        loss=_segmentation_loss,
        validate=_validate_lungs,
        measure=_measure_lungs,
        predict=ANSWERS["lung_segmentation"],
        metrics=metrics.lung_metrics,
        decide=lambda settings, columns: settings,
        main_metric="dice",
    ),
    "tb_classification": Task(
        kind="classification",
        learns_masks=False,
        explained=True,
        labels=("normal", "tuberculosis"),
        model="google/vit-base-patch16-224",
        image_size=224,
        usable=_rows_with_label,
        check=_both_classes,
        loss=_classification_loss,
        validate=_validate_tb,
        measure=_measure_tb,
        predict=ANSWERS["tb_classification"],
        metrics=_screening_and_saliency,
        decide=_decide_tb,
        main_metric="auroc",
        chance=0.5,
    ),
}
