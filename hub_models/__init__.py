"""Models that read the chest X-rays of `chest_xray_masks`; the public names are loaded when they are first used."""

from typing import TYPE_CHECKING

from hub_models.lazy import loader

if TYPE_CHECKING:
    from chest_xray_masks import __version__ as __version__
    from hub_models.evaluation.calibration_config import CalibrationConfig
    from hub_models.evaluation.evaluate import evaluate_run
    from hub_models.hub.push import pull_model, push_model
    from hub_models.imaging.gray import to_gray
    from hub_models.imaging.masks import to_mask
    from hub_models.predict.reader import ChestXrayReader, Prediction
    from hub_models.runs.config import TrainConfig
    from hub_models.training.calibrate import calibrate
    from hub_models.training.train import train

__all__ = [
    "CalibrationConfig",
    "ChestXrayReader",
    "Prediction",
    "TrainConfig",
    "calibrate",
    "evaluate_run",
    "pull_model",
    "push_model",
    "to_gray",
    "to_mask",
    "train",
]
_PUBLIC = {
    "CalibrationConfig": "hub_models.evaluation.calibration_config",
    "ChestXrayReader": "hub_models.predict.reader",
    "Prediction": "hub_models.predict.reader",
    "TrainConfig": "hub_models.runs.config",
    "calibrate": "hub_models.training.calibrate",
    "evaluate_run": "hub_models.evaluation.evaluate",
    "pull_model": "hub_models.hub.push",
    "push_model": "hub_models.hub.push",
    "to_gray": "hub_models.imaging.gray",
    "to_mask": "hub_models.imaging.masks",
    "__version__": "chest_xray_masks",
    "train": "hub_models.training.train",
}
__getattr__ = loader(__name__, _PUBLIC)


def __dir__() -> list[str]:
    """Return the public names beside what is loaded."""
    return sorted({*globals(), *_PUBLIC})
