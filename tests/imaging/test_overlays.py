import numpy as np
import pytest
from PIL import Image

from hub_models.imaging.overlays import PREDICTED, TRUE, heat, outline, scaled_gray, tint

GRAY = Image.new("L", (64, 64), 100)


def pixels(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 32), (1024, 512)), ((3000, 4096), (750, 1024)), ((5000, 1), (1024, 1))]
)
def test_longer_side_is_as_given(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = scaled_gray(Image.new("L", size, 100), 1024)
    assert picture.size == expected and picture.mode == "L"
    assert np.asarray(picture).min() == np.asarray(picture).max() == 100
    deep = scaled_gray(Image.fromarray(np.full(size[::-1], 99.6, np.float32)), 64)
    assert deep.mode == "L" and set(np.asarray(deep).ravel().tolist()) == {100}  # rounded


@pytest.mark.parametrize("side", [64, 512, 2048])  # of the mask: scaled up, as it is, scaled down
def test_outline_is_on_the_rim_and_nowhere_else(side: int) -> None:
    step, mask = side // 64, np.zeros((side, side), bool)
    mask[16 * step : 48 * step, 0 : 48 * step] = True  # rows 128 to 383 of 512, columns 0 to 383
    picture = pixels(outline(scaled_gray(GRAY, 512), mask))
    is_orange = (picture == PREDICTED).all(-1)
    # two pixels to each side of the rim, the corners left aside
    assert is_orange[126:130, :370].all() and is_orange[382:386, :370].all() and is_orange[142:370, 382:386].all()
    assert is_orange[130:382, 0:2].all()  # closed where it meets the border
    touched = (picture != 100).any(-1)
    assert not touched[133:379, 5:379].any() and not touched[:123].any() and not touched[389:].any()
    assert not touched[:, 389:].any()


def test_outlines_of_two_masks_are_on_one_picture() -> None:
    left, right = np.zeros((2, 64, 64), bool)
    left[:, :20] = right[:, 44:] = True
    picture = pixels(outline(outline(GRAY, left, TRUE), right))
    assert (picture[32, 19] == TRUE).all() and (picture[32, 44] == PREDICTED).all() and (picture[32, 32] == 100).all()


def test_empty_mask_changes_nothing() -> None:
    empty = np.zeros((64, 64), bool)
    assert (pixels(outline(GRAY, empty)) == 100).all() and (pixels(tint(GRAY, empty, TRUE)) == 100).all()


def test_tint_lies_over_the_mask_alone() -> None:
    mask = np.zeros((32, 32), bool)
    mask[:, :16] = True
    picture = pixels(tint(GRAY, mask, TRUE))
    assert picture[:, :32].reshape(-1, 3) == pytest.approx(np.tile((76, 140, 108), (64 * 32, 1)), abs=1)  # .6, .4
    assert (picture[:, 32:] == 100).all()


def test_heat_is_as_opaque_as_strong() -> None:
    assert (pixels(heat(GRAY, np.zeros((64, 64)))) == 100).all()
    # inferno ends in (252, 255, 164), of which 0.7 are laid over 100: 30 + 176.4, 178.5 and 114.8
    (color,) = {tuple(one) for one in pixels(heat(GRAY, np.ones((32, 32)))).reshape(-1, 3).tolist()}
    assert color == pytest.approx((206, 208.5, 145), abs=2)
