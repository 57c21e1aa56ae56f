"""A model's figures on X-rays: one row per image, gathered by id, then summaries per site."""

from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from hub_models.data import Arrays
from hub_models.metrics import summarize
from hub_models.tasks import Task

CHUNK = 16  # images in a forward pass without gradients


def normalize(pixels: torch.Tensor, processor: BaseImageProcessor) -> torch.Tensor:
    """Model input (B, 3, S, S) from gray (B, S, S) float in [0, 1], as the saved image processor makes it."""
    mean, std = (pixels.new_tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    return (pixels[:, None] - mean) / std  # (B, 3, S, S)


@torch.inference_mode()
def evaluate(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    task: Task,
    rows: datasets.Dataset,
    arrays: Arrays,
    accelerator: Accelerator,
) -> list[dict[str, Any]]:
    """Figures of each of `rows` on its original pixel grid, sorted by id, the same list on every process.

    `arrays` holds the same rows at the training size. Each process takes a share; nothing is averaged before all join.
    """
    model = accelerator.unwrap_model(model).eval()  # a share can be empty, and wrapped models wait for each other
    for buffer in model.buffers():  # running statistics are each process's own
        broadcast(buffer, from_process=0)
    figures = []
    with accelerator.split_between_processes(list(range(len(rows)))) as mine:
        for start in range(0, len(mine), CHUNK):
            indices = mine[start : start + CHUNK]
            pixels = arrays.__getitems__(indices)["pixels"].to(accelerator.device)
            with accelerator.autocast():
                logits = model(pixel_values=normalize(pixels.float() / 255, processor)).logits
            figures += [_figures_of(rows[index], one, task) for index, one in zip(indices, logits, strict=True)]
    by_id = {row["id"]: row for row in gather_object(figures)}
    return [by_id[id] for id in sorted(by_id)]


def _figures_of(row: dict[str, Any], logits: torch.Tensor, task: Task) -> dict[str, Any]:
    reference = task.reference(row)
    predicted = task.predict(logits, *reference.shape)
    known = {name: row[name] for name in ("id", "site", "label", "sex", "age_years")}
    return known | task.figures(predicted, reference)


def summarize_sites(per_image: list[dict[str, Any]], figure: str) -> dict[str, dict[str, Any]]:
    """Summary of one figure over the images of each site, and over all."""
    sites = sorted({row["site"] for row in per_image})
    groups = {site: [row[figure] for row in per_image if row["site"] == site] for site in sites}
    return {site: summarize(values) for site, values in groups.items()} | {
        "all": summarize(row[figure] for row in per_image)
    }
