"""ONE table, `TASKS`: all that differs between the tasks; no other room asks which task it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from monai.losses import DiceCELoss
from torch.nn.functional import interpolate
from transformers import (
    PreTrainedModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
)
from transformers.image_processing_utils import BaseImageProcessor

from hub_models.metrics import count_overlap, dice, iou
from hub_models.pixels import BOX, to_mask

# Source: Xie et al. 2021, SegFormer, arXiv 2105.15203, table 6: widths, depths, decoder width of each encoder.
_WIDTHS = (64, 128, 320, 512)
SEGFORMER_SIZES = {
    "nvidia/mit-b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "nvidia/mit-b1": (_WIDTHS, (2, 2, 2, 2), 256),
    "nvidia/mit-b2": (_WIDTHS, (3, 4, 6, 3), 768),
    "nvidia/mit-b3": (_WIDTHS, (3, 4, 18, 3), 768),
    "nvidia/mit-b4": (_WIDTHS, (3, 8, 27, 3), 768),
    "nvidia/mit-b5": (_WIDTHS, (3, 6, 40, 3), 768),
}


@dataclass(frozen=True)
class Task:
    """What the loop needs to know of a task.

    Attributes:
        labels: names of the classes, in the order of the logits.
        model: checkpoint to start from unless another is given.
        usable: whether a row can be learned from and tested on.
        build: (checkpoint, from_scratch, labels) to a model.
        processor: (checkpoint, image_size) to the image processor saved beside the weights.
        loss: (logits, batch) to a scalar, the mean over the batch's images.
        predict: (logits, height, width) of one image to what is compared with the reference, on the original grid.
        reference: original row to what the prediction is compared with.
        figures: (predicted, reference) to the figures of one image.
        main_figure: name of the figure that the run is judged by; higher is better.
    """

    labels: tuple[str, ...]
    model: str
    usable: Callable[[datasets.Dataset], datasets.Dataset]
    build: Callable[[str, bool, tuple[str, ...]], PreTrainedModel]
    processor: Callable[[str, int], BaseImageProcessor]
    loss: Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]
    predict: Callable[[torch.Tensor, int, int], np.ndarray]
    reference: Callable[[dict[str, Any]], np.ndarray]
    figures: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    main_figure: str


def _rows_with_mask(rows: datasets.Dataset) -> datasets.Dataset:
    absent = rows.select_columns("mask").with_format("arrow")[:]["mask"].is_null().to_pylist()  # decodes no image
    return rows.select([index for index, is_absent in enumerate(absent) if not is_absent])


def _segformer(model: str, from_scratch: bool, labels: tuple[str, ...]) -> PreTrainedModel:
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    if not from_scratch:
        try:  # the encoder checkpoints have no decode head, and others may have one for other classes
            return SegformerForSemanticSegmentation.from_pretrained(model, **names, ignore_mismatched_sizes=True)
        except OSError as error:
            where = "no folder with config.json and model.safetensors here, and not to be had from the Hub"
            raise OSError(f"no model at {model!r}: {where}; pass another --model, or --from_scratch") from error
    if model in SEGFORMER_SIZES:
        widths, depths, decoder = SEGFORMER_SIZES[model]
        sizes = {"hidden_sizes": list(widths), "depths": list(depths), "decoder_hidden_size": decoder}
        return SegformerForSemanticSegmentation(SegformerConfig(**sizes, **names))
    if not Path(model).is_dir():
        raise ValueError(f"from_scratch knows the architectures {', '.join(SEGFORMER_SIZES)} and folders, got {model}")
    return SegformerForSemanticSegmentation(SegformerConfig.from_pretrained(model, **names))


def _segformer_processor(model: str, image_size: int) -> BaseImageProcessor:
    size = {"height": image_size, "width": image_size}  # PIL's form gives the same pixels with torchvision and without
    return SegformerImageProcessorPil(size=size, resample=BOX, do_reduce_labels=False)


_dice_and_cross_entropy = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False)


def _segmentation_loss(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    masks = batch["mask"].long()[:, None]  # (B, 1, S, S)
    logits = interpolate(logits.float(), masks.shape[-2:], mode="bilinear")  # (B, 2, S, S)
    return _dice_and_cross_entropy(logits, masks)


def _lungs_from_logits(logits: torch.Tensor, height: int, width: int) -> np.ndarray:
    logits = interpolate(logits[None].float(), (height, width), mode="bilinear")  # (1, 2, H, W)
    return (logits[0, 1] > logits[0, 0]).cpu().numpy()


def _overlap_figures(predicted: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    counts = count_overlap(predicted, reference)
    return {"dice": dice(counts), "iou": iou(counts)}


TASKS = {
    "lung_segmentation": Task(
        labels=("background", "lung"),
        model="nvidia/mit-b0",
        usable=_rows_with_mask,
        build=_segformer,
        processor=_segformer_processor,
        loss=_segmentation_loss,
        predict=_lungs_from_logits,
        reference=lambda row: to_mask(row["mask"]),
        figures=_overlap_figures,
        main_figure="dice",
    ),
}
