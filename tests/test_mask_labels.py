"""Masks in every form in which people keep them: labels, colours, palettes, alpha, JPEG."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from chest_xray_masks import binarize, doubt_of, mask_labels, mask_values
from hub_models.imaging.masks import to_mask

SIDE = 128
Y, X = np.mgrid[:SIDE, :SIDE] / SIDE
LEFT = ((X - 0.3) / 0.14) ** 2 + ((Y - 0.5) / 0.32) ** 2 < 1
RIGHT = ((X - 0.7) / 0.13) ** 2 + ((Y - 0.5) / 0.3) ** 2 < 1
LUNGS = LEFT | RIGHT


def labels(left: float, right: float, background: float = 0, kind: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(LEFT, left, np.where(RIGHT, right, background)).astype(kind))


def colours(left: tuple, right: tuple, background: tuple = (0, 0, 0)) -> Image.Image:
    parts = (LEFT[..., None], left), (RIGHT[..., None], right)
    pixels = np.full((SIDE, SIDE, 3), background, np.uint8)
    for where, colour in parts:
        pixels = np.where(where, np.uint8(colour), pixels)
    return Image.fromarray(pixels)


def palette(left: int, right: int, table: list[int]) -> Image.Image:
    image = labels(left, right)
    image.putpalette(table + [0] * (768 - len(table)))
    return image


def with_alpha(gray: int | np.ndarray, alpha: int | np.ndarray) -> Image.Image:
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = np.broadcast_to(gray, (SIDE, SIDE))[..., None], alpha
    return Image.fromarray(pixels)


def packed(image: Image.Image, kind: str, **how: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return Image.open(io.BytesIO(buffer.getvalue()))


PAIRS = [(1, 2), (2, 3), (3, 4), (1, 5), (10, 20), (50, 255), (64, 128), (85, 170), (100, 200), (127, 255), (128, 255)]
PAIRS += [(206, 210), (1, 255), (30, 31), (255, 255), (1, 1)]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
EXACT = {f"{left}/{right}": labels(left, right) for left, right in PAIRS}
EXACT |= {
    "2/3 on 1": labels(2, 3, 1),
    "16 bits, 1/2": labels(1, 2, kind=np.uint16),
    "16 bits, half/full": labels(32767, 65535, kind=np.uint16),
    "16 bits, 1000/4000": labels(1000, 4000, kind=np.uint16),
    "32 bits": labels(1, 2, kind=np.int32),
    "float, 0.5/1": labels(0.5, 1, kind=np.float32),
    "1 bit": Image.fromarray(LUNGS),
    "red and green": colours(RED, GREEN),
    "red and blue": colours(RED, BLUE),
    "blue": colours(BLUE, BLUE),
    "dark": colours((128, 0, 0), (0, 64, 0)),
    "on white": colours(RED, (255, 255, 0), WHITE),
    "on another colour": colours(GREEN, WHITE, (20, 20, 60)),
    "gray and white in RGB": colours((127, 127, 127), WHITE),
    "palette of VOC": palette(1, 2, [0, 0, 0, 128, 0, 0, 0, 128, 0]),
    "palette of indices": palette(1, 2, [value for index in range(256) for value in (index,) * 3]),
    "palette of red and blue": colours(RED, BLUE).convert("P", palette=Image.Palette.ADAPTIVE),
    "white, lungs in alpha": with_alpha(255, LUNGS * 255),
    "black, lungs in alpha": with_alpha(0, LUNGS * 255),
    "lungs in alpha of 100": with_alpha(255, LUNGS * 100),
    "RGBA, opaque": with_alpha(LUNGS * 255, 255),
    "RGBA, half opaque": with_alpha(LUNGS * 255, 128),
    "RGBA of red and green": colours(RED, GREEN).convert("RGBA"),
    "LA": with_alpha(255, LUNGS * 255).convert("LA"),
    "LA, opaque": labels(255, 255).convert("LA"),
    "palette with a transparent index": packed(palette(1, 1, [255] * 6), "PNG", transparency=0),
}
OF_JPEG = {f"{left}/{right}": labels(left, right) for left, right in PAIRS if left > 40}
OF_JPEG |= {
    "red and green": colours(RED, GREEN),
    "white RGB": colours(WHITE, WHITE),
    "CMYK": labels(255, 255).convert("CMYK"),
}


@pytest.mark.parametrize("name", EXACT)
def test_all_but_the_background_is_lung(name: str) -> None:
    assert np.array_equal(binarize(EXACT[name]), LUNGS)


@pytest.mark.parametrize("quality", [95, 75, 30])
@pytest.mark.parametrize("name", OF_JPEG)
def test_labels_in_jpeg(name: str, quality: int) -> None:
    found = binarize(packed(OF_JPEG[name], "JPEG", quality=quality))
    assert 2 * (found & LUNGS).sum() / (found.sum() + LUNGS.sum()) > 0.95


@pytest.mark.parametrize("name", EXACT)
def test_the_package_reads_masks_as_the_builder(name: str) -> None:
    image = EXACT[name]
    assert np.array_equal(to_mask(image), binarize(image))
    if image.mode in ("L", "I;16", "F", "RGB"):
        assert np.array_equal(to_mask(np.asarray(image)), LUNGS)


def test_soft_edges_keep_their_threshold() -> None:
    """Blurred, scaled and saved as JPEG, a mask of 0 and 255 is what is above 127, to a pixel."""
    mask = labels(255, 255)
    soft = [mask.filter(ImageFilter.GaussianBlur(radius)) for radius in (0.5, 1, 3)]
    soft += [mask.resize((SIDE // 4,) * 2, how).resize((SIDE, SIDE), how) for how in (Image.BICUBIC, Image.BOX)]
    soft += [packed(mask, "JPEG", quality=quality) for quality in (100, 99, 95, 75, 30)]
    for image in soft:
        assert np.array_equal(binarize(image), np.asarray(image) > 127)


def test_a_frame_is_no_lung() -> None:
    pixels = np.pad(np.asarray(labels(255, 255))[6:-6, 6:-6], 6, constant_values=114)
    assert np.array_equal(binarize(Image.fromarray(pixels)), LUNGS)


def test_a_thin_void_around_labels() -> None:
    """The contour of 255 that VOC draws around its labels is not taken for the lung."""
    pixels = np.asarray(labels(1, 2)).copy()
    edge = LUNGS ^ (LUNGS & np.roll(LUNGS, 1, 0) & np.roll(LUNGS, 1, 1))
    pixels[edge] = 255
    assert np.array_equal(binarize(Image.fromarray(pixels)), LUNGS)


def test_levels() -> None:
    assert mask_labels(mask_values(labels(100, 200))) == [0, 100, 200]
    assert mask_labels(mask_values(labels(255, 255))) == [0, 255]
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
    assert mask_labels(noise) == []


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (labels(255, 255), ""),
        (labels(0, 0, 255), "looks inverted"),
        (labels(0, 0, 1), "looks inverted"),
        (labels(0, 127, 255), "looks inverted"),
        (labels(0, 0, 255).convert("RGB"), "looks inverted"),
        (with_alpha(255, 255 - LUNGS * 255), "looks inverted"),
        (labels(0, 0), "holds no lung"),
        (labels(255, 255, 255), "looks inverted: it covers 100%"),
        (Image.fromarray(np.pad(np.full((108, 108), 255, np.uint8), 10)), "covers 71% of the image"),
    ],
)
def test_masks_in_doubt(image: Image.Image, said: str) -> None:
    doubt = doubt_of(binarize(image))
    assert doubt.startswith(said) and bool(doubt) == bool(said)
