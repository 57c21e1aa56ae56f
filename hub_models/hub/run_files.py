"""What of a run goes to the Hub: checked files, by their path in the repository, without places of this machine."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoImageProcessor

from hub_models.hub.model_card import OF_PHANTOMS, PICTURES_SHOWN, card_pictures, eval_results, model_card
from hub_models.hub_client.downloads import RUN_FILES
from hub_models.hub_client.repository import FileContent
from hub_models.models.architectures import AUTO_CLASSES, check_side, image_processor_for
from hub_models.models.out_of_distribution import OUT_OF_DISTRIBUTION_NAME, OutOfDistribution
from hub_models.models.tasks import TASKS, Settings
from hub_models.runs.config import CONFIG_NAME
from hub_models.runs.notes import CARD_NAME, NOTES_NAME, finished, refuse_edited
from hub_models.runs.run_folder import EMISSIONS_NAME, RESULTS_NAME, RunFolder

logger = logging.getLogger(__name__)

# All that a push may send, but the Hub's format of results under .eval_results/
NAMES = {*RUN_FILES, OUT_OF_DISTRIBUTION_NAME, RESULTS_NAME, EMISSIONS_NAME, CARD_NAME, NOTES_NAME}
NAMES |= {*PICTURES_SHOWN, *OF_PHANTOMS}
LICENSES, LICENSES_PAGE = (
    ("apache-2.0", "mit", "cc-by-nc-sa-4.0"),
    "https://huggingface.co/docs/hub/repositories-licenses",
)
TEXTS = (".json", ".md", ".yaml", ".csv")


def release(
    run: RunFolder, repo_id: str, license: str | None, also: Sequence[Path] = (), segmenter: str | None = None
) -> dict[str, FileContent]:
    """Return the files of a finished run by their path in the repository `repo_id`: a path here, or the content.

    The card is generated, under `license`, with the metrics of the folders `also` and the lung model `segmenter` (see
    `card.model_card`); the run's NOTES.md stands in it. X-rays, checkpoints, logs and rows per image stay here.

    Raises:
        FileNotFoundError: the run has not ended, or lacks a part.
        ValueError: its files contradict each other, its README.md was edited, no licence is chosen, or a path of this
            machine would go out.
    """
    if not license:
        raise ValueError(f"no licence is chosen: pass --license, such as {', '.join(LICENSES)} ({LICENSES_PAGE})")
    refuse_edited(run.path)
    check_model(run)
    if run.settings.region != "image" and segmenter is None:
        logger.warning("the card names no lung model for this one to see by: pass --segmenter <its Hub id>")
    card = finished(str(model_card(run, repo_id, license.lower(), also, segmenter)), run.notes)
    config, results = run.public
    optional = [name for name in (OUT_OF_DISTRIBUTION_NAME, NOTES_NAME) if (run.path / name).is_file()]
    files: dict[str, FileContent] = {name: run.path / name for name in (*RUN_FILES, *optional, *card_pictures(run))}
    files |= {CONFIG_NAME: _json(config), RESULTS_NAME: _json(results), CARD_NAME: card.encode()}
    files |= {path: text.encode() for path, text in eval_results(run, repo_id).items()}
    if tracked := run.emissions:  # CodeCarbon's own file tells of the machine and where it stands
        files[EMISSIONS_NAME] = f"{','.join(tracked)}\n{','.join(map(str, tracked.values()))}\n".encode()
    _refuse_places(run, files)
    return dict(sorted(files.items()))


def _json(values: Any) -> bytes:
    """As `files.write_json` has it."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def check_model(run: RunFolder) -> None:
    """Do nothing if weights, config and image processor of a run are whole and of one model.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: they are damaged, or contradict each other.
    """
    run.require(*RUN_FILES, RESULTS_NAME)
    config, task = run.config, TASKS[run.config.task]
    OutOfDistribution.load(run.path)
    try:
        model, loaded = AUTO_CLASSES[task.kind].from_pretrained(
            run.path,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except SafetensorError as error:
        raise ValueError(f"model.safetensors in {run.path} is damaged ({error}): train anew") from error
    settings = Settings.of(model)
    check_side(model, model.name_or_path, settings.image_size)
    stored = {int(key): label for key, label in run.model.get("id2label", {}).items()}
    misfits = sorted(str(name) for names in loaded.values() for name in names)
    labels = dict(enumerate(task.labels))
    rules = {
        f"config.json is of task {settings.task}, {CONFIG_NAME} of {config.task}": settings.task == config.task,
        f"{RESULTS_NAME} is of task {run.results['task']}, {CONFIG_NAME} of {config.task}": run.results["task"]
        == config.task,
        f"config.json has fit {settings.fit}, {CONFIG_NAME} {config.fit}": settings.fit == config.fit,
        f"config.json has region {settings.region}, {CONFIG_NAME} {config.region}": (settings.region == "image")
        == (config.region == "image"),
        f"the labels in config.json are {stored}, the task's {labels}": stored == labels
        and run.model.get("label2id") == {label: index for index, label in labels.items()},
        f"model.safetensors does not fit config.json in {', '.join(misfits[:3])}": not misfits,
        "model.safetensors holds values that are not finite": all(
            bool(torch.isfinite(one).all()) for one in model.state_dict().values()
        ),
    }
    _refuse(run, rules | _rules_of_processor(run, settings.image_size))


def _rules_of_processor(run: RunFolder, image_size: int) -> dict[str, bool]:
    """Return what must hold of the image processor, by the fault that it is otherwise."""
    kind, folder = TASKS[run.config.task].kind, str(run.path)
    stored = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil", trust_remote_code=False)
    sides = {stored.size.get("height"), stored.size.get("width")}
    # mean and sd of a checkpoint are in no other file of the run
    made = image_processor_for(kind, folder, run.config.from_scratch, image_size).to_dict()
    theirs = stored.to_dict()
    steps = {name for name in made | theirs if name in made or name.startswith("do_")}
    others = sorted(name for name in steps if (made.get(name) or None) != (theirs.get(name) or None))
    return {
        f"the image processor scales to {sides}, the model takes {image_size}": sides == {image_size},
        f"preprocessor_config.json has other {', '.join(others)} than a training writes": not others,
    }


def _refuse(run: RunFolder, rules: dict[str, bool]) -> None:
    """Raise ValueError for the first rule that is broken."""
    for fault, kept in rules.items():
        if not kept:
            raise ValueError(f"{fault} ({run.path}): train anew, or put back the files that belong together")


def _refuse_places(run: RunFolder, files: dict[str, FileContent]) -> None:
    """Raise ValueError where a text that would go out names a place of this machine."""
    values = [getattr(run.config, name) for name in run.places]
    known = [Path.home(), run.path.resolve(), *(Path(value) for value in values if Path(value).is_absolute())]
    for name, source in files.items():
        if not name.endswith(TEXTS):
            continue
        text = source.decode() if isinstance(source, bytes) else source.read_text()
        for place in known:
            if place != place.parent and str(place) in text:
                raise ValueError(f"{name} of {run.path} would tell of {place} on this machine: take that out")
