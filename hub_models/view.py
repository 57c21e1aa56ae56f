"""What the page shows, as HTML that holds its pictures and files itself: a reading, downloads, limits of models."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from hub_models.config import TrainConfig
from hub_models.facts import read_json
from hub_models.limits import limits_of
from hub_models.predictor import run_digest
from hub_models.sheet import LOOKS, Reading, draw_sheet, facts_of, heated, meaning_of, outlined, remarks_on, shown
from hub_models.tasks import TASKS

# reading.html escapes what a file's name or an error says
READING = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("reading.html")
FILES = READING.environment.from_string(
    "<p>Download"
    '{% for title, name, url in files %} <a href="{{ url }}" download="{{ name }}">{{ title }}</a>{% endfor %}</p>'
)
SHARED = "Both models"


@dataclass(frozen=True)
class Model:
    """What the page says of a model.

    Attributes:
        name: the Hub id that it was pulled by, or its folder's name; never a path of the server.
        digest: of its weights and configs.
        is_synthetic: whether it was trained on phantoms.
        limits: sentences in Markdown, as its card holds them.
    """

    name: str
    digest: str
    is_synthetic: bool
    limits: tuple[str, ...]

    @classmethod
    def of(cls, source: str | Path, folder: Path) -> "Model":
        """Of a run folder that came from `source`, a Hub id or the folder itself."""
        name = folder.resolve().name if Path(source).is_dir() else str(source)
        data = read_json(folder / "data.json")
        scope, known = limits_of(TASKS[TrainConfig.load(folder).task].kind, data)
        limits = (*(f"Not for: {one}" for one in scope), *known)
        return cls(name, run_digest(folder)[:16], bool(data.get("synthetic")), limits)


def limits_text(models: Mapping[str, Model]) -> str:
    """Markdown of the limits of models by their role, what two of them share first."""
    said = {f"{role}: {model.name}": model.limits for role, model in models.items()}
    first, *others = said.values()
    if shared := [limit for limit in first if others and all(limit in other for other in others)]:
        rest = {name: [one for one in limits if one not in shared] for name, limits in said.items()}
        said = {SHARED: shared} | rest
    return "\n\n".join("\n".join([f"#### {name}", *(f"* {one}" for one in limits)]) for name, limits in said.items())


def reading_html(reading: Reading) -> str:
    """HTML of a reading: verdict, pictures, flags, measures."""
    found = reading.found
    words = {"facts": facts_of(found), "remarks": remarks_on(found), "meaning": meaning_of(found)}
    return READING.render(name=found.name, found=found, pictures=pictures_of(reading), **words)


def problem_html(name: str, problem: str) -> str:
    """HTML that says why a file could not be read."""
    return READING.render(name=name, problem=problem)


def nothing_html() -> str:
    """HTML of the place where the first reading will be."""
    return READING.render()


def pictures_of(reading: Reading) -> list[tuple[str, str, str]]:
    """Title, data URL and description of each picture of a reading, the first to be shown first."""
    pictures = [("X-ray", jpeg(shown(reading.gray)), "The X-ray as it came, scaled")]
    if reading.found.mask is not None:
        edge = "right" if reading.found.is_mirrored else "left"
        words = f"The lungs as the model finds them; the patient's right is at the {edge}"
        pictures.insert(0, ("Lungs", jpeg(outlined(reading.gray, reading.found.mask)), words))
    if reading.saliency is not None:
        words = f"{LOOKS}: the brighter, the more; a hint, no proof that it looks at disease"
        pictures.insert(-1, ("Saliency", jpeg(heated(reading.gray, reading.saliency)), words))
    return pictures


def files_html(reading: Reading) -> str:
    """HTML of links that hold the mask, 1 bit a pixel at the X-ray's own size, and the report as PDF and PNG."""
    stem, sheet, files = Path(reading.found.name).stem, draw_sheet(reading), []
    if reading.found.mask is not None:
        buffer = io.BytesIO()
        Image.fromarray(reading.found.mask).save(buffer, "PNG")
        files.append(("Mask (PNG)", f"{stem}-lungs.png", data_url(buffer.getvalue(), "image/png")))
    files.append(("Report (PDF)", f"{stem}-report.pdf", data_url(sheet["pdf"], "application/pdf")))
    files.append(("Report (PNG)", f"{stem}-report.png", data_url(sheet["png"], "image/png")))
    return FILES.render(files=files)


def jpeg(picture: Image.Image) -> str:
    """Data URL of a picture; its colors are kept at full resolution, as an outline is thin."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, subsampling=0)
    return data_url(buffer.getvalue(), "image/jpeg")


def data_url(data: bytes, kind: str) -> str:
    """Address that holds the data itself, so that no file has to lie on the server for the browser to fetch."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
