"""Read the table of a folder of X-rays: which it is, what its columns mean, which files its rows name."""

import logging
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import chest_xray_masks as cxm
from hub_models.dataset.columns import NO_COLUMN, columns_here, described, guess_columns
from hub_models.dataset.folders import Listing, PathFinder
from hub_models.dataset.tables import EmptyTableError, TextColumns, read_table

logger = logging.getLogger(__name__)

TABLE_NAMES = ("metadata", "labels", "train", "data")  # stems, of which the first is taken where there are several


class FolderTable(NamedTuple):
    """A table of X-rays and what its rows name.

    Attributes:
        place: its path in the folder, or where it is.
        columns: by field, of rows whose X-ray is there.
        keys: path in the listing of each row's X-ray.
        masks: the same of its mask, "" for none; empty without such a column.
    """

    place: str
    columns: TextColumns
    keys: list[str]
    masks: list[str]


def read_folder_table(
    listing: Listing, wanted: str | None, given: dict[str, str], said: list[str], is_other: bool = False
) -> FolderTable | None:
    """Return the table of a folder, or the `wanted` one; None without any. `said` gets how it was understood.

    Columns `given` for another source (`is_other`) hold as `columns.columns_here` says.

    Raises:
        FileNotFoundError: no such table, or no such mask.
        ValueError: it is damaged, or has no one meaning.
    """
    usable: dict[str, tuple[dict[str, str], TextColumns, list[str]]] = {}
    tables = _tables_of(listing, wanted)
    if is_other:
        names = dict.fromkeys(name for columns in tables.values() for name in columns)
        given = columns_here(given, names, str(listing.root))
    complete = {name for name, columns in tables.items() if {*given.values()} - {NO_COLUMN} <= columns.keys()}
    for name, columns in tables.items():
        if given and complete and name not in complete:
            continue
        fields = guess_columns(columns, given, name)
        image, keys = _image_column(listing, name, columns, fields, "image" in given)
        if image:
            usable[name] = fields | {"image": image}, columns, keys
        elif wanted or given:
            shown = ", ".join(f"{column} ({values[0]})" for column, values in columns.items())
            way = "pass --columns image=..."
            raise ValueError(f"no column of {name} names X-rays of {listing.root}: it has {shown}; {way}")
        else:
            logger.warning("warning: no column of %s names the X-rays: it is not used", name)
            said.append(f"{name} is not used: no column of it names the X-rays")
    if len(usable) > 1:
        named = [name for stem in TABLE_NAMES for name in usable if PurePosixPath(name).stem.casefold() == stem]
        if not named:
            raise ValueError(f"{listing.root} has the tables {', '.join(usable)}: name one with --table")
        others = ", ".join(name for name in usable if name != named[0])
        said.append(f"{others} are not used, only {named[0]} is: name another with --table")
        usable = {named[0]: usable[named[0]]}
    if not usable:
        return None
    ((place, (fields, table, keys)),) = usable.items()
    columns = {field: table[column] for field, column in fields.items()}
    said.append(described(place, fields, table))
    if missing := [value for value, key in zip(columns["image"], keys, strict=True) if not key]:
        logger.warning("warning: %d rows of %s name no X-ray that is there (%s, ...)", len(missing), place, missing[0])
        said.append(f"{len(missing)} rows of {place} that name no X-ray are left out")
    kept = [index for index, key in enumerate(keys) if key]
    found = [keys[index] for index in kept]
    if repeated := [key for key, count in Counter(found).items() if count > 1]:
        raise ValueError(f"{place} has several rows of {repeated[0]}: keep one, or pass another --columns image=...")
    columns = {field: [values[index] for index in kept] for field, values in columns.items()}
    return FolderTable(place, columns, found, _named_masks(listing, place, columns, found))


def _tables_of(listing: Listing, wanted: str | None) -> dict[str, TextColumns]:
    """Return the tables of a folder by their paths in it, or the `wanted` one; empty ones are said."""
    if wanted:
        path, root = Path(wanted).resolve(), listing.root.resolve()
        if not path.is_file() and (root / wanted).is_file():
            path = root / wanted
        if not path.is_file():
            raise FileNotFoundError(f"no table {wanted}: pass a CSV, JSONL or Parquet file")
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else wanted
        return {name: read_table(cxm.read_file(path), str(path))}
    found = {}
    with cxm.Reader() as read:
        for name, file in listing.tables.items():
            try:
                found[name] = read_table(read(file), name)
            except EmptyTableError as error:
                logger.warning("warning: %s", error)
    return found


def _image_column(
    listing: Listing, place: str, columns: TextColumns, fields: dict[str, str], is_given: bool
) -> tuple[str, list[str]]:
    """Return the column that names the X-rays, and their paths: the one of the fields, else that which names most.

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
    return (best[0], named[best[0]]) if most else ("", [])


def _resolved(listing: Listing, place: str, values: list[str], of_mask: bool = False) -> list[str]:
    """Return the path in the listing that each value names; "" for none."""
    files = (listing.masks | listing.xrays) if of_mask else listing.xrays
    finder = PathFinder(files, str(PurePosixPath(place).parent))
    return [finder.find(value, preferred=listing.masks if of_mask else ()) for value in values]


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
