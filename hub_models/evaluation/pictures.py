"""Pictures of X-rays with true and predicted lungs or saliency, and the table of all pictures of each task."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from hub_models.evaluation.charts import (
    WORST,
    Rows,
    draw_distribution,
    draw_probabilities,
    draw_reliability,
    draw_roc,
    save_picture,
)
from hub_models.imaging.gray import to_gray
from hub_models.imaging.masks import to_mask
from hub_models.imaging.overlays import HEAT, PREDICTED, TRUE, heat, outline, scaled_gray, tint
from hub_models.models.saliency import lungs_of, saliency
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel

SIDE = 480  # pixels of an X-ray's longer side
HIGH = 2.4  # inches of an X-ray in the pictures
SALIENCY_FRACTION = "saliency_in_lungs"
DICE_RANKS, FRACTION_RANKS = ("worst", "median", "best"), ("least in the lungs", "median", "most in the lungs")
PROBABILITY_RANKS = ("lowest probability", "median", "highest probability")
ModelOf = Callable[[str], TrainedModel]  # by the id of an X-ray
Ranked = list[tuple[str, dict[str, Any]]]  # why a per-image row is shown, such as "Montgomery: worst", and the row


@dataclass(frozen=True)
class Overlay:
    """One X-ray with its true and predicted masks."""

    name: str  # id of the X-ray
    gray: Image.Image  # mode L, SIDE pixels long
    true: np.ndarray  # (H, W) bool
    predicted: np.ndarray  # (H, W) bool
    dice: float
    rank: str = ""  # why it is shown


@dataclass(frozen=True)
class SaliencyPanel:
    """One X-ray and its saliency."""

    name: str  # id of the X-ray
    gray: Image.Image  # mode L, SIDE pixels long
    saliency: np.ndarray  # (H, W) in [0, 1]
    lungs: np.ndarray | None  # (H, W) bool
    text: str  # below the picture
    rank: str = ""  # why it is shown


def draw_overlays(overlays: list[Overlay], path: Path) -> None:
    """Save a PNG with a column per X-ray: the image, its true mask, the predicted mask, and its Dice below."""
    columns = [
        [one.gray.convert("RGB"), tint(one.gray, one.true, TRUE), tint(one.gray, one.predicted, PREDICTED)]
        for one in overlays
    ]
    titles, below = [f"{one.rank}\n{one.name}" for one in overlays], [f"Dice {one.dice:.3f}" for one in overlays]
    figure = _grid(columns, titles, below, ("X-ray", "true mask", "predicted mask"))
    figure.suptitle("Test X-rays of each site with the lowest, the median and the highest Dice", fontsize=11)
    save_picture(figure, path)


def _grid(columns: list[list[Image.Image]], titles: list[str], below: list[str], lines: tuple[str, ...]) -> Figure:
    """Return a figure of pictures of one height, whatever their aspect, with texts above, below and at the left."""
    aspects = [column[0].width / column[0].height for column in columns]
    size = (HIGH * sum(aspects) + 0.2 * len(columns) + 0.6, (HIGH + 0.1) * len(lines) + 1.2)
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(len(lines), len(columns), squeeze=False, width_ratios=aspects)
    for line, column, title, text in zip(axes.T, columns, titles, below, strict=True):
        line[0].set_title(title, fontsize=8)
        line[-1].set_xlabel(text, fontsize=8)
        for axis, picture in zip(line, column, strict=True):
            _show(axis, picture)
    for axis, text in zip(axes[:, 0], lines, strict=True):
        axis.set_ylabel(text, fontsize=10)
    return figure


def _show(axis: Axes, picture: Image.Image) -> None:
    axis.imshow(picture)
    axis.set(xticks=[], yticks=[])


def worst_median_best(per_image: Rows, metric: str, ranks: tuple[str, str, str] = DICE_RANKS) -> Ranked:
    """Return up to three images of each site: those with the lowest, the middle and the highest metric."""
    chosen = []
    for site, ranked in _by_site(per_image, metric).items():
        last, (lowest, middle, highest) = len(ranked) - 1, ranks
        places = {len(ranked) // 2: middle} | {last: highest} | {0: lowest} if last else {0: "only X-ray"}
        chosen += [(f"{site}: {places[index]}", ranked[index]) for index in sorted(places)]
    return chosen


def worst_and_median(per_image: Rows, metric: str) -> dict[str, Rows]:
    """Return up to five images of each site: the four with the lowest metric, then the one with the middle."""
    return {
        site: [ranked[index] for index in sorted({*range(min(WORST - 1, len(ranked))), len(ranked) // 2})]
        for site, ranked in _by_site(per_image, metric).items()
    }


def _by_site(per_image: Rows, metric: str) -> dict[str, Rows]:
    """Return the images of each site, those with the lowest metric first."""
    ranked = sorted(per_image, key=lambda row: (row["site"], row[metric], row["id"]))
    return {site: [row for row in ranked if row["site"] == site] for site in sorted({row["site"] for row in ranked})}


def _with_originals(chosen: Ranked, rows: datasets.Dataset) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield the rank of each chosen per-image row, the row, and its original row."""
    index_of = {id: index for index, id in enumerate(rows["id"])}
    for rank, result in chosen:
        yield rank, result, rows[index_of[result["id"]]]


def _overlays_of(chosen: Ranked, rows: datasets.Dataset, trained: ModelOf) -> list[Overlay]:
    return [
        Overlay(
            result["id"],
            scaled_gray(to_gray(row["image"]), SIDE),
            to_mask(row["mask"]),
            trained(row["id"])(row["image"]),
            result["dice"],
            rank,
        )
        for rank, result, row in _with_originals(chosen, rows)
    ]


def _draw_overlays_of(per_image: Rows, rows: datasets.Dataset, trained: ModelOf, path: Path) -> None:
    draw_overlays(_overlays_of(worst_median_best(per_image, "dice"), rows, trained), path)


def _draw_outlines_of(per_image: Rows, rows: datasets.Dataset, trained: ModelOf, path: Path) -> None:
    chosen = worst_and_median(per_image, "dice").items()
    draw_outlines({site: _overlays_of([(site, one) for one in own], rows, trained) for site, own in chosen}, path)


def _draw_saliency_of(per_image: Rows, rows: datasets.Dataset, trained: ModelOf, path: Path) -> None:
    """Draw the X-rays of each site by their saliency in the lungs; nothing of a model without saliency."""
    if SALIENCY_FRACTION not in per_image[0]:
        return
    known = [row for row in per_image if not np.isnan(row.get(SALIENCY_FRACTION, nan))]
    by = (known, SALIENCY_FRACTION, FRACTION_RANKS) if known else (per_image, "probability", PROBABILITY_RANKS)
    labels, panels = TASKS["tb_classification"].labels, []
    for rank, result, row in _with_originals(worst_median_best(*by), rows):
        mask, lungs = None if row["mask"] is None else to_mask(row["mask"]), lungs_of(row)
        salient = saliency(trained(row["id"]), row["image"], mask)
        text = f"{labels[row['label']]}, probability {result['probability']:.3f}"
        if lungs is not None:
            inside, area = result[SALIENCY_FRACTION], result["lungs_fraction"]
            text += f"\n{inside:.0%} of it in the lungs,\nwhich are {area:.0%} of the input"
        gray = scaled_gray(to_gray(row["image"]), SIDE)
        panels.append(SaliencyPanel(result["id"], gray, salient, lungs, text, rank))
    draw_saliency(panels, path)


def draw_saliency(panels: list[SaliencyPanel], path: Path) -> None:
    """Save a PNG with a column per X-ray: the image without and with its saliency; the lungs outlined on both."""
    columns = []
    for one in panels:
        pictures = [one.gray.convert("RGB"), heat(one.gray, one.saliency)]
        columns.append(pictures if one.lungs is None else [outline(two, one.lungs, TRUE) for two in pictures])
    titles = [f"{one.rank}\n{one.name}" for one in panels]
    figure = _grid(columns, titles, [one.text for one in panels], ("X-ray", "saliency"))
    axes = figure.axes[-len(panels) :]
    figure.colorbar(ScalarMappable(cmap=HEAT), ax=axes, pad=0.01, ticks=[0, 0.5, 1], label="speaks for tuberculosis")
    title = "What speaks for tuberculosis to the model, on test X-rays of each site"
    figure.suptitle(f"{title}; the lungs outlined" if any(one.lungs is not None for one in panels) else title)
    save_picture(figure, path)


def draw_outlines(sites: dict[str, list[Overlay]], path: Path) -> None:
    """Save a PNG with a row per site: outlines of both masks on white, without a pixel of an X-ray.

    What only one of the two masks holds is tinted in its color.
    """
    columns = max(len(overlays) for overlays in sites.values())
    figure = Figure(figsize=(2.1 * columns + 0.4, 3 * len(sites) + 0.5), layout="constrained")
    grid = figure.subplots(len(sites), columns, squeeze=False)
    for line, (site, overlays) in zip(grid, sites.items(), strict=True):
        line[0].set_ylabel(site, fontsize=10)
        for axis in line[len(overlays) :]:
            axis.axis("off")
        for axis, one in zip(line, overlays, strict=False):
            picture = Image.new("RGB", one.gray.size, "white")
            for only, color in ((one.true & ~one.predicted, TRUE), (one.predicted & ~one.true, PREDICTED)):
                picture = tint(picture, only, color)
            for mask, color in ((one.true, TRUE), (one.predicted, PREDICTED)):
                picture = outline(picture, mask, color)
            _show(axis, picture)
            axis.set_title(one.name, fontsize=8)
            axis.set_xlabel(f"Dice {one.dice:.3f}", fontsize=9)
    figure.suptitle("Each site's worst test images by Dice, and at the right its median", fontsize=11)
    handles = [Patch(facecolor=(red / 255, green / 255, blue / 255)) for red, green, blue in (TRUE, PREDICTED)]
    figure.legend(
        handles, ("reference mask", "model's mask"), loc="outside lower center", ncols=2, fontsize=9, frameon=False
    )
    save_picture(figure, path)


# The pictures of each task by file name: (per-image rows, original rows, what predicts a row by its id, path).
PICTURES: dict[str, dict[str, Callable[[Rows, datasets.Dataset, ModelOf, Path], None]]] = {
    "lung_segmentation": {
        "overlays.png": _draw_overlays_of,
        "outlines.png": _draw_outlines_of,
        "dice.png": lambda per_image, rows, trained, path: draw_distribution(per_image, path),
    },
    "tb_classification": {
        "roc.png": lambda per_image, rows, trained, path: draw_roc(per_image, path),
        "reliability.png": lambda per_image, rows, trained, path: draw_reliability(per_image, path),
        "probabilities.png": lambda per_image, rows, trained, path: draw_probabilities(per_image, path),
        "saliency.png": _draw_saliency_of,
    },
}
