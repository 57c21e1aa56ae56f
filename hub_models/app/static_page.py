"""Build the page as a folder of plain files that reads X-rays wholly in the visitor's browser, and push it as a Space.

The folder holds `static/` of this package, JavaScript libraries of npm, two ONNX models and synthetic examples.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from chest_xray_masks import MAX_PIXELS, __version__
from hub_models.app.examples import EXAMPLE_PHANTOMS, EXAMPLE_SIZE, example_png
from hub_models.app.npm import NPM_PACKAGES, vendor
from hub_models.app.view import MEANING, NO_DEVICE, TEMPLATES
from hub_models.dataset.inspection import BLANK_SPREAD
from hub_models.files import check_output, new_folder, write_json
from hub_models.hub.limits import KNOWN_LIMITS, SCOPE, Limits, plain_sentences
from hub_models.hub.space import STATIC_MARK, license_for, pack_static, send_space
from hub_models.hub_client.bundled import DEFAULT_MODELS
from hub_models.hub_client.downloads import local_run
from hub_models.imaging.dicom import CHEST, LATERAL, MODALITIES
from hub_models.imaging.flags import Flag
from hub_models.imaging.lung_crop import LUNG_MEAN, LUNG_SD, MARGIN
from hub_models.imaging.windowing import BIT_DEPTHS
from hub_models.models.onnx_model import GRAPH_NAME, is_exported, read_preprocessing
from hub_models.models.out_of_distribution import OutOfDistribution
from hub_models.models.tasks import TASKS
from hub_models.predict import checks
from hub_models.predict.reader import ADVICE, LEAST_SIDE, VERDICTS

STATIC = Path(__file__).with_name("static")
PLAIN_FILES = ("app.js", "lungs.js", "pixels.js", "reader.js", "source.js", "view.js", "static.css")
PAGE_SETTINGS_NAME, WORKER_NAME = "page.json", "sw.js"
OF_PAGE = {*PLAIN_FILES, "reading.css", "index.html", PAGE_SETTINGS_NAME, WORKER_NAME, "vendor", "models", "examples"}
FILTERS = ("bilinear", "box")  # that pixels.js resizes with
DISTRIBUTION_FILE = "models/lungs-distribution.bin"
MODEL_ROLES = {"lungs": "Lung model", "tuberculosis": "Tuberculosis model"}
FETCHED_LATE = ("models/", "vendor/onnxruntime-web/")  # and kept then; of two builds of onnxruntime a visit needs one
NO_OTHER_CHECKS = (
    "This page checks less than cxm predict: it does not notice that one lung alone was found. It shows no saliency."
)


@dataclass(frozen=True)
class ExportedModel:
    """An exported model.

    Attributes:
        folder: that holds it.
        settings: values of its preprocessing.json.
    """

    folder: Path
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, source: str | Path, task: str, scratch: Path, revision: str | None) -> "ExportedModel":
        """Return the model of an exported folder; a run folder or Hub id is exported to the folder `scratch` first.

        Raises:
            FileNotFoundError: no run, or no export.
            ValueError: the model is of another task, or needs what the page does not do.
        """
        folder = local_run(source, revision)
        if not is_exported(folder):
            from hub_models.predict.export import export_model  # late: it needs torch

            folder = export_model(source, scratch, revision=revision)
        settings = read_preprocessing(folder)
        wanted = {"task": (task,), "resample": FILTERS, "views": (1,)}
        for key, values in wanted.items():
            if settings.get(key) not in values:
                expected = " or ".join(map(str, values))
                raise ValueError(f"{source} has {key} {settings.get(key)}, the static page reads {expected} there")
        return cls(folder, settings)


def build_static(
    output: str | Path,
    segmenter: str | Path | None = None,
    classifier: str | Path | None = None,
    revision: str | None = None,
) -> Path:
    """Write the page that reads with two models, or one of them, to `output`, whole or not at all; return the folder.

    Args:
        output: folder to make.
        segmenter: lung model, the folder of an export or a run, or a Hub id.
        classifier: TB model, likewise. Without both, the page has the bundled models.
        revision: branch, tag or commit of models from the Hub.

    Raises:
        FileExistsError: `output` holds files that are not of a page; one that was written before is replaced.
        FileNotFoundError: no such model.
        ConnectionError: npm cannot be reached, and its packages are not in the cache.
        ValueError: a model that the page cannot read with.
    """
    output = Path(output)
    has_page = (output / PAGE_SETTINGS_NAME).is_file()
    check_output(output, "static page", lambda name: has_page and name.split("/")[0] in OF_PAGE)
    if segmenter is None and classifier is None:
        segmenter, classifier = DEFAULT_MODELS
    tasks = {"lungs": ("lung_segmentation", segmenter), "tuberculosis": ("tb_classification", classifier)}
    with TemporaryDirectory(prefix="chest_xray_masks_") as scratch:
        models = {
            role: ExportedModel.of(source, task, Path(scratch) / role, revision)
            for role, (task, source) in tasks.items()
            if source is not None
        }
        if "lungs" not in models and models["tuberculosis"].settings["region"] == "lungs":
            raise ValueError(f"{classifier} sees lungs only: pass a segmenter that finds them, too")
        with new_folder(output) as page:
            _fill(page, models)
    return output


def _fill(page: Path, models: Mapping[str, ExportedModel]) -> None:
    for name in PLAIN_FILES:
        shutil.copy(STATIC / name, page)
    shutil.copy(STATIC.with_name("reading.css"), page)
    vendor(page / "vendor")
    (page / "models").mkdir()
    for role, model in models.items():
        shutil.copy(model.folder / GRAPH_NAME, page / "models" / f"{role}.onnx")
    (page / "examples").mkdir()
    examples = {name: f"examples/{name.replace(' ', '-').lower()}.png" for name in EXAMPLE_PHANTOMS}
    for name, path in examples.items():
        (page / path).write_bytes(example_png(name, EXAMPLE_SIZE))
    write_json(_settings(page, models), page / PAGE_SETTINGS_NAME)
    warning = " ".join([NO_DEVICE, *_synthetic(models)])
    shown = {"examples": examples, "models": _lines_of(models), "limits": _limits_of(models), "warning": warning}
    (page / "index.html").write_text(TEMPLATES.get_template("static/index.html").render(shown))
    _write_worker(page)


def _synthetic(models: Mapping[str, ExportedModel]) -> list[str]:
    named = [MODEL_ROLES[role] for role, model in models.items() if model.settings["synthetic"]]
    return [f"{' and '.join(named)}: trained on synthetic X-rays, of no use on patients."] if named else []


def _settings(page: Path, models: Mapping[str, ExportedModel]) -> dict[str, Any]:
    """Return the values of page.json, which the page's code reads: models, and the package's own words and limits.

    The distribution of the lung model's features goes to a file beside the models: mean and precision in float32.
    """
    known = OutOfDistribution.load(models["lungs"].folder) if "lungs" in models else None
    if known is not None:
        values = np.concatenate([known.mean, known.precision.ravel()]).astype("<f4")
        (page / DISTRIBUTION_FILE).write_bytes(values.tobytes())
    styles = (STATIC.with_name(name).read_text() for name in ("reading.css", "report.css"))
    return {
        "models": {role: dict(model.settings) | {"file": f"models/{role}.onnx"} for role, model in models.items()},
        "distribution": None if known is None else {"file": DISTRIBUTION_FILE, "limit": known.limit},
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
    told = {role: (model.settings["name"], model.settings["digest"][:16]) for role, model in models.items()}
    return [f"{MODEL_ROLES[role]}: {name}, digest {digest}." for role, (name, digest) in told.items()]


def _limits_of(models: Mapping[str, ExportedModel]) -> list[str]:
    """Return sentences without Markdown."""
    kinds = [TASKS[model.settings["task"]].kind for model in models.values()]
    limits = [one for kind in kinds for one in plain_sentences(Limits(SCOPE[kind], KNOWN_LIMITS[kind]))]
    sources = [said for model in models.values() if (said := model.settings.get("threshold_source"))]
    return [*sources, *limits, NO_OTHER_CHECKS]


def _write_worker(page: Path) -> None:
    """Write the service worker, which keeps a build by the digest of its files."""
    files = {path.relative_to(page).as_posix(): path for path in page.rglob("*") if path.is_file()}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + files[name].read_bytes())
    shell = ["./", *(name for name in sorted(files) if not name.startswith(FETCHED_LATE))]
    worker = TEMPLATES.get_template("static/sw.js").render(digest=f"chest-xray-{digest.hexdigest()[:16]}", shell=shell)
    (page / WORKER_NAME).write_text(worker)


def push_static(
    repo_id: str,
    segmenter: str | None = None,
    classifier: str | None = None,
    *,
    license: str | None = None,
    private: bool = True,
    dry_run: bool = False,
) -> str:
    """Build the page and push it as a static Space; return what went, or with `dry_run` what would go.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, ValueError: as `build_static` and `push_space`.
    """
    with TemporaryDirectory(prefix="chest_xray_masks_") as scratch:
        page = build_static(Path(scratch) / "space", segmenter, classifier)
        folder = pack_static(page, license or license_for(segmenter, classifier))
        return send_space(folder, repo_id, private, STATIC_MARK, dry_run=dry_run)
