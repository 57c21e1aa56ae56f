"""The X-rays of a run: divided by its protocol, fit for its task, at its model's size; and who was trained on what."""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
from accelerate import Accelerator
from PIL import Image

from chest_xray_masks import SPLITS
from hub_models.dataset.augmentation import STRENGTHS
from hub_models.dataset.batches import Arrays
from hub_models.dataset.preprocessing import prepare
from hub_models.dataset.schema import with_files
from hub_models.dataset.sources import DataRequest, cache_disk, fingerprint_of, load_splits
from hub_models.dataset.splits import divide
from hub_models.hub_client.bundled import known_place
from hub_models.imaging.gray import is_synthetic
from hub_models.imaging.resizing import BILINEAR
from hub_models.models.answers import PREDICTION_VERSION, or_whole
from hub_models.models.settings import digest_of_model
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import LEARNING_RATES, TrainConfig
from hub_models.runs.earlier_models import check_earlier, earlier_models, inherited_license, learned_earlier
from hub_models.runs.leaks import LEARNED, Seen, leaked_ids, seen_in
from hub_models.runs.run_folder import RunData, RunFolder, short_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """X-rays of one split: the original rows, and the same at the model's size."""

    rows: datasets.Dataset
    arrays: Arrays


def resolve(config: TrainConfig) -> TrainConfig:
    """Return the config with the task's model and image size, and the learning rate, where it has None for them.

    A bundled model's name becomes its folder.
    """
    task = TASKS[config.task]
    is_new = config.from_scratch or config.freeze != "none" or config.lora > 0
    rate = config.learning_rate or LEARNING_RATES[is_new]
    model, image_size = config.model or task.model, config.image_size or task.image_size
    segmenter = config.segmenter and known_place(config.segmenter)
    return replace(config, model=known_place(model), segmenter=segmenter, image_size=image_size, learning_rate=rate)


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
    """Return the original rows of the `splits` of a run; one process makes them, then all read.

    Those of a training must be fit for its task. A split that is only tested on may lack a class.

    Raises:
        FileNotFoundError: no X-ray at `config.data_dir`, or no segmenter where `config` names it.
        ValueError: a split is empty, or cannot be trained on or tested with, or no segmenter finds the lungs.
    """
    _check_segmenter(config)
    with accelerator.main_process_first():
        usable = load_rows(config, splits)
    for split, rows in usable.items():
        try:
            TASKS[config.task].check(f"{split} (protocol {config.protocol})", rows)
        except ValueError as error:
            if len(splits) > 1:
                raise
            logger.warning("warning: %s, or take what needs both classes as undefined", error)
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
            mixup = config.mixup if split == "train" else 0
            found[split] = Split(rows, Arrays(prepared, size, ranges.get(split), config.seed, mixup))
    return found


def request_of(config: TrainConfig) -> DataRequest:
    """Return what a config says of its X-rays. Of the set, `columns` are those of `test_data`."""
    meaning = (config.table, config.columns, config.positive, config.data_revision)
    request = DataRequest(config.data_dir, config.config_name, *meaning)
    is_of_test = config.test_data and (config.columns or config.positive) and request.is_set
    return replace(request, columns=None, positive=None) if is_of_test else request


def request_of_test(config: TrainConfig) -> DataRequest:
    """Return what a config says of the X-rays that `test_data` names.

    `columns` were named for those of training, and hold here where the table has them; unless those are the set.
    """
    own = request_of(config)
    named, meant = (config.columns, config.positive), (own.columns, own.positive)
    test = replace(own, data=str(config.test_data), table=None, columns=config.columns, positive=config.positive)
    return replace(test, is_other=named == meant)


def load_rows(config: TrainConfig, splits: tuple[str, ...] = SPLITS) -> dict[str, datasets.Dataset]:
    """Return the original rows of each split that are usable for the task; raise ValueError where a split is empty.

    Of the data that `config.test_data` names, if any, all are the split test. The split `all` holds every X-ray.
    """
    request = request_of(config)
    divided = {}
    if config.test_data and "test" in splits:
        divided["test"] = together(load_splits(request_of_test(config)))
    if own := tuple(split for split in splits if split not in (*divided, "all")):
        found = divide(load_splits(request), config.protocol, config.task, config.fold, own)
        divided |= {split: found[split] for split in own}
    if "all" in splits:
        divided["all"] = together(load_splits(request))
    usable = {split: TASKS[config.task].usable(divided[split]) for split in splits}
    if empty := [split for split, rows in usable.items() if not len(rows)]:
        is_other = empty[0] == "test" and config.test_data
        where = config.test_data if is_other else f"{config.data_dir} (protocol {config.protocol})"
        which = "X-ray" if is_other or empty[0] == "all" else f"{empty[0]} X-ray"
        needed, field = ("lung mask", "mask") if TASKS[config.task].learns_masks else ("label", "label")
        ways = f"pass more X-rays, or name the column of a table with --columns {field}=..."
        ways += "" if TASKS[config.task].learns_masks else ", or folders and values of tuberculosis with --positive"
        ways += ", or choose another --task" if empty[0] == "train" else ""
        raise ValueError(f"no {which} in {where} has a {needed}, as {config.task} needs: {ways}")
    return usable


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
    """Return the model of a run; raise FileNotFoundError or ValueError where it is not a finished lung model."""
    return TrainedModel.from_run(RunFolder.read(segmenter).path, "lung_segmentation")


def describe(config: TrainConfig, rows: dict[str, datasets.Dataset]) -> RunData:
    """Return the values of `data.json` for the rows of each split.

    Raise ValueError where an earlier model (`check_earlier`) was trained on a test patient of this run.
    """
    check_earlier(config, rows["test"])  # before any X-ray is read
    train, validation, test = (list(rows[split]["id"]) for split in ("train", "validation", "test"))
    request = request_of(config)
    chosen_with = frozenset(map(short_digest, rows["validation"]["patient_id"]))
    earlier = learned_earlier(config, Seen(frozenset(validation), chosen_with, frozenset(), None))
    data = RunData(
        fingerprint=fingerprint_of(request, rows),
        train=train,
        validation=validation,
        test=test,
        earlier=sorted(earlier.ids),
        pixels={"earlier": sorted(earlier.pixels)},
    )
    drawn = {split: count_synthetic(one) for split, one in rows.items()}
    if any(drawn.values()):
        data["synthetic"], data["synthetic_learned"] = sum(drawn.values()), drawn["train"] + drawn["validation"]
    learned = sorted(earlier.patients)
    if config.test_data or not request.is_set:
        data["source"] = request.name
        data["counts"] = {split: counts_of(one) for split, one in rows.items()}
        data["patients"] = {split: sorted(set(map(short_digest, one["patient_id"]))) for split, one in rows.items()}
        data["patients"]["earlier"] = learned
        _check_divided(config, seen_in(data, LEARNED), rows["test"])
    elif learned:
        data["patients"] = {"earlier": learned}
    if config.test_data:
        other = request_of_test(config)
        data["test_source"] = other.name
        data["fingerprint"] += fingerprint_of(other, {"test": rows["test"]})
    for name, source in earlier_models(config).items():
        data[name] = digest_of_model(source)
    if license := inherited_license(config):
        data["license"] = license
    return data


def _check_divided(config: TrainConfig, seen: Seen, test: datasets.Dataset) -> None:
    """Raise ValueError where a patient to train on, or to choose the epoch with, is also one to test on."""
    if leaked := leaked_ids(seen, test, "default"):
        said = f"{len(leaked)} of the {len(test)} X-rays to test on ({min(leaked)}, ...) are of patients"
        if config.test_data:
            way = f"that {config.data_dir} trains on, too: pass other X-rays as --test; give other people other ids"
        else:
            way = "who are in train or validation, too: put each patient into one split; give other people other ids"
        raise ValueError(f"{config.test_data or config.data_dir}: {said} {way}")


def learned_pixels(config: TrainConfig, splits: dict[str, Split]) -> dict[str, list[str]]:
    """Return the digests of the gray pixels of train, validation and the X-rays of earlier models."""
    own = {name: sorted(set(splits[name].arrays.prepared["digest"])) for name in LEARNED}
    validation = Seen(frozenset(), frozenset(), frozenset(own["validation"]), None)
    return own | {"earlier": sorted(learned_earlier(config, validation).pixels)}


def count_synthetic(rows: datasets.Dataset) -> int:
    """Return how many X-rays are marked as synthetic; none is decoded."""
    images = with_files(rows.select_columns("image"), ["image"])
    return sum(is_synthetic(row["image"]["bytes"]) for row in images)


def counts_of(rows: datasets.Dataset) -> dict[str, int]:
    """Return the number of X-rays of each site and of each label."""
    sites = Counter(rows.features["site"].int2str(list(rows["site"])))
    names = rows.features["label"].names
    labels = Counter("unlabelled" if label is None else names[label] for label in rows["label"])
    return {f"site: {site}": count for site, count in sorted(sites.items())} | dict(sorted(labels.items()))


def together(splits: datasets.DatasetDict) -> datasets.Dataset:
    """Return the rows of all splits, sorted by id."""
    rows = datasets.concatenate_datasets(list(splits.values()))
    return rows.select(sorted(range(len(rows)), key=rows["id"].__getitem__))
