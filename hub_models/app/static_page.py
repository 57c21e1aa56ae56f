"""Build the page as a folder of plain files that reads X-rays wholly in the visitor's browser, and push it as a Space.

The folder holds `static/` of this package, JavaScript libraries of npm, two ONNX models and synthetic examples.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chest_xray_masks import MAX_PIXELS, __version__
from hub_models.app.examples import EXAMPLE_PHANTOMS, example_png
from hub_models.app.npm import NPM_PACKAGES, vendor
from hub_models.app.view import MEANING, NO_DEVICE, TEMPLATES
from hub_models.dataset.inspection import BLANK_SPREAD
from hub_models.files import check_output, new_folder, write_json
from hub_models.hub.limits import KNOWN_LIMITS, SCOPE
from hub_models.hub.space import pack_static, push_space
from hub_models.hub_client.repository import folder_files
from hub_models.imaging.dicom import CHEST, LATERAL, MODALITIES
from hub_models.imaging.flags import Flag
from hub_models.imaging.lung_crop import LUNG_MEAN, LUNG_SD, MARGIN
from hub_models.imaging.windowing import BIT_DEPTHS
from hub_models.models.tasks import TASKS
from hub_models.predict import checks
from hub_models.predict.reader import ADVICE, LEAST_SIDE, VERDICTS

STATIC = Path(__file__).with_name("static")
PLAIN_FILES = ("app.js", "lungs.js", "pixels.js", "reader.js", "source.js", "view.js", "static.css")
MODEL_NAME, PREPROCESSING_NAME = "model.onnx", "preprocessing.json"  # of an exported model's folder
EXPORT_FORMAT = 1  # of preprocessing.json
FILTERS = ("bilinear", "box")  # that pixels.js resizes with
EXAMPLE_SIDES = (512, 440)  # height and width in pixels
FETCHED_LATE = ("models/", "vendor/onnxruntime-web/")  # and kept then; of two builds of onnxruntime a visit needs one
NO_OTHER_CHECKS = (
    "This page checks less than `cxm predict`: it does not tell X-rays unlike those that the lung model learned from, "
    "nor one lung alone, and shows no saliency."
)


@dataclass(frozen=True)
class ExportedModel:
    """An exported model: its folder, the values of its preprocessing.json, and what it was given as."""

    folder: Path
    settings: Mapping[str, Any]
    source: str

    @classmethod
    def read(cls, folder: Path, task: str, source: str) -> "ExportedModel":
        """Return the model in a folder.

        Raises:
            FileNotFoundError: the folder lacks a file.
            ValueError: the model is of another task, or needs what the page does not do.
        """
        if missing := [name for name in (MODEL_NAME, PREPROCESSING_NAME) if not (folder / name).is_file()]:
            raise FileNotFoundError(f"no {', '.join(missing)} in {source}: pass a folder of cxm export --format onnx")
        settings = json.loads((folder / PREPROCESSING_NAME).read_text())
        wanted = {"format": (EXPORT_FORMAT,), "task": (task,), "resample": FILTERS, "views": (1,)}
        for name, values in wanted.items():
            if settings.get(name) not in values:
                expected = " or ".join(map(str, values))
                raise ValueError(f"{source} has {name} {settings.get(name)}, the static page reads {expected} there")
        return cls(folder, settings, source)


def build_static(
    output: str | Path, segmenter: str | Path | None = None, classifier: str | Path | None = None
) -> Path:
    """Write the page that reads with exported models to `output`, whole or not at all; return the folder.

    Raises:
        FileExistsError: `output` holds files.
        FileNotFoundError: a model's folder lacks a file.
        ConnectionError: npm cannot be reached, and its packages are not in the cache.
        ValueError: no model, or one that the page cannot read with.
    """
    output = Path(output)
    check_output(output, "static page")
    tasks = {"lungs": ("lung_segmentation", segmenter), "tuberculosis": ("tb_classification", classifier)}
    models = {
        role: ExportedModel.read(Path(source), task, str(source))
        for role, (task, source) in tasks.items()
        if source is not None
    }
    if not models:
        raise ValueError("nothing to read with: pass segmenter=<exported folder>, classifier=<...>, or both")
    if "lungs" not in models and models["tuberculosis"].settings["region"] == "lungs":
        raise ValueError(f"{classifier} sees lungs only: pass a segmenter that finds them, too")
    with new_folder(output) as page:
        for name in PLAIN_FILES:
            shutil.copy(STATIC / name, page)
        shutil.copy(STATIC.with_name("reading.css"), page)
        vendor(page / "vendor")
        (page / "models").mkdir()
        (page / "examples").mkdir()
        for role, model in models.items():
            shutil.copy(model.folder / MODEL_NAME, page / "models" / f"{role}.onnx")
        examples = {name: f"examples/{name.replace(' ', '-').lower()}.png" for name in EXAMPLE_PHANTOMS}
        for name, path in examples.items():
            (page / path).write_bytes(example_png(name, EXAMPLE_SIDES))
        write_json(_settings(models), page / "page.json")
        shown = {"examples": examples, "models": _lines_of(models), "limits": _limits_of(models)}
        index = TEMPLATES.get_template("static/index.html").render(shown | {"no_device": NO_DEVICE})
        (page / "index.html").write_text(index)
        _write_worker(page)
    return output


def _settings(models: Mapping[str, ExportedModel]) -> dict[str, Any]:
    """Return the values of page.json, which the page's code reads: models, and the package's own words and limits."""
    styles = (STATIC.with_name(name).read_text() for name in ("reading.css", "report.css"))
    return {
        "models": {role: dict(model.settings) | {"file": f"models/{role}.onnx"} for role, model in models.items()},
        "messages": {flag.value: flag.message for flag in Flag},
        "verdicts": {str(is_suspected).lower(): text for is_suspected, text in VERDICTS.items()},
        "advice": {str(is_suspected).lower(): text for is_suspected, text in ADVICE.items()},
        "meaning": MEANING,
        "no_device": NO_DEVICE,
        "made_by": [*_lines_of(models), f"Read in a browser with chest-xray-masks {__version__}, {_runtime()}."],
        "report_css": "\n".join(styles),
        "crop": {"margin": MARGIN, "mean": LUNG_MEAN, "sd": LUNG_SD},
        "limits": {
            "least_side": LEAST_SIDE,
            "most_pixels": MAX_PIXELS,
            "bit_depths": BIT_DEPTHS,
            "modalities": MODALITIES,
            "chest": CHEST,
            "lateral": LATERAL,
            "blank_spread": BLANK_SPREAD,
            "colour": checks.COLOUR,
            "inverted": checks.INVERTED,
            "area_fractions": checks.AREA_FRACTIONS,
            "border_fraction": checks.BORDER_FRACTION,
        },
    }


def _runtime() -> str:
    package = NPM_PACKAGES[0]
    return f"{package.name} {package.version}"


def _lines_of(models: Mapping[str, ExportedModel]) -> list[str]:
    """Return a line for each model, with its name and digest."""
    roles = {"lungs": "Lung model", "tuberculosis": "Tuberculosis model"}
    values = {role: model.settings for role, model in models.items()}
    return [f"{roles[role]}: {one['name']}, digest {one['digest'][:16]}." for role, one in values.items()]


def _limits_of(models: Mapping[str, ExportedModel]) -> list[str]:
    """Return sentences without Markdown."""
    kinds = [TASKS[model.settings["task"]].kind for model in models.values()]
    limits = [one for kind in kinds for one in (*(f"Not for: {text}" for text in SCOPE[kind]), *KNOWN_LIMITS[kind])]
    return [one.replace("**", "").replace("*", "").replace("`", "") for one in (*limits, NO_OTHER_CHECKS)]


def _write_worker(page: Path) -> None:
    """Write the service worker, which keeps a build by the digest of its files."""
    files = {path.relative_to(page).as_posix(): path for path in page.rglob("*") if path.is_file()}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + files[name].read_bytes())
    shell = ["./", *(name for name in sorted(files) if not name.startswith(FETCHED_LATE))]
    worker = TEMPLATES.get_template("static/sw.js").render(digest=f"chest-xray-{digest.hexdigest()[:16]}", shell=shell)
    (page / "sw.js").write_text(worker)


def push_static(
    repo_id: str,
    segmenter: str | None = None,
    classifier: str | None = None,
    *,
    license: str = "apache-2.0",
    private: bool = True,
    dry_run: bool = False,
) -> str:
    """Build the page and push it as a static Space; return what went, or with `dry_run` what would go.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, ValueError: as `build_static` and `push_space`.
    """
    with TemporaryDirectory(prefix="chest_xray_masks_") as scratch:
        folder = pack_static(build_static(Path(scratch) / "space", segmenter, classifier), license)
        if dry_run:
            where = f"would go to the Space {repo_id} ({'private' if private else 'public'}):"
            return "\n".join([where, *folder_files(folder)])
        return f"pushed to {push_space(folder, repo_id, private)}"
