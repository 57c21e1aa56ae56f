"""A trained model from its run folder, and its output for an X-ray on that X-ray's own pixels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from hub_models.dataset.augmentation import shift_scale_turn
from hub_models.files import write_json
from hub_models.hub_client.downloads import RUN_FILES, SETTINGS_KEY
from hub_models.hub_client.model_files import read_json, refuse_encoder, refuse_foreign
from hub_models.imaging.gray import to_gray
from hub_models.imaging.source import Source
from hub_models.models.answers import FORWARD_SIZE, FORWARD_SIZES, check_answer, pixels_of
from hub_models.models.architectures import load, quiet_weights, refused_config
from hub_models.models.image_processors import load_image_processor, normalize
from hub_models.models.out_of_distribution import OutOfDistribution, features_of
from hub_models.models.settings import VIEWS, Settings
from hub_models.models.tasks import TASKS, Task


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
            FileNotFoundError: the folder is not a run, or lacks a file: its training has not ended.
            ValueError: the model is for another task, a file is damaged or would have code loaded, or the weights are
                not finite, all 0 or not those of config.json.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: pass one that training made")
        refuse_encoder(folder)
        if missing := [name for name in RUN_FILES if not (folder / name).is_file()]:
            raise FileNotFoundError(f"no {', '.join(missing)} in {folder}: let its training finish")
        refuse_foreign(folder)
        settings = Settings.parse(read_json(folder / "config.json").get(SETTINGS_KEY), folder)
        if task not in (None, settings.task):
            raise ValueError(f"{folder} holds a model for {settings.task}, not for {task}: pass another run folder")
        own = TASKS[settings.task]
        image_processor = load_image_processor(own.kind, folder, settings.image_size)
        with quiet_weights():
            model = load(own.kind, folder, own.labels, settings.image_size).eval()
        trained = cls(own, model, image_processor, settings, OutOfDistribution.load(folder))
        check_answer(trained, folder)
        return trained

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

    def __call__(self, source: Source, mask: np.ndarray | None = None) -> Any:
        """Return the model's output for an X-ray of any mode: a PIL image, a file, its bytes.

        Lung segmentation gives the (H, W) bool mask on the X-ray's pixels, TB classification the calibrated
        probability in [0, 1]. A model of the lung region needs `mask`, the (H, W) bool lungs.

        Raises:
            ValueError: the X-ray cannot be decoded, or the model needs a mask.
        """
        gray = to_gray(source)
        logits, _ = self.forward([self.to_pixels(gray, mask)])
        return self.predict(logits[0], gray.height, gray.width)

    def to_pixels(self, gray: Image.Image, mask: np.ndarray | None) -> np.ndarray:
        """Return `pixels_of` a gray image, (S, S) uint8."""
        return pixels_of(gray, mask, self.settings, self.resample)

    @torch.inference_mode()
    def forward(
        self, pixels: Sequence[np.ndarray], with_features: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return logits (B, ...) of X-rays (S, S) uint8 and, if wanted, their features (B, D); float32."""
        images = torch.from_numpy(np.stack(pixels)).to(self.model.device).float() / 255  # (B, S, S)
        views = self.settings.views
        logits, features = forward_views(self.model, self.image_processor, images, views, with_features)
        return logits.float().cpu().numpy(), None if features is None else features.float().cpu().numpy()

    def predict(self, logits: np.ndarray, height: int, width: int) -> Any:
        """Return what the logits of one X-ray of `height` x `width` pixels say; see `__call__`."""
        return self.task.predict(logits, height, width, self.settings)

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Keep each forward pass of torch, of any model, to the thread that calls it within a block."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def save_model(model: PreTrainedModel, folder: str | Path) -> None:
    """Write weights and config.json of a model with Settings; transformers refuses one that sees the lungs only."""
    with quiet_weights():
        model.save_pretrained(folder)
    if Settings.of(model).region != "image":
        path = Path(folder) / "config.json"
        write_json(refused_config(read_json(path)), path)


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

    Every forward pass has as many images, the last one filled with zeros: rounding depends on their number, and an
    image would get other logits in another batch.
    """
    size = FORWARD_SIZES.get(images.device.type, FORWARD_SIZE)
    logits, features = [], []
    for part in images.split(size):
        full = F.pad(part, (0, 0, 0, 0, 0, size - len(part)))
        found = _forward_full(model, image_processor, full, views, with_features)
        logits.append(found[0][: len(part)])
        features += [] if found[1] is None else [found[1][: len(part)]]
    return torch.cat(logits), torch.cat(features) if features else None


def _forward_full(
    model: torch.nn.Module, image_processor: BaseImageProcessor, images: torch.Tensor, views: int, with_features: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return `forward_views` of one forward pass for each view."""
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
