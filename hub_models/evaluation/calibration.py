"""Fit temperature and threshold to local X-rays, and measure both by cross-fitting: on X-rays that fitted neither."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hub_models.evaluation.calibration_warnings import CalibrationWarning, RaisedWarning
from hub_models.evaluation.thresholds import Rule, describe_calls, grid_of, needed, repeats_for
from hub_models.metrics import TEMPERATURES, fit_temperature, screening_metrics
from hub_models.metrics.intervals import with_intervals
from hub_models.metrics.weighted import Columns

MOST_FOLDS, LEAST_PATIENTS = 10, 2  # of a cross-fitting, and of each class
LEAST_OF_GROUP = 30  # positives and negatives, below which the threshold of a group says little
SMALLEST, TINY = 1e-7, 1e-15  # distance of a probability from 0 and 1 that log odds keep, and a threshold
OVERALL = ("auroc", "brier", "ece")  # metrics that need no threshold
LARGEST_ODDS = 6.0  # log odds of a threshold at most; .9975 as a probability


@dataclass(frozen=True)
class Scores:
    """Local X-rays with a score and a confirmed status, sorted by id.

    Attributes:
        ids, patients: (n,) text.
        labels: (n,) 0 or 1.
        values: (n,) float, the higher the likelier TB; probabilities if all are in [0, 1].
        stored: threshold in use; None where it is not known.
        groups: value of each X-ray by sex, age and site; "unknown" where it is not known.
        warnings: of the source.
        pixels: digests of the gray pixels, where the X-rays themselves were read.
    """

    ids: list[str]
    patients: list[str]
    labels: np.ndarray
    values: np.ndarray
    stored: float | None = None
    groups: Mapping[str, list[str]] = field(default_factory=dict)
    warnings: tuple[RaisedWarning, ...] = ()
    pixels: frozenset[str] = frozenset()

    @property
    def are_probabilities(self) -> bool:
        """Return whether a temperature can be fitted."""
        return bool(self.values.min() >= 0 and self.values.max() <= 1)

    @property
    def log_odds(self) -> np.ndarray:
        """Return (n,) log odds of probabilities."""
        inside = np.clip(self.values, SMALLEST, 1 - SMALLEST)
        return np.log(inside / (1 - inside))

    def chosen(self, indices: np.ndarray) -> "Scores":
        """Return some of the X-rays."""
        ids, patients = ([column[index] for index in indices] for column in (self.ids, self.patients))
        return Scores(ids, patients, self.labels[indices], self.values[indices], self.stored)


@dataclass(frozen=True)
class CrossFitted:
    """What each X-ray gets from the folds that it is not in, (n,) each.

    Attributes:
        fold: of the X-ray.
        values: its calibrated probability, or its score.
        thresholds: the threshold that the rule chose there.
        temperatures: by which its log odds were divided.
    """

    fold: np.ndarray
    values: np.ndarray
    thresholds: np.ndarray
    temperatures: np.ndarray

    @property
    def called(self) -> np.ndarray:
        """Return (n,) bool, whether the X-ray is called positive."""
        return self.values >= self.thresholds


def folds_of(patients: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Return the fold (n,) of each X-ray, that of its patient: a function of ids and labels, whatever their order.

    Patients with a positive X-ray are dealt out first, then the others, so that each fold has both.

    Raises:
        ValueError: fewer than two patients with a positive, or with a negative X-ray.
    """
    with_positive = {patient for patient, label in zip(patients, labels, strict=True) if label == 1}
    with_negative = {patient for patient, label in zip(patients, labels, strict=True) if label == 0}
    for kind, held in (("positive", with_positive), ("negative", with_negative)):
        if len(held) < LEAST_PATIENTS:
            raise ValueError(
                f"{len(held)} patients with a {kind} X-ray among {len(labels)}: a threshold needs {LEAST_PATIENTS} of "
                "each class at the least, one to choose it by and one to test it on"
            )
    order = sorted(set(patients), key=lambda one: (one not in with_positive, hashlib.sha256(one.encode()).digest()))
    count = min(MOST_FOLDS, len(with_positive), len(with_negative))
    fold = {patient: index % count for index, patient in enumerate(order)}
    return np.array([fold[patient] for patient in patients])


def fit(scores: Scores, rule: Rule, prevalence: float | None) -> tuple[float, float | None]:
    """Return temperature and threshold of X-rays; temperature 1 of plain scores, threshold as `Rule.choose`.

    The temperature is no lower than one at which the threshold is `LARGEST_ODDS` from 1/2: beyond, float32 cannot tell
    probabilities apart. Which X-rays are called does not depend on it.
    """
    temperature = fit_temperature(scores.log_odds, scores.labels) if scores.are_probabilities else 1.0
    threshold = rule.choose(scores.labels, calibrated(scores, temperature), prevalence)
    if scores.are_probabilities and threshold is not None:
        is_called = calibrated(scores, temperature) >= threshold
        temperature = max(temperature, float(np.abs(scores.log_odds[is_called].min())) / LARGEST_ODDS)
        threshold = float(calibrated(scores, temperature)[is_called].min())
    return temperature, threshold


def calibrated(scores: Scores, temperature: float | np.ndarray) -> np.ndarray:
    """Return (n,) probabilities with their log odds divided by `temperature`; plain scores as they are."""
    return 1 / (1 + np.exp(-scores.log_odds / temperature)) if scores.are_probabilities else scores.values


def cross_fit(scores: Scores, rule: Rule, prevalence: float | None = None) -> CrossFitted:
    """Return what X-rays get from the folds that they are not in; raise ValueError as `folds_of`.

    A fold whose rule cannot be reached calls nobody positive.
    """
    fold = folds_of(scores.patients, scores.labels)
    temperatures, thresholds = np.ones(len(fold)), np.empty(len(fold))
    for one in np.unique(fold):
        others = scores.chosen(np.flatnonzero(fold != one))
        if len(set(others.labels.tolist())) < 2:
            raise ValueError(f"without fold {one} all X-rays have one label: pass more patients of each class")
        temperature, threshold = fit(others, rule, prevalence)
        temperatures[fold == one] = temperature
        thresholds[fold == one] = np.inf if threshold is None else threshold
    return CrossFitted(fold, calibrated(scores, temperatures), thresholds, temperatures)


def calibrate_scores(
    scores: Scores, rule: Rule, prevalence: float | None = None, group_names: Iterable[str] = ()
) -> tuple[dict[str, Any], CrossFitted]:
    """Return the values of `calibration.json` that the scores alone decide on, and what each X-ray got.

    `temperature` and `threshold` are fitted to all X-rays; every metric is of X-rays that fitted neither.

    Raises:
        ValueError: one class is absent, as `folds_of`, or no threshold reaches the rule.
    """
    positives = int((scores.labels == 1).sum())
    if positives in (0, len(scores.labels)):
        raise ValueError(f"{positives} of {len(scores.labels)} X-rays are positive: a threshold needs both classes")
    crossed = cross_fit(scores, rule, prevalence)
    temperature, threshold = fit(scores, rule, prevalence)
    if threshold is None:
        raise ValueError(f"no threshold of these X-rays that finds a case reaches {rule}: pass another rule or value")
    values: dict[str, Any] = {
        "images": len(scores.labels),
        "patients": len(set(scores.patients)),
        "positives": positives,
        "negatives": len(scores.labels) - positives,
        "prevalence": positives / len(scores.labels) if prevalence is None else prevalence,
        "prevalence_source": "sample" if prevalence is None else "given",
        "rule": rule.as_values(),
        "folds": len(set(crossed.fold.tolist())),
        "repeats": repeats_for(len(scores.labels)),
        "temperature": temperature,
        "threshold": threshold,
        "threshold_before_temperature": _least_called(scores, threshold, temperature),
        "after": _described(scores, crossed.values, crossed.called, prevalence),
        "before": {"threshold": scores.stored}
        | _described(
            scores, scores.values, None if scores.stored is None else scores.values >= scores.stored, prevalence
        ),
        "table": table_of(scores, crossed, temperature, prevalence),
    }
    groups, warnings = _groups(scores, crossed, temperature, rule, prevalence, group_names)
    values["needed"] = {
        name: {"held": values[f"{kind}s"], "needed": needed(values["after"][name]["value"])}
        for name, kind in (("sensitivity", "positive"), ("specificity", "negative"))
    }
    values["groups"] = groups
    warnings = [*scores.warnings, *_warnings(scores, values, crossed), *warnings]
    values["warnings"] = [{"code": one.code.value, "message": one.message, "ids": one.ids} for one in warnings]
    return values, crossed


def _before(scores: Scores, threshold: float, temperature: float) -> float:
    """Return the score, as it came, that a calibrated threshold is made of."""
    if not scores.are_probabilities:
        return threshold
    inside = min(max(threshold, TINY), 1 - TINY)
    return float(1 / (1 + np.exp(-temperature * np.log(inside / (1 - inside)))))


def _least_called(scores: Scores, threshold: float, temperature: float) -> float:
    """Return the least score, as it came, that reaches a threshold chosen among calibrated scores."""
    return float(scores.values[calibrated(scores, temperature) >= threshold].min())


def _described(
    scores: Scores, values: np.ndarray, called: np.ndarray | None, prevalence: float | None
) -> dict[str, Any]:
    """Return metrics with intervals of scores, and of the calls where there are any."""
    names = OVERALL if scores.are_probabilities else OVERALL[:1]
    columns = {"label": scores.labels, "probability": values, "score": scores.values}

    def metrics(columns: Columns, weights: np.ndarray) -> dict[str, np.ndarray]:
        ranked = {"label": columns["label"], "probability": columns["score"]}  # folds of other temperatures mix ranks
        auroc = screening_metrics(ranked, weights, 0.5)["auroc"]
        found = screening_metrics({**ranked, "probability": columns["probability"]}, weights, 0.5) | {"auroc": auroc}
        return {name: found[name] for name in names}

    found = with_intervals(metrics, columns, scores.patients, repeats_for(len(scores.labels)))
    calls = [] if called is None else describe_calls(scores.labels, called[:, None], scores.patients, prevalence)
    return {**found, **(calls[0] if calls else {})}


def table_of(
    scores: Scores, crossed: CrossFitted, temperature: float, prevalence: float | None
) -> list[dict[str, Any]]:
    """Return a row for each threshold of `grid_of`, the lowest first; no threshold of it was chosen by a label."""
    thresholds = grid_of(crossed.values)
    found = describe_calls(scores.labels, crossed.values[:, None] >= thresholds, scores.patients, prevalence)
    return [
        {"threshold": float(one), "threshold_before_temperature": _before(scores, float(one), temperature)} | row
        for one, row in zip(thresholds, found, strict=True)
    ]


def _groups(
    scores: Scores,
    crossed: CrossFitted,
    temperature: float,
    rule: Rule,
    prevalence: float | None,
    group_names: Iterable[str],
) -> tuple[dict[str, Any], list[RaisedWarning]]:
    """Return each group's own threshold with its metrics, and its metrics at the threshold for all; and warnings."""
    found, warnings = dict[str, Any](), list[RaisedWarning]()
    for name in group_names:
        if name not in scores.groups:
            raise ValueError(f"no groups by {name}: the X-rays have {', '.join(scores.groups) or 'none'}")
        for value in sorted(set(scores.groups[name])):
            key, indices = f"{name}: {value}", np.flatnonzero(np.array(scores.groups[name]) == value)
            group = scores.chosen(indices)
            positives = int((group.labels == 1).sum())
            negatives = len(indices) - positives
            common = describe_calls(group.labels, crossed.called[indices, None], group.patients, prevalence)[0]
            found[key] = {"positives": positives, "negatives": negatives, "threshold": None, "common": common}
            try:
                own = cross_fit(group, rule, prevalence)
                threshold = rule.choose(group.labels, calibrated(group, temperature), prevalence)
            except ValueError as error:
                warnings.append(CalibrationWarning.NO_GROUP_THRESHOLD.raised(group=key, reason=error))
                continue
            if threshold is None:
                reason = f"none reaches {rule}"
                warnings.append(CalibrationWarning.NO_GROUP_THRESHOLD.raised(group=key, reason=reason))
                continue
            described = describe_calls(group.labels, own.called[:, None], group.patients, prevalence)[0]
            found[key] |= {"threshold": threshold, "own": described}
            found[key]["threshold_before_temperature"] = _least_called(group, threshold, temperature)
            if min(positives, negatives) < LEAST_OF_GROUP:
                held = CalibrationWarning.SMALL_GROUP.raised(
                    group=key, positives=positives, negatives=negatives, least=LEAST_OF_GROUP
                )
                warnings.append(held)
    return found, warnings


def _warnings(scores: Scores, values: Mapping[str, Any], crossed: CrossFitted) -> list[RaisedWarning]:
    """Return what the numbers themselves call for."""
    found, temperature = list[RaisedWarning](), values["temperature"]
    if not scores.are_probabilities:
        low, high = scores.values.min(), scores.values.max()
        found.append(CalibrationWarning.NO_PROBABILITIES.raised(low=low, high=high))
    elif temperature >= 0.99 * TEMPERATURES[1]:
        found.append(CalibrationWarning.FLAT.raised(temperature=temperature))
    if scores.values[scores.labels == 1].min() > scores.values[scores.labels == 0].max():
        found.append(CalibrationWarning.SEPARATED.raised())
    if (high := values["after"]["auroc"]["high"]) is not None and high < 0.5:
        found.append(CalibrationWarning.REVERSED.raised())
    if missed := len(set(crossed.fold[np.isinf(crossed.thresholds)].tolist())):
        found.append(CalibrationWarning.UNREACHED.raised(folds=missed, all=values["folds"]))
    for rate, kind in (("sensitivity", "positives"), ("specificity", "negatives")):
        held, wanted = values["needed"][rate]["held"], values["needed"][rate]["needed"]
        if held < wanted:
            found.append(CalibrationWarning.FEW.raised(rate=rate, kind=kind, held=held, wanted=wanted))
    return found
