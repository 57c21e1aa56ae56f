"""Models that read the chest X-rays of `chest_xray_masks`; the public names are loaded when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chest_xray_masks import __version__ as __version__
    from hub_models.evaluation.evaluate import evaluate_run
    from hub_models.hub.push import pull_model, push_model
    from hub_models.imaging.gray import to_gray
    from hub_models.imaging.masks import to_mask
    from hub_models.predict.reader import ChestXrayReader, Prediction
    from hub_models.runs.config import TrainConfig

__all__ = [
    "ChestXrayReader",
    "Prediction",
    "TrainConfig",
    "evaluate_run",
    "pull_model",
    "push_model",
    "to_gray",
    "to_mask",
]
_MODULES = {
    "ChestXrayReader": "hub_models.predict.reader",
    "Prediction": "hub_models.predict.reader",
    "TrainConfig": "hub_models.runs.config",
    "evaluate_run": "hub_models.evaluation.evaluate",
    "pull_model": "hub_models.hub.push",
    "push_model": "hub_models.hub.push",
    "to_gray": "hub_models.imaging.gray",
    "to_mask": "hub_models.imaging.masks",
    "__version__": "chest_xray_masks",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public names beside what is loaded."""
    return sorted({*globals(), *_MODULES})
