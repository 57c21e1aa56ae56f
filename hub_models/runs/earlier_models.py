"""Models that a training starts from or finds lungs with: their X-rays and licence go over to its own model."""

from pathlib import Path
from typing import Literal

import datasets

from hub_models.runs.config import TrainConfig
from hub_models.runs.leaks import LEARNED, Seen, check_leaks, seen_in, trained_on
from hub_models.runs.run_folder import DATA_NAME, read_data


def earlier_models(config: TrainConfig) -> dict[Literal["model", "segmenter"], Path]:
    """Return the run folders that `config.model`, unless from scratch, and `config.segmenter` name."""
    sources: dict[Literal["model", "segmenter"], str | None]
    sources = {"model": None if config.from_scratch else config.model, "segmenter": config.segmenter}
    return {name: Path(one) for name, one in sources.items() if one and (Path(one) / DATA_NAME).is_file()}


def inherited_license(config: TrainConfig) -> str | None:
    """Return the licence that the model which training starts from asks its heirs to have; None without one."""
    source = earlier_models(config).get("model")
    return None if source is None else read_data(source).get("license")


def check_earlier(config: TrainConfig, test: datasets.Dataset) -> None:
    """Raise ValueError where one of the `earlier_models` was trained on a patient of the rows to `test` on."""
    for source in earlier_models(config).values():
        check_leaks(source, trained_on(source), test, config.protocol)


def learned_earlier(config: TrainConfig, validation: Seen) -> Seen:
    """Return the X-rays that the earlier models of a run were trained on.

    Those that `config.model` only chose its epoch with are left out where this run does the same with them: they are
    in its own `validation`.
    """
    nothing = found = Seen(frozenset(), frozenset(), frozenset(), None)
    for name, source in earlier_models(config).items():
        data = read_data(source)
        trained, both = seen_in(data, ("train",)), seen_in(data, LEARNED)
        own = validation if name == "model" else nothing
        found = Seen(
            found.ids | trained.ids | (both.ids - own.ids),
            found.patients | trained.patients | (both.patients - own.patients),
            found.pixels | trained.pixels | (both.pixels - own.pixels),
            None,
        )
    return found
