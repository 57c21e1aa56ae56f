import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from hub_models.models import upsampling
from hub_models.models.upsampling import PLAIN_SIDE, is_above_zero

SIZES = [(300, 257), (979, 804), (4892, 100), (600, 1200)]


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
    small = maps()[name]
    expected = interpolate(small[None, None].float(), size, mode="bilinear")[0, 0] > 0
    found = is_above_zero(small, *size)
    assert found.shape == size and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected.numpy())


def test_interpolate_decides_where_rounding_could(monkeypatch) -> None:
    # 1 above -1 on 257 rows: at the middle one, number 128, the mix is 0
    small = torch.tensor([[1.0, 1, 1], [-1, -1, -1]])
    calls = []
    upsample = upsampling._upsample
    monkeypatch.setattr(upsampling, "_upsample", lambda *one: calls.append(one) or upsample(*one))
    found = is_above_zero(small, 257, PLAIN_SIDE)
    assert len(calls) > 2  # the rows and the weights are two
    expected = interpolate(small[None, None], (257, PLAIN_SIDE), mode="bilinear")[0, 0] > 0
    np.testing.assert_array_equal(found, expected.numpy())
