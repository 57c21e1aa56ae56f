"""What a run was asked to do: a frozen dataclass, checked when made, saved as JSON beside what it made."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from hub_models.dataset.folds import FOLDS
from hub_models.files import write_json

CONFIG_NAME = "train_config.json"
NAMES_BEFORE = {"warmup_share": "warmup_fraction"}  # up to version 0.1
CONFIG_VERSION = 2  # raise when a saved value comes to mean something else; 2: region lungs, found_lungs until then
LABEL_TASKS = ("tb_classification",)
MODEL_HELP = (
    "Hub id, run folder or architecture to start from (default: nvidia/mit-b0 for lungs, google/vit-base-patch16-224 "
    "for TB). Architectures for lungs: nvidia/mit-b0 to nvidia/mit-b5, segformer-light; for TB: "
    "google/vit-base-patch16-224, facebook/deit-tiny-patch16-224, facebook/deit-small-patch16-224, "
    "microsoft/swin-tiny-patch4-window7-224, microsoft/resnet-18, resnet-light; the light ones need --from_scratch"
)
PLACES = ("data_dir", "output_dir")  # where a run reads and writes says nothing of what it computes
LEARNING_RATES = {True: 1e-3, False: 2e-4}  # from scratch or not


def option(default: Any, text: str) -> Any:
    """Dataclass field with a default and the help that the command line shows."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Raises:
        ValueError: a value is out of its range, or two of them exclude each other.
    """

    data_dir: str = field(metadata={"help": "folder or zip that holds the X-rays"})
    output_dir: str = field(metadata={"help": "run folder to make or to go on with; all processes must see it"})
    task: Literal["lung_segmentation", "tb_classification"] = option("lung_segmentation", "what to learn")
    protocol: Literal["default", "idiap", "ark", "mc_to_shenzhen", "shenzhen_to_mc", "folds"] = option(
        "default", "which X-rays are trained on, which chosen with, and which tested on"
    )
    fold: int | None = option(None, f"fold of protocol folds, 0 to {FOLDS - 1} (default: all, one after the other)")
    config_name: Literal["all", "MC", "Shenzhen"] = option("all", "sites to read")
    model: str | None = option(None, MODEL_HELP)
    from_scratch: bool = option(
        False,
        "random weights in the architecture of --model; no download",
    )
    image_size: int | None = option(
        None, "side in pixels to which X-rays are scaled, a multiple of 32 (default: 256 for lungs, 224 for TB)"
    )
    fit: Literal["squash", "pad"] = option("squash", "scale both sides to image_size, or keep the aspect and pad")
    region: Literal["image", "lungs"] = option(
        "image", "what TB is read from: the X-ray, or its lungs as segmenter finds them"
    )
    segmenter: str | None = option(None, "run folder of the lung model that finds lungs, for region lungs")
    epochs: int = option(30, "passes over the training images")
    batch_size: int = option(8, "images in a step, all processes together")
    accumulation: int = option(1, "steps whose gradients make one update of the weights")
    learning_rate: float | None = option(None, "peak of the cosine schedule (default: 2e-4; 1e-3 with --from_scratch)")
    layer_decay: float = option(1.0, "factor of the learning rate from each layer to the one below; 1 is none")
    weight_decay: float = option(0.01, "AdamW's, on weights of two and more dimensions")
    warmup_fraction: float = option(0.1, "share of the updates in which the learning rate climbs to its peak")
    gradient_norm: float = option(1.0, "largest norm of the gradient; longer ones are clipped")
    dropout: float = option(0.0, "of the classifier and of whole layers; above 0, processes draw apart")
    label_smoothing: float = option(0.0, "share of a TB label spread over both classes")
    ema: float = option(0.0, "decay per update of the running mean of the weights that is kept; 0 keeps the weights")
    balance: Literal["none", "weights", "sampling"] = option(
        "none", "make both TB classes count alike: in the loss, or by drawing the rarer more often"
    )
    augment: Literal["none", "light", "strong"] = option("light", "how much training images are changed")
    keep: Literal["best", "last"] = option("best", "the epoch that is kept: best on validation, or the last")
    patience: int = option(0, "epochs without a better validation figure after which training stops; 0 never stops")
    checkpoint_steps: int = option(0, "steps between checkpoints within an epoch; 0 makes one at its end only")
    checkpoints: int = option(2, "newest checkpoints that are kept while training")
    tracker: str = option(
        "auto", "TensorBoard if it is installed (auto), any that Accelerate knows (wandb, ...), all found, or none"
    )
    seed: int = option(0, "of the weights, the order of images and their augmentation")

    def __post_init__(self) -> None:
        """Check every value that can be checked without the data."""
        for one in fields(self):
            known = get_args(one.type) if get_origin(one.type) is Literal else ()
            if known and getattr(self, one.name) not in known:
                raise ValueError(f"{one.name} must be one of {', '.join(known)}, got {getattr(self, one.name)!r}")
        size, lungs = self.image_size, self.task not in LABEL_TASKS
        rules = {
            "image_size": (size is None or (size > 0 and size % 32 == 0), "must be a positive multiple of 32"),
            "fold": (self.fold is None or 0 <= self.fold < FOLDS, f"must be 0 to {FOLDS - 1}"),
            "epochs": (self.epochs > 0, "must be at least 1"),
            "batch_size": (self.batch_size > 0, "must be at least 1"),
            "accumulation": (self.accumulation > 0, "must be at least 1"),
            "learning_rate": (self.learning_rate is None or self.learning_rate > 0, "must be above 0"),
            "layer_decay": (0 < self.layer_decay <= 1, "must be in (0, 1]"),
            "weight_decay": (self.weight_decay >= 0, "must not be negative"),
            "warmup_fraction": (0 <= self.warmup_fraction < 1, "must be in [0, 1)"),
            "gradient_norm": (self.gradient_norm > 0, "must be above 0"),
            "dropout": (0 <= self.dropout < 1, "must be in [0, 1)"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "must be in [0, 1)"),
            "ema": (0 <= self.ema < 1, "must be in [0, 1)"),
            "patience": (self.patience >= 0, "must not be negative"),
            "checkpoint_steps": (self.checkpoint_steps >= 0, "must not be negative"),
            "checkpoints": (self.checkpoints > 0, "must be at least 1"),
            "seed": (self.seed >= 0, "must not be negative"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise ValueError(f"{name} {rule}, got {getattr(self, name)}")
        exclusive = {
            "fold": (self.fold is not None and self.protocol != "folds", "protocol folds"),
            "region": (self.region != "image" and lungs, "task tb_classification"),
            "balance": (self.balance != "none" and lungs, "task tb_classification"),
            "label_smoothing": (self.label_smoothing > 0 and lungs, "task tb_classification"),
            "segmenter": (self.segmenter is not None and self.region == "image", "region lungs"),
        }
        for name, (is_alone, owner) in exclusive.items():
            if is_alone:
                raise ValueError(
                    f"{name} is of {owner}: leave out {name} {getattr(self, name)!r}, or change the other"
                )

    def save(self, folder: Path) -> None:
        """Write `train_config.json`, whole or not at all."""
        write_json(self.to_values(), folder / CONFIG_NAME)

    def to_values(self) -> dict[str, Any]:
        """Return what `train_config.json` holds: every field, and the version that says what their values mean."""
        return asdict(self) | {"version": CONFIG_VERSION}

    @classmethod
    def load(cls, folder: Path) -> "TrainConfig":
        """Config of a run folder.

        Raises:
            FileNotFoundError: the folder holds no `train_config.json`.
            ValueError: the file was made by another version of this code.
        """
        path = folder / CONFIG_NAME
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: pass one that scripts/train.py made")
        if not path.is_file():
            raise FileNotFoundError(f"no {CONFIG_NAME} in {folder}: pass a folder that scripts/train.py made")
        values = json.loads(path.read_text())
        version = values.pop("version", 1)
        if version < 2 and values.get("region") == "lungs":
            raise ValueError(
                f"{path} says region 'lungs' of an earlier version, the lungs of reference masks, which new X-rays do "
                "not have: train again with region lungs and a segmenter"
            )
        values = renamed(values)
        if unknown := sorted(set(values) - {known.name for known in fields(cls)}):
            raise ValueError(f"{path} has fields this version does not know: {', '.join(unknown)}")
        return cls(**values)

    def differences(self, other: "TrainConfig") -> list[str]:
        """Lines `field: ours, not theirs`, one for each field that changes what is computed and differs."""
        mine, theirs = asdict(self), asdict(other)
        names = [name for name in mine if name not in (*PLACES, "tracker") and mine[name] != theirs[name]]
        return [f"{name}: {mine[name]!r}, not {theirs[name]!r}" for name in names]


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Return saved values of a config with the names that they have now."""
    values = {NAMES_BEFORE.get(name, name): value for name, value in values.items()}
    return values | {"region": "lungs"} if values.get("region") == "found_lungs" else values
