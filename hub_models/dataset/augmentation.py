"""Augment a batch on its device, image and mask together, with random numbers per X-ray and epoch."""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn.functional import conv2d, grid_sample, interpolate, pad

POINTS = 4  # control points of the elastic displacement along each side
# At an elastic 1 / 9, neighbouring points drawn furthest apart give a slope of 1, and the picture folds over. Three
# sigmas of blur must stay inside the picture.
LARGEST_FRACTION = {"elastic_fraction": 1 / 9, "blur_sigma_fraction": 0.1}


@dataclass(frozen=True)
class Ranges:
    """How far each change may go, each way where it has two; the defaults change nothing.

    No mirror image: the heart has a side.
    """

    turn_degrees: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift_fraction: float = 0.0  # of the side
    inside: bool = False  # shift_fraction is of what an enlarged picture reaches beyond the frame, which it then fills
    gamma_log: float = 0.0  # 0.35: gamma in exp(+-0.35) = 0.70 to 1.42
    contrast: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0  # of the full range
    elastic_fraction: float = 0.0  # largest displacement of a control point along each axis, of the side
    blur_sigma_fraction: float = 0.0  # largest sigma of the Gaussian, of the side
    noise_sigma: float = 0.0  # largest, of the full range
    shading: float = 0.0  # largest brightness of a control point of a smooth field, of the full range

    def __post_init__(self) -> None:
        """Raise ValueError for ranges that no picture can be drawn from."""
        for name in (field.name for field in fields(self)):
            value, limit = getattr(self, name), LARGEST_FRACTION.get(name, math.inf)
            if isinstance(value, tuple):
                if not 0 < value[0] <= value[1]:
                    raise ValueError(f"{name} must be (low, high) with 0 < low <= high, got {value}")
            elif not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 (off) or more, got {value}")
            elif value > limit:
                raise ValueError(f"{name} must be at most {limit:.3g} of the side, got {value}")

    @property
    def moves(self) -> bool:
        """Return whether pixels may move, and the mask with them."""
        return bool(self.turn_degrees or self.scale != (1, 1) or self.shift_fraction or self.elastic_fraction)


STRENGTHS = {
    "none": Ranges(),
    "light": Ranges(
        turn_degrees=10, scale=(0.85, 1.2), shift_fraction=0.06, gamma_log=0.35, contrast=(0.75, 1.25), brightness=0.12
    ),
    "strong": Ranges(
        turn_degrees=12,
        scale=(0.75, 1.25),
        shift_fraction=0.08,
        gamma_log=0.6,
        contrast=(0.5, 1.5),
        brightness=0.2,
        elastic_fraction=0.02,
        blur_sigma_fraction=0.006,
        noise_sigma=0.06,
        shading=0.15,
    ),
    # a square part of the X-ray, 20 to 100 % of its area as in arXiv 2111.06377, but for its aspect
    "crops": Ranges(scale=(1, 0.2**-0.5), shift_fraction=1, inside=True),
}

# The columns of `draw`, and how many numbers each has. The order is part of what a seed means: append only.
DRAWN_COLUMNS = {
    "angle": 1,
    "scale": 1,
    "shift": 2,  # x to the right, y down
    "log_gamma": 1,
    "contrast": 1,
    "brightness": 1,
    "blur_sigma": 1,
    "noise_sigma": 1,
    "noise_seed": 1,
    "unused": 4,  # of a rectangle that was painted over the image; here for the seeds
    "elastic": 2 * POINTS * POINTS,  # x then y of where a pixel is read from, row by row
    "shading": POINTS * POINTS,
}
NOISE_SEEDS = 2**24  # each exact in float32


def draw(ids_seeds: list[int], seed: int, epoch: int, ranges: Ranges) -> torch.Tensor:
    """Return what changes each example of a batch, (B, K) float32 on the CPU: a pure function of its input, by row.

    `ids_seeds` holds a number for each X-ray, the same in every batch; `seed` is the run's, `epoch` counts from 0.
    """
    limits = _limits(ranges)
    ends = [[np.broadcast_to(limits[name][end], width) for name, width in DRAWN_COLUMNS.items()] for end in (0, 1)]
    low, high = map(np.concatenate, ends)
    numbers = np.array([np.random.default_rng([seed, epoch, one]).uniform(low, high) for one in ids_seeds])
    drawn = torch.from_numpy(numbers.reshape(-1, len(low)))  # (B, K) float64
    _columns(drawn)["noise_seed"].floor_()
    return drawn.float()


def _limits(ranges: Ranges) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest value of the numbers of each of `DRAWN_COLUMNS`."""
    both_ways = {"angle": ranges.turn_degrees, "shift": ranges.shift_fraction, "log_gamma": ranges.gamma_log}
    both_ways |= {"brightness": ranges.brightness, "elastic": ranges.elastic_fraction, "shading": ranges.shading}
    return {name: (-high, high) for name, high in both_ways.items()} | {
        "scale": ranges.scale,
        "contrast": ranges.contrast,
        "blur_sigma": (0, ranges.blur_sigma_fraction),
        "noise_sigma": (0, ranges.noise_sigma),
        "noise_seed": (0, NOISE_SEEDS),
        "unused": (0, 0),
    }


def augment(
    images: torch.Tensor, masks: torch.Tensor | None, drawn: torch.Tensor, ranges: Ranges
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return images (B, S, S) float in [0, 1] and masks (B, S, S) bool or None, changed by `drawn` (B, K).

    What comes in from outside the picture is black and no lung. A row's result depends on that row alone, up to float
    rounding. No step makes the CPU wait for a GPU: `ranges`, those of the draw, say what to leave out.
    """
    values, side = _columns(drawn.to(images.device)), images.shape[-1]
    if ranges.moves:
        planes = torch.stack([images] if masks is None else [images, masks.to(images.dtype)], 1)  # (B, 1 or 2, S, S)
        beyond = (values["scale"] - 1) * (side - 1) / (2 * side) if ranges.inside else 1  # (B, 1), to pixels' centers
        x, y = _affine_grid(values["angle"][:, 0], values["scale"][:, 0], values["shift"] * beyond, side)
        if ranges.elastic_fraction:
            offsets = _smooth(values["elastic"], side) * (2 * side / (side - 1))  # (B, 2, S, S), as in _affine_grid
            x, y = x.add_(offsets[:, 0]), y.add_(offsets[:, 1])
        planes = _read(planes, x, y)
        images, masks = planes[:, 0], None if masks is None else planes[:, 1] > 0.5
    return _change_grays(images, values, ranges), masks


def shift_scale_turn(
    planes: torch.Tensor,
    angle: float | torch.Tensor,
    scale: float | torch.Tensor,
    shift: tuple[float, float] | torch.Tensor,
    inverse: bool = False,
) -> torch.Tensor:
    """Return planes (B, C, S, S) float32, turned and scaled about the center, then shifted; with `inverse`, back.

    Bilinear; what comes in from outside is 0, on the way back too: send a plane of ones along to know where.
    `angle` is in degrees, clockwise; `scale` above 1 enlarges; `shift` goes right and down, in fractions of the side.
    Each is one for all, or angle (B,), scale (B,) and shift (B, 2).
    """
    angle, scale, shift = (
        torch.as_tensor(value, dtype=planes.dtype, device=planes.device).expand(len(planes), *ends)
        for value, ends in ((angle, ()), (scale, ()), (shift, (2,)))
    )
    return _read(planes, *_affine_grid(angle, scale, shift, planes.shape[-1], inverse))


def _columns(drawn: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return name to its (B, n) columns of `drawn`; ValueError for a row of another length."""
    if drawn.shape[1] != sum(DRAWN_COLUMNS.values()):
        wanted = sum(DRAWN_COLUMNS.values())
        raise ValueError(f"drawn must be (B, {wanted}) as draw() gives it, got {tuple(drawn.shape)}")
    return dict(zip(DRAWN_COLUMNS, drawn.split(list(DRAWN_COLUMNS.values()), dim=1), strict=True))


def _affine_grid(
    angle: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, side: int, inverse: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where to read each pixel: x and y, each (B, S, S), -1 and 1 at the centers of the outermost pixels.

    A point p moves to scale * turned(p) + shift. Written out because a matrix inverse would make the CPU wait for a
    GPU, and because on a CPU affine_grid() takes longer than the reading itself.
    """
    angle, scale = angle.deg2rad()[:, None, None], scale[:, None, None]
    shift_x, shift_y = (shift * (2 * side / (side - 1)))[..., None, None].unbind(1)  # each (B, 1, 1)
    across = torch.linspace(-1, 1, side, dtype=shift.dtype, device=shift.device)
    x, y = across[None, None, :], across[None, :, None]
    if inverse:
        cos, sin = angle.cos() * scale, angle.sin() * scale
        return cos * x - sin * y + shift_x, sin * x + cos * y + shift_y  # (B, S, S)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    x, y = x - shift_x, y - shift_y
    return cos * x + sin * y, cos * y - sin * x  # (B, S, S)


def _smooth(points: torch.Tensor, side: int) -> torch.Tensor:
    """Return planes (B, n, S, S) through control points (B, 16 n): bicubic, at a twentieth of interpolate's time."""
    eye = torch.eye(POINTS, dtype=points.dtype, device=points.device)[None, None]
    weights = interpolate(eye, (side, POINTS), mode="bicubic", align_corners=True)[0, 0]  # (S, 4)
    return weights @ points.reshape(len(points), -1, POINTS, POINTS) @ weights.T


def _read(planes: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return planes (B, C, S, S), read at x and y, each (B, S, S); 0 outside."""
    grid = x.new_empty(*x.shape, 2)  # filled in place: torch.stack is several times slower along the last axis
    grid[..., 0], grid[..., 1] = x, y
    return grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def _change_grays(images: torch.Tensor, values: dict[str, torch.Tensor], ranges: Ranges) -> torch.Tensor:
    """Return images (B, S, S) in [0, 1], blurred, changed in tone, shaded, with noise, in this order."""
    side, value = images.shape[-1], {name: columns[..., None] for name, columns in values.items()}  # (B, n, 1)
    if ranges.blur_sigma_fraction:
        radius = min(math.ceil(3 * ranges.blur_sigma_fraction * side), side - 1)
        images = _blur(images, values["blur_sigma"] * side, radius)
    if ranges.gamma_log:
        # a power, at half of pow()'s time or less
        images = images.clamp(0, 1).log_().mul_(value["log_gamma"].exp()).exp_()
    if ranges.contrast != (1, 1) or ranges.brightness:
        images = (images - 0.5) * value["contrast"] + (0.5 + value["brightness"])
    if ranges.shading:
        images = images + _smooth(values["shading"], side)[:, 0]
    if ranges.noise_sigma:
        images = images + normal_noise(values["noise_seed"][:, 0], side).mul_(value["noise_sigma"])
    return images if ranges == Ranges() else images.clamp(0, 1)


def _blur(images: torch.Tensor, sigma: torch.Tensor, radius: int) -> torch.Tensor:
    """Return images (B, S, S), edges mirrored, blurred by a Gaussian of sigma (B, 1) in pixels, cut at `radius`."""
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    weights = (-0.5 * (offsets / sigma.clamp(min=0.05)) ** 2).exp()  # at 0.05 pixels a neighbour has no weight
    kernels = (weights / weights.sum(1, keepdim=True))[:, None]  # (B, 1, 2 radius + 1)
    images = pad(images[None], (radius,) * 4, mode="reflect")  # (1, B, S + 2 radius, S + 2 radius), a group each
    images = conv2d(images, kernels[:, :, None], groups=len(kernels))
    return conv2d(images, kernels[..., None], groups=len(kernels))[0]


def normal_noise(seeds: torch.Tensor, side: int) -> torch.Tensor:
    """Return standard normal noise (B, S, S) float32, on the device of the seeds (B,): a function of them."""
    pixels = _hash(torch.arange(side * side, dtype=torch.int32, device=seeds.device)).view(side, side)
    bits = _hash(pixels ^ _hash(seeds.to(torch.int32) + NOISE_SEEDS)[:, None, None])  # (B, S, S); seed 0 is no pixel 0
    uniform = (bits >> 8).float().add_(0.5).div_(2**23)  # 24 bits with the sign, so never quite -1 or 1
    return uniform.erfinv_().mul_(math.sqrt(2))


def _hash(numbers: torch.Tensor) -> torch.Tensor:
    """Mix the bits of int32 numbers in place; products wrap around.

    Source: Wellons and Ellis, github.com/skeeto/hash-prospector (constants of the least biased two-round hash).
    """
    numbers ^= (numbers >> 16) & 0xFFFF  # the mask makes the shift logical
    numbers *= 0x21F0AAAD
    numbers ^= (numbers >> 15) & 0x1FFFF
    numbers *= 0x735A2D97
    numbers ^= (numbers >> 15) & 0x1FFFF
    return numbers
