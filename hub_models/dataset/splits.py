"""Which X-rays train, validate and test: the project's own parts, published splits, across sites, or five folds."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import datasets

from chest_xray_masks import SITES, SPLITS, patient_of, patients_of
from hub_models.dataset.folds import FOLDS, fold_split
from hub_models.dataset.published import published_split

logger = logging.getLogger(__name__)

IDIAP_SPLIT_OF_TASK = {"lung_segmentation": "idiap_segmentation", "tb_classification": "idiap_classification"}


class Xray(NamedTuple):
    """What a protocol may go by: `part` is the builder's, `site` Montgomery or Shenzhen."""

    id: str
    patient_id: str
    site: str
    part: str


def _default(xray: Xray, task: str, fold: int) -> str | None:
    return xray.part


def _idiap(xray: Xray, task: str, fold: int) -> str | None:
    if task not in IDIAP_SPLIT_OF_TASK:
        known = ", ".join(IDIAP_SPLIT_OF_TASK)
        raise ValueError(f"protocol idiap has no split for task {task!r}: choose one of {known}, or another protocol")
    return published_split(xray.id, IDIAP_SPLIT_OF_TASK[task])


def _ark(xray: Xray, task: str, fold: int) -> str | None:
    return published_split(xray.id, "ark_shenzhen")


def _from_site(site: str) -> Callable[[Xray, str, int], str | None]:
    """Protocol that trains and validates on a site's own parts and tests on all of the other site."""

    def split_of_fold(xray: Xray, task: str, fold: int) -> str | None:
        """Test at the other site; at `site` the builder's part, its test left out."""
        if xray.site != site:
            return "test"
        return xray.part if xray.part != "test" else None

    return split_of_fold


def _folds(xray: Xray, task: str, fold: int) -> str | None:
    return fold_split(xray.patient_id, fold)


# A protocol: (X-ray, task, fold) to a part, or None where it leaves the X-ray out.
_PART_OF: dict[str, Callable[[Xray, str, int], str | None]] = {
    "default": _default,
    "idiap": _idiap,
    "ark": _ark,
    "mc_to_shenzhen": _from_site(SITES["MC"]),
    "shenzhen_to_mc": _from_site(SITES["Shenzhen"]),
    "folds": _folds,
}
PROTOCOLS = tuple(_PART_OF)
PATIENT_SHARING = ("idiap",)  # published splits that part the films of one patient


def divide(
    rows: datasets.DatasetDict, protocol: str, task: str, fold: int | None = None
) -> dict[str, datasets.Dataset]:
    """Rows for train, validation and test as `protocol` has them, each sorted by id, with all columns.

    `rows` are the builder's parts (any columns beside `id`, `patient_id` and `site`: prepared rows do too).

        default: the builder's parts.
        idiap: Idiap's published split for `task`. It parts the films of a patient: a warning says whose.
        ark: Ark's published split, Shenzhen only.
        mc_to_shenzhen, shenzhen_to_mc: the builder's train and validation of one site, all of the other as test.
        folds: five folds by patient, `fold` 0 to 4: 20 % test, 10 % validation, 70 % train.

    An X-ray that a published split does not know is left out. No image is decoded.

    Raises:
        ValueError: an unknown protocol, a task that it has no split for, a fold where none belongs or none where one
            does, or a part without any X-ray.
    """
    _check(protocol, fold)
    xrays = _xrays(rows)
    chosen: dict[str, list[int]] = {part: [] for part in SPLITS}
    for index in sorted(range(len(xrays)), key=lambda index: xrays[index].id):
        if part := _PART_OF[protocol](xrays[index], task, fold or 0):
            chosen[part].append(index)
    name = protocol if fold is None else f"{protocol} (fold {fold})"
    for part, indices in chosen.items():
        if not indices:
            sites = Counter(xray.site for xray in xrays)
            held = " and ".join(f"{sites[site]} {site}" for site in SITES.values())
            way_out = "pass more of the set, or another protocol"
            raise ValueError(f"protocol {name} leaves no {part} X-ray: the data hold {held}; {way_out}")
    pool = datasets.concatenate_datasets(list(rows.values()))
    splits = {part: pool.select(indices) for part, indices in chosen.items()}
    if shared := shared_patients(splits):
        xrays = "; ".join(", ".join(f"{id} in {part}" for id, part in found) for found in shared.values())
        logger.warning("protocol %s has films of one patient in several parts: %s", name, xrays)
    return splits


def _check(protocol: str, fold: int | None) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    if protocol == "folds" and fold not in range(FOLDS):
        raise ValueError(f"protocol folds needs a fold from 0 to {FOLDS - 1}, got {fold}")
    if protocol != "folds" and fold is not None:
        raise ValueError(f"protocol {protocol} has no folds, got fold {fold}: leave it out, or pass protocol folds")


def _xrays(rows: datasets.DatasetDict) -> list[Xray]:
    """Every row of the parts, one part behind the other; other columns are not read."""
    xrays = []
    for part, share in rows.items():
        known = share.select_columns(["id", "patient_id", "site"])[:]
        sites = share.features["site"].int2str(known["site"])
        xrays += [
            Xray(id, patient, site, part)
            for id, patient, site in zip(known["id"], known["patient_id"], sites, strict=True)
        ]
    return xrays


def shared_patients(splits: dict[str, datasets.Dataset]) -> dict[str, list[tuple[str, str]]]:
    """Films (id, part) by patient id, of those patients that have films in more than one of the parts."""
    xrays: dict[str, list[tuple[str, str]]] = {}
    for part, share in splits.items():
        known = share.select_columns(["id", "patient_id"])[:]
        for id, patient in zip(known["id"], known["patient_id"], strict=True):
            xrays.setdefault(patient, []).append((id, part))
    shared = {patient: sorted(found) for patient, found in xrays.items() if len({part for _, part in found}) > 1}
    return dict(sorted(shared.items()))


def leaks(trained_ids: Iterable[str], test: datasets.Dataset) -> list[str]:
    """Ids, sorted, of the test rows whose patient has a film among `trained_ids`; the same film is one, too.

    One patient's films are known from `chest_xray_masks.SAME_PATIENT`, from the rows' `patient_id`, and from their
    readings ("same pt as ...") where they hold the column `reading`. No image is decoded.
    """
    names = [name for name in ("id", "patient_id", "reading") if name in test.column_names]
    known = test.select_columns(names)[:]
    readings = zip(known["id"], known.get("reading", []), strict=False)
    patients = patients_of({id: reading for id, reading in readings if reading})
    trained = {patient_of(id, patients) for id in trained_ids}
    return sorted(
        id
        for id, patient in zip(known["id"], known["patient_id"], strict=True)
        if patient_of(id, patients) in trained or patients.get(patient, patient) in trained
    )
