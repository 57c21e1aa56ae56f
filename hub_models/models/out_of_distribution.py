"""How far an X-ray is from those that a segmenter learned from, by the features that it sees in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from hub_models.files import write_bytes
from hub_models.imaging.flags import Flag, RaisedFlag

OUT_OF_DISTRIBUTION_NAME = "out_of_distribution.safetensors"
NAME_BEFORE = "familiarity.safetensors"  # up to version 0.1
LEAST = 20  # X-rays from which a spread of features can be told
FOLDS = 10
# Of X-rays such as those of the training. Two models of the real ones, at 128 and at 256 px, find 3 of the 200 that
# they were not trained on beyond the limit, and all of 468 photographs, slices, pages, noise and drawings (many of
# them crops of the same pictures, and all in view when features and share were chosen).
LIMIT_QUANTILE = 0.98


@dataclass(frozen=True)
class OutOfDistribution:
    """Where the features of the X-rays lie that a segmenter learned from; kept in `out_of_distribution.safetensors`.

    Attributes:
        mean: (D,) of their features.
        precision: (D, D), inverse of the shrunk covariance of their features.
        limit: distance within which LIMIT_QUANTILE of them lie, each measured from the others.
        count: of the X-rays.
    """

    mean: np.ndarray
    precision: np.ndarray
    limit: float
    count: int

    @classmethod
    def of(cls, features: np.ndarray) -> "OutOfDistribution | None":
        """Of the features (N, D) of the X-rays of a training; None of fewer than LEAST.

        The limit is the quantile of the distances of X-rays that the mean and the covariance they are measured by do
        not know, by FOLDS folds: those of an X-ray to a mean it is part of are too small. Source: Lee 2018, arXiv
        1807.03888 (the distance); Ledoit 2004, doi 10.1016/S0047-259X(03)00096-4 (the covariance).
        """
        if len(features) < LEAST:
            return None
        folds = np.arange(len(features)) % FOLDS
        apart = np.empty(len(features))
        for fold in range(FOLDS):
            apart[folds == fold] = _distances(features[folds == fold], *_spread(features[folds != fold]))
        return cls(*_spread(features), float(np.quantile(apart, LIMIT_QUANTILE, method="higher")), len(features))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """(N,) Mahalanobis distances of features (N, D), in standard deviations.

        Raises:
            ValueError: features of another model.
        """
        if features.shape[1] != len(self.mean):
            raise ValueError(
                f"{OUT_OF_DISTRIBUTION_NAME} is of a model of {len(self.mean)} features, this one has "
                f"{features.shape[1]}: delete it, or pass the folder as training left it"
            )
        return _distances(features, self.mean, self.precision)

    def save(self, folder: Path) -> None:
        """Write `out_of_distribution.safetensors`, whole or not at all."""
        tensors = {"mean": np.float32(self.mean), "precision": np.float32(self.precision)}
        tensors |= {"limit": np.array(self.limit), "count": np.array(self.count)}  # metadata has no order
        # as bytes: safetensors' own file would shut out colleagues
        write_bytes(save(tensors), folder / OUT_OF_DISTRIBUTION_NAME)

    @classmethod
    def load(cls, folder: Path) -> "OutOfDistribution | None":
        """Of a run folder; None where it has none, as those of before.

        Raises:
            ValueError: the file is damaged.
        """
        names = (OUT_OF_DISTRIBUTION_NAME, NAME_BEFORE)
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            return None
        try:
            tensors = load_file(path)
            mean, precision = tensors["mean"].astype(float), tensors["precision"].astype(float)
            return cls(mean, precision, tensors["limit"].item(), tensors["count"].item())
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, or copy it anew") from error


def _spread(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and precision (D, D) of features (N, D)."""
    from sklearn.covariance import LedoitWolf  # of training only, and slow to import

    fitted = LedoitWolf().fit(features.astype(float))
    return fitted.location_, fitted.precision_


def _distances(features: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    off = features - mean  # (N, D)
    return np.sqrt(np.maximum(np.einsum("nd,de,ne->n", off, precision, off), 0))


def features_of(hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, D) features from the maps (B, C, h, w) of an encoder's stages: the standard deviation of each channel.

    Of the last two stages: of all four, and of the channels' means, they part real X-rays best from turned, cut and
    other ones.
    """
    return torch.cat([stage.float().std((2, 3), correction=0) for stage in hidden_states[-2:]], 1)  # (B, D)


def distance_flags(distance: float | None, limit: float | None) -> tuple[RaisedFlag, ...]:
    """Return a flag where an X-ray is beyond the limit; empty where it is not, or nothing is known."""
    if distance is None or limit is None or distance <= limit:
        return ()
    return (Flag.OUT_OF_DISTRIBUTION.raised(distance=f"{distance:.0f}", limit=f"{limit:.0f}"),)
