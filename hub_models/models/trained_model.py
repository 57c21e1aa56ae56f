"""A trained model from its run folder, and what it says of an X-ray on that X-ray's own pixels."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from hub_models.dataset.augmentation import shift_scale_turn
from hub_models.hub_client.downloads import RUN_FILES
from hub_models.imaging.gray import to_gray
from hub_models.imaging.lung_crop import MARGIN, crop_to_lungs
from hub_models.imaging.resizing import resize_gray
from hub_models.imaging.source import Source
from hub_models.models.architectures import ONLY_DATA, build, normalize, quiet_weights
from hub_models.models.out_of_distribution import OutOfDistribution, features_of
from hub_models.models.tasks import SETTINGS_KEY, TASKS, VIEWS, Settings, Task

PREDICTION_VERSION = 1  # raise when what a model says of an X-ray changes: masks, probabilities, flags


@dataclass(frozen=True)
class TrainedModel:
    """A model with what it needs to be used; call it with an X-ray. Not every run says what X-rays are familiar."""

    task: Task
    model: PreTrainedModel
    image_processor: BaseImageProcessor
    settings: Settings
    out_of_distribution: OutOfDistribution | None = None

    @classmethod
    def from_run(cls, folder: str | Path, task: str | None = None) -> "TrainedModel":
        """Return the model in a run folder, for `task` where that matters.

        Raises:
            FileNotFoundError: the folder is no run, or lacks a part: its training has not ended.
            ValueError: the model is for another task, or its out_of_distribution.safetensors is damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: pass one that training made")
        if missing := [name for name in RUN_FILES if not (folder / name).is_file()]:
            raise FileNotFoundError(f"no {', '.join(missing)} in {folder}: let scripts/train.py finish")
        found = Settings.parse(json.loads((folder / "config.json").read_text()).get(SETTINGS_KEY), folder).task
        if task not in (None, found):
            raise ValueError(f"{folder} holds a model for {found}, not for {task}: pass another run folder")
        kind = TASKS[found].kind
        options = {"local_files_only": True, "backend": "pil"} | ONLY_DATA
        image_processor = AutoImageProcessor.from_pretrained(folder, **options)
        with quiet_weights():
            model = build(kind, str(folder), False, TASKS[found].labels, image_processor.size["height"]).eval()
        return cls(TASKS[found], model, image_processor, Settings.of(model), OutOfDistribution.load(folder))

    @torch.inference_mode()
    def __call__(self, source: Source, mask: np.ndarray | None = None) -> Any:
        """What the model says of an X-ray of any mode: a PIL image, a file, its bytes.

        Lung segmentation gives the (H, W) bool mask on the X-ray's pixels, TB classification the calibrated
        probability in [0, 1]. `mask`, the (H, W) bool lungs, is what a model of the lung region sees.

        Raises:
            ValueError: it cannot be decoded, or the model needs a mask.
        """
        gray = to_gray(source)
        height, width = gray.height, gray.width
        if self.settings.region != "image":
            if mask is None:
                raise ValueError("this model sees the lungs only: pass their mask, from a lung_segmentation model")
            gray = crop_to_lungs(gray, or_whole(mask), MARGIN)
        small = resize_gray(gray, self.settings.image_size, self.settings.fit)
        pixels = torch.from_numpy(small.copy())[None].to(self.model.device)  # (1, S, S)
        logits = logits_of(self.model, self.image_processor, pixels.float() / 255, self.settings.views)
        return self.task.predict(logits[0], height, width, self.settings)


def logits_of(
    model: torch.nn.Module, image_processor: BaseImageProcessor, images: torch.Tensor, views: int = 1
) -> torch.Tensor:
    """Logits of gray images (B, S, S) float in [0, 1]: (B, C), or maps (B, C, s, s); the mean over `views` of them.

    The first view is the image itself, the others are turned or scaled a little, and their maps turned back.
    """
    return look(model, image_processor, images, views)[0]


def look(
    model: torch.nn.Module,
    image_processor: BaseImageProcessor,
    images: torch.Tensor,
    views: int = 1,
    with_features: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits as `logits_of`, and the features (B, D) of the first view, the image itself, from the same pass.

    Features are those of `out_of_distribution.features_of`, None unless asked for; the model must be of maps.
    """
    total, weight, features = 0.0, 0.0, None
    for angle, scale in VIEWS[:views]:
        plain = (angle, scale) == (0, 1)
        moved = images if plain else shift_scale_turn(images[:, None], angle, scale, (0, 0))[:, 0]  # (B, S, S)
        more = {"output_hidden_states": True} if plain and with_features else {}
        outputs = model(pixel_values=normalize(moved, image_processor), **more)
        if more:
            features = features_of(outputs.hidden_states)  # (B, D)
        logits = outputs.logits
        seen = torch.ones_like(logits)
        if logits.ndim == 4 and not plain:  # a map, of which the view may have lost the rim
            logits, seen = (
                shift_scale_turn(one.float(), angle, scale, (0, 0), inverse=True) for one in (logits, seen)
            )
        total, weight = total + logits, weight + seen
    return total / weight, features


def or_whole(lungs: np.ndarray) -> np.ndarray:
    """The mask, or one of the whole X-ray where it is empty: better seen whole than not at all."""
    return lungs if lungs.any() else np.ones_like(lungs)
