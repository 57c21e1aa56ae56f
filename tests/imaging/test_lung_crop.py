import numpy as np
import pytest
from PIL import Image

from hub_models.imaging.lung_crop import crop_to_lungs, lungs_box

LUNGS = np.zeros((20, 24), bool)
LUNGS[8:12, 6:14] = True  # 4 rows and 8 columns


def test_box_of_the_lungs_by_hand() -> None:
    assert lungs_box(LUNGS, 0) == (8, 6, 12, 14)
    assert lungs_box(LUNGS, 0.25) == (7, 4, 13, 16)  # a row and two columns more on each side
    assert lungs_box(LUNGS, 10) == (0, 0, 20, 24)  # clipped


@pytest.mark.parametrize("mode", ["L", "F"])
def test_crop_is_the_lungs_at_one_brightness_by_hand(mode: str) -> None:
    # margin 0.25: rows 7 to 12 and columns 4 to 15; the lungs are what lies within round(0.125 * 8) = 1 pixel of the
    # mask: 6 rows of 10 columns, half of them 60 and half of them 100: mean 80, sd 20, so 128 -+ 42.5
    values = np.full((20, 24), 200)
    values[7:10, 5:15], values[10:13, 5:15] = 60, 100
    gray = Image.fromarray(values.astype(np.uint8)).convert(mode)
    cut = crop_to_lungs(gray, LUNGS, 0.25)
    expected = np.full((6, 12), 128)
    expected[:3, 1:-1], expected[3:, 1:-1] = 86, 170  # rounded half to even
    assert cut.mode == "L"
    np.testing.assert_array_equal(np.asarray(cut), expected)
    brighter = Image.fromarray((values * 1.2 + 7).astype(np.float32))
    np.testing.assert_array_equal(np.asarray(crop_to_lungs(brighter, LUNGS, 0.25)), expected)
    turned = crop_to_lungs(Image.fromarray(values.T.astype(np.uint8)).convert(mode), LUNGS.T, 0.25)
    np.testing.assert_array_equal(np.asarray(turned), expected.T)


def test_crop_without_margin_is_the_box_with_mid_gray_between_the_lungs() -> None:
    two = np.zeros((4, 6), bool)
    two[1:3, [1, 4]] = True
    values = np.zeros((4, 6), np.uint8)
    values[:, 1], values[:, 4] = 10, 30
    cut = crop_to_lungs(Image.fromarray(values), two, 0)
    np.testing.assert_array_equal(np.asarray(cut), [[86, 128, 128, 170]] * 2)
    flat = crop_to_lungs(Image.new("L", (6, 4), 10), two, 0)
    np.testing.assert_array_equal(np.asarray(flat), [[128] * 4] * 2)


@pytest.mark.parametrize("seed", range(20))
def test_crop_of_8_bits_is_that_of_their_floats(seed: int) -> None:
    # a table of 256 grays does for the one what is done to each pixel of the other
    rng = np.random.default_rng(seed)
    gray = Image.fromarray(rng.normal(120, 40, (90, 70)).clip(0, 255).astype(np.uint8))
    mask = rng.random((90, 70)) < 0.01
    cuts = [np.asarray(crop_to_lungs(one, mask, 0.07)) for one in (gray, gray.convert("F"))]
    np.testing.assert_array_equal(*cuts)


def test_crop_refuses_masks_that_do_not_fit() -> None:
    gray = Image.new("L", (24, 20), 100)
    with pytest.raises(ValueError, match="lung mask of 10x24 pixels, its X-ray 20x24"):
        crop_to_lungs(gray, LUNGS[:10], 0.1)
    with pytest.raises(ValueError, match="mask of 20x24 pixels holds no lung"):
        crop_to_lungs(gray, np.zeros_like(LUNGS), 0.1)
    with pytest.raises(ValueError, match="margin must not be negative, got -0.1"):
        crop_to_lungs(gray, LUNGS, -0.1)
