import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, MeanIoU

from hub_models.metrics import Overlap, count_overlap, dice, iou, summarize

LEFT = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
TOP = np.array([[1, 1, 1, 1], [0, 0, 0, 0]], bool)


def test_counts_and_figures_by_hand() -> None:
    counts = count_overlap(LEFT, TOP)
    assert counts == Overlap(both=2, predicted_only=2, reference_only=2)
    assert dice(counts) == 0.5  # 2*2 / (4 + 4)
    assert iou(counts) == pytest.approx(1 / 3)  # 2 / 6


def test_limits() -> None:
    empty = np.zeros_like(LEFT)
    assert dice(count_overlap(LEFT, LEFT)) == iou(count_overlap(LEFT, LEFT)) == 1.0
    assert dice(count_overlap(LEFT, ~LEFT)) == iou(count_overlap(LEFT, ~LEFT)) == 0.0
    assert dice(count_overlap(empty, empty)) == iou(count_overlap(empty, empty)) == 1.0
    assert dice(count_overlap(empty, LEFT)) == 0.0


def test_monai_agrees_image_by_image() -> None:
    rng = np.random.default_rng(0)
    predicted, reference = rng.random((2, 12, 20, 30)) > rng.random((2, 12, 1, 1))
    stacks = [torch.from_numpy(stack[:, None].astype(np.float32)) for stack in (predicted, reference)]
    counts = [count_overlap(*pair) for pair in zip(predicted, reference, strict=True)]
    np.testing.assert_allclose([dice(one) for one in counts], DiceMetric()(*stacks)[:, 0], rtol=1e-6)
    np.testing.assert_allclose([iou(one) for one in counts], MeanIoU()(*stacks)[:, 0], rtol=1e-6)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\) and reference mask \(4, 2\)"):
        count_overlap(LEFT, TOP.T)


def test_summary_by_hand() -> None:
    # mean (0.5+0.7+0.9)/3 = 0.7; sample sd = sqrt((0.04+0+0.04)/2) = 0.2
    expected = {"n": 3, "mean": 0.7, "sd": 0.2, "median": 0.7, "min": 0.5}
    assert summarize([0.9, 0.5, 0.7]) == pytest.approx(expected)
    assert summarize([0.9]) == {"n": 1, "mean": 0.9, "sd": None, "median": 0.9, "min": 0.9}
    assert summarize([]) == {"n": 0, "mean": None, "sd": None, "median": None, "min": None}
