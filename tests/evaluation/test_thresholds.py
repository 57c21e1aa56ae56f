"""Rules and the table over thresholds, against numbers worked by hand and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score, roc_curve

from hub_models.evaluation.calibration_config import RuleName
from hub_models.evaluation.thresholds import (
    RATES,
    Rule,
    counts_by_threshold,
    counts_of,
    describe_calls,
    grid_of,
    needed,
    rates,
    repeats_for,
)

# 5 positives and 5 negatives: from the highest score down + + - + - + - - + -
LABELS = np.array([1, 1, 0, 1, 0, 1, 0, 0, 1, 0])
SCORES = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of 300 X-rays, with ties."""
    random = np.random.default_rng(3)
    labels = (random.random(300) < 0.3).astype(int)
    return labels, np.round(random.normal(0.4 + 0.2 * labels, 0.2).clip(0, 1), 2)


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        (Rule(), 0.5),  # sensitivity 4/5 + specificity 3/5; 0.9 and 0.7 have 1.4 too, and a higher threshold
        (Rule(RuleName.SENSITIVITY, 0.8), 0.5),
        (Rule(RuleName.SENSITIVITY, 0.81), 0.2),
        (Rule(RuleName.SENSITIVITY, 1.0), 0.2),
        (Rule(RuleName.SPECIFICITY, 0.6), 0.5),
        (Rule(RuleName.SPECIFICITY, 0.61), 0.7),
        (Rule(RuleName.SPECIFICITY, 1.0), 0.9),
        (Rule(RuleName.TESTS_PER_CASE, 1.0), 0.9),  # 2 of 2 called are cases
        (Rule(RuleName.TESTS_PER_CASE, 1.5), 0.5),  # 6 called for 4 cases
        (Rule(RuleName.TESTS_PER_CASE, 2.0), 0.2),  # 9 called for 5 cases
    ],
    ids=str,
)
def test_rule_chooses_by_hand(rule: Rule, threshold: float) -> None:
    assert rule.choose(LABELS, SCORES) == threshold
    order = np.random.default_rng(0).permutation(10)
    assert rule.choose(LABELS[order], SCORES[order]) == threshold


def test_tests_per_case_follow_the_prevalence() -> None:
    # at 2 % a threshold of 0.5 finds 80 % with a fall-out of 40 %: (0.016 + 0.392) / 0.016 = 25.5 tests
    assert Rule(RuleName.TESTS_PER_CASE, 25.5).choose(LABELS, SCORES, 0.02) == 0.5
    assert Rule(RuleName.TESTS_PER_CASE, 25.4).choose(LABELS, SCORES, 0.02) == 0.7


@pytest.mark.parametrize("rule", [Rule(RuleName.SPECIFICITY, 0.9), Rule(RuleName.TESTS_PER_CASE, 1.0)], ids=str)
def test_rule_that_no_threshold_reaches_gives_none(rule: Rule) -> None:
    assert rule.choose(np.array([0, 1, 0]), np.array([0.9, 0.8, 0.1])) is None


def test_rules_agree_with_scikit_learn(many) -> None:
    labels, scores = many
    fall_out, sensitivity, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    chosen = Rule().choose(labels, scores)
    at = thresholds.tolist().index(chosen)
    assert (sensitivity - fall_out)[at] == pytest.approx((sensitivity - fall_out).max())
    assert Rule(RuleName.SENSITIVITY, 0.9).choose(labels, scores) == thresholds[np.argmax(sensitivity >= 0.9)]
    assert Rule(RuleName.SPECIFICITY, 0.8).choose(labels, scores) == thresholds[fall_out <= 0.2].min()


def test_counts_and_rates_agree_with_scikit_learn(many) -> None:
    labels, scores = many
    thresholds, true, false = counts_by_threshold(labels, scores)
    assert thresholds.tolist() == sorted(set(scores), reverse=True)
    for index in (0, 17, len(thresholds) - 1):
        called = scores >= thresholds[index]
        tn, fp, fn, tp = confusion_matrix(labels, called).ravel()
        counts = {"true_positives": tp, "false_negatives": fn, "false_positives": fp, "true_negatives": tn}
        assert counts_of(labels, called) == counts
        assert (true[index], false[index]) == (tp, fp)
        (found,) = describe_calls(labels, called[:, None], list(map(str, range(300))))
        assert found["sensitivity"]["value"] == pytest.approx(recall_score(labels, called))
        assert found["specificity"]["value"] == pytest.approx(recall_score(1 - labels, ~called))
        assert found["ppv"]["value"] == pytest.approx(precision_score(labels, called))
        assert found["referred"]["value"] == found["referred_at_prevalence"]["value"] == pytest.approx(called.mean())
        if index < len(thresholds) - 1:
            assert found["npv"]["value"] == pytest.approx(precision_score(1 - labels, ~called))
        assert found["sensitivity"]["low"] <= found["sensitivity"]["value"] <= found["sensitivity"]["high"]


def test_rates_at_a_prevalence_by_hand() -> None:
    # 90 of 100 cases and 30 of 100 others are called; of 1,000 people 20 are cases
    found = rates(np.array(90.0), np.array(30.0), np.array(100.0), np.array(100.0), 0.02)
    assert tuple(found) == RATES
    expected = {"sensitivity": 0.9, "specificity": 0.7, "referred": 0.6, "referred_at_prevalence": 0.312}
    expected |= {"ppv": 18 / 312, "npv": 686 / 688, "tests_per_case": 312 / 18, "missed_per_1000": 2}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)


def test_rates_that_are_undefined_are_null() -> None:
    (nobody,) = describe_calls(LABELS, np.zeros((10, 1), bool), list("abcdefghij"), 0.1)
    assert nobody["ppv"]["value"] is nobody["tests_per_case"]["value"] is None
    assert nobody["missed_per_1000"]["value"] == pytest.approx(100)
    (of_cases,) = describe_calls(np.ones(3), np.ones((3, 1), bool), list("abc"), 0.1)
    assert (of_cases["sensitivity"]["value"], of_cases["specificity"]["value"]) == (1, None)


@pytest.mark.parametrize(("rate", "count"), [(0.9, 139), (0.7, 323), (0.5, 385), (0.95, 73), (1.0, 73), (0.0, 73)])
def test_needed_is_that_of_buderer(rate: float, count: int) -> None:
    assert needed(rate) == count


def test_grid_holds_each_score_or_even_ranks() -> None:
    assert grid_of(np.array([0.3, 0.1, 0.3, 0.2])).tolist() == [0.1, 0.2, 0.3]
    scores = np.random.default_rng(0).random(5000)
    grid = grid_of(scores, 11)
    assert len(grid) == 11 and set(grid) <= set(scores)
    assert [(scores < one).mean() for one in grid] == pytest.approx(np.linspace(0, 1, 11), abs=0.001)


def test_bootstrap_of_many_is_drawn_less_often() -> None:
    assert [repeats_for(count) for count in (100, 20_000, 40_000, 10**6)] == [1000, 1000, 500, 200]
