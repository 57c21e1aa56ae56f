import base64
import io
import re
import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from pages import chromium
from PIL import Image

from hub_models.app.view import (
    TEMPLATES,
    Report,
    ShownModel,
    facts_of,
    files_html,
    limits_html,
    problem_html,
    reading_html,
    remarks_on,
    report_html,
    waiting_html,
)
from hub_models.files import write_json
from hub_models.hub.limits import limits_of
from hub_models.imaging.flags import Flag
from hub_models.models.tasks import TASKS
from hub_models.predict.reader import Prediction
from hub_models.runs.config import TrainConfig


def a_model(*limits: str, name: str = "m") -> ShownModel:
    return ShownModel(name, "0123456789abcdef", False, limits)


def two_lungs(height: int = 100, width: int = 100) -> np.ndarray:
    """A right lung of 12 % and a left one of 9 % of the image's pixels."""
    mask = np.zeros((height, width), bool)
    mask[20 * height // 100 : 80 * height // 100, 20 * width // 100 : 40 * width // 100] = True
    mask[20 * height // 100 : 65 * height // 100, 60 * width // 100 : 80 * width // 100] = True
    return mask


def reading(size: tuple[int, int] = (100, 100), **values: object) -> Report:
    defaults = {"name": "xray.png", "mask": two_lungs(*size), "probability": 0.625, "threshold": 0.25}
    found = Prediction(height=size[0], width=size[1], **(defaults | values))
    return Report(Image.effect_noise(size[::-1], 60), found)


def links(html: str) -> dict[str, bytes]:
    """Bytes that each download link holds, by the name of the file."""
    found = re.findall(r'<a href="data:[a-z/]+;base64,([^"]+)" download="([^"]+)">', html)
    return {name: base64.b64decode(data) for data, name in found}


def test_side_of_the_patients_right_is_told() -> None:
    assert "the patient&#39;s right is at the left" in reading_html(reading())
    mirrored = reading_html(reading(image_flags=(Flag.MIRRORED.raised(),)))
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
    model = ShownModel.of(folder, folder)
    scope, known = limits_of(TASKS[task].kind, data)
    plain = [one.replace("*", "") for one in (*(f"Not for: {one}" for one in scope), *known)]
    assert model.limits == tuple(plain) and scope and known
    assert ("X-ray of a patient" in scope[0]) == (synthetic == 2)  # all of them
    assert model.name == "lungs" and model.is_synthetic == (synthetic > 0) and len(model.digest) == 16


def test_shared_limits_stand_once() -> None:
    both = limits_html({"Lung model": a_model("A.", "B.", name="x/l"), "TB model": a_model("A.", "C.", name="tb")})
    heads = ["Both models", "Lung model: x/l", "TB model: tb"]
    lists = [f"<h4>{head}</h4><ul><li>{said}</li></ul>" for head, said in zip(heads, ("A.", "B.", "C."), strict=True)]
    assert both == "".join(lists)
    assert limits_html({"Lung model": a_model("B.", name="x/l")}) == lists[1]
    same = limits_html({"Lung model": a_model("A.", name="x/l"), "TB model": a_model("A.", name="tb")})
    assert same == lists[0] + "<h4>Lung model: x/l</h4><h4>TB model: tb</h4>"  # all are named
    apart = limits_html({"Lung model": a_model("B.", name="x/l"), "TB model": a_model("C.", name="tb")})
    assert apart == lists[1] + lists[2]


def test_areas_have_sides_and_units() -> None:
    facts = {"X-ray": "100 x 100 pixels", "Right lung": "12.0% of the image", "Left lung": "9.0% of the image"}
    assert facts_of(reading().found) == facts
    # 1200 and 900 pixels of 2 x 3 mm: 7200 and 5400 mm²
    scaled = facts_of(reading(spacing_mm=(2.0, 3.0)).found)
    assert scaled["Right lung"].endswith(", 72 cm² on the X-ray") and scaled["Left lung"].endswith(
        ", 54 cm² on the X-ray"
    )
    assert list(facts_of(reading(mask=None).found)) == ["X-ray"]


def test_remarks_are_the_flags() -> None:
    (fine,), (flag,) = (remarks_on(reading(**one).found) for one in ({}, {"mask": np.zeros((100, 100), bool)}))
    assert fine.startswith("Nothing odd") and flag.startswith("No lungs found: ") and flag.endswith(".")
    assert remarks_on(reading(mask=None).found) == ()


@pytest.mark.parametrize("render", [reading_html, report_html])
def test_reading_says_verdict_flags_and_measures(render) -> None:
    html = render(reading())
    for needed in (
        "Tuberculosis suspected",
        "0.62",
        "threshold 0.25",
        "at the left",
        "Nothing odd",
        "100 x 100 pixels",
    ):
        assert needed in html, needed
    assert 'data-probability="0.625"' in html and html.count("<img") == 2 and html.count('alt="') == 2
    one = reading()
    seen = render(Report(one.gray, one.found, np.eye(100)))
    shown = re.findall(r'class="show-\d" (\w*)><span>(\w[\w-]*)', seen)
    assert shown == [("checked", "Lungs"), ("", "Saliency"), ("", "X-ray")]
    flagged = render(reading(mask=np.zeros((100, 100), bool)))
    assert 'data-flags="no_lungs" class="flags"' in flagged
    lungs = text_of(render(reading(probability=None, threshold=None)))
    assert "robability" not in lungs and "threshold" not in lungs
    tb = render(reading(mask=None, probability=0.125))
    assert "Tuberculosis not suspected" in tb and "<fieldset" not in tb and tb.count("<img") == 1


def text_of(html: str) -> str:
    """What a document says, without its styles and tags."""
    return " ".join(re.sub("<[^>]*>", " ", re.sub("(?s)<style>.*</style>", "", html)).split())


@pytest.mark.parametrize(
    ("probability", "threshold", "shown"),
    [(0.2786, 0.2763, ("0.279", "0.276")), (0.28, 0.28, ("0.28", "0.28")), (0.3, 0.30001, ("0.30", "0.30"))],
)
def test_probability_and_threshold_are_told_apart(
    probability: float, threshold: float, shown: tuple[str, str]
) -> None:
    text = text_of(reading_html(reading(probability=probability, threshold=threshold)))
    assert f"{shown[0]} probability 0 threshold {shown[1]} 1" in text


def test_report_names_its_day_models_and_program_and_asks_for_nothing() -> None:
    one = reading()
    models = ("Lung model: alice/lungs, digest 0123456789abcdef.", "Tuberculosis model: tb, digest fedcba9876543210.")
    html = report_html(Report(one.gray, one.found, models=models), date(2026, 3, 1))
    text = text_of(html)
    for needed in ("xray.png", "2026-03-01", "not a medical device", *models, "torch 2.", "a radiologist labels"):
        assert needed in text, needed
    assert not re.search(r"https?:|url\(|<script|<link|src=\"(?!data:)", html)


def test_names_and_errors_are_no_html() -> None:
    hostile = '</style><b>"&.png'
    one = reading(name=hostile, mask=None)
    for html in (
        reading_html(one),
        report_html(one),
        problem_html(hostile, "<b> is not an X-ray"),
        waiting_html(hostile),
        files_html(one),
        report_html(replace(one, models=(hostile,))),
        limits_html({"Lung model": a_model(hostile, name=hostile)}),
        TEMPLATES.get_template("static/index.html").render(models=[hostile], limits=[hostile], examples={}),
    ):
        assert "<b>" not in html and "&lt;b&gt;" in html


def test_files_are_the_mask_in_one_bit_and_the_report() -> None:
    one = reading()
    files = links(files_html(one))
    assert list(files) == ["xray-lungs.png", "xray-report.html"]
    with Image.open(io.BytesIO(files["xray-lungs.png"])) as mask:
        assert mask.mode == "1"
        np.testing.assert_array_equal(np.asarray(mask), one.found.mask)
    assert files["xray-report.html"].decode() == report_html(one)
    assert list(links(files_html(reading(mask=None)))) == ["xray-report.html"]


@pytest.mark.parametrize(
    ("size", "values"),
    [
        ((100, 100), {"probability": 0.01, "threshold": 0.99}),
        ((300, 100), {"name": "a long name " * 20}),
        ((100, 300), {"probability": None, "threshold": None}),
        ((300, 100), {"mask": None, "image_flags": (Flag.MIRRORED.raised(), *4 * [Flag.OTHER_SEGMENTER.raised()])}),
    ],
)
def test_report_prints_to_one_page(size: tuple[int, int], values: dict[str, object], tmp_path: Path) -> None:
    program = chromium()
    one = reading(size, **values)
    saliency = None if one.found.probability is None else np.zeros(size)
    report = tmp_path / "report.html"
    report.write_text(report_html(Report(one.gray, one.found, saliency, ("Lung model: m, digest 0.",) * 2)))
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-pdf-header-footer"
    places = [f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={tmp_path / 'report.pdf'}", report.as_uri()]
    subprocess.run([program, *flags.split(), *places], check=True, capture_output=True, timeout=120)
    printed = (tmp_path / "report.pdf").read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
    (box,) = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", printed)
    assert tuple(map(float, box)) == pytest.approx((595, 842), abs=1.5)  # A4 in points


@pytest.mark.parametrize("source", ["alice/lungs", "folder"])
def test_model_is_named_without_its_place(source, make_run, tiny_segformer, tmp_path) -> None:
    config = TrainConfig("data", str(tmp_path / "secret" / "folder"), model=str(tiny_segformer), image_size=32)
    folder = make_run(config)
    model = ShownModel.of(source if "/" in source else folder, folder)
    assert model.name == source and "secret" not in str(model) and not model.is_synthetic
