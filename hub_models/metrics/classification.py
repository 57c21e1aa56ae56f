"""Metrics of TB probabilities and of saliency over a set; the threshold and the temperature that a set calls for."""

from math import nan

import numpy as np

from hub_models.metrics.weighted import Columns, as_floats, mean, ratio

SALIENCY_COLUMNS = ("saliency_in_lungs", "lungs_fraction")
TEMPERATURES = (0.05, 20.0)  # the least and the largest


def screening_metrics(columns: Columns, weights: np.ndarray, threshold: float | np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric of a set of probabilities, (R,) in [0, 1]; nan where a class that it needs is absent.

    auroc, average_precision: as scikit-learn's, with ties; need both classes.
    sensitivity, specificity: fraction of the positives called positive (probability >= threshold), of the negatives
        called negative; need that class. sensitivity_at_half, specificity_at_half: the same at 0.5.
    specificity_at_90_sensitivity: the largest over the thresholds that find >= 90 % of the positives; needs both.
    brier: mean squared difference of probability and label.
    ece: expected calibration error, the mean over images of |mean probability - fraction of positives| of the image's
        bin, one of (0, 0.1], (0.1, 0.2] to (0.9, 1]. Guo et al. 2017, arXiv 1706.04599; here of the positive class.

    Args:
        columns: (n,) each: label, 0 or 1; probability of the positive class in [0, 1].
        weights: (R, n) whole counts >= 0.
        threshold: the operating point, a probability; one for all images, or (n,) one of each.

    Raises:
        ValueError: a column or the weights are not of n images.
    """
    columns, weights = as_floats(columns, weights)
    label, probability = columns["label"], columns["probability"]
    auroc, average_precision, specificity_at_90 = _of_ranking(label, probability, weights)
    metrics = {"auroc": auroc, "average_precision": average_precision}
    for suffix, limit in (("", threshold), ("_at_half", 0.5)):
        called = probability >= limit
        metrics["sensitivity" + suffix] = mean(called, weights * label)
        metrics["specificity" + suffix] = mean(~called, weights * (1 - label))
    metrics["specificity_at_90_sensitivity"] = specificity_at_90
    metrics["brier"] = mean((probability - label) ** 2, weights)
    bins = np.searchsorted(np.arange(1, 10) / 10, probability)  # (n,) 0 to 9; a bin holds its upper edge
    gaps = weights @ ((probability - label)[:, None] * (bins[:, None] == np.arange(10)))  # (R, 10)
    metrics["ece"] = ratio(np.abs(gaps).sum(axis=1), weights.sum(axis=1))
    return metrics


def _of_ranking(label: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return AUROC, average precision and specificity at 90 % sensitivity, (R,) each, in one pass over the ranking."""
    order = np.argsort(-probability)
    last_of_tie = np.append(np.diff(probability[order]) != 0, True)[: label.size]
    positives, negatives = (  # called positive at each threshold, from the highest down
        np.pad((weights * one)[:, order].cumsum(axis=1)[:, last_of_tie], ((0, 0), (1, 0)))  # (R, 1 + thresholds)
        for one in (label, 1 - label)
    )
    sensitivity, fall_out = (ratio(called, called[:, -1:]) for called in (positives, negatives))
    defined = (positives[:, -1] > 0) & (negatives[:, -1] > 0)
    heights = (sensitivity[:, 1:] + sensitivity[:, :-1]) / 2
    precision = ratio(positives, positives + negatives)[:, 1:]
    gained = np.diff(sensitivity, axis=1)
    reached = np.argmax(sensitivity >= 0.9, axis=1)[:, None]
    metrics = (
        (np.diff(fall_out, axis=1) * heights).sum(axis=1),
        np.where(gained > 0, gained * precision, 0).sum(axis=1),
        1 - np.take_along_axis(fall_out, reached, axis=1)[:, 0],
    )
    return tuple(np.where(defined, metric, nan) for metric in metrics)


def saliency_metrics(columns: Columns, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return how much of a model's saliency lies in the lungs, (R,) in [0, 1] each; {} without such columns.

    saliency_in_lungs, lungs_fraction: means over the images that have both values; nan where no such image counts.
    Arguments and errors are those of `lung_metrics`, with the (n,) columns saliency_in_lungs and lungs_fraction of
    `saliency.measure_saliency`.
    """
    if not set(SALIENCY_COLUMNS) <= set(columns):
        return {}
    columns, weights = as_floats({name: columns[name] for name in SALIENCY_COLUMNS}, weights)
    both = sum(columns.values())  # nan where either is
    return {name: mean(np.where(np.isnan(both), nan, column), weights) for name, column in columns.items()}


def threshold_for_sensitivity(labels: np.ndarray, probabilities: np.ndarray, sensitivity: float = 0.9) -> float:
    """Return the highest threshold at which at least the fraction `sensitivity` of the positives is called positive.

    Labels (n,) are 0 or 1, probabilities (n,) of the positive class, `sensitivity` is in (0, 1].

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
    """Return the T in TEMPERATURES with the smallest mean negative log likelihood of sigmoid(logits / T).

    Logits (n,) are the positive class's minus the negative class's; labels (n,) are 0 or 1.

    Raises:
        ValueError: a class is absent, or the lengths differ.

    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    from scipy.optimize import minimize_scalar

    labels, logits = _pair_of(labels, logits, "logits")
    positives = int(np.count_nonzero(labels == 1))
    if positives in (0, labels.size):
        raise ValueError(f"{positives} of {labels.size} labels are 1: fitting a temperature needs both classes")
    against = np.where(labels == 1, -logits, logits)  # (n,) the evidence for the wrong class

    def loss(log_temperature: float) -> float:
        return np.logaddexp(0, against / np.exp(log_temperature)).mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def _pair_of(labels: np.ndarray, values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and values as arrays of one shape (n,)."""
    labels, values = np.asarray(labels), np.asarray(values, float)
    if labels.ndim != 1 or labels.shape != values.shape:
        raise ValueError(f"labels {labels.shape} and {name} {values.shape} must both be (n,)")
    return labels, values
