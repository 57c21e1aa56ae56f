"""Pictures of what a model does."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hub_models.config import TrainConfig
from hub_models.data import load_splits
from hub_models.pixels import to_gray, to_mask
from hub_models.predict import Predictor

TRUE, PREDICTED = np.array([40, 200, 120]), np.array([255, 160, 20])  # green, orange


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
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    figure.savefig(aside, dpi=110, format="png")
    aside.replace(path)


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


def draw_run(run_folder: str | Path, data_dir: str | Path, output: str | Path) -> Path:
    """Save the overlays of a run's worst, median and best test images of each site; returns `output`.

    Raises:
        FileNotFoundError: the run has not ended, or the data are not there.
        ValueError: `data_dir` lacks a test image of the run.
    """
    run_folder = Path(run_folder)
    predictor = Predictor.from_run(run_folder)
    results = json.loads((run_folder / "results.json").read_text())
    rows = load_splits(data_dir, TrainConfig.load(run_folder).config_name)["test"]
    index_of = {id: index for index, id in enumerate(rows["id"])}
    overlays = []
    for result in worst_median_best(results["per_image"], "dice"):
        if result["id"] not in index_of:
            raise ValueError(f"{result['id']}, tested in {run_folder}, is not in {data_dir}: pass the run's own data")
        row = rows[index_of[result["id"]]]
        gray = np.asarray(to_gray(row["image"])).astype(np.uint8)
        overlays.append(Overlay(result["id"], gray, to_mask(row["mask"]), predictor(row["image"]), result["dice"]))
    draw_overlays(overlays, Path(output))
    return Path(output)
