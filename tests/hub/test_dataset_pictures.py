from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hub_models.hub.dataset_pictures import by_site, draw_overview, draw_samples
from hub_models.hub.parquet import Facts, read_facts, write_parquet


def fact(id: str, site: str, age: float | None = 30.0, lungs: np.ndarray | None = None) -> Facts:
    label = ("normal", "tuberculosis")[int(id[-1])]
    return Facts(id, id[:-2], site, "train", label, "male", age, "", "", 9, 9, "L", 99, False, lungs)


LEFT = np.zeros((64, 64), bool)
LEFT[:, :32] = True
FACTS = [
    fact("CHNCXR_0001_0", "Shenzhen", lungs=LEFT),
    fact("CHNCXR_0002_1", "Shenzhen", age=None),
    fact("MCUCXR_0001_0", "Montgomery", lungs=LEFT),
]


def test_sites_come_in_their_order() -> None:
    assert {site: [one.id for one in rows] for site, rows in by_site(FACTS).items()} == {
        "Montgomery": ["MCUCXR_0001_0"],
        "Shenzhen": ["CHNCXR_0001_0", "CHNCXR_0002_1"],
    }
    assert list(by_site(FACTS[:2])) == ["Shenzhen"]


def test_overview_has_a_line_per_site_and_is_always_the_same(tmp_path) -> None:
    for name, facts in {"both": FACTS, "again": FACTS, "one": FACTS[:2], "bare": [FACTS[1]]}.items():
        draw_overview(facts, tmp_path / f"{name}.png")
    shapes = {path.stem: Image.open(path).size for path in tmp_path.iterdir()}
    assert shapes["both"] == (1034, 726) and shapes["one"] == shapes["bare"] == (1034, 363)  # 9.4 by 3.3 inches of 110
    assert (tmp_path / "both.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    lungs, none = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))[60:300, 720:940] for name in ("one", "bare")
    )
    assert lungs.min() < 10 and none.min() == 255  # the map, or nothing


def test_samples_are_of_phantoms_only(phantoms: Path, tmp_path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_parquet(phantoms, folder)
    facts = read_facts(folder)
    draw_samples(facts, folder, tmp_path / "samples.png")
    width, height = Image.open(tmp_path / "samples.png").size
    assert (width, height) == (1144, 341)  # four groups of 2.6 by 3.1 inches of 110
    with pytest.raises(ValueError, match=f"{facts[3].id} is not a synthetic X-ray: draw phantoms only"):
        draw_samples([*facts[:3], facts[3]._replace(synthetic=False)], folder, tmp_path / "real.png")
    assert not (tmp_path / "real.png").exists()
