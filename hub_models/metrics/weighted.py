"""Means, medians and ratios over a set of images, of which each counts as often as its weight says.

A column (n,) holds one value per image. The weights (R, n) say how often each image counts in each of R resamples.
Ones (1, n) give the set's own metrics; `intervals` draws more.
"""

from collections.abc import Mapping
from math import nan

import numpy as np

Columns = Mapping[str, np.ndarray]


def as_floats(columns: Columns, weights: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return columns (n,) and weights (R, n) as float; ValueError where one is not of n images."""
    floats, weights = {name: np.asarray(one, float) for name, one in columns.items()}, np.asarray(weights, float)
    shapes = {name: column.shape for name, column in floats.items()}
    if weights.ndim != 2 or set(shapes.values()) - {weights.shape[1:]}:
        raise ValueError(f"weights must be (R, n) and each column (n,), got weights {weights.shape} and {shapes}")
    return floats, weights


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below, nan where `below` is 0."""
    return np.divide(above, below, out=np.full(np.shape(above), nan), where=below != 0)


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean (R,) of the values (n,) that are not nan; nan where none of them counts."""
    defined = ~np.isnan(values)
    return ratio(weights[:, defined] @ values[defined], weights[:, defined].sum(axis=1))


def standard_deviation(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the sample standard deviation (R,); nan where fewer than two images count."""
    from_mean = values - mean(values, weights)[:, None]  # (R, n)
    return np.sqrt(ratio((weights * from_mean**2).sum(axis=1), np.maximum(weights.sum(axis=1) - 1, 0)))


def median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the median (R,); nan where no image counts."""
    order = np.argsort(values)
    values, up_to = np.append(values[order], nan), weights[:, order].cumsum(axis=1)  # nan: the value of no image
    images = weights.sum(axis=1, keepdims=True)
    lower, upper = (values[(up_to <= rank).sum(axis=1)] for rank in ((images - 1) // 2, images // 2))
    return (lower + upper) / 2


def pooled(above: np.ndarray, below: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return one ratio (R,) over all pixels; 1 where images count and `below` is 0, nan where no image counts."""
    found = ratio(weights @ above, weights @ below)
    return np.where(np.isnan(found) & weights.any(axis=1), 1.0, found)
