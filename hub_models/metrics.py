"""Figures of lung masks and of TB probabilities: of one image first, then of a set of images.

Source: Taha and Hanbury 2015, doi 10.1186/s12880-015-0068-x.
"""

from importlib import import_module
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from hub_models.lung_crop import lungs_box

MODULES = ("lung_overlap", "screening")  # of `evaluate`
LOOKS = ("saliency_in_lungs", "lungs_share")
TEMPERATURES = (0.05, 20.0)  # least and largest that is tried
DISTANCES = ("hd95_mm", "assd_mm", "hd95_percent", "assd_percent")  # % of the image's diagonal


def evaluate_module(name: str) -> str:
    """Return the path by which `evaluate.load` finds the module `name`, lung_overlap or screening, wherever installed.

    Raises:
        ValueError: there is no such module.
    """
    if name not in MODULES:
        raise ValueError(f"no module {name!r}: choose one of {', '.join(MODULES)}")
    return str(Path(__file__).with_name(name))


class Overlap(NamedTuple):
    """Pixels of one image: in both masks, in the predicted one only, in the reference only."""

    both: int
    predicted_only: int
    reference_only: int


def count_overlap(predicted: np.ndarray, reference: np.ndarray) -> Overlap:
    """Counts of two (H, W) bool masks.

    Raises:
        ValueError: their shapes differ.
    """
    _check_shapes(predicted, reference)
    both = int(np.count_nonzero(predicted & reference))
    return Overlap(both, int(np.count_nonzero(predicted)) - both, int(np.count_nonzero(reference)) - both)


def dice(counts: Overlap) -> float:
    """Dice in [0, 1] of one image; 1.0 where both masks are empty."""
    size = 2 * counts.both + counts.predicted_only + counts.reference_only
    return 2 * counts.both / size if size else 1.0


def iou(counts: Overlap) -> float:
    """Intersection over union in [0, 1] of one image; 1.0 where both masks are empty."""
    size = sum(counts)
    return counts.both / size if size else 1.0


def surface_distances(
    predicted: np.ndarray, reference: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float]:
    """(hd95, assd) of two (H, W) bool masks in the unit of `spacing`, >= 0; both nan where a mask is empty.

    hd95 is the larger of the two directed 95th percentiles, assd the mean over the outlines' pixels of both masks.

    Args:
        predicted: (H, W) bool.
        reference: (H, W) bool.
        spacing: height and width of a pixel; (1, 1) measures in pixels.

    Raises:
        ValueError: the shapes differ, or `spacing` is not two positive numbers.

    Source: as MONAI's compute_hausdorff_distance(percentile=95) and compute_average_surface_distance(symmetric=True);
    Taha and Hanbury 2015, doi 10.1186/s12880-015-0068-x.
    """
    _check_shapes(predicted, reference)
    if np.shape(spacing) != (2,) or not (np.isfinite(spacing).all() and min(spacing) > 0):
        raise ValueError(f"spacing must be two positive numbers, the height and width of a pixel, got {spacing!r}")
    if not (predicted.any() and reference.any()):
        return nan, nan
    from monai.metrics.utils import get_mask_edges, get_surface_distance  # slow to import

    top, left, bottom, right = lungs_box(predicted | reference, 0)  # there is no outline outside
    box = slice(top, bottom), slice(left, right)
    outlines = get_mask_edges(predicted[box], reference[box], crop=False)
    directed = [get_surface_distance(*pair, spacing=spacing) for pair in (outlines, outlines[::-1])]
    hd95 = max(np.percentile(distances, 95) for distances in directed)
    return float(hd95), float(np.concatenate(directed).mean(dtype=float))


# The figures of a set are functions of columns, one value per image, and of WEIGHTS (R, n): how often each of the n
# images counts in each of R resamples. Ones (1, n) give the set's own figures; intervals.py makes the others.


def lung_figures(columns: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Each figure of a set of lung masks, (R,) float; nan where no image counts, or none has the value.

    dice, dice_sd, dice_median, iou: mean, sample sd (nan below two images), median and mean over images, in [0, 1].
    dice_pooled, iou_pooled: one ratio over all pixels, in [0, 1]; 1 where all masks are empty, as for one image.
    hd95_mm, assd_mm, hd95_percent, assd_percent: means over the images where they are defined: hd95_percent and
    assd_percent where neither mask is empty; undefined_distances: the share in [0, 1] of the other images.

    Args:
        columns: (n,) each: dice, iou, both, predicted_only, reference_only (see `Overlap`), hd95_percent,
            assd_percent, hd95_mm, assd_mm (see `surface_distances`; nan where undefined).
        weights: (R, n) whole counts >= 0.

    Raises:
        ValueError: a column or the weights are not of n images.
    """
    columns, weights = _as_floats(columns, weights)
    both, errors = 2 * columns["both"], columns["predicted_only"] + columns["reference_only"]
    figures = {
        "dice": _mean(columns["dice"], weights),
        "dice_sd": _standard_deviation(columns["dice"], weights),
        "dice_median": _median(columns["dice"], weights),
        "iou": _mean(columns["iou"], weights),
        "dice_pooled": _pooled(both, both + errors, weights),
        "iou_pooled": _pooled(columns["both"], columns["both"] + errors, weights),
    }
    figures |= {name: _mean(columns[name], weights) for name in DISTANCES}
    return figures | {"undefined_distances": _mean(np.isnan(columns["hd95_percent"]).astype(float), weights)}


def screening_figures(
    columns: dict[str, np.ndarray], weights: np.ndarray, threshold: float | np.ndarray
) -> dict[str, np.ndarray]:
    """Each figure of a set of probabilities, (R,) float in [0, 1]; nan where a class that it needs does not count.

    auroc, average_precision: as scikit-learn's, with ties; need both classes.
    sensitivity, specificity: share of the positives called positive (probability >= threshold), of the negatives
        called negative; need that class. sensitivity_at_half, specificity_at_half: the same at 0.5.
    specificity_at_90_sensitivity: the largest over the thresholds that find >= 90 % of the positives; needs both.
    brier: mean squared difference of probability and label.
    ece: expected calibration error, the mean over images of |mean probability - share of positives| of the image's
        bin, one of (0, 0.1], (0.1, 0.2] to (0.9, 1]. Guo et al. 2017, arXiv 1706.04599; here of the positive class.

    Args:
        columns: (n,) each: label, 0 or 1; probability of the positive class in [0, 1].
        weights: (R, n) whole counts >= 0.
        threshold: the operating point, a probability; one for all images, or (n,) one of each.

    Raises:
        ValueError: a column or the weights are not of n images.
    """
    columns, weights = _as_floats(columns, weights)
    label, probability = columns["label"], columns["probability"]
    auroc, average_precision, specificity_at_90 = _of_ranking(label, probability, weights)
    figures = {"auroc": auroc, "average_precision": average_precision}
    for suffix, limit in (("", threshold), ("_at_half", 0.5)):
        called = probability >= limit
        figures["sensitivity" + suffix] = _mean(called, weights * label)
        figures["specificity" + suffix] = _mean(~called, weights * (1 - label))
    figures["specificity_at_90_sensitivity"] = specificity_at_90
    figures["brier"] = _mean((probability - label) ** 2, weights)
    bins = np.searchsorted(np.arange(1, 10) / 10, probability)  # (n,) 0 to 9; a bin holds its upper edge
    gaps = weights @ ((probability - label)[:, None] * (bins[:, None] == np.arange(10)))  # (R, 10)
    figures["ece"] = _ratio(np.abs(gaps).sum(axis=1), weights.sum(axis=1))
    return figures


def saliency_figures(columns: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Where a model looks on a set of images, (R,) float in [0, 1] each; nan where no image with both values counts.

    saliency_in_lungs, lungs_share: means over the same images, those that have both. Nothing without such columns.

    Args:
        columns: (n,) each: saliency_in_lungs, lungs_share (see `saliency.look`; nan where undefined).
        weights: (R, n) whole counts >= 0.

    Raises:
        ValueError: a column or the weights are not of n images.
    """
    if not set(LOOKS) <= set(columns):
        return {}
    columns, weights = _as_floats({name: columns[name] for name in LOOKS}, weights)
    both = sum(columns.values())  # nan where either is
    return {name: _mean(np.where(np.isnan(both), nan, column), weights) for name, column in columns.items()}


def threshold_for_sensitivity(labels: np.ndarray, probabilities: np.ndarray, sensitivity: float = 0.9) -> float:
    """The highest threshold at which at least the share `sensitivity` of the positives has a probability >= it.

    Args:
        labels: (n,) 0 or 1.
        probabilities: (n,) of the positive class.
        sensitivity: in (0, 1].

    Raises:
        ValueError: no label is 1, the lengths differ, or `sensitivity` is out of range.
    """
    labels, probabilities = _pair_of(labels, probabilities, "probabilities")
    if not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity must be in (0, 1], got {sensitivity}")
    found = np.sort(probabilities[labels == 1])[::-1]
    if not found.size:
        raise ValueError(f"0 of {labels.size} labels are 1: a threshold for a sensitivity needs at least one positive")
    return float(found[np.argmax(np.arange(1, found.size + 1) / found.size >= sensitivity)])


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """T in TEMPERATURES with the smallest mean negative log likelihood of sigmoid(logits / T).

    Args:
        logits: (n,) the positive class's less the negative one's.
        labels: (n,) 0 or 1.

    Raises:
        ValueError: a class is absent, or the lengths differ.

    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    labels, logits = _pair_of(labels, logits, "logits")
    positives = int(np.count_nonzero(labels == 1))
    if positives in (0, labels.size):
        raise ValueError(f"{positives} of {labels.size} labels are 1: fitting a temperature needs both classes")
    against = np.where(labels == 1, -logits, logits)  # (n,) the evidence for the wrong class

    def loss(log_temperature: float) -> float:
        """Mean negative log likelihood."""
        return np.logaddexp(0, against / np.exp(log_temperature)).mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def _check_shapes(predicted: np.ndarray, reference: np.ndarray) -> None:
    if predicted.shape != reference.shape:
        raise ValueError(f"predicted mask {predicted.shape} and reference mask {reference.shape} must have one shape")


def _pair_of(labels: np.ndarray, values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    labels, values = np.asarray(labels), np.asarray(values, float)
    if labels.ndim != 1 or labels.shape != values.shape:
        raise ValueError(f"labels {labels.shape} and {name} {values.shape} must both be (n,)")
    return labels, values


def _as_floats(columns: dict[str, np.ndarray], weights: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    columns, weights = (
        {name: np.asarray(column, float) for name, column in columns.items()},
        np.asarray(weights, float),
    )
    shapes = {name: column.shape for name, column in columns.items()}
    if weights.ndim != 2 or set(shapes.values()) - {weights.shape[1:]}:
        raise ValueError(f"weights must be (R, n) and each column (n,), got weights {weights.shape} and {shapes}")
    return columns, weights


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), nan), where=whole != 0)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    return _ratio(weights[:, defined] @ values[defined], weights[:, defined].sum(axis=1))


def _standard_deviation(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    from_mean = values - _mean(values, weights)[:, None]  # (R, n)
    return np.sqrt(_ratio((weights * from_mean**2).sum(axis=1), np.maximum(weights.sum(axis=1) - 1, 0)))


def _median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(values)
    values, up_to = np.append(values[order], nan), weights[:, order].cumsum(axis=1)  # nan: the value of no image
    images = weights.sum(axis=1, keepdims=True)
    middle = [values[(up_to <= rank).sum(axis=1)] for rank in ((images - 1) // 2, images // 2)]
    return sum(middle) / 2


def _pooled(part: np.ndarray, whole: np.ndarray, weights: np.ndarray) -> np.ndarray:
    ratio = _ratio(weights @ part, weights @ whole)
    return np.where(np.isnan(ratio) & weights.any(axis=1), 1.0, ratio)


def _of_ranking(label: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    order = np.argsort(-probability)
    last_of_tie = np.append(np.diff(probability[order]) != 0, True)[: label.size]
    positives, negatives = (  # called positive at each threshold, from above the highest probability down
        np.pad((weights * one)[:, order].cumsum(axis=1)[:, last_of_tie], ((0, 0), (1, 0)))  # (R, 1 + thresholds)
        for one in (label, 1 - label)
    )
    sensitivity, fall_out = (_ratio(called, called[:, -1:]) for called in (positives, negatives))
    defined = (positives[:, -1] > 0) & (negatives[:, -1] > 0)
    heights = (sensitivity[:, 1:] + sensitivity[:, :-1]) / 2
    precision = _ratio(positives, positives + negatives)[:, 1:]
    gained = np.diff(sensitivity, axis=1)
    reached = np.argmax(sensitivity >= 0.9, axis=1)[:, None]
    figures = (
        (np.diff(fall_out, axis=1) * heights).sum(axis=1),
        np.where(gained > 0, gained * precision, 0).sum(axis=1),
        1 - np.take_along_axis(fall_out, reached, axis=1)[:, 0],
    )
    return tuple(np.where(defined, figure, nan) for figure in figures)


def __getattr__(name: str) -> type:
    """Import the two modules of the `evaluate` library, which import this one, where they are asked for."""
    modules = {"LungOverlap": "lung_overlap.lung_overlap", "Screening": "screening.screening"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hub_models.{modules[name]}"), name)
