"""Overlap of predicted and reference lung masks as a metric of the `evaluate` library.

    metric = evaluate.load(hub_models.metrics.evaluate_module("lung_overlap"))
    for predicted, reference in masks:
        metric.add(prediction=predicted, reference=reference)
    metric.compute()

Each image is counted when it is added and its masks are freed, so a set of any size takes the memory of one image.
"""

from collections.abc import Sequence
from math import nan
from typing import Any

import datasets
import evaluate
import numpy as np

from hub_models.metrics.segmentation import count_overlap, dice, iou, lung_metrics, surface_distances

_LUNG_MASK = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
_LUNG_OVERLAP_INPUTS = """
Args:
    predictions: masks, each (H, W) of ints or bools, > 0 is lung: (B, H, W), or a list where the sizes differ.
    references: as many masks, each of its prediction's size.
Returns, as floats (nan where undefined):
    dice, dice_sd, dice_median, iou: mean, sample sd, median and mean over images, in [0, 1]; 1 for two empty masks.
    dice_pooled, iou_pooled: one ratio over all pixels, in [0, 1].
    hd95, assd: with spacing only. Mean over the images in which neither mask is empty, in the unit of spacing.
"""
_LUNG_OVERLAP_CITATION = """
@article{taha2015metrics, title={Metrics for evaluating 3D medical image segmentation: analysis, selection, and tool},
  author={Taha, Abdel Aziz and Hanbury, Allan}, journal={BMC Medical Imaging}, year={2015},
  doi={10.1186/s12880-015-0068-x}}
"""


class LungOverlap(evaluate.Metric):
    """Dice and intersection over union of lung masks, per image and over all pixels; distances of the outlines too."""

    def __init__(self, *, spacing: tuple[float, float] | None = None, **options: Any) -> None:
        """Start without images.

        Args:
            spacing: height and width of a pixel, the same for all images. It adds hd95 and assd, in its unit; (1, 1)
                measures in pixels. None leaves them out, as they take far longer than the rest.
            **options: of evaluate.Metric.

        Raises:
            ValueError: `num_process` is not 1.
        """
        if options.get("num_process", 1) != 1:
            way_out = "gather the masks (accelerate's gather_for_metrics) and add them in one process"
            raise ValueError(f"LungOverlap keeps its counts in one process, got {options['num_process']}: {way_out}")
        self.spacing = spacing
        self._rows: list[dict[str, float]] = []
        super().__init__(**options)

    def _info(self) -> evaluate.MetricInfo:
        """Return what `evaluate` shows of the metric."""
        return evaluate.MetricInfo(
            description="Overlap of predicted and reference lung masks: per image first, then over the set.",
            citation=_LUNG_OVERLAP_CITATION,
            inputs_description=_LUNG_OVERLAP_INPUTS,
            features=datasets.Features({"predictions": _LUNG_MASK, "references": _LUNG_MASK}),
        )

    def __len__(self) -> int:
        """Return the number of images added since the last compute."""
        return len(self._rows)

    def add(
        self, *, prediction: Any = None, reference: Any = None, predictions: Any = None, references: Any = None
    ) -> None:
        """Count one image, as `add_batch`; evaluate's own examples use the plural names too."""
        pair = prediction if predictions is None else predictions, reference if references is None else references
        self.add_batch(predictions=[pair[0]], references=[pair[1]])

    def add_batch(self, *, predictions: Sequence[Any] | None = None, references: Sequence[Any] | None = None) -> None:
        """Count a batch of images; where one is wrong, nothing is added.

        Raises:
            ValueError: masks that are not (H, W) of ints or bools, whose shapes differ, or not as many of each.
        """
        if predictions is None or references is None:
            absent = "predictions" if predictions is None else "references"
            raise ValueError(f"no {absent}: LungOverlap takes both predictions and references")
        if len(predictions) != len(references):
            raise ValueError(f"got {len(predictions)} predictions for {len(references)} references")
        self._rows += [self._row_of(*pair, i) for i, pair in enumerate(zip(predictions, references, strict=True))]

    def compute(self, *, predictions: Any = None, references: Any = None) -> dict[str, float]:
        """Return the metrics of all images added and of those given here, then forget them.

        Raises:
            ValueError: as `add_batch`, or no image was added.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        if not self._rows:
            raise ValueError("no image was added: call add or add_batch, or pass predictions and references")
        rows, self._rows = self._rows, []
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        metrics = {name: float(value[0]) for name, value in lung_metrics(columns, np.ones((1, len(rows)))).items()}
        distances = {"hd95": metrics["hd95_mm"], "assd": metrics["assd_mm"]} if self.spacing is not None else {}
        return {name: value for name, value in metrics.items() if name.startswith(("dice", "iou"))} | distances

    def _row_of(self, prediction: Any, reference: Any, index: int) -> dict[str, float]:
        """Return the columns of `lung_metrics` of one image."""
        predicted, expected = _as_mask(prediction, "prediction", index), _as_mask(reference, "reference", index)
        if predicted.shape != expected.shape:
            sizes = f"prediction {predicted.shape} and reference {expected.shape}"
            raise ValueError(f"image {index}: {sizes} differ in size")
        counts = count_overlap(predicted, expected)
        hd95, assd = surface_distances(predicted, expected, self.spacing) if self.spacing is not None else (nan, nan)
        # The unit is the caller's: it goes through the columns for mm, and those in percent stay empty.
        distances = {"hd95_mm": hd95, "assd_mm": assd, "hd95_percent": nan, "assd_percent": nan}
        return counts._asdict() | {"dice": dice(counts), "iou": iou(counts)} | distances


def _as_mask(mask: Any, name: str, index: int) -> np.ndarray:
    """Return an (H, W) bool mask, > 0."""
    array = np.asarray(mask)
    if array.ndim != 2:
        raise ValueError(f"{name} {index} must be one mask (H, W), got shape {array.shape}: pass a list of masks")
    if array.dtype.kind not in "biu":
        raise ValueError(f"{name} {index} must hold ints or bools, got {array.dtype}: apply a threshold first")
    return array > 0
