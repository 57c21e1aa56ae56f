"""The config of a run: a frozen dataclass, checked when made, saved as JSON in the run folder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from hub_models.dataset.folds import FOLDS
from hub_models.files import write_json
from hub_models.hub_client.model_files import (
    LARGEST_SIDE,
    TaskName,
    check_types,
    damaged,
    read_json,
    refuse_encoder,
)

CONFIG_NAME = "train_config.json"
NAMES_BEFORE = {"warmup_share": "warmup_fraction"}  # up to version 0.1
CONFIG_VERSION = 2  # raise when a saved value comes to mean something else; 2: region lungs, found_lungs until then
RECORDED = ("version", "device", "duration_seconds")  # beside the fields in the file; no option sets them
LABEL_TASKS = ("tb_classification",)
MODEL_HELP = (
    "Hub id, run folder or architecture to start from (default: nvidia/mit-b0 for lungs, google/vit-base-patch16-224 "
    "for TB). Architectures for lungs: nvidia/mit-b0 to nvidia/mit-b5, segformer-light; for TB: "
    "google/vit-base-patch16-224, facebook/deit-tiny-patch16-224, facebook/deit-small-patch16-224, "
    "microsoft/swin-tiny-patch4-window7-224, microsoft/resnet-18, resnet-light, vit-light; the light ones need "
    "--from_scratch. "
    "For TB also checkpoints of DINOv2, SigLIP, CLIP, BEiT or ConvNeXt, with a head or without"
)
# where a run reads and writes does not change what it computes
PLACES = ("data_dir", "more_data", "whole", "test_data", "table", "output_dir")
DATA_HELP = "X-rays: the set, any folder or zip, a table, Parquet, or a Hub id"
TABLE_HELP = "CSV, JSONL or Parquet table that lists the X-rays of a folder (default: the one in that folder)"
COLUMNS_HELP = (
    "FIELD=COLUMN, ... of the table, where FIELD is image, mask, label, patient_id, split, site, sex, age, findings "
    "or id (default: guessed and shown)"
)
POSITIVE_HELP = 'label values that mean tuberculosis, such as "TB,1"; all others mean normal (default: known words)'
REVISION_HELP = "branch, tag or commit of data that come from the Hub (default: main)"
OPTION_OF_FIELD = {"data_dir": "data", "test_data": "test", "output_dir": "output"}  # one name in every command
SEVERAL_WORDS = ("columns", "whole")  # fields whose option takes all words that follow it
LEARNING_RATES = {True: 1e-3, False: 2e-4}  # of new weights (from scratch, a head, LoRA), or of a trained model's
SIDE_RANGE = f"a multiple of 32 or 14, {LARGEST_SIDE} at most"
FOLD_RANGE = f"0 to {FOLDS - 1}"
Value = TypeVar("Value")


def resolved(value: Value | None, name: str) -> Value:
    """Return a value of a resolved config.

    Raises:
        ValueError: the value is None: the config has not gone through `runs.data.resolve`.
    """
    if value is None:
        raise ValueError(f"{name} is None: pass a resolved config")
    return value


RANGES: dict[str, Callable[[float], bool]] = {
    "at least 0": lambda value: value >= 0,
    "at least 1": lambda value: value >= 1,
    "above 0": lambda value: value > 0,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
    SIDE_RANGE: lambda value: 0 < value <= LARGEST_SIDE and 0 in (value % 32, value % 14),  # 14: DINOv2's patch
    FOLD_RANGE: lambda value: 0 <= value < FOLDS,
}


def option(default: Any, text: str, values: str | None = None) -> Any:
    """Return a dataclass field with a default, the help of the command line, and a key of RANGES or None."""
    return field(default=default, metadata={"help": text, "range": values})


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Raises:
        ValueError: a value is out of its range, or two of them exclude each other.
    """

    FILE: ClassVar[str] = CONFIG_NAME  # in the run folder

    data_dir: str = field(metadata={"help": DATA_HELP})
    output_dir: str = field(metadata={"help": "run folder to make or to resume; all processes must see it"})
    task: TaskName = option("lung_segmentation", "what to learn")
    protocol: Literal["default", "idiap", "ark", "mc_to_shenzhen", "shenzhen_to_mc", "folds"] = option(
        "default", "division of the X-rays into those to train on, to validate on and to test on"
    )
    fold: int | None = option(None, f"fold of protocol folds, {FOLD_RANGE} (default: all, in turn)", FOLD_RANGE)
    config_name: Literal["all", "MC", "Shenzhen"] = option("all", "sites of the set to read")
    test_data: str | None = option(None, "X-rays to test on, all of them, in place of the test split of --data")
    table: str | None = option(None, TABLE_HELP)
    columns: str | None = option(None, COLUMNS_HELP)
    positive: str | None = option(None, POSITIVE_HELP)
    data_revision: str | None = option(None, REVISION_HELP)
    model: str | None = option(None, MODEL_HELP)
    from_scratch: bool = option(False, "random weights in the architecture of --model; no download")
    freeze: Literal["none", "encoder"] = option("none", "encoder: train the head alone, on features computed once")
    lora: int = option(
        0, "rank of LoRA on each linear layer of attention; 0: no LoRA, all weights are trained", "at least 0"
    )
    image_size: int | None = option(
        None,
        "side in pixels, a multiple of 32, or of a ViT's patch (default: 256 for lungs, 224 for TB)",
        SIDE_RANGE,
    )
    fit: Literal["squash", "pad"] = option(
        "squash", "squash: scale both sides to image_size; pad: keep the aspect ratio and pad"
    )
    region: Literal["image", "lungs"] = option(
        "image", "input of the TB model: the whole X-ray, or the lungs that the segmenter finds"
    )
    segmenter: str | None = option(None, "run folder of the lung model that finds lungs, for region lungs")
    epochs: int = option(30, "passes over the training images", "at least 1")
    batch_size: int = option(8, "images in a step, all processes together", "at least 1")
    accumulation: int = option(1, "steps whose gradients make one update of the weights", "at least 1")
    learning_rate: float | None = option(
        None, "peak of the schedule (default: 2e-4; 1e-3 from scratch, and with freeze or lora)", "above 0"
    )
    layer_decay: float = option(1.0, "factor on the learning rate from each layer to the one below it", "in (0, 1]")
    weight_decay: float = option(0.01, "weight decay of AdamW, on weights of two or more dimensions", "at least 0")
    warmup_fraction: float = option(0.1, "fraction of the updates over which the learning rate warms up", "in [0, 1)")
    gradient_norm: float = option(1.0, "largest norm of the gradient; larger ones are clipped", "above 0")
    dropout: float = option(
        0.0,
        "dropout rate of the classifier and of whole layers; above 0, each process makes its own random draws",
        "in [0, 1)",
    )
    label_smoothing: float = option(0.0, "fraction of a TB label spread over both classes", "in [0, 1)")
    ema: float = option(
        0.0, "decay per update of the running mean of the weights; 0 keeps the weights themselves", "in [0, 1)"
    )
    balance: Literal["none", "weights", "sampling"] = option(
        "none", "make both TB classes count alike: in the loss, or by drawing the rarer more often"
    )
    augment: Literal["none", "light", "strong", "crops"] = option(
        "light", "how much training images are changed; crops: random crops, with no other change"
    )
    keep: Literal["best", "last"] = option("best", "the epoch that is kept: best on validation, or the last")
    patience: int = option(0, "epochs without a better validation metric before a stop; 0 never stops", "at least 0")
    checkpoint_steps: int = option(0, "steps between checkpoints; 0 makes one at an epoch's end only", "at least 0")
    checkpoints: int = option(2, "newest checkpoints that are kept while training", "at least 1")
    tracker: str = option(
        "auto",
        "tracker: auto (TensorBoard if installed), another of Accelerate's (trackio, wandb, ...), all, or none",
    )
    seed: int = option(0, "seed of the weights, the order of images and their augmentation", "at least 0")
    mixup: float = option(
        0.0,
        "mixup: A of Beta(A, A), by which TB X-rays and labels are mixed with others of the step; 0: none",
        "at least 0",
    )

    def __post_init__(self) -> None:
        """Check every value that can be checked without the data."""
        for one in fields(self):
            value, known = getattr(self, one.name), get_args(one.type) if get_origin(one.type) is Literal else ()
            if known and value not in known:
                raise ValueError(f"{one.name} must be one of {', '.join(known)}, got {value!r}")
            values = one.metadata.get("range")
            if values and value is not None and not RANGES[values](value):
                raise ValueError(f"{one.name} must be {values}, got {value}")
        lungs, frozen = self.task not in LABEL_TASKS, self.freeze != "none"
        exclusive = (
            ("test_data", self.test_data is not None and self.protocol != "default", "protocol default"),
            ("fold", self.fold is not None and self.protocol != "folds", "protocol folds"),
            ("region", self.region != "image" and lungs, "task tb_classification"),
            ("balance", self.balance != "none" and lungs, "task tb_classification"),
            ("label_smoothing", self.label_smoothing > 0 and lungs, "task tb_classification"),
            ("mixup", self.mixup > 0 and lungs, "task tb_classification"),
            ("mixup", self.mixup > 0 and frozen, "freeze none"),
            ("segmenter", self.segmenter is not None and self.region == "image", "region lungs"),
            ("freeze", frozen and self.from_scratch, "a trained encoder, not from_scratch"),
            ("lora", self.lora > 0 and self.from_scratch, "a trained encoder, not from_scratch"),
            ("lora", self.lora > 0 and frozen, "freeze none"),
            ("layer_decay", self.layer_decay != 1 and frozen, "freeze none"),
            ("dropout", self.dropout > 0 and frozen and not lungs, "freeze none"),  # there is none in such a head
        )
        for name, is_alone, owner in exclusive:
            if is_alone:
                value = getattr(self, name)
                raise ValueError(f"{name} needs {owner}: leave out {name} {value!r}, or change the other")
        if frozen and self.augment != "none":
            raise ValueError(f"freeze {self.freeze} takes each X-ray as it is: pass augment none, not {self.augment}")

    @property
    def purpose(self) -> str:
        """What is trained for, in a word."""
        return self.task

    def save(self, folder: Path, **recorded: str | float) -> None:
        """Write FILE, whole or not at all, with what is `recorded` of the run (see RECORDED)."""
        write_json(self.to_values() | recorded, folder / self.FILE)

    def to_values(self) -> dict[str, Any]:
        """Return the values of FILE: every field that is set, and the version of their meaning."""
        return {name: value for name, value in asdict(self).items() if value is not None} | {"version": CONFIG_VERSION}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the config of a run folder; raise FileNotFoundError without one, ValueError for a damaged one."""
        path = folder / cls.FILE
        if not path.is_file():
            refuse_encoder(folder)
            missing = f"no {cls.FILE} in {folder}" if folder.is_dir() else f"no folder {folder}"
            raise FileNotFoundError(f"{missing}: pass a folder that cxm train made")
        values = read_json(path)
        if values.pop("version", 1) == 1 and values.get("region") == "lungs":
            raise ValueError(
                f"{path} has region 'lungs' of an earlier version, the lungs of reference masks, which new X-rays "
                "lack: train again with region lungs and a segmenter"
            )
        values = {name: value for name, value in renamed(values).items() if name not in RECORDED}
        if unknown := sorted(set(values) - {known.name for known in fields(cls)}):
            raise ValueError(f"{path} has fields this version does not know: {', '.join(unknown)}")
        check_types(values, cls, path)
        try:
            return cls(**values)
        except ValueError as error:
            raise damaged(path, error) from error

    def differences(self, other: "TrainConfig") -> list[str]:
        """Return a line `field: ours, not theirs` for each field that changes what is computed and differs."""
        mine, theirs = asdict(self), asdict(other)
        names = [name for name in mine if name not in (*PLACES, "tracker") and mine[name] != theirs[name]]
        return [f"{name}: {mine[name]!r}, not {theirs[name]!r}" for name in names]


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Return saved values of a config with the names that they have now."""
    values = {NAMES_BEFORE.get(name, name): value for name, value in values.items()}
    return values | {"region": "lungs"} if values.get("region") == "found_lungs" else values
