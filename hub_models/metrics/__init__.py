"""Metrics of lung masks and of TB probabilities: of one image first, then of a set of images."""
# ruff: noqa: F401  (the imports are the public names)

from pathlib import Path
from typing import TYPE_CHECKING

from hub_models.lazy import loader
from hub_models.metrics.classification import (
    SALIENCY_COLUMNS,
    TEMPERATURES,
    fit_temperature,
    saliency_metrics,
    screening_metrics,
    threshold_for_sensitivity,
)
from hub_models.metrics.segmentation import (
    DISTANCES,
    Overlap,
    count_overlap,
    dice,
    iou,
    lung_metrics,
    surface_distances,
)

if TYPE_CHECKING:
    from hub_models.metrics.lung_overlap.lung_overlap import LungOverlap
    from hub_models.metrics.screening.screening import Screening

# The names up to version 0.1.
lung_figures, screening_figures, saliency_figures = lung_metrics, screening_metrics, saliency_metrics

_EVALUATE = {"LungOverlap": "lung_overlap", "Screening": "screening"}  # `evaluate` takes seconds to import
__getattr__ = loader(__name__, {name: f"{__name__}.{one}.{one}" for name, one in _EVALUATE.items()})


def evaluate_module(name: str) -> str:
    """Return the path by which `evaluate.load` finds the module `name`, lung_overlap or screening, wherever installed.

    Raises:
        ValueError: there is no such module.
    """
    if name not in _EVALUATE.values():
        raise ValueError(f"no module {name!r}: choose one of {', '.join(_EVALUATE.values())}")
    return str(Path(__file__).with_name(name))
