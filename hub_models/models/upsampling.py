"""Lung masks on an X-ray's own pixels: where a small map of logits, upsampled, is above 0."""

import numpy as np


def is_above_zero(small: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return where torch's `interpolate(small, mode="bilinear")` of an (s, t) map is above 0, (height, width) bool.

    Sums are in float64, and so differ from torch's only where rounding to float32 decides on the sign. The map is
    upsampled along its s rows first, which is cheap. Then two of them are mixed for each row of the height, but only
    where their signs differ: elsewhere their mix has their sign. That takes a tenth of torch's time.
    """
    small = np.asarray(small, np.float64)
    left, right, weights = _neighbours(small.shape[1], width)
    rows = np.take(small, left, 1) * (1 - weights) + np.take(small, right, 1) * weights  # (s, W)
    signs = rows > 0
    upper, lower, weights = _neighbours(len(small), height)
    mask = np.take(signs, upper, 0)  # (H, W); several times as fast as signs[upper]
    starts = np.flatnonzero(np.diff(upper, prepend=-1))  # of rows between the same two of the map
    above, below = upper[starts], lower[starts]
    lengths = np.diff(starts, append=height)
    part, column = np.nonzero(signs[above] != signs[below])  # (N,) each
    row = starts[part] + np.arange(lengths.max())[:, None]  # (longest, N)
    row = np.minimum(row, (starts + lengths)[part] - 1)  # the last again, in shorter parts
    weight = weights[row]
    mask[row, column] = (1 - weight) * rows[above[part], column] + weight * rows[below[part], column] > 0
    return mask


def _neighbours(count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two of `count` values that each of `size` lies between, (size,) each, and the second one's weight.

    Source: torch's area_pixel_compute_source_index without aligned corners, in its float32.
    """
    scale, half = np.float32(count) / np.float32(size), np.float32(0.5)
    places = np.maximum(scale * (np.arange(size, dtype=np.float32) + half) - half, np.float32(0))
    first = np.minimum(places.astype(np.intp), count - 1)
    return first, np.minimum(first + 1, count - 1), np.clip(places - first.astype(np.float32), 0, 1).astype(np.float64)
