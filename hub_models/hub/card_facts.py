"""Sentences of a card about a run's training: its start, the epoch that was kept, the commands that repeat it."""

import re
import shlex
import textwrap
from dataclasses import fields
from pathlib import Path

from hub_models.hub_client.bundled import BUNDLED
from hub_models.hub_client.model_files import ENCODER_CONFIG_NAME
from hub_models.models.architectures import ARCHITECTURES
from hub_models.models.tasks import TASKS
from hub_models.runs.config import CONFIG_NAME, OPTION_OF_FIELD
from hub_models.runs.run_folder import RunFolder

PROTOCOL_TEXTS = {
    "default": "The splits are the project's own, a function of the patient",
    "idiap": "The splits are those that Idiap published; some patients have X-rays in two of them",
    "ark": "The splits of Shenzhen are those that Ark published",
    "mc_to_shenzhen": "Trained and chosen on Montgomery, tested on Shenzhen",
    "shenzhen_to_mc": "Trained and chosen on Shenzhen, tested on Montgomery",
    "folds": "The splits are those of fold {fold} of five by patient, counted from 0",
}
PLACEHOLDERS = {  # what words in the commands stand for, beside DATA
    "TEST": "`{test_source}`",
    "TABLE": "the table that names the X-rays",
    "RUN": "the run folder to make",
    "START": "the run that training started from",
    "START2": "the run that START started from",
    "LUNGS": "the run folder of the lung model",
}


def training_facts(run: RunFolder, heading: str) -> dict[str, str | dict[str, str]]:
    """Return what a card says of the training; `heading` names the run's main metric."""
    commands, source = _commands(run), run.data.get("test_source")
    places = {word: text.format(test_source=source) for word, text in PLACEHOLDERS.items()}
    return {
        "start": _start(run),
        "kept": _kept(run, heading),
        "commands": commands,
        "places": {word: text for word, text in places.items() if re.search(rf" {word}\b", commands)},
    }


def _start(run: RunFolder) -> str:
    if run.config.from_scratch:
        name = run.config.model or TASKS[run.config.task].model
        kind = f" in the architecture `{name}`" if name in ARCHITECTURES else ""
        return f"Started from random weights{kind}, without outside data."
    if run.base_model:
        return f"Fine-tuned from `{run.base_model}`."
    kind = next((f"`{name}`" for name, path in BUNDLED.items() if str(path) == run.config.model), "another run")
    if (Path(run.config.model or "") / ENCODER_CONFIG_NAME).is_file():
        kind = "an encoder that was pre-trained without labels"
    return f"Started from {kind}; none of its X-rays is of a patient in the test split."


def _kept(run: RunFolder, heading: str) -> str:
    """Return which epoch was kept and its main metric on validation; empty for older runs, which do not say."""
    if not (training := run.results.get("training")):
        return ""
    epoch, epochs = training["kept_epoch"], training["epochs"]
    value = epochs[epoch - 1][f"validation_{run.results['main_metric']}"]
    which = {"best": "the best on the validation split", "last": "the last one"}[run.config.keep]
    return f"Of {len(epochs)} epochs, epoch {epoch} was kept, {which} ({heading} there: {value:.3f})."


def _commands(run: RunFolder, output: str = "RUN", depth: int = 1) -> str:
    """Return the commands that made the run, after those of the run that it started from, if that is still there.

    Names such as DATA stand for places of the trainer's machine (`RunFolder.places`).
    """
    config, before, named = run.config, "", run.places | {"output_dir": output}
    if config.model and named.get("model") == "START":
        named["model"] += f"{depth}" if depth > 1 else ""
        if (Path(config.model) / CONFIG_NAME).is_file() and (earlier := RunFolder.read(config.model)).is_finished:
            before = _commands(earlier, named["model"], depth + 1) + "\n"
    launch = run.results["launch"]
    words = ["accelerate launch", *(f"--{name} {launch[name]}" for name in launch if name != "processes")]
    words += [f"--num_processes {launch['processes']}", "-m hub_models.training"]
    for one in fields(config):
        value, option = named.get(one.name, getattr(config, one.name)), OPTION_OF_FIELD.get(one.name, one.name)
        if one.name in named or value != one.default:
            words.append(f"--{option}" if value is True else f"--{option} {shlex.quote(str(value))}")
    joined = " ".join(word.replace(" ", "\0") for word in words)  # an option stays on its value's line
    lines = textwrap.wrap(joined, 100, break_long_words=False, break_on_hyphens=False)
    return before + " \\\n    ".join(line.replace("\0", " ") for line in lines)
