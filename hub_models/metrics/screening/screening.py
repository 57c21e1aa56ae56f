"""Probabilities of tuberculosis against labels as a metric of the `evaluate` library.

metric = evaluate.load(hub_models.metrics.evaluate_module("screening"))
metric.compute(predictions=[0.9, 0.2], references=[1, 0], threshold=0.5)
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from hub_models.metrics.classification import screening_metrics

_SCREENING_INPUTS = """
Args:
    predictions: (n,) probabilities of the positive class in [0, 1].
    references: (n,) labels, 0 or 1.
    threshold: of compute; a probability >= it counts as positive. In [0, 1], 0.5 unless given.
Returns, as floats in [0, 1] (nan where a class that the metric needs is absent):
    auroc, average_precision: as scikit-learn's.
    sensitivity, specificity: at threshold. sensitivity_at_half, specificity_at_half: at 0.5.
    specificity_at_90_sensitivity: the largest over the thresholds that find at least 90 % of the positives.
    brier: mean squared difference of probability and label. ece: expected calibration error, ten bins.
"""
_SCREENING_CITATION = """
@inproceedings{guo2017calibration, title={On Calibration of Modern Neural Networks},
  author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.}, booktitle={ICML}, year={2017}}
"""


class Screening(evaluate.Metric):
    """AUROC, average precision, sensitivity, specificity and calibration of probabilities of one class."""

    def _info(self) -> evaluate.MetricInfo:
        """Return what `evaluate` shows of the metric."""
        return evaluate.MetricInfo(
            description="How well probabilities tell positives from negatives, at a threshold and over all.",
            citation=_SCREENING_CITATION,
            inputs_description=_SCREENING_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def add(
        self, *, prediction: Any = None, reference: Any = None, predictions: Any = None, references: Any = None
    ) -> None:
        """Add one probability and its label, as `add_batch`; evaluate's own examples use the plural names too."""
        pair = prediction if predictions is None else predictions, reference if references is None else references
        self.add_batch(predictions=[pair[0]], references=[pair[1]])

    def add_batch(self, *, predictions: Any = None, references: Any = None) -> None:
        """Add probabilities and their labels; where one is wrong, nothing is added.

        Raises:
            ValueError: not (n,) each, a probability outside [0, 1] or nan, or a label other than 0 and 1.
        """
        probabilities, labels = _checked(predictions, references)
        if labels.size:  # evaluate cannot write an empty batch
            super().add_batch(predictions=probabilities, references=labels)

    def compute(
        self, *, predictions: Any = None, references: Any = None, threshold: float = 0.5
    ) -> dict[str, float] | None:
        """Return the metrics of all that was added and is given here, then forget it; None off the main process.

        Raises:
            ValueError: as `add_batch`, `threshold` is outside [0, 1], or nothing was added.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        if not len(self) and self.num_process == 1:
            raise ValueError("nothing was added: call add or add_batch, or pass predictions and references")
        return super().compute(threshold=threshold)

    def _compute(self, *, predictions: list[float], references: list[int], threshold: float) -> dict[str, float]:
        """Return the metrics of all that was added."""
        columns = {"probability": np.array(predictions, float), "label": np.array(references, float)}
        metrics = screening_metrics(columns, np.ones((1, len(references))), threshold)
        return {name: float(value[0]) for name, value in metrics.items()}


def _checked(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and labels as arrays (n,)."""
    if predictions is None or references is None:
        absent = "predictions" if predictions is None else "references"
        raise ValueError(f"no {absent}: Screening takes both predictions and references")
    probabilities, labels = np.asarray(predictions, float), np.asarray(references)
    if probabilities.ndim != 1 or probabilities.shape != labels.shape:
        raise ValueError(f"predictions {probabilities.shape} and references {labels.shape} must both be (n,)")
    if (outside := probabilities[~((probabilities >= 0) & (probabilities <= 1))]).size:
        way_out = "apply sigmoid or softmax first"
        raise ValueError(f"predictions must be probabilities in [0, 1], got {outside[0]}: {way_out}")
    if (wrong := labels[~np.isin(labels, (0, 1))]).size:
        raise ValueError(f"references must be 0 or 1, got {wrong[0]}")
    return probabilities, labels.astype("int64")
