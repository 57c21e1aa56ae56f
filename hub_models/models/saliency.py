"""Saliency of a classifier: a map of what in an X-ray speaks for tuberculosis, and its fraction in the lungs.

The table `METHODS` names the method of each family of models. Both methods split the log odds of tuberculosis over the
cells of a grid: attention or activation times the gradient. To the gradient a layer norm is the linear map that it is
for this very image. What speaks against tuberculosis is left out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import isqrt, nan
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import PreTrainedModel

from hub_models.imaging.gray import to_gray
from hub_models.imaging.lung_crop import MARGIN, lungs_box
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import content_box, resize_gray
from hub_models.imaging.source import Source
from hub_models.metrics import SALIENCY_COLUMNS
from hub_models.models.answers import or_whole
from hub_models.models.image_processors import normalize
from hub_models.models.settings import Settings
from hub_models.models.tasks import XrayRow
from hub_models.models.trained_model import TrainedModel

Area = tuple[slice, slice]  # rows and columns
CELLS = 7  # least side of the grid: that of a ResNet or a Swin at 224 pixels
_eager = Lock()  # threads that use one model must not change its attention under each other


def saliency(trained: TrainedModel, source: Source, mask: np.ndarray | None = None) -> np.ndarray:
    """Return (H, W) float32 in [0, 1] on the X-ray's own pixels: how much each speaks for TB; the largest is 1.

    All 0 where nothing speaks for it, and outside of what the model sees. Of several views only the first counts. The
    `source` is a PIL image of any mode, a file or its bytes. A model of the lung region needs `mask`, (H, W) bool.

    Raises:
        ValueError: the X-ray cannot be decoded, or the model needs a mask, is not a classifier or is of no family in
            METHODS.
    """
    return saliency_of_gray(trained, to_gray(source), mask)


def saliency_of_gray(trained: TrainedModel, gray: Image.Image, mask: np.ndarray | None = None) -> np.ndarray:
    """Return `saliency` of the image of `to_gray`, which would stretch a deep one a second time."""
    (grid,) = saliency_maps(trained, torch.from_numpy(trained.to_pixels(gray, mask)[None]))
    found = np.zeros((gray.height, gray.width), np.float32)
    seen, content = _seen(found.shape, mask, trained.settings)
    height, width = found[seen].shape
    found[seen] = np.asarray(Image.fromarray(grid[content]).resize((width, height), Image.Resampling.BILINEAR))
    highest = found.max()
    return found / highest if highest > 0 else found


def saliency_maps(trained: TrainedModel, pixels: torch.Tensor) -> np.ndarray:
    """Return `saliency` of prepared X-rays (B, S, S) uint8 on the model's own square, (B, S, S) float32 in [0, 1]."""
    model, family = trained.model, trained.model.config.model_type
    if family not in METHODS or not trained.task.explained:
        kind = f"{family} {trained.task.kind}"
        raise ValueError(f"no saliency of a {kind} model: pass a classifier, one of {', '.join(METHODS)}")
    training = model.training
    model.eval()
    try:
        # the caller may have switched gradients off, in either way
        with torch.inference_mode(False), torch.enable_grad(), _norms_held(model):
            inputs = normalize(pixels.to(model.device).float() / 255, trained.image_processor)  # (B, 3, S, S)
            grids = METHODS[family](model, inputs.requires_grad_()).detach().float()  # (B, g, g)
    finally:
        model.train(training)
    maps = interpolate(grids[:, None], pixels.shape[-2:], mode="bilinear")[:, 0]  # (B, S, S)
    highest = maps.amax((1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest, 0.0).cpu().numpy()


def fraction_in(saliency: np.ndarray, mask: np.ndarray | None) -> float:
    """Return the fraction in [0, 1] of an (H, W) saliency that lies in a mask; nan where it is all 0, or no mask.

    The (H, W) mask is bool, or the fraction in [0, 1] of each pixel that is in it. Raise ValueError for another shape.
    """
    if mask is None:
        return nan
    if saliency.shape != mask.shape:
        raise ValueError(f"saliency {saliency.shape} and mask {mask.shape} must have one shape")
    whole = float(saliency.sum(dtype=float))
    return float((saliency * mask).sum(dtype=float)) / whole if whole else nan


def measure_saliency(trained: TrainedModel, pixels: torch.Tensor, rows: Sequence[XrayRow]) -> list[dict[str, float]]:
    """Return SALIENCY_COLUMNS for each X-ray of a batch (B, S, S) uint8 and its row; nan where the row has no lungs.

    saliency_in_lungs: fraction of the saliency in the lungs, on the model's square, which is small and so quickly
    measured; nan where nothing is salient.
    lungs_fraction: fraction that the lungs are of what the model sees, the X-ray or the box of its lungs: the value of
    saliency_in_lungs for an even map. The dicts are empty for a family that METHODS lacks.
    """
    if trained.model.config.model_type not in METHODS:
        return [{} for _ in rows]
    settings, found = trained.settings, []
    for row, grid in zip(rows, saliency_maps(trained, pixels), strict=True):
        found.append(dict.fromkeys(SALIENCY_COLUMNS, nan))
        if (lungs := lungs_of(row)) is not None:
            mask = to_mask(row["mask"]) if "reference" in row else lungs
            seen, content = _seen(lungs.shape, mask, settings)
            white = Image.fromarray(lungs[seen] * np.uint8(255))
            covered = resize_gray(white, settings.image_size, settings.fit, trained.resample)
            inside = fraction_in(grid[content], covered[content] / 255)
            found[-1] = dict(zip(SALIENCY_COLUMNS, (inside, float(lungs[seen].mean())), strict=True))
    return found


def lungs_of(row: XrayRow) -> np.ndarray | None:
    """Return an X-ray's own lungs (H, W) bool, not those that a model found; None without a reference mask."""
    reference = row.get("reference", row["mask"])
    return None if reference is None else to_mask(reference)


def _seen(shape: tuple[int, ...], mask: np.ndarray | None, settings: Settings) -> tuple[Area, Area]:
    """Rows and columns of an X-ray (H, W) with this mask that the model sees, and of its square that hold them."""
    top, left, bottom, right = 0, 0, shape[0], shape[1]
    if mask is not None and settings.region != "image":
        top, left, bottom, right = lungs_box(or_whole(mask), MARGIN)
    box = content_box(bottom - top, right - left, settings.image_size, settings.fit)
    return (slice(top, bottom), slice(left, right)), (slice(box[0], box[2]), slice(box[1], box[3]))


@contextmanager
def _norms_held(model: PreTrainedModel) -> Iterator[None]:
    """Make the divisor of layer norms a constant to the gradient within a block.

    Otherwise what is normed next sums to 0 over its channels, and what a model is sure of has no gradient. Source: Ali
    et al. 2022, arXiv 2202.07304 (the rule for layer norms).
    """
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    hooks = [norm.register_forward_hook(_with_constant_spread) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_constant_spread(
    norm: torch.nn.LayerNorm, arguments: tuple[torch.Tensor], output: torch.Tensor
) -> torch.Tensor:
    first = getattr(norm, "data_format", "") == "channels_first"  # ConvNeXt's
    axis, shape = (1, (-1, 1, 1)) if first else (-1, (-1,))
    centered = arguments[0] - arguments[0].mean(axis, keepdim=True)
    spread = (centered.square().mean(axis, keepdim=True) + norm.eps).sqrt().detach()
    return centered / spread * norm.weight.view(shape) + norm.bias.view(shape)


def _by_attention(model: PreTrainedModel, inputs: torch.Tensor, special: int) -> torch.Tensor:
    """Relevance (B, g, g) >= 0 of each patch of inputs (B, 3, S, S): attention times its gradient, rolled out to CLS.

    `special` tokens stand before those of the patches, CLS first. Source: Chefer, Gur and Wolf 2021, arXiv 2103.15679,
    equations 5 and 6 for self-attention. Of their matrix only the row of CLS is computed, from the last layer on.
    """
    with _eager:  # the one way to compute attention that returns it
        usual = model.config._attn_implementation
        model.set_attn_implementation("eager")
        try:
            outputs = model(pixel_values=inputs, output_attentions=True)
        finally:
            model.set_attn_implementation(usual)
    log_odds = (outputs.logits[:, 1] - outputs.logits[:, 0]).sum()  # the gradient of an image's sum is its own
    gradients = torch.autograd.grad(log_odds, outputs.attentions)  # (B, heads, N, N) of each layer
    row = torch.zeros_like(gradients[0][:, 0, :1])  # (B, 1, N)
    row[..., 0] = 1
    for attention, gradient in zip(outputs.attentions[::-1], gradients[::-1], strict=True):
        row = row + row @ (gradient * attention).clamp(min=0).mean(1)
    return _on_grid(row[:, 0, special:, None])[:, 0]


def _by_activation(model: PreTrainedModel, inputs: torch.Tensor) -> torch.Tensor:
    """Relevance (B, g, g) >= 0 of each cell of inputs (B, 3, S, S): activations times their gradient, summed.

    The map is the model's last of at least CELLS a side, or the first where none is. The very last map, where a norm
    and a linear head follow its mean, splits the log odds exactly: before the negative ones are left out, the cells
    and the biases sum to them.

    Source: HiResCAM, Draelos and Carin 2020, arXiv 2011.08891. Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391)
    takes the gradient's mean over the map, and so can mark a place that changes nothing.
    """
    kept: list[Any] = []
    hook = model.base_model.register_forward_hook(lambda module, arguments, output: kept.append(output))
    try:
        logits = model(pixel_values=inputs, output_hidden_states=True).logits
    finally:
        hook.remove()
    maps = [*kept[0].hidden_states, kept[0].last_hidden_state]  # each (B, C, g, g) or (B, g * g, C)
    sides = [isqrt(one.shape[1]) if one.ndim == 3 else one.shape[-1] for one in maps]
    chosen = maps[max(index for index, side in enumerate(sides) if side >= min(CELLS, sides[0]))]
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), chosen)
    product = gradient * chosen
    return (_on_grid(product) if product.ndim == 3 else product).sum(1).clamp(min=0)


def _on_grid(tokens: torch.Tensor) -> torch.Tensor:
    """(B, C, g, g) of tokens (B, g * g, C)."""
    side = isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side))


# The method of a model, by the model_type of its config.
METHODS: dict[str, Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]] = {
    "vit": partial(_by_attention, special=1),
    "vit_msn": partial(_by_attention, special=1),
    "deit": partial(_by_attention, special=2),  # CLS and the token for distillation
} | dict.fromkeys(("resnet", "regnet", "convnext", "convnextv2", "swin", "swinv2", "segformer"), _by_activation)
