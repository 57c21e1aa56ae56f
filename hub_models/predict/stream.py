"""Read X-rays as a stream, to masks and rows of a table: decoded, seen by the models and written at the same time."""

import io
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import pyarrow
from PIL import Image

from chest_xray_masks import reason
from hub_models.imaging.flags import RaisedFlag
from hub_models.imaging.masks import mask_png
from hub_models.imaging.overlays import heat, outline, scaled_gray
from hub_models.imaging.source import Source
from hub_models.models.answers import FORWARD_SIZE, FORWARD_SIZES
from hub_models.predict.dicom_output import DicomOutput
from hub_models.predict.index import CARRIED, IndexRow, OpenSource
from hub_models.predict.places import printable
from hub_models.predict.reader import LEAST_SIDE, ChestXrayReader, OpenedXray, Prediction
from hub_models.predict.row_log import NUMBER, noted

if TYPE_CHECKING:
    import torch

    from hub_models.predict.saliency_model import SaliencyModel

LANES = 4  # batches that are under way at a time, on other devices than a CPU
LONGEST_SIDE = 800  # pixels of a picture, at the most
TableRow = dict[str, object]  # values by the names of PREDICTION_COLUMNS, and NUMBER; an absent one is null
AREAS = ("right_fraction", "left_fraction", "right_mm2", "left_mm2")
PREDICTION_COLUMNS = {
    "source": "string",
    "name": "string",
    **dict.fromkeys(CARRIED, "string"),
    "height": "int32",
    "width": "int32",
    "spacing_row_mm": "double",
    "spacing_column_mm": "double",
    **dict.fromkeys(AREAS, "double"),
    "probability": "double",
    "threshold": "double",
    "is_suspected": "bool",
    "decision": "string",
    "distance": "double",
    "flags": "string",
    "flag_messages": "string",
    "mask": "string",
    "dicom_seg": "string",
    "dicom_sr": "string",
    "error": "string",
}
PREDICTION_SCHEMA = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in PREDICTION_COLUMNS.items()])


@dataclass(frozen=True)
class StreamOutput:
    """What one process reads with, and what it writes where.

    Attributes:
        reader: the models.
        folder: where to write.
        overlays: whether to write pictures of the lungs.
        saliency: the model that pictures of saliency are made with; None writes none.
        dicom: what is written of DICOM X-rays as DICOM; None writes nothing.
        notes: to which it writes what is being decoded, as `row_log.noted`; None writes nothing.
        fatal: numbers of X-rays that are passed over, as `row_log.fatal_before`.
    """

    reader: ChestXrayReader
    folder: Path
    overlays: bool = False
    saliency: "SaliencyModel | None" = None
    dicom: DicomOutput | None = None
    notes: BinaryIO | None = None
    fatal: frozenset[int] = frozenset()


def read_stream(
    output: StreamOutput,
    items: Iterator[tuple[IndexRow, OpenSource]],
    device: "torch.device | None" = None,
    batch_size: int | None = None,
) -> Iterator[TableRow]:
    """Yield a row of the table with its `number` for each X-ray, in the order of the items; write the files meanwhile.

    A thread takes a batch through its stages, and hands the work of single images to a pool of a thread for each core.
    Several batches are under way, so that some are decoded while others are on the device: a CPU has one batch more
    than cores. No more images are in memory. `device` is that of the models, None for a CPU.
    """
    threads = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    kind = "cpu" if device is None else device.type
    lanes = threads + 1 if kind == "cpu" else LANES
    batch_size = batch_size or FORWARD_SIZES.get(kind, FORWARD_SIZE)
    # decoders are imported now: a process that is killed meanwhile was not at its first X-ray
    output.reader.decode(_png(Image.new("L", (LEAST_SIDE, LEAST_SIDE))))
    waiting: deque[Future[list[TableRow]]] = deque()
    # each batch keeps to its thread: the cores are busy with other X-rays
    with output.reader.one_thread(), ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(lanes) as batches:
        try:
            while batch := list(islice(items, batch_size)):
                waiting.append(batches.submit(_read_batch, output, pool, batch))
                if len(waiting) > 2 * lanes:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_batch(
    output: StreamOutput, pool: ThreadPoolExecutor, batch: list[tuple[IndexRow, OpenSource]]
) -> list[TableRow]:
    decoded = list(pool.map(partial(_decode, output), batch))
    xrays = [one[0] for one in decoded if not isinstance(one, str)]
    found = iter(output.reader.read_decoded(xrays, pool.map) if xrays else ())
    results = [one if isinstance(one, str) else (*one, next(found)) for one in decoded]
    return list(pool.map(partial(_write, output), [row for row, _ in batch], results))


def _decode(output: StreamOutput, item: tuple[IndexRow, OpenSource]) -> tuple[OpenedXray, Source] | str:
    """Return an X-ray as decoded and as opened, or why it cannot be read: a bad file is a row, whatever it raises."""
    row, open_source = item
    name = PurePosixPath(row["source"]).name
    if row["number"] in output.fatal:
        return printable(f"{name} ended the process that read it, and was passed over after that: get a sound copy")
    with noted(output.notes, row["number"]):
        try:
            source = open_source()  # once: it may be far away
            return output.reader.decode(source, name), source
        except Exception as error:
            return printable(" ".join(reason(error).split()))


def _write(output: StreamOutput, row: IndexRow, result: tuple[OpenedXray, Source, Prediction] | str) -> TableRow:
    """Write the files of an X-ray, and return its row of the table."""
    columns: TableRow = {NUMBER: row["number"], "source": row["source"]}
    said: Mapping[str, object] = row
    columns |= {name: said[name] for name in CARRIED if said.get(name) is not None}
    if isinstance(result, str):
        return columns | {"name": PurePosixPath(row["source"]).name, "error": result}
    xray, source, found = result
    file, flags = f"{row['output']}.png", found.flags
    small = (
        scaled_gray(xray.gray, min(LONGEST_SIDE, max(xray.gray.size))) if output.overlays or output.saliency else None
    )
    if found.mask is not None:
        columns |= {name: getattr(found.lungs, name) for name in AREAS}
        columns["mask"] = _put(output.folder, f"masks/{file}", mask_png(found.mask))
        if output.overlays and small is not None:
            _put(output.folder, f"overlays/{file}", _png(outline(small, found.mask)))
    if output.dicom is not None:
        files, failed = output.dicom.files_of(source, found)
        flags += failed
        folders = {"dicom_seg": "segmentations", "dicom_sr": "reports"}
        columns |= {
            name: _put(output.folder, f"{folders[name]}/{row['output']}.dcm", data) for name, data in files.items()
        }
    if output.saliency is not None and small is not None:
        _put(output.folder, f"saliency/{file}", _png(heat(small, output.saliency(xray.gray, found.mask))))
    if found.spacing_mm is not None:
        columns["spacing_row_mm"], columns["spacing_column_mm"] = found.spacing_mm
    names = ("is_suspected", "height", "width", "probability", "threshold", "decision", "distance")
    columns |= {name: getattr(found, name) for name in names}
    return columns | {"name": printable(found.name)} | flag_columns(flags)


def flag_columns(flags: Sequence[RaisedFlag]) -> dict[str, str]:
    """Return the columns `flags`, codes joined by `|`, and `flag_messages`, as many messages joined by ` | `."""
    # a message may quote the name of a file, and a name may hold the sign between two messages
    messages = [printable(flag.message.replace("|", "/")) for flag in flags]
    return {"flags": "|".join(flag.code for flag in flags), "flag_messages": " | ".join(messages)}


def _put(folder: Path, name: str, data: bytes) -> str:
    """Write a file in the folder, and return its name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)  # if a kill cuts it off, it has no row yet, and is written again
    return name


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
