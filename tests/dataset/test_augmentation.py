from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch.nn.functional import interpolate

from hub_models.dataset.augmentation import (
    DRAWN_COLUMNS,
    NOISE_SEEDS,
    STRENGTHS,
    Ranges,
    _hash,
    _smooth,
    augment,
    draw,
    normal_noise,
    shift_scale_turn,
)

ALL = STRENGTHS["strong"]  # every change on
WIDTH = sum(DRAWN_COLUMNS.values())
PLACES = {
    name: slice(end - width, end)
    for (name, width), end in zip(DRAWN_COLUMNS.items(), np.cumsum(list(DRAWN_COLUMNS.values())), strict=True)
}


def changed(**values: float | list[float] | torch.Tensor) -> torch.Tensor:
    """One drawn row that changes nothing but what is named."""
    drawn = torch.zeros(1, WIDTH)
    for name, value in ({"scale": 1.0, "contrast": 1.0} | values).items():
        drawn[:, PLACES[name]] = torch.as_tensor(value, dtype=torch.float32).flatten()
    return drawn


def points(x: float = 0.0, y: float = 0.0) -> torch.Tensor:
    """Control points (2, 4, 4) that all read from x, y further."""
    return torch.tensor([x, y])[:, None, None].expand(2, 4, 4).clone()


def bump(side: int) -> torch.Tensor:
    """A smooth round spot (side, side) of height 1 off the center, a quarter of the side wide."""
    across = torch.arange(side) / side
    return torch.exp(-((across - 0.45) ** 2 + (across[:, None] - 0.55) ** 2) / (2 * 0.1**2))


@pytest.fixture
def picture() -> tuple[torch.Tensor, torch.Tensor]:
    """A 32x32 image, dark but for a bright square off the center, and the square as its mask."""
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 4:10, 18:26] = True
    return 0.2 + 0.6 * mask.float(), mask


def limits(ranges: Ranges) -> tuple[torch.Tensor, torch.Tensor]:
    both_ways = {"angle": ranges.turn_degrees, "shift": ranges.shift_fraction, "log_gamma": ranges.gamma_log}
    both_ways |= {"brightness": ranges.brightness, "elastic": ranges.elastic_fraction, "shading": ranges.shading}
    upward = {"blur_sigma": ranges.blur_sigma_fraction, "noise_sigma": ranges.noise_sigma, "noise_seed": NOISE_SEEDS}
    lowest = {name: -value for name, value in both_ways.items()}
    low = changed(scale=ranges.scale[0], contrast=ranges.contrast[0], **lowest)
    return low, changed(scale=ranges.scale[1], contrast=ranges.contrast[1], **both_ways, **upward)


@pytest.mark.parametrize("ranges", STRENGTHS.values())
def test_drawn_values_repeat_and_stay_in_their_ranges(ranges: Ranges) -> None:
    drawn = draw(list(range(500)), 1, 2, ranges)
    low, high = limits(ranges)
    assert ((drawn >= low) & (drawn <= high)).all()
    # uniform: the middle of 500 draws is near the middle of the range
    assert ((drawn.median(0).values - (low + high) / 2).abs() <= 0.1 * (high - low)).all()
    assert torch.equal(drawn[7:9], draw([7, 8], 1, 2, ranges))  # whatever else is in the batch
    assert not torch.equal(drawn, draw(list(range(500)), 1, 3, ranges))
    assert not torch.equal(drawn, draw(list(range(500)), 2, 2, ranges))


def test_drawn_row_is_numpys_uniform_spread_over_the_ranges() -> None:
    expected = np.random.default_rng([1, 2, 7]).uniform([-10, 0.85, -0.06], [10, 1.2, 0.06])
    np.testing.assert_allclose(draw([7], 1, 2, STRENGTHS["light"])[0, :3], expected, rtol=1e-6)


def test_noise_seed_is_a_whole_number_that_float32_holds() -> None:
    seeds = draw(list(range(200)), 1, 2, ALL)[:, PLACES["noise_seed"]]
    assert torch.equal(seeds, seeds.round()) and seeds.max() < 2**24 and len(seeds.unique()) > 190
    assert draw([], 1, 2, ALL).shape == (0, WIDTH)


@pytest.mark.parametrize("ranges", STRENGTHS.values())
def test_nothing_drawn_changes_nothing(picture, ranges: Ranges) -> None:
    images, masks = augment(*picture, changed(noise_seed=5), ranges)
    torch.testing.assert_close(images, picture[0])
    assert torch.equal(masks, picture[1])


def test_what_is_off_is_left_out_whatever_was_drawn(picture) -> None:
    drawn = draw([3], 1, 2, ALL)
    images, masks = augment(*picture, drawn, STRENGTHS["none"])
    assert torch.equal(images, picture[0]) and torch.equal(masks, picture[1])
    brighter, masks = augment(*picture, changed(angle=45.0, brightness=0.1), Ranges(brightness=0.1))
    torch.testing.assert_close(brighter, picture[0] + 0.1)
    assert torch.equal(masks, picture[1])


def test_row_does_not_depend_on_the_rest_of_the_batch() -> None:
    images = torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(0))
    masks, drawn = images > 0.5, draw([1, 2, 3, 4], 5, 6, ALL)
    together, masks_together = augment(images, masks, drawn, ALL)
    for row in range(4):
        only = slice(row, row + 1)
        assert together[row].min() >= 0 and together[row].max() <= 1 and together[row].isfinite().all()
        alone, mask = augment(images[only], masks[only], drawn[only], ALL)
        torch.testing.assert_close(alone, together[only], rtol=0, atol=1e-6)
        assert torch.equal(mask, masks_together[only])


def test_inputs_stay_as_they_were(picture) -> None:
    before, drawn = [tensor.clone() for tensor in picture], draw([1], 2, 3, ALL)
    drawn_before = drawn.clone()
    for name in ("shift_fraction", "gamma_log", "brightness", "noise_sigma", "blur_sigma_fraction"):
        augment(*picture, drawn, replace(Ranges(), **{name: 0.1}))
    augment(*picture, drawn, ALL)
    assert torch.equal(picture[0], before[0]) and torch.equal(picture[1], before[1])
    assert torch.equal(drawn, drawn_before)


def test_no_step_waits_for_the_device(picture) -> None:
    # a meta tensor has no values: reading one, as any() or item() would, raises
    images, masks, drawn = (tensor.to("meta") for tensor in (*picture, changed()))
    images, masks = augment(images, masks, drawn, ALL)
    assert images.shape == masks.shape == (1, 32, 32) and images.is_meta and masks.is_meta


@pytest.mark.parametrize(
    "drawn",
    [{"shift": [4 / 32, 2 / 32]}, {"elastic": points(x=-4 / 32, y=-2 / 32)}],  # read from 4 to the left and 2 up
)
def test_shift_moves_image_and_mask_together(picture, drawn: dict) -> None:
    images, masks = augment(*picture, changed(**drawn), ALL)
    expected = torch.zeros_like(masks)
    expected[0, 6:12, 22:30] = True  # 4 to the right, 2 down
    assert torch.equal(masks, expected)
    torch.testing.assert_close(images[expected], torch.full((48,), 0.8), rtol=0, atol=1e-4)
    assert images[0, :2].max() < 1e-5 and images[0, :, :4].max() < 1e-5  # what comes in is black


def test_turn_and_scale_keep_image_and_mask_together(picture) -> None:
    images, masks = augment(*picture, changed(angle=10.0, scale=1.2), ALL)
    assert 0.9 < masks.sum() / (1.44 * picture[1].sum()) < 1.1  # area grows with the square of the scale
    # bilinear edges aside, the bright pixels are the mask's
    assert ((images > 0.5) == masks).float().mean() > 0.97
    quarter, _ = augment(*picture, changed(angle=90.0), ALL)
    np.testing.assert_allclose(quarter[0], np.rot90(picture[0][0], k=-1), atol=1e-4)


def test_shift_scale_turn_is_scipys_affine_transform() -> None:
    planes = torch.rand(5, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    drawn = draw(list(range(5)), 1, 2, ALL)
    angle, scale, shift = drawn[:, 0], drawn[:, 1], drawn[:, 2:4]
    moved = shift_scale_turn(planes, angle, scale, shift)
    for index, (degrees, factor, (right, down)) in enumerate(zip(angle, scale, shift.tolist(), strict=True)):
        cos, sin = degrees.deg2rad().cos() * factor, degrees.deg2rad().sin() * factor
        inverse = np.linalg.inv([[cos, sin], [-sin, cos]])  # of (row, column): clockwise on the screen
        offset = 19.5 - inverse @ [19.5 + 40 * down, 19.5 + 40 * right]
        same = shift_scale_turn(planes[index : index + 1], degrees.item(), factor.item(), (right, down))[0]
        assert torch.equal(same, moved[index])  # one move for all
        for plane, found in zip(planes[index], moved[index], strict=True):
            expected = ndimage.affine_transform(plane, inverse, offset, order=1, mode="grid-constant")
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_inverse_brings_a_smooth_picture_back() -> None:
    planes = torch.stack([bump(64), bump(64).T, torch.ones(64, 64)]).expand(2, 3, 64, 64)
    move = (torch.tensor([12.0, -7.0]), torch.tensor([1.2, 0.8]), torch.tensor([[0.05, -0.03], [0.0, 0.1]]))
    there = shift_scale_turn(planes, *move)
    assert (there - planes)[:, :2].abs().max() > 0.3
    back = shift_scale_turn(there, *move, inverse=True)
    kept = back[:, 2:] > 0.999
    assert kept.float().mean() > 0.6
    assert ((back - planes) * kept).abs().max() < 0.02  # two bilinear readings of a spot 6 pixels wide
    lost = shift_scale_turn(shift_scale_turn(planes, 0.0, 1.0, (0.25, 0.0)), 0.0, 1.0, (0.25, 0.0), inverse=True)
    assert lost[:, 2, :, 48:].abs().max() < 1e-5 and lost[:, 2, :, :48].min() > 1 - 1e-4  # the right quarter had left


def test_elastic_is_smooth_and_local(picture) -> None:
    corner = points()
    corner[0, 0, 0] = 0.03
    offsets = _smooth(corner.view(1, -1), 31)[0] * 31  # in pixels
    assert offsets[0, 0, 0] == pytest.approx(0.03 * 31)
    # a control point reaches two of the three gaps (10 pixels each) that the cubic spans, in x alone
    assert offsets[:, 20:].abs().max() < 1e-6 and offsets[:, :, 20:].abs().max() < 1e-6 and not offsets[1].any()
    assert offsets.diff(dim=-1).abs().max() < 0.2
    random = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = interpolate(random, (31, 31), mode="bicubic", align_corners=True)
    torch.testing.assert_close(_smooth(random.view(3, -1), 31), expected, rtol=0, atol=1e-5)


def test_elastic_moves_image_and_mask_together() -> None:
    images = bump(96)[None].expand(8, -1, -1)
    masks = images > 0.5
    drawn = changed().repeat(8, 1)
    drawn[:, PLACES["elastic"]] = draw(list(range(8)), 1, 2, ALL)[:, PLACES["elastic"]] * 2
    moved, moved_masks = augment(images, masks, drawn, ALL)
    assert ((moved_masks ^ masks).sum((1, 2)) > 20).all()  # each changed its outline
    assert ((moved > 0.5) == moved_masks).float().mean() > 0.997  # where the image goes the mask goes
    assert (moved_masks.sum((1, 2)) > 0.6 * masks.sum((1, 2))).all()


def test_elastic_never_folds_the_picture_over() -> None:
    furthest = points()
    furthest[:, :, ::2], furthest[:, :, 1::2] = 1 / 9, -1 / 9  # neighbours as far apart as Ranges allows
    x = torch.linspace(-1, 1, 64) + _smooth(furthest.view(1, -1), 64)[0, 0] * 2 * 64 / 63
    assert x.diff(dim=-1).min() > -1e-3  # at the limit, stretches stand still but do not turn back


@pytest.mark.parametrize(
    ("values", "bright"),
    [
        ({"contrast": 0.5}, 0.65),  # (0.8 - 0.5) * 0.5 + 0.5
        ({"brightness": 0.1}, 0.9),
        ({"brightness": 0.5}, 1.0),  # clamped
        ({"log_gamma": float(np.log(2))}, 0.64),  # 0.8 ** 2
    ],
)
def test_gray_changes_by_hand_and_masks_stay(picture, values, bright) -> None:
    for ranges in (STRENGTHS["light"], ALL):
        images, masks = augment(*picture, changed(**values), ranges)
        torch.testing.assert_close(images[masks], torch.full((48,), bright), rtol=0, atol=1e-4)
        assert torch.equal(masks, picture[1])


def test_gamma_leaves_black_and_white() -> None:
    image = torch.tensor([[[0.0, 1.0], [0.25, 1.0]]])
    images, _ = augment(image, None, changed(log_gamma=float(np.log(0.5))), Ranges(gamma_log=1.0))
    torch.testing.assert_close(images, torch.tensor([[[0.0, 1.0], [0.5, 1.0]]]))  # sqrt(0.25) = 0.5


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.5])
def test_blur_is_scipys_and_masks_stay(picture, sigma: float) -> None:
    ranges = Ranges(blur_sigma_fraction=2.5 / 32)
    images, masks = augment(*picture, changed(blur_sigma=sigma / 32), ranges)
    expected = ndimage.gaussian_filter(picture[0][0].numpy(), sigma, mode="mirror", radius=8)  # ceil(3 * 2.5)
    np.testing.assert_allclose(images[0], expected, atol=1e-5)
    assert torch.equal(masks, picture[1])


def test_noise_is_normal_and_knows_no_neighbours() -> None:
    noise = normal_noise(torch.tensor([0.0, 1.0, 2.0, NOISE_SEEDS - 1]), 256)
    assert noise.isfinite().all()
    # of 65536 normals the mean has a standard error of 0.004, the sd of 0.003, a correlation of 0.004
    assert noise.mean((1, 2)).abs().max() < 0.015 and (noise.std((1, 2)) - 1).abs().max() < 0.012
    for plane in noise:
        assert stats.kstest(plane.flatten().numpy(), "norm").pvalue > 1e-3
        assert abs(stats.kurtosis(plane.flatten().numpy())) < 0.08  # standard error sqrt(24 / 65536) = 0.02
        for shifted in (plane.roll(1, 0), plane.roll(1, 1), plane.roll((1, 1), (0, 1)), plane.roll(16, 1)):
            assert (plane * shifted).mean().abs() < 0.016
    between = torch.corrcoef(noise.flatten(1)) - torch.eye(4)
    assert between.abs().max() < 0.016  # seeds next to each other
    assert torch.equal(normal_noise(torch.tensor([2.0]), 256)[0], noise[2])


def test_hash_is_that_of_unsigned_integers() -> None:
    def mixed(number: int) -> int:
        number ^= number >> 16
        number = number * 0x21F0AAAD % 2**32
        number ^= number >> 15
        number = number * 0x735A2D97 % 2**32
        return number ^ number >> 15

    numbers = [0, 1, 2, 65535, 2**24 + 3, 2**31 - 1]
    got = _hash(torch.tensor(numbers, dtype=torch.int32))
    assert [one % 2**32 for one in got.tolist()] == [mixed(number) for number in numbers]


def test_noise_is_as_strong_as_drawn_and_masks_stay() -> None:
    images, masks = torch.full((2, 128, 128), 0.5), torch.ones(2, 128, 128, dtype=torch.bool)
    drawn = torch.cat([changed(noise_sigma=0.02, noise_seed=7), changed(noise_sigma=0.05, noise_seed=7)])
    noisy, masks_after = augment(images, masks, drawn, Ranges(noise_sigma=0.05))
    np.testing.assert_allclose(noisy.std((1, 2)), [0.02, 0.05], rtol=0.03)
    np.testing.assert_allclose((noisy[0] - 0.5) * 2.5, noisy[1] - 0.5, atol=1e-6)  # one seed, one pattern
    assert torch.equal(masks_after, masks)


def test_no_mask_gives_none(picture) -> None:
    for ranges in (STRENGTHS["none"], ALL):
        images, masks = augment(picture[0], None, changed(shift=0.1), ranges)
        assert images.shape == (1, 32, 32) and masks is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": (1.2, 0.8)}, r"scale must be \(low, high\)"),
        ({"contrast": (0.0, 1.0)}, r"contrast must be \(low, high\)"),
        ({"turn_degrees": -5.0}, "turn_degrees must be 0"),
        ({"noise_sigma": float("nan")}, "noise_sigma must be 0"),
        ({"elastic_fraction": 0.2}, "elastic_fraction must be at most 0.111"),
        ({"blur_sigma_fraction": 0.2}, "blur_sigma_fraction must be at most 0.1"),
    ],
)
def test_ranges_that_nothing_can_be_drawn_from(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        Ranges(**values)


def test_rows_of_another_width(picture) -> None:
    with pytest.raises(ValueError, match=r"\(B, 62\) .* got \(1, 7\)"):
        augment(*picture, torch.zeros(1, 7), ALL)


def test_shading_is_a_smooth_field_of_brightness(picture) -> None:
    drawn = changed()
    drawn[:, PLACES["shading"]] = torch.linspace(-0.1, 0.1, 4).repeat(4)[None]  # the same in each row: left to right
    images, masks = augment(*picture, drawn, ALL)
    change = (images - picture[0])[0]
    assert torch.equal(masks, picture[1])
    torch.testing.assert_close(change[:, 0], torch.full((32,), -0.1), rtol=0, atol=1e-4)
    torch.testing.assert_close(change[:, -1], torch.full((32,), 0.1), rtol=0, atol=1e-4)
    assert (change.diff(dim=1) > -1e-3).all() and change.diff(dim=1).max() < 0.02


def test_crops_are_parts_of_the_picture_and_reach_its_edges() -> None:
    ranges, side = STRENGTHS["crops"], 33
    drawn = draw(list(range(400)), 0, 0, ranges)
    place = torch.linspace(0, 1, side)
    ramps = (place.expand(400, side, side), place[:, None].expand(400, side, side))
    for ramp, axis in zip(ramps, (2, 1), strict=True):
        found, _ = augment(ramp, None, drawn, ranges)
        low, high = found.amin((1, 2)), found.amax((1, 2))
        fractions = high - low
        assert float(fractions.min()) == pytest.approx(0.2**0.5, abs=0.01) and float(fractions.max()) > 0.98
        assert float(low.min()) < 0.01 and float(high.max()) > 0.99
        assert torch.allclose(found.diff(dim=axis).mean((1, 2)), fractions / (side - 1), atol=1e-5)  # nothing outside
