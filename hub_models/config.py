"""What a run was asked to do: a frozen dataclass, checked when made, saved as JSON beside what it made."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hub_models.files import write_json

CONFIG_NAME = "train_config.json"


def option(default: Any, text: str) -> Any:
    """Dataclass field with a default and the help that the command line shows."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """A training run. At the defaults, SegFormer-B0 from scratch takes about a minute an epoch on 2 CPU cores.

    Raises:
        ValueError: a value is out of its range.
    """

    data_dir: str = field(metadata={"help": "folder or zip that holds the X-rays"})
    output_dir: str = field(metadata={"help": "run folder to make or to go on with; all processes must see it"})
    task: Literal["lung_segmentation"] = option("lung_segmentation", "what to learn")
    config_name: Literal["all", "MC", "Shenzhen"] = option("all", "sites to train on and test on")
    model: str | None = option(None, "Hub id or folder of the checkpoint to start from (the task's own by default)")
    from_scratch: bool = option(False, "random weights in the architecture of `model`; needs no download")
    image_size: int = option(256, "side in pixels to which X-rays are scaled, a multiple of 32")
    epochs: int = option(30, "passes over the training images")
    batch_size: int = option(8, "images in a step, all processes together")
    learning_rate: float | None = option(None, "peak of the cosine schedule (6e-4 from scratch, 2e-4 otherwise)")
    weight_decay: float = option(0.01, "AdamW's, on weights of two and more dimensions")
    warmup_share: float = option(0.1, "share of the steps in which the learning rate climbs to its peak")
    gradient_norm: float = option(1.0, "largest norm of the gradient; longer ones are clipped")
    augment: bool = option(True, "turn, scale, shift, and change the contrast of training images")
    seed: int = option(0, "of the weights, the order of images and their augmentation")

    def __post_init__(self) -> None:
        """Check every value that can be checked without the data."""
        for one in fields(self):
            known = get_args(one.type) if get_origin(one.type) is Literal else ()
            if known and getattr(self, one.name) not in known:
                raise ValueError(f"{one.name} must be one of {', '.join(known)}, got {getattr(self, one.name)!r}")
        rules = {
            "image_size": (self.image_size > 0 and self.image_size % 32 == 0, "must be a multiple of 32"),
            "epochs": (self.epochs > 0, "must be at least 1"),
            "batch_size": (self.batch_size > 0, "must be at least 1"),
            "learning_rate": (self.learning_rate is None or self.learning_rate > 0, "must be above 0"),
            "weight_decay": (self.weight_decay >= 0, "must not be negative"),
            "warmup_share": (0 <= self.warmup_share < 1, "must be in [0, 1)"),
            "gradient_norm": (self.gradient_norm > 0, "must be above 0"),
            "seed": (self.seed >= 0, "must not be negative"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise ValueError(f"{name} {rule}, got {getattr(self, name)}")

    def save(self, folder: Path) -> None:
        """Write `train_config.json`, whole or not at all."""
        write_json(asdict(self), folder / CONFIG_NAME)

    @classmethod
    def load(cls, folder: Path) -> "TrainConfig":
        """Config of a run folder.

        Raises:
            FileNotFoundError: the folder holds no `train_config.json`.
            ValueError: the file was made by another version of this code.
        """
        path = folder / CONFIG_NAME
        if not path.is_file():
            raise FileNotFoundError(f"no {CONFIG_NAME} in {folder}: pass a folder that scripts/train.py made")
        values = json.loads(path.read_text())
        if unknown := sorted(set(values) - {known.name for known in fields(cls)}):
            raise ValueError(f"{path} has fields this version does not know: {', '.join(unknown)}")
        return cls(**values)

    def differences(self, other: "TrainConfig") -> list[str]:
        """Lines `field: ours, not theirs`, one for each field but the two folders in which two configs differ."""
        mine, theirs = asdict(self), asdict(other)
        names = [name for name in mine if name not in ("data_dir", "output_dir") and mine[name] != theirs[name]]
        return [f"{name}: {mine[name]!r}, not {theirs[name]!r}" for name in names]
