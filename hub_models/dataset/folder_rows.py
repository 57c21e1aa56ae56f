"""Make rows of a folder of X-rays: its table, its masks, its splits and classes in folders, its DICOM headers."""

import io
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from os.path import normpath
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from PIL import Image

import chest_xray_masks as cxm
from hub_models.dataset.columns import (
    NO_COLUMN,
    SHOWN_VALUES,
    Labels,
    age_of,
    guess_columns,
    labels_of,
    sex_of,
    splits_of,
)
from hub_models.dataset.folders import Listing, labels_of_folders, list_folder, pair_masks, split_of_path
from hub_models.dataset.tables import EmptyTableError, TextColumns, read_table
from hub_models.imaging.file_kinds import is_dicom

logger = logging.getLogger(__name__)

CHUNK = 32  # X-rays that are read together
TABLE_NAMES = ("metadata", "labels", "train", "data")  # stems, of which the first is taken where there are several
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
    root: Path, name: str, table: str | None, given: dict[str, str], labels: Labels
) -> tuple[list[FolderXray], list[str]]:
    """Return the X-rays of a folder or zip, sorted by id, and lines that say how it was understood.

    `name` is the site of X-rays that have no other. `given` columns come before guessed ones.

    Raises:
        FileNotFoundError: there is no X-ray, or no such table.
        ValueError: the table, a value in it, or a mask has no one meaning.
    """
    listing = list_folder(root)
    if not listing.xrays:
        held = ", ".join(f"{count} {suffix}" for suffix, count in sorted(listing.others.items()))
        ways = f"pass a folder or zip of X-rays, or the set in one of its layouts: {cxm.LAYOUTS}"
        raise FileNotFoundError(f"no chest X-rays in {root} (files: {held or 'none'}): {ways}")
    said: list[str] = []
    columns: TextColumns = {}
    known = _table_of(listing, table, given, said)
    if known is None:
        keys, place = list(listing.xrays), f"{root}"
        if given:
            raise ValueError(f"{root} has no table, which --columns {next(iter(given))}=... is of: pass --table FILE")
    else:
        place, columns, keys = known
        _say_unused(listing, {*keys, *_named_masks(listing, place, columns, keys)}, place, said)
    masks = _masks_of(listing, keys, columns, place, said)
    ids = _ids_of(keys, columns)
    values = _values_of(keys, columns, place, labels, said)
    files = listing.all()
    found = [
        FolderXray(id, patient, site or name, label, sex, age, text or None, split, files[key], masks.get(key, ()))
        for id, key, patient, site, label, sex, age, text, split in zip(ids, keys, *values, strict=True)
    ]
    counted = Counter(("a mask" if one.masks else "no mask") for one in found)
    said.append(f"{root}: {len(found)} X-rays, {', '.join(f'{count} with {what}' for what, count in counted.items())}")
    return sorted(found, key=lambda one: one.id), said


def _table_of(
    listing: Listing, wanted: str | None, given: dict[str, str], said: list[str]
) -> tuple[str, TextColumns, list[str]] | None:
    """Return the place of the table, its columns by field, and the X-ray of each row; None without a table."""
    usable: dict[str, tuple[dict[str, str], TextColumns]] = {}
    tables = _tables_of(listing, wanted)
    complete = {name for name, columns in tables.items() if {*given.values()} - {NO_COLUMN} <= columns.keys()}
    for name, columns in tables.items():
        if given and complete and name not in complete:
            continue
        fields = guess_columns(columns, given, name)
        if image := _image_column(listing, name, columns, fields, "image" in given):
            usable[name] = fields | {"image": image}, columns
        elif wanted or given:
            shown = ", ".join(f"{column} ({values[0]})" for column, values in columns.items())
            way = "pass --columns image=..."
            raise ValueError(f"no column of {name} names X-rays of {listing.root}: it has {shown}; {way}")
    if len(usable) > 1:
        named = [name for stem in TABLE_NAMES for name in usable if PurePosixPath(name).stem.casefold() == stem]
        if not named:
            raise ValueError(f"{listing.root} has the tables {', '.join(usable)}: name one with --table")
        usable = {named[0]: usable[named[0]]}
    if not usable:
        return None
    ((place, (fields, table)),) = usable.items()
    columns = {field: table[column] for field, column in fields.items()}
    keys = _resolved(listing, place, columns["image"])
    unused = [column for column in table if column not in fields.values()]
    mapping = ", ".join(f"{field}={column}" for field, column in fields.items())
    said.append(f"{place}: columns {mapping}" + (f"; not used: {', '.join(unused)}" if unused else ""))
    if missing := [value for value, key in zip(columns["image"], keys, strict=True) if not key]:
        logger.warning("warning: %d rows of %s name no X-ray that is there (%s, ...)", len(missing), place, missing[0])
    kept = [index for index, key in enumerate(keys) if key]
    found = [keys[index] for index in kept]
    if repeated := [key for key, count in Counter(found).items() if count > 1]:
        raise ValueError(f"{place} has several rows of {repeated[0]}: keep one, or pass another --columns image=...")
    return place, {field: [values[index] for index in kept] for field, values in columns.items()}, found


def _tables_of(listing: Listing, wanted: str | None) -> dict[str, TextColumns]:
    """Return the tables of a folder by their paths in it, or the `wanted` one; empty ones are said."""
    if wanted:
        path, root = Path(wanted).resolve(), listing.root.resolve()
        if not path.is_file():
            raise FileNotFoundError(f"no table {wanted}: pass a CSV, JSONL or Parquet file")
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else wanted
        return {name: read_table(cxm.read_file(path), wanted)}
    found = {}
    with cxm.Reader() as read:
        for name, file in listing.tables.items():
            try:
                found[name] = read_table(read(file), name)
            except EmptyTableError as error:
                logger.warning("warning: %s", error)
    return found


def _image_column(listing: Listing, place: str, columns: TextColumns, fields: dict[str, str], is_given: bool) -> str:
    """Return the column that names the X-rays: the one of the fields if its values do, else that whose values do.

    Raises:
        ValueError: two columns name as many, and not the same.
    """
    order = [fields["image"]] if "image" in fields else []
    order += [] if is_given else [name for name in columns if name not in order and name != fields.get("mask")]
    named = {name: _resolved(listing, place, columns[name]) for name in order}
    counts = {name: sum(map(bool, keys)) for name, keys in named.items()}
    most = max(counts.values(), default=0)
    best = [name for name in order if counts[name] == most]
    if most and any(named[name] != named[best[0]] for name in best[1:]):
        raise ValueError(f"{place} names X-rays in its columns {', '.join(best)}: pass --columns image=...")
    return best[0] if most else ""


def _resolved(listing: Listing, place: str, values: list[str], of_mask: bool = False) -> list[str]:
    """Return the path in the listing that each value names; "" for none.

    A value is a path from the table or the root, one that ends in the same folder and name, or, without a folder, the
    name of a file, with its suffix or without, of which there is one.
    """
    files = (listing.masks | listing.xrays) if of_mask else listing.xrays
    paths = {normalize("NFC", path): path for path in files}
    tails: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in files:
        parts = PurePosixPath(normalize("NFC", path)).parts
        for name in {parts[-1], PurePosixPath(parts[-1]).stem}:
            for tail in {(name,), (*parts[-2:-1], name)}:
                tails[tail].append(path)
    folder = PurePosixPath(place).parent

    def find(value: str) -> str:
        text = normalize("NFC", value.replace("\\", "/"))
        if not text:
            return ""
        for candidate in (normpath(folder / text), normpath(text)):
            if candidate in paths:
                return paths[candidate]
        parts = PurePosixPath(text).parts
        near = tails.get(parts[-2:], [])
        if len(parts) > 1 and not near:  # a file at the root of what the path led to
            near = [path for path in tails.get(parts[-1:], []) if "/" not in path]
        own = [path for path in near if path in listing.masks] if of_mask else near
        own = own or near
        return own[0] if len(own) == 1 else ""

    return list(map(find, values))


def _say_unused(listing: Listing, used: set[str], place: str, said: list[str]) -> None:
    if others := sorted(listing.xrays.keys() - used):
        logger.warning("warning: %d X-rays are in no row of %s and left out (%s, ...)", len(others), place, others[0])
        said.append(f"{len(others)} X-rays that {place} does not name are left out")


def _named_masks(listing: Listing, place: str, columns: TextColumns, keys: list[str]) -> list[str]:
    """Return the mask that each row names, "" for none.

    Raises:
        FileNotFoundError: a mask is not there.
        ValueError: it is an X-ray.
    """
    found = _resolved(listing, place, columns.get("mask", []), of_mask=True)
    for value, mask in zip(columns.get("mask", []), found, strict=True):
        if value and not mask:
            raise FileNotFoundError(f"{place} names a mask {value} that is not there: add it, or empty the cell")
        if mask in keys:
            raise ValueError(f"{place} names {mask} as an X-ray and as the mask {value}: name another file")
    return found


def _masks_of(
    listing: Listing, keys: list[str], columns: TextColumns, place: str, said: list[str]
) -> dict[str, tuple[cxm.SetFile, ...]]:
    files = listing.all()
    if "mask" in columns:
        named = _named_masks(listing, place, columns, keys)
        return {key: (files[mask],) for key, mask in zip(keys, named, strict=True) if mask}
    pairs, alone = pair_masks(listing)
    if alone:
        logger.warning("warning: %d masks are of no X-ray, or of one lung alone (%s, ...)", len(alone), alone[0])
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
    size = cxm.check_image(image, xray.image.name)
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
