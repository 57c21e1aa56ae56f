"""Cross-fitting: folds by patient, nothing of an X-ray in what calls it, and metrics against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from hub_models.evaluation.calibration import (
    CalibrationWarning,
    Scores,
    calibrate_scores,
    calibrated,
    cross_fit,
    fit,
    folds_of,
)
from hub_models.evaluation.calibration_config import CalibrationConfig, RuleName
from hub_models.evaluation.thresholds import Rule
from hub_models.metrics import fit_temperature

AT_90 = Rule(RuleName.SENSITIVITY, 0.9)


def made(count: int = 240, sharpness: float = 2.0, seed: int = 0, scale: float = 1.0, **more) -> Scores:
    """Scores of two X-rays a patient, whose log odds are `sharpness` times what they should be."""
    random = np.random.default_rng(seed)
    log_odds = random.normal(0, 1.5, count)
    labels = (random.random(count) < 1 / (1 + np.exp(-log_odds))).astype(int)
    values = scale / (1 + np.exp(-sharpness * log_odds))
    ids = [f"x{index:03d}" for index in range(count)]
    return Scores(ids, [f"p{index // 2}" for index in range(count)], labels, values, **more)


def codes(values: dict) -> list[str]:
    return [one["code"] for one in values["warnings"]]


def test_folds_keep_a_patient_whole_and_both_classes_on_both_sides() -> None:
    scores = made()
    fold = folds_of(scores.patients, scores.labels)
    assert set(fold) == set(range(10))
    assert all(
        len({fold[i] for i, one in enumerate(scores.patients) if one == patient}) == 1 for patient in ("p0", "p7")
    )
    for one in range(10):
        assert set(scores.labels[fold == one]) == set(scores.labels[fold != one]) == {0, 1}
    order = np.random.default_rng(0).permutation(len(fold))
    assert folds_of([scores.patients[i] for i in order], scores.labels[order]).tolist() == fold[order].tolist()


def test_folds_are_as_many_as_patients_of_the_rarer_class() -> None:
    labels = np.array([1, 1, 1, *[0] * 20])
    assert len(set(folds_of([f"p{i}" for i in range(23)], labels))) == 3


@pytest.mark.parametrize(
    ("patients", "labels", "said"),
    [
        ("aabcd", [1, 1, 0, 0, 0], "1 patients with a positive"),
        ("abcdd", [1, 1, 1, 0, 0], "1 patients with a negative"),
    ],
)
def test_one_patient_of_a_class_is_too_few(patients: str, labels: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        folds_of(list(patients), np.array(labels))


@pytest.mark.parametrize("rule", [Rule(), AT_90, Rule(RuleName.SPECIFICITY, 0.8), Rule(RuleName.TESTS_PER_CASE, 1.5)])
def test_no_xray_takes_part_in_what_calls_it(rule: Rule) -> None:
    scores = made()
    crossed = cross_fit(scores, rule)
    for index in (0, 100):
        others = scores.chosen(np.flatnonzero(crossed.fold != crossed.fold[index]))
        temperature = fit_temperature(others.log_odds, others.labels)
        assert crossed.temperatures[index] == pytest.approx(temperature)
        threshold = rule.choose(others.labels, 1 / (1 + np.exp(-others.log_odds / temperature)))
        assert crossed.thresholds[index] == pytest.approx(threshold)
        expected = 1 / (1 + np.exp(-scores.log_odds[index] / temperature))
        assert crossed.values[index] == pytest.approx(expected)
        assert crossed.called[index] == (expected >= threshold)


def test_temperature_and_metrics_agree_with_scikit_learn() -> None:
    scores = made(4000, stored=0.5)
    values, crossed = calibrate_scores(scores, AT_90, prevalence=0.05)
    assert values["temperature"] == pytest.approx(2, rel=0.1)
    assert values["temperature"] == fit_temperature(scores.log_odds, scores.labels)
    before, after = values["before"], values["after"]
    assert before["auroc"]["value"] == after["auroc"]["value"]
    assert after["auroc"]["value"] == pytest.approx(roc_auc_score(scores.labels, scores.values))
    assert before["brier"]["value"] == pytest.approx(brier_score_loss(scores.labels, scores.values))
    assert after["brier"]["value"] == pytest.approx(brier_score_loss(scores.labels, crossed.values))
    assert after["brier"]["value"] < before["brier"]["value"] and after["ece"]["value"] < before["ece"]["value"]
    assert after["sensitivity"]["value"] == pytest.approx(crossed.called[scores.labels == 1].mean())
    assert before["specificity"]["value"] == pytest.approx((scores.values < 0.5)[scores.labels == 0].mean())
    assert after["true_positives"] + after["false_negatives"] == values["positives"] == scores.labels.sum()
    at_prevalence = 0.05 * after["sensitivity"]["value"] + 0.95 * (1 - after["specificity"]["value"])
    assert after["referred_at_prevalence"]["value"] == pytest.approx(at_prevalence)
    assert (values["prevalence"], values["prevalence_source"]) == (0.05, "given")


def test_threshold_is_the_same_on_both_scales() -> None:
    scores = made()
    values, _ = calibrate_scores(scores, AT_90)
    temperature, threshold = fit(scores, AT_90, None)
    assert (values["temperature"], values["threshold"]) == (temperature, threshold)
    own = AT_90.choose(scores.labels, scores.values)
    assert values["threshold_before_temperature"] == own
    called = calibrated(scores, temperature) >= threshold
    assert called.tolist() == (scores.values >= own).tolist()
    for row in values["table"]:
        back = np.log(row["threshold"] / (1 - row["threshold"])) * temperature
        assert row["threshold_before_temperature"] == pytest.approx(1 / (1 + np.exp(-back)))
    assert values["prevalence_source"] == "sample" and values["prevalence"] == scores.labels.mean()


def test_scores_that_are_no_probabilities_get_a_threshold_alone() -> None:
    scores = made(scale=100)
    values, _ = calibrate_scores(scores, Rule())
    assert "no_probabilities" in codes(values) and values["temperature"] == 1
    assert values["threshold"] == values["threshold_before_temperature"] == Rule().choose(scores.labels, scores.values)
    assert "brier" not in values["after"] and values["after"]["auroc"]["value"] > 0.7


def test_one_class_is_an_error() -> None:
    scores = made()
    for label in (0, 1):
        with pytest.raises(ValueError, match=f"{240 * label} of 240 X-rays are positive"):
            calibrate_scores(Scores(scores.ids, scores.patients, np.full(240, label), scores.values), Rule())


def test_rule_out_of_reach_is_an_error() -> None:
    scores = made()
    scores.values[np.flatnonzero(scores.labels == 0)[0]] = 1.0  # the highest score is a negative's
    with pytest.raises(ValueError, match="reaches specificity 1"):
        calibrate_scores(scores, Rule(RuleName.SPECIFICITY, 1.0))


def test_few_xrays_and_small_groups_are_said() -> None:
    sex = ["F"] * 60 + ["M"] * 178 + ["unknown"] * 2
    values, _ = calibrate_scores(made(groups={"sex": sex}), AT_90, group_names=["sex"])
    assert {"few", "small_group", "no_group_threshold"} <= set(codes(values))
    female, male, unknown = (values["groups"][f"sex: {one}"] for one in ("F", "M", "unknown"))
    assert female["positives"] + female["negatives"] == 60 and 0 < female["threshold"] < 1
    assert male["own"]["sensitivity"]["value"] > 0.8 and "sex: M" not in "".join(
        one["message"] for one in values["warnings"] if one["code"] == "small_group"
    )
    assert unknown["threshold"] is None and "own" not in unknown
    with pytest.raises(ValueError, match="no groups by age: the X-rays have sex"):
        calibrate_scores(made(groups={"sex": sex}), AT_90, group_names=["age"])


def test_scores_that_say_nothing_are_flat() -> None:
    scores = made()
    shuffled = np.random.default_rng(5).permutation(scores.labels)
    sharp = Scores(scores.ids, scores.patients, shuffled, np.where(scores.values > 0.5, 0.999, 0.001))
    assert "flat" in codes(calibrate_scores(sharp, Rule())[0])


def test_warnings_count_and_name_their_xrays() -> None:
    raised = CalibrationWarning.NO_TRUTH.raised(list("abcde"))
    assert raised.code == "no_truth" and raised.ids == tuple("abcde")
    assert raised.message == "5 predictions have no truth and are left out: a, b, c, ..."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "got neither"),
        ({"model": "m"}, "got --model"),
        ({"model": "m", "data": "d", "truth": "t"}, "got --model, --data, --truth"),
        ({"predictions": "p", "truth": "t", "write": "w"}, "--write is only for --model and --data"),
        ({"predictions": "p", "truth": "t", "sensitivity": 0.9, "specificity": 0.7}, "two rules"),
        ({"predictions": "p", "truth": "t", "sensitivity": 90}, "got 90"),
        ({"predictions": "p", "truth": "t", "prevalence": 1}, "got 1"),
        ({"predictions": "p", "truth": "t", "tests_per_case": 0.5}, "got 0.5"),
        ({"predictions": "p", "truth": "t", "groups": "sex,colour"}, "colour"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, said: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=said):
        CalibrationConfig(tmp_path, **options)
