import base64
import io
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hub_models.config import TrainConfig
from hub_models.files import write_json
from hub_models.flags import Flag
from hub_models.predict import Prediction
from hub_models.report import evaluate_run
from hub_models.sheet import Reading
from hub_models.view import (
    NO_CARD,
    Model,
    files_html,
    limits_of,
    limits_text,
    nothing_html,
    problem_html,
    reading_html,
)

CARD = """---
license: mit
---
# lungs
Finds lungs. * not a limit
## Out of scope

* Any decision. ![a picture](http://elsewhere.example/spy.png)
* Children.

## Limits

| worst | 0.1 |

* Two sites.

## Thanks
* To all.
"""


def a_model(*limits: str, name: str = "m") -> Model:
    return Model(name, "0123456789abcdef", False, limits)


def reading(**values: object) -> Reading:
    mask = np.zeros((90, 70), bool)
    mask[20:70, 10:30] = mask[20:70, 40:60] = True
    defaults = {"mask": mask, "probability": 0.625, "threshold": 0.25}
    return Reading(Image.effect_noise((70, 90), 60), Prediction("film.png", 90, 70, **(defaults | values)))


def links(html: str) -> dict[str, bytes]:
    """Bytes that each download link holds, by the name of the file."""
    found = re.findall(r'<a href="data:[a-z/]+;base64,([^"]+)" download="([^"]+)">', html)
    return {name: base64.b64decode(data) for data, name in found}


def test_side_of_the_patients_right_is_told() -> None:
    assert "the patient&#39;s right is at the left" in reading_html(reading())
    mirrored = reading_html(reading(film_flags=(Flag.MIRRORED.raised(),)))
    assert "the patient&#39;s right is at the right" in mirrored and 'data-flags="mirrored"' in mirrored


def test_limits_are_the_cards_own(tmp_path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    said = ("Not for: Any decision. ", "Not for: Children.", "Two sites.")
    assert limits_of(tmp_path) == said  # and nothing fetched from elsewhere


def test_limits_of_a_run_are_those_of_its_card_to_be(make_run, tiny_segformer, phantoms, tmp_path) -> None:
    folder = make_run(TrainConfig("data", str(tmp_path / "lungs"), model=str(tiny_segformer), image_size=32))
    assert limits_of(folder) == (NO_CARD,)  # not evaluated
    data = {"fingerprint": "", "train": [], "validation": [], "test": [], "earlier": [], "synthetic": 60}
    write_json(data, folder / "data.json")
    evaluate_run(folder, phantoms, output=tmp_path / "evaluation")
    shutil.copy(tmp_path / "evaluation" / "results.json", folder)
    limits = limits_of(folder)
    assert any("not a medical device" in limit for limit in limits) and any("Two sites" in limit for limit in limits)
    model = Model.of(folder, folder)
    assert model.name == "lungs" and model.is_synthetic and len(model.digest) == 16


def test_shared_limits_stand_once() -> None:
    text = limits_text({"Lung model": a_model("A.", "B.", name="x/l"), "TB model": a_model("A.", "C.", name="tb")})
    assert text == "#### Both models\n* A.\n\n#### Lung model: x/l\n* B.\n\n#### TB model: tb\n* C."
    assert limits_text({"Lung model": a_model("A.", name="x/l")}) == "#### Lung model: x/l\n* A."
    same = limits_text({"Lung model": a_model("A.", name="x/l"), "TB model": a_model("A.", name="tb")})
    assert same == "#### Both models\n* A.\n\n#### Lung model: x/l\n\n#### TB model: tb"  # all are named
    apart = limits_text({"Lung model": a_model("A.", name="x/l"), "TB model": a_model("C.", name="tb")})
    assert apart == "#### Lung model: x/l\n* A.\n\n#### TB model: tb\n* C."


def test_reading_says_verdict_flags_and_measures() -> None:
    html = reading_html(reading())
    for needed in ("Tuberculosis suspected", "0.62", "threshold 0.25", "at the left", "Nothing odd", "70 x 90 pixels"):
        assert needed in html, needed
    assert 'data-probability="0.625"' in html and html.count("<img") == 2 and html.count('alt="') == 2
    one = reading()
    seen = reading_html(Reading(one.gray, one.found, np.eye(90, 70)))
    assert re.findall(r'class="show-\d" (\w*)><span>(\w[\w-]*)', seen) == [
        ("checked", "Lungs"),
        ("", "Saliency"),
        ("", "X-ray"),
    ]
    flagged = reading_html(reading(mask=np.zeros((90, 70), bool)))
    assert 'data-flags="no_lungs" class="flags"' in flagged and "but see the flags" in flagged
    lungs = reading_html(reading(probability=None, threshold=None))
    assert "robability" not in lungs.replace("data-probability", "") and "threshold" not in lungs
    tb = reading_html(reading(mask=None, probability=0.125))
    assert "Tuberculosis not suspected" in tb and "<fieldset" not in tb and tb.count("<img") == 1


def test_names_and_errors_are_no_html() -> None:
    found = Prediction('<b>"&.png', 90, 70, probability=0.5, threshold=0.5)
    for html in (
        reading_html(Reading(Image.new("L", (70, 90)), found)),
        problem_html('<b>"&.png', "<b> is no X-ray"),
        files_html(Reading(Image.new("L", (70, 90)), found)),
    ):
        assert "<b>" not in html and "&lt;b&gt;" in html
    assert "<b>" not in nothing_html()


def test_files_are_the_mask_in_one_bit_and_the_report() -> None:
    one = reading()
    files = links(files_html(one))
    assert list(files) == ["film-lungs.png", "film-report.pdf", "film-report.png"]
    with Image.open(io.BytesIO(files["film-lungs.png"])) as mask:
        assert mask.mode == "1"
        np.testing.assert_array_equal(np.asarray(mask), one.found.mask)
    assert files["film-report.pdf"].startswith(b"%PDF-")
    assert Image.open(io.BytesIO(files["film-report.png"])).size == (1240, 1753)
    assert list(links(files_html(reading(mask=None)))) == ["film-report.pdf", "film-report.png"]


@pytest.mark.parametrize("source", ["alice/lungs", "folder"])
def test_model_is_named_without_its_place(source, make_run, tiny_segformer, tmp_path) -> None:
    config = TrainConfig("data", str(tmp_path / "secret" / "folder"), model=str(tiny_segformer), image_size=32)
    folder = make_run(config)
    model = Model.of(source if "/" in source else folder, folder)
    assert model.name == source and "secret" not in str(model) and not model.is_synthetic


def test_template_goes_with_the_package() -> None:
    root = Path(__file__).parents[1]
    shipped = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["hub_models"]
    used = {path.suffix for path in (root / "hub_models").iterdir() if path.is_file()} - {".py", ".pyc"}
    assert {f"*{suffix}" for suffix in used} <= set(shipped)
