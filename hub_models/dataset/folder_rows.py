"""Make rows of a folder of X-rays: its table, its masks, its splits and classes in folders, its DICOM headers."""

import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import chest_xray_masks as cxm
from hub_models.console import counted
from hub_models.dataset.columns import (
    SHOWN_VALUES,
    Labels,
    age_of,
    labels_of,
    sex_of,
    splits_of,
)
from hub_models.dataset.folder_table import FolderTable, read_folder_table
from hub_models.dataset.folders import Listing, labels_of_folders, pair_masks, split_of_path
from hub_models.dataset.tables import SPREADSHEETS, TextColumns
from hub_models.imaging.file_kinds import is_dicom
from hub_models.imaging.source import check_xray

logger = logging.getLogger(__name__)

CHUNK = 32  # X-rays that are read together
HEADER = {"patient_id": "PatientID", "sex": "PatientSex", "age_years": "PatientAge"}


class FolderXray(NamedTuple):
    """One X-ray of a folder; None or "" for what is not known of it."""

    id: str
    patient_id: str
    site: str
    label: int | None
    sex: str | None
    age_years: float | None
    findings: str | None
    split: str | None
    image: cxm.SetFile
    masks: tuple[cxm.SetFile, ...]


def find_xrays(
    listing: Listing, name: str, wanted: str | None, given: dict[str, str], labels: Labels, is_other: bool = False
) -> tuple[list[FolderXray], list[str]]:
    """Return the X-rays of a folder or zip, sorted by id, and lines that say how it was understood.

    `name` is the site of X-rays that have no other. `given` columns come before guessed ones; with `is_other` they
    were named for another source.

    Raises:
        FileNotFoundError: the folder holds no X-ray, or the table does not exist.
        ValueError: the table, a value in it, or a mask has no one meaning.
    """
    root = listing.root
    if not listing.xrays:
        held = ", ".join(f"{count} {suffix}" for suffix, count in sorted(listing.others.items()))
        ways = f"pass a folder or zip of X-rays, or the set in one of its layouts: {cxm.LAYOUTS}"
        raise FileNotFoundError(f"no chest X-rays in {root} (files: {held or 'none'}): {ways}")
    said: list[str] = []
    if spreadsheets := sum(listing.others.get(suffix, 0) for suffix in SPREADSHEETS):
        count = counted(spreadsheets, "spreadsheet")
        said.append(f"not read: {count}")
        logger.warning("warning: %s holds %s, not read: save the table of X-rays as CSV (UTF-8)", root, count)
    table = read_folder_table(listing, wanted, given, said, is_other)
    if table is None and given and not is_other:
        raise ValueError(
            f"{root} has no table, but --columns {next(iter(given))}=... names a column of one: pass --table FILE"
        )
    place, columns, keys, _ = table or FolderTable(f"{root}", {}, list(listing.xrays), [])
    masks = _masks_of(listing, table, said)
    ids = _ids_of(keys, columns)
    values = _values_of(keys, columns, place, labels, said)
    files = listing.all()
    found = [
        FolderXray(id, patient, site or name, label, sex, age, text or None, split, files[key], masks.get(key, ()))
        for id, key, patient, site, label, sex, age, text, split in zip(ids, keys, *values, strict=True)
    ]
    with_masks = Counter(("a mask" if one.masks else "no mask") for one in found)
    said.append(
        f"{root}: {len(found)} X-rays, {', '.join(f'{count} with {what}' for what, count in with_masks.items())}"
    )
    return sorted(found, key=lambda one: one.id), said


def _masks_of(listing: Listing, table: FolderTable | None, said: list[str]) -> dict[str, tuple[cxm.SetFile, ...]]:
    """Return the masks of each X-ray; what a table does not name, and masks of no X-ray, are said."""
    files = listing.all()
    if table and (others := sorted(listing.xrays.keys() - {*table.keys, *table.masks})):
        what = len(others), table.place, others[0]
        logger.warning("warning: %d X-rays are in no row of %s and left out (%s, ...)", *what)
        said.append(f"{len(others)} X-rays that {table.place} does not name are left out")
    if table and "mask" in table.columns:
        return {key: (files[mask],) for key, mask in zip(table.keys, table.masks, strict=True) if mask}
    pairs, alone = pair_masks(listing)
    if alone:
        logger.warning("warning: %d masks belong to no X-ray, or cover only one lung (%s, ...)", len(alone), alone[0])
        said.append(f"{len(alone)} masks are left out")
    return {key: tuple(files[mask] for mask in masks) for key, masks in pairs.items()}


def _ids_of(keys: list[str], columns: TextColumns) -> list[str]:
    """Return a unique id of each X-ray: of its column, else the name of its file, else its path."""
    stems = [PurePosixPath(key).stem for key in keys]
    paths = [str(PurePosixPath(key).with_suffix("")) for key in keys]
    choices = [columns.get("id", []), stems, paths, keys]
    return next(ids for ids in choices if len(set(filter(None, ids))) == len(keys))


def _values_of(keys: list[str], columns: TextColumns, place: str, labels: Labels, said: list[str]) -> list[list[Any]]:
    """Return patient, site, label, sex, age, findings and split of each X-ray, as columns."""
    blank = [""] * len(keys)
    sexes, ages = columns.get("sex", blank), columns.get("age", blank)
    parsed: list[tuple[str, list[str], list[Any]]]
    parsed = [("sex", sexes, list(map(sex_of, sexes))), ("age", ages, list(map(age_of, ages)))]
    for field, values, found in parsed:
        if unknown := sorted({value for value, one in zip(values, found, strict=True) if value and one is None}):
            shown = ", ".join(unknown[:SHOWN_VALUES])
            logger.warning("warning: %s of %s cannot be read and counts as unknown: %s", field, place, shown)
    if "label" in columns:
        label = labels_of(columns["label"], labels, f"the label column of {place}")
    else:
        label = labels_of_folders(keys, labels, place)
    if "split" in columns:
        split = splits_of(columns["split"], f"the split column of {place}")
    else:
        split = list(map(split_of_path, keys))
    counts = Counter({None: "unlabelled", 0: "normal", 1: "tuberculosis"}[one] for one in label)
    source = "the table" if "label" in columns else "folders"
    said.append(f"labels, of {source}: {', '.join(f'{count} {what}' for what, count in counts.items())}")
    return [
        columns.get("patient_id", blank),
        columns.get("site", blank),
        label,
        parsed[0][2],
        parsed[1][2],
        columns.get("findings", blank),
        split,
    ]


def examples(xrays: list[FolderXray], digest: Callable[[bytes], str]) -> Iterator[dict[str, Any]]:
    """Yield an example of each X-ray: the fields of the builder, its `split`, and the `digest` of its pixels.

    Raises:
        ValueError: a file is damaged, or a mask is not as large as its X-ray.
    """
    waiting = iter(xrays)
    with cxm.Reader() as reader, ThreadPoolExecutor(4) as pool:
        while chunk := list(islice(waiting, CHUNK)):
            yield from pool.map(lambda xray: _example(xray, reader, digest), chunk)
        for id, why in sorted(reader.odd_masks.items()):
            logger.warning("warning: the mask of %s %s", id, why)


def _example(xray: FolderXray, read: cxm.Reader, digest: Callable[[bytes], str]) -> dict[str, Any]:
    image, header = read(xray.image), {}
    if is_dicom(image[: cxm.HEAD_BYTES], xray.image.name):
        header, image = header_of(image), cxm.dicom_png(image, xray.image.name)
    size = check_xray(image, xray.image.name)
    mask = cxm.mask_png(((file.name, read(file)) for file in xray.masks), size) if xray.masks else None
    if mask and (why := cxm.doubt_of(np.asarray(Image.open(io.BytesIO(mask), formats=("PNG",))) > 0)):
        read.odd_masks[xray.id] = why
    return {
        "id": xray.id,
        "patient_id": xray.patient_id or header.get("patient_id") or "",
        "site": xray.site,
        "image": {"path": None, "bytes": image},
        "mask": {"path": None, "bytes": mask} if mask else None,
        "label": xray.label,
        "sex": xray.sex or sex_of(header.get("sex", "")),
        "age_years": xray.age_years or age_of(header.get("age_years", "")),
        "findings": xray.findings,
        "reading": None,
        "split": xray.split,
        "digest": digest(image),
    }


def header_of(data: bytes) -> dict[str, str]:
    """Return patient id, sex and age that a DICOM header holds, as text; fields without a value are left out."""
    import pydicom

    header = pydicom.dcmread(
        io.BytesIO(data), stop_before_pixels=True, specific_tags=list(HEADER.values()), force=True
    )
    return {field: str(header[tag].value) for field, tag in HEADER.items() if tag in header and header[tag].value}
