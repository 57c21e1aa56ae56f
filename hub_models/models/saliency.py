"""Where a classifier looks: what of an X-ray speaks for tuberculosis, as a map, and the share of it in the lungs.

One table, `METHODS`, says how each family of models is asked. Both ways of asking take the log odds of tuberculosis,
and of each cell of a grid what it adds to them: its attention or activation times the gradient, where a layer norm
counts as the linear map that it is for this very image. What speaks against tuberculosis is left out.
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
from hub_models.imaging.lung_crop import MARGIN, crop_to_lungs, lungs_box
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import content_box, resize_gray
from hub_models.imaging.source import Source
from hub_models.metrics import SALIENCY_COLUMNS
from hub_models.models.architectures import normalize
from hub_models.models.tasks import Row, Settings
from hub_models.models.trained_model import TrainedModel, or_whole

CELLS = 7  # a side of the grid, at the least: that of a ResNet or a Swin at 224 pixels
_eager = Lock()  # threads that share a model must not change its attention under each other


def saliency(trained: TrainedModel, source: Source, mask: np.ndarray | None = None) -> np.ndarray:
    """(H, W) float32 in [0, 1] on the X-ray's own pixels: how much each speaks for tuberculosis; the largest is 1.

    All 0 where nothing speaks for it, and outside of what the model sees. Of several `views` the first is asked.

    Args:
        trained: a model of tb_classification.
        source: X-ray of any mode: a PIL image, a file, its bytes.
        mask: (H, W) bool lungs, which a model of the lung region needs and any other passes over.

    Raises:
        ValueError: the X-ray cannot be decoded, the model needs a mask, is no classifier or of no family in METHODS.
    """
    return saliency_of_gray(trained, to_gray(source), mask)


def saliency_of_gray(trained: TrainedModel, gray: Image.Image, mask: np.ndarray | None = None) -> np.ndarray:
    """As `saliency`, of an X-ray as `to_gray` gives it, which must not be stretched again where it is deep."""
    settings = trained.settings
    height, width = gray.height, gray.width
    if settings.region != "image":
        if mask is None:
            raise ValueError("this model sees the lungs only: pass their mask, from a lung_segmentation model")
        gray = crop_to_lungs(gray, or_whole(mask), MARGIN)
    small = resize_gray(gray, settings.image_size, settings.fit)
    (grid,) = saliency_maps(trained, torch.from_numpy(small.copy())[None])
    return _put_back(grid, height, width, mask, settings)


def saliency_maps(trained: TrainedModel, pixels: torch.Tensor) -> np.ndarray:
    """(B, S, S) float32 in [0, 1] of prepared X-rays (B, S, S) uint8: as `saliency`, on the model's own square.

    Raises:
        ValueError: no classifier, or METHODS does not know models of its family.
    """
    model = trained.model
    family = model.config.model_type
    if family not in METHODS or not trained.task.explained:
        known = ", ".join(METHODS)
        raise ValueError(f"no saliency of a {family} {trained.task.kind} model: pass a classifier, one of {known}")
    training = model.training
    model.eval()
    try:
        # the caller may have switched gradients off, in either way
        with torch.inference_mode(False), torch.enable_grad(), _norms_held(model):
            images = pixels.to(model.device).float() / 255
            inputs = normalize(
                images, trained.image_processor
            ).requires_grad_()  # (B, 3, S, S), and so all that follows
            grids = METHODS[family](model, inputs).detach().float()  # (B, g, g)
    finally:
        model.train(training)
    maps = interpolate(grids[:, None], pixels.shape[-2:], mode="bilinear")[:, 0]  # (B, S, S)
    highest = maps.amax((1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest, 0.0).cpu().numpy()


def fraction_in(saliency: np.ndarray, mask: np.ndarray | None) -> float:
    """Share in [0, 1] of an (H, W) saliency that lies in an (H, W) mask; nan where it is all 0, or no mask.

    The mask is bool, or says what share in [0, 1] of each pixel is in it.

    Raises:
        ValueError: their shapes differ.
    """
    if mask is None:
        return nan
    if saliency.shape != mask.shape:
        raise ValueError(f"saliency {saliency.shape} and mask {mask.shape} must have one shape")
    whole = float(saliency.sum(dtype=float))
    return float((saliency * mask).sum(dtype=float)) / whole if whole else nan


def measure_saliency(trained: TrainedModel, pixels: torch.Tensor, rows: Sequence[Row]) -> list[dict[str, float]]:
    """For each X-ray of a batch (B, S, S) uint8 and its row, where the model looks; nan where the row has no lungs.

    saliency_in_lungs: share of its saliency in the lungs, on the model's square, where films are small and so soon
    measured; nan where nothing is salient.
    lungs_fraction: fraction that the lungs are of what the model sees, the X-ray or the box of its lungs: what an even
    map would have in the lungs. Nothing, an empty dict, for a family that METHODS lacks.
    """
    if trained.model.config.model_type not in METHODS:
        return [{} for _ in rows]
    settings, found = trained.settings, []
    for row, grid in zip(rows, saliency_maps(trained, pixels), strict=True):
        found.append(dict.fromkeys(SALIENCY_COLUMNS, nan))
        if (lungs := lungs_of(row)) is not None:
            mask = to_mask(row["mask"]) if "reference" in row else lungs
            top, left, bottom, right = _seen_box(*lungs.shape, mask, settings)
            seen = lungs[top:bottom, left:right]
            covered = resize_gray(Image.fromarray(np.uint8(seen) * 255), settings.image_size, settings.fit) / 255
            content = _content(seen.shape, settings)
            inside = fraction_in(grid[content], covered[content])
            found[-1] = dict(zip(SALIENCY_COLUMNS, (inside, float(seen.mean())), strict=True))
    return found


def lungs_of(row: Row) -> np.ndarray | None:
    """(H, W) bool: the lungs of an X-ray's own reference mask, also where its `mask` is a found one; None without."""
    reference = row.get("reference", row["mask"])
    return None if reference is None else to_mask(reference)


def _seen_box(height: int, width: int, mask: np.ndarray | None, settings: Settings) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), the last two excluded, of what the model sees of an X-ray with this lung mask."""
    if settings.region == "image":
        return 0, 0, height, width
    return lungs_box(or_whole(mask), MARGIN)


def _put_back(grid: np.ndarray, height: int, width: int, mask: np.ndarray | None, settings: Settings) -> np.ndarray:
    """(height, width) of saliency (S, S) on the model's square, by way of the lungs' box where it sees no more."""
    top, left, bottom, right = _seen_box(height, width, mask, settings)
    rows, columns = bottom - top, right - left
    seen = Image.fromarray(grid[_content((rows, columns), settings)])
    large = np.asarray(seen.resize((columns, rows), Image.Resampling.BILINEAR))
    highest = large.max()
    large = large / highest if highest > 0 else large
    return np.pad(large, ((top, height - bottom), (left, width - right)))


@contextmanager
def _norms_held(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, what a layer norm divides by is a constant to the gradient.

    Else what is normed next adds up to nothing over its channels, and what a model is sure of has no gradient.

    Source: Ali et al. 2022, arXiv 2202.07304 (the rule for layer norms).
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


def _content(shape: tuple[int, int], settings: Settings) -> tuple[slice, slice]:
    """Rows and columns of the model's square that hold what it sees, of `shape` (height, width)."""
    top, left, bottom, right = content_box(*shape, settings.image_size, settings.fit)
    return slice(top, bottom), slice(left, right)


def _by_attention(model: PreTrainedModel, inputs: torch.Tensor, special: int) -> torch.Tensor:
    """Relevance (B, g, g) >= 0 of each patch of inputs (B, 3, S, S): attention times its gradient, rolled out to CLS.

    `special` tokens stand before those of the patches, CLS first.

    Source: Chefer, Gur and Wolf 2021, arXiv 2103.15679, equations 5 and 6 for self-attention. Of their matrix only the
    row of CLS is carried along, from the last layer to the first.
    """
    with _seen_attention(model):
        outputs = model(pixel_values=inputs, output_attentions=True)
    gradients = torch.autograd.grad(_evidence(outputs.logits), outputs.attentions)  # (B, heads, N, N) of each layer
    row = torch.zeros_like(gradients[0][:, 0, :1])  # (B, 1, N)
    row[..., 0] = 1
    for attention, gradient in zip(outputs.attentions[::-1], gradients[::-1], strict=True):
        row = row + row @ (gradient * attention).clamp(min=0).mean(1)
    return _on_grid(row[:, 0, special:, None])[:, 0]


@contextmanager
def _seen_attention(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, the model computes attention in the one way that lets it be seen."""
    with _eager:
        usual = model.config._attn_implementation
        model.set_attn_implementation("eager")
        try:
            yield
        finally:
            model.set_attn_implementation(usual)


def _by_activation(model: PreTrainedModel, inputs: torch.Tensor) -> torch.Tensor:
    """Relevance (B, g, g) >= 0 of each cell of inputs (B, 3, S, S): activations times their gradient, summed.

    Asked is the model's last map that is at least CELLS a side, or the first where none is. The last map of all, where
    a norm and a linear head follow its mean, splits the log odds exactly: before the negative ones are left out, the
    cells and the biases sum to them.

    Source: HiResCAM, Draelos and Carin 2020, arXiv 2011.08891. Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391)
    takes the gradient's mean over the map, and so can point to where nothing counts.
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
    (gradient,) = torch.autograd.grad(_evidence(logits), chosen)
    product = gradient * chosen
    return (_on_grid(product) if product.ndim == 3 else product).sum(1).clamp(min=0)


def _evidence(logits: torch.Tensor) -> torch.Tensor:
    """Log odds of tuberculosis (), summed over the images, as the gradient of an image's sum is its own."""
    return (logits[:, 1] - logits[:, 0]).sum()


def _on_grid(tokens: torch.Tensor) -> torch.Tensor:
    """(B, C, g, g) of tokens (B, g * g, C)."""
    side = isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side))


# How a model is asked, by the model_type of its config.
METHODS: dict[str, Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]] = {
    "vit": partial(_by_attention, special=1),
    "vit_msn": partial(_by_attention, special=1),
    "deit": partial(_by_attention, special=2),  # CLS and the token for distillation
} | dict.fromkeys(("resnet", "regnet", "convnext", "convnextv2", "swin", "swinv2", "segformer"), _by_activation)
