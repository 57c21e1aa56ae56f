"""How far an X-ray is from those that a segmenter was trained on, by the segmenter's features of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from hub_models.files import write_bytes
from hub_models.imaging.flags import Flag, RaisedFlag

if TYPE_CHECKING:
    import torch

OUT_OF_DISTRIBUTION_NAME = "out_of_distribution.safetensors"
NAME_BEFORE = "familiarity.safetensors"  # up to version 0.1
LEAST = 20  # X-rays from which the spread of features can be estimated
LIMIT_FOLDS = 10
# Of X-rays like those of the training. Two models of the real ones, at 128 and at 256 px, find 3 of the 200 that they
# were not trained on beyond the limit, and all of 468 photographs, slices, pages, noise and drawings. Many of these
# are crops of the same pictures, and all were known when features and quantile were chosen.
LIMIT_QUANTILE = 0.98


@dataclass(frozen=True)
class OutOfDistribution:
    """The distribution of a segmenter's features on its training X-rays; kept in `out_of_distribution.safetensors`."""

    mean: np.ndarray  # (D,)
    precision: np.ndarray  # (D, D), inverse of the shrunk covariance
    limit: float  # distance within which LIMIT_QUANTILE of the X-rays lie, each measured from the others
    count: int  # of the X-rays

    @classmethod
    def of(cls, features: np.ndarray) -> "OutOfDistribution | None":
        """Return the distribution of the features (N, D) of training X-rays; None of fewer than LEAST.

        An X-ray is too near to a mean and a covariance that it is part of. So LIMIT_FOLDS folds measure each X-ray by
        those of the others, and the limit is the quantile of these distances. Source: Lee 2018, arXiv 1807.03888 (the
        distance); Ledoit 2004, doi 10.1016/S0047-259X(03)00096-4 (the covariance).
        """
        if len(features) < LEAST:
            return None
        folds = np.arange(len(features)) % LIMIT_FOLDS
        distances = np.empty(len(features))
        for fold in range(LIMIT_FOLDS):
            distances[folds == fold] = _distances(features[folds == fold], *_spread(features[folds != fold]))
        limit = float(np.quantile(distances, LIMIT_QUANTILE, method="higher"))
        return cls(*_spread(features), limit, len(features))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return (N,) Mahalanobis distances of features (N, D), in standard deviations.

        Raises:
            ValueError: features of another model.
        """
        if features.shape[1] != len(self.mean):
            own = f"{OUT_OF_DISTRIBUTION_NAME} is for a model with {len(self.mean)} features"
            raise ValueError(f"{own}, but this one has {features.shape[1]}: delete it, or copy the run folder again")
        return _distances(features, self.mean, self.precision)

    def save(self, folder: Path) -> None:
        """Write `out_of_distribution.safetensors`, whole or not at all."""
        tensors = {"mean": self.mean.astype(np.float32), "precision": self.precision.astype(np.float32)}
        tensors |= {"limit": np.array(self.limit), "count": np.array(self.count)}  # metadata has no order
        # as bytes: only its owner could read a file that safetensors writes
        write_bytes(save(tensors), folder / OUT_OF_DISTRIBUTION_NAME)

    @classmethod
    def load(cls, folder: Path) -> "OutOfDistribution | None":
        """Return the distribution kept in a run folder, None in older ones; raise ValueError for a damaged file."""
        paths = (folder / OUT_OF_DISTRIBUTION_NAME, folder / NAME_BEFORE)
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return None
        try:
            tensors = load_file(path)
            mean, precision = tensors["mean"].astype(float), tensors["precision"].astype(float)
            found = cls(mean, precision, float(tensors["limit"].item()), int(tensors["count"].item()))
            numbers = np.concatenate([mean.ravel(), precision.ravel(), [found.limit]])
            is_sound = mean.ndim == 1 and precision.shape == (len(mean), len(mean)) and np.isfinite(numbers).all()
            if not (is_sound and (np.diag(precision) > 0).all() and found.limit > 0):
                raise ValueError("numbers that are not those of a distribution")
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, or copy it again") from error
        return found


def _spread(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and precision (D, D) of features (N, D)."""
    from sklearn.covariance import LedoitWolf  # of training only, and slow to import

    fitted = LedoitWolf().fit(features.astype(float))
    return fitted.location_, fitted.precision_


def _distances(features: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    off = features - mean  # (N, D)
    return np.sqrt(np.maximum(np.einsum("nd,de,ne->n", off, precision, off), 0))


def features_of(hidden_states: "Sequence[torch.Tensor]") -> "torch.Tensor":
    """Return (B, D) features, the standard deviation of each channel of the last two maps (B, C, h, w) of an encoder.

    These separate real X-rays from turned, cut and other images better than four stages or the channels' means.
    """
    import torch  # late: whoever has the features needs none

    return torch.cat([stage.float().std((2, 3), correction=0) for stage in hidden_states[-2:]], 1)  # (B, D)


def distance_flags(distance: float | None, limit: float | None) -> tuple[RaisedFlag, ...]:
    """Return a flag where the distance of an X-ray is beyond the limit; none where it is not, or is unknown."""
    if distance is None or limit is None or distance <= limit:
        return ()
    return (Flag.OUT_OF_DISTRIBUTION.raised(distance=f"{distance:.0f}", limit=f"{limit:.0f}"),)
