"""Pictures of a calibration, without a pixel of an X-ray: thresholds, reliability, scores by class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hub_models.evaluation.calibration import CrossFitted, Scores
from hub_models.evaluation.charts import RELIABILITY_BINS, SITE_COLORS, reliability_points, save_picture

COLORS = {"sensitivity": SITE_COLORS[1], "specificity": SITE_COLORS[0], "referred": SITE_COLORS[2]}
SCORE_BINS = 30


def draw_thresholds(values: Mapping[str, Any], path: Path) -> None:
    """Save a PNG of sensitivity, specificity and the fraction referred against the threshold, with their intervals."""
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axis, table = figure.subplots(), values["table"]
    thresholds = [row["threshold"] for row in table]
    for name, color in COLORS.items():
        found = {key: [row[name][key] for row in table] for key in ("value", "low", "high")}
        axis.plot(thresholds, found["value"], color=color, label="fraction referred" if name == "referred" else name)
        if None not in found["low"]:
            axis.fill_between(thresholds, found["low"], found["high"], color=color, alpha=0.15, linewidth=0)
    axis.axvline(values["threshold"], color="#333333", linestyle="--", linewidth=1, label=_chosen(values))
    axis.set(ylim=(0, 1.02), xlabel=_axis_name(values), ylabel="fraction", title="What each threshold does")
    _finish(figure, axis, path)


def _chosen(values: Mapping[str, Any]) -> str:
    return f"chosen: {values['threshold']:.3g}"


def _axis_name(values: Mapping[str, Any]) -> str:
    return "threshold on the calibrated probability" if "ece" in values["after"] else "threshold on the score"


def draw_reliabilities(scores: Scores, crossed: CrossFitted, path: Path) -> None:
    """Save a PNG of the fraction of positives against the mean probability, before and after; counts below."""
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axis, below = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    axis.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, label="calibrated")
    edges = (np.arange(RELIABILITY_BINS) + 0.5) / RELIABILITY_BINS
    drawn = (("before", scores.values, SITE_COLORS[2], -0.022), ("after", crossed.values, SITE_COLORS[0], 0.022))
    for name, probabilities, color, aside in drawn:
        points, counts = reliability_points(scores.labels, probabilities)
        axis.plot(*zip(*points, strict=True), "o-", color=color, label=name)
        below.bar(edges + aside, counts, 0.04, color=color)
    axis.set(ylabel="fraction with TB", xlim=(0, 1), ylim=(-0.02, 1.02), title=f"Reliability (n {len(scores.labels)})")
    below.set(xlabel="probability", ylabel="X-rays")
    _finish(figure, axis, path)


def draw_scores(scores: Scores, values: Mapping[str, Any], path: Path) -> None:
    """Save a PNG of how the scores as they came are spread in each class, with the thresholds in use and chosen."""
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axis = figure.subplots()
    span = (0, 1) if scores.are_probabilities else (float(scores.values.min()), float(scores.values.max()))
    for label, name, color in ((0, "without TB", SITE_COLORS[0]), (1, "with TB", SITE_COLORS[1])):
        held = scores.values[scores.labels == label]
        axis.hist(held, SCORE_BINS, range=span, color=color, alpha=0.55, label=f"{name} (n {len(held)})")
    chosen = values["threshold_before_temperature"]
    axis.axvline(chosen, color="#333333", linestyle="--", linewidth=1, label=f"chosen: {chosen:.3g}")
    if scores.stored is not None:
        axis.axvline(scores.stored, color="#333333", linestyle=":", linewidth=1, label=f"in use: {scores.stored:.3g}")
    axis.set(xlabel="score, as it came", ylabel="X-rays", title="Scores by class")
    _finish(figure, axis, path)


def _finish(figure: Figure, axis: Axes, path: Path) -> None:
    axis.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)  # beside the curves, which may be anywhere
    save_picture(figure, path)
