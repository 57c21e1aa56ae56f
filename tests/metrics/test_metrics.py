import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, MeanIoU, SurfaceDistanceMetric
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from hub_models import metrics as metrics_package
from hub_models.metrics import (
    SALIENCY_COLUMNS,
    Overlap,
    count_overlap,
    dice,
    fit_temperature,
    iou,
    lung_metrics,
    saliency_metrics,
    screening_metrics,
    surface_distances,
    threshold_for_sensitivity,
)

LEFT = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
TOP = np.array([[1, 1, 1, 1], [0, 0, 0, 0]], bool)


def test_counts_and_metrics_by_hand() -> None:
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


def test_surface_distances_by_hand() -> None:
    predicted, reference = np.zeros((2, 20, 30), bool)
    predicted[5, 4:8] = reference[8, 4:8] = True  # two lines of 4 pixels, 3 rows apart
    assert surface_distances(predicted, reference) == (3.0, 3.0)
    assert surface_distances(predicted, reference, spacing=(0.5, 7.0)) == (1.5, 1.5)
    assert surface_distances(predicted.T, reference.T, spacing=(7.0, 0.5)) == (1.5, 1.5)
    assert surface_distances(predicted, predicted) == (0.0, 0.0)
    reference[8, 20] = True
    # Predicted to reference: 3 four times. Back: 3 four times, and from (8, 20) to (5, 7) sqrt(9 + 169) = 13.342.
    # 95th percentile of [3, 3, 3, 3, 13.342]: rank 0.95 * 4 = 3.8, so 3 + 0.8 * 10.342 = 11.273. Mean: 37.342 / 9.
    for pair in ((predicted, reference), (reference, predicted)):
        assert surface_distances(*pair) == pytest.approx((11.273, 37.342 / 9), abs=1e-3)
    empty = np.zeros_like(LEFT)
    for pair in ((empty, LEFT), (LEFT, empty), (empty, empty)):
        assert np.isnan(surface_distances(*pair)).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.0875, 0.2)])
def test_monai_agrees_on_surface_distances(spacing: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    masks = np.zeros((2, 6, 50, 40), bool)
    for mask in masks.reshape(-1, 50, 40):  # blocks that touch the border here and there, with holes
        top, left = rng.integers(0, (20, 15))
        mask[top : top + 30, left : left + 25] = rng.random((min(30, 50 - top), 25)) > 0.1
    ours = np.array([surface_distances(*pair, spacing) for pair in zip(*masks, strict=True)])
    stacks = [torch.from_numpy(stack[:, None].astype(np.float32)) for stack in masks]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's about its own arguments
        hd95 = HausdorffDistanceMetric(include_background=True, percentile=95)(*stacks, spacing=spacing)
        assd = SurfaceDistanceMetric(include_background=True, symmetric=True)(*stacks, spacing=spacing)
    np.testing.assert_allclose(ours, torch.cat([hd95, assd], 1), rtol=1e-5)


def test_masks_of_two_shapes_and_wrong_spacings_are_refused() -> None:
    for function in (count_overlap, surface_distances):
        with pytest.raises(ValueError, match=r"\(2, 4\) and reference mask \(4, 2\)"):
            function(LEFT, TOP.T)
    for spacing in ((1.0, 0.0), (1.0, float("nan")), (1.0, 1.0, 1.0), None):
        with pytest.raises(ValueError, match="spacing must be two positive numbers"):
            surface_distances(LEFT, TOP, spacing)


def test_full_size_masks_are_measured() -> None:
    rows, columns = np.ogrid[:4892, :4020]
    predicted, reference = (
        ((rows - 2400 - shift) / 1900) ** 2 + ((columns - 2000) / 1500) ** 2 < 1 for shift in (0, 20)
    )
    hd95, assd = surface_distances(predicted, reference, spacing=(0.0875, 0.0875))
    assert assd < hd95 <= 20 * 0.0875 * 1.01


def lung_columns() -> dict[str, np.ndarray]:
    counts = [Overlap(9, 1, 1), Overlap(2, 2, 4), Overlap(0, 0, 0), Overlap(30, 10, 0)]
    columns = {name: np.array([count[i] for count in counts], float) for i, name in enumerate(Overlap._fields)}
    columns |= {"dice": np.array([dice(one) for one in counts]), "iou": np.array([iou(one) for one in counts])}
    distances = {"hd95_mm": [1, np.nan, np.nan, 3], "assd_mm": [0.5, np.nan, np.nan, 1.5]}
    distances |= {"hd95_percent": [1, 4, np.nan, 4], "assd_percent": [np.nan] * 4}
    return columns | {name: np.array(values, float) for name, values in distances.items()}


def test_lung_metrics_by_hand() -> None:
    metrics = lung_metrics(lung_columns(), np.ones((1, 4)))
    # dice: 18/20 = 0.9, 4/10 = 0.4, 1, 60/70 = 6/7; iou: 9/11, 2/8, 1, 30/40. Sums: 41 both, 13 + 5 in one only.
    values = np.array([0.9, 0.4, 1, 6 / 7])
    expected = {
        "dice": values.mean(),
        "dice_sd": values.std(ddof=1),
        "dice_median": (0.9 + 6 / 7) / 2,
        "iou": (9 / 11 + 0.25 + 1 + 0.75) / 4,
        "dice_pooled": 82 / 100,
        "iou_pooled": 41 / 59,
        "hd95_mm": 2.0,
        "assd_mm": 1.0,
        "hd95_percent": 3.0,
        "assd_percent": np.nan,
        "undefined_distances": 0.25,  # one of four has no hd95_percent
    }
    assert list(metrics) == list(expected)
    assert all(metric.shape == (1,) and metric.dtype == float for metric in metrics.values())
    assert {name: metric[0] for name, metric in metrics.items()} == pytest.approx(expected, nan_ok=True)


def test_weights_are_repeats_of_images() -> None:
    rng = np.random.default_rng(0)
    lungs = {name: rng.random(9) for name in lung_columns()}
    lungs["hd95_mm"][::2] = np.nan
    screening = {"label": rng.integers(0, 2, 9), "probability": rng.random(9).round(1)}
    weights = rng.integers(0, 4, (20, 9))
    for columns, metrics in ((lungs, lung_metrics), (screening, lambda c, w: screening_metrics(c, w, 0.4))):
        together = metrics(columns, weights)
        for index, row in enumerate(weights):
            repeated = {name: column.repeat(row) for name, column in columns.items()}
            alone = metrics(repeated, np.ones((1, row.sum())))
            for name, metric in alone.items():
                np.testing.assert_allclose(together[name][index], metric[0], rtol=1e-12, err_msg=name)
    assert lung_metrics(lungs, weights)["dice_median"][0] == pytest.approx(np.median(lungs["dice"].repeat(weights[0])))


def test_lung_metrics_where_undefined() -> None:
    columns = lung_columns()
    nothing, one, empty_masks = (
        {name: metric[0] for name, metric in lung_metrics(columns, np.array([weights])).items()}
        for weights in ([0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0])
    )
    assert all(np.isnan(value) for value in nothing.values())
    assert one["dice"] == one["dice_median"] == one["dice_pooled"] == 0.4
    assert np.isnan(one["dice_sd"]) and np.isnan(one["hd95_mm"]) and one["hd95_percent"] == 4
    assert empty_masks["dice_pooled"] == empty_masks["iou_pooled"] == 1.0
    no_images = lung_metrics({name: column[:0] for name, column in columns.items()}, np.ones((1, 0)))
    assert all(np.isnan(metric).all() and metric.shape == (1,) for metric in no_images.values())


def test_screening_metrics_by_hand() -> None:
    columns = {"label": np.array([1, 1, 1, 0, 0]), "probability": np.array([0.9, 0.65, 0.2, 0.65, 0.1])}
    metrics = screening_metrics(columns, np.ones((1, 5)), threshold=0.7)
    expected = {
        "auroc": 4.5 / 6,  # of 6 pairs .9 wins 2, .65 wins 1 and ties 1, .2 wins 1
        "average_precision": (1 + 2 / 3 + 3 / 4) / 3,  # precision at .9, at .65 (2 of 3), at .2 (3 of 4)
        "sensitivity": 1 / 3,
        "specificity": 1.0,
        "sensitivity_at_half": 2 / 3,
        "specificity_at_half": 0.5,
        "specificity_at_90_sensitivity": 0.5,  # all positives from .2 up; then .65 of the negatives is called too
        "brier": (0.1**2 + 0.35**2 + 0.8**2 + 0.65**2 + 0.1**2) / 5,
        "ece": (0.1 + 0.3 + 0.8 + 0.1) / 5,  # bins: .9 alone, both .65 (1.3 for 1 positive), .2 alone, .1 alone
    }
    assert list(metrics) == list(expected)
    assert {name: metric[0] for name, metric in metrics.items()} == pytest.approx(expected)


def test_each_image_may_have_a_threshold_of_its_own() -> None:
    columns = {"label": np.array([1, 1, 0, 0]), "probability": np.array([0.6, 0.6, 0.6, 0.6])}
    metrics = screening_metrics(columns, np.array([[1, 1, 1, 1], [1, 3, 2, 0]]), np.array([0.6, 0.7, 0.1, 0.9]))
    np.testing.assert_array_equal(metrics["sensitivity"], [0.5, 0.25])  # 1 of 2, 1 of 4
    np.testing.assert_array_equal(metrics["specificity"], [0.5, 0.0])  # 1 of 2, 0 of 2


def test_scikit_learn_agrees_on_each_resample() -> None:
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 60)
    probability = np.clip(0.3 * label + 0.7 * rng.random(60), 0, 1).round(2)  # with ties
    weights = rng.integers(0, 3, (25, 60))
    metrics = screening_metrics({"label": label, "probability": probability}, weights, 0.5)
    for index, row in enumerate(weights):
        given = {"sample_weight": row}
        fall_out, sensitivity, _ = roc_curve(label, probability, **given, drop_intermediate=False)
        expected = {
            "auroc": roc_auc_score(label, probability, **given),
            "average_precision": average_precision_score(label, probability, **given),
            "brier": brier_score_loss(label, probability, **given),
            "specificity_at_90_sensitivity": 1 - fall_out[sensitivity >= 0.9].min(),
        }
        assert {name: metrics[name][index] for name in expected} == pytest.approx(expected)


def test_a_bin_of_the_calibration_error_holds_its_upper_edge() -> None:
    columns = {"label": np.array([1, 0]), "probability": np.array([0.3, 0.25])}
    assert screening_metrics(columns, np.ones((1, 2)), 0.5)["ece"][0] == pytest.approx((1 - 0.55) / 2)  # one bin
    columns["probability"] = np.array([0.3, 0.35])
    assert screening_metrics(columns, np.ones((1, 2)), 0.5)["ece"][0] == pytest.approx((0.7 + 0.35) / 2)  # two


def test_screening_metrics_where_undefined() -> None:
    columns = {"label": np.array([1, 0]), "probability": np.array([0.8, 0.4])}
    metrics = screening_metrics(columns, np.array([[1, 0], [0, 1], [0, 0]]), 0.5)  # positives, negatives, nothing
    for name in ("auroc", "average_precision", "specificity_at_90_sensitivity"):
        assert np.isnan(metrics[name]).all()
    np.testing.assert_array_equal(metrics["sensitivity"], [1, np.nan, np.nan])
    np.testing.assert_array_equal(metrics["specificity"], [np.nan, 1, np.nan])
    np.testing.assert_allclose(metrics["brier"], [0.2**2, 0.4**2, np.nan])
    np.testing.assert_allclose(metrics["ece"], [0.2, 0.4, np.nan])
    no_images = screening_metrics({name: column[:0] for name, column in columns.items()}, np.ones((1, 0)), 0.5)
    assert all(np.isnan(metric).all() and metric.shape == (1,) for metric in no_images.values())


def test_saliency_metrics_by_hand() -> None:
    columns = {"saliency_in_lungs": [0.2, np.nan, 0.6, 0.9], "lungs_fraction": [0.1, 0.5, 0.3, np.nan]}
    columns = {name: np.array(values) for name, values in columns.items()}
    metrics = saliency_metrics(columns | {"label": np.zeros(4)}, np.array([[1, 1, 1, 1], [3, 0, 1, 2], [0, 5, 0, 1]]))
    # the first and the third image have both; then the first three times; then none
    assert metrics["saliency_in_lungs"] == pytest.approx([0.4, 0.3, np.nan], nan_ok=True)
    assert metrics["lungs_fraction"] == pytest.approx([0.2, 0.15, np.nan], nan_ok=True)
    assert saliency_metrics({"label": np.zeros(4)}, np.ones((1, 4))) == {}


def test_threshold_for_sensitivity_by_hand() -> None:
    labels = np.array([1] * 10 + [0] * 2)
    probabilities = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.95, 0.15])
    assert threshold_for_sensitivity(labels, probabilities) == 0.2  # 9 of 10 positives
    assert threshold_for_sensitivity(labels, probabilities, 0.91) == 0.1
    assert threshold_for_sensitivity(labels, probabilities, 0.2) == 0.8
    assert threshold_for_sensitivity(labels, probabilities, 1.0) == 0.1
    metrics = screening_metrics({"label": labels, "probability": probabilities}, np.ones((1, 12)), 0.2)
    assert metrics["sensitivity"][0] == 0.9 and metrics["specificity"][0] == 0.5
    assert metrics["specificity_at_90_sensitivity"][0] == 0.5


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (threshold_for_sensitivity, (np.zeros(3), np.ones(3)), "0 of 3 labels are 1"),
        (threshold_for_sensitivity, (np.ones(3), np.ones(2)), r"labels \(3,\) and probabilities \(2,\)"),
        (threshold_for_sensitivity, (np.ones(3), np.ones(3), 90), r"\(0, 1\], got 90"),
        (fit_temperature, (np.arange(3), np.zeros(3)), "0 of 3 labels are 1: .* both classes"),
        (fit_temperature, (np.arange(3), np.ones(3)), "3 of 3 labels are 1: .* both classes"),
        (lung_metrics, (lung_columns(), np.ones((1, 3))), r"got weights \(1, 3\)"),
        (saliency_metrics, (dict.fromkeys(SALIENCY_COLUMNS, np.ones(4)), np.ones((1, 3))), r"got weights \(1, 3\)"),
        (screening_metrics, ({"label": np.ones(2)}, np.ones(2), 0.5), r"got weights \(2,\) and {'label': \(2,\)"),
    ],
)
def test_what_cannot_be_computed(function: Callable, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(*arguments)


def test_temperature_by_hand() -> None:
    # Logits of +-2, three of four right: the best probability is 3/4 = sigmoid(ln 3), so T = 2 / ln 3.
    logits, labels = np.array([2.0, 2, 2, -2, -2, -2, -2, 2]), np.array([1, 1, 1, 1, 0, 0, 0, 0])
    assert fit_temperature(logits, labels) == pytest.approx(2 / np.log(3), rel=1e-4)
    assert fit_temperature(10 * logits, labels) == pytest.approx(20 / np.log(3), rel=1e-4)


def test_temperature_of_calibrated_logits_and_its_bounds() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    labels = rng.random(20_000) < 1 / (1 + np.exp(-logits))
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(np.array([5.0, -5.0]), np.array([1, 0])) == pytest.approx(0.05, rel=0.01)  # all right
    assert fit_temperature(np.array([5.0, -5.0]), np.array([0, 1])) == pytest.approx(20, rel=0.01)  # all wrong


def test_import_is_cheap_and_the_old_names_stay() -> None:
    heavy = "{'datasets', 'evaluate', 'monai', 'scipy', 'sklearn', 'torch', 'PIL'}"
    code = f"import sys, hub_models.metrics; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    for name in ("lung", "screening", "saliency"):
        assert getattr(metrics_package, f"{name}_figures") is getattr(metrics_package, f"{name}_metrics")


def test_masks_of_ints_count_as_those_of_bools_and_floats_are_refused() -> None:
    ones = np.ones((4, 4), np.uint8)
    for other in (ones, 2 * ones, 255 * ones, ones.astype(bool)):
        assert count_overlap(ones, other) == (16, 0, 0)
        assert surface_distances(ones, other) == (0, 0)
    for measured in (count_overlap, surface_distances):
        with pytest.raises(ValueError, match="reference mask must hold ints or bools, got float32: apply a threshold"):
            measured(ones, ones.astype(np.float32))
