import numpy as np
import pytest
from PIL import Image

from hub_models.imaging.gray import to_gray
from hub_models.imaging.resizing import BOX, content_box, resize_gray, resize_mask


def test_resize_is_antialiased_and_takes_nearest_mask() -> None:
    gray = Image.fromarray(np.array([[0, 70, 140, 0]] * 4, np.uint8))
    # 4 to 2: pixels .5, .5 and 1.5 from a centre weigh 3, 3 and 1, so (3*0 + 3*70 + 140)/7 and (70 + 3*140 + 3*0)/7
    np.testing.assert_array_equal(resize_gray(gray, 2), [[50, 70], [50, 70]])
    np.testing.assert_array_equal(resize_gray(gray, 2, resample=BOX), [[35, 70], [35, 70]])  # means of 2x2 blocks
    deep = Image.fromarray(np.array([[0, 1000], [2000, 4095]], np.uint16))
    # the mean is taken before rounding: 7095/4 * 255/4095 = 110.45
    np.testing.assert_array_equal(resize_gray(to_gray(deep), 1), [[110]])
    mask = np.zeros((4, 8), bool)
    mask[:, :4] = True
    np.testing.assert_array_equal(resize_mask(mask, 4), np.array([[True, True, False, False]] * 4))
    assert resize_gray(Image.new("L", (30, 50), 255), 32).tolist() == [[255] * 32] * 32  # upwards, and squashed


@pytest.mark.parametrize(
    ("sides", "box"),
    [
        ((4892, 4020, 512), (0, 45, 512, 466)),  # 512 * 4020 / 4892 = 420.7, so 421 columns; (512 - 421) // 2 = 45
        ((4020, 4892, 512), (45, 0, 466, 512)),
        ((100, 100, 32), (0, 0, 32, 32)),
        ((2, 4, 8), (2, 0, 6, 8)),  # upwards: half of 8 rows, 2 above and below
        ((1, 1000, 32), (15, 0, 16, 32)),  # 0.03 rows: one at least
    ],
)
def test_padded_x_ray_fills_its_box(sides: tuple[int, int, int], box: tuple[int, ...]) -> None:
    assert content_box(*sides, "pad") == box
    assert content_box(*sides) == content_box(*sides, "squash") == (0, 0, sides[2], sides[2])


def test_padding_keeps_the_aspect_between_black_bars() -> None:
    gray = np.array([[0, 50, 90, 20], [0, 90, 190, 20]], np.uint8)
    # 2x4 to the square of 2: a row of means, 0, 70, 140 and 20, weighed 3:3:1 and 1:3:3; no row above it, one below
    np.testing.assert_array_equal(resize_gray(Image.fromarray(gray), 2, "pad"), [[50, 79], [0, 0]])
    np.testing.assert_array_equal(resize_gray(Image.fromarray(gray.T), 2, "pad"), [[50, 0], [79, 0]])
    deep = Image.fromarray(gray.astype(np.float32))
    np.testing.assert_array_equal(resize_gray(deep, 2, "pad"), [[50, 79], [0, 0]])
    # twice as large, two bars of two rows
    top, _, bottom, _ = content_box(2, 4, 8, "pad")
    large = resize_gray(Image.fromarray(gray), 8, "pad")
    np.testing.assert_array_equal(large[top, :4], [0, 13, 38, 60])  # a quarter, three quarters of the way; halves up
    assert not large[:top].any() and not large[bottom:].any()


def test_padded_mask_lies_on_its_padded_image() -> None:
    mask = np.zeros((40, 20), bool)
    mask[10:30, 4:16] = True
    small = resize_mask(mask, 20, "pad")  # half as large, 5 columns without lung on either side
    expected = np.zeros((20, 20), bool)
    expected[5:15, 5 + 2 : 5 + 8] = True
    np.testing.assert_array_equal(small, expected)
    np.testing.assert_array_equal(resize_gray(Image.fromarray(mask * np.uint8(255)), 20, "pad") > 127, small)


def test_unknown_fits_and_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="fit must be one of squash, pad, got 'crop'"):
        resize_gray(Image.new("L", (4, 4)), 2, "crop")
    with pytest.raises(ValueError, match="0x5 pixels does not fit a square of 8"):
        content_box(0, 5, 8, "pad")
