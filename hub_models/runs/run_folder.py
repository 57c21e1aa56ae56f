"""A run's folder as one object: each of its files is read once, when it is needed."""

import csv
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from hub_models.hub_client.bundled import known_place
from hub_models.hub_client.downloads import RUN_FILES, SETTINGS_KEY
from hub_models.hub_client.model_files import check_types, damaged, read_json, refuse_foreign
from hub_models.metrics.intervals import Interval
from hub_models.models.architectures import ARCHITECTURES, read_model_config
from hub_models.models.settings import OperatingPoint, Settings, digest_of_model, history_of
from hub_models.models.tasks import TASKS
from hub_models.runs.config import TrainConfig
from hub_models.runs.notes import read_notes

DATA_NAME, RESULTS_NAME, PER_IMAGE_NAME = "data.json", "results.json", "per_image.parquet"
RESULTS_BEFORE = {"figures": "metrics", "main_figure": "main_metric", "parts": "splits"}  # up to version 0.1
EMISSIONS_NAME = "emissions.csv"  # CodeCarbon's


class RunData(TypedDict):
    """Values of `data.json`: ids of each split, and of the X-rays that earlier models were trained on."""

    fingerprint: str  # of the X-rays
    train: list[str]
    validation: list[str]
    test: list[str]
    earlier: list[str]
    model: NotRequired[str]  # digest of the run that training started from; older runs lack it
    segmenter: NotRequired[str]  # digest of the run that found the lungs
    synthetic: NotRequired[int]  # number of synthetic X-rays, above 0
    license: NotRequired[str]  # of the bundled model that it comes from
    calibrated: NotRequired[list[str]]  # digests of the patients of local X-rays that chose the operating point
    synthetic_learned: NotRequired[int]  # of those in train and validation
    pixels: NotRequired[dict[str, list[str]]]  # digests of gray pixels of train, validation and earlier
    # where the X-rays are not those of the set alone:
    source: NotRequired[str]  # its name
    test_source: NotRequired[str]  # that of the X-rays to test on
    patients: NotRequired[dict[str, list[str]]]  # digests of patients' ids, by split
    counts: NotRequired[dict[str, dict[str, int]]]  # of sites and labels, by split


class RunResults(TypedDict):
    """Values of `results.json` that a card, a page or a push reads; there are more."""

    task: str
    split: str
    images: int
    main_metric: str
    metrics: dict[str, dict[str, int | Interval]]  # by group
    config: dict[str, Any]
    launch: dict[str, int | str]
    versions: dict[str, str]


@dataclass(frozen=True)
class RunFolder:
    """A folder that training made, and its config; its other files are read when they are first needed."""

    path: Path
    config: TrainConfig

    @classmethod
    def read(cls, source: "str | Path | RunFolder") -> "RunFolder":
        """Return the run in a folder, or that of a bundled model by its name.

        Raises:
            FileNotFoundError: none is there.
            ValueError: the folder holds all folds, a damaged config, or code.
        """
        if isinstance(source, RunFolder):
            return source
        path = Path(known_place(source))
        if (path / "fold-0").is_dir():
            raise ValueError(f"{path} holds all folds and no model of its own: pass one fold's folder, {path}/fold-0")
        config = TrainConfig.load(path)
        refuse_foreign(path)
        return cls(path, config)

    def require(self, *names: str) -> None:
        """Raise FileNotFoundError where one of these files is missing."""
        if missing := [name for name in names if not (self.path / name).is_file()]:
            raise FileNotFoundError(f"no {', '.join(missing)} in {self.path}: let its training finish")

    @property
    def is_finished(self) -> bool:
        """Whether every file of a finished run is there."""
        return all((self.path / name).is_file() for name in (*RUN_FILES, RESULTS_NAME))

    @cached_property
    def results(self) -> dict[str, Any]:
        """Values of `results.json`."""
        return read_results(self.path)

    @cached_property
    def data(self) -> RunData:
        """Values of `data.json`."""
        return read_data(self.path)

    @cached_property
    def model(self) -> dict[str, Any]:
        """Values of the model's own config, in `config.json`."""
        return read_model_config(self.path / "config.json")

    @cached_property
    def settings(self) -> Settings:
        """Settings in the model's `config.json`."""
        return Settings.parse(self.model.get(SETTINGS_KEY), self.path)

    @cached_property
    def history(self) -> list[OperatingPoint]:
        """Calibrations on local X-rays, the newest last; empty where the operating point is that of the training."""
        return history_of(self.model, self.path / "config.json")

    @cached_property
    def per_image(self) -> list[dict[str, Any]]:
        """Rows of the test X-rays."""
        return read_per_image(self.path)

    @cached_property
    def notes(self) -> str:
        """The user's own words, which go into the card."""
        return read_notes(self.path)

    @cached_property
    def emissions(self) -> dict[str, float]:
        """Kilograms of CO2 equivalent and kWh of all lines of CodeCarbon's file; empty without one."""
        if not (self.path / EMISSIONS_NAME).is_file():
            return {}
        try:
            with (self.path / EMISSIONS_NAME).open(newline="") as file:
                lines = list(csv.DictReader(file))
            return {name: sum(float(line[name]) for line in lines) for name in ("emissions", "energy_consumed")}
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise damaged(self.path / EMISSIONS_NAME, error) from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the model's weights, config and image processor."""
        return digest_of_model(self.path)

    @cached_property
    def groups(self) -> list[str]:
        """Keys of the results' groups by site, and of all where there are two."""
        return tested_groups(self.results)

    @property
    def ids(self) -> dict[str, list[str]]:
        """Ids of each split."""
        return {"train": self.data["train"], "validation": self.data["validation"], "test": self.data["test"]}

    @property
    def train_sites(self) -> list[str]:
        """Sites of the training X-rays."""
        if counts := self.data.get("counts"):
            return [key.removeprefix("site: ") for key in counts["train"] if key.startswith("site: ")]
        return sorted({site_of(id) for id in self.data["train"]})

    @property
    def base_model(self) -> str | None:
        """Hub id of the checkpoint that training started from; None from random weights or another run."""
        name = self.config.model or TASKS[self.config.task].model
        # started from another run, whose digest or, in older runs, whose X-rays data.json has
        known = "model" in self.data or (self.data["earlier"] and self.config.segmenter is None)
        local = known or Path(name).exists() or name.startswith((".", "~")) or name.count("/") != 1
        return None if self.config.from_scratch or local else name

    @cached_property
    def places(self) -> dict[str, str]:
        """Placeholders for paths of the trainer's machine, by the field of the config that holds one."""
        config, named = self.config, {"data_dir": "DATA", "output_dir": "RUN"}
        named |= {field: name for field, name in (("test_data", "TEST"), ("table", "TABLE")) if getattr(config, field)}
        if config.segmenter:
            named["segmenter"] = "LUNGS"
        if not config.from_scratch and self.base_model is None:
            named["model"] = "START"
        elif config.model and config.model not in ARCHITECTURES and self.base_model is None:
            named["model"] = "ARCHITECTURE"
        return named

    def public_id(self, id: str) -> str:
        """Return the id of an X-ray as it may be told: its digest, where it is not of the set."""
        return id if site_of(id) or re.fullmatch("[0-9a-f]{16}", id) else short_digest(id)

    @cached_property
    def public(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Values of `train_config.json`, `results.json` and `data.json` without paths and ids of the trainer's own."""
        results = self.results | {"config": self.results["config"] | self.places}
        if worst := results.get("worst"):
            results["worst"] = [row | {"id": self.public_id(row["id"])} for row in worst]
        lists = {name: self.data[name] for name in ("train", "validation", "test", "earlier")}  # type: ignore[literal-required]
        ids = {name: list(map(self.public_id, held)) for name, held in lists.items()}
        return self.config.to_values() | self.places, results, {**self.data, **ids}


def read_data(folder: Path) -> RunData:
    """Return the values of a folder's `data.json`; raise as `read_json`."""
    values = read_json(folder / DATA_NAME)
    check_types(values, RunData, folder / DATA_NAME)
    return cast(RunData, values)


def read_results(folder: Path) -> dict[str, Any]:
    """Return the values of a folder's `results.json` under today's names; raise as `read_json`."""
    path = folder / RESULTS_NAME
    values = {RESULTS_BEFORE.get(name, name): value for name, value in read_json(path).items()}
    check_types(values, RunResults, path)
    if values["main_metric"] not in values["metrics"].get("all", {}):
        raise damaged(path, f"it lacks {values['main_metric']} of all X-rays")
    for group in values["metrics"].values():
        if "lungs_share" in group:
            group["lungs_fraction"] = group.pop("lungs_share")
    return values


def tested_groups(results: dict[str, Any]) -> list[str]:
    """Return the keys of the groups by site, and of all where there are two."""
    sites = [key for key in results["metrics"] if key.startswith("site: ")]
    return sites if len(sites) == 1 else [*sites, "all"]


def read_per_image(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a folder's `per_image.parquet`; raise FileNotFoundError where it is missing."""
    path = folder / PER_IMAGE_NAME
    if not path.is_file():
        source = "a folder of cxm train or cxm evaluate"
        raise FileNotFoundError(f"no {path.name} in {folder}: pass {source}")
    import pyarrow.parquet  # late: slow to import

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    names = ["lungs_fraction" if name == "lungs_share" else name for name in table.column_names]  # up to version 0.1
    return table.rename_columns(names).to_pylist()


def short_digest(text: str) -> str:
    """Return what stands for the id of an X-ray or a patient where the id itself is not to be told."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def site_of(id: str) -> str:
    """Return the site of an X-ray of the set, by its id; "" of any other X-ray."""
    from chest_xray_masks import SITE_OF_PREFIX  # late: the builder imports `datasets`

    return SITE_OF_PREFIX.get(id[:6], "")
