import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import binary_fill_holes, label, maximum_filter1d

from hub_models.imaging.masks import keep_two_lungs, mask_png, runs_of, to_mask, widen


@st.composite
def masks(draw) -> np.ndarray:
    """(H, W) bool of up to 30 pixels a side, from empty to full."""
    height, width, seed = draw(st.integers(1, 30)), draw(st.integers(1, 30)), draw(st.integers(0, 2**32 - 1))
    fraction = draw(st.sampled_from((0, 0.02, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 0.98, 1)))
    return np.random.default_rng(seed).random((height, width)) < fraction


def test_runs_end_with_their_rows() -> None:
    mask = np.array([[0, 1, 1], [1, 1, 0]], bool)
    starts, lengths, values = runs_of(mask)
    assert starts.tolist() == [0, 1, 3, 5] and lengths.tolist() == [1, 2, 2, 1]  # not one of 4 across the rows
    assert values.tolist() == [False, True, True, False]


@settings(max_examples=150, deadline=None)
@given(masks())
def test_two_lungs_are_those_of_scipy(mask: np.ndarray) -> None:
    regions, count = label(mask)
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    largest = 1 + np.argsort(-sizes, kind="stable")[:2]
    found = keep_two_lungs(mask)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, binary_fill_holes(np.isin(regions, largest) & mask))


def test_two_lungs_of_an_x_ray() -> None:
    rows, columns = np.mgrid[:490, :402]
    lungs = [((rows - 240) / 160) ** 2 + ((columns - middle) / 60) ** 2 < 1 for middle in (120, 280)]
    mask = lungs[0] | lungs[1]
    mask[240:250, 120:130] = False  # a hole
    mask[5:8, 5:8] = True  # a speck
    np.testing.assert_array_equal(keep_two_lungs(mask), lungs[0] | lungs[1])


@settings(max_examples=100, deadline=None)
@given(masks(), st.integers(0, 40))
def test_widened_mask_is_that_of_scipy(mask: np.ndarray, reach: int) -> None:
    near = mask.astype(np.uint8)
    for axis in (0, 1):
        near = maximum_filter1d(near, 2 * reach + 1, axis, mode="constant")
    np.testing.assert_array_equal(widen(mask, reach), near > 0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (5, 13), (64, 50)])
def test_png_has_a_bit_a_pixel_and_reads_back(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.5
    image = Image.open(io.BytesIO(mask_png(mask)))
    assert image.mode == "1" and image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), mask)


def test_masks_of_any_mode_become_the_same_bool() -> None:
    lungs = np.zeros((6, 8), bool)
    lungs[1:5, 1:3] = lungs[1:5, 5:7] = True
    hard = lungs.astype(np.uint8) * 255
    soft = np.where(lungs, 128, 127).astype(np.uint8)  # the threshold is above 127
    palette = Image.fromarray(255 - hard)
    palette.putpalette([255 - index for index in range(256) for _ in "rgb"])  # its indices are the negative
    modes = [
        Image.fromarray(lungs),
        Image.fromarray(hard),
        Image.fromarray(soft),
        Image.fromarray(lungs.astype(np.uint8)),  # 0 and 1
        palette,
        Image.fromarray(np.stack([hard] * 3, -1)),
        Image.fromarray(lungs.astype(np.uint16) * 65535),
        Image.fromarray(lungs.astype(np.uint16) * 4095),
        Image.fromarray(lungs.astype(np.uint8) * np.array([[1] * 4 + [2] * 4], np.uint8)),  # left 1, right 2
        Image.fromarray(lungs.astype(np.uint8) * 100),
    ]
    for image in modes:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        np.testing.assert_array_equal(to_mask(buffer.getvalue()), lungs)
    assert not to_mask(Image.new("L", (4, 4), 0)).any()
