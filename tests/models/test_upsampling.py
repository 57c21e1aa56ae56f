import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from hub_models.models.upsampling import is_above_zero

SIZES = [(90, 150), (300, 257), (979, 804), (4892, 100), (600, 1200)]


def maps() -> dict[str, torch.Tensor]:
    """Maps as models give them, and some that are 0 at many pixels."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 64, generator=generator)
    return {
        "smooth": avg_pool2d(noise[None, None], 5, 1, 2)[0, 0],
        "noise": 1000 * noise,
        "half": (noise / 100).half(),
        "whole": noise.round(),
        "oblong": torch.randn(7, 33, generator=generator).round(),
        "all zero": torch.zeros(16, 16),
        "one": torch.ones(1, 1),
    }


@pytest.mark.parametrize("name", maps())
@pytest.mark.parametrize("size", SIZES)
def test_signs_are_those_of_interpolate(name: str, size: tuple[int, int]) -> None:
    small = maps()[name].float()
    expected = interpolate(small[None, None], size, mode="bilinear")[0, 0].numpy()
    found = is_above_zero(small.numpy(), *size)
    assert found.shape == size and found.flags.c_contiguous
    differs = found != (expected > 0)
    # rounding to float32 alone decides there, in maps that are 0 at many pixels
    assert differs.mean() < 1e-3 and np.abs(expected[differs]).max(initial=0) <= 2e-6 * small.abs().max()
    if name in ("smooth", "noise"):
        assert not differs.any()


def test_halfway_between_opposite_values_is_not_above_zero() -> None:
    # 1 above -1 on 257 rows: at the middle one, number 128, the mix is 0
    found = is_above_zero(np.array([[1.0, 1, 1], [-1, -1, -1]]), 257, 3)
    np.testing.assert_array_equal(found, np.repeat(np.arange(257)[:, None] < 128, 3, 1))
