"""What of a run goes to the Hub: checked files, by their path in the repository, without places of this machine."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from hub_models.architectures import AUTO_CLASSES, processor_for
from hub_models.card import OF_PHANTOMS, PICTURES_SHOWN, card_pictures, check_card, eval_results, model_card
from hub_models.config import CONFIG_NAME
from hub_models.downloads import RUN_PARTS
from hub_models.facts import EMISSIONS_NAME, Run, emissions, places
from hub_models.familiarity import FAMILIARITY_NAME
from hub_models.licenses import known_license
from hub_models.predictor import Predictor
from hub_models.report import RESULTS_NAME
from hub_models.repository import Source

logger = logging.getLogger(__name__)

CARD_NAME = "README.md"
# All that a push may send, but the Hub's format of results under .eval_results/
NAMES = {*RUN_PARTS, FAMILIARITY_NAME, RESULTS_NAME, EMISSIONS_NAME, CARD_NAME, *PICTURES_SHOWN, *OF_PHANTOMS}
TEXTS = (".json", ".md", ".yaml", ".csv")


def release(
    run_folder: str | Path,
    repo_id: str,
    license: str | None = None,
    also: Sequence[Path] = (),
    segmenter: str | None = None,
) -> dict[str, Source]:
    """Files of a finished run by their path in the repository `repo_id`: a path here, or the content.

    A README.md in the run folder, edited or not, is taken if its figures are the run's; else the card is made, under
    `license`, with the figures of the folders `also` and the lung model `segmenter` (see `card.model_card`). X-rays,
    checkpoints, logs and rows per image stay here.

    Raises:
        FileNotFoundError: the run has not ended, or lacks a part.
        ValueError: its files contradict each other, no licence is chosen, or a path of this machine would go out.
    """
    run = Run.read(run_folder)
    check_model(run)
    card = _card(run, repo_id, license, also, segmenter)
    named = places(run)
    config = run.config.to_values() | named
    files: dict[str, Source] = {name: run.folder / name for name in RUN_PARTS}
    if (run.folder / FAMILIARITY_NAME).is_file():
        files[FAMILIARITY_NAME] = run.folder / FAMILIARITY_NAME
    files |= {name: run.folder / name for name in card_pictures(run.folder) if f"]({name})" in card}
    files |= {CONFIG_NAME: _json(config), RESULTS_NAME: _json(run.results | {"config": run.results["config"] | named})}
    files |= {CARD_NAME: card.encode()}
    files |= {path: text.encode() for path, text in eval_results(run.folder, repo_id).items()}
    if tracked := emissions(run):  # CodeCarbon's own file tells of the machine and where it stands
        files[EMISSIONS_NAME] = f"{','.join(tracked)}\n{','.join(map(str, tracked.values()))}\n".encode()
    _refuse_places(run, files)
    return dict(sorted(files.items()))


def _json(values: Any) -> bytes:
    """As `files.write_json` has it."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def check_model(run: Run) -> None:
    """Nothing, if weights, config and image processor of a run are whole and of one model.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: they are damaged, or contradict each other.
    """
    folder = run.folder
    try:
        predictor = Predictor.from_run(folder)
        options = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        _, loaded = AUTO_CLASSES[predictor.task.kind].from_pretrained(folder, **options)
    except SafetensorError as error:
        raise ValueError(f"model.safetensors in {folder} is damaged ({error}): train anew") from error
    settings, size, config = predictor.settings, predictor.processor.size, run.config
    labels = dict(enumerate(predictor.task.labels))
    stored = {int(key): label for key, label in run.model.get("id2label", {}).items()}
    sides = {size.get("height"), size.get("width")}
    # mean and sd of a checkpoint are in no other file of the run
    trained = processor_for(predictor.task.kind, str(folder), config.from_scratch, settings.image_size)
    made, theirs = trained.to_dict(), predictor.processor.to_dict()
    steps = {name for name in made | theirs if name in made or name.startswith("do_")}
    others = sorted(name for name in steps if (made.get(name) or None) != (theirs.get(name) or None))
    misfits = sorted(str(name) for names in loaded.values() for name in names)
    weights = predictor.model.state_dict().values()
    rules = {
        f"config.json is of task {settings.task}, {CONFIG_NAME} of {config.task}": settings.task == config.task,
        f"{RESULTS_NAME} is of task {run.results['task']}, {CONFIG_NAME} of {config.task}": run.results["task"]
        == config.task,
        f"config.json has fit {settings.fit}, {CONFIG_NAME} {config.fit}": settings.fit == config.fit,
        f"config.json has region {settings.region}, {CONFIG_NAME} {config.region}": (settings.region == "image")
        == (config.region == "image"),
        f"the labels in config.json are {stored}, the task's {labels}": stored == labels
        and run.model.get("label2id") == {label: index for index, label in labels.items()},
        f"the image processor scales to {sides}, the model takes {settings.image_size}": sides
        == {settings.image_size},
        f"preprocessor_config.json has other {', '.join(others)} than a training writes": not others,
        f"model.safetensors does not fit config.json in {', '.join(misfits[:3])}": not misfits,
        "model.safetensors holds values that are not finite": all(bool(torch.isfinite(one).all()) for one in weights),
    }
    for fault, kept in rules.items():
        if not kept:
            raise ValueError(f"{fault} ({folder}): train anew, or put back the files that belong together")


def _card(run: Run, repo_id: str, license: str | None, also: Sequence[Path], segmenter: str | None) -> str:
    """Text of the README.md."""
    path = run.folder / CARD_NAME
    if not path.is_file():
        made = str(model_card(run.folder, repo_id, known_license(license), also, segmenter))
        check_card(made, run.folder, also)
        if run.settings["region"] != "image" and segmenter is None:
            logger.warning("the card names no lung model for this one to see by: pass --segmenter <its Hub id>")
        return made
    text = path.read_text()
    check_card(text, run.folder, also)
    stated = re.search(r"^license: *(.*)$", text, re.M)[1].strip("'\" ")
    if license is not None and known_license(license) != stated:
        raise ValueError(f"{path} names the licence {stated}, got {license}: change one of them")
    known_license(stated)
    if f'"{repo_id}"' not in text:
        raise ValueError(f"{path} does not use {repo_id} in its lines of code: put it there, or delete the file")
    if segmenter and f'"{segmenter}"' not in text:
        raise ValueError(f"{path} does not use the lung model {segmenter}: put it there, or delete the file")
    return text


def _refuse_places(run: Run, files: dict[str, Source]) -> None:
    """Raise ValueError where a text that would go out names a place of this machine."""
    values = [getattr(run.config, name) for name in places(run)]
    known = [Path.home(), run.folder.resolve(), *(Path(value) for value in values if Path(value).is_absolute())]
    for name, source in files.items():
        if not name.endswith(TEXTS):
            continue
        text = source.decode() if isinstance(source, bytes) else source.read_text()
        for place in known:
            if place != place.parent and str(place) in text:
                raise ValueError(f"{name} of {run.folder} would tell of {place} on this machine: take that out")
