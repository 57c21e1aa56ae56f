import numpy as np
import pytest
import torch

from hub_models.augment import BRIGHTNESS, CONTRAST, GAMMA_LOG, SCALE, SHIFT_SHARE, TURN_DEGREES, augment, draw

STILL = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]  # angle, scale, shift x and y, log gamma, contrast, brightness


def changed(**values: float) -> torch.Tensor:
    names = ("angle", "scale", "shift_x", "shift_y", "log_gamma", "contrast", "brightness")
    return torch.tensor([[values.get(name, still) for name, still in zip(names, STILL, strict=True)]])


@pytest.fixture
def picture() -> tuple[torch.Tensor, torch.Tensor]:
    """A 32x32 image, dark but for a bright square off the centre, and the square as its mask."""
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 4:10, 18:26] = True
    return 0.2 + 0.6 * mask.float(), mask


def test_drawn_values_repeat_and_stay_in_their_ranges() -> None:
    drawn = draw(list(range(500)), seed=1, epoch=2)
    low = torch.tensor([-TURN_DEGREES, SCALE[0], -SHIFT_SHARE, -SHIFT_SHARE, -GAMMA_LOG, CONTRAST[0], -BRIGHTNESS])
    high = torch.tensor([TURN_DEGREES, SCALE[1], SHIFT_SHARE, SHIFT_SHARE, GAMMA_LOG, CONTRAST[1], BRIGHTNESS])
    assert ((drawn >= low) & (drawn <= high)).all()
    # uniform: the middle of 500 draws is near the middle of the range
    assert ((drawn.median(0).values - (low + high) / 2).abs() < 0.1 * (high - low)).all()
    assert torch.equal(drawn[7:9], draw([7, 8], seed=1, epoch=2))  # whatever else is in the batch
    assert not torch.equal(drawn, draw(list(range(500)), seed=1, epoch=3))
    assert not torch.equal(drawn, draw(list(range(500)), seed=2, epoch=2))


def test_nothing_drawn_changes_nothing(picture) -> None:
    images, masks = augment(*picture, changed())
    torch.testing.assert_close(images, picture[0])
    assert torch.equal(masks, picture[1])


def test_shift_moves_image_and_mask_together(picture) -> None:
    images, masks = augment(*picture, changed(shift_x=4 / 32, shift_y=2 / 32))
    expected = torch.zeros_like(masks)
    expected[0, 6:12, 22:30] = True  # 4 to the right, 2 down
    assert torch.equal(masks, expected)
    torch.testing.assert_close(images[expected], torch.full((48,), 0.8))
    assert images[0, :2].max() < 1e-6 and images[0, :, :4].max() < 1e-6  # what comes in is black


def test_turn_and_scale_keep_image_and_mask_together(picture) -> None:
    images, masks = augment(*picture, changed(angle=10.0, scale=1.2))
    assert 0.9 < masks.sum() / (1.44 * picture[1].sum()) < 1.1  # area grows with the square of the scale
    # bilinear edges aside, the bright pixels are the mask's
    assert ((images > 0.5) == masks).float().mean() > 0.97


def test_quarter_turn_is_numpys(picture) -> None:
    images, _ = augment(*picture, changed(angle=90.0))
    np.testing.assert_allclose(images[0], np.rot90(picture[0][0], k=-1), atol=1e-4)


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
    images, masks = augment(*picture, changed(**values))
    torch.testing.assert_close(images[masks], torch.full((48,), bright))
    assert torch.equal(masks, picture[1])


def test_no_mask_gives_none(picture) -> None:
    images, masks = augment(picture[0], None, changed(shift_x=0.1))
    assert images.shape == (1, 32, 32) and masks is None
