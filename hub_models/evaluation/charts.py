"""Charts of a model's metrics, without a pixel of an X-ray: the spread of Dice, ROC, reliability, probabilities."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hub_models.files import new_file

SITE_COLORS = ("#1b6ca8", "#d1495b", "#555555")  # of the sites, and of all
RELIABILITY_BINS = 10
WORST = 5
STRIP_BINS = 50  # of the probabilities; dots of one bin are stacked
FEW_OF_CLASS = 10  # X-rays of a class, below which an AUROC says little
APART = 0.035  # between the numbers of the worst, in probability: the width of a number
STRIP_HEIGHT = 0.65  # of a label's dots, at the most; those of the other label begin at 1, with numbers below them
Rows = list[dict[str, Any]]  # per-image rows: what `measure` returns and per_image.parquet holds


def draw_distribution(per_image: Rows, path: Path) -> None:
    """Save a PNG of the Dice of every image, sorted, as a line per site."""
    figure, axis = _axis(6, 4)
    for color, (site, rows) in zip(SITE_COLORS, _groups(per_image).items(), strict=False):
        values = np.sort([row["dice"] for row in rows])
        fraction = (np.arange(len(values)) + 0.5) / len(values)
        label = f"{site}: mean {values.mean():.3f}, median {np.median(values):.3f} (n {len(values)})"
        axis.plot(fraction, values, ".-", color=color, label=label, linewidth=1, markersize=4)
    axis.set(xlabel="fraction of images with a lower Dice", ylabel="Dice of the image", title="Dice per image")
    _save_with_legend(figure, axis, path, "lower right")


def draw_roc(per_image: Rows, path: Path) -> None:
    """Save a PNG of the ROC of each site with the operating point, and the WHO's minimum for a triage test."""
    from sklearn.metrics import auc, roc_curve  # of TB models only, and slow to import

    figure, axis = _axis(5.4, 6.4)
    axis.axhspan(0.9, 1, 0, 0.3, color="#cfe8cf", label="WHO triage target: sensitivity .90, specificity .70")
    for color, (site, rows) in zip(SITE_COLORS, _groups(per_image).items(), strict=False):
        labels, probabilities, thresholds = (
            np.array([row[name] for row in rows]) for name in ("label", "probability", "threshold")
        )
        if len(set(labels)) < 2:
            continue
        false, true, _ = roc_curve(labels, probabilities)
        axis.plot(false, true, color=color, label=f"{site}: AUROC {auc(false, true):.3f} ({_counts(labels)})")
        called = probabilities >= thresholds
        axis.plot(called[labels == 0].mean(), called[labels == 1].mean(), "o", color=color)
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC; dots: the stored threshold")
    axis.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    # below the axes: the curves of a poor model are everywhere
    _save_with_legend(figure, axis, path, "upper center", (0.5, -0.12))


def _axis(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _counts(labels: np.ndarray) -> str:
    """Return the count of X-rays, and that of a class of which there are few."""
    counts = {"normal": (labels == 0).sum(), "tuberculosis": (labels == 1).sum()}
    few = [f"only {count} {name}" for name, count in counts.items() if count < FEW_OF_CLASS]
    return ", ".join([f"n {len(labels)}", *few])


def reliability_points(labels: np.ndarray, probabilities: np.ndarray) -> tuple[list[tuple[float, float]], np.ndarray]:
    """Return (mean probability, fraction of positives) of each of ten bins that holds images, and the bins' counts."""
    bins = np.maximum(np.ceil(probabilities * RELIABILITY_BINS).astype(int) - 1, 0)  # as those of ece: (a, b]
    held = [bins == index for index in range(RELIABILITY_BINS) if (bins == index).any()]
    points = [(float(probabilities[one].mean()), float(labels[one].mean())) for one in held]
    return points, np.bincount(bins, minlength=RELIABILITY_BINS)


def draw_reliability(per_image: Rows, path: Path) -> None:
    """Save a PNG of the fraction of positives against the mean probability, in ten bins; the bins' counts below."""
    figure = Figure(figsize=(5.2, 6.2), layout="constrained")
    axis, below = figure.subplots(2, height_ratios=(4, 1), sharex=True)
    axis.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, label="calibrated")
    labels, probabilities = (np.array([row[name] for row in per_image]) for name in ("label", "probability"))
    means, counts = reliability_points(labels, probabilities)
    axis.plot(*zip(*means, strict=True), "o-", color=SITE_COLORS[0], label=f"model (n {len(labels)})")
    axis.set(ylabel="fraction labeled tuberculosis", title="Reliability", xlim=(0, 1), ylim=(-0.02, 1.02))
    axis.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)  # beside the curve, which may be anywhere
    below.bar((np.arange(RELIABILITY_BINS) + 0.5) / RELIABILITY_BINS, counts, 0.09)
    below.set(xlabel="probability", ylabel="images")
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    save_picture(figure, path)


def draw_probabilities(per_image: Rows, path: Path) -> None:
    """Save a PNG of every image's probability as a dot, a strip per label; the worst are numbered and named."""
    figure, axis = _axis(7.2, 4.6)
    places = _stacked(per_image)
    for color, site in zip(SITE_COLORS, sorted({row["site"] for row in per_image}), strict=False):
        at = [places[row["id"]] for row in per_image if row["site"] == site]
        axis.plot(*zip(*at, strict=True), "o", color=color, markersize=4, alpha=0.8, label=site)
    for number, threshold in enumerate(sorted({row["threshold"] for row in per_image})):
        text = f"threshold {threshold:.3f}"
        axis.axvline(threshold, color="#333333", linestyle="--", linewidth=1, label=None if number else text)
    wrong = confidently_wrong(per_image)
    line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6}
    for label in (0, 1):
        numbered = [(places[row["id"]][0], number) for number, row in enumerate(wrong, 1) if row["label"] == label]
        xs = _apart([x for x, _ in sorted(numbered)])
        for (x, number), aside in zip(sorted(numbered), xs, strict=True):
            place = (aside, label - 0.1)
            axis.annotate(str(number), (x, label), place, arrowprops=line, ha="center", va="top", fontsize=9)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.3, 1.75), yticks=[0, 1], xlabel="calibrated probability of tuberculosis")
    axis.set_yticklabels(["labeled\nnormal", "labeled\ntuberculosis"])
    named = "\n".join(f"{number}  {row['id']}: {row['probability']:.3f}" for number, row in enumerate(wrong, 1))
    axis.set_title("Every test X-ray; numbered: wrong and furthest from their label" if wrong else "Every test X-ray")
    figure.text(1.01, 0.5, named, fontsize=8, ha="left", va="center")
    _save_with_legend(figure, axis, path, "upper left")


def confidently_wrong(per_image: Rows) -> Rows:
    """Return up to five images on the wrong side of their threshold, the furthest from their label first."""
    wrong = [row for row in per_image if (row["probability"] >= row["threshold"]) != bool(row["label"])]
    return sorted(wrong, key=lambda row: (-abs(row["probability"] - row["label"]), row["id"]))[:WORST]


def _apart(xs: list[float]) -> np.ndarray:
    """Return ascending places in [0, 1], moved sideways until all are at least APART from each other."""
    steps = APART * np.arange(len(xs))
    return np.minimum(np.maximum.accumulate(np.array(xs) - steps) + steps, 1 - steps[::-1])


def _groups(per_image: Rows) -> dict[str, Rows]:
    """Return the rows of each site, and all rows where there are two sites."""
    sites = sorted({row["site"] for row in per_image})
    groups = {site: [row for row in per_image if row["site"] == site] for site in sites}
    return groups if len(sites) == 1 else groups | {"all": per_image}


def _stacked(per_image: Rows) -> dict[str, tuple[float, float]]:
    """Return (probability, height) of each image's dot by id; dots of one label and bin are stacked."""
    bins: dict[tuple[int, int], Rows] = {}
    for row in sorted(per_image, key=lambda row: (row["probability"], row["id"])):
        bins.setdefault((row["label"], int(row["probability"] * STRIP_BINS)), []).append(row)
    step = min(0.045, STRIP_HEIGHT / max(map(len, bins.values())))
    return {
        row["id"]: (row["probability"], label + step * level)
        for (label, _), rows in bins.items()
        for level, row in enumerate(rows)
    }


def _save_with_legend(
    figure: Figure,
    axis: Axes,
    path: Path,
    place: Literal["lower right", "upper center", "upper left"],
    anchor: tuple[float, float] | None = None,
) -> None:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc=place, bbox_to_anchor=anchor)
    save_picture(figure, path)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as aside:
        figure.savefig(aside, dpi=110, format="png", bbox_inches="tight")
