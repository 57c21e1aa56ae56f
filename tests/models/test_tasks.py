import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import expit
from torch.nn.functional import cross_entropy, interpolate
from transformers import AutoConfig, AutoModelForSemanticSegmentation

from hub_models.imaging.masks import keep_two_lungs
from hub_models.metrics import screening_metrics
from hub_models.models.architectures import build
from hub_models.models.settings import Settings
from hub_models.models.tasks import DISTANCES, TASKS

LUNGS, TB = TASKS["lung_segmentation"], TASKS["tb_classification"]
MC = "MCUCXR_0003_0"  # its X-ray: 4020 x 4892 pixels (width x height) of 0.0875 mm


def of_lungs(fit: str = "squash") -> Settings:
    return Settings("lung_segmentation", 32, fit)


def logits_for(mask: np.ndarray) -> torch.Tensor:
    """(2, H, W) logits that say `mask`."""
    lungs = torch.from_numpy(mask).float()
    return torch.stack([1 - lungs, lungs])


def image_of(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(np.uint8(mask) * 255)


def test_only_rows_with_a_mask_are_usable() -> None:
    features = datasets.Features({"id": datasets.Value("string"), "mask": datasets.Image()})
    masks = [Image.new("L", (4, 4), 255), None, Image.new("L", (4, 4))]
    rows = datasets.Dataset.from_dict({"id": list("abc"), "mask": masks}, features=features)
    assert LUNGS.usable(rows)["id"] == ["a", "c"]
    assert LUNGS.usable(rows.select([1]))["id"] == []
    assert LUNGS.usable(rows.select([2, 1, 0]))["id"] == ["c", "a"]  # also behind an index


def test_only_rows_with_a_label_are_usable_for_tb() -> None:
    rows = datasets.Dataset.from_dict({"id": list("abc"), "label": [0, None, 1]})
    assert TB.usable(rows)["id"] == ["a", "c"] and TB.usable(rows.select([0, 2]))["id"] == ["a", "c"]


@pytest.mark.parametrize(("label", "absent"), [(0, "tuberculosis"), (1, "normal")])
def test_a_tb_split_needs_both_classes(label: int, absent: str) -> None:
    features = datasets.Features({"label": datasets.ClassLabel(names=["normal", "tuberculosis"])})
    rows = datasets.Dataset.from_dict({"label": [0, 1, 0]}, features=features)
    one_class = rows.filter(lambda row: row["label"] == label)
    TB.check("test", rows)
    LUNGS.check("test", one_class)
    with pytest.raises(ValueError, match=rf"no X-ray of test is {absent} \({2 - label} rows\)"):
        TB.check("test", one_class)


def test_lung_loss_by_hand() -> None:
    # one image of two pixels, logits at the mask's size: softmax 1/2 and 1/2 everywhere, one lung pixel in the mask:
    # cross-entropy log 2; soft Dice = 2 * 0.5 / (0.5 + 0.5 + 1) = 0.5, so Dice loss 0.5
    logits, mask = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
    assert LUNGS.loss(logits, {"mask": mask}, 0.0).item() == pytest.approx(np.log(2) + 0.5, abs=1e-4)


def test_lung_loss_is_the_mean_over_images_and_upsamples_logits() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(3, 2, 8, 8, generator=rng), torch.rand(3, 32, 32, generator=rng) > 0.5
    each = [LUNGS.loss(logits[index : index + 1], {"mask": masks[index : index + 1]}, 0.0) for index in range(3)]
    whole = LUNGS.loss(logits, {"mask": masks}, 0.0)
    torch.testing.assert_close(whole, torch.stack(each).mean())
    large = interpolate(logits, (32, 32), mode="bilinear")
    assert whole > cross_entropy(large, masks.long()) - 1e-6  # the Dice part is not negative
    confident = torch.stack([-20.0 * masks, 20.0 * masks - 10], 1).float()
    assert LUNGS.loss(confident, {"mask": masks}, 0.0) < 1e-3


def test_tb_loss_by_hand() -> None:
    # probability of the label: 1/2 of the first, weight 2; 1/(1+3) of the second, weight 1/2
    logits, labels = torch.tensor([[0.0, 0.0], [0.0, np.log(3)]]), torch.tensor([1, 0])
    batch = {"label": labels, "weight": torch.tensor([2.0, 0.5])}
    assert TB.loss(logits, batch, 0.0).item() == pytest.approx((2 * np.log(2) + 0.5 * np.log(4)) / 2)
    even = batch | {"weight": torch.ones(2)}
    assert TB.loss(logits, even, 0.0).item() == pytest.approx((np.log(2) + np.log(4)) / 2)
    # a fifth of the label over both classes: 0.9 of it stays, the other gets 0.1, whose probabilities are 1/2 and 3/4
    smooth = 2 * np.log(2) + 0.5 * (0.9 * np.log(4) + 0.1 * np.log(4 / 3))
    assert TB.loss(logits, batch, 0.2).item() == pytest.approx(smooth / 2)
    # three quarters of the first stay, half of the second; the rest is of the other label, with the other's weight
    mixed = [0.75 * 2 * np.log(2) + 0.25 * 0.5 * np.log(2), 0.5 * 0.5 * np.log(4) + 0.5 * 2 * np.log(4 / 3)]
    assert TB.loss(logits, batch | {"own": torch.tensor([0.75, 0.5])}, 0.0).item() == pytest.approx(sum(mixed) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_tb_losses_of_halves_average_to_the_whole(smoothing: float) -> None:
    rng = torch.Generator().manual_seed(0)
    batch = {"label": torch.tensor([0, 0, 0, 1]), "weight": torch.tensor([0.67, 0.67, 0.67, 2.0])}
    logits = torch.randn(4, 2, generator=rng)
    halves = [
        TB.loss(logits[half], {name: values[half] for name, values in batch.items()}, smoothing)
        for half in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), TB.loss(logits, batch, smoothing))


def test_loss_is_a_float32_of_half_precision_logits() -> None:
    batch = {"label": torch.tensor([1]), "weight": torch.ones(1), "mask": torch.ones(1, 4, 4, dtype=torch.bool)}
    assert TB.loss(torch.zeros(1, 2, dtype=torch.bfloat16), batch, 0.0).dtype == torch.float32
    assert LUNGS.loss(torch.zeros(1, 2, 2, 2, dtype=torch.bfloat16), batch, 0.0).dtype == torch.float32


def test_lung_validation_by_hand() -> None:
    # predicted: left half of 4 x 4, 8 pixels; reference: the top half, 8 pixels; 4 in both
    predicted, reference = np.arange(4) < np.full((4, 1), 2), np.arange(4)[:, None] < np.full(4, 2)
    logits = torch.stack([logits_for(predicted), logits_for(reference)])
    columns = LUNGS.validate(logits, {"mask": torch.from_numpy(np.stack([reference, reference]))})
    assert (columns["both"], columns["predicted_only"], columns["reference_only"]) == ([4, 8], [4, 0], [4, 0])
    assert (columns["dice"], columns["iou"]) == ([0.5, 1.0], [pytest.approx(1 / 3), 1.0])
    assert all(np.isnan(columns[name]).all() for name in DISTANCES)
    small = LUNGS.validate(torch.zeros(1, 2, 2, 2), {"mask": torch.ones(1, 8, 8, dtype=torch.uint8)})
    assert (small["both"], small["reference_only"]) == ([0], [64])  # logits that are even say no lung


@pytest.mark.parametrize(
    ("fit", "height", "width"),
    [("squash", 24, 24), ("pad", 24, 16), ("pad", 16, 24), ("squash", 24, 16)],
)
def test_lung_metrics_by_hand(fit: str, height: int, width: int) -> None:
    # A bar of 2 rows x 8 columns is found one row too high: 8 pixels in both masks, 8 in each alone. Each outline is
    # the bar; the far row is one row off, the near one is shared: 95th percentile 1 row, mean half a row.
    predicted, reference = np.zeros((2, height, width), bool)
    predicted[5:7, 4:12] = reference[6:8, 4:12] = True
    side = max(height, width)
    square = np.zeros((side, side), bool)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = predicted
    logits = logits_for(predicted if fit == "squash" else square)
    metrics = LUNGS.measure(logits, {"id": MC, "mask": image_of(reference)}, of_lungs(fit))
    assert (metrics["both"], metrics["predicted_only"], metrics["reference_only"]) == (8, 8, 8)
    assert (metrics["dice"], metrics["iou"]) == (0.5, pytest.approx(1 / 3))
    row_mm = 4892 * 0.0875 / height
    assert (metrics["hd95_mm"], metrics["assd_mm"]) == (pytest.approx(row_mm), pytest.approx(row_mm / 2))
    row_percent = 100 / np.hypot(height, width)
    assert metrics["hd95_percent"] == pytest.approx(row_percent)
    assert metrics["assd_percent"] == pytest.approx(row_percent / 2)


def test_lung_distances_along_a_row_and_where_there_are_none() -> None:
    predicted, reference = np.zeros((2, 24, 20), bool)
    predicted[4:12, 5:7] = reference[4:12, 8:10] = True  # three columns apart: 2 and 3 columns to the other's nearest
    row = {"id": MC, "mask": image_of(reference)}
    metrics = LUNGS.measure(logits_for(predicted), row, of_lungs())
    assert metrics["hd95_mm"] == pytest.approx(3 * 4020 * 0.0875 / 20)
    assert metrics["assd_mm"] == pytest.approx(2.5 * 4020 * 0.0875 / 20)
    far = LUNGS.measure(logits_for(predicted), row | {"id": "CHNCXR_0001_0"}, of_lungs())
    assert np.isnan([far["hd95_mm"], far["assd_mm"]]).all()  # nobody knows Shenzhen's spacing
    assert far["hd95_percent"] == pytest.approx(300 / np.hypot(24, 20))
    empty = LUNGS.measure(logits_for(np.zeros_like(predicted)), row, of_lungs())
    assert empty["dice"] == 0 and np.isnan([empty[name] for name in DISTANCES]).all()
    neither = LUNGS.measure(logits_for(np.zeros_like(predicted)), row | {"mask": Image.new("L", (20, 24))}, of_lungs())
    assert neither["dice"] == 1


def test_prediction_is_on_the_original_grid() -> None:
    logits = torch.zeros(2, 4, 4)
    logits[1, :, :2], logits[0, :, 2:] = 1, 1  # left half lung
    predicted = LUNGS.predict(logits, 6, 20, of_lungs())
    assert predicted.shape == (6, 20) and predicted.dtype == bool
    assert predicted[:, :8].all() and not predicted[:, 12:].any()
    inside = np.zeros((20, 20), bool)
    inside[:, 5:15] = True  # where an X-ray of 40 x 20 lies in its square, if it is padded
    assert LUNGS.predict(logits_for(inside), 40, 20, of_lungs("pad")).all()
    assert not LUNGS.predict(logits_for(~inside), 40, 20, of_lungs("pad"))[:, 1:-1].any()
    assert LUNGS.predict(logits_for(inside.T), 20, 40, of_lungs("pad")).all()
    assert LUNGS.predict(torch.randn(2, 8, 8), 41, 30, of_lungs("pad")).shape == (41, 30)


def test_the_two_largest_regions_are_kept_and_filled() -> None:
    mask = np.zeros((12, 20), bool)
    mask[1:8, 1:8] = mask[1:9, 11:16] = mask[10:12, 0:2] = mask[10, 18] = True  # 49, 40, 4 and 1 pixels
    expected = mask.copy()
    expected[9:] = False
    mask[3:5, 3:5] = False  # a hole
    single = np.arange(16).reshape(4, 4) == 5
    for given, kept in ((mask, expected), (expected, expected), (single, single), (single & False, single & False)):
        np.testing.assert_array_equal(keep_two_lungs(given), kept)
    settings = Settings("lung_segmentation", 32, two_lungs=True)
    np.testing.assert_array_equal(LUNGS.predict(logits_for(mask), 12, 20, settings), expected)
    np.testing.assert_array_equal(LUNGS.predict(logits_for(mask), 12, 20, of_lungs()), mask)
    assert LUNGS.measure(logits_for(mask), {"id": MC, "mask": image_of(expected)}, settings)["dice"] == 1


def test_tb_metrics_of_one_image_by_hand() -> None:
    settings = Settings("tb_classification", 32, threshold=0.3)
    logits = torch.tensor([1.0, 1.0 + np.log(3)])  # 3 to 1
    expected = {"log_odds": pytest.approx(np.log(3)), "probability": pytest.approx(0.75), "threshold": 0.3}
    assert TB.measure(logits, {}, settings) == expected
    assert TB.predict(logits, 10, 20, settings) == pytest.approx(0.75)
    columns = TB.validate(torch.stack([logits, -logits]), {})
    assert columns["probability"] == pytest.approx([0.75, 0.25])
    assert columns["log_odds"] == pytest.approx([np.log(3), -np.log(3)])
    assert columns["threshold"] == [0.5, 0.5]


@pytest.mark.parametrize(("right", "threshold"), [(9, 0.9), (8, 0.2)])
def test_decision_by_hand(right: int, threshold: float) -> None:
    # Ten of each class, log odds +2 or -2, `right` of each class right. Calibrated is the fraction that is right, so
    # sigmoid(2 / T) = right / 10, T = 2 / log(right / (10 - right)). Of the positives 9 in 10 lie at .9 or above where
    # 9 are right; where 8 are, 90 % are reached only among those at .2.
    log_odds = np.array([2.0] * right + [-2.0] * (10 - right))
    columns = {"log_odds": np.concatenate([log_odds, -log_odds]), "label": np.repeat([1.0, 0.0], 10)}
    before = Settings("tb_classification", 32, "pad", "lungs")
    after = TB.decide(before, columns)
    assert after.temperature == pytest.approx(2 / np.log(right / (10 - right)), rel=1e-3)
    assert after.threshold == pytest.approx(threshold, abs=1e-3)
    assert (after.task, after.image_size, after.fit, after.region) == ("tb_classification", 32, "pad", "lungs")
    calibrated = {"label": columns["label"], "probability": expit(columns["log_odds"] / after.temperature)}
    metrics = screening_metrics(calibrated, np.ones((1, 20)), after.threshold)
    assert metrics["sensitivity"] >= 0.9
    assert LUNGS.decide(before, columns) == before


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_main_metric_is_one_of_the_metrics(task) -> None:
    shape = (3, 2) if task is TB else (3, 2, 8, 8)
    batch = {"mask": torch.rand(3, 8, 8) > 0.5}
    columns = {name: np.array(values) for name, values in task.validate(torch.randn(shape), batch).items()}
    metrics = task.metrics(columns | {"label": np.array([0.0, 1.0, 1.0])}, np.ones((1, 3)))
    assert 0 <= metrics[task.main_metric][0] <= 1
    row = {"id": MC, "mask": image_of(np.ones((8, 8), bool))}
    assert set(task.measure(torch.randn(shape)[0], row, Settings("any", 32))) == set(columns)


def test_tb_metrics_by_hand() -> None:
    columns = {"label": [1, 0, 1], "probability": [0.4, 0.4, 0.4], "threshold": [0.3, 0.5, 0.5]}
    known = {"saliency_in_lungs": [0.5, 0.7, 0.6], "lungs_fraction": [0.2, 0.4, 0.3]}
    without, explained = (
        TB.metrics({name: np.array(values, float) for name, values in one.items()}, np.ones((1, 3)))
        for one in (columns, columns | known)
    )
    assert (without["sensitivity"][0], without["specificity"][0]) == (0.5, 1.0)  # each image has its own threshold
    added = {name: explained[name][0] for name in set(explained) - set(without)}
    assert added == pytest.approx({"saliency_in_lungs": 0.6, "lungs_fraction": 0.3})
    assert TB.explained and not LUNGS.explained


def test_settings_come_back_with_the_model(tiny_segformer, tmp_path) -> None:
    model = build("segmentation", str(tiny_segformer), True, LUNGS.labels, 32)
    settings = Settings("lung_segmentation", 32, "pad", "image", 1.5, 0.31, 3, True)
    settings.store(model)
    assert Settings.of(model) == settings
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert Settings.of(loaded) == settings
    assert AutoConfig.from_pretrained(tmp_path).chest_xray_masks["temperature"] == 1.5
    model.config.chest_xray_masks = model.config.chest_xray_masks | {"region": "found_lungs"}
    assert Settings.of(model).region == "lungs"  # its name before


@pytest.mark.parametrize("values", [None, {"task": "lung_segmentation"}, {"another": 1}])
def test_settings_are_checked(values: dict | None) -> None:
    with pytest.raises(ValueError, match="config.json of somewhere has no chest_xray_masks"):
        Settings.parse(values, "somewhere")
    with pytest.raises(ValueError, match="views must be 1 to 5, got 6"):
        Settings("lung_segmentation", 32, views=6)
