import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from hub_models.imaging.flags import Flag
from hub_models.predict.checks import LEFT, RIGHT, flags_of, image_flags, lungs_of, sides_of, waist_of


def two_lungs(height: int = 100, width: int = 200) -> np.ndarray:
    """A mask with a lung of 60 x 50 pixels at the image's left and one of 50 x 50 at its right."""
    mask = np.zeros((height, width), bool)
    mask[20:80, 30:80] = True
    mask[20:70, 120:170] = True
    return mask


def test_right_lung_is_at_the_left_of_the_image() -> None:
    lungs = lungs_of(two_lungs(), (0.5, 0.2))
    assert (lungs.right_fraction, lungs.left_fraction) == (3000 / 20000, 2500 / 20000)
    assert (lungs.right_mm2, lungs.left_mm2) == pytest.approx((300, 250))  # 0.1 mm2 a pixel
    assert lungs.borders == () and flags_of(lungs) == ()


def test_right_lung_of_a_mirrored_x_ray_is_at_the_right_of_the_image() -> None:
    lungs, mirrored = lungs_of(two_lungs(), (0.5, 0.2)), lungs_of(two_lungs()[:, ::-1], (0.5, 0.2), is_mirrored=True)
    assert mirrored == lungs
    sides = sides_of(two_lungs()[:, ::-1], is_mirrored=True)
    np.testing.assert_array_equal(sides[:, ::-1], sides_of(two_lungs()))
    assert not sides_of(np.zeros((9, 9), bool), is_mirrored=True).any()


def test_areas_are_counted_on_the_x_rays_own_pixels() -> None:
    mask = np.kron(two_lungs(), np.ones((13, 13), bool))  # 1300 x 2600, regions are found at 512
    mask[20 * 13, 30 * 13] = False
    lungs = lungs_of(mask)
    assert lungs.right_fraction * mask.size == pytest.approx(3000 * 169 - 1)
    assert lungs.left_fraction * mask.size == pytest.approx(2500 * 169)
    assert lungs.right_mm2 is lungs.left_mm2 is None


def test_specks_go_with_the_nearer_lung() -> None:
    mask = two_lungs()
    mask[90, 10:14] = mask[90, 180] = True
    lungs = lungs_of(mask)
    assert (lungs.right_fraction * 20000, lungs.left_fraction * 20000) == pytest.approx((3004, 2501))


def test_what_lies_beyond_the_midline_is_of_the_other_lung() -> None:
    mask = two_lungs()
    mask[85:90, 90:95] = True  # nearer to the lung at the image's left; midway of the lungs is column 99.5
    mask[85:90, 102:107] = True
    assert (sides_of(mask)[85:90, 90:95] == RIGHT).all() and (sides_of(mask)[85:90, 102:107] == LEFT).all()
    alone = np.zeros((100, 200), bool)
    alone[20:80, 30:80] = alone[40:44, 130:140] = True  # 3000 pixels and, below a tenth of it, 40
    assert (sides_of(alone)[40:44, 130:140] == LEFT).all()


def test_lungs_that_touch_are_cut_at_the_waist() -> None:
    mask = two_lungs()
    mask[40:44, 80:120] = True
    sides = sides_of(mask)
    assert waist_of(mask) == 100 and waist_of(np.ones((10, 10), bool)) is None
    assert (sides[20:70, :100] == RIGHT).all() and (sides[20:70, 100:] == LEFT).all()
    assert flags_of(lungs_of(mask)) == ()
    mask[85:90, 90:95] = mask[85:90, 105:110] = True  # specks below the bridge
    sides = sides_of(mask)
    assert (sides[85:90, 90:95] == RIGHT).all() and (sides[85:90, 105:110] == LEFT).all()


@pytest.mark.parametrize(("columns", "side"), [((30, 80), "left"), ((120, 170), "right")])
def test_one_lung_is_flagged(columns: tuple[int, int], side: str) -> None:
    mask = np.zeros((100, 200), bool)
    mask[20:80, slice(*columns)] = True
    assert Flag.ONE_LUNG.raised(side=side, ratio="0%") in flags_of(lungs_of(mask))


def test_no_lungs_tiny_lungs_and_lungs_everywhere_are_flagged() -> None:
    assert flags_of(lungs_of(np.zeros((50, 60), bool))) == (Flag.NO_LUNGS.raised(),)
    tiny = np.zeros((100, 200), bool)
    tiny[40:50, 60:70] = tiny[40:50, 130:140] = True  # 200 of 20000 pixels
    assert flags_of(lungs_of(tiny)) == (Flag.IMPLAUSIBLE_SIZE.raised(fraction="1%", low="6%", high="46%"),)
    everywhere = flags_of(lungs_of(np.ones((100, 200), bool)))
    assert Flag.IMPLAUSIBLE_SIZE.raised(fraction="100%", low="6%", high="46%") in everywhere
    assert Flag.TOUCHES_BORDER.raised(borders="top, bottom, left, right") in everywhere


def test_a_border_counts_from_a_tenth_of_its_length() -> None:
    mask = two_lungs()
    mask[:20, 40:60] = True  # 20 of 200 pixels of the top
    assert lungs_of(mask).borders == ()
    mask[:20, 40:61] = True
    assert lungs_of(mask).borders == ("top",)


@pytest.mark.parametrize("shape", [(90, 70), (700, 1100), (1300, 401), (1, 5)])
def test_areas_are_those_of_the_sides(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for reach in (1, 8, 40):
        mask = gaussian_filter(rng.standard_normal(shape), reach) > 0
        lungs, sides = lungs_of(mask), sides_of(mask)
        assert (lungs.right_fraction, lungs.left_fraction) == tuple(
            (mask & (sides == one)).mean() for one in (RIGHT, LEFT)
        )


def chest(lungs: int, mediastinum: int) -> Image.Image:
    """A picture with two lungs and what lies between them, of one gray level each, on black."""
    gray = np.zeros((128, 128), np.uint8)
    gray[20:100, 16:112] = lungs
    gray[20:100, 54:74] = mediastinum
    return Image.fromarray(gray)


def test_image_of_an_x_ray_has_no_flags() -> None:
    assert image_flags(chest(60, 150), 0.0) == image_flags(chest(60, 150).convert("F"), 3.0) == ()


def test_inverted_colour_and_blank_images_are_flagged() -> None:
    def codes(gray: Image.Image, chroma: float) -> list[Flag]:
        return [flag.code for flag in image_flags(gray, chroma)]

    assert codes(chest(107, 100), 0.0) == []
    assert codes(chest(109, 100), 0.0) == [Flag.INVERTED]  # 9 levels darker between the lungs
    assert codes(chest(60, 150), 3.1) == [Flag.COLOUR]
    assert codes(chest(109, 100), 3.1) == [Flag.COLOUR, Flag.INVERTED]
    for level in (0, 255):
        assert codes(Image.new("L", (90, 70), level), 0.0) == [Flag.BLANK]


def test_one_dark_side_is_not_taken_for_inverted() -> None:
    gray = np.array(chest(200, 100))
    gray[:, :54] = 20  # a lung's side in the dark
    assert image_flags(Image.fromarray(gray), 0.0) == ()
