"""The X-rays of a pre-training: of several sources, and none of a test split."""

import logging
from dataclasses import dataclass, replace

import datasets
from accelerate import Accelerator

from chest_xray_masks import SITES
from hub_models.dataset.augmentation import STRENGTHS
from hub_models.dataset.batches import MaskedArrays
from hub_models.dataset.preprocessing import prepare
from hub_models.dataset.sources import load_splits
from hub_models.dataset.splits import divide
from hub_models.runs.config import resolved
from hub_models.runs.data import Split, describe, request_of, together
from hub_models.runs.leaks import LEARNED, leaked_ids, seen_in
from hub_models.runs.pretrain_config import PretrainConfig
from hub_models.runs.run_folder import RunData

logger = logging.getLogger(__name__)

ANY_SOURCE = ("default", "folds")  # protocols that divide X-rays of whatever source; the others name the set's
KEPT_PREPARED = ["id", "label", "pixels", "mask", "digest"]  # which all sources have in one form


@dataclass(frozen=True)
class PretrainSource:
    """X-rays of one place, and the config as if they were all."""

    config: PretrainConfig
    rows: dict[str, datasets.Dataset]  # original ones by split; those of test are neither decoded nor learned from


def load_sources(config: PretrainConfig, accelerator: Accelerator) -> list[PretrainSource]:
    """Return the X-rays of all sources; one process reads them first.

    Raises:
        FileNotFoundError: no X-ray at one of them.
        ValueError: a source that is not understood, the set among `config.whole`, a split without any X-ray, or one in
            a source's test split of a patient who is learned from in another.
    """
    alone = replace(config, more_data=[], whole=[])
    with accelerator.main_process_first():
        found = [_divided(replace(alone, data_dir=place)) for place in config.sources]
        found += [_whole(replace(alone, data_dir=place)) for place in config.whole]
    for split in LEARNED:
        if not any(len(source.rows[split]) for source in found):
            places = ", ".join([*config.sources, *config.whole])
            raise ValueError(f"no {split} X-ray in {places} (protocol {config.protocol}): pass more X-rays")
    return found


def _divided(config: PretrainConfig) -> PretrainSource:
    """Return a source by the protocol of `config`, or by its own splits where the protocol does not know it."""
    splits = load_splits(request_of(config))
    if not of_the_set(splits) and config.protocol not in ANY_SOURCE:
        logger.info("%s is not the set: its own splits are used, not protocol %s", config.data_dir, config.protocol)
        config = replace(config, protocol="default")
    return PretrainSource(config, divide(splits, config.protocol, config.task, config.fold, needed=()))


def _whole(config: PretrainConfig) -> PretrainSource:
    splits = load_splits(request_of(config))
    if of_the_set(splits):
        raise ValueError(f"{config.data_dir} holds X-rays of the set, whose test split is left out: pass it as --data")
    rows = together(splits)
    none = rows.select([])
    return PretrainSource(config, {"train": rows, "validation": none, "test": none})


def of_the_set(splits: datasets.DatasetDict) -> bool:
    """Return whether rows name a site of the set."""
    return bool(set(splits["train"].features["site"].names) & set(SITES.values()))


def describe_sources(sources: list[PretrainSource]) -> RunData:
    """Return the values of `data.json` for all sources together; `test` are the X-rays that were left out.

    Raises:
        ValueError: a patient is in the test split of one source and learned from, here or in another.
    """
    parts = [describe(source.config, source.rows) for source in sources]
    if len(parts) == 1:
        return parts[0]
    data = RunData(
        fingerprint="".join(part["fingerprint"] for part in parts),
        train=[id for part in parts for id in part["train"]],
        validation=[id for part in parts for id in part["validation"]],
        test=[id for part in parts for id in part["test"]],
        earlier=[],
        pixels={"earlier": []},
        patients=_joined([part.get("patients", {}) for part in parts]),
        source=", ".join(request_of(source.config).name for source in sources),
    )
    if synthetic := sum(part.get("synthetic", 0) for part in parts):
        data["synthetic"] = synthetic
        data["synthetic_learned"] = sum(part.get("synthetic_learned", 0) for part in parts)
    seen = seen_in(data, LEARNED)
    for source in sources:
        if leaked := leaked_ids(seen, source.rows["test"], source.config.protocol):
            raise ValueError(
                f"{source.config.data_dir} has {len(leaked)} test X-rays of patients who would be learned from in "
                f"another source ({min(leaked)}, ...): take one of the two away, or give other people other ids"
            )
    return data


def _joined(parts: list[dict[str, list[str]]]) -> dict[str, list[str]]:
    """Return the lists of several dicts by key, each sorted and without repeats."""
    keys = sorted({key for part in parts for key in part})
    return {key: sorted({one for part in parts for one in part.get(key, ())}) for key in keys}


def prepare_sources(
    config: PretrainConfig, sources: list[PretrainSource], patches: int, accelerator: Accelerator
) -> dict[str, Split]:
    """Return train and validation of all sources at the model's size, each X-ray of so many patches."""
    size, ranges, found = resolved(config.image_size, "image_size"), {"train": STRENGTHS[config.augment]}, {}
    with accelerator.main_process_first():
        for split in LEARNED:
            held = [source.rows[split] for source in sources if len(source.rows[split])]
            parts = [prepare(rows, size, config.fit).select_columns(KEPT_PREPARED) for rows in held]
            prepared = datasets.concatenate_datasets(parts)
            found[split] = Split(prepared, MaskedArrays(prepared, size, ranges.get(split), config.seed, patches))
    return found
