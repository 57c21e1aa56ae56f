"""X-rays as pictures for people: scaled gray, lungs outlined or tinted, saliency laid over; on numpy and PIL."""

import numpy as np
from PIL import Image

TRUE, PREDICTED = (40, 200, 120), (255, 160, 20)  # green: a reference mask; orange: a model's
HEAT, HEAT_OPACITY = "inferno", 0.7  # colours of a saliency, and their opacity where it is 1
TINT_OPACITY = 0.4
Color = tuple[int, int, int]


def scaled_gray(gray: Image.Image, longest: int) -> Image.Image:
    """Return a gray X-ray (mode L, or F in [0, 255]) as mode L with `longest` pixels along its longer side."""
    width, height = (max(1, round(side * longest / max(gray.size))) for side in gray.size)
    resample = Image.Resampling.BOX if max(gray.size) >= longest else Image.Resampling.BICUBIC
    return Image.fromarray(np.asarray(gray.resize((width, height), resample)).round().clip(0, 255).astype(np.uint8))


def outline(picture: Image.Image, mask: np.ndarray, color: Color = PREDICTED) -> Image.Image:
    """Return `picture` in RGB with the rim of an (H, W) bool mask as a smooth line of some 5 pixels.

    The line closes where the mask meets the border. The mask may have another size than the picture.
    """
    inside = np.pad(_scaled(mask, picture.size), 3)  # (h + 6, w + 6)
    rim = _spread(inside) - (255 - _spread(255 - inside))
    return _over(picture, color, rim[3:-3, 3:-3])


def tint(picture: Image.Image, mask: np.ndarray, color: Color) -> Image.Image:
    """Return `picture` in RGB with the pixels of an (H, W) bool mask tinted."""
    return _over(picture, color, _scaled(mask, picture.size) * np.float32(TINT_OPACITY))


def heat(picture: Image.Image, saliency: np.ndarray) -> Image.Image:
    """Return `picture` in RGB under a saliency (H, W) in [0, 1]: the stronger, the brighter and the more opaque."""
    shown = Image.fromarray(saliency.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    strength = np.asarray(shown).clip(0, 1)  # (h, w)
    import matplotlib  # late: outlines need none

    colors = Image.fromarray(matplotlib.colormaps[HEAT](strength, bytes=True)).convert("RGB")
    return _over(picture, colors, 255 * HEAT_OPACITY * strength)


def _scaled(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask at the size (w, h) as (h, w) uint8, 255 inside; its edge is about a pixel wide."""
    factor = size[0] / mask.shape[1]
    resample = Image.Resampling.BOX if factor <= 1 else Image.Resampling.BICUBIC
    soft = np.asarray(Image.fromarray(mask * np.uint8(255)).resize(size, resample))
    return soft if factor <= 1 else ((soft - 127.5) * factor + 127.5).clip(0, 255).astype(np.uint8)


def _spread(soft: np.ndarray) -> np.ndarray:
    """Return the highest value within two pixels of each, by an octagon: a square of 3 and then a cross of 3."""
    wide = np.pad(soft, 2)
    rows = np.maximum.reduce([wide[:-2], wide[1:-1], wide[2:]])
    square = np.maximum.reduce([rows[:, :-2], rows[:, 1:-1], rows[:, 2:]])  # (h + 2, w + 2)
    middle, upright = square[1:-1], square[:, 1:-1]
    return np.maximum.reduce([middle[:, :-2], middle[:, 1:-1], middle[:, 2:], upright[:-2], upright[2:]])


def _over(picture: Image.Image, colors: Image.Image | Color, opacity: np.ndarray) -> Image.Image:
    """Return `picture` in RGB under colors, as opaque as (h, w) in [0, 255] says."""
    result = picture.convert("RGB")
    result.paste(colors, (0, 0, *picture.size), Image.fromarray(opacity.round().astype(np.uint8)))
    return result
