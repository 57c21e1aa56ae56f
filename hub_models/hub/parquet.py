"""Rows to Parquet: the builder's configs as shards that stream, original bytes and all, and the facts read back."""

import io
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet
from datasets import DatasetInfo
from datasets.exceptions import DatasetGenerationError
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils import tqdm
from datasets.utils.metadata import MetadataConfigs
from PIL import Image

import chest_xray_masks as cxm
from hub_models.hub.export_config import SHARD_SIZE
from hub_models.imaging.gray import is_synthetic
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import resize_mask

ROWS_PER_GROUP = 8  # what a stream reads for its first row: originals take up to 10 MB each
MAP_SIDE = 64  # pixels of a lung mask in the facts


class Facts(NamedTuple):
    """What a card tells of one row; `mode` is PIL's, `lungs` the (MAP_SIDE, MAP_SIDE) bool of the mask, if any."""

    id: str
    patient_id: str
    site: str
    split: str
    label: str
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


def write_parquet(data_dir: Path, folder: Path, max_shard_size: str = SHARD_SIZE) -> DatasetInfosDict:
    """Features, splits and sizes of each config, whose rows are then in `folder`/<config>/<split>-<n>-of-<m>.parquet.

    There is a config for each site that `data_dir` (folder or zip) holds, and `all`, which is the same files. A split
    without rows has no file, as `load_dataset` would refuse it. The same rows give the same bytes. `max_shard_size` is
    that of the images before a last group of rows is added.

    Raises:
        FileNotFoundError: nothing of the set under `data_dir`.
        ValueError: a damaged or mismatched file, or no size.
    """
    sites = {cxm.SITE_OF_PREFIX[row.id[:6]] for row in cxm.rows_of(cxm.scan(data_dir))}
    infos = DatasetInfosDict()
    with TemporaryDirectory(dir=folder) as scratch:
        for config in (name for name, site in cxm.SITES.items() if site in sites):
            batch = {"writer_batch_size": ROWS_PER_GROUP}  # each is a group of rows
            builder = cxm.ChestXrayMasks(config_name=config, data_dir=str(data_dir), cache_dir=scratch, **batch)
            try:
                builder.download_and_prepare(
                    f"{scratch}/{config}", file_format="parquet", max_shard_size=max_shard_size
                )
            except DatasetGenerationError as error:
                raise error.__cause__ or error from None  # the cause names the file
            splits = [split for split in builder.info.splits.values() if split.num_examples]
            size = sum(_take(Path(scratch, config), folder / config, split.name) for split in splits)
            infos[config] = _info(splits, size)
    every = [[info.splits[part] for info in infos.values() if part in info.splits] for part in cxm.SPLITS]
    infos["all"] = _info(
        [_joined(splits) for splits in every if splits], sum(one.download_size for one in infos.values())
    )
    return infos


def _take(scratch: Path, folder: Path, split: str) -> int:
    """Bytes of a split's files, moved out of the builder's folder under the names that the Hub's own tools give."""
    folder.mkdir(exist_ok=True)
    paths = sorted(scratch.glob(f"*-{split}*.parquet"))
    size = sum(path.stat().st_size for path in paths)
    for number, path in enumerate(paths):
        path.rename(folder / f"{split}-{number:05d}-of-{len(paths):05d}.parquet")
    return size


def _joined(splits: list[SplitInfo]) -> SplitInfo:
    num_bytes, num_examples = (sum(getattr(one, name) for one in splits) for name in ("num_bytes", "num_examples"))
    return SplitInfo(splits[0].name, num_bytes, num_examples)


def _info(splits: list[SplitInfo], download_size: int) -> DatasetInfo:
    """What the head of a card says of a config."""
    bare = SplitDict()
    for split in splits:
        bare.add(SplitInfo(split.name, split.num_bytes, split.num_examples))
    size = sum(split.num_bytes for split in splits)
    return DatasetInfo(features=cxm.FEATURES, splits=bare, download_size=download_size, dataset_size=size)


def data_files(infos: DatasetInfosDict) -> MetadataConfigs:
    """Which files each config of `write_parquet` reads; `all`, the default, those of the sites in the order of ids."""
    config_of_site = {site: config for config, site in cxm.SITES.items()}
    in_order = [config_of_site[site] for _, site in sorted(cxm.SITE_OF_PREFIX.items())]
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
    """Facts of every row in the files that `write_parquet` made, sorted by id; a group of rows at a time."""
    paths = sorted(folder.glob("*/*.parquet"))
    facts = (fact for path in tqdm(paths, desc="Reading the rows back", unit=" files") for fact in _facts(path))
    return sorted(facts, key=lambda fact: fact.id)


def _facts(path: Path) -> Iterator[Facts]:
    names = {name: cxm.FEATURES[name].names for name in ("site", "label", "sex")}
    with pyarrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                image, mask = row.pop("image")["bytes"], row.pop("mask")
                row |= {name: None if row[name] is None else of[row[name]] for name, of in names.items()}
                lungs = None if mask is None else resize_mask(to_mask(mask["bytes"]), MAP_SIDE)
                yield Facts(split=path.name.split("-")[0], lungs=lungs, **row, **_look(image))


def _look(png: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(png)) as image:  # its header only
        (width, height), mode = image.size, image.mode
    return {"width": width, "height": height, "mode": mode, "bytes": len(png), "synthetic": is_synthetic(png)}
