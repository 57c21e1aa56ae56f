"""How a model is to be used: the values that its config.json keeps beside its architecture. No torch is needed."""

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from hub_models.hub_client.downloads import SETTINGS_KEY
from hub_models.hub_client.model_files import LARGEST_SIDE, TaskName, check_types, damaged
from hub_models.imaging.lung_crop import Region
from hub_models.imaging.resizing import Fit
from hub_models.metrics.intervals import Interval

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VIEWS = ((0, 1), (-5, 1), (5, 1), (0, 0.9), (0, 1.1))  # degrees and scale; no mirror image: the heart has a side
MODEL_FILES = ("model.safetensors", "config.json", "preprocessor_config.json")  # what a prediction depends on


HISTORY_KEY = "chest_xray_masks_calibrations"  # in config.json: a list of OperatingPoint, the newest last


class OperatingPoint(TypedDict):
    """What a calibration on local X-rays chose, kept in the history of a model; its metrics are cross-fitted."""

    date: str
    data: str  # name of the X-rays, never a path
    images: int
    patients: int
    positives: int
    synthetic: int
    rule: str
    prevalence: float
    temperature: float
    threshold: float
    sensitivity: Interval
    specificity: Interval
    temperature_before: float
    threshold_before: float


def history_of(values: dict[str, Any], name: str | Path) -> list[OperatingPoint]:
    """Return the calibrations in the values of a config.json, the newest last; raise ValueError for damaged ones."""
    history = values.get(HISTORY_KEY, [])
    if not (isinstance(history, list) and all(isinstance(one, dict) for one in history)):
        raise damaged(name, f"{HISTORY_KEY} is {str(history)[:40]!r}")
    for one in history:
        check_types(one, OperatingPoint, name)
    return history


def digest_of_model(folder: Path) -> str:
    """Return the SHA-256 of the weights, config and image processor in a run folder."""
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in MODEL_FILES)).hexdigest()


@dataclass(frozen=True)
class Settings:
    """How a model is to be used; kept in its config.json under `chest_xray_masks`."""

    task: TaskName  # key of TASKS
    image_size: int  # side in pixels of the model's input
    fit: Fit = "squash"  # how an X-ray becomes square
    region: Region = "image"  # or "lungs" where the model sees only the lungs that a lung model finds
    temperature: float = 1.0  # divisor of the logits that calibrates probabilities; the weights hold it already
    threshold: float = 0.5  # probability from which on an X-ray is called positive; 0.5 without a decision
    views: int = 1  # forward passes for an X-ray, turned and scaled a little: the first so many of VIEWS
    two_lungs: bool = False  # keep the two largest regions of a lung mask only, their holes filled

    def __post_init__(self) -> None:
        """Raise ValueError for more views than VIEWS has, or none, and for numbers that no training writes."""
        for name, least, most in (("views", 1, len(VIEWS)), ("image_size", 1, LARGEST_SIDE), ("threshold", 0, 1)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be {least} to {most}, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def store(self, model: "PreTrainedModel") -> None:
        """Write into `model.config`, and so into the config.json saved with it."""
        setattr(model.config, SETTINGS_KEY, asdict(self))

    @classmethod
    def of(cls, model: "PreTrainedModel") -> "Settings":
        """Return the settings that `store` wrote; raise ValueError for a model that this project did not make."""
        return cls.parse(getattr(model.config, SETTINGS_KEY, None), str(model.name_or_path))

    @classmethod
    def parse(cls, values: dict[str, Any] | None, source: str | Path) -> "Settings":
        """Return the settings in the config.json of `source`; raise ValueError where this project did not make it."""
        if not isinstance(values, dict) or set(values) != {field.name for field in fields(cls)}:
            raise ValueError(f"config.json of {source} has no {SETTINGS_KEY}: pass a model that cxm train made")
        region = "lungs" if values["region"] == "found_lungs" else values["region"]  # its name before 0.2
        values, name = values | {"region": region}, f"{SETTINGS_KEY} in config.json of {source}"
        check_types(values, cls, name)
        try:
            return cls(**values)
        except ValueError as error:
            raise damaged(name, error) from error


class Normalization(TypedDict, total=False):
    """Mean and standard deviation of a model's input, by channel, where they are named."""

    image_mean: list[float] | None
    image_std: list[float] | None


def check_normalization(values: dict[str, Any], name: str) -> None:
    """Raise ValueError where mean or standard deviation are not three numbers, the latter above 0."""
    check_types(values, Normalization, name)
    mean, std = (values.get(key) or [1] * 3 for key in ("image_mean", "image_std"))
    if not (len(mean) == len(std) == 3 and min(std) > 0):
        raise damaged(name, f"image_mean {mean}, image_std {std}: not three numbers each, the latter above 0")
