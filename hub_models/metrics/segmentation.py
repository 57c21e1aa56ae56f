"""Metrics of lung masks: overlap and surface distances of one image, and their summary over a set.

Source: Taha and Hanbury 2015, doi 10.1186/s12880-015-0068-x.
"""

from math import nan
from typing import NamedTuple

import numpy as np

from hub_models.metrics.weighted import Columns, as_floats, mean, median, pooled, standard_deviation

DISTANCES = ("hd95_mm", "assd_mm", "hd95_percent", "assd_percent")  # % of the image's diagonal


class Overlap(NamedTuple):
    """Pixels of one image: in both masks, in the predicted one only, in the reference only."""

    both: int
    predicted_only: int
    reference_only: int


def count_overlap(predicted: np.ndarray, reference: np.ndarray) -> Overlap:
    """Count the pixels of two (H, W) masks, bool or int, where > 0 is lung.

    Raises:
        ValueError: their shapes differ, or they hold floats.
    """
    predicted, reference = _as_masks(predicted, reference)
    both = int(np.count_nonzero(predicted & reference))
    return Overlap(both, int(np.count_nonzero(predicted)) - both, int(np.count_nonzero(reference)) - both)


def dice(counts: Overlap) -> float:
    """Return the Dice of one image, in [0, 1]; 1.0 where both masks are empty."""
    size = 2 * counts.both + counts.predicted_only + counts.reference_only
    return 2 * counts.both / size if size else 1.0


def iou(counts: Overlap) -> float:
    """Return the intersection over union of one image, in [0, 1]; 1.0 where both masks are empty."""
    size = sum(counts)
    return counts.both / size if size else 1.0


def surface_distances(
    predicted: np.ndarray, reference: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[float, float]:
    """Return (hd95, assd) of two (H, W) masks, bool or int, in the unit of `spacing`; both nan where a mask is empty.

    hd95 is the larger of the two directed 95th percentiles, assd the mean over the outlines' pixels of both masks.
    `spacing` is the height and width of a pixel; (1, 1) measures in pixels.

    Raises:
        ValueError: the shapes differ, a mask holds floats, or `spacing` is not two positive numbers.

    Source: as MONAI's compute_hausdorff_distance(percentile=95) and compute_average_surface_distance(symmetric=True).
    """
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    predicted, reference = _as_masks(predicted, reference)
    if np.shape(spacing) != (2,) or not (np.isfinite(spacing).all() and min(spacing) > 0):
        raise ValueError(f"spacing must be two positive numbers, the height and width of a pixel, got {spacing!r}")
    if not (predicted.any() and reference.any()):
        return nan, nan
    either = predicted | reference  # there is no outline outside its box
    filled = (np.flatnonzero(either.any(1 - axis)) for axis in (0, 1))
    box = tuple(slice(one[0], one[-1] + 1) for one in filled)
    outlines = get_mask_edges(predicted[box], reference[box], crop=False)
    directed = [np.asarray(get_surface_distance(a, b, spacing=spacing)) for a, b in (outlines, outlines[::-1])]
    hd95 = max(np.percentile(distances, 95) for distances in directed)
    return float(hd95), float(np.concatenate(directed).mean(dtype=float))


def lung_metrics(columns: Columns, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric of a set of lung masks, (R,) float; nan where no image counts, or none has the value.

    dice, dice_sd, dice_median, iou: mean, sample sd (nan below two images), median and mean over images, in [0, 1].
    dice_pooled, iou_pooled: one ratio over all pixels, in [0, 1]; 1 where all masks are empty, as for one image.
    hd95_mm, assd_mm, hd95_percent, assd_percent: means over the images where they are defined. hd95_percent and
    assd_percent are defined where neither mask is empty.
    undefined_distances: the fraction of the images without hd95_percent, in [0, 1].

    Args:
        columns: (n,) each: dice, iou, both, predicted_only, reference_only (see `Overlap`), hd95_percent,
            assd_percent, hd95_mm, assd_mm (see `surface_distances`; nan where undefined).
        weights: (R, n) whole counts >= 0.

    Raises:
        ValueError: a column or the weights are not of n images.
    """
    columns, weights = as_floats(columns, weights)
    both, errors = 2 * columns["both"], columns["predicted_only"] + columns["reference_only"]
    metrics = {
        "dice": mean(columns["dice"], weights),
        "dice_sd": standard_deviation(columns["dice"], weights),
        "dice_median": median(columns["dice"], weights),
        "iou": mean(columns["iou"], weights),
        "dice_pooled": pooled(both, both + errors, weights),
        "iou_pooled": pooled(columns["both"], columns["both"] + errors, weights),
    }
    metrics |= {name: mean(columns[name], weights) for name in DISTANCES}
    return metrics | {"undefined_distances": mean(np.isnan(columns["hd95_percent"]).astype(float), weights)}


def _as_masks(predicted: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks as bool, > 0; raise ValueError where they differ in shape, or hold neither ints nor bools."""
    if predicted.shape != reference.shape:
        raise ValueError(f"predicted mask {predicted.shape} and reference mask {reference.shape} must have one shape")
    for name, mask in (("predicted", predicted), ("reference", reference)):
        if mask.dtype.kind not in "biu":
            raise ValueError(f"{name} mask must hold ints or bools, got {mask.dtype}: apply a threshold first")
    return predicted > 0, reference > 0
