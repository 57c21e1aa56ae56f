"""Rows in the builder's schema as Parquet files that stream, with the original bytes, and what a card says of them."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
from datasets import Dataset, DatasetDict, DatasetInfo, Features
from datasets.arrow_writer import ParquetWriter
from datasets.exceptions import DatasetGenerationError
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils import tqdm
from datasets.utils.metadata import MetadataConfigs
from datasets.utils.py_utils import convert_file_size_to_int

import chest_xray_masks as cxm
from hub_models.dataset.schema import with_files
from hub_models.files import named_disk
from hub_models.hub.export_config import SHARD_SIZE
from hub_models.imaging.gray import is_synthetic
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import resize_mask

ROWS_PER_GROUP = 8  # a stream reads so many for its first row, of up to 10 MB each
OWN_CONFIG, OWN_FOLDER = "default", "data"  # of rows that are not the set's
MAP_SIDE = 64  # pixels of a lung mask in the facts


class Facts(NamedTuple):
    """What a card says of one row; `mode` is PIL's, `lungs` the mask, if any, as (MAP_SIDE, MAP_SIDE) bool."""

    id: str
    patient_id: str
    site: str
    split: str
    label: str | None
    sex: str | None
    age_years: float | None
    findings: str | None
    reading: str | None
    width: int
    height: int
    mode: str
    bytes: int
    synthetic: bool
    lungs: np.ndarray | None


def write_parquet(
    data_dir: Path, folder: Path, max_shard_size: str = SHARD_SIZE, num_shards: int = 1
) -> DatasetInfosDict:
    """Write the set under `data_dir` (folder or zip) to `folder`/<config>/<split>-<n>-of-<m>.parquet.

    Each site that is there has a config; `all` is the same files. A split without rows has no file, as `load_dataset`
    would refuse it. The same rows give the same bytes. `max_shard_size` is that of the images before a last group of
    rows is added. Each split has `num_shards` files or more, as far as it has rows, so that as many workers can stream
    it. Return features, splits and sizes of each config.

    Raises:
        FileNotFoundError: nothing of the set under `data_dir`.
        ValueError: a damaged or mismatched file, or no size.
    """
    sites = {cxm.SITE_OF_PREFIX[row.id[:6]] for row in cxm.rows_of(cxm.scan(data_dir))}
    infos = DatasetInfosDict()
    with TemporaryDirectory(dir=folder) as scratch:
        for config in (name for name, site in cxm.SITES.items() if site in sites):
            builder = cxm.ChestXrayMasks(
                config_name=config, data_dir=str(data_dir), cache_dir=scratch, writer_batch_size=ROWS_PER_GROUP
            )
            target = Path(scratch, config)
            try:
                with named_disk(folder):
                    builder.download_and_prepare(str(target), file_format="parquet", max_shard_size=max_shard_size)
            except DatasetGenerationError as error:
                raise error.__cause__ or error from None  # the cause names the file
            splits = [split for split in builder.info.splits.values() if split.num_examples]
            sizes = (_take(target, folder / config, split.name, num_shards) for split in splits)
            infos[config] = _info(splits, sum(sizes))
    every = [split for info in infos.values() for split in info.splits.values()]
    infos["all"] = _info(every, sum(info.download_size for info in infos.values()))
    return infos


def write_rows(
    splits: DatasetDict, folder: Path, max_shard_size: str = SHARD_SIZE, num_shards: int = 1
) -> DatasetInfosDict:
    """Write rows in the builder's schema, of any sites, to `folder`/data/<split>-<n>-of-<m>.parquet.

    Splits without rows and the sizes are as in `write_parquet`. Return what it does, of the one config `default`.

    Raises:
        ValueError: no X-ray is in a split, or no size.
    """
    limit, infos, size = convert_file_size_to_int(max_shard_size), list[SplitInfo](), 0
    (folder / OWN_FOLDER).mkdir()
    with named_disk(folder):
        for split, rows in ((split, rows) for split, rows in splits.items() if len(rows)):
            count = min(len(rows), max(num_shards, math.ceil(_image_bytes(rows) / limit)))
            num_bytes = 0
            for number in range(count):
                path = folder / OWN_FOLDER / f"{split}-{number:05d}-of-{count:05d}.parquet"
                num_bytes += rows.shard(count, number).to_parquet(path, batch_size=ROWS_PER_GROUP)
                size += path.stat().st_size
            infos.append(SplitInfo(split, num_bytes, len(rows)))
    if not infos:
        raise ValueError("no X-ray is in a split: pass --columns split=-, for splits by patient")
    return DatasetInfosDict({OWN_CONFIG: _info(infos, size, splits[infos[0].name].features)})


def _image_bytes(rows: Dataset) -> int:
    """Return the bytes of all images and masks."""
    cells = with_files(rows.select_columns(["image", "mask"]))
    return sum(len(cell["bytes"]) for row in cells for cell in row.values() if cell)


def _take(scratch: Path, folder: Path, split: str, num_shards: int) -> int:
    """Move a split's files to `folder` under the names that the Hub's own tools give; return their bytes."""
    folder.mkdir(exist_ok=True)
    paths = _spread(sorted(scratch.glob(f"*-{split}*.parquet")), num_shards)
    size = sum(path.stat().st_size for path in paths)
    for number, path in enumerate(paths):
        path.rename(folder / f"{split}-{number:05d}-of-{len(paths):05d}.parquet")
    return size


def _spread(paths: list[Path], num_shards: int) -> list[Path]:
    """Return a split's files, written again as `num_shards` of nearly as many rows each where they are fewer."""
    rows = sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)
    count = min(num_shards, rows)
    if len(paths) >= count:
        return paths
    ends = [rows * (number + 1) // count for number in range(count)]
    spread = [paths[0].with_name(f"spread-{number:05d}.parquet") for number in range(count)]
    groups, rest = _groups(paths), None
    for path, size in zip(spread, np.diff([0, *ends]), strict=True):
        with ParquetWriter(features=cxm.FEATURES, path=str(path)) as writer:
            while size:
                rest = rest if rest is not None and rest.num_rows else next(groups)
                taken = rest.slice(0, size)
                writer.write_table(taken, ROWS_PER_GROUP)
                rest, size = rest.slice(taken.num_rows), size - taken.num_rows
            writer.finalize()
    return spread


def _groups(paths: list[Path]) -> Iterator[pyarrow.Table]:
    for path in paths:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from map(file.read_row_group, range(file.num_row_groups))


def _info(splits: list[SplitInfo], download_size: int, features: Features = cxm.FEATURES) -> DatasetInfo:
    """Return what the head of a card says of a config; splits of one name are added up."""
    sums = SplitDict()
    for name in cxm.SPLITS:
        if held := [split for split in splits if split.name == name]:
            sums.add(SplitInfo(name, sum(one.num_bytes for one in held), sum(one.num_examples for one in held)))
    size = sum(split.num_bytes for split in splits)
    return DatasetInfo(features=features, splits=sums, download_size=download_size, dataset_size=size)


def data_files(infos: DatasetInfosDict) -> MetadataConfigs:
    """Return which files each config of `write_parquet` reads; `all`, the default, those of each site in turn."""
    config_of_site = {site: config for config, site in cxm.SITES.items()}
    in_order = [config_of_site[site] for _, site in sorted(cxm.SITE_OF_PREFIX.items())]  # the order of ids
    configs = MetadataConfigs()
    for config, info in infos.items():
        sites = [one for one in in_order if one in infos and config in (one, "all")]
        files = [
            {"split": split, "path": [f"{one}/{split}-*" for one in sites if split in infos[one].splits]}
            for split in info.splits
        ]
        configs[config] = {"data_files": files} | ({"default": True} if config == "all" else {})
    return configs


def read_facts(folder: Path) -> list[Facts]:
    """Return the facts of every row in the files that `write_parquet` or `write_rows` made, sorted by id."""
    paths = sorted(folder.glob("*/*.parquet"))
    facts = (fact for path in tqdm(paths, desc="Reading the rows back", unit=" files") for fact in _facts(path))
    return sorted(facts, key=lambda fact: fact.id)


def _facts(path: Path) -> Iterator[Facts]:
    """Yield the facts of each row of a file; a group of rows at a time is in memory."""
    with pyarrow.parquet.ParquetFile(path) as file:
        features = Features.from_arrow_schema(file.schema_arrow)
        names = {name: features[name].names for name in ("site", "label", "sex")}
        for row in (row for group in range(file.num_row_groups) for row in file.read_row_group(group).to_pylist()):
            png, mask = row.pop("image")["bytes"], row.pop("mask")
            row |= {name: None if row[name] is None else known[row[name]] for name, known in names.items()}
            with cxm.open_image_file(io.BytesIO(png), row["id"]) as image:  # its header only
                width, height = image.size
                yield Facts(
                    **row,
                    split=path.name.split("-")[0],
                    width=width,
                    height=height,
                    mode=image.mode,
                    bytes=len(png),
                    synthetic=is_synthetic(png),
                    lungs=None if mask is None else resize_mask(to_mask(mask["bytes"]), MAP_SIDE),
                )
