"""Render what was found on one X-ray as HTML, for the page and as a report to print; downloads; models' limits."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from hub_models.files import data_url
from hub_models.hub.limits import limits_of, plain_sentences, threshold_source
from hub_models.imaging.masks import mask_png
from hub_models.imaging.overlays import heat, outline, scaled_gray
from hub_models.models.answers import PREDICTION_VERSION
from hub_models.models.tasks import TASKS
from hub_models.predict.reader import Prediction
from hub_models.runs.run_folder import RunFolder

# the templates escape what a file's name, a model's or an error says
TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
READING_PAGE, REPORT_PAGE = TEMPLATES.get_template("reading.html"), TEMPLATES.get_template("report.html")
DOWNLOADS = TEMPLATES.from_string(
    "<p>Download"
    '{% for title, name, url in files %} <a href="{{ url }}" download="{{ name }}">{{ title }}</a>{% endfor %}</p>'
)
LIMITS = TEMPLATES.from_string(
    "{% for name, said in limits.items() %}<h4>{{ name }}</h4>"
    "{% if said %}<ul>{% for one in said %}<li>{{ one }}</li>{% endfor %}</ul>{% endif %}{% endfor %}"
)
PICTURE_SIDE = 1024  # pixels of a picture's longer side
NO_DEVICE = "Research use, not a medical device. No decision about a patient may rest on this page."
MEANING = (
    "The probability is that a radiologist labels the X-ray tuberculosis. The model knows normal X-rays and "
    "tuberculosis only: any other disease gets a probability of tuberculosis all the same."
)


@dataclass(frozen=True)
class Report:
    """One X-ray with what was found on it.

    Attributes:
        gray: of `to_gray`; nothing else of a file is shown.
        found: what the models say.
        saliency: (H, W) float in [0, 1], what speaks for tuberculosis to the TB model; None without one.
        models: a line for each model, with its name and digest.
    """

    gray: Image.Image
    found: Prediction
    saliency: np.ndarray | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShownModel:
    """What the page says of a model.

    Attributes:
        name: the Hub id that it was pulled by, or its folder's name; never a path of the server.
        digest: of its weights and configs.
        is_synthetic: whether it was trained on phantoms.
        limits: sentences as its card holds them, without their Markdown.
        threshold: where its threshold comes from; empty where it has none.
    """

    name: str
    digest: str
    is_synthetic: bool
    limits: tuple[str, ...]
    threshold: str = ""

    @classmethod
    def of(cls, source: str | Path, folder: Path) -> "ShownModel":
        """Return the model of a run folder that came from `source`, a Hub id or the folder itself."""
        name = folder.resolve().name if Path(source).is_dir() else str(source)
        run = RunFolder.read(folder)
        limits = plain_sentences(limits_of(TASKS[run.config.task].kind, run.data))
        return cls(name, run.digest[:16], bool(run.data.get("synthetic")), limits, threshold_source(run))


def head_html(models: Mapping[str, ShownModel]) -> str:
    """Return HTML of the page's head, which says which models by their role have learned from synthetic X-rays."""
    synthetic = [role for role, model in models.items() if model.is_synthetic]
    warning = f"{' and '.join(synthetic)}: trained on synthetic X-rays, of no use on patients." if synthetic else ""
    return f"""<h1>Chest X-ray reader</h1>
<p>Lungs outlined, and the probability of tuberculosis. <span class="warning">Research use, not a medical device.
{warning}</span></p>"""


def limits_html(models: Mapping[str, ShownModel]) -> str:
    """Return HTML of the limits of models by their role, those of both first."""
    limits = {
        f"{role}: {model.name}": [*filter(None, [model.threshold]), *model.limits] for role, model in models.items()
    }
    first, *others = limits.values()
    if shared := [one for one in first if others and all(one in other for other in others)]:
        own = {name: [one for one in said if one not in shared] for name, said in limits.items()}
        limits = {"Both models": shared} | own
    return LIMITS.render(limits=limits)


def reading_html(report: Report) -> str:
    """Return HTML of a reading: verdict, pictures, flags, measures."""
    return READING_PAGE.render(_values_of(report))


def report_html(report: Report, day: date | None = None) -> str:
    """Return a reading as an HTML document that needs no other file and prints to one page; `day`: today if None."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    program = f"Read with chest-xray-masks (version {PREDICTION_VERSION} of its predictions), {libraries}."
    frame = {"day": day or date.today(), "warning": NO_DEVICE, "made_by": (*report.models, program)}
    return REPORT_PAGE.render(_values_of(report) | frame)


def _values_of(report: Report) -> dict[str, object]:
    """Return the values that reading.html shows."""
    found = report.found
    probability, threshold = _told_apart(found.probability, found.threshold)
    return {
        "name": found.name,
        "found": found,
        "probability": probability,
        "threshold": threshold,
        "pictures": pictures_of(report),
        "facts": facts_of(found),
        "remarks": remarks_on(found),
        "meaning": () if found.probability is None else (MEANING,),
    }


def _told_apart(probability: float | None, threshold: float | None) -> tuple[str, str]:
    """Return both with two digits, or with as many more, up to four, as tell them apart; empty where there is none."""
    if probability is None or threshold is None:
        return "", ""
    pairs = [(f"{probability:.{digits}f}", f"{threshold:.{digits}f}") for digits in (2, 3, 4)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])


def facts_of(found: Prediction) -> dict[str, str]:
    """Return what there is to say of an X-ray and its lungs, by name; sides are the patient's."""
    facts = {"X-ray": f"{found.width} x {found.height} pixels"}
    if lungs := found.lungs:
        for side in ("right", "left"):
            fraction, area = getattr(lungs, f"{side}_fraction"), getattr(lungs, f"{side}_mm2")
            in_cm2 = "" if area is None else f", {area / 100:.0f} cm² on the X-ray"
            facts[f"{side.capitalize()} lung"] = f"{fraction:.1%} of the image{in_cm2}"
    return facts


def remarks_on(found: Prediction) -> tuple[str, ...]:
    """Return the flags as sentences, or that there are none; empty without a lung model, which most flags need."""
    flags = tuple(f"{flag.message[0].upper()}{flag.message[1:]}." for flag in found.flags)
    return flags or (() if found.mask is None else ("Nothing odd about the lungs was found.",))


def problem_html(name: str, problem: str) -> str:
    """Return HTML that says why a file could not be read."""
    return READING_PAGE.render(name=name, problem=problem)


def waiting_html(waiting: str = "The reading appears here.") -> str:
    """Return HTML of the place where a reading will be, with what it waits for."""
    return READING_PAGE.render(waiting=waiting)


def pictures_of(report: Report) -> list[tuple[str, str, str]]:
    """Return title, data URL and description of each picture, the one that is open at first before the others."""
    gray, found = scaled_gray(report.gray, PICTURE_SIDE), report.found
    pictures = [("X-ray", jpeg(gray), "The X-ray as it came, scaled")]
    if report.saliency is not None:
        words = "What speaks for tuberculosis to the model: the brighter, the more; a hint, no proof of disease"
        pictures.insert(0, ("Saliency", jpeg(heat(gray, report.saliency)), words))
    if found.mask is not None:
        edge = "right" if found.is_mirrored else "left"
        words = f"The lungs as the model finds them; the patient's right is at the {edge}"
        pictures.insert(0, ("Lungs", jpeg(outline(gray, found.mask)), words))
    return pictures


def files_html(report: Report) -> str:
    """Return HTML of links that hold the mask, 1 bit a pixel at the X-ray's own size, and the report."""
    stem, files = Path(report.found.name).stem, []
    if report.found.mask is not None:
        files.append(("Mask (PNG)", f"{stem}-lungs.png", data_url(mask_png(report.found.mask), "image/png")))
    document = data_url(report_html(report).encode(), "text/html")
    files.append(("Report (HTML), printable", f"{stem}-report.html", document))
    return DOWNLOADS.render(files=files)


def jpeg(picture: Image.Image) -> str:
    """Return the data URL of a picture as JPEG; colors keep full resolution, as an outline is thin."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, subsampling=0)
    return data_url(buffer.getvalue(), "image/jpeg")
