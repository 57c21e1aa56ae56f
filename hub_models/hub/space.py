"""Pack the page as a Space of the Hub, a folder that runs there by itself, and push it."""

import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, SpaceCard, SpaceCardData
from huggingface_hub.utils import validate_repo_id

from hub_models.files import check_output, new_folder
from hub_models.hub.metric_space import METRIC_MODULE, pack_metric
from hub_models.hub.push import Push, push_model
from hub_models.hub_client.bundled import BUNDLED, BUNDLED_LICENSE
from hub_models.hub_client.repository import HUB_FILE, Repository, folder_files
from hub_models.hub_client.requests import whoami_writer

ROOT = Path(__file__).parents[2]
PAGE_EXTRAS = ("models", "app", "dicom")  # extras of the project that the page needs
PAGE_MODULE = "hub_models/app/page.py"  # by which a Space of this page is known
STATIC_MARK = "page.json"  # the same of the page that reads in the browser
# By that file: what a Space is, and the title of a commit
SPACES = {
    PAGE_MODULE: ("page", "Read chest X-rays on a page"),
    STATIC_MARK: ("static page", "Read chest X-rays in the browser"),
    METRIC_MODULE: ("metric", "A metric of evaluate"),
}
SPACE_APP = '''"""The page of chest-xray-masks, as a Space; see README.md."""

from hub_models.app.page import serve
from hub_models.console import plain_terminal

with plain_terminal():
    serve({segmenter!r}, {classifier!r}, host=None, port=None)  # where the Space tells Gradio to listen
'''
ZERO_GPU = "zero-a10g"
HARDWARE = ("cpu-basic", ZERO_GPU)
# ZeroGPU lends a GPU to what `spaces.GPU` wraps, and takes `spaces` to be imported before torch
ZERO_GPU_APP = SPACE_APP.replace("\n\nfrom", "\n\nimport spaces\nfrom", 1).replace(
    "port=None", "port=None, wrap=spaces.GPU"
)
SPACE_CARD = """---
{metadata}
---

# {title}

Drop a frontal chest X-ray (PNG, JPEG, TIFF or DICOM): the page outlines the lungs and gives the probability that a
radiologist labels it tuberculosis, on a scale with the threshold. **Research use, not a medical device.** No upload is
kept. The limits of the models stand on the page and in their cards: {models}.

{weights}Packed by `hub_models.hub.space` of chest-xray-masks, whose code is here whole; `requirements.txt` names the
versions that it was packed with. For private models, the settings of this Space need a
secret `HF_TOKEN` of somebody who may read them.
"""
OF_WEIGHTS = "The code is Apache-2.0; the weights are CC BY-NC-SA 4.0, as `hub_models/weights/LICENSE` says.\n\n"

STATIC_CARD = """---
{metadata}
---

# {title}

Drop a frontal chest X-ray (PNG, JPEG or uncompressed DICOM): the page outlines the lungs and gives the probability
that a radiologist labels it tuberculosis. **Research use, not a medical device.** The X-ray is read in the browser
and sent nowhere. The limits of the models stand on the page.

Built by `cxm app --static` of chest-xray-masks; `vendor/licences.txt` names the libraries of others.
"""


def pack_static(folder: Path, license: str = "apache-2.0", title: str = "Chest X-ray reader") -> Path:
    """Write the card of a static Space into a folder of `build_static`; return the folder."""
    metadata = SpaceCardData(
        title=title,
        sdk="static",
        app_file="index.html",
        license=license,
        tags=["chest-x-ray", "medical-imaging", "tuberculosis"],
        colorFrom="blue",
        colorTo="gray",
        short_description="Lungs and tuberculosis, read in the browser",
    )
    (folder / "README.md").write_text(str(SpaceCard(STATIC_CARD.format(metadata=metadata.to_yaml(), title=title))))
    return folder


def pack_space(
    folder: str | Path,
    segmenter: str | None = None,
    classifier: str | None = None,
    title: str = "Chest X-ray reader",
    license: str | None = None,
    hardware: str = "cpu-basic",
) -> Path:
    """Write a Gradio Space that reads with models of the Hub, by their ids, to `folder`, whole or not at all.

    It holds app.py, README.md, requirements.txt with the versions installed here, and this project's code; without a
    model the bundled ones, too, whose licence is then the Space's. `hardware` is one of HARDWARE.

    Raises:
        FileExistsError: something is there.
        FileNotFoundError: this is not a clone of the project.
        ValueError: a model that is not a Hub id, or other hardware.
    """
    if hardware not in HARDWARE:
        raise ValueError(f"hardware must be one of {', '.join(HARDWARE)}, got {hardware!r}")
    folder, models = Path(folder), [one for one in (segmenter, classifier) if one is not None]
    license = license or license_for(segmenter, classifier)
    for one in models:
        if "/" not in one or Path(one).exists():
            raise ValueError(f"a Space takes its models from the Hub, got {one}: push it, then pass OWNER/NAME")
        validate_repo_id(one)
    check_output(folder, "packed Space")
    with new_folder(folder) as made:
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", *(("weights",) if models else ()))
        shutil.copytree(ROOT / "hub_models", made / "hub_models", ignore=ignored)
        for name in ("chest_xray_masks.py", "LICENSE"):
            shutil.copy(ROOT / name, made)
        (made / "requirements.txt").write_text("\n".join(requirements()) + "\n")
        app = ZERO_GPU_APP if hardware == ZERO_GPU else SPACE_APP
        (made / "app.py").write_text(app.format(segmenter=segmenter, classifier=classifier))
        (made / "README.md").write_text(str(_card(title, license, models, hardware)))
    return folder


def license_for(segmenter: str | None, classifier: str | None) -> str:
    """Return the licence of a Space: the code's, or that of the bundled models where it names no other."""
    return BUNDLED_LICENSE if segmenter is None and classifier is None else "apache-2.0"


def requirements() -> list[str]:
    """Return what the page needs, each at the version installed here, sorted.

    Only the project's own requirements: the Hub picks what those need in turn, as its additions to Gradio need other
    versions of some of it.

    Raises:
        FileNotFoundError: this is not a clone of the project.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise FileNotFoundError(f"no pyproject.toml in {ROOT}: pack a Space from a clone of the project")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for extra in PAGE_EXTRAS for one in project["optional-dependencies"][extra]]
    found = re.findall(r"^([\w.-]+)(\[[^]]*\])?", "\n".join(project["dependencies"] + extras), flags=re.M)
    # an extra may name the project itself; a version is that of any build, such as torch's for CPUs
    pinned = [f"{name}{extra}=={version(name).split('+')[0]}" for name, extra in found if name != project["name"]]
    return sorted(pinned, key=str.lower)


def _card(title: str, license: str, models: list[str], hardware: str) -> SpaceCard:
    metadata = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        suggested_hardware=hardware,
        license=license,
        models=models or None,
        tags=["chest-x-ray", "medical-imaging", "tuberculosis"],
        colorFrom="blue",
        colorTo="gray",
        short_description="Lungs and tuberculosis on chest X-rays, for research",
    )
    links = [f"[{one}](https://huggingface.co/{one})" for one in models]
    links = links or [f"[{name}]({folder.relative_to(ROOT)}/README.md)" for name, folder in BUNDLED.items()]
    weights = "" if models else OF_WEIGHTS
    text = SPACE_CARD.format(metadata=metadata.to_yaml(), title=title, models=", ".join(links), weights=weights)
    return SpaceCard(text)


def push_space(
    folder: str | Path, repo_id: str, private: bool = True, known_by: str = PAGE_MODULE, hardware: str | None = None
) -> str:
    """Let the Space `repo_id` hold the files of a packed `folder` and nothing else; return its address.

    `known_by` is the file by which a Space of the same kind is known, which may be written over. A new Space gets
    `hardware`; one that is there keeps its own.

    Raises:
        FileNotFoundError: no packed Space there.
        PermissionError: not logged in, or without the right to write there.
        ConnectionError: no answer, after some tries.
        ValueError: another Space is there, or it has the other visibility.
    """
    files, api = folder_files(Path(folder)), HfApi()
    if known_by not in files:
        raise FileNotFoundError(f"no {known_by} in {folder}: pack the Space first (pack_space)")
    owner, _, name = repo_id.rpartition("/")
    repository = Repository(api, f"{whoami_writer(api, owner or None)}/{name}", "space")
    head = repository.create(private, hardware)
    if head.private != private:
        raise ValueError(f"{repository.url} is {'not ' if private else ''}private: change it on its settings page")
    what, title = SPACES[known_by]
    if known_by not in head.digests and (others := set(head.digests) - {HUB_FILE, "README.md"}):
        raise ValueError(f"{repository.url} holds {min(others)} and not this {what}: pass another repo_id")
    repository.commit(files, title, head)
    return repository.url


def push(
    run: Path | None,
    repo_id: str,
    space: bool,
    classifier: str | None,
    *,
    metric: str | None = None,
    hardware: str | None = None,
    segmenter: str | None = None,
    license: str | None = None,
    private: bool = True,
    dry_run: bool = False,
    version: str | None = None,
    revision: str | None = None,
    also: Sequence[Path] = (),
    dataset: str | None = None,
    replace: bool = False,
) -> Push | str:
    """Push the model of `run` or, with `space`, the page or a metric; return what went. Options as in `push_model`.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: as `push_model`, `pack_space` and `push_space`.
        ValueError: as those, or an option of the other of the two.
    """
    if space == (run is not None):
        raise ValueError("a push sends either a model or the page: pass either --model <run folder> or --space")
    if metric and not space:
        raise ValueError(f"--metric {metric} is only for --space: pass --space too, without --model")
    if hardware and (metric or not space):
        raise ValueError(f"--hardware {hardware} is only for the page's Space: leave it out, or pass --space alone")
    if run is not None:
        if classifier:
            raise ValueError(
                f"--classifier {classifier} is only for --space: leave it out, or pass --space without --model"
            )
        return push_model(
            run,
            repo_id,
            license=license,
            private=private,
            revision=revision,
            version=version,
            also=also,
            segmenter=segmenter,
            dataset=dataset,
            replace=replace,
            dry_run=dry_run,
        )
    of_models = {"version": version, "revision": revision, "also": also, "dataset": dataset, "replace": replace}
    if given := [name for name, value in of_models.items() if value]:
        raise ValueError(f"--{given[0]} is only for the push of a model: leave it out with --space")
    of_pages = {"segmenter": segmenter, "classifier": classifier, "license": license}
    if metric and (given := [name for name, value in of_pages.items() if value]):
        raise ValueError(f"--{given[0]} is not for a metric: leave it out with --metric {metric}")
    return _pack_and_send(repo_id, metric, segmenter, classifier, license, hardware, private, dry_run)


def _pack_and_send(
    repo_id: str,
    metric: str | None,
    segmenter: str | None,
    classifier: str | None,
    license: str | None,
    hardware: str | None,
    private: bool,
    dry_run: bool,
) -> str:
    """Pack a metric, or the page with its models, and send it as `send_space` does."""
    with TemporaryDirectory(prefix="chest_xray_masks_") as scratch:
        folder = Path(scratch) / "space"
        if metric:
            owner, _, name = repo_id.rpartition("/")
            repo_id = f"{owner or whoami_writer(HfApi())}/{name}"  # stands in its files
            pack_metric(folder, metric, repo_id)
        else:
            pack_space(folder, segmenter, classifier, license=license, hardware=hardware or HARDWARE[0])
        known_by = METRIC_MODULE if metric else PAGE_MODULE
        return send_space(folder, repo_id, private, known_by, hardware, dry_run=dry_run)


def send_space(
    folder: Path, repo_id: str, private: bool, known_by: str, hardware: str | None = None, *, dry_run: bool = False
) -> str:
    """Push a packed Space as `push_space` does, or with `dry_run` not; return what went, or what would go."""
    if dry_run:
        where = f"would go to the Space {repo_id} ({'private' if private else 'public'}):"
        return "\n".join([where, *folder_files(folder)])
    return f"pushed to {push_space(folder, repo_id, private, known_by, hardware)}"
