"""Overlap of lung masks: counts per image first, then the figures as one-line formulas of the counts.

Source: Taha and Hanbury 2015, doi 10.1186/s12880-015-0068-x.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


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
    if predicted.shape != reference.shape:
        raise ValueError(f"predicted mask {predicted.shape} and reference mask {reference.shape} must have one shape")
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


def summarize(values: Iterable[float]) -> dict[str, float | int | None]:
    """n, mean, sample sd, median and minimum over images; the sd of one image and all figures of none are None."""
    figures = np.fromiter(values, float)
    if not figures.size:
        return {"n": 0, "mean": None, "sd": None, "median": None, "min": None}
    return {
        "n": figures.size,
        "mean": float(figures.mean()),
        "sd": float(figures.std(ddof=1)) if figures.size > 1 else None,
        "median": float(np.median(figures)),
        "min": float(figures.min()),
    }
