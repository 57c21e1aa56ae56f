"""How a model is to be used: the values that its config.json keeps beside its architecture. No torch is needed."""

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_models.hub_client.downloads import SETTINGS_KEY
from hub_models.imaging.lung_crop import Region
from hub_models.imaging.resizing import Fit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VIEWS = ((0, 1), (-5, 1), (5, 1), (0, 0.9), (0, 1.1))  # degrees and scale; no mirror image: the heart has a side
MODEL_FILES = ("model.safetensors", "config.json", "preprocessor_config.json")  # what a prediction depends on


def digest_of_model(folder: Path) -> str:
    """Return the SHA-256 of the weights, config and image processor in a run folder."""
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in MODEL_FILES)).hexdigest()


@dataclass(frozen=True)
class Settings:
    """How a model is to be used; kept in its config.json under `chest_xray_masks`."""

    task: str  # key of TASKS
    image_size: int  # side in pixels of the model's input
    fit: Fit = "squash"  # how an X-ray becomes square
    region: Region = "image"  # or "lungs" where the model sees only the lungs that a lung model finds
    temperature: float = 1.0  # divisor of the logits that calibrates probabilities; the weights hold it already
    threshold: float = 0.5  # probability from which on an X-ray is called positive; 0.5 without a decision
    views: int = 1  # forward passes for an X-ray, turned and scaled a little: the first so many of VIEWS
    two_lungs: bool = False  # keep the two largest regions of a lung mask only, their holes filled

    def __post_init__(self) -> None:
        """Raise ValueError for more views than VIEWS has, or none."""
        if not 1 <= self.views <= len(VIEWS):
            raise ValueError(f"views must be 1 to {len(VIEWS)}, got {self.views}")

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
        if values is None or set(values) != {field.name for field in fields(cls)}:
            raise ValueError(f"config.json of {source} has no {SETTINGS_KEY}: pass a model of scripts/train.py")
        region = "lungs" if values["region"] == "found_lungs" else values["region"]  # its name before 0.2
        return cls(**values | {"region": region})
