"""The config of a pre-training: that of a training without labels, of several sources."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from hub_models.hub_client.model_files import ENCODER_CONFIG_NAME, TaskName
from hub_models.runs.config import SIDE_RANGE, TrainConfig, option

# of a training with labels, or of another start than random weights
NOT_OF_PRETRAINING = (
    *("task", "test_data", "table", "from_scratch", "freeze", "lora", "region", "segmenter"),
    *("dropout", "layer_decay", "label_smoothing", "mixup", "balance"),
)


def several(text: str) -> Any:
    """Return a dataclass field for any number of words, empty by default."""
    return field(default_factory=list, metadata={"help": text})


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """A masked auto-encoding of the train split of one source or several, without labels.

    Raises:
        ValueError: a value is out of its range, or of a training with labels.
    """

    FILE: ClassVar[str] = ENCODER_CONFIG_NAME

    more_data: list[str] = several("X-rays of other sources, as data_dir")
    whole: list[str] = several(
        "sources never to be tested on: all their X-rays are learned from, whatever their splits"
    )
    mask_ratio: float = option(0.75, "fraction of the patches that are hidden and reconstructed", "in [0, 1)")
    task: TaskName = option("tb_classification", "what the encoder is for, whose test X-rays are left out")
    model: str | None = option(
        "vit-light", "architecture of a plain ViT: vit-light, google/vit-base-patch16-224, or a folder's config.json"
    )
    from_scratch: bool = option(True, "random weights")
    image_size: int | None = option(112, "side in pixels, a multiple of the ViT's patch", SIDE_RANGE)
    epochs: int = option(130, "passes over the training images", "at least 1")
    batch_size: int = option(32, "images in a step, all processes together", "at least 1")
    learning_rate: float | None = option(6e-4, "peak of the schedule", "above 0")
    weight_decay: float = option(0.05, "weight decay of AdamW, on weights of two or more dimensions", "at least 0")
    augment: Literal["none", "light", "strong", "crops"] = option("crops", "how much training images are changed")

    def __post_init__(self) -> None:
        """Check every value that can be checked without the data."""
        super().__post_init__()
        defaults = {one.name: one.default for one in fields(self)}
        for name in NOT_OF_PRETRAINING:
            if (value := getattr(self, name)) != defaults[name]:
                raise ValueError(f"{name} {value!r} is an option of cxm train, not of pre-training: leave it out")

    @property
    def purpose(self) -> str:
        """What is trained for, in a word."""
        return "pre-training"

    @property
    def sources(self) -> list[str]:
        """Places of the X-rays whose test split is left out."""
        return [self.data_dir, *self.more_data]
