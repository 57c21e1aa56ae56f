"""Load X-rays from wherever they are, as train, validation and test in the builder's schema.

The set in one of its layouts, a folder or zip of X-rays with a table or without, Parquet, a folder that `datasets`
knows, or a dataset of the Hub.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from PIL import Image

import chest_xray_masks as cxm
from hub_models.console import counted
from hub_models.dataset.columns import parse_columns, parse_positive
from hub_models.dataset.folder_rows import FolderXray, examples, find_xrays
from hub_models.dataset.folders import list_folder
from hub_models.dataset.folds import tenth_of
from hub_models.dataset.schema import features_of, holds_images, is_saved, of_dataset, with_files
from hub_models.dataset.tables import TABLE_SUFFIXES, refuse_spreadsheet
from hub_models.files import named_disk
from hub_models.imaging.file_kinds import IMAGE_SUFFIXES
from hub_models.imaging.gray import to_gray
from hub_models.lifetime import tied_workers

logger = logging.getLogger(__name__)

FILE_SUFFIXES = (*TABLE_SUFFIXES, *IMAGE_SUFFIXES, ".zip")  # of a path, where no Hub id has one
FOLDER_VERSION = 1  # raise when a row of a folder comes to hold something else; part of the cache's key
ROWS_PER_PROCESS = 64  # fewer are decoded faster than a process starts


@dataclass(frozen=True)
class DataRequest:
    """X-rays that a command is to work on, and how to understand them.

    Attributes:
        data: folder, zip, table, Parquet, or the id of a dataset.
        config_name: sites of the set, or the config of a dataset.
        table: file that names the X-rays of a folder.
        columns: "FIELD=COLUMN, ..." in place of what is guessed; see `columns.XRAY_FIELDS`.
        positive: values of the label that are tuberculosis, "TB,1"; all others are normal.
        revision: branch, tag or commit of a dataset.
        is_other: whether `columns` were named for another source, and hold where the table has them.
    """

    data: str
    config_name: str = "all"
    table: str | None = None
    columns: str | None = None
    positive: str | None = None
    revision: str | None = None
    is_other: bool = False

    @cached_property
    def is_set(self) -> bool:
        """Whether these are Montgomery and Shenzhen X-rays in a layout of the builder."""
        if self.table or not (Path(self.data).exists() or "://" in self.data):
            return False
        if Path(self.data).is_file() and not self.data.lower().endswith(".zip"):
            return False
        tree = cxm.scan(self.data)
        if (self.columns or self.positive) and Path(self.data).is_dir():  # of a table, unless all X-rays are the set's
            own = {file.path for file in (*tree.files, *tree.others)}
            others = [file for file in list_folder(Path(self.data).resolve()).xrays.values() if file.path not in own]
            if others:
                return False
        return any(file.role == "image" for file in tree.files) or not tree.files and bool(tree.problems)

    def check_meaning(self) -> None:
        """Raise ValueError where columns are named for the set, which needs none."""
        if (self.columns or self.positive) and not self.is_other and "://" not in self.data and self.is_set:
            way = "pass the table itself, such as labels.csv, as --data, or leave --columns and --positive out"
            raise ValueError(f"{self.data} holds X-rays of the set alone, whose labels are in their names: {way}")

    def check(self) -> None:
        """Raise FileNotFoundError where there is no such path, and it cannot be the id of a dataset."""
        if not (is_dataset_id(self.data) or "://" in self.data or Path(self.data).expanduser().exists()):
            ways = "pass the set, a folder of X-rays, Parquet, or a Hub id"
            raise FileNotFoundError(f"{self.data} does not exist: {ways}")

    @property
    def name(self) -> str:
        """Name of the source: that of its folder, file or dataset."""
        return Path(self.data).resolve().stem if Path(self.data).exists() else self.data


def is_dataset_id(name: str) -> bool:
    """Return whether a name can be the id of a dataset, and is not that of a file of X-rays."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return Path(name).suffix.lower() not in FILE_SUFFIXES


def as_request(data: DataRequest | str | Path) -> DataRequest:
    """Return a place alone as the request for what is there."""
    return data if isinstance(data, DataRequest) else DataRequest(str(data))


def cache_disk() -> AbstractContextManager[None]:
    """Return a context in which a full disk is that of `datasets`' cache."""
    return named_disk(Path(datasets.config.HF_DATASETS_CACHE))


def load_splits(request: DataRequest | str | Path, said: list[str] | None = None) -> datasets.DatasetDict:
    """Return the rows of train, validation and test; built once, then read from the cache.

    Splits are those of the source. Without any, a patient's is a pure function of the patient's id, or of those that
    share an X-ray; without validation, it is a tenth of the patients of train. A split may have no row. `said` gets
    how a source that is not the set was understood, and what is left out.

    Raises:
        FileNotFoundError: nothing is there, or no X-ray.
        ValueError: a damaged or mismatched file, or what cannot be understood without being told.
    """
    request = as_request(request)
    if "://" not in request.data and request.is_set:
        request.check_meaning()
        if request.columns or request.positive:
            logger.info("%s is the set in a layout of its own, which needs no columns", request.data)
        try:
            with cache_disk():
                return datasets.load_dataset(cxm.__name__, request.config_name, data_dir=request.data)
        except datasets.exceptions.DatasetGenerationError as error:
            raise error.__cause__ or error from None  # the cause names the file
    said = [] if said is None else said
    with cache_disk():
        return _divided(_rows(request, said), request, said)


def fingerprint_of(request: DataRequest, splits: Mapping[str, datasets.Dataset]) -> str:
    """Return a digest of the X-rays of a source: of the files of the set, else of all values and the bytes' counts."""
    if request.is_set:
        return cxm.scan(request.data).fingerprint(cxm.SITES.get(request.config_name))
    digest = hashlib.sha256()
    for name, rows in sorted(splits.items()):
        digest.update(name.encode())
        for row in with_files(rows):  # one at a time: together they may not fit in memory
            sizes = [row[column] and len(row[column]["bytes"]) for column in ("image", "mask")]
            digest.update(repr((sizes, [row[column] for column in row if column not in ("image", "mask")])).encode())
    return digest.hexdigest()[:16]


def folder_xrays(request: DataRequest, said: list[str] | None = None) -> list[FolderXray] | None:
    """Return the X-rays of a folder or zip, and log how it was understood; None where the rows are of a dataset.

    `said` gets what is logged.

    Raises:
        FileNotFoundError: the path does not exist, or holds no X-ray.
        ValueError: as `find_xrays`.
    """
    path, table = Path(request.data).expanduser(), request.table
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES and suffix != ".parquet" and path.is_file():
        path, table = path.parent, str(path)
    if suffix == ".parquet" or is_saved(path) or not path.exists():
        request.check()
        return None
    if path.is_file():
        refuse_spreadsheet(request.data)
    listing = list_folder(path)
    tables = [file.path for name, file in listing.tables.items() if name.endswith(".parquet")]
    if path.is_dir() and any(map(holds_images, tables)):
        return None
    if request.config_name != "all":
        named = f"config_name {request.config_name} chooses X-rays of the set"
        raise ValueError(f"{named}, and {request.data} is not the set: leave it out")
    meaning = parse_columns(request.columns), parse_positive(request.positive)
    xrays, lines = find_xrays(listing, request.name, table, *meaning, request.is_other)
    _say(lines, said)
    return xrays


def _say(lines: list[str], said: list[str] | None) -> None:
    """Log lines that say how a source was understood, and add them to `said`."""
    for line in lines:
        logger.info("%s", line)
    if said is not None:
        said += lines


def _rows(request: DataRequest, said: list[str]) -> datasets.Dataset:
    """Return all rows of a source that is not the set, with the column `split`, and `digest` where there is one."""
    xrays = folder_xrays(request, said)
    if xrays is None:
        lines: list[str] = []
        what = request.data, request.config_name, request.columns, request.positive, request.revision
        rows = of_dataset(*what, lines, request.is_other)
        _say(lines, said)
        return rows
    features = features_of(sorted({xray.site for xray in xrays}))
    more = {"split": datasets.Value("string"), "digest": datasets.Value("string")}
    key = hashlib.sha256(repr((FOLDER_VERSION, xrays)).encode()).hexdigest()[:16]
    try:
        return datasets.Dataset.from_generator(
            examples,
            features=datasets.Features(features | more),
            gen_kwargs={"xrays": xrays, "digest": pixel_digest},
            fingerprint=key,
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None  # the cause names the file


def pixel_digest(image: bytes) -> str:
    """Return the `digest_of_gray` of an image file."""
    return digest_of_gray(to_gray(image))


def digest_of_gray(gray: Image.Image) -> str:
    """Return a digest of gray pixels (`to_gray`), the same however they were stored."""
    pixels = np.ascontiguousarray(gray)
    digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode())
    digest.update(pixels.data)
    return digest.hexdigest()[:16]


def warn_of_patients(data: str, unknown: Sequence[str], count: int) -> None:
    """Warn that a source names no patient of the X-rays with the ids `unknown`, out of `count`."""
    warning = "warning: %s names no patient of %d X-rays of %d (%s, ...): each counts as a patient of its own"
    way = "; if a column holds the patients, name it with --columns patient_id=COLUMN"
    logger.warning(warning + way, data, len(unknown), count, unknown[0])


def _divided(rows: datasets.Dataset, request: DataRequest, said: list[str]) -> datasets.DatasetDict:
    """Return the rows by split, the patients known by their ids, else by their X-rays."""
    ids, patients, own = list(rows["id"]), list(rows["patient_id"]), list(rows["split"])
    if len(set(ids)) < len(ids):
        repeated = next(id for id, count in Counter(ids).items() if count > 1)
        raise ValueError(f"{request.data} has several rows of id {repeated}: pass --columns id=... with unique ones")
    if unknown := [id for id, patient in zip(ids, patients, strict=True) if not patient]:
        warn_of_patients(request.data, unknown, len(ids))
        said.append(f"{len(unknown)} X-rays of {len(ids)} have no patient id: each counts as a patient of its own")
    patients = [patient or id for id, patient in zip(ids, patients, strict=True)]
    held: dict[str, set[str]] = {}
    for patient, split in zip(patients, own, strict=True):
        held.setdefault(patient, set()).update([split] if split else [])
    if several := [patient for patient, splits in held.items() if len(splits) > 1]:
        said.append(f"X-rays in several splits: those of {counted(len(several), 'patient')} ({several[0]}, ...)")
        logger.warning("warning: %s holds %s: a training on them is refused", request.data, said[-1])
    if not any(own):
        patients = _joined_by_pixels(rows, patients)
        own = [cxm.split_of(patient) for patient in patients]
    if "validation" not in own:
        is_held = [one == "train" and not tenth_of(patient) for one, patient in zip(own, patients, strict=True)]
        own = ["validation" if held else one for held, one in zip(is_held, own, strict=True)]
    rows = rows.remove_columns([name for name in ("split", "digest", "patient_id") if name in rows.column_names])
    rows = rows.add_column("patient_id", patients).select_columns(list(cxm.FEATURES))
    chosen = {split: np.flatnonzero([one == split for one in own]) for split in cxm.SPLITS}
    if left := own.count(None):
        logger.warning("warning: %d X-rays of %s are in no split and left out", left, request.data)
        said.append(f"{left} X-rays that are in no split are left out")
    return datasets.DatasetDict({split: rows.select(indices) for split, indices in chosen.items()})


def processes_for(rows: datasets.Dataset) -> int | None:
    """Return how many processes decode rows the fastest; None where this one does."""
    processes = min(os.cpu_count() or 1, len(rows) // ROWS_PER_PROCESS)
    return processes if processes > 1 else None


def _joined_by_pixels(rows: datasets.Dataset, patients: list[str]) -> list[str]:
    """Return the patient of each row; those who share an X-ray's pixels count as one."""
    if "digest" in rows.column_names:
        digests = list(rows["digest"])
    else:
        cells = with_files(rows.select_columns("image"), ["image"])
        with tied_workers():
            digests = cells.map(
                lambda row: {"digest": pixel_digest(row["image"]["bytes"])},
                remove_columns="image",
                num_proc=processes_for(rows),
                desc="Comparing X-rays",
            )["digest"]
    first: dict[str, str] = {}

    def known_as(name: str) -> str:
        while first.get(name, name) != name:
            name = first[name]
        return name

    for patient, digest in zip(patients, digests, strict=True):
        one, other = sorted((known_as(f"patient {patient}"), known_as(f"pixels {digest}")))
        first[other] = first[one] = one
    names = {known_as(f"patient {patient}"): patient for patient in sorted(patients, reverse=True)}
    return [names[known_as(f"patient {patient}")] for patient in patients]
