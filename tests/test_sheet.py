import io
import re
from datetime import date

import numpy as np
import pytest
from PIL import Image

from hub_models.flags import Flag
from hub_models.predict import Prediction
from hub_models.sheet import (
    SHOWN,
    Reading,
    _sheet,
    draw_sheet,
    facts_of,
    heated,
    meaning_of,
    outlined,
    remarks_on,
    shown,
)

ORANGE = (255, 160, 20)
GRAY = Image.new("L", (64, 64), 100)


def two_lungs(height: int = 100, width: int = 100) -> np.ndarray:
    """A right lung of 12 % and a left one of 9 % of the image's pixels."""
    mask = np.zeros((height, width), bool)
    mask[20 * height // 100 : 80 * height // 100, 20 * width // 100 : 40 * width // 100] = True
    mask[20 * height // 100 : 65 * height // 100, 60 * width // 100 : 80 * width // 100] = True
    return mask


def prediction(**values: object) -> Prediction:
    defaults = {"mask": two_lungs(), "probability": 0.625, "threshold": 0.25}
    return Prediction("film.png", 100, 100, **(defaults | values))


def reading(found: Prediction, **values: object) -> Reading:
    return Reading(Image.effect_noise((found.width, found.height), 60), found, **values)


def texts(drawn: Reading) -> str:
    figure = _sheet(drawn, date(2026, 3, 1))
    parts = [*figure.texts, *(one for axis in figure.axes for one in (*axis.texts, axis._left_title))]
    return " ".join(" ".join(part.get_text().split()) for part in parts)


@pytest.mark.parametrize(("size", "expected"), [((64, 32), (1024, 512)), ((3000, 4096), (750, 1024))])
def test_longer_side_is_the_pages(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = shown(Image.new("L", size, 100))
    assert picture.size == expected and max(expected) == SHOWN and picture.mode == "L"
    assert np.asarray(picture).min() == np.asarray(picture).max() == 100


def test_deep_grays_are_rounded() -> None:
    picture = shown(Image.fromarray(np.full((64, 64), 99.6, np.float32)))
    assert picture.mode == "L" and set(np.asarray(picture).ravel().tolist()) == {100}


def test_outline_is_on_the_rim_and_nowhere_else() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 0:48] = True  # 1024 / 64 = 16: rows 256 to 767 of the picture, columns 0 to 767
    picture = np.asarray(outlined(GRAY, mask)).astype(int)
    is_orange = (picture == ORANGE).all(-1)
    # two pixels to each side of the rim, the rounded corners left aside
    assert is_orange[254:258, 0:740].all() and is_orange[766:770, 0:740].all() and is_orange[284:740, 766:770].all()
    assert is_orange[258:766, 0:2].all()  # closed where it meets the image's border
    touched = (picture != 100).any(-1)
    assert not touched[262:762, 4:762].any() and not touched[:252].any() and not touched[772:].any()
    assert not touched[:, 772:].any()


def test_no_lungs_no_outline() -> None:
    assert (np.asarray(outlined(GRAY, np.zeros((64, 64), bool))) == 100).all()


def test_heat_is_as_opaque_as_strong() -> None:
    assert (np.asarray(heated(GRAY, np.zeros((64, 64)))) == 100).all()
    # inferno ends in (252, 255, 164), of which 0.7 are laid over 100: 30 + 176.4, 178.5 and 114.8
    (color,) = {tuple(one) for one in np.asarray(heated(GRAY, np.ones((64, 64)))).reshape(-1, 3).tolist()}
    assert color == pytest.approx((206, 208.5, 145), abs=1)


def test_areas_have_sides_and_units() -> None:
    facts = facts_of(prediction())
    assert facts == {
        "X-ray": "100 x 100 pixels",
        "Right lung": "12.0% of the image",
        "Left lung": "9.0% of the image",
    }
    # 1200 and 900 pixels of 2 x 3 mm: 7200 and 5400 mm²
    facts = facts_of(prediction(spacing_mm=(2.0, 3.0)))
    assert facts["Right lung"] == "12.0% of the image, 72 cm² on the film"
    assert facts["Left lung"] == "9.0% of the image, 54 cm² on the film"
    assert list(facts_of(prediction(mask=None))) == ["X-ray"]


def test_flags_are_sentences() -> None:
    assert remarks_on(prediction()) == ("Nothing odd about the lungs was found.",)
    message = Flag.NO_LUNGS.message
    assert remarks_on(prediction(mask=np.zeros((100, 100), bool))) == (f"N{message[1:]}.",)
    assert remarks_on(prediction(mask=None)) == ()


def test_page_says_all_that_was_found() -> None:
    models = ("Lung model: alice/lungs, digest 0123456789abcdef.", "Tuberculosis model: tb, digest fedcba9876543210.")
    found = prediction(spacing_mm=(2.0, 3.0))
    said = texts(reading(found, saliency=np.eye(100), models=models))
    for needed in (
        "film.png",
        "2026-03-01",
        "Research use, not a medical device.",
        "Tuberculosis suspected: probability 0.62",
        "At or above the threshold; a radiologist and a laboratory test must tell.",
        "threshold 0.25",
        "72 cm² on the film",
        "Nothing odd about the lungs was found.",
        "Lungs as the model finds them",
        "What speaks for tuberculosis to the model",
        *models,
        *meaning_of(found),
        "torch 2.",
    ):
        assert needed in said, needed


def test_page_leaves_out_what_was_not_asked() -> None:
    lungs = texts(reading(prediction(probability=None, threshold=None)))
    assert "probability" not in lungs and "threshold" not in lungs and "Lungs as the model" in lungs
    tb = texts(reading(prediction(mask=None, probability=0.125)))
    assert "Tuberculosis not suspected: probability 0.12" in tb and "does not rule it out" in tb
    assert "lung" not in tb.lower().replace("lung model", "") and "What speaks" not in tb


def test_name_is_written_as_it_stands() -> None:
    name = "a$x$_b^2 " + 30 * "long name "
    found = Prediction(name, 100, 100, mask=two_lungs())
    assert name.strip() in texts(reading(found))
    assert draw_sheet(reading(found))["png"]  # no formula of it


@pytest.mark.parametrize("size", [(100, 100), (300, 100), (100, 300)])
def test_files_are_one_page(size: tuple[int, int]) -> None:
    height, width = size
    found = Prediction("film.png", height, width, mask=two_lungs(height, width), probability=0.01, threshold=0.99)
    drawn = reading(found, saliency=np.zeros(size))
    made = draw_sheet(drawn)
    assert set(made) == {"png", "pdf"}
    with Image.open(io.BytesIO(made["png"])) as page:
        assert page.size == (1240, 1753)  # A4 at 150 dots an inch
        pixels = np.asarray(page.convert("RGB")).astype(int)
    assert (
        (pixels[0] == 255).all() and (pixels[:, 0] == 255).all() and (pixels[:, -1] == 255).all()
    )  # margins are kept
    assert (abs(pixels - ORANGE).max(-1) < 30).sum() > 200  # the outline
    assert made["pdf"].startswith(b"%PDF-") and len(re.findall(rb"/Type /Page\b", made["pdf"])) == 1
    figure = _sheet(drawn, date(2026, 3, 1))
    pictures = [axis.get_position() for axis in figure.axes if axis.images]
    assert len(pictures) == 2 and all(0.2 < place.y0 < place.y1 < 0.9 for place in pictures)
