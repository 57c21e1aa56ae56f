import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from hub_models.config import TrainConfig
from hub_models.files import write_json
from hub_models.flags import Flag
from hub_models.limits import limits_of
from hub_models.predict import Prediction
from hub_models.sheet import Reading
from hub_models.tasks import TASKS
from hub_models.view import (
    Model,
    files_html,
    limits_text,
    nothing_html,
    problem_html,
    reading_html,
)


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


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("synthetic", [0, 1, 2])
def test_limits_are_data_whatever_a_card_says(
    make_run, tiny_segformer, tiny_resnet, tmp_path, task, synthetic
) -> None:
    model = {"lung_segmentation": tiny_segformer, "tb_classification": tiny_resnet}[task]
    folder = make_run(TrainConfig("data", str(tmp_path / "lungs"), task, model=str(model), image_size=32))
    (folder / "README.md").write_text("# Card\n## Limits\n* None. ![a picture](http://elsewhere.example/spy.png)\n")
    data = {"fingerprint": "", "train": ["A"], "validation": [], "test": ["B"], "earlier": [], "synthetic": synthetic}
    write_json(data, folder / "data.json")
    model = Model.of(folder, folder)
    scope, known = limits_of(TASKS[task].kind, data)
    assert model.limits == (*(f"Not for: {one}" for one in scope), *known) and scope and known
    assert ("X-ray of a patient" in scope[0]) == (synthetic == 2)  # all of them
    assert model.name == "lungs" and model.is_synthetic == (synthetic > 0) and len(model.digest) == 16


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
