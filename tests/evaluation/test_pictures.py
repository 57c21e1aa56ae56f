import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pictures import of_tb, pixels_of
from PIL import Image

from hub_models.dataset.sources import load_splits
from hub_models.evaluation import pictures as figures
from hub_models.evaluation.pictures import (
    DICE_RANKS,
    FRACTION_RANKS,
    PICTURES,
    PROBABILITY_RANKS,
    SIDE,
    Overlay,
    SaliencyPanel,
    draw_outlines,
    draw_overlays,
    draw_saliency,
    worst_and_median,
    worst_median_best,
)
from hub_models.imaging.masks import to_mask
from hub_models.models.architectures import build
from hub_models.models.image_processors import image_processor_for
from hub_models.models.saliency import saliency
from hub_models.models.settings import Settings
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel


def ranks_and_ids(rows: list[dict], metric: str, ranks: tuple[str, str, str] = DICE_RANKS) -> list[tuple[str, str]]:
    return [(rank, row["id"]) for rank, row in worst_median_best(rows, metric, ranks)]


def test_worst_median_and_best_of_each_site() -> None:
    values = {"A": [0.9, 0.1, 0.5, 0.7, 0.3], "B": [0.4, 0.2], "C": [0.8]}
    rows = [{"id": f"{site}{n}", "site": site, "dice": v} for site, vs in values.items() for n, v in enumerate(vs)]
    of_a = [("A: worst", "A1"), ("A: median", "A2"), ("A: best", "A0")]
    others = [("B: worst", "B1"), ("B: best", "B0"), ("C: only X-ray", "C0")]
    assert ranks_and_ids(rows, "dice") == of_a + others


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved while a test runs."""
    saved, save = [], figures.save_picture
    monkeypatch.setattr(figures, "save_picture", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved


def test_overlays_show_image_true_and_predicted_mask(tmp_path, drawn) -> None:
    gray = Image.new("L", (40, 40), 128)
    left, right = np.zeros((2, 40, 40), bool)
    left[:, :20] = right[:, 20:] = True
    draw_overlays([Overlay("one", gray, left, right, 0.0, "A: worst")], tmp_path / "new" / "overlays.png")
    red, green, blue = np.moveaxis(pixels_of(tmp_path / "new" / "overlays.png"), -1, 0)
    greenish, orange = (green > red + 20) & (green > blue), (red > blue + 20) & (red > green)
    assert greenish.sum() == pytest.approx(orange.sum(), rel=0.1)  # half of a square each
    assert np.argwhere(greenish)[:, 0].max() < np.argwhere(orange)[:, 0].min()  # the true mask stands above
    assert np.argwhere(greenish)[:, 1].max() < np.argwhere(orange)[:, 1].max()  # and is left of the predicted one
    assert drawn[0].axes[0].get_title() == "A: worst\none"


def test_x_rays_of_any_aspect_stand_at_one_height(tmp_path, drawn) -> None:
    some = []
    for size in ((40, 60), (60, 40), (50, 50)):
        mask = np.ones(size[::-1], bool)
        some.append(Overlay("one", Image.new("L", size), mask, mask, 1.0))
    draw_overlays(some, tmp_path / "overlays.png")
    places = [axis.get_position() for axis in drawn[0].axes[:3]]  # of the first line
    assert [place.y0 for place in places] == pytest.approx([places[0].y0] * 3, abs=0.003)
    assert [place.y1 for place in places] == pytest.approx([places[0].y1] * 3, abs=0.003)


def test_overlays_of_a_task_are_of_worst_median_and_best(phantoms, tmp_path, monkeypatch) -> None:
    rows = TASKS["lung_segmentation"].usable(load_splits(phantoms)["test"])
    names = rows.features["site"]
    per_image = [
        {"id": row["id"], "site": names.int2str(row["site"]), "dice": 0.5 + index / 100}
        for index, row in enumerate(rows)
    ]
    seen = []
    monkeypatch.setattr(figures, "draw_overlays", lambda overlays, path: seen.extend(overlays))
    others = {row["id"]: ~to_mask(row["mask"]) for row in rows}
    draw = PICTURES["lung_segmentation"]["overlays.png"]
    draw(per_image[::-1], rows, lambda id: lambda image: others[id], tmp_path)
    assert [(one.rank, one.name) for one in seen] == ranks_and_ids(per_image, "dice")
    by_id = {row["id"]: row for row in rows}
    for one in seen:
        np.testing.assert_array_equal(one.true, to_mask(by_id[one.name]["mask"]))
        np.testing.assert_array_equal(one.predicted, ~one.true)
        assert one.gray.mode == "L" and max(one.gray.size) == SIDE


def test_worst_four_and_median_of_each_site() -> None:
    values = {"A": [0.9, 0.1, 0.5, 0.7, 0.3, 0.8, 0.6, 0.95, 0.97], "B": [0.4, 0.2], "C": [0.8]}
    rows = [{"id": f"{site}{n}", "site": site, "dice": v} for site, vs in values.items() for n, v in enumerate(vs)]
    chosen = {site: [row["id"] for row in shown] for site, shown in worst_and_median(rows, "dice").items()}
    assert chosen == {"A": ["A1", "A4", "A2", "A6", "A3"], "B": ["B1", "B0"], "C": ["C0"]}


def test_outlines_show_no_gray_of_the_x_ray(tmp_path) -> None:
    true, predicted = np.zeros((2, 40, 40), bool)
    true[5:35, 5:20] = predicted[5:35, 10:25] = True
    seen = []
    for name, gray in (("dark", 0), ("bright", 255)):
        noise = Image.new("L", (400, 400), gray)
        shown = {
            "A": [Overlay("one", noise, true, predicted, 0.667)],
            "B": [Overlay("two", noise, true, true, 1.0)] * 2,
        }
        draw_outlines(shown, tmp_path / name / "outlines.png")
        seen.append(pixels_of(tmp_path / name / "outlines.png"))
    np.testing.assert_array_equal(*seen)  # whatever the X-ray, the same picture
    red, green, blue = np.moveaxis(seen[0], -1, 0)
    greenish, orange = (green > red + 20) & (green > blue), (red > blue + 20) & (red > green)
    assert greenish.sum() > 500 and orange.sum() > 500
    assert (seen[0].min(-1) > 250).mean() > 0.6  # the ground is white


def test_outlines_of_empty_and_full_masks_are_drawn(tmp_path) -> None:
    empty, full = np.zeros((40, 40), bool), np.ones((40, 40), bool)
    draw_outlines({"A": [Overlay("one", Image.new("L", (400, 400)), full, empty, 0.0)]}, tmp_path / "outlines.png")
    red, green, _ = np.moveaxis(pixels_of(tmp_path / "outlines.png"), -1, 0)
    assert ((green > red + 20).mean()) > 0.2  # all of it is missed


def panel(name: str, lungs: np.ndarray | None, salient: np.ndarray) -> SaliencyPanel:
    return SaliencyPanel(name, Image.new("L", (400, 400), 60), salient.astype(np.float32), lungs, "below")


def test_saliency_stands_on_the_x_ray_with_the_lungs_outlined(tmp_path) -> None:
    salient, lungs = np.zeros((40, 40)), np.zeros((40, 40), bool)
    salient[30:, 30:], lungs[5:20, 5:15] = 1, True
    draw_saliency([panel("one", lungs, salient), panel("two", None, salient * 0)], tmp_path / "saliency.png")
    shot = pixels_of(tmp_path / "saliency.png")
    shot[:, int(0.8 * shot.shape[1]) :] = 255  # the colour bar
    red, green, blue = np.moveaxis(shot, -1, 0)
    outline, hot = (green > red + 40) & (green > blue + 20), (red > blue + 40) & (red > 100)
    (height, width), places = outline.shape, np.argwhere(outline)
    assert len(places) > 200 and places[:, 1].max() < 0.55 * width  # the second X-ray's lungs are not known
    assert (places[:, 0] < height / 2).any() and (places[:, 0] > height / 2).any()  # on both
    assert hot.sum() > 200 and np.argwhere(hot).min(0)[0] > height / 2 and np.argwhere(hot).max(0)[1] < 0.55 * width


@pytest.fixture
def panels(monkeypatch) -> list[SaliencyPanel]:
    """What is drawn while a test runs."""
    seen = []
    monkeypatch.setattr(figures, "draw_saliency", lambda panels, path: seen.extend(panels))
    return seen


def test_saliency_is_of_the_x_rays_that_a_model_looks_past_most(phantoms, tiny_resnet, tmp_path, panels) -> None:
    torch.manual_seed(0)
    model = build("classification", str(tiny_resnet), True, TASKS["tb_classification"].labels, 32).eval()
    settings = Settings("tb_classification", 32)
    trained = TrainedModel(
        TASKS["tb_classification"], model, image_processor_for("classification", "", True, 32), settings
    )
    rows = load_splits(phantoms)["train"]
    names, masked = rows.features["site"], [mask is not None for mask in rows["mask"]]
    per_image = [
        {
            "id": row["id"],
            "site": names.int2str(row["site"]),
            "probability": index / 100,
            "lungs_fraction": 0.25,
            "saliency_in_lungs": 0.5 + index / 1000 if masked[index] else np.nan,
        }
        for index, row in enumerate(rows)
    ]
    assert 0 < sum(masked) < len(rows)
    draw = PICTURES["tb_classification"]["saliency.png"]
    draw(per_image, rows, lambda id: trained, tmp_path / "saliency.png")
    known = [row for row in per_image if not np.isnan(row["saliency_in_lungs"])]
    chosen = ranks_and_ids(known, "saliency_in_lungs", FRACTION_RANKS)
    assert [(one.rank, one.name) for one in panels] == chosen
    by_id, found = {row["id"]: row for row in rows}, {row["id"]: row for row in per_image}
    for one in panels:
        row = by_id[one.name]
        np.testing.assert_array_equal(one.saliency, saliency(trained, row["image"]))
        np.testing.assert_array_equal(one.lungs, to_mask(row["mask"]))
        label, fraction = ("normal", "tuberculosis")[row["label"]], found[one.name]["saliency_in_lungs"]
        assert one.text.startswith(f"{label}, probability {found[one.name]['probability']:.3f}\n{fraction:.0%} ")
        assert " 25% " in one.text
    panels.clear()
    bare = [row | {"saliency_in_lungs": np.nan} for row, known in zip(per_image, masked, strict=True) if not known]
    draw(bare, rows, lambda id: trained, tmp_path / "saliency.png")  # no lungs are known: by probability
    chosen = ranks_and_ids(bare, "probability", PROBABILITY_RANKS)
    assert [(one.rank, one.name) for one in panels] == chosen
    assert all(one.lungs is None and "lungs" not in one.text for one in panels)


def test_every_task_has_pictures(tmp_path) -> None:
    assert set(PICTURES) == set(TASKS)
    rows = of_tb([1, 0], [0.9, 0.2])
    for name, draw in PICTURES["tb_classification"].items():
        draw(rows, None, None, tmp_path / name[:-4] / name)
        if name == "saliency.png":  # of a model whose saliency is not known there is none
            assert not (tmp_path / "saliency").exists()
            continue
        assert pixels_of(tmp_path / name[:-4] / name).std() > 0
    draw = PICTURES["lung_segmentation"]["dice.png"]
    draw([{"id": "a", "site": "A", "dice": 0.5}], None, None, tmp_path / "lungs" / "dice.png")
    assert pixels_of(tmp_path / "lungs" / "dice.png").std() > 0
