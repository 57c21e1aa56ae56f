"""A trained model from its run folder, and what it says of an X-ray on that X-ray's own pixels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoImageProcessor, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from hub_models.config import TrainConfig
from hub_models.evaluation import normalize
from hub_models.pixels import Source, resize_gray, to_gray
from hub_models.tasks import TASKS, Task


@dataclass(frozen=True)
class Predictor:
    """A model with what it needs to be used; call it with an X-ray."""

    task: Task
    model: PreTrainedModel
    processor: BaseImageProcessor

    @classmethod
    def from_run(cls, folder: str | Path) -> "Predictor":
        """Model of a folder that scripts/train.py made.

        Raises:
            FileNotFoundError: the folder is no run, or its training has not ended.
        """
        folder = Path(folder)
        task = TASKS[TrainConfig.load(folder).task]
        if not (folder / "model.safetensors").is_file():
            raise FileNotFoundError(f"no model.safetensors in {folder}: let scripts/train.py finish")
        model = task.build(str(folder), False, task.labels).eval()
        return cls(task, model, AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil"))

    @torch.inference_mode()
    def __call__(self, source: Source) -> np.ndarray:
        """(H, W) bool lung mask on the pixels of an X-ray of any mode: a PIL image, a file, its bytes.

        Raises:
            ValueError: it cannot be decoded.
        """
        gray = to_gray(source)
        pixels = torch.from_numpy(resize_gray(gray, self.processor.size["height"]).copy())  # (S, S)
        logits = self.model(pixel_values=normalize(pixels[None].float() / 255, self.processor)).logits
        return self.task.predict(logits[0], gray.height, gray.width)
