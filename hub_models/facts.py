"""What a run folder says of itself: its files, how its training began and went, and the commands that made it."""

import csv
import json
import shlex
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from chest_xray_masks import SITE_OF_PREFIX
from hub_models.architectures import ARCHITECTURES
from hub_models.cohort import DATA_NAME
from hub_models.config import CONFIG_NAME, TrainConfig
from hub_models.report import RESULTS_NAME
from hub_models.tasks import SETTINGS_KEY, TASKS

EMISSIONS_NAME = "emissions.csv"  # CodeCarbon's
PROTOCOL_TEXTS = {
    "default": "The parts are the project's own, a function of the patient",
    "idiap": "The parts are Idiap's published split, which parts the films of some patients",
    "ark": "The parts are Ark's published split of Shenzhen",
    "mc_to_shenzhen": "Trained and chosen on Montgomery, tested on Shenzhen",
    "shenzhen_to_mc": "Trained and chosen on Shenzhen, tested on Montgomery",
    "folds": "The parts are those of fold {fold} of five by patient, counted from 0",
}


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what train_config.json, results.json, data.json and config.json hold."""

    folder: Path
    config: TrainConfig
    results: dict[str, Any]
    data: dict[str, Any]
    model: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> "Run":
        """Run of a folder.

        Raises:
            FileNotFoundError: it is no run, or not finished.
            ValueError: it holds all folds.
        """
        folder = Path(folder)
        if (folder / "fold-0").is_dir():
            raise ValueError(
                f"{folder} holds all folds and no model of its own: pass one fold's folder, {folder}/fold-0"
            )
        config = TrainConfig.load(folder)
        return cls(folder, config, *(read_json(folder / name) for name in (RESULTS_NAME, DATA_NAME, "config.json")))

    @property
    def settings(self) -> dict[str, Any]:
        """How the model is to be used, as its config.json says."""
        return self.model[SETTINGS_KEY]

    @property
    def sites(self) -> list[str]:
        """Sites of the training part."""
        return sorted({site_of(id) for id in self.data["train"]})

    @property
    def base_model(self) -> str | None:
        """Hub id of the checkpoint that training started from; None from random weights or another run."""
        name = self.config.model or TASKS[self.config.task].model
        # a run that it began with, told by its digest and, in older runs, by its X-rays alone
        known = "model" in self.data or (self.data["earlier"] and self.config.segmenter is None)
        local = known or Path(name).exists() or name.startswith((".", "~")) or name.count("/") != 1
        return None if self.config.from_scratch or local else name


def read_json(path: Path) -> dict[str, Any]:
    """Values of a JSON file of a run.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: pass the folder of a finished run")
    return json.loads(path.read_text())


def site_of(id: str) -> str:
    """Site of an X-ray, by its id."""
    return SITE_OF_PREFIX[id[:6]]


def emissions(run: Run) -> dict[str, float]:
    """Kilograms of CO2 equivalent and kWh of all lines of CodeCarbon's file in the run folder; empty without one."""
    path = run.folder / EMISSIONS_NAME
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: sum(float(line[name]) for line in lines) for name in ("emissions", "energy_consumed")}


def start(run: Run) -> str:
    """Sentence that says what training started from."""
    if run.config.from_scratch:
        name = run.config.model or TASKS[run.config.task].model
        kind = f" in the architecture `{name}`" if name in ARCHITECTURES else ""
        return f"Started from random weights{kind}, without outside data."
    if run.base_model:
        return f"Fine-tuned from `{run.base_model}`."
    return "Went on from another run, whose X-rays are none of the test part's patients."


def kept(run: Run, heading: str) -> str:
    """Sentence that says which epoch was kept, and its figure `heading` on validation; empty where nothing says."""
    if not (training := run.results.get("training")):
        return ""
    epoch = training["kept_epoch"]
    value = training["epochs"][epoch - 1][f"validation_{run.results['main_figure']}"]
    which = {"best": "the best on the validation part", "last": "the last one"}[run.config.keep]
    return f"Of {len(training['epochs'])} epochs, epoch {epoch} was kept, {which} ({heading} there: {value:.3f})."


def places(run: Run, output: str = "RUN", depth: int = 1) -> dict[str, str]:
    """Names that stand for places of the trainer's machine, by the field of the config that holds one."""
    config, named = run.config, {"data_dir": "DATA", "output_dir": output}
    if config.segmenter:
        named["segmenter"] = "LUNGS"
    if not config.from_scratch and run.base_model is None:
        named["model"] = f"START{depth if depth > 1 else ''}"
    elif config.model and config.model not in ARCHITECTURES and run.base_model is None:
        named["model"] = "ARCHITECTURE"
    return named


def commands(run: Run, output: str = "RUN", depth: int = 1) -> str:
    """Command lines that made the run, and before them those of the run it started from where that is at hand.

    Places of the trainer's machine are named as `places` has them.
    """
    config, before = run.config, ""
    named = places(run, output, depth)
    if named.get("model", "").startswith("START") and all(
        (Path(config.model) / name).is_file() for name in (CONFIG_NAME, RESULTS_NAME, DATA_NAME, "config.json")
    ):
        before = commands(Run.read(config.model), named["model"], depth + 1) + "\n"
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
