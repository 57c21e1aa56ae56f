from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from chest_xray_masks import parse_findings
from hub_models.dataset.batches import Arrays
from hub_models.dataset.preprocessing import prepare
from hub_models.dataset.sources import load_splits
from hub_models.evaluation import measure as evaluation
from hub_models.evaluation.measure import (
    columns_of,
    compare,
    groups_of,
    measure,
    summarize,
    validate,
    write_per_image,
)
from hub_models.imaging.gray import to_gray
from hub_models.imaging.masks import to_mask
from hub_models.metrics import count_overlap, dice
from hub_models.models.architectures import build
from hub_models.models.image_processors import image_processor_for, normalize
from hub_models.models.saliency import METHODS, fraction_in, saliency
from hub_models.models.settings import Settings
from hub_models.models.tasks import DISTANCES, TASKS
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.data import Split
from hub_models.runs.run_folder import read_per_image

LUNGS, TB = TASKS["lung_segmentation"], TASKS["tb_classification"]


def known(id: str = "a", **values: object) -> dict[str, object]:
    row = {"id": id, "patient_id": id, "site": "Montgomery", "label": 0, "sex": "F", "age_years": 30.0}
    return row | values


def of_lungs(id: str, found: float, **values: object) -> dict[str, object]:
    """Row of an image of 100 pixels of reference, a fraction `found` of it found, nothing else."""
    both = round(100 * found)
    metrics = {"dice": 2 * both / (both + 100), "iou": both / 100, "both": both, "predicted_only": 0}
    metrics |= {"reference_only": 100 - both} | dict.fromkeys(DISTANCES, np.nan)
    return known(id, **metrics | values)


def of_tb(id: str, label: int, probability: float, **values: object) -> dict[str, object]:
    odds = np.log(probability / (1 - probability))
    return known(id, label=label, log_odds=odds, probability=probability, threshold=0.5, **values)


def split_of_fold(phantoms: Path, size: int, fit: str = "squash", task=LUNGS) -> Split:
    rows = task.usable(load_splits(phantoms)["train"])
    return Split(rows, Arrays(prepare(rows, size, fit), size))


@pytest.mark.parametrize("chunk", [3, 16])
def test_one_row_per_image_on_its_own_grid(chunk: int, phantoms, tiny_segformer, monkeypatch) -> None:
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", chunk)
    torch.manual_seed(0)
    split = split_of_fold(phantoms, 64)
    model = build("segmentation", str(tiny_segformer), True, LUNGS.labels, 64).train()
    image_processor, settings = image_processor_for("segmentation", "", True, 64), Settings("lung_segmentation", 64)
    per_image = measure(TrainedModel(LUNGS, model, image_processor, settings), split, Accelerator())
    assert [row["id"] for row in per_image] == sorted(split.rows["id"])
    by_id = {row["id"]: row for row in split.rows}
    for one in per_image[::7]:
        row = by_id[one["id"]]
        pixels = image_processor(to_gray(row["image"]).convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            logits = model.eval()(**pixels).logits
            (theirs,) = image_processor.post_process_semantic_segmentation(model(**pixels), [row["image"].size[::-1]])
        predicted = LUNGS.predict(logits[0], row["image"].height, row["image"].width, settings)
        np.testing.assert_array_equal(predicted, theirs.bool())  # as transformers' own pipeline has it
        assert one["dice"] == pytest.approx(dice(count_overlap(predicted, to_mask(row["mask"]))), abs=1e-3)
        assert all(one[name] == row[name] for name in ("patient_id", "label", "age_years"))
        names = split.rows.features
        assert one["site"] == names["site"].int2str(row["site"])
        assert one["sex"] == (None if row["sex"] is None else names["sex"].int2str(row["sex"]))


@pytest.mark.parametrize("use", [{"views": 3}, {"two_lungs": True}, {"fit": "pad"}])
def test_figures_are_of_what_a_user_gets(use: dict, phantoms, tiny_segformer) -> None:
    torch.manual_seed(0)
    model = build("segmentation", str(tiny_segformer), True, LUNGS.labels, 64)
    settings = Settings("lung_segmentation", 64, **use)
    trained = TrainedModel(LUNGS, model, image_processor_for("segmentation", "", True, 64), settings)
    split = split_of_fold(phantoms, 64, settings.fit)
    per_image = measure(trained, split, Accelerator())
    by_id = {row["id"]: row for row in split.rows}
    for one in per_image[::9]:
        counts = count_overlap(trained(by_id[one["id"]]["image"]), to_mask(by_id[one["id"]]["mask"]))
        assert one["dice"] == pytest.approx(dice(counts), abs=1e-3)


@pytest.mark.parametrize("chunk", [5, 16])
def test_rows_of_a_classifier_say_where_it_looks(chunk: int, phantoms, tiny_resnet, monkeypatch) -> None:
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", chunk)
    torch.manual_seed(0)
    model = build("classification", str(tiny_resnet), True, TB.labels, 32)
    settings = Settings("tb_classification", 32)
    trained = TrainedModel(TB, model, image_processor_for("classification", "", True, 32), settings)
    split = split_of_fold(phantoms, 32, task=TB)
    per_image = measure(trained, split, Accelerator())
    by_id = {row["id"]: row for row in split.rows}
    without = [row["id"] for row in per_image if by_id[row["id"]]["mask"] is None]
    assert 0 < len(without) < len(per_image)
    for one in per_image:
        row = by_id[one["id"]]
        lungs = None if row["mask"] is None else to_mask(row["mask"])
        expected = fraction_in(saliency(trained, row["image"]), lungs)
        assert one["saliency_in_lungs"] == pytest.approx(expected, abs=0.02, nan_ok=True)  # small X-rays
        assert np.isnan(one["lungs_fraction"]) if lungs is None else one["lungs_fraction"] == lungs.mean()
    said = {row["id"]: (row["findings"], row["activity"]) for row in per_image}
    for id, row in by_id.items():
        found = parse_findings(row["findings"])
        assert said[id] == (found.present, found.activity)
    defined = [row for row in per_image if not np.isnan(row["saliency_in_lungs"])]
    group = summarize(per_image, TB, repeats=50)["all"]
    for name in ("saliency_in_lungs", "lungs_fraction"):
        assert group[name]["value"] == pytest.approx(np.mean([row[name] for row in defined]))
        assert group[name]["low"] < group[name]["value"] < group[name]["high"]
    monkeypatch.delitem(METHODS, "resnet")
    bare = measure(trained, split, Accelerator())
    names = ("saliency_in_lungs", "lungs_fraction")
    assert bare == [{name: row[name] for name in row if name not in names} for row in per_image]
    assert "saliency_in_lungs" not in summarize(bare, TB, repeats=5)["all"]
    shared = compare(per_image, bare, TB, repeats=5)["all"]
    assert set(shared) == set(summarize(bare, TB, repeats=5)["all"]) - {"n", "patients"}


def test_validation_keeps_the_order_of_the_arrays(phantoms, tiny_segformer, tiny_resnet) -> None:
    split = split_of_fold(phantoms, 32)
    torch.manual_seed(0)
    model = build("segmentation", str(tiny_segformer), True, LUNGS.labels, 32)
    image_processor = image_processor_for("segmentation", "", True, 32)
    columns = validate(model, image_processor, LUNGS, split.arrays, Accelerator())
    assert columns["label"].tolist() == split.rows["label"]
    held = np.array([np.frombuffer(mask, np.uint8).sum() for mask in split.arrays.prepared["mask"]])
    np.testing.assert_array_equal(columns["both"] + columns["reference_only"], held)
    assert LUNGS.metrics(columns, np.ones((1, len(held))))["dice"][0] == pytest.approx(columns["dice"].mean())
    assert np.isnan(columns["hd95_mm"]).all()
    whole = split_of_fold(phantoms, 32, task=TB)  # also X-rays without a mask
    model = build("classification", str(tiny_resnet), True, TB.labels, 32).train()
    columns = validate(model, image_processor, TB, whole.arrays, Accelerator())
    assert not model.training and set(columns) == {"label", "log_odds", "probability", "threshold"}
    with torch.no_grad():
        pixels = whole.arrays.__getitems__([5])["pixels"].float() / 255
        logits = model(pixel_values=normalize(pixels, image_processor)).logits[0]
    assert columns["log_odds"][5] == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)


def test_groups_by_hand() -> None:
    rows = [
        known(site="Shenzhen", sex="M", age_years=15.0),
        known(site="Montgomery", sex=None, age_years=14.99),
        known(site="Shenzhen", sex="F", age_years=None),
        known(site="Shenzhen", sex="F", age_years=55.0),
        known(site="Shenzhen", sex="O", age_years=0.25),
    ]
    groups = {
        "all": [0, 1, 2, 3, 4],
        "site: Montgomery": [1],
        "site: Shenzhen": [0, 2, 3, 4],
        "sex: F": [2, 3],
        "sex: M": [0],
        "sex: O": [4],
        "sex: unknown": [1],
        "age: 00-14": [1, 4],
        "age: 15-34": [0],
        "age: 55 and over": [3],
        "age: unknown": [2],
    }
    assert groups_of(rows) == groups
    assert list(groups_of(rows)) == list(groups)  # in this order


@pytest.mark.parametrize(
    ("age", "band"), [(0.0, "00-14"), (34.9, "15-34"), (35.0, "35-54"), (54.0, "35-54"), (120.0, "55 and over")]
)
def test_age_bands(age: float, band: str) -> None:
    assert f"age: {band}" in groups_of([known(age_years=age)])


def test_summary_by_hand() -> None:
    rows = [
        of_lungs("a", 1.0, patient_id="p", site="A"),
        of_lungs("b", 0.5, patient_id="p", site="A", sex=None),
        of_lungs("c", 0.0, patient_id="q", site="B", hd95_mm=3.0),
    ]
    summary = summarize(rows, LUNGS, repeats=200)
    assert (summary["all"]["n"], summary["all"]["patients"]) == (3, 2)
    assert (summary["site: A"]["n"], summary["site: A"]["patients"]) == (2, 1)
    # Dice 1, 2 * 50 / 150 = 2/3, and 0
    values = {name: group["dice"]["value"] for name, group in summary.items()}
    assert values["all"] == pytest.approx(5 / 9)
    assert values["site: A"] == pytest.approx(5 / 6) and values["site: B"] == 0
    assert (values["sex: unknown"], values["sex: F"]) == (pytest.approx(2 / 3), 0.5)
    # drawn: both X-rays of p, or q twice, or each once
    assert (summary["all"]["dice"]["low"], summary["all"]["dice"]["high"]) == (0, pytest.approx(5 / 6))
    assert summary["site: A"]["dice"]["low"] is None  # one patient has no interval
    assert summary["all"]["hd95_mm"]["value"] == 3
    assert summary["site: A"]["hd95_mm"] == {"value": None, "low": None, "high": None}


def test_summary_of_a_group_of_one_class() -> None:
    rows = [of_tb("a", 1, 0.9, sex="M"), of_tb("b", 0, 0.2), of_tb("c", 1, 0.4), of_tb("d", 0, 0.6)]
    summary = summarize(rows, TB, repeats=50)
    assert summary["all"]["auroc"]["value"] == 0.75  # of 4 pairs, .4 against .6 is lost
    assert summary["sex: M"]["auroc"]["value"] is None
    assert summary["sex: M"]["sensitivity"]["value"] == 1


def test_groups_of_findings_stand_against_the_normal_x_rays() -> None:
    rows = [
        of_tb("a", 1, 0.9, findings=["cavity", "pleural_thickening"], activity="active"),
        of_tb("b", 1, 0.4, findings=["pleural_thickening"], activity="unknown"),
        of_tb("c", 0, 0.2, findings=[], activity=None),
        of_tb("d", 0, 0.6, findings=["pleural_thickening"], activity="inactive"),  # called normal all the same
    ]
    groups = groups_of(rows)
    assert list(groups)[4:6] == ["finding: cavity", "finding: pleural thickening"]
    assert list(groups)[6:] == ["activity: active", "activity: inactive", "activity: unknown"]
    assert groups["finding: pleural thickening"] == [0, 1, 3]
    summary = summarize(rows, TB, repeats=50)
    cavity, active, unknown = (summary[name] for name in ("finding: cavity", "activity: active", "activity: unknown"))
    assert (cavity["n"], cavity["cases"], cavity["auroc"]["value"]) == (3, 1, 1)
    assert (active["n"], active["auroc"]["value"]) == (3, 1)
    assert (unknown["n"], unknown["auroc"]["value"]) == (3, 0.5)  # .4 is above .2, below .6
    assert cavity["sensitivity"]["value"] == 1 and cavity["specificity"]["value"] == 0.5
    assert "cases" not in summary["all"]
    better = [row | {"probability": float(row["label"])} for row in rows]
    assert compare(better, rows, TB, repeats=5)["activity: unknown"]["auroc"]["value"] == 0.5


def test_groups_of_findings_are_alone_where_masks_are_measured() -> None:
    rows = [of_lungs("a", 1.0, findings=["cavity"], activity="active", label=1), of_lungs("b", 0.0)]
    group = summarize(rows, LUNGS, repeats=5)["finding: cavity"]
    assert (group["n"], group["cases"], group["dice"]["value"]) == (1, 1, 1)


def test_columns_are_the_numbers_that_every_row_has() -> None:
    one, older = of_tb("a", 1, 0.75, age_years=None, sex=None), of_tb("b", 0, 0.5)
    newer = older | {"saliency_in_lungs": 0.5, "lungs_fraction": 0.3}
    for rows in ([one, older], [one, newer]):
        columns = columns_of(rows)
        assert set(columns) == {"label", "age_years", "log_odds", "probability", "threshold"}
        assert columns["probability"].tolist() == [0.75, 0.5] and columns["label"].dtype == float
        assert np.isnan(columns["age_years"][0]) and columns["age_years"][1] == 30
    assert "saliency_in_lungs" not in columns_of([newer, one])


def test_comparison_is_the_difference_on_the_same_x_rays() -> None:
    better = [of_lungs(id, found) for id, found in zip("abcd", (1.0, 0.9, 0.8, 0.7), strict=True)]
    worse = [row | {"dice": row["dice"] - 0.25} for row in better]
    differences = compare(better, worse, LUNGS, repeats=100)
    assert set(differences) == set(groups_of(better))
    assert differences["all"]["dice"] == pytest.approx({"value": 0.25, "low": 0.25, "high": 0.25})
    assert compare(worse, better, LUNGS, repeats=100)["all"]["dice"]["value"] == pytest.approx(-0.25)
    for other in (worse[1:], worse[::-1], [worse[0] | {"id": "e"}, *worse[1:]]):
        with pytest.raises(ValueError, match="different X-rays"):
            compare(better, other, LUNGS)


def test_rows_come_back_from_parquet(tmp_path) -> None:
    rows = [of_lungs("a", 0.5, sex=None, age_years=None, hd95_mm=2.5), of_lungs("b", 1.0, age_years=0.25)]
    rows = [row | {"findings": [], "activity": None} for row in rows]
    write_per_image(rows, tmp_path)
    found = read_per_image(tmp_path)
    assert [list(row) for row in found] == [list(row) for row in rows]
    for one, other in zip(found, rows, strict=True):
        assert str(one) == str(other)  # where nan is nan, None None, and an int an int
    write_per_image(rows[:1], tmp_path)
    assert len(read_per_image(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["per_image.parquet"]


def test_no_rows_name_the_way_out(tmp_path) -> None:
    said = "no per_image.parquet in .*: pass a folder of cxm train or cxm evaluate"
    with pytest.raises(FileNotFoundError, match=said):
        read_per_image(tmp_path)
