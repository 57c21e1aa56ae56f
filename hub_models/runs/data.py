"""The X-rays of a run: divided by its protocol, fit for its task, at its model's size; and who was trained on what."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from chest_xray_masks import SITES, SPLITS, scan
from hub_models.dataset.augmentation import STRENGTHS
from hub_models.dataset.batches import Arrays
from hub_models.dataset.preprocessing import load_splits, prepare
from hub_models.dataset.splits import PATIENT_SHARING, divide, leaks
from hub_models.imaging.gray import is_synthetic
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import PREDICTION_VERSION, TrainedModel, or_whole
from hub_models.runs.config import LEARNING_RATES, TrainConfig
from hub_models.runs.run_folder import DATA_NAME, RunFolder


@dataclass(frozen=True)
class Split:
    """X-rays of one part: the original rows, and the same at the model's size."""

    rows: datasets.Dataset
    arrays: Arrays


def resolve(config: TrainConfig) -> TrainConfig:
    """Return the config with the task's model and image size, and the learning rate, where it has None for them."""
    task = TASKS[config.task]
    return replace(
        config,
        model=config.model or task.model,
        image_size=config.image_size or task.image_size,
        learning_rate=config.learning_rate or LEARNING_RATES[config.from_scratch],
    )


def load_run_splits(
    config: TrainConfig, accelerator: Accelerator, splits: tuple[str, ...] = SPLITS
) -> dict[str, Split]:
    """Parts of the X-rays that `config` asks for, made by one process and then read by all.

    Raises:
        FileNotFoundError: nothing of the set under `config.data_dir`.
        ValueError: a part is empty, or cannot be trained on or tested with, or no segmenter finds the lungs.
    """
    if config.region == "lungs" and config.segmenter is None:
        raise ValueError("region lungs needs a lung model that finds them: pass --segmenter <lung run folder>")
    with accelerator.main_process_first():
        rows = load_rows(config, splits)
        task, size = TASKS[config.task], config.image_size or TASKS[config.task].image_size
        ranges = {"train": STRENGTHS[config.augment]}
        if config.segmenter is not None:
            rows = {part: _with_lungs(share, config.segmenter) for part, share in rows.items()}
        for part, share in rows.items():
            task.check(f"{part} (protocol {config.protocol})", share)
        return {
            part: Split(
                share, Arrays(prepare(share, size, config.fit, config.region), size, ranges.get(part), config.seed)
            )
            for part, share in rows.items()
        }


def load_rows(config: TrainConfig, splits: tuple[str, ...] = SPLITS) -> dict[str, datasets.Dataset]:
    """Original rows of each part, as the protocol divides them, that are usable for the task.

    Raises:
        FileNotFoundError: nothing of the set under `config.data_dir`.
        ValueError: a part is empty.
    """
    divided = divide(load_splits(config.data_dir, config.config_name), config.protocol, config.task, config.fold)
    rows = {part: TASKS[config.task].usable(divided[part]) for part in splits}
    for part, share in rows.items():
        if not len(share):
            where = f"{config.data_dir} (protocol {config.protocol})"
            raise ValueError(f"no {part} X-ray in {where} is fit for {config.task}: pass more of the set")
    return rows


def _with_lungs(rows: datasets.Dataset, segmenter: str) -> datasets.Dataset:
    """Return rows with the lungs that a lung model finds as their `mask`, and their own mask as `reference`."""
    own = rows.select_columns("mask").rename_column("mask", "reference")
    return datasets.concatenate_datasets([find_lungs(rows, segmenter), own], axis=1)


def find_lungs(rows: datasets.Dataset, segmenter: str | Path) -> datasets.Dataset:
    """Return `rows` with the lungs that `segmenter`, a run folder, finds as their `mask`, in `datasets`' cache.

    An X-ray in which none are found is taken whole.

    Raises:
        FileNotFoundError, ValueError: `segmenter` is no finished run of lung_segmentation.
    """
    run = RunFolder.read(segmenter)
    trained = TrainedModel.from_run(run.path, "lung_segmentation")
    trained = replace(trained, settings=replace(trained.settings, two_lungs=True))
    if torch.accelerator.is_available():
        trained.model.to(torch.accelerator.current_accelerator())

    def find(image: Image.Image) -> dict[str, Image.Image]:
        """Return the lungs found in an X-ray."""
        return {"mask": Image.fromarray(np.uint8(or_whole(trained(image))) * 255)}

    made_of = f"{rows._fingerprint} {run.digest} {PREDICTION_VERSION}"  # not the folder's name
    key = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    found = rows.map(
        find,
        input_columns="image",
        remove_columns=rows.column_names,  # the images need no second copy
        features=datasets.Features({"mask": rows.features["mask"]}),
        new_fingerprint=key,
        desc="Finding lungs",
    )
    return datasets.concatenate_datasets([rows.remove_columns("mask"), found], axis=1)


def describe(config: TrainConfig, rows: dict[str, datasets.Dataset]) -> dict[str, Any]:
    """What `data.json` says: fingerprint of the X-rays, ids in each part, and ids that earlier models were trained on.

    Earlier models are the run folders that `config.model`, unless from scratch, and `config.segmenter` name; the
    digests of both are told. The count of synthetic X-rays, `synthetic`, is left out where there are none.

    Raises:
        ValueError: an earlier model was trained on one of this run's test patients.
    """
    earlier, digests = set(), {}
    for name, source in (("model", None if config.from_scratch else config.model), ("segmenter", config.segmenter)):
        if source and (Path(source) / DATA_NAME).is_file():
            seen = trained_ids(Path(source))
            refuse_leaks(source, seen, rows["test"], config.protocol)
            earlier |= seen
            digests[name] = RunFolder.read(source).digest
    fingerprint = scan(config.data_dir).fingerprint(SITES.get(config.config_name))
    ids = {part: list(share["id"]) for part, share in rows.items()}
    synthetic = sum(count_synthetic(share) for share in rows.values())
    said = {"synthetic": synthetic} if synthetic else {}
    return {"fingerprint": fingerprint} | ids | {"earlier": sorted(earlier)} | digests | said


def count_synthetic(rows: datasets.Dataset) -> int:
    """How many X-rays say of themselves that they are synthetic; none is decoded."""
    images = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    return sum(is_synthetic(row["image"]["bytes"]) for row in images)


def trained_ids(run_folder: Path, splits: tuple[str, ...] = ("train", "validation")) -> set[str]:
    """Ids of all X-rays that the model of a run was trained or chosen on, or of `parts`, and of what it began with.

    Raises:
        FileNotFoundError: the folder does not say.
    """
    path = run_folder / DATA_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no {DATA_NAME} in {run_folder}: what the model was trained on is not known")
    data = json.loads(path.read_text())
    return {id for part in (*splits, "earlier") for id in data[part]}


def refuse_leaks(source: str | Path, seen: set[str], test: datasets.Dataset, protocol: str) -> None:
    """Raise ValueError where a patient of `test` has an X-ray among those that a model has `seen`.

    Where the protocol itself parts the films of a patient, which it warns of, only the X-rays themselves count.
    """
    leaked = sorted(seen & set(test["id"])) if protocol in PATIENT_SHARING else leaks(seen, test)
    if leaked:
        raise ValueError(
            f"{source} was trained on patients of {len(leaked)} of the {len(test)} X-rays to test on "
            f"({leaked[0]}, ...): pass a model whose training left them out, as one of the same protocol does"
        )
