import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hub_models.imaging.flags import Flag
from hub_models.models.out_of_distribution import (
    LEAST,
    OUT_OF_DISTRIBUTION_NAME,
    OutOfDistribution,
    distance_flags,
    features_of,
)


def ring(count: int = 10, radius: float = 2.0) -> np.ndarray:
    """(4 * count, 2): points on the axes around (5, 1), of which every fold of ten holds one of each."""
    points = radius * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    return np.array([5, 1]) + np.repeat(points, count, 0)


def test_distance_is_in_standard_deviations() -> None:
    known = OutOfDistribution(np.array([1.0, 2.0]), np.diag([1 / 4, 1.0]), 2.0, 30)  # standard deviations 2 and 1
    apart = known.distances(np.array([[1, 2], [3, 2], [1, 5], [3, 5]], np.float32))
    np.testing.assert_allclose(apart, [0, 1, 3, 10**0.5])
    both = OutOfDistribution(np.zeros(2), np.array([[2.0, 1.0], [1.0, 2.0]]), 2.0, 30)
    np.testing.assert_allclose(both.distances(np.array([[1, 1], [1, -1]])), [6**0.5, 2**0.5])  # 2+1+1+2, 2-1-1+2


def test_mean_covariance_and_limit_of_points_around_one() -> None:
    known = OutOfDistribution.of(ring())
    np.testing.assert_allclose(known.mean, [5, 1], atol=1e-12)
    # each coordinate is 2, -2 or, twice as often, 0: variance 2 both ways, which shrinking leaves as it is
    np.testing.assert_allclose(known.precision, np.eye(2) / 2, atol=1e-12)
    assert known.limit == pytest.approx(2**0.5)  # 2 / sqrt(2), as for each fold left out
    assert known.count == 40


def test_one_in_fifty_of_the_same_kind_is_beyond_the_limit() -> None:
    draw = np.random.default_rng(0).normal(size=(6000, 30)) @ np.diag(np.arange(1, 31))
    known = OutOfDistribution.of(draw[:2000])
    assert 0.012 < (known.distances(draw[2000:]) > known.limit).mean() < 0.028
    # measured from a mean and a covariance that they are part of, X-rays seem nearer than they are
    few = OutOfDistribution.of(draw[:100])
    assert few.distances(draw[:100]).max() < few.limit


def test_one_odd_x_ray_does_not_set_the_limit() -> None:
    draw = np.random.default_rng(1).normal(size=(200, 5))
    draw[7] = 50
    known = OutOfDistribution.of(draw)
    assert known.limit < known.distances(draw[7:8])[0]


def test_few_x_rays_and_constant_channels() -> None:
    draw = np.random.default_rng(2).normal(size=(LEAST, 3))
    draw[:, 1] = 7
    known = OutOfDistribution.of(draw)
    assert known.count == LEAST and np.isfinite(known.distances(draw)).all()
    assert OutOfDistribution.of(draw[1:]) is None


def test_features_are_the_standard_deviations_of_the_last_two_stages() -> None:
    # of 1, 3, 1, 3 the standard deviation is 1; of 0, 0, 0, 4, whose mean is 1, sqrt((3 + 9) / 4)
    unused = torch.rand(1, 2, 4, 4)
    third = torch.tensor([[[[1.0, 3], [1, 3]], [[0, 0], [0, 4]]]])
    fourth = torch.full((1, 1, 1, 1), 9.0)
    torch.testing.assert_close(features_of([unused, unused, third, fourth]), torch.tensor([[1, 3**0.5, 0]]))


def test_file_gives_back_what_was_saved_last(tmp_path) -> None:
    assert OutOfDistribution.load(tmp_path) is None
    OutOfDistribution.of(ring()).save(tmp_path)
    known = OutOfDistribution.of(np.random.default_rng(4).normal(size=(60, 4)))
    known.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [OUT_OF_DISTRIBUTION_NAME]
    found = OutOfDistribution.load(tmp_path)
    np.testing.assert_allclose(found.mean, known.mean, rtol=1e-6)
    np.testing.assert_allclose(found.precision, known.precision, rtol=1e-6)
    assert (found.limit, found.count) == (known.limit, 60)
    (tmp_path / OUT_OF_DISTRIBUTION_NAME).rename(tmp_path / "familiarity.safetensors")  # its name before
    assert OutOfDistribution.load(tmp_path).limit == known.limit


@pytest.mark.parametrize("damage", ["cut", "a tensor less"])
def test_damaged_file_is_named(damage: str, tmp_path) -> None:
    OutOfDistribution.of(ring()).save(tmp_path)
    path = tmp_path / OUT_OF_DISTRIBUTION_NAME
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        tensors = load_file(path)
        del tensors["limit"]
        save_file(tensors, path)
    with pytest.raises(ValueError, match=f"{OUT_OF_DISTRIBUTION_NAME} is damaged"):
        OutOfDistribution.load(tmp_path)


def test_features_of_another_model_are_refused() -> None:
    with pytest.raises(
        ValueError, match=f"{OUT_OF_DISTRIBUTION_NAME} is for a model with 2 features, but this one has 3"
    ):
        OutOfDistribution.of(ring()).distances(np.zeros((1, 3)))


def test_flag_gives_distance_limit_and_the_likely_causes() -> None:
    assert distance_flags(None, None) == distance_flags(11.9, 12.0) == distance_flags(12.0, 12.0) == ()
    (flag,) = distance_flags(41.3, 12.4)
    assert flag == Flag.OUT_OF_DISTRIBUTION.raised(distance="41", limit="12")
    assert all(cause in flag.message for cause in ("machine", "hospital", "turned", "no frontal"))
