"""Choose a threshold by a rule, and say what any threshold does: sensitivity, tests for a case found, cases missed."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from hub_models.evaluation.calibration_config import CalibrationConfig, RuleName
from hub_models.metrics.intervals import with_intervals
from hub_models.metrics.weighted import Columns, ratio

ROUNDING = 1e-12  # of fractions of whole counts
HALF_WIDTH, Z = 0.05, 1.96  # of the interval that `needed` is for, and of 95 %
MOST_DRAWS = 20_000_000  # weights of a bootstrap in memory, at the most
RATES = (
    *("sensitivity", "specificity", "referred", "referred_at_prevalence"),
    *("ppv", "npv", "tests_per_case", "missed_per_1000"),
)


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen: a name, and the value that it needs to reach."""

    name: RuleName = RuleName.YOUDEN
    value: float | None = None

    @classmethod
    def of(cls, config: CalibrationConfig) -> "Rule":
        """Return the rule of a config; Youden's where it has none."""
        values = {name: getattr(config, name, None) for name in RuleName}
        return next((cls(name, value) for name, value in values.items() if value is not None), cls())

    def as_values(self) -> dict[str, str | float | None]:
        """Return the rule as `calibration.json` holds it."""
        return {"name": self.name.value, "value": self.value}

    def __str__(self) -> str:
        """Return the rule as people write it."""
        return self.name.value if self.value is None else f"{self.name.value} {self.value:g}"

    def choose(self, labels: np.ndarray, scores: np.ndarray, prevalence: float | None = None) -> float | None:
        """Return the threshold of scores (n,) and labels (n,) of 0 and 1; None where none that finds a case is enough.

        An X-ray is called positive where its score is at least the threshold, which is one of the scores. Of equals,
        Youden's rule takes the lowest threshold. `prevalence` (default: that of the labels) is for tests_per_case.
        """
        thresholds, true, false = counts_by_threshold(labels, scores)
        found = rates(true, false, true[-1], false[-1], float(np.mean(labels)) if prevalence is None else prevalence)
        sensitivity, specificity = found["sensitivity"], found["specificity"]  # (T,)
        value = 0.0 if self.value is None else self.value
        if self.name == RuleName.SENSITIVITY:
            return float(thresholds[np.argmax(sensitivity >= value - ROUNDING)])
        if self.name == RuleName.YOUDEN:
            gained = sensitivity + specificity
            return float(thresholds[np.flatnonzero(gained >= gained.max() - ROUNDING)[-1]])
        if self.name == RuleName.SPECIFICITY:
            is_reached = specificity >= value - ROUNDING
        else:
            is_reached = found["tests_per_case"] <= value + ROUNDING  # nan where no case is found
        is_reached &= sensitivity > 0
        if not is_reached.any():
            return None
        best = np.where(is_reached, sensitivity, -1)
        places = np.flatnonzero(best == best.max())
        return float(thresholds[places[-1 if self.name == RuleName.SPECIFICITY else 0]])


def counts_by_threshold(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct scores, highest first, and the positives and negatives with at least each, (T,) each."""
    thresholds, place = np.unique(-np.asarray(scores, float), return_inverse=True)
    true, false = (np.bincount(place, np.asarray(labels) == label).cumsum() for label in (1, 0))
    return -thresholds, true, false


def rates(
    true: np.ndarray, false: np.ndarray, positives: np.ndarray, negatives: np.ndarray, prevalence: float
) -> dict[str, np.ndarray]:
    """Return each of RATES, as arrays that the counts broadcast to; nan where undefined.

    sensitivity, specificity: fraction of the positives called positive, of the negatives called negative.
    referred: fraction of these X-rays that is called positive.
    referred_at_prevalence, ppv, npv: the same fraction, and the predictive values, where `prevalence` has TB.
    tests_per_case: tests for a case found there, if each person who is called positive gets one: 1 / ppv.
    missed_per_1000: cases missed there for each 1,000 people.

    `true` and `false` count the positives and negatives that are called positive; `prevalence` is a fraction.
    """
    sensitivity, fall_out = ratio(true, np.asarray(positives)), ratio(false, np.asarray(negatives))
    found = prevalence * sensitivity
    referred, cleared = found + (1 - prevalence) * fall_out, (1 - prevalence) * (1 - fall_out)
    return {
        "sensitivity": sensitivity,
        "specificity": 1 - fall_out,
        "referred": ratio(true + false, np.asarray(positives + negatives)),
        "referred_at_prevalence": referred,
        "ppv": ratio(found, referred),
        "npv": ratio(cleared, cleared + prevalence - found),
        "tests_per_case": ratio(referred, found),
        "missed_per_1000": 1000 * (prevalence - found),
    }


def describe_calls(
    labels: np.ndarray, called: np.ndarray, patients: Sequence[str], prevalence: float | None = None
) -> list[dict[str, Any]]:
    """Return counts, and each of RATES with its 95 % interval over patients, of each column of `called` (n, T)."""
    labels, calls = np.asarray(labels, float), np.asarray(called, float)
    with_tb = float(labels.mean()) if prevalence is None else prevalence  # the same one in each resample

    def metrics(columns: Columns, weights: np.ndarray) -> dict[str, np.ndarray]:
        classes = [weights * (columns["label"] == label) for label in (1, 0)]  # (R, n) each
        counts = [one @ calls for one in classes] + [one.sum(axis=1, keepdims=True) for one in classes]
        found = rates(counts[0], counts[1], counts[2], counts[3], with_tb)  # (R, T) each
        return {f"{index} {name}": found[name][:, index] for name in RATES for index in range(called.shape[1])}

    found = with_intervals(metrics, {"label": labels}, patients, repeats_for(len(labels)))
    return [
        counts_of(labels, called[:, index]) | {name: found[f"{index} {name}"] for name in RATES}
        for index in range(called.shape[1])
    ]


def repeats_for(count: int) -> int:
    """Return how often a bootstrap is drawn: 1000 times, less often for more X-rays than memory has place for."""
    return max(200, min(1000, MOST_DRAWS // max(count, 1)))


def counts_of(labels: np.ndarray, called: np.ndarray) -> dict[str, int]:
    """Return the confusion counts of labels (n,) and calls (n,)."""
    is_positive = np.asarray(labels) == 1
    return {
        "true_positives": int((called & is_positive).sum()),
        "false_negatives": int((~called & is_positive).sum()),
        "false_positives": int((called & ~is_positive).sum()),
        "true_negatives": int((~called & ~is_positive).sum()),
    }


def grid_of(scores: np.ndarray, most: int = 101) -> np.ndarray:
    """Return ascending thresholds (T,) for a table: each score, or `most` of them, evenly by rank."""
    distinct = np.unique(scores)
    if len(distinct) <= most:
        return distinct
    return np.unique(np.quantile(scores, np.linspace(0, 1, most), method="nearest"))


def needed(rate: float) -> int:
    """Return how many X-rays of a class an interval of +-5 points around a sensitivity or specificity needs.

    1.96^2 rate (1 - rate) / 0.05^2, rounded up; a rate within 5 points of 0 or 1 counts as that far from it.
    Source: Buderer 1996, doi 10.1111/j.1553-2712.1996.tb03538.x.
    """
    rate = min(max(rate, HALF_WIDTH), 1 - HALF_WIDTH)
    return ceil(Z**2 * rate * (1 - rate) / HALF_WIDTH**2 - ROUNDING)
