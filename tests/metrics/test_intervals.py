import numpy as np
import pytest

from hub_models.metrics import screening_metrics
from hub_models.metrics.intervals import paired_difference, resample, with_intervals

PATIENTS = ["a", "b", "b", "c"]


def mean(columns: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of x, and one metric that only the resamples with an image of x > 2 define."""
    with np.errstate(invalid="ignore"):
        large = columns["x"] > 2
        return {
            "mean": weights @ columns["x"] / weights.sum(axis=1),
            "large": weights @ (columns["x"] * large) / (weights @ large),
        }


def test_images_of_a_patient_stay_together_and_patients_keep_their_number() -> None:
    weights = resample(PATIENTS, 200)
    assert weights.shape == (200, 4)
    np.testing.assert_array_equal(weights[:, 1], weights[:, 2])  # both are b's
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)  # three patients drawn each time
    # A patient is drawn 3 * 1/3 = 1 time on average, with variance 3 * 1/3 * 2/3 = 2/3.
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.2)
    assert weights.var(axis=0) == pytest.approx(2 / 3, abs=0.2)


def test_draws_depend_on_seed_and_patients_only() -> None:
    weights = resample(PATIENTS, 20, seed=1)
    np.testing.assert_array_equal(weights, resample(PATIENTS, 20, seed=1))
    np.testing.assert_array_equal(weights[:, ::-1], resample(PATIENTS[::-1], 20, seed=1))
    assert (weights != resample(PATIENTS, 20, seed=2)).any()


def test_no_patient_and_no_repeat() -> None:
    assert resample([], 5).shape == (5, 0)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        resample(PATIENTS, 0)


def test_interval_is_the_percentiles_of_resampled_means() -> None:
    x = np.random.default_rng(0).normal(10, 2, 400)
    interval = with_intervals(lambda c, w: {"mean": mean(c, w)["mean"]}, {"x": x}, [str(i) for i in range(400)])
    # The mean of n independent values: mean +- 1.96 sd / sqrt(n).
    half = 1.96 * x.std() / 20
    assert interval["mean"]["value"] == pytest.approx(x.mean())
    assert interval["mean"]["low"] == pytest.approx(x.mean() - half, abs=0.05 * 2)
    assert interval["mean"]["high"] == pytest.approx(x.mean() + half, abs=0.05 * 2)


def test_images_of_one_patient_are_not_independent() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=50), 8)
    apart = with_intervals(mean, {"x": x}, [str(i) for i in range(400)])["mean"]
    together = with_intervals(mean, {"x": x}, [str(i // 8) for i in range(400)])["mean"]
    # 50 independent values, not 400: sqrt(8) = 2.8 times as wide.
    assert (together["high"] - together["low"]) / (apart["high"] - apart["low"]) == pytest.approx(8**0.5, rel=0.15)


def test_none_for_what_is_undefined() -> None:
    x = {"x": np.array([1.0, 1.0, 1.0, 3.0])}
    one_patient = with_intervals(mean, x, ["a"] * 4)
    assert one_patient["mean"] == {"value": 1.5, "low": None, "high": None}
    assert with_intervals(mean, {"x": np.ones(4)}, PATIENTS)["large"] == {"value": None, "low": None, "high": None}
    columns = {"label": np.array([]), "probability": np.array([])}
    nothing = with_intervals(lambda c, w: screening_metrics(c, w, 0.5), columns, [])
    assert all(one == {"value": None, "low": None, "high": None} for one in nothing.values())
    # c is drawn in 1 - (2/3)^3 = 70 % of the resamples: enough.
    assert with_intervals(mean, x, PATIENTS)["large"] == {"value": 3.0, "low": 3.0, "high": 3.0}


def test_no_interval_where_under_half_of_the_resamples_define_the_metric() -> None:
    def defined_in_the_first(count: int) -> dict[str, float | int | None]:
        def metrics(columns: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
            return {"one": np.where(np.arange(len(weights)) < count, 1.0, np.nan)}

        return with_intervals(metrics, {"x": np.ones(4)}, PATIENTS, repeats=10)["one"]

    assert defined_in_the_first(4) == {"value": 1.0, "low": None, "high": None}
    assert defined_in_the_first(5) == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_difference_is_paired() -> None:
    x = np.random.default_rng(0).normal(5, 2, 100)
    patients = [str(i) for i in range(100)]
    difference = paired_difference(mean, {"x": x + 0.25}, {"x": x}, patients)["mean"]
    assert set(difference) == {"value", "low", "high"}
    assert list(difference.values()) == pytest.approx([0.25] * 3)  # the same on each resample
    assert paired_difference(mean, {"x": x}, {"x": x + 0.25}, patients)["mean"]["value"] == pytest.approx(-0.25)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="4 patients need columns of as many images, got {'x': 3}"):
        with_intervals(mean, {"x": np.ones(3)}, PATIENTS)
    with pytest.raises(ValueError, match="got {'x': 4} and {'x': 5}"):
        paired_difference(mean, {"x": np.ones(4)}, {"x": np.ones(5)}, PATIENTS)
