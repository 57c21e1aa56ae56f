"""Lung masks on an X-ray's own pixels: where a small map of logits, upsampled, is above 0."""

import numpy as np
import torch
from torch.nn.functional import interpolate

PLAIN_SIDE = 256  # pixels; below it `interpolate` alone is quick, and torch may round differently
ROUNDING = 2.0**-22  # relative to the terms of a sum of two products in float32, doubled


def is_above_zero(small: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Return where `interpolate(small, mode="bilinear")` of an (s, t) float map is above 0, (height, width) bool.

    The result is the same to the bit, in a tenth of the time. `interpolate` first upsamples along the s rows, which is
    cheap, then mixes two of them for each row of the height. Where both have one sign, so has their mix. Elsewhere a
    mix in float64 decides, or `interpolate` itself where rounding to float32 could change the sign.
    """
    small = small.float().cpu()
    if min(height, width) < PLAIN_SIDE:
        return (_upsample(small, height, width) > 0).numpy()
    rows = _upsample(small, len(small), width)  # (s, W)
    weights = _upsample(torch.eye(len(small)), height, len(small)).numpy()  # (H, s), two of a row above 0
    upper = (weights > 0).argmax(1)  # (H,)
    values = rows.numpy().astype(np.float64)
    signs = values > 0
    mask = np.empty((height, width), bool)
    starts = np.flatnonzero(np.diff(upper, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], height], strict=True):
        above = upper[start]
        below = min(above + 1, len(small) - 1)
        mask[start:stop] = signs[above]
        mixed = np.flatnonzero(signs[above] != signs[below])
        terms = [weights[start:stop, [one]] * values[one, mixed] for one in (above, below)]  # (rows, columns)
        mix = terms[0] + terms[1]
        mask[start:stop, mixed] = mix > 0
        is_unsure = np.abs(mix) <= ROUNDING * (np.abs(terms[0]) + np.abs(terms[1]))
        if len(unsure := mixed[is_unsure.any(0)]):
            exact = _upsample(rows[:, unsure], height, len(unsure))  # (H, columns)
            mask[start:stop, unsure] = (exact[start:stop] > 0).numpy()
    return mask


def _upsample(small: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return an (s, t) map upsampled to (height, width)."""
    return interpolate(small[None, None], (height, width), mode="bilinear")[0, 0]
