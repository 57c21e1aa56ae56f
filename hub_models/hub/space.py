"""The page as a Space of the Hub: a folder that runs there by itself, and its way there."""

import re
import shutil
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, SpaceCard, SpaceCardData
from huggingface_hub.utils import validate_repo_id

from hub_models.files import check_output, new_folder
from hub_models.hub.push import Push, push_model
from hub_models.hub_client.repository import HUB_FILE, Repository, folder_files
from hub_models.hub_client.requests import whoami_writer

ROOT = Path(__file__).parents[2]
BUILDER = "chest_xray_masks.py"
EXTRAS = ("models", "app", "dicom")  # of the project, that the page needs
MARK = "hub_models/app/page.py"  # by which a Space of this page is known
APP = '''"""The page of chest-xray-masks, as a Space; see README.md."""

from hub_models.app.page import serve
from hub_models.console import plain_terminal

with plain_terminal():
    serve({segmenter!r}, {classifier!r}, host=None, port=None)  # where the Space tells Gradio to listen
'''
CARD = """---
{metadata}
---

# {title}

Drop a frontal chest X-ray (PNG, JPEG, TIFF or DICOM): the page outlines the lungs and gives the probability that a
radiologist labels it tuberculosis, on a scale with the threshold. **Research use, not a medical device.** No upload is
kept. The limits of the models stand on the page and in their cards: {models}.

Packed by `hub_models.hub.space` of chest-xray-masks, whose code is here whole; `requirements.txt` names the
versions that it was packed with. For private models, the settings of this Space need a
secret `HF_TOKEN` of somebody who may read them.
"""


def pack_space(
    folder: str | Path,
    segmenter: str | None = None,
    classifier: str | None = None,
    title: str = "Chest X-ray reader",
    license: str = "apache-2.0",
) -> Path:
    """`folder`, made whole or not at all: a Gradio Space that reads with models of the Hub, by their ids.

    It holds app.py, README.md, requirements.txt with the versions installed here, and this project's code.

    Raises:
        FileExistsError: something is there.
        FileNotFoundError: this is no clone of the project.
        ValueError: no model, or one that is no Hub id.
    """
    folder, models = Path(folder), [one for one in (segmenter, classifier) if one is not None]
    if not models:
        raise ValueError("nothing to read with: pass segmenter=<Hub id>, classifier=<Hub id>, or both")
    for one in models:
        if "/" not in one or Path(one).exists():
            raise ValueError(f"a Space takes its models from the Hub, got {one}: push it, then pass OWNER/NAME")
        validate_repo_id(one)
    check_output(folder, "packed Space")
    with new_folder(folder) as made:
        shutil.copytree(
            ROOT / "hub_models", made / "hub_models", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
        for name in (BUILDER, "LICENSE"):
            shutil.copy(ROOT / name, made)
        (made / "requirements.txt").write_text("\n".join(requirements()) + "\n")
        (made / "app.py").write_text(APP.format(segmenter=segmenter, classifier=classifier))
        (made / "README.md").write_text(str(_card(title, license, models)))
    return folder


def requirements() -> list[str]:
    """What the page needs, each at the version installed here, sorted.

    Only what the project itself asks for: what that needs in turn is left to the Hub, whose own additions to Gradio
    ask for other versions of some of it.

    Raises:
        FileNotFoundError: this is no clone of the project.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise FileNotFoundError(f"no pyproject.toml in {ROOT}: pack a Space from a clone of the project")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [one for extra in EXTRAS for one in project["optional-dependencies"][extra]]
    pinned = []
    for one in asked:
        name, extras = re.match(r"([\w.-]+)(\[[^]]*\])?", one).groups(default="")
        if name == project["name"]:  # an extra that takes another in
            continue
        pinned.append(f"{name}{extras}=={version(name).split('+')[0]}")  # of any build, such as torch's for CPUs
    return sorted(pinned, key=str.lower)


def _card(title: str, license: str, models: list[str]) -> SpaceCard:
    metadata = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        license=license,
        models=models,
        tags=["chest-x-ray", "medical-imaging", "tuberculosis"],
        colorFrom="blue",
        colorTo="gray",
        short_description="Lungs and tuberculosis on chest X-rays, for research",
    )
    links = ", ".join(f"[{one}](https://huggingface.co/{one})" for one in models)
    return SpaceCard(CARD.format(metadata=metadata.to_yaml(), title=title, models=links))


def push_space(folder: str | Path, repo_id: str, private: bool = True) -> str:
    """Address of the Space `repo_id` on the Hub, which then holds the files of a packed `folder` and nothing else.

    Raises:
        FileNotFoundError: no packed Space there.
        PermissionError: not logged in, or without the right to write there.
        ConnectionError: no answer, after some tries.
        ValueError: there is another Space, or one of the other visibility.
    """
    files, api = folder_files(Path(folder)), HfApi()
    if MARK not in files:
        raise FileNotFoundError(f"no {MARK} in {folder}: pack the Space first (pack_space)")
    owner, _, name = repo_id.rpartition("/")
    repository = Repository(api, f"{whoami_writer(api, owner or None)}/{name}", "space")
    head = repository.create(private)
    if head.private != private:
        raise ValueError(f"{repository.url} is {'not ' if private else ''}private: change it on its settings page")
    if MARK not in head.digests and (others := set(head.digests) - {HUB_FILE, "README.md"}):
        raise ValueError(f"{repository.url} holds {min(others)} and not this page: pass another repo_id")
    repository.commit(files, "Read chest X-rays on a page", head)
    return repository.url


def push_page(
    repo_id: str,
    segmenter: str | None = None,
    classifier: str | None = None,
    license: str | None = None,
    private: bool = True,
    dry_run: bool = False,
) -> str:
    """What became of the page as the Space `repo_id`: packed, and pushed unless `dry_run`; see the two steps for more.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, ValueError: as `pack_space` and `push_space`.
    """
    with TemporaryDirectory(prefix="chest_xray_masks_") as scratch:
        folder = pack_space(Path(scratch) / "space", segmenter, classifier, license=license or "apache-2.0")
        if dry_run:
            files = folder_files(folder)
            return "\n".join([f"would go to the Space {repo_id} ({'private' if private else 'public'}):", *files])
        return f"pushed to {push_space(folder, repo_id, private)}"


def push(run: Path | None, repo_id: str, space: bool, classifier: str | None, **options: Any) -> Push | str:
    """What went to the Hub: the model of `run`, or with `space` the page; `options` as `push_model` and `push_page`.

    Raises:
        ValueError: an option that is of the other of the two; else as they raise.
    """
    if space == (run is not None):
        raise ValueError("a push is of a model or of the page: pass either --model <run folder> or --space")
    if not space:
        if classifier:
            raise ValueError(f"--classifier {classifier} is of --space: leave it out, or pass --space without --model")
        return push_model(run, repo_id, **options)
    of_models = {name: options.pop(name, None) for name in ("version", "revision", "also", "replace")}
    if given := [name for name, value in of_models.items() if value]:
        raise ValueError(f"--{given[0]} is of a model's push: leave it out with --space")
    return push_page(repo_id, classifier=classifier, **options)
