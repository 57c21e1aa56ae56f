"""Pictures of what a model does: lungs over X-rays and as outlines, the spread of Dice, ROC, reliability, mistakes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from sklearn.metrics import auc, roc_curve

from hub_models.pixels import to_gray, to_mask

TRUE, PREDICTED = np.array([40, 200, 120]), np.array([255, 160, 20])  # green, orange
COLORS = ("#1b6ca8", "#d1495b", "#555555")  # of the sites, and of all
RELIABILITY_BINS = 10
WORST = 5
STRIP_BINS = 50  # of the probabilities, in which dots stand on one another
SHOWN = 800
Predict = Callable[[dict[str, Any]], np.ndarray]


@dataclass(frozen=True)
class Overlay:
    """One X-ray (H, W) uint8 with its true and predicted masks (H, W) bool."""

    name: str
    gray: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    dice: float


def draw_overlays(overlays: list[Overlay], path: Path) -> None:
    """Save a PNG with a column per X-ray: the image, its true mask, the predicted mask, and its Dice below."""
    figure = Figure(figsize=(2.2 * len(overlays) + 0.4, 7.2))
    axes = figure.subplots(3, len(overlays), squeeze=False)
    for column, one in zip(axes.T, overlays, strict=True):
        tints = ((np.zeros_like(one.true), TRUE), (one.true, TRUE), (one.predicted, PREDICTED))
        for axis, tint in zip(column, tints, strict=True):
            axis.imshow(_tint(one.gray, *tint), aspect="equal")
            axis.set(xticks=[], yticks=[])
        column[0].set_title(one.name, fontsize=8)
        column[2].set_xlabel(f"Dice {one.dice:.3f}", fontsize=10)
    for axis, text in zip(axes[:, 0], ("X-ray", "true mask", "predicted mask"), strict=True):
        axis.set_ylabel(text, fontsize=10)
    _save(figure, path)


def _shrink(plane: Image.Image) -> Image.Image:
    """`plane` at no more than SHOWN pixels along its longer side: a picture shows no more."""
    factor = max(1, -(-max(plane.size) // SHOWN))
    return plane.resize([side // factor for side in plane.size], Image.Resampling.NEAREST)


def _tint(gray: np.ndarray, mask: np.ndarray, color: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: gray, with the mask's pixels tinted."""
    picture = np.repeat(gray[..., None], 3, axis=2)
    picture[mask] = (0.6 * picture[mask] + 0.4 * color).astype(np.uint8)
    return picture


def worst_median_best(per_image: list[dict[str, Any]], figure: str) -> list[dict[str, Any]]:
    """Up to three images of each site: those with the lowest, the middle and the highest figure."""
    chosen = []
    for site in sorted({row["site"] for row in per_image}):
        ranked = sorted((row for row in per_image if row["site"] == site), key=lambda row: (row[figure], row["id"]))
        chosen += [ranked[index] for index in sorted({0, len(ranked) // 2, len(ranked) - 1})]
    return chosen


def worst_and_median(per_image: list[dict[str, Any]], figure: str) -> dict[str, list[dict[str, Any]]]:
    """Up to five images of each site: the four with the lowest figure, then the one with the middle."""
    chosen = {}
    for site in sorted({row["site"] for row in per_image}):
        ranked = sorted((row for row in per_image if row["site"] == site), key=lambda row: (row[figure], row["id"]))
        chosen[site] = [ranked[index] for index in sorted({*range(min(WORST - 1, len(ranked))), len(ranked) // 2})]
    return chosen


def confidently_wrong(per_image: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Up to five images on the wrong side of their threshold: those whose probability is furthest from their label."""
    wrong = [row for row in per_image if (row["probability"] >= row["threshold"]) != bool(row["label"])]
    return sorted(wrong, key=lambda row: (-abs(row["probability"] - row["label"]), row["id"]))[:WORST]


def _look(chosen: list[dict[str, Any]], rows: datasets.Dataset, predict: Predict) -> list[Overlay]:
    index_of = {id: index for index, id in enumerate(rows["id"])}
    overlays = []
    for result in chosen:
        row = rows[index_of[result["id"]]]
        planes = (to_gray(row["image"]), Image.fromarray(to_mask(row["mask"])), Image.fromarray(predict(row)))
        gray, true, predicted = (np.asarray(_shrink(plane)) for plane in planes)
        overlays.append(Overlay(result["id"], gray.astype(np.uint8), true, predicted, result["dice"]))
    return overlays


def _overlays(per_image: list[dict[str, Any]], rows: datasets.Dataset, predict: Predict, path: Path) -> None:
    draw_overlays(_look(worst_median_best(per_image, "dice"), rows, predict), path)


def _outlines(per_image: list[dict[str, Any]], rows: datasets.Dataset, predict: Predict, path: Path) -> None:
    chosen = worst_and_median(per_image, "dice")
    draw_outlines({site: _look(results, rows, predict) for site, results in chosen.items()}, path)


def draw_outlines(sites: dict[str, list[Overlay]], path: Path) -> None:
    """Save a PNG with a row per site: the outlines of true and predicted masks on white, not a pixel of an X-ray.

    What only one of the two masks holds is tinted in its color.
    """
    columns = max(len(overlays) for overlays in sites.values())
    figure = Figure(figsize=(2.1 * columns + 0.4, 3 * len(sites) + 0.5))
    grid = figure.subplots(len(sites), columns, squeeze=False)
    for line, (site, overlays) in zip(grid, sites.items(), strict=True):
        line[0].set_ylabel(site, fontsize=10)
        for axis in line[len(overlays) :]:
            axis.axis("off")
        for axis, one in zip(line, overlays, strict=False):
            ground = np.full((*one.true.shape, 3), 255, np.uint8)
            for only, color in ((one.true & ~one.predicted, TRUE), (one.predicted & ~one.true, PREDICTED)):
                ground[only] = 0.6 * 255 + 0.4 * color
            axis.imshow(ground, aspect="equal")
            for mask, color in ((one.true, TRUE), (one.predicted, PREDICTED)):
                if mask.any():  # a rim of background closes outlines at the edge of the film
                    y, x = (np.arange(-1, side + 1) for side in mask.shape)
                    axis.contour(x, y, np.pad(mask, 1), [0.5], colors=[tuple(color / 255)], linewidths=1.2)
            height, width = one.true.shape
            axis.set(xticks=[], yticks=[], xlim=(-1, width), ylim=(height, -1))
            axis.set_title(one.name, fontsize=8)
            axis.set_xlabel(f"Dice {one.dice:.3f}", fontsize=9)
    figure.suptitle("Each site's worst test images by Dice, and at the right its median", fontsize=11)
    handles = [Patch(facecolor=tuple(color / 255)) for color in (TRUE, PREDICTED)]
    figure.legend(handles, ("reference mask", "model's mask"), loc="lower center", ncols=2, fontsize=9, frameon=False)
    _save(figure, path, rect=(0, 0.05, 1, 0.99))


def _groups(per_image: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of each site, and all of them where there are two."""
    sites = sorted({row["site"] for row in per_image})
    groups = {site: [row for row in per_image if row["site"] == site] for site in sites}
    return groups if len(sites) == 1 else groups | {"all": per_image}


def draw_distribution(per_image: list[dict[str, Any]], path: Path) -> None:
    """Save a PNG of the Dice of every image, sorted, a line per site: what the mean hides stands at the left."""
    figure = Figure(figsize=(6, 4))
    axis = figure.subplots()
    for color, (site, rows) in zip(COLORS, _groups(per_image).items(), strict=False):
        values = np.sort([row["dice"] for row in rows])
        share = (np.arange(len(values)) + 0.5) / len(values)
        label = f"{site}: mean {values.mean():.3f}, median {np.median(values):.3f} (n {len(values)})"
        axis.plot(share, values, ".-", color=color, label=label, linewidth=1, markersize=4)
    axis.set(xlabel="share of images with a lower Dice", ylabel="Dice of the image", title="Dice per image")
    _finish(axis, "lower right")
    _save(figure, path)


def draw_roc(per_image: list[dict[str, Any]], path: Path) -> None:
    """Save a PNG of the ROC of each site with the operating point, and the WHO's minimum for a triage test."""
    figure = Figure(figsize=(5.2, 5))
    axis = figure.subplots()
    axis.axhspan(0.9, 1, 0, 0.3, color="#cfe8cf", label="WHO triage target: sensitivity .90, specificity .70")
    for color, (site, rows) in zip(COLORS, _groups(per_image).items(), strict=False):
        labels, probabilities, thresholds = (
            np.array([row[name] for row in rows]) for name in ("label", "probability", "threshold")
        )
        if len(set(labels)) < 2:
            continue
        false, true, _ = roc_curve(labels, probabilities)
        axis.plot(false, true, color=color, label=f"{site}: AUROC {auc(false, true):.3f} (n {len(rows)})")
        called = probabilities >= thresholds
        axis.plot(called[labels == 0].mean(), called[labels == 1].mean(), "o", color=color)
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC; dots: the stored threshold")
    axis.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    _finish(axis, "lower right")
    _save(figure, path)


def draw_reliability(per_image: list[dict[str, Any]], path: Path) -> None:
    """Save a PNG of the share of positives against the mean probability, in ten bins, with the count of each bin."""
    figure = Figure(figsize=(5.2, 5.8))
    axis, below = figure.subplots(2, height_ratios=(4, 1), sharex=True)
    axis.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, label="calibrated")
    labels, probabilities = (np.array([row[name] for row in per_image]) for name in ("label", "probability"))
    bins = np.maximum(np.ceil(probabilities * RELIABILITY_BINS).astype(int) - 1, 0)  # as those of ece: (a, b]
    held = [index for index in range(RELIABILITY_BINS) if (bins == index).any()]
    means = [(probabilities[bins == index].mean(), labels[bins == index].mean()) for index in held]
    axis.plot(*zip(*means, strict=True), "o-", color=COLORS[0], label=f"model (n {len(labels)})")
    axis.set(ylabel="share with the label tuberculosis", title="Reliability", xlim=(0, 1), ylim=(0, 1))
    _finish(axis, "upper left")
    below.bar((np.arange(RELIABILITY_BINS) + 0.5) / RELIABILITY_BINS, np.bincount(bins, minlength=10), 0.09)
    below.set(xlabel="probability", ylabel="images")
    _save(figure, path)


def draw_probabilities(per_image: list[dict[str, Any]], path: Path) -> None:
    """Save a PNG of every image's probability as a dot, a strip per label, with the threshold; the worst are named."""
    figure = Figure(figsize=(7.2, 4.6))
    axis = figure.subplots()
    places = _stacked(per_image)
    for color, site in zip(COLORS, sorted({row["site"] for row in per_image}), strict=False):
        at = [places[row["id"]] for row in per_image if row["site"] == site]
        axis.plot(*zip(*at, strict=True), "o", color=color, markersize=4, alpha=0.8, label=site)
    for number, threshold in enumerate(sorted({row["threshold"] for row in per_image})):
        text = f"threshold {threshold:.3f}"
        axis.axvline(threshold, color="#333333", linestyle="--", linewidth=1, label=None if number else text)
    wrong = confidently_wrong(per_image)
    for number, row in enumerate(wrong, 1):
        (x, _), below = places[row["id"]], 13 + 11 * (number % 3)  # staggered, as neighbors stand close
        line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6}
        place = {"textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 9}
        axis.annotate(str(number), (x, row["label"]), (0, -below), arrowprops=line, **place)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.6, 1.75), yticks=[0, 1], xlabel="calibrated probability of tuberculosis")
    axis.set_yticklabels(["labeled\nnormal", "labeled\ntuberculosis"])
    named = "\n".join(f"{number}  {row['id']}: {row['probability']:.3f}" for number, row in enumerate(wrong, 1))
    axis.set_title("Every test X-ray; the most confidently wrong are numbered" if wrong else "Every test X-ray")
    figure.text(0.99, 0.5, named, fontsize=8, ha="left", va="center")
    _finish(axis, "upper left")
    _save(figure, path)


def _stacked(per_image: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Place (probability, height) of each image's dot by id: those of one label and bin stand on one another."""
    held: dict[tuple[int, int], int] = {}
    places = {}
    for row in sorted(per_image, key=lambda row: (row["probability"], row["id"])):
        key = (row["label"], int(row["probability"] * STRIP_BINS))
        held[key] = held.get(key, -1) + 1
        places[row["id"]] = (row["probability"], row["label"] + 0.045 * held[key])
    return places


def _finish(axis: Axes, place: str) -> None:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc=place)


def _save(figure: Figure, path: Path, **layout: Any) -> None:
    """Write the PNG, whole or not at all."""
    figure.tight_layout(**layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    figure.savefig(aside, dpi=110, format="png", bbox_inches="tight")
    aside.replace(path)


# The pictures of each task by file name: (per-image rows, original rows, what predicts a row, path).
PICTURES: dict[str, dict[str, Callable[[list[dict[str, Any]], datasets.Dataset, Predict, Path], None]]] = {
    "lung_segmentation": {
        "overlays.png": _overlays,
        "outlines.png": _outlines,
        "dice.png": lambda per_image, rows, predict, path: draw_distribution(per_image, path),
    },
    "tb_classification": {
        "roc.png": lambda per_image, rows, predict, path: draw_roc(per_image, path),
        "reliability.png": lambda per_image, rows, predict, path: draw_reliability(per_image, path),
        "probabilities.png": lambda per_image, rows, predict, path: draw_probabilities(per_image, path),
    },
}
