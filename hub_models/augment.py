"""Augmentation of a batch on its device, image and mask together, drawn per X-ray and epoch."""

import numpy as np
import torch
from kornia.geometry.transform import get_affine_matrix2d, warp_affine

TURN_DEGREES = 10.0
SCALE = (0.85, 1.2)
SHIFT_SHARE = 0.06  # of the side, each way
GAMMA_LOG = 0.35  # gamma in exp(+-0.35) = 0.70 to 1.42
CONTRAST = (0.75, 1.25)
BRIGHTNESS = 0.12  # each way, of the full range
# No mirror image: the heart has a side.


def draw(seeds: list[int], seed: int, epoch: int) -> torch.Tensor:
    """(B, 7) float32: angle, scale, shift x and y, log gamma, contrast, brightness; a pure function of its input."""
    low = [-TURN_DEGREES, SCALE[0], -SHIFT_SHARE, -SHIFT_SHARE, -GAMMA_LOG, CONTRAST[0], -BRIGHTNESS]
    high = [TURN_DEGREES, SCALE[1], SHIFT_SHARE, SHIFT_SHARE, GAMMA_LOG, CONTRAST[1], BRIGHTNESS]
    drawn = np.stack([np.random.default_rng([seed, epoch, one]).uniform(low, high) for one in seeds])
    return torch.from_numpy(drawn.astype(np.float32))


def augment(images: torch.Tensor, masks: torch.Tensor | None, drawn: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Images (B, S, S) float in [0, 1] and masks (B, S, S) bool or None, changed as `drawn` says; shapes stay.

    What comes in from outside the picture is black and no lung.
    """
    drawn = drawn.to(images.device)
    side = images.shape[-1]
    angle, scale, shift, gamma, contrast, brightness = drawn.split([1, 1, 2, 1, 1, 1], dim=1)
    center = torch.full_like(shift, (side - 1) / 2)
    moves = get_affine_matrix2d(shift * side, center, scale.expand(-1, 2), angle[:, 0])[:, :2]  # (B, 2, 3)
    planes = torch.stack([images] if masks is None else [images, masks.to(images.dtype)], 1)  # (B, 1 or 2, S, S)
    planes = warp_affine(planes, moves, (side, side), padding_mode="zeros", align_corners=True)
    images = planes[:, 0].clamp(0, 1) ** gamma.exp()[..., None]
    images = ((images - 0.5) * contrast[..., None] + 0.5 + brightness[..., None]).clamp(0, 1)
    return images, None if masks is None else planes[:, 1] > 0.5
