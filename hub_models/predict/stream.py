"""X-rays as a stream, to masks and rows of a table: decoded, seen by the models and written at the same time."""

import copy
import io
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import numpy as np
import pyarrow
import torch
from PIL import Image

from chest_xray_masks import reason
from hub_models.imaging.dicom_seg import segmentation
from hub_models.imaging.flags import Flag, RaisedFlag
from hub_models.imaging.masks import keep_two_lungs, mask_png
from hub_models.imaging.overlays import heat, outline, scaled_gray
from hub_models.imaging.source import Source, is_dicom_source
from hub_models.models.saliency import METHODS, saliency_of_gray
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.checks import LEFT, RIGHT, sides_of
from hub_models.predict.dataset_rows import Open, printable
from hub_models.predict.reader import ChestXrayReader, OpenedXray, Prediction
from hub_models.predict.row_log import NUMBER

BATCH_SIZES = {"cpu": 4}  # X-rays in a forward pass by the kind of device; one at a time takes twice as long on a CPU
BATCH_SIZE, LANES = 16, 4  # on others, where so many batches are under way at a time
SHOWN = 800  # pixels of a picture's longer side, at the most
Row = dict[str, Any]
AREAS = ("right_fraction", "left_fraction", "right_mm2", "left_mm2")

COLUMNS = {
    "source": "string",
    "name": "string",
    "height": "int32",
    "width": "int32",
    "spacing_row_mm": "double",
    "spacing_column_mm": "double",
    "right_fraction": "double",
    "left_fraction": "double",
    "right_mm2": "double",
    "left_mm2": "double",
    "probability": "double",
    "threshold": "double",
    "is_suspected": "bool",
    "decision": "string",
    "flags": "string",
    "flag_messages": "string",
    "mask": "string",
    "error": "string",
}
SEGMENTER_NAME = "chest-xray-masks lung_segmentation"
SCHEMA = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in COLUMNS.items()])


class Asked:
    """A copy of a classifier, asked where it looks by one thread at a time: a model is changed while it is asked."""

    def __init__(self, classifier: TrainedModel) -> None:
        """Copy the model.

        Raises:
            ValueError: models of its family cannot be asked.
        """
        self.trained, self.lock = replace(classifier, model=copy.deepcopy(classifier.model)), Lock()
        if (family := classifier.model.config.model_type) not in METHODS:
            raise ValueError(f"no saliency of a {family} model: leave it out, or pass one of {', '.join(METHODS)}")

    def __call__(self, gray: Image.Image, mask: np.ndarray | None) -> np.ndarray:
        """As `saliency_of_gray` of the model, (H, W) float32."""
        with self.lock:
            return saliency_of_gray(self.trained, gray, None if mask is None else keep_two_lungs(mask))


@dataclass(frozen=True)
class Desk:
    """What one process reads with, and where it writes.

    Attributes:
        reader: the models.
        folder: where to.
        overlays: whether to write pictures of the lungs.
        asked: what writes pictures of where the TB model looks; None writes none.
        lungs_version: of the lung model, for the DICOM Segmentations of DICOM X-rays; None writes none.
    """

    reader: ChestXrayReader
    folder: Path
    overlays: bool = False
    asked: Asked | None = None
    lungs_version: str | None = None


def read_stream(
    desk: Desk, items: Iterator[tuple[Row, Open]], device: torch.device, batch_size: int | None = None
) -> Iterator[Row]:
    """A row of the table for each X-ray, and its `number`, in the order of the items; files are written on the way.

    A batch goes through its stages in one thread, which hands what is done image by image to a pool of a thread for
    each core; as several batches are under way, some are decoded while others are on the device. A CPU has a batch
    more than cores under way, so that none is idle. No more are in memory, but for their rows.
    """
    threads = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    lanes = threads + 1 if device.type == "cpu" else LANES
    batch_size = batch_size or BATCH_SIZES.get(device.type, BATCH_SIZE)
    waiting = deque()
    with _one_thread_each(), ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(lanes) as batches:
        try:
            while batch := list(islice(items, batch_size)):
                waiting.append(batches.submit(_read_batch, desk, pool, batch))
                if len(waiting) > 2 * lanes:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def cores() -> int:
    """Count of the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep torch to the thread that calls it: the cores are busy with other X-rays."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_batch(desk: Desk, pool: ThreadPoolExecutor, batch: list[tuple[Row, Open]]) -> list[Row]:
    decoded = list(pool.map(partial(_decode, desk.reader), batch))
    xrays = [one[0] for one in decoded if not isinstance(one, str)]
    found = iter(desk.reader.read_decoded(xrays, pool.map) if xrays else ())
    results = [one if isinstance(one, str) else (*one, next(found)) for one in decoded]
    return list(pool.map(partial(_write, desk), [row for row, _ in batch], results))


def _decode(reader: ChestXrayReader, item: tuple[Row, Open]) -> tuple[OpenedXray, Source] | str:
    """An X-ray as decoded and as opened, or why it could not be: a bad file is a row, whatever its decoder raises."""
    row, open_source = item
    try:
        source = open_source()  # once: it may be far away
        return reader.decode(source, PurePosixPath(row["source"]).name), source
    except Exception as error:
        return printable(" ".join(reason(error).split()))


def _write(desk: Desk, row: Row, result: tuple[OpenedXray, Source, Prediction] | str) -> Row:
    """The row of the table for an X-ray, its files written."""
    columns = {NUMBER: row[NUMBER], "source": row["source"]}
    if isinstance(result, str):
        return columns | {"name": PurePosixPath(row["source"]).name, "error": result}
    xray, source, found = result
    file = f"{row['output']}.png"
    if found.mask is not None:
        areas = {name: getattr(found.lungs, name) for name in AREAS}
        columns |= areas | {"mask": _put(desk.folder, f"masks/{file}", mask_png(found.mask))}
    if desk.overlays:
        _put(desk.folder, f"overlays/{file}", _png(outline(_shown(xray.gray), found.mask)))
    if desk.asked is not None:
        _put(desk.folder, f"saliency/{file}", _png(heat(_shown(xray.gray), desk.asked(xray.gray, found.mask))))
    spacing = dict(zip(("spacing_row_mm", "spacing_column_mm"), found.spacing_mm or (), strict=False))
    flags = (*found.flags, *(_segment(desk, source, row["output"], found) if desk.lungs_version else ()))
    said = {"name": printable(found.name)} | spacing | flag_columns(flags)
    names = ("is_suspected", "height", "width", "probability", "threshold", "decision")
    return columns | said | {name: getattr(found, name) for name in names}


def flag_columns(flags: Sequence[RaisedFlag]) -> Row:
    """Return the columns `flags`, codes joined by `|`, and `flag_messages`, as many messages joined by ` | `."""
    # a message may quote the name of a file, and a name may hold the sign between two messages
    messages = [printable(flag.message.replace("|", "/")) for flag in flags]
    return {"flags": "|".join(flag.code for flag in flags), "flag_messages": " | ".join(messages)}


def _segment(desk: Desk, source: Source, name: str, found: Prediction) -> tuple[RaisedFlag, ...]:
    """Write the lungs of a DICOM X-ray as DICOM Segmentation, by side if frontal; a flag where that cannot be."""
    mask = found.mask
    if not mask.any():
        return ()
    try:
        if not is_dicom_source(source):
            return ()
        if Flag.NOT_FRONTAL in found.flag_codes:
            lungs = {"Lung": mask}
        else:
            sides = sides_of(mask, found.is_mirrored)
            lungs = {"Right lung": mask & (sides == RIGHT), "Left lung": mask & (sides == LEFT)}
        held = {label: lung for label, lung in lungs.items() if lung.any()}
        data = segmentation(source, held, SEGMENTER_NAME, desk.lungs_version)
    except (OSError, ValueError) as error:  # of a file on the disk, whose header is read here
        return (Flag.NO_DICOM_SEG.raised(reason=reason(error)),)
    _put(desk.folder, f"segmentations/{name}.dcm", data)
    return ()


def _put(folder: Path, name: str, data: bytes) -> str:
    """The name, of a file in the folder that now holds the data."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)  # cut off by a kill, it has no row yet, and is written again
    return name


def _shown(gray: Image.Image) -> Image.Image:
    return scaled_gray(gray, min(SHOWN, max(gray.size)))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
