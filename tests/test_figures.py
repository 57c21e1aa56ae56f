import numpy as np
import pytest
from PIL import Image

from hub_models.config import TrainConfig
from hub_models.figures import Overlay, draw_overlays, draw_run, worst_median_best
from hub_models.train import fit


def test_worst_median_and_best_of_each_site() -> None:
    values = {"A": [0.9, 0.1, 0.5, 0.7, 0.3], "B": [0.4, 0.2], "C": [0.8]}
    rows = [{"id": f"{site}{n}", "site": site, "dice": v} for site, vs in values.items() for n, v in enumerate(vs)]
    assert [row["id"] for row in worst_median_best(rows, "dice")] == ["A1", "A2", "A0", "B1", "B0", "C0"]


def test_overlays_show_image_true_and_predicted_mask(tmp_path) -> None:
    gray = np.full((40, 40), 128, np.uint8)
    left, right = np.zeros((2, 40, 40), bool)
    left[:, :20] = right[:, 20:] = True
    draw_overlays([Overlay("one", gray, left, right, 0.0)], tmp_path / "new" / "overlays.png")
    picture = np.asarray(Image.open(tmp_path / "new" / "overlays.png").convert("RGB")).astype(int)
    red, green, blue = np.moveaxis(picture, -1, 0)
    greenish, orange = (green > red + 20) & (green > blue), (red > blue + 20) & (red > green)
    assert greenish.sum() == pytest.approx(orange.sum(), rel=0.1)  # half of a square each
    assert np.argwhere(greenish)[:, 0].max() < np.argwhere(orange)[:, 0].min()  # the true mask stands above
    assert np.argwhere(greenish)[:, 1].max() < np.argwhere(orange)[:, 1].max()  # and is left of the predicted one
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["overlays.png"]


def test_run_is_drawn_from_its_own_data_only(phantoms, tiny_segformer, tmp_path) -> None:
    settings = {"from_scratch": True, "image_size": 32, "epochs": 1, "config_name": "MC"}
    fit(TrainConfig(str(phantoms), str(tmp_path / "run"), model=str(tiny_segformer), **settings))
    path = draw_run(tmp_path / "run", phantoms, tmp_path / "overlays.png")
    assert Image.open(path).size[0] > 300
    from hub_models.phantom import write_phantoms

    other = write_phantoms(tmp_path / "other", 2, 12, image_size=80)
    with pytest.raises((ValueError, FileNotFoundError), match="MCUCXR_.* is not in|no MC"):
        draw_run(tmp_path / "run", other, tmp_path / "overlays.png")
