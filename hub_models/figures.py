"""Pictures of X-rays and what a model does: lungs over them, as outlines, where it looks; and all pictures' table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from hub_models.charts import (
    WORST,
    draw_distribution,
    draw_probabilities,
    draw_reliability,
    draw_roc,
    save_picture,
)
from hub_models.pixels import to_gray, to_mask
from hub_models.predictor import Predictor
from hub_models.saliency import lungs_of, saliency

TRUE, PREDICTED = np.array([40, 200, 120]), np.array([255, 160, 20])  # green, orange
SHOWN = 800
SHARE = "saliency_in_lungs"
Predictors = Callable[[str], Predictor]  # by the id of an X-ray


@dataclass(frozen=True)
class Overlay:
    """One X-ray (H, W) uint8 with its true and predicted masks (H, W) bool."""

    name: str
    gray: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    dice: float


@dataclass(frozen=True)
class Look:
    """One X-ray (H, W) uint8, its saliency (H, W) in [0, 1], its lungs (H, W) bool or None, and what stands below."""

    name: str
    gray: np.ndarray
    saliency: np.ndarray
    lungs: np.ndarray | None
    text: str


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
    save_picture(figure, path)


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


def _rows_of(chosen: list[dict[str, Any]], rows: datasets.Dataset) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each of the chosen per-image rows with its original row."""
    index_of = {id: index for index, id in enumerate(rows["id"])}
    for result in chosen:
        yield result, rows[index_of[result["id"]]]


def _compare(chosen: list[dict[str, Any]], rows: datasets.Dataset, predictor: Predictors) -> list[Overlay]:
    overlays = []
    for result, row in _rows_of(chosen, rows):
        found = predictor(row["id"])(row["image"])
        planes = (to_gray(row["image"]), Image.fromarray(to_mask(row["mask"])), Image.fromarray(found))
        gray, true, predicted = (np.asarray(_shrink(plane)) for plane in planes)
        overlays.append(Overlay(result["id"], gray.astype(np.uint8), true, predicted, result["dice"]))
    return overlays


def _overlays(per_image: list[dict[str, Any]], rows: datasets.Dataset, predictor: Predictors, path: Path) -> None:
    draw_overlays(_compare(worst_median_best(per_image, "dice"), rows, predictor), path)


def _outlines(per_image: list[dict[str, Any]], rows: datasets.Dataset, predictor: Predictors, path: Path) -> None:
    chosen = worst_and_median(per_image, "dice")
    draw_outlines({site: _compare(results, rows, predictor) for site, results in chosen.items()}, path)


def _saliency(per_image: list[dict[str, Any]], rows: datasets.Dataset, predictor: Predictors, path: Path) -> None:
    """Each site's X-rays with the lowest, middle and highest share in the lungs; none of a model without saliency."""
    if SHARE not in per_image[0]:
        return
    known = [row for row in per_image if not np.isnan(row.get(SHARE, nan))]
    looks = []
    for result, row in _rows_of(worst_median_best(known or per_image, SHARE if known else "probability"), rows):
        shown = None if row["mask"] is None else to_mask(row["mask"])
        lungs = lungs_of(row)
        salient = Image.fromarray(saliency(predictor(row["id"]), row["image"], shown))
        gray, salient = (np.asarray(_shrink(plane)) for plane in (to_gray(row["image"]), salient))
        text = f"label {row['label']}, probability {result['probability']:.3f}"
        if lungs is not None:
            text += f"\n{result[SHARE]:.2f} in the lungs, {result['lungs_share']:.2f} of what it sees"
            lungs = np.asarray(_shrink(Image.fromarray(lungs)))
        looks.append(Look(result["id"], gray.astype(np.uint8), salient, lungs, text))
    draw_saliency(looks, path)


def draw_saliency(looks: list[Look], path: Path) -> None:
    """Save a PNG with a column per X-ray: the image, and the image under its saliency; the lungs outlined on both."""
    figure = Figure(figsize=(2.4 * len(looks) + 0.4, 5.6))
    axes = figure.subplots(2, len(looks), squeeze=False)
    for column, one in zip(axes.T, looks, strict=True):
        for axis in column:
            axis.imshow(one.gray, cmap="gray", vmin=0, vmax=255)
            if one.lungs is not None:
                _outline(axis, one.lungs, TRUE)
            axis.set(xticks=[], yticks=[])
        column[1].imshow(one.saliency, cmap="inferno", vmin=0, vmax=1, alpha=0.8 * np.sqrt(one.saliency))
        column[0].set_title(one.name, fontsize=8)
        column[1].set_xlabel(one.text, fontsize=8)
    for axis, text in zip(axes[:, 0], ("X-ray", "speaks for tuberculosis"), strict=True):
        axis.set_ylabel(text, fontsize=10)
    save_picture(figure, path)


def _outline(axis: Axes, mask: np.ndarray, color: np.ndarray) -> None:
    if mask.any():  # a rim of background closes outlines at the edge of the film
        y, x = (np.arange(-1, side + 1) for side in mask.shape)
        axis.contour(x, y, np.pad(mask, 1), [0.5], colors=[tuple(color / 255)], linewidths=1.2)


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
                _outline(axis, mask, color)
            height, width = one.true.shape
            axis.set(xticks=[], yticks=[], xlim=(-1, width), ylim=(height, -1))
            axis.set_title(one.name, fontsize=8)
            axis.set_xlabel(f"Dice {one.dice:.3f}", fontsize=9)
    figure.suptitle("Each site's worst test images by Dice, and at the right its median", fontsize=11)
    handles = [Patch(facecolor=tuple(color / 255)) for color in (TRUE, PREDICTED)]
    figure.legend(handles, ("reference mask", "model's mask"), loc="lower center", ncols=2, fontsize=9, frameon=False)
    save_picture(figure, path, rect=(0, 0.05, 1, 0.99))


# The pictures of each task by file name: (per-image rows, original rows, what predicts a row by its id, path).
PICTURES: dict[str, dict[str, Callable[[list[dict[str, Any]], datasets.Dataset, Predictors, Path], None]]] = {
    "lung_segmentation": {
        "overlays.png": _overlays,
        "outlines.png": _outlines,
        "dice.png": lambda per_image, rows, predictor, path: draw_distribution(per_image, path),
    },
    "tb_classification": {
        "roc.png": lambda per_image, rows, predictor, path: draw_roc(per_image, path),
        "reliability.png": lambda per_image, rows, predictor, path: draw_reliability(per_image, path),
        "probabilities.png": lambda per_image, rows, predictor, path: draw_probabilities(per_image, path),
        "saliency.png": _saliency,
    },
}
