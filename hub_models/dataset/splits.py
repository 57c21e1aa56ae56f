"""Choose which X-rays train, validate and test: the builder's splits, published ones, across sites, or five folds."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import datasets

from chest_xray_masks import SITE_OF_PREFIX, SITES, SPLITS, patient_of, patients_of
from hub_models.dataset.folds import FOLDS, fold_split
from hub_models.dataset.published import published_split

logger = logging.getLogger(__name__)

IDIAP_SPLIT_OF_TASK = {"lung_segmentation": "idiap_segmentation", "tb_classification": "idiap_classification"}
TRAINING_SITE = {"mc_to_shenzhen": SITES["MC"], "shenzhen_to_mc": SITES["Shenzhen"]}  # the other site tests
PROTOCOLS = ("default", "idiap", "ark", *TRAINING_SITE, "folds")
PATIENT_SHARING = ("idiap",)  # published protocols with X-rays of one patient in several splits


class Xray(NamedTuple):
    """What a protocol may depend on: `site` is Montgomery or Shenzhen, `split` the builder's."""

    id: str
    patient_id: str
    site: str
    split: str


def divide(
    rows: datasets.DatasetDict, protocol: str, task: str, fold: int | None = None, needed: tuple[str, ...] = SPLITS
) -> dict[str, datasets.Dataset]:
    """Return the rows of train, validation and test under `protocol`, each sorted by id, with all columns.

    `rows` are the builder's splits, or prepared rows. An X-ray that a published protocol does not know is left out.

        default: the builder's splits.
        idiap: Idiap's published split for `task`; a warning names patients with X-rays in several splits.
        ark: Ark's published split, Shenzhen only.
        mc_to_shenzhen, shenzhen_to_mc: the builder's train and validation of one site, all of the other as test.
        folds: five folds by patient, `fold` 0 to 4: 20 % test, 10 % validation, 70 % train.

    Raises:
        ValueError: an unknown protocol, a task that it has no split for, a fold that is missing or not used, or a
            split among the `needed` without any X-ray.
    """
    _check(protocol, task, fold)
    xrays = _xrays(rows)
    chosen: dict[str, list[int]] = {split: [] for split in SPLITS}
    for index in sorted(range(len(xrays)), key=lambda index: xrays[index].id):
        if split := _split_of(xrays[index], protocol, task, fold or 0):
            chosen[split].append(index)
    name = protocol if fold is None else f"{protocol} (fold {fold})"
    sites = Counter(xray.site for xray in xrays)
    held = " and ".join(f"{sites[site]} {site}" for site in rows["train"].features["site"].names)
    for split, indices in chosen.items():
        if not indices and split in needed:
            way_out = "pass more X-rays, or another protocol"
            raise ValueError(f"protocol {name} leaves no {split} X-ray: the data hold {held}; {way_out}")
    pool = datasets.concatenate_datasets(list(rows.values()))
    splits = {split: pool.select(indices) for split, indices in chosen.items()}
    if shared := shared_patients(splits):
        places = "; ".join(", ".join(f"{id} in {split}" for id, split in found) for found in shared.values())
        logger.warning("protocol %s has X-rays of one patient in several splits: %s", name, places)
    return splits


def _check(protocol: str, task: str, fold: int | None) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    if protocol == "folds" and fold not in range(FOLDS):
        raise ValueError(f"protocol folds needs a fold from 0 to {FOLDS - 1}, got {fold}")
    if protocol != "folds" and fold is not None:
        raise ValueError(f"protocol {protocol} has no folds, got fold {fold}: leave it out, or pass protocol folds")
    if protocol == "idiap" and task not in IDIAP_SPLIT_OF_TASK:
        known = ", ".join(IDIAP_SPLIT_OF_TASK)
        raise ValueError(f"protocol idiap has no split for task {task!r}: choose one of {known}, or another protocol")


def _split_of(xray: Xray, protocol: str, task: str, fold: int) -> str | None:
    """Return the split of an X-ray under a protocol; None for one that it leaves out."""
    if protocol == "folds":
        return fold_split(xray.patient_id, fold)
    if protocol == "idiap":
        return published_split(xray.id, IDIAP_SPLIT_OF_TASK[task])
    if protocol == "ark":
        return published_split(xray.id, "ark_shenzhen")
    if protocol in TRAINING_SITE and xray.site != TRAINING_SITE[protocol]:
        return "test"
    return None if protocol in TRAINING_SITE and xray.split == "test" else xray.split


def _xrays(splits: dict[str, datasets.Dataset]) -> list[Xray]:
    """Return every row of the splits, in order, without reading other columns."""
    xrays = []
    for split, rows in splits.items():
        known = rows.select_columns(["id", "patient_id", "site"])[:]
        columns = known["id"], known["patient_id"], rows.features["site"].int2str(known["site"])
        xrays += [Xray(*values, split) for values in zip(*columns, strict=True)]
    return xrays


def shared_patients(splits: dict[str, datasets.Dataset]) -> dict[str, list[tuple[str, str]]]:
    """Return the X-rays (id, split) by patient id, of the patients with X-rays in several of the splits."""
    found: dict[str, list[tuple[str, str]]] = {}
    for xray in _xrays(splits):
        found.setdefault(xray.patient_id, []).append((xray.id, xray.split))
    return {patient: sorted(places) for patient, places in sorted(found.items()) if len({p[1] for p in places}) > 1}


def leaks(trained_ids: Iterable[str], test: datasets.Dataset) -> list[str]:
    """Return the sorted ids of the test rows whose patient has an X-ray among `trained_ids`, or that are among them.

    Patients are known from `SAME_PATIENT`, from `patient_id`, and from the column `reading` ("same pt as ...") if any.
    """
    known = test.select_columns([name for name in ("id", "patient_id", "reading") if name in test.column_names])[:]
    readings = zip(known["id"], known.get("reading", []), strict=False)
    patients = patients_of({id: reading for id, reading in readings if reading})

    def known_as(id: str) -> str:
        return patient_of(id, patients) if id[:6] in SITE_OF_PREFIX else id  # ids of other sources tell no patient

    trained = set(map(known_as, trained_ids))
    return sorted(
        id
        for id, patient in zip(known["id"], known["patient_id"], strict=True)
        if known_as(id) in trained or patients.get(patient, patient) in trained
    )
