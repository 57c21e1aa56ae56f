"""What a card says of a run's training: what it started from, which epoch was kept, the commands that made it."""

import shlex
import textwrap
from dataclasses import fields
from pathlib import Path

from hub_models.models.architectures import ARCHITECTURES
from hub_models.models.tasks import TASKS
from hub_models.runs.config import CONFIG_NAME
from hub_models.runs.run_folder import RunFolder

PROTOCOL_TEXTS = {
    "default": "The parts are the project's own, a function of the patient",
    "idiap": "The parts are Idiap's published split, which parts the films of some patients",
    "ark": "The parts are Ark's published split of Shenzhen",
    "mc_to_shenzhen": "Trained and chosen on Montgomery, tested on Shenzhen",
    "shenzhen_to_mc": "Trained and chosen on Shenzhen, tested on Montgomery",
    "folds": "The parts are those of fold {fold} of five by patient, counted from 0",
}


def training_facts(run: RunFolder, heading: str) -> dict[str, str]:
    """Return what a card says of the training; `heading` names the run's main metric."""
    return {"start": start(run), "kept": kept(run, heading), "commands": commands(run)}


def start(run: RunFolder) -> str:
    """Sentence that says what training started from."""
    if run.config.from_scratch:
        name = run.config.model or TASKS[run.config.task].model
        kind = f" in the architecture `{name}`" if name in ARCHITECTURES else ""
        return f"Started from random weights{kind}, without outside data."
    if run.base_model:
        return f"Fine-tuned from `{run.base_model}`."
    return "Went on from another run, whose X-rays are none of the test part's patients."


def kept(run: RunFolder, heading: str) -> str:
    """Sentence that says which epoch was kept, and its figure `heading` on validation; empty where nothing says."""
    if not (training := run.results.get("training")):
        return ""
    epoch = training["kept_epoch"]
    value = training["epochs"][epoch - 1][f"validation_{run.results['main_metric']}"]
    which = {"best": "the best on the validation part", "last": "the last one"}[run.config.keep]
    return f"Of {len(training['epochs'])} epochs, epoch {epoch} was kept, {which} ({heading} there: {value:.3f})."


def commands(run: RunFolder, output: str = "RUN", depth: int = 1) -> str:
    """Command lines that made the run, and before them those of the run it started from where that is at hand.

    Places of the trainer's machine are named as `RunFolder.places` has them.
    """
    config, before, named = run.config, "", run.places | {"output_dir": output}
    if named.get("model") == "START":
        named["model"] += f"{depth}" if depth > 1 else ""
        if (Path(config.model) / CONFIG_NAME).is_file() and (earlier := RunFolder.read(config.model)).is_finished:
            before = commands(earlier, named["model"], depth + 1) + "\n"
    words = ["accelerate launch"] + [
        f"--{name} {value}" for name, value in run.results["launch"].items() if name != "processes"
    ]
    words += [f"--num_processes {run.results['launch']['processes']}", "scripts/train.py"]
    for one in fields(config):
        value = named.get(one.name, getattr(config, one.name))
        if one.name in named or value != one.default:
            words.append(f"--{one.name}" if value is True else f"--{one.name} {shlex.quote(str(value))}")
    joined = " ".join(word.replace(" ", "\0") for word in words)  # an option stays on its value's line
    lines = textwrap.wrap(joined, 100, break_long_words=False, break_on_hyphens=False)
    return before + " \\\n    ".join(line.replace("\0", " ") for line in lines)
