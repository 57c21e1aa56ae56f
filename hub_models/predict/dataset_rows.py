"""Index X-rays that were found, as `Sources`, and read those in the rows of Parquet files and datasets."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice, repeat
from pathlib import Path
from typing import Any, TypedDict

import datasets
import fsspec
import huggingface_hub
import numpy as np
import pyarrow
import pyarrow.parquet

import chest_xray_masks  # makes its name known to load_dataset
from hub_models.imaging.source import Source
from hub_models.predict.places import OpenPath, open_inside, open_url, refuse

LONGEST_NAME = 200  # bytes of a folder's or file's name; file systems take 255
OUTPUT_DOT = re.compile(r"\.(?=(png|dcm)$)", re.IGNORECASE)  # before a suffix of what is written
INDEX_BLOCK = 10_000  # X-rays that are made an index at a time

OpenSource = Callable[[], Source]
PATHS = ("paths of the table are opened",)  # of `Sources.origin`, where they are
Entry = tuple[str, str, int | None, int | None]  # key, place, row and size of an X-ray
ENTRY = pyarrow.schema({"source": "string", "place": "binary", "row": "int64", "size": "int64"})


class IndexRow(TypedDict):
    """One X-ray of the index; see `Sources`."""

    number: int
    source: str
    output: str
    place: bytes
    row: int | None
    size: int | None


@dataclass(frozen=True)
class Sources:
    """X-rays that were found; none of them has been opened.

    Attributes:
        index: a row for each. `number`: from 0. `source`: its unique key. `output`: a unique relative path for what is
            written of it. `place`, `row`: where it is; the place in bytes, since names of files need not be text.
            `size`: of the file in bytes, if listed.
        stream: takes rows of the index; yields each row with what opens its X-ray, in their order.
        origin: what else tells them from others: their zip, the column, the arguments of a dataset.
    """

    index: datasets.Dataset
    stream: Callable[[datasets.Dataset], Iterator[tuple[IndexRow, OpenSource]]]
    origin: tuple[str | None, ...] = ()

    @property
    def digest(self) -> str:
        """Return a digest of the keys, places and sizes, in their order, and the origin, the same in any folder."""
        digest = hashlib.sha256(repr(self.origin).encode())
        for batch in self.index.select_columns(["source", "place", "size"]).iter(1000):
            digest.update(repr(batch).encode())
        return digest.hexdigest()


def index_of(entries: Iterable[Entry], by_key: bool = False) -> datasets.Dataset:
    """Return the index of `Sources` with these entries, no key twice, in their order or that of their keys.

    There may be millions: at most INDEX_BLOCK of them are Python's objects at a time.
    """
    entries, blocks = iter(entries), []
    while block := list(islice(entries, INDEX_BLOCK)):
        keys, places, *others = zip(*block, strict=True)
        columns = [map(printable, keys), (place.encode(errors="surrogateescape") for place in places), *others]
        blocks.append(pyarrow.record_batch(list(map(pyarrow.array, columns, ENTRY.types)), ENTRY))
    table = pyarrow.Table.from_batches(blocks, ENTRY)
    if by_key:
        table = table.sort_by("source")
    taken: set[int] = set()
    outputs = [_outputs(block["source"].to_pylist(), taken) for block in table.to_batches(INDEX_BLOCK)]
    table = table.append_column("output", pyarrow.chunked_array(outputs, pyarrow.string()))
    table = table.append_column("number", pyarrow.array(np.arange(len(table))))
    return datasets.Dataset(table, fingerprint="X-rays")  # the default is a hash of a copy


def printable(text: str) -> str:
    r"""Return the same text, but `\udce9` in place of a byte 0xe9 that is no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _outputs(keys: list[str], taken: set[int]) -> pyarrow.Array:
    """Return a unique relative path for each key, the key itself if it can be; capitals make no difference.

    No folder ends as a written file does: such a file may lie beside it. `taken` holds the hashes of the paths so far,
    which are smaller than the paths.
    """
    paths = []
    for key in keys:
        names = [re.sub(r"[^\w.,+=@() -]", "_", name) for name in key.removesuffix(".png").split("/")]
        names = [name.encode()[:LONGEST_NAME].decode(errors="ignore") for name in names if name.strip(". ")]
        names[:-1] = [OUTPUT_DOT.sub("_", name) for name in names[:-1]]
        first = path = "/".join(names) or "image"
        number = 1
        while hash(path.casefold()) in taken:
            number += 1
            path = f"{first}-{number}"
        taken.add(hash(path.casefold()))
        paths.append(path)
    return pyarrow.array(paths, pyarrow.string())


def of_parquet(
    files: fsspec.AbstractFileSystem, tables: dict[str, str], column: str | None, allow_paths: bool = False
) -> Sources:
    """Return the X-rays in a `column` of Parquet files by name; see `inputs.find_sources`.

    Raises:
        ValueError: a file without that column, or with several that may be meant; a file that is no whole Parquet.
    """
    ids: list[object] = []
    found, named = [], ""
    for name, path in tables.items():
        with files.open(path) as file:
            try:
                table = pyarrow.parquet.ParquetFile(file)
            except (pyarrow.ArrowException, OSError) as error:  # OSError: of a damaged footer; its text has two lines
                why = " ".join(str(error).split())
                raise ValueError(f"{name} is no whole Parquet ({why}): get it again") from error
            schema, count, size = table.schema_arrow, table.metadata.num_rows, files.size(path)
            if count > size:
                raise ValueError(f"{name} claims {count} rows in {size} bytes: get it again")
            wanted = named or column
            named = _image_column(name, [one.name for one in schema if _holds_images(one, wanted)], wanted)
            ids += table.read(["id"])["id"].to_pylist() if "id" in schema.names else []
            found.append((name, path, count, size))
    entries = ((f"{name}/{row}", path, row, size) for name, path, count, size in found for row in range(count))
    index = index_of(_keyed(ids, entries, sum(count for _, _, count, _ in found)))
    open_path = open_url if allow_paths else refuse
    return Sources(index, partial(_stream_parquet, files, named, open_path), (named, *PATHS[:allow_paths]))


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
        wanted = {row["row"]: row for row in members}
        with files.open(path.decode(errors="surrogateescape")) as file:
            table = pyarrow.parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
            counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            ends = np.cumsum(counts)
            for group in sorted({int(np.searchsorted(ends, row, "right")) for row in wanted}):
                for number, open_cell in enumerate(
                    _cells(table, group, column, open_path), int(ends[group]) - counts[group]
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
        value = {"bytes": None, "path": value}
    data: bytes | None = value["bytes"] if isinstance(value, dict) else value
    if data:
        return data
    if isinstance(value, dict) and value.get("path"):
        return open_path(value["path"])
    raise ValueError("the row holds no image: pass a table with one in each row")


def of_dataset(
    name: str,
    config: str | None,
    split: str | None,
    data_dir: str | None,
    column: str | None,
    allow_paths: bool = False,
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
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split): loaded}
    rows = datasets.concatenate_datasets(list(splits.values()))
    open_path = open_url if allow_paths else refuse
    if not allow_paths and {one.builder_name for one in splits.values()} == {"imagefolder"}:
        # its paths are no cells of a table: `datasets` lists the files of the folder, or of its download
        places = (data_dir or name, datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE)
        open_path = partial(open_inside, list(map(Path, places)))
    images = [feature for feature, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    column = _image_column(name, images, column)
    if not len(rows):
        raise FileNotFoundError(f"no row in {name} {config or ''} {split or ''}: pass another config or split")
    ids = list(rows["id"]) if "id" in rows.column_names else []
    cells = rows.select_columns(column).cast_column(column, datasets.Image(decode=False))

    def stream(chosen: datasets.Dataset) -> Iterator[tuple[IndexRow, OpenSource]]:
        for row in chosen:  # of the memory map, one at a time
            yield row, partial(_bytes_of, open_path, cells[row["row"]][column])

    keys = (f"{split_name}/{row}" for split_name, one in splits.items() for row in range(len(one)))
    index = index_of(_keyed(ids, ((key, "", row, None) for row, key in enumerate(keys)), len(rows)))
    origin = (_absolute(name), config, split, _absolute(data_dir), column, *PATHS[:allow_paths])
    return Sources(index, stream, origin)


def _absolute(name: str | None) -> str | None:
    """Return the absolute path of what is on this machine; any other name as it is."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def _image_column(name: str, found: list[str], wanted: str | None) -> str:
    """Return the wanted column, else `image`, else the only one.

    Raises:
        ValueError: there is no such column, or no telling which is meant.
    """
    if wanted in found or (wanted is None and "image" in found):
        return wanted or "image"
    if wanted is None and len(found) == 1:
        return found[0]
    raise ValueError(f"{name} has the image columns {found}, got {wanted}: name one of them with --image_column")


def _keyed(ids: list[Any], entries: Iterator[Entry], count: int) -> Iterator[Entry]:
    """Return the `count` entries with ids, as text, for keys where each row has its own; else as they are."""
    ids = [str(id) for id in ids if id is not None]
    if len(set(ids)) != count:
        return entries
    return ((id, *entry[1:]) for id, entry in zip(ids, entries, strict=True))
