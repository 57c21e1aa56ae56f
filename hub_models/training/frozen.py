"""Train a head alone, on features of X-rays that the frozen encoder gives once."""

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput

from hub_models.console import counted
from hub_models.dataset.batches import Arrays
from hub_models.evaluation.measure import EVALUATION_BATCH
from hub_models.files import new_file
from hub_models.models.image_processors import normalize
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import Split

logger = logging.getLogger(__name__)


def head_of(model: PreTrainedModel) -> torch.nn.Module:
    """Return the head of a model: the one module beside its encoder.

    Raises:
        ValueError: the model has several, or none.
    """
    heads = [module for name, module in model.named_children() if name != model.base_model_prefix]
    if len(heads) != 1 or model.base_model is model:
        raise ValueError(
            f"{type(model).__name__} has {counted(len(heads), 'module')} beside its encoder, and freeze takes models "
            "with one head: leave out freeze, or pass another model"
        )
    return heads[0]


class FrozenEncoder(torch.nn.Module):
    """A model that turns features into logits; its encoder makes features of X-rays, and never changes."""

    def __init__(self, model: PreTrainedModel, image_size: int) -> None:
        """Freeze the encoder of `model`, in place, for images of `image_size` pixels."""
        super().__init__()
        self.model = model.eval()
        model.base_model.requires_grad_(False)
        pixels = torch.zeros(1, 3, image_size, image_size, device=model.device)
        self.shapes = [tuple(one.shape[1:]) for one in self._head_inputs(pixels)]  # of an X-ray's features
        self.width = sum(math.prod(shape) for shape in self.shapes)

    @torch.no_grad()
    def _head_inputs(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Return what the head takes of images (B, 3, S, S): a tensor (B, ...), or the map of each stage."""
        caught: list[torch.Tensor | tuple[torch.Tensor, ...]] = []
        hook = head_of(self.model).register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
        try:
            self.model(pixel_values=pixel_values)
        finally:
            hook.remove()
        (found,) = caught
        self.takes_maps = not isinstance(found, torch.Tensor)
        return [found] if isinstance(found, torch.Tensor) else list(found)

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the features (B, width) float32 of images (B, 3, S, S); call it in evaluation mode."""
        return torch.cat([one.flatten(1).float() for one in self._head_inputs(pixel_values)], 1)

    def forward(self, features: torch.Tensor) -> ImageClassifierOutput:
        """Return the `logits` that the head makes of features (B, width)."""
        parts = features.split([math.prod(shape) for shape in self.shapes], 1)
        maps = tuple(part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True))
        return ImageClassifierOutput(logits=head_of(self.model)(maps if self.takes_maps else maps[0]))


class Features(Arrays):
    """Prepared rows with the features of a frozen encoder, read from a memory map; nothing is augmented."""

    features: np.ndarray  # (N, width) float32

    def __init__(self, arrays: Arrays) -> None:
        """Take the rows of `arrays`; `open` must be called before a batch is read."""
        super().__init__(arrays.prepared, arrays.image_size)

    def open(self, path: Path) -> None:
        """Read the features (N, width) float32 in `path` from now on."""
        self.features = np.load(path, mmap_mode="r")

    def images(self, size: int) -> Iterator[torch.Tensor]:
        """Yield the gray images (B, S, S) float in [0, 1] of all rows in their order, `size` at a time."""
        for start in range(0, len(self), size):
            indices = list(range(start, min(start + size, len(self))))
            yield super().__getitems__(indices)["pixels"].float() / 255

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Return what `Arrays` does, and `features` (B, width) float32."""
        return super().__getitems__(indices) | {"features": torch.from_numpy(self.features[indices])}


def learned_from(config: TrainConfig, splits: dict[str, Split]) -> dict[str, Split]:
    """Return the splits of a run, with features to train and validate on where its encoder is frozen."""
    if config.freeze == "none":
        return splits
    return {name: replace(one, arrays=Features(one.arrays)) for name, one in splits.items() if name != "test"}


def write_features(
    splits: dict[str, Split],
    folder: Path,
    model: torch.nn.Module,
    image_processor: BaseImageProcessor,
    accelerator: Accelerator,
) -> None:
    """Write the features of the splits that take them into `folder`, and open them on every process.

    The main process computes all of them, so that they do not depend on the count of processes.
    """
    for name, split in splits.items():
        features, path = split.arrays, folder / f"features-{name}.npy"
        if not isinstance(features, Features) or not isinstance(model, FrozenEncoder):
            continue
        if accelerator.is_main_process:
            megabytes = len(features) * model.width * 4 / 1e6
            xrays = counted(len(features), f"{name} X-ray")
            logger.info("computing the features of %s once: %.1f MB in %s", xrays, megabytes, folder)
            folder.mkdir(parents=True, exist_ok=True)
            model.eval()
            with new_file(path) as aside, aside.open("wb") as file:
                shape = (len(features), model.width)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for images in features.images(EVALUATION_BATCH):
                    inputs = normalize(images.to(accelerator.device), image_processor)  # (B, 3, S, S)
                    with accelerator.autocast():
                        encoded = model.encode(inputs)  # (B, width)
                    file.write(encoded.cpu().numpy().astype("<f4").tobytes())  # no map, whose full disk is a crash
        accelerator.wait_for_everyone()
        features.open(path)
