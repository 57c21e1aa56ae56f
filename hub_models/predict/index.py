"""Index X-rays that were found, as `Sources`: a key, a place and a path to write to for each; none is opened."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NotRequired, TypedDict

import datasets
import numpy as np
import pyarrow

from hub_models.imaging.source import Source
from hub_models.predict.passed_over import PassedOver
from hub_models.predict.places import printable

LONGEST_NAME = 200  # bytes of a folder's or file's name; file systems take 255
OUTPUT_DOT = re.compile(r"\.(?=(png|dcm)$)", re.IGNORECASE)  # before a suffix of what is written
INDEX_BLOCK = 10_000  # X-rays that are made an index at a time

OpenSource = Callable[[], Source]
Entry = tuple[str, str, int | None, int | None]  # key, place, row and size of an X-ray
ENTRY = pyarrow.schema({"source": "string", "place": "binary", "row": "int64", "size": "int64"})


CARRIED = ("label", "site", "split")  # columns of a table that go into that of the predictions
LONGEST_TEXT = 1000  # characters of such a cell


class IndexRow(TypedDict):
    """One X-ray of the index; see `Sources`."""

    number: int
    source: str
    output: str
    place: bytes
    row: int | None
    size: int | None
    label: NotRequired[str | None]
    site: NotRequired[str | None]
    split: NotRequired[str | None]


@dataclass(frozen=True)
class Sources:
    """X-rays that were found; none of them has been opened.

    Attributes:
        index: a row for each. `number`: from 0. `source`: its unique key. `output`: a unique relative path for what is
            written of it. `place`, `row`: where it is; the place in bytes, since names of files need not be text.
            `size`: of the file in bytes, if listed. `label`, `site`, `split`: as text, of what its source says them.
        stream: takes rows of the index; yields each row with what opens its X-ray, in their order.
        origin: what else tells them from others: their zip, the column, the arguments of a dataset.
        passed_over: what of a folder or zip is none of them.
    """

    index: datasets.Dataset
    stream: Callable[[datasets.Dataset], Iterator[tuple[IndexRow, OpenSource]]]
    origin: tuple[str | None, ...] = ()
    passed_over: PassedOver = field(default_factory=PassedOver)

    @property
    def digest(self) -> str:
        """Return a digest of the keys, places and sizes, in their order, and the origin, the same in any folder."""
        digest = hashlib.sha256(repr(self.origin).encode())
        columns = [name for name in ("source", "place", "size", *CARRIED) if name in self.index.column_names]
        for batch in self.index.select_columns(columns).iter(1000):
            digest.update(repr(batch).encode())
        return digest.hexdigest()


def index_of(entries: Iterable[Entry], by_key: bool = False, carried: pyarrow.Table | None = None) -> datasets.Dataset:
    """Return the index of `Sources` with these entries, no key twice, in their order or that of their keys.

    `carried` are columns of `CARRIED`, in the order of the entries; those without a value are left out.

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
    texts = {} if carried is None else dict(zip(carried.column_names, carried.columns, strict=True))
    for name, column in texts.items():
        if column.null_count < len(table):
            table = table.append_column(name, column)
    return datasets.Dataset(table, fingerprint="X-rays")  # the default is a hash of a copy


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


def carried_text(value: object) -> str | None:
    """Return a cell of a carried column as text; None where it is empty."""
    text = "" if value is None else printable(str(value)).strip()[:LONGEST_TEXT]
    return text or None


def carried_of(features: datasets.Features, columns: dict[str, list[Any]]) -> pyarrow.Table:
    """Return columns of `CARRIED` as text, labels by their names."""
    texts = {}
    for name, values in columns.items():
        if isinstance(kind := features.get(name), datasets.ClassLabel):
            values = [kind.int2str(value) if isinstance(value, int) and value >= 0 else None for value in values]
        texts[name] = pyarrow.array(map(carried_text, values), pyarrow.string())
    return pyarrow.table(texts)


def check_ids(ids: Sequence[object], column: str, name: str) -> None:
    """Raise ValueError where the ids of the `column` that the user named are not one for each row of table `name`."""
    counts = Counter(ids)
    if counts[None]:
        raise ValueError(f"{counts[None]} rows of {name} have no {column}: name another column with --id_column")
    if repeated := next((id for id, count in counts.items() if count > 1), None):
        raise ValueError(f"{column} {repeated} is in {name} twice: name a column of unique values with --id_column")


def stream_places(
    open_place: Callable[[str], Source], rows: datasets.Dataset
) -> Iterator[tuple[IndexRow, OpenSource]]:
    """Yield rows of an index with what opens their places."""
    for row in rows:
        yield row, partial(open_place, row["place"].decode(errors="surrogateescape"))
