"""Find and read X-rays in the rows of Parquet files and datasets."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby, repeat
from pathlib import Path
from typing import Any

import datasets
import fsspec
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet
from fsspec.implementations.local import LocalFileSystem

import chest_xray_masks  # makes its name known to load_dataset
from chest_xray_masks import HEAD_BYTES
from hub_models.imaging.file_kinds import is_image
from hub_models.imaging.source import Source
from hub_models.predict.index import (
    CARRIED,
    Entry,
    IndexRow,
    OpenSource,
    Sources,
    carried_of,
    check_ids,
    index_of,
)
from hub_models.predict.places import OpenPath, open_beside, open_inside, open_url, refuse

PATHS = ("paths of the table are opened",)  # of `Sources.origin`, where they are


def of_parquet(
    files: fsspec.AbstractFileSystem,
    tables: dict[str, str],
    column: str | None,
    allow_paths: bool = False,
    id_column: str | None = None,
) -> Sources:
    """Return the X-rays in a `column` of Parquet files by name; see `inputs.find_sources`.

    Raises:
        ValueError: a file without that column, or with several that may be meant; a damaged file; an
            `id_column` that is absent, or not of values of their own.
    """
    ids: list[object] = []
    found, named = [], ""
    carried: dict[str, list[Any]] = {name: [] for name in CARRIED}
    features = datasets.Features()
    for name, path in tables.items():
        with files.open(path) as file, _whole(name):
            table = pyarrow.parquet.ParquetFile(file)
            schema, count, size = table.schema_arrow, table.metadata.num_rows, files.size(path)
            if count > size:
                raise ValueError(f"{name} claims {count} rows in {size} bytes: get it again")
            wanted = named or column
            named = _image_column(name, [one.name for one in schema if _holds_images(one, wanted)], wanted, schema)
            id_name = _id_column(name, id_column, schema.names)
            ids += table.read([id_name])[id_name].to_pylist() if id_name in schema.names else []
            texts = table.read([one for one in CARRIED if one in schema.names and one not in (named, id_name)])
            for one, values in carried.items():
                values += texts[one].to_pylist() if one in texts.column_names else [None] * count
            features |= datasets.Features.from_arrow_schema(schema)
            found.append((name, path, count, size))
    total = sum(count for _, _, count, _ in found)
    entries = ((f"{name}/{row}", path, row, size) for name, path, count, size in found for row in range(count))
    keyed = _keyed(ids, entries, total, id_column, next(iter(tables)))
    index = index_of(keyed, carried=carried_of(features, carried))
    open_path = open_url if allow_paths else refuse
    return Sources(index, partial(_stream_parquet, files, named, open_path), (named, *PATHS[:allow_paths]))


@contextmanager
def _whole(name: str) -> Iterator[None]:
    """Turn what pyarrow raises in a block, over damaged headers of Parquet, into a ValueError of one line.

    Errors of plain ValueError pass. Of a damaged footer or page pyarrow raises an OSError of two lines.
    """
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{name} is not a whole Parquet file ({' '.join(str(error).split())}): get it again"
        ) from error


def _holds_images(field: pyarrow.Field, wanted: str | None) -> bool:
    """Return whether a column can be images: bytes, bytes and path as `datasets` writes them, or wanted and paths."""
    kind, types = field.type, pyarrow.types
    if types.is_struct(kind):
        return "bytes" in {part.name for part in kind}
    is_text = types.is_string(kind) or types.is_large_string(kind)
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or (is_text and field.name == (wanted or "image"))
    )


def _stream_parquet(
    files: fsspec.AbstractFileSystem, column: str, open_path: OpenPath, rows: datasets.Dataset
) -> Iterator[tuple[IndexRow, OpenSource]]:
    """Yield rows with what opens them; a row group is read a row at a time, as it may be larger than the memory."""
    for path, members in groupby(rows, key=lambda row: row["place"]):
        wanted, place = {row["row"]: row for row in members}, path.decode(errors="surrogateescape")
        is_beside = open_path is open_url and isinstance(files, LocalFileSystem)
        opens = partial(open_beside, files._parent(place)) if is_beside else open_path
        with files.open(place) as file:
            table = pyarrow.parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
            counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            ends = np.cumsum(counts)
            for group in sorted({int(np.searchsorted(ends, row, "right")) for row in wanted}):
                for number, open_cell in enumerate(
                    _cells(table, group, column, opens), int(ends[group]) - counts[group]
                ):
                    if number in wanted:
                        yield wanted[number], open_cell


def _cells(table: pyarrow.parquet.ParquetFile, group: int, column: str, open_path: OpenPath) -> Iterator[OpenSource]:
    """Yield what opens each row of a row group; where it is damaged, the rows from there on raise why."""
    why, left = "it ends too early", table.metadata.row_group(group).num_rows
    try:
        _check_unpacked(table, group, column)
        for batch in table.iter_batches(1, [group], [column]):
            yield partial(_bytes_of, open_path, batch[0][0].as_py())
            left -= 1
    except Exception as error:  # pyarrow raises whatever its decoders raise
        why = " ".join(chest_xray_masks.reason(error).split())
    yield from repeat(partial(_damaged, f"row group {group} cannot be read ({why}): get a sound copy"), left)


def _check_unpacked(table: pyarrow.parquet.ParquetFile, group: int, column: str) -> None:
    """Raise ValueError where a column of a row group would unpack to more than one of X-rays can."""
    row_group = table.metadata.row_group(group)
    chunks = [row_group.column(number) for number in range(row_group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == column]
    size, packed = (
        sum(getattr(chunk, name) for chunk in chunks) for name in ("total_uncompressed_size", "total_compressed_size")
    )
    if size > max(chest_xray_masks.MIN_BOUND, chest_xray_masks.MAX_RATIO * packed):
        raise ValueError(f"its {packed} bytes would unpack to {size}")


def _damaged(sentence: str) -> Source:
    raise ValueError(sentence)


def _bytes_of(open_path: OpenPath, value: dict[str, Any] | bytes | str | None) -> Source:
    """Return the image of a table's cell; of one that holds a path alone, what `open_path` makes of it.

    Raises:
        ValueError: the cell is empty.
    """
    if isinstance(value, str):
        value = _of_base64(value) or {"bytes": None, "path": value}
    data: bytes | None = value["bytes"] if isinstance(value, dict) else value
    if data:
        return data
    if isinstance(value, dict) and value.get("path"):
        return open_path(value["path"])
    raise ValueError("the row holds no image: pass a table with one in each row")


def _of_base64(text: str) -> bytes | None:
    """Return the image that a text holds in base64, plain or as a data URL; None for other text."""
    text = text.partition(";base64,")[2] if text.startswith("data:") else text
    try:
        return data if is_image((data := base64.b64decode(text, validate=True))[:HEAD_BYTES]) else None
    except ValueError:
        return None


def of_dataset(
    name: str,
    config: str | None,
    split: str | None,
    data_dir: str | None,
    column: str | None,
    allow_paths: bool = False,
    id_column: str | None = None,
) -> Sources:
    """Return the X-rays in a `column` of a dataset, of `split` or of all; see `inputs.find_sources`.

    Raises:
        FileNotFoundError: there is no such dataset, or nothing in it.
        ValueError: it has no such column, or several that may be meant.
    """
    try:
        loaded = datasets.load_dataset(name, config, data_dir=data_dir, split=split)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"no file, folder or dataset {name} ({error}): pass another --data") from error
    except ValueError as error:
        if not str(error).startswith("Unknown split"):
            raise
        raise ValueError(f"{name} has no split {split} ({error}): pass one of its own, or no --split") from error
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split): loaded}
    rows = datasets.concatenate_datasets(list(splits.values()))
    open_path = open_url if allow_paths else refuse
    if not allow_paths and {one.builder_name for one in splits.values()} == {"imagefolder"}:
        # its paths are not cells of a table: `datasets` lists the files of the folder, or of its download
        places = (data_dir or name, datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE)
        open_path = partial(open_inside, list(map(Path, places)))
    images = [feature for feature, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    column = _image_column(name, images, column, rows.features.arrow_schema)
    if not len(rows):
        raise FileNotFoundError(f"no row in {name} {config or ''} {split or ''}: pass another config or split")
    id_name = _id_column(name, id_column, rows.column_names)
    ids = list(rows[id_name]) if id_name in rows.column_names else []
    carried = {one: list(rows[one]) for one in CARRIED if one in rows.column_names and one not in (column, id_name)}
    if "split" not in carried:
        carried["split"] = [str(split_name) for split_name, one in splits.items() for _ in range(len(one))]
    cells = rows.select_columns(column).cast_column(column, datasets.Image(decode=False))

    def stream(chosen: datasets.Dataset) -> Iterator[tuple[IndexRow, OpenSource]]:
        for row in chosen:  # of the memory map, one at a time
            yield row, partial(_bytes_of, open_path, cells[row["row"]][column])

    keys = (f"{split_name}/{row}" for split_name, one in splits.items() for row in range(len(one)))
    entries = ((key, "", row, None) for row, key in enumerate(keys))
    index = index_of(_keyed(ids, entries, len(rows), id_column, name), carried=carried_of(rows.features, carried))
    origin = (_absolute(name), config, split, _absolute(data_dir), column, *PATHS[:allow_paths])
    return Sources(index, stream, origin)


def _absolute(name: str | None) -> str | None:
    """Return the absolute path of what is on this machine; any other name as it is."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def _image_column(name: str, found: list[str], wanted: str | None, schema: pyarrow.Schema) -> str:
    """Return the wanted column, else `image`, else the only one.

    Raises:
        ValueError: there is no such column, or no telling which is meant.
    """
    if wanted in found or (wanted is None and "image" in found):
        return wanted or "image"
    if wanted is None and len(found) == 1:
        return found[0]
    lists = [one.name for one in schema if pyarrow.types.is_list(one.type) or pyarrow.types.is_large_list(one.type)]
    if wanted in lists or (lists and not found):
        raise ValueError(f"{name} holds lists in {wanted or lists[0]}: write a table with one X-ray in each row")
    if not found:
        way_out = "name one of paths or base64 with --image_column, and for paths pass --allow_paths"
        raise ValueError(f"{name} has no image column, but {schema.names}: {way_out}")
    raise ValueError(f"{name} has the image columns {found}, got {wanted}: name one of them with --image_column")


def _id_column(name: str, wanted: str | None, names: list[str]) -> str:
    """Return the column of the keys, `id` where none is wanted; raise ValueError where there is none of that name."""
    if wanted and wanted not in names:
        raise ValueError(f"{name} has the columns {names}, none is {wanted}: name one of them with --id_column")
    return wanted or "id"


def _keyed(ids: list[Any], entries: Iterator[Entry], count: int, id_column: str | None, name: str) -> Iterator[Entry]:
    """Return the `count` entries with ids, as text, for keys where each row has its own; else as they are.

    Raises:
        ValueError: one of table `name` has not, and the user named their `id_column`.
    """
    if id_column:
        check_ids(ids, id_column, name)
    ids = [str(id) for id in ids if id is not None]
    if len(set(ids)) != count:
        return entries
    return ((id, *entry[1:]) for id, entry in zip(ids, entries, strict=True))
