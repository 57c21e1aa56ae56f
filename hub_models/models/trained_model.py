"""A trained model from its run folder, and its output for an X-ray on that X-ray's own pixels."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from hub_models.dataset.augmentation import shift_scale_turn
from hub_models.files import write_json
from hub_models.hub_client.downloads import RUN_FILES
from hub_models.imaging.gray import to_gray
from hub_models.imaging.lung_crop import MARGIN, crop_to_lungs
from hub_models.imaging.resizing import resize_gray
from hub_models.imaging.source import Source
from hub_models.models.architectures import load, normalize, quiet_weights, refused_config
from hub_models.models.out_of_distribution import OutOfDistribution, features_of
from hub_models.models.tasks import SETTINGS_KEY, TASKS, VIEWS, Settings, Task

PREDICTION_VERSION = 1  # raise when the output for an X-ray changes: masks, probabilities, flags


@dataclass(frozen=True)
class TrainedModel:
    """A model with what it needs to be used; call it with an X-ray."""

    task: Task
    model: PreTrainedModel
    image_processor: BaseImageProcessor
    settings: Settings
    out_of_distribution: OutOfDistribution | None = None  # older runs have none

    @classmethod
    def from_run(cls, folder: str | Path, task: str | None = None) -> "TrainedModel":
        """Return the model in a run folder; `task`, where given, must be its task.

        Raises:
            FileNotFoundError: the folder is no run, or lacks a file: its training has not ended.
            ValueError: the model is for another task, its out_of_distribution.safetensors is damaged, or its weights
                are damaged, not finite or not those of its config.json.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: pass one that training made")
        if missing := [name for name in RUN_FILES if not (folder / name).is_file()]:
            raise FileNotFoundError(f"no {', '.join(missing)} in {folder}: let scripts/train.py finish")
        settings = Settings.parse(json.loads((folder / "config.json").read_text()).get(SETTINGS_KEY), folder)
        if task not in (None, settings.task):
            raise ValueError(f"{folder} holds a model for {settings.task}, not for {task}: pass another run folder")
        own = TASKS[settings.task]
        read = AutoImageProcessor.from_pretrained
        image_processor = read(folder, local_files_only=True, backend="pil", trust_remote_code=False)
        with quiet_weights():
            model = load(own.kind, folder, own.labels, image_processor.size["height"]).eval()
        return cls(own, model, image_processor, settings, OutOfDistribution.load(folder))

    @cached_property
    def resample(self) -> Image.Resampling:
        """Return how X-rays are resized for the model, as its image processor says: older models have BOX there."""
        return Image.Resampling(self.image_processor.to_dict()["resample"])  # no attribute of the base class

    def on_accelerator(self) -> "TrainedModel":
        """Move the weights to the accelerator, where there is one, and return self."""
        if torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
            torch.nn.Module.to(self.model, device)  # in place; transformers wraps `to` without its types
        return self

    @torch.inference_mode()
    def __call__(self, source: Source, mask: np.ndarray | None = None) -> Any:
        """Return the model's output for an X-ray of any mode: a PIL image, a file, its bytes.

        Lung segmentation gives the (H, W) bool mask on the X-ray's pixels, TB classification the calibrated
        probability in [0, 1]. A model of the lung region needs `mask`, the (H, W) bool lungs.

        Raises:
            ValueError: the X-ray cannot be decoded, or the model needs a mask.
        """
        gray = to_gray(source)
        pixels = self.to_pixels(gray, mask).to(self.model.device)
        logits, _ = forward_views(self.model, self.image_processor, pixels.float() / 255, self.settings.views)
        return self.task.predict(logits[0], gray.height, gray.width, self.settings)

    def to_pixels(self, gray: Image.Image, mask: np.ndarray | None) -> torch.Tensor:
        """Return the (1, S, S) uint8 pixels of a gray image, or of its lungs by `mask` where they are the region."""
        if self.settings.region != "image":
            if mask is None:
                raise ValueError("this model sees the lungs only: pass their mask, from a lung_segmentation model")
            gray = crop_to_lungs(gray, or_whole(mask), MARGIN)
        small = resize_gray(gray, self.settings.image_size, self.settings.fit, self.resample)
        return torch.from_numpy(small.copy())[None]  # (1, S, S)


def save_model(model: PreTrainedModel, folder: str | Path) -> None:
    """Write weights and config.json of a model with Settings; transformers refuses one that sees the lungs only."""
    with quiet_weights():
        model.save_pretrained(folder)
    if Settings.of(model).region != "image":
        path = Path(folder) / "config.json"
        write_json(refused_config(json.loads(path.read_text())), path)


def forward_views(
    model: torch.nn.Module,
    image_processor: BaseImageProcessor,
    images: torch.Tensor,
    views: int = 1,
    with_features: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the logits (B, C), or maps (B, C, s, s), of gray images (B, S, S) float in [0, 1], and their features.

    Logits are means over the first `views` of VIEWS; maps of turned or scaled views are turned back first. The
    `features_of` the first view, the image itself, are (B, D); None without `with_features`, which takes a segmenter.
    """
    logits, weights = [], []
    features: torch.Tensor | None = None
    for angle, scale in VIEWS[:views]:
        is_plain = (angle, scale) == (0, 1)
        moved = images if is_plain else shift_scale_turn(images[:, None], angle, scale, (0, 0))[:, 0]  # (B, S, S)
        extra = {"output_hidden_states": True} if is_plain and with_features else {}
        outputs = model(pixel_values=normalize(moved, image_processor), **extra)
        if extra:
            features = features_of(outputs.hidden_states)  # (B, D)
        view = [outputs.logits, torch.ones_like(outputs.logits)]
        if outputs.logits.ndim == 4 and not is_plain:  # a map, of which the view may have lost the rim
            view = [shift_scale_turn(one.float(), angle, scale, (0, 0), inverse=True) for one in view]
        logits.append(view[0])
        weights.append(view[1])
    return sum(logits[1:], logits[0]) / sum(weights[1:], weights[0]), features


def or_whole(lungs: np.ndarray) -> np.ndarray:
    """Return the mask, or one of the whole X-ray where it is empty: better seen whole than not at all."""
    return lungs if lungs.any() else np.ones_like(lungs)
