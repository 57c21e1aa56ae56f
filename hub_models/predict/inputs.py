"""Find X-rays to read wherever they are: a file, folder, zip, glob, list, Parquet or dataset, here or at a URL."""

import logging
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

import fsspec
from fsspec.implementations.local import LocalFileSystem

import chest_xray_masks
from chest_xray_masks import HEAD_BYTES, ZIP_ERRORS, read_member, regular_size, scan, zip_members
from hub_models.dataset.folders import is_mask
from hub_models.dataset.schema import holds_rows
from hub_models.dataset.sources import DataRequest, is_dataset_id
from hub_models.dataset.tables import refuse_spreadsheet
from hub_models.imaging.file_kinds import HIDDEN
from hub_models.predict.dataset_rows import of_dataset, of_parquet
from hub_models.predict.index import Entry, Sources, index_of, stream_places
from hub_models.predict.listing import files_below, sized, unreadable_folders
from hub_models.predict.lists import LIST_SUFFIXES, read_list
from hub_models.predict.passed_over import ROWS, PassedOver, why_passed_over
from hub_models.predict.places import open_file

logger = logging.getLogger(__name__)

OF_THE_SET = "masks and second copies of the set"  # why they are passed over
SET_FOLDER = "Lung Segmentation/"  # of the Kaggle set: around its X-rays, too


def find_sources(
    images: str,
    config: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    column: str | None = None,
    allow_paths: bool = False,
    id_column: str | None = None,
) -> Sources:
    """Return the X-rays of `images`, sorted by key unless they are rows.

    * A file, whatever its suffix; a folder, with all below it; a glob. A file without a known suffix is an image by
      its first bytes. What is none is passed over, and counted by the reason. Keys are paths, relative to the folder
      or the glob's fixed part. Of a folder that holds the set, masks and second copies of its X-rays are passed over.
      What is named as an image and is not a file, and a folder that may not be read, raises its error when
      it is opened.
    * A zip: the same as a folder, by its members; zips in it are passed over.
    * A list, .txt with a line for each, or a table as .csv, .tsv or .txt with a column of `LIST_COLUMNS`: paths,
      relative to the list, and URLs. One at a URL names files below its own folder only, unless `allow_paths`.
    * Parquet, a file, a glob or a folder without images: the rows of its image `column`. Keys are those of the column
      `id` where there is one without repeats, else file and row. Cells hold bytes or base64; paths and URLs in them
      are opened with `allow_paths` only, since they lead anywhere.
    * The name of a dataset, of the Hub or `chest_xray_masks`, with `config`, `split` (else all) and `data_dir`. Keys
      are as those of Parquet, else split and row. A folder or zip that holds the set, with `config` or `split`, is
      read as `chest_xray_masks` with that `data_dir`.

    Keys of the rows of a table, Parquet or dataset are those of `id_column`, where it is given.

    All but the last may be at any URL that fsspec takes.

    Raises:
        FileNotFoundError: there is nothing, or no image.
        ValueError: `config` or `split` of a folder of files, a damaged zip, a list without a known column, a table
            without an image column or with several, an `id_column` of what has no columns, or of which two rows have
            the same value.
        ImportError: a URL whose file system needs another package.
    """
    if (config or split) and data_dir is None and (Path(images).exists() or fsspec.core.has_magic(images)):
        if DataRequest(images).is_set:
            images, data_dir = chest_xray_masks.__name__, images
        elif not holds_rows(Path(images)):
            way = "leave them out, or write the X-rays as a dataset with cxm export, and pass its folder"
            raise ValueError(f"--split and --config_name are of a dataset or the set, and {images} is neither: {way}")
    dataset = partial(of_dataset, images, config, split, data_dir, column, allow_paths, id_column)
    if config or split or data_dir:
        return dataset()
    files, path = fsspec.url_to_fs(images)
    if files.isdir(path):
        if isinstance(files, LocalFileSystem):
            open_file(files, path)  # raises where it may not be read
        found = files_below(files, path)
        return _folder(files, path, found, images, column, allow_paths, id_column, _not_xrays(files, path))
    if files.isfile(path):
        return _file(files, path, images, column, allow_paths, id_column)
    if fsspec.core.has_magic(path):
        root = re.split(r"[^/]*[*?[]", path, maxsplit=1)[0].rstrip("/")
        found = chain(sized(files, files.glob(path, detail=True)), unreadable_folders(files, root, path))
        return _folder(files, root, found, images, column, allow_paths, id_column)
    if isinstance(files, LocalFileSystem) and os.path.lexists(path):
        regular_size(path)  # raises why it is none
    if not is_dataset_id(images) or PurePosixPath(images).suffix.lower() in ROWS:
        raise FileNotFoundError(f"{images} does not exist: pass a file, folder, zip, glob, list, Parquet or dataset")
    return dataset()


def _file(
    files: fsspec.AbstractFileSystem,
    path: str,
    images: str,
    column: str | None,
    allow_paths: bool,
    id_column: str | None,
) -> Sources:
    """Return the X-rays of one file: a list, Parquet, a zip or an image."""
    name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix.lower()
    if suffix in LIST_SUFFIXES:
        return read_list(files, path, images, allow_paths, id_column)
    if suffix == ".parquet":
        return of_parquet(files, {name: path}, column, allow_paths, id_column)
    refuse_spreadsheet(images)
    _check_no_column(images, id_column)
    if suffix == ".zip":
        return _zip(files, path)
    entry = (name, path, None, files.size(path))
    return Sources(index_of([entry]), partial(stream_places, partial(open_file, files)))


def _check_no_column(images: str, id_column: str | None) -> None:
    if id_column:
        raise ValueError(f"{images} has no column {id_column}: leave --id_column out, or pass a table of the X-rays")


def _not_xrays(files: fsspec.AbstractFileSystem, path: str) -> frozenset[str]:
    """Return the relative names of masks and second copies in a folder or zip that holds the set.

    Each stands beside an X-ray of the same id. A folder of masks alone is read as it is.
    """
    if not isinstance(files, LocalFileSystem):
        return frozenset()
    tree = scan(path)
    root = Path(path).resolve()
    if root.is_file():
        named = [(file, file.member) for file in tree.files]
    else:
        named = [(file, Path(file.path).relative_to(root).as_posix()) for file in tree.files if not file.member]
    xrays: dict[str, str] = {}
    for file, name in named:  # the best copy of each comes first
        if file.role == "image":
            xrays.setdefault(file.id, name)
    others = [name for file, name in named if file.role != "reading" and name != xrays.get(file.id, name)]
    if others:
        logger.info("%s holds the set: %d masks and second copies passed over", path, len(others))
    return frozenset(others)


def _folder(
    files: fsspec.AbstractFileSystem,
    root: str,
    found: Iterable[tuple[str, int | None]],
    images: str,
    column: str | None,
    allow_paths: bool,
    id_column: str | None,
    others: frozenset[str] = frozenset(),
) -> Sources:
    """Return the images among the files found under `root` but `others`, else their Parquet."""
    tables, passed_over, zips, no_files = {}, PassedOver(), 0, 0

    def chosen() -> Iterator[Entry]:
        nonlocal zips, no_files
        for path, size in found:
            key = path[len(root) :].strip("/")
            zips += key.lower().endswith(".zip")
            if key.endswith(".parquet") and not HIDDEN.search(key):
                tables[key] = path
            elif key in others:
                passed_over.add(OF_THE_SET, key)
            elif why := why_passed_over(key, size, partial(files.read_block, path, 0, HEAD_BYTES)):
                passed_over.add(why, key)
            else:
                no_files += size is None
                yield key, path, None, size

    index = index_of(_without_masks(chosen(), passed_over), by_key=True)
    _say_zips(images, zips)
    if tables and len(index) == no_files:
        if no_files:
            said = f"{images} holds tables, and {index['source'][0]} that cannot be read"
            raise ValueError(f"{said}: take it away, or pass {images.rstrip('/')}/*.parquet")
        rows = of_parquet(files, dict(sorted(tables.items())), column, allow_paths, id_column)
        return replace(rows, passed_over=passed_over)
    _check_no_column(images, id_column)
    for key in tables:
        passed_over.add(".parquet", key)
    if len(index):
        open_place = partial(open_file, files)
        return Sources(index, partial(stream_places, open_place), passed_over=passed_over)
    raise _no_image(images, passed_over)


def _without_masks(entries: Iterator[Entry], passed_over: PassedOver) -> Iterator[Entry]:
    """Yield the entries that are not masks by their place or name; masks alone are what somebody wants to read."""
    masks: list[Entry] = []
    has_xray = False
    for entry in entries:
        if is_mask(entry[0].removeprefix(SET_FOLDER)):
            masks.append(entry)
        else:
            has_xray = True
            yield entry
        while has_xray and masks:
            passed_over.add("mask, by its place or name", masks.pop(0)[0])
    yield from masks


def _say_zips(images: str, count: int) -> None:
    if count:
        logger.warning("warning: %s holds %d zips, which are not read: unpack them, or read each", images, count)


def _no_image(images: str, passed_over: PassedOver) -> FileNotFoundError:
    found = str(passed_over) if passed_over else "it is empty"
    return FileNotFoundError(f"no image in {images}: {found}; pass one that holds PNG, JPEG, TIFF, DICOM or Parquet")


def _zip(files: fsspec.AbstractFileSystem, path: str) -> Sources:
    try:
        archive = zipfile.ZipFile(files.open(path))
        listed = zip_members(archive)
    except ZIP_ERRORS as error:
        raise ValueError(f"{path} is not a whole zip ({error}): get it again") from error

    def read(member: str, count: int = -1) -> bytes:
        return read_member(archive, member, f"{PurePosixPath(path).name}/{member}", count=count)

    members = {one.filename: one for one in listed}
    for one in listed:
        if one.CRC != members[one.filename].CRC:
            raise ValueError(f"{path} holds two files {one.filename} that differ: get the zip again")
    _say_zips(path, sum(name.lower().endswith(".zip") for name in members))
    others, passed_over = _not_xrays(files, path), PassedOver()

    def chosen() -> Iterator[Entry]:
        for name, one in members.items():
            if one.is_dir() and PurePosixPath(name).suffix.lower() not in ROWS:
                continue
            size = one.file_size
            why = OF_THE_SET if name in others else why_passed_over(name, size, partial(read, name, HEAD_BYTES))
            if why:
                passed_over.add(why, name)
            else:
                yield name, name, None, size

    index = index_of(_without_masks(chosen(), passed_over), by_key=True)
    if not len(index):
        raise _no_image(path, passed_over)
    return Sources(index, partial(stream_places, read), (files.unstrip_protocol(path),), passed_over)
