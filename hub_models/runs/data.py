"""The X-rays of a run: divided by its protocol, fit for its task, at its model's size; and who was trained on what."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
from accelerate import Accelerator
from PIL import Image

from chest_xray_masks import SITES, SPLITS, scan
from hub_models.dataset.augmentation import STRENGTHS
from hub_models.dataset.batches import Arrays
from hub_models.dataset.preprocessing import cache_disk, load_splits, prepare
from hub_models.dataset.splits import PATIENT_SHARING, divide, leaks
from hub_models.imaging.gray import is_synthetic
from hub_models.imaging.resizing import BILINEAR
from hub_models.models.answers import PREDICTION_VERSION, or_whole
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import LEARNING_RATES, TrainConfig
from hub_models.runs.run_folder import DATA_NAME, RunData, RunFolder, read_data


@dataclass(frozen=True)
class Split:
    """X-rays of one split: the original rows, and the same at the model's size."""

    rows: datasets.Dataset
    arrays: Arrays


def resolve(config: TrainConfig) -> TrainConfig:
    """Return the config with the task's model and image size, and the learning rate, where it has None for them."""
    task = TASKS[config.task]
    is_new = config.from_scratch or config.freeze != "none" or config.lora > 0
    rate = config.learning_rate or LEARNING_RATES[is_new]
    model, image_size = config.model or task.model, config.image_size or task.image_size
    return replace(config, model=model, image_size=image_size, learning_rate=rate)


def load_run_splits(
    config: TrainConfig,
    accelerator: Accelerator,
    splits: tuple[str, ...] = SPLITS,
    resample: Image.Resampling = BILINEAR,
) -> dict[str, Split]:
    """Return the `splits` of a run: `prepare_splits` of `load_run_rows`, which say what they raise."""
    return prepare_splits(config, load_run_rows(config, accelerator, splits), accelerator, resample)


def load_run_rows(
    config: TrainConfig, accelerator: Accelerator, splits: tuple[str, ...] = SPLITS
) -> dict[str, datasets.Dataset]:
    """Return the original rows of the `splits` of a run, all fit for its task; one process makes them, then all read.

    Raises:
        FileNotFoundError: nothing of the set under `config.data_dir`, or no segmenter where `config` names it.
        ValueError: a split is empty, or cannot be trained on or tested with, or no segmenter finds the lungs.
    """
    _check_segmenter(config)
    with accelerator.main_process_first():
        usable = load_rows(config, splits)
    for split, rows in usable.items():
        TASKS[config.task].check(f"{split} (protocol {config.protocol})", rows)
    return usable


def _check_segmenter(config: TrainConfig) -> None:
    """Refuse a wrong lung model, or none where one is needed, before X-rays are read."""
    if config.region == "lungs" and config.segmenter is None:
        raise ValueError("region lungs needs a lung model that finds them: pass --segmenter <lung run folder>")
    if config.segmenter is not None:
        lung_model(config.segmenter)


def prepare_splits(
    config: TrainConfig,
    usable: dict[str, datasets.Dataset],
    accelerator: Accelerator,
    resample: Image.Resampling = BILINEAR,
) -> dict[str, Split]:
    """Return the splits of `load_run_rows` at the model's size, made by one process and then read by all.

    `resample` is the model's. Raise ValueError where a row cannot be prepared.
    """
    size, ranges = config.image_size or TASKS[config.task].image_size, {"train": STRENGTHS[config.augment]}
    found = {}
    with accelerator.main_process_first():
        for split, rows in usable.items():
            if config.segmenter is not None:  # their own mask stays, as `reference`
                own = rows.select_columns("mask").rename_column("mask", "reference")
                rows = datasets.concatenate_datasets([find_lungs(rows, config.segmenter), own], axis=1)
            prepared = prepare(rows, size, config.fit, config.region, resample)
            found[split] = Split(rows, Arrays(prepared, size, ranges.get(split), config.seed))
    return found


def load_rows(config: TrainConfig, splits: tuple[str, ...] = SPLITS) -> dict[str, datasets.Dataset]:
    """Return the original rows of each split that are usable for the task; raise ValueError where a split is empty."""
    divided = divide(load_splits(config.data_dir, config.config_name), config.protocol, config.task, config.fold)
    found = {split: TASKS[config.task].usable(divided[split]) for split in splits}
    if empty := [split for split, rows in found.items() if not len(rows)]:
        where = f"{config.data_dir} (protocol {config.protocol})"
        raise ValueError(f"no {empty[0]} X-ray in {where} is fit for {config.task}: pass more of the set")
    return found


def find_lungs(rows: datasets.Dataset, segmenter: str | Path) -> datasets.Dataset:
    """Return `rows` with the lungs that `segmenter`, a run folder, finds as their `mask`, in `datasets`' cache.

    An X-ray in which none are found is taken whole. Raise FileNotFoundError or ValueError where `segmenter` is no
    finished run of lung_segmentation.
    """
    trained = lung_model(segmenter).on_accelerator()
    trained = replace(trained, settings=replace(trained.settings, two_lungs=True))
    made_of = f"{rows._fingerprint} {RunFolder.read(segmenter).digest} {PREDICTION_VERSION}"  # not the folder's name
    with cache_disk():
        found = rows.map(
            lambda image: {"mask": Image.fromarray(or_whole(trained(image)) * np.uint8(255))},
            input_columns="image",
            remove_columns=rows.column_names,  # the images need no second copy
            features=datasets.Features({"mask": rows.features["mask"]}),
            new_fingerprint=hashlib.sha256(made_of.encode()).hexdigest()[:16],
            desc="Finding lungs",
        )
    return datasets.concatenate_datasets([rows.remove_columns("mask"), found], axis=1)


def lung_model(segmenter: str | Path) -> TrainedModel:
    """Return the model of a run; raise FileNotFoundError or ValueError where it is no finished lung_segmentation."""
    return TrainedModel.from_run(RunFolder.read(segmenter).path, "lung_segmentation")


def describe(config: TrainConfig, rows: dict[str, datasets.Dataset]) -> RunData:
    """Return the values of `data.json` for the rows of each split.

    Raise ValueError where an earlier model (`check_earlier`) was trained on a test patient of this run.
    """
    earlier = check_earlier(config, rows["test"])  # before any X-ray is read
    train, validation, test = (list(rows[split]["id"]) for split in ("train", "validation", "test"))
    fingerprint = scan(config.data_dir).fingerprint(SITES.get(config.config_name))
    seen = sorted(set().union(*earlier.values()))
    data = RunData(fingerprint=fingerprint, train=train, validation=validation, test=test, earlier=seen)
    if synthetic := sum(count_synthetic(split) for split in rows.values()):
        data["synthetic"] = synthetic
    for name in earlier:
        data[name] = RunFolder.read(getattr(config, name)).digest
    return data


def check_earlier(config: TrainConfig, test: datasets.Dataset) -> dict[Literal["model", "segmenter"], set[str]]:
    """Return the ids that each earlier model of a run was trained on, by the name of its field.

    These are the run folders that `config.model`, unless from scratch, and `config.segmenter` name. Raise ValueError
    where one of them was trained on a patient of the rows to `test` on.
    """
    earlier: dict[Literal["model", "segmenter"], set[str]] = {}
    sources: dict[Literal["model", "segmenter"], str | None]
    sources = {"model": None if config.from_scratch else config.model, "segmenter": config.segmenter}
    for name, source in sources.items():
        if source and (Path(source) / DATA_NAME).is_file():
            earlier[name] = trained_ids(Path(source))
            refuse_leaks(source, earlier[name], test, config.protocol)
    return earlier


def count_synthetic(rows: datasets.Dataset) -> int:
    """Return how many X-rays are marked as synthetic; none is decoded."""
    images = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    return sum(is_synthetic(row["image"]["bytes"]) for row in images)


def trained_ids(run_folder: Path, splits: tuple[str, ...] = ("train", "validation")) -> set[str]:
    """Return the ids of the X-rays in `splits` of a run, and of those that its earlier models were trained on."""
    data = read_data(run_folder)
    return {id for split in (*splits, "earlier") for id in data[split]}  # type: ignore[literal-required]


def digest_of_patient(patient_id: str) -> str:
    """Return what stands for a patient in a model that may be shared: local ids may name people."""
    return hashlib.sha256(patient_id.encode()).hexdigest()[:16]


def calibrated_ids(run_folder: Path, rows: datasets.Dataset) -> list[str]:
    """Return the ids of the rows whose patients chose the operating point of a model by `cxm calibrate`."""
    known = set(read_data(run_folder).get("calibrated", ()))
    pairs = zip(rows["id"], rows["patient_id"], strict=True)
    return sorted(id for id, patient in pairs if digest_of_patient(patient) in known)


def refuse_calibrated(source: Path, test: datasets.Dataset) -> None:
    """Raise ValueError where `calibrated_ids` finds any X-ray to test on."""
    if chosen := calibrated_ids(source, test):
        said = (
            f"the threshold of {source} was chosen on patients of {len(chosen)} of the {len(test)} X-rays to test on"
        )
        raise ValueError(f"{said} ({chosen[0]}, ...): pass others, or read the report of that calibration")


def load_test_rows(config: TrainConfig, accelerator: Accelerator, split: str | None) -> datasets.Dataset:
    """Return the original rows of a split of a run's data; of None, every X-ray with a label, whatever its split.

    Raises:
        FileNotFoundError, ValueError: as `load_run_rows`.
    """
    if split is not None:
        return load_run_rows(config, accelerator, (split,))[split]
    _check_segmenter(config)
    with accelerator.main_process_first():
        splits = load_splits(config.data_dir, config.config_name)
    rows = datasets.concatenate_datasets([splits[name] for name in sorted(splits)])
    rows = rows.select([index for index, label in enumerate(rows["label"]) if label is not None])
    rows = TASKS[config.task].usable(rows)
    TASKS[config.task].check(str(config.data_dir), rows)
    return rows


def refuse_leaks(source: str | Path, seen: set[str], test: datasets.Dataset, protocol: str) -> None:
    """Raise ValueError where a patient of `test` has an X-ray among those that a model has `seen`.

    Under a protocol that itself divides the X-rays of a patient, and warns of it, only the X-rays themselves count.
    """
    leaked = sorted(seen & set(test["id"])) if protocol in PATIENT_SHARING else leaks(seen, test)
    if leaked:
        raise ValueError(
            f"{source} was trained on patients of {len(leaked)} of the {len(test)} X-rays to test on "
            f"({leaked[0]}, ...): pass other X-rays or another split, or a model whose training left them out, as one "
            "of the same protocol does"
        )
