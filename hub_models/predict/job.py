"""Any number of X-rays to masks and a table, by all processes of a launch; killed, the next one goes on from there."""

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
from accelerate import Accelerator
from datasets.distributed import split_dataset_by_node
from tqdm.auto import tqdm

from hub_models.console import counted
from hub_models.evaluation.evaluate import make_accelerator
from hub_models.files import check_output, held, is_hidden, write_json
from hub_models.hub_client.downloads import local_run
from hub_models.models.trained_model import PREDICTION_VERSION
from hub_models.predict.dataset_rows import Sources
from hub_models.predict.inputs import find_sources
from hub_models.predict.reader import ChestXrayReader
from hub_models.predict.row_log import close_row_log, done_before, drop_rows, file_of, is_whole, open_row_log
from hub_models.predict.stream import SCHEMA, Asked, Desk, read_stream
from hub_models.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

SETTINGS_NAME = "predict.json"
TABLE_NAME = "predictions"


def read_all(
    images: str,
    output: str | Path,
    segmenter: str | Path | None = None,
    classifier: str | Path | None = None,
    revision: str | None = None,
    overlays: bool = False,
    saliency: bool = False,
    dicom_seg: bool = False,
    batch_size: int | None = None,
    **where: str | None,
) -> Path:
    """`output`, where each X-ray of `images` has a row in `predictions.parquet` and `.csv`, and its lungs in `masks/`.

    The columns are those of `pipeline.COLUMNS`: `source`, the key that `find_sources` gives; `mask`, the path in the
    folder of a PNG of 1 bit, as large as the X-ray; `error`, one sentence where a file could not be read, and null in
    all others; what is not known, or no model was given for, is null. Shares are of the X-ray's pixels, in [0, 1].

    The X-rays are shared out to the processes of the launch. Killed at any moment, the same call goes on from there,
    in any number of them; both tables are written last. A finished folder is left as it is.

    Args:
        images: as `find_sources` takes them.
        output: folder to write to.
        segmenter: run folder or Hub id of a lung model.
        classifier: run folder or Hub id of a TB model.
        revision: of those from the Hub.
        overlays: whether to write pictures of the X-rays with a rim around the lungs, to `overlays/`.
        saliency: whether to write pictures of what speaks for tuberculosis to the classifier, to `saliency/`.
        dicom_seg: whether to write the lungs of DICOM X-rays as DICOM Segmentations, too, to `segmentations/`.
        batch_size: X-rays in a forward pass; by default 16, on a CPU 4.
        **where: more of what `find_sources` takes: config, split, data_dir, column.

    Raises:
        FileNotFoundError: there is no X-ray, or no model.
        FileExistsError: `output` holds something else.
        ValueError: it holds other predictions, or another launch is writing to it; a model cannot be used.
    """
    folder = Path(output)
    more = {"overlays": overlays, "saliency": saliency, "dicom_seg": dicom_seg}
    _check_arguments(images, folder, segmenter, classifier, more, batch_size)
    accelerator = make_accelerator()
    with accelerator.local_main_process_first():  # downloads and builds what is not in the cache
        sources = find_sources(images, **where)
        runs = [None if run is None else local_run(run, revision) for run in (segmenter, classifier)]
    _check_folder(folder, settings := _settings(sources, runs) | more)
    if is_whole(folder, TABLE_NAME):
        logger.info("%s is finished: delete it, or pass another output, to read anew", folder)
        if accelerator.is_main_process:
            drop_rows(folder)  # of a launch that was killed at the very end
    else:
        _read(_desk(runs, folder, settings), sources, settings, accelerator, batch_size)
    logger.info("%s", _summary(folder))
    return folder


def _read(
    desk: Desk, sources: Sources, settings: dict[str, Any], accelerator: Accelerator, batch_size: int | None
) -> None:
    """Read what is left in all processes, and make the tables."""
    folder = desk.folder
    with held(folder) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            write_json(settings, folder / SETTINGS_NAME)
            open_row_log(folder)
        accelerator.wait_for_everyone()
        _read_share(desk, sources, accelerator, batch_size)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            close_row_log(folder, TABLE_NAME, SCHEMA, len(sources.index))
    accelerator.wait_for_everyone()


def _summary(folder: Path) -> str:
    """How many rows the table has, and how many of them ask for a look."""
    table = pyarrow.dataset.dataset(folder / f"{TABLE_NAME}.parquet")
    counts = {
        "unreadable": table.count_rows(filter=pyarrow.dataset.field("error").is_valid()),
        "flagged": table.count_rows(filter=pyarrow.dataset.field("flags") != ""),
    }
    said = "".join(f", {count} {what}" for what, count in counts.items())
    return f"{counted(table.count_rows(), 'image')}{said}: {folder / f'{TABLE_NAME}.csv'}"


def _desk(runs: list[Path | None], folder: Path, settings: dict[str, Any]) -> Desk:
    reader = ChestXrayReader(*runs)
    asked = Asked(reader.classifier) if settings["saliency"] else None
    version = settings["segmenter"][:16] if settings["dicom_seg"] else None
    return Desk(reader, folder, settings["overlays"], asked, version)


def _check_arguments(
    images: str,
    folder: Path,
    segmenter: str | Path | None,
    classifier: str | Path | None,
    more: dict[str, bool],
    batch_size: int | None,
) -> None:
    """Raise ValueError for arguments of `read_all` that do not go together."""
    if more["overlays"] and segmenter is None:
        raise ValueError("overlays show the lungs: pass a segmenter that finds them, or leave overlays out")
    if more["dicom_seg"] and segmenter is None:
        raise ValueError("dicom_seg writes the lungs: pass a segmenter that finds them, or leave dicom_seg out")
    if more["saliency"] and classifier is None:
        raise ValueError("saliency shows where a TB model looks: pass a classifier, or leave saliency out")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if Path(images).is_dir() and folder.resolve().is_relative_to(Path(images).resolve()):
        raise ValueError(f"output {folder} lies in {images}, and would be read itself: pass a folder outside of it")


def _settings(sources: Sources, runs: list[Path | None]) -> dict[str, Any]:
    """Return what decides on the rows: the X-rays, the models and the version of what is made of them."""
    digests = [None if run is None else RunFolder.read(run).digest for run in runs]
    models = dict(zip(("segmenter", "classifier"), digests, strict=True))
    return {"X-rays": sources.digest} | models | {"version": PREDICTION_VERSION}


def _check_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Raise an error unless `folder` is new, or holds predictions of these settings."""
    path = folder / SETTINGS_NAME
    if not path.exists():
        return check_output(folder, "prediction job", is_hidden)
    then = json.loads(path.read_text())
    if others := [name for name in settings if settings[name] != then.get(name)]:
        named = ", ".join(others)
        raise ValueError(f"output {folder} was made with other {named}: delete it, or pass another output")


def _read_share(desk: Desk, sources: Sources, accelerator: Accelerator, batch_size: int | None) -> None:
    """Read this process' share of what earlier launches left, and append a row for each X-ray to its file."""
    left = np.flatnonzero(~done_before(desk.folder, len(sources.index)))
    if len(left) < len(sources.index):
        logger.info("going on: %d of %d X-rays are left", len(left), len(sources.index))
    rank, processes = accelerator.process_index, accelerator.num_processes
    mine = split_dataset_by_node(sources.index.select(left), rank, processes)
    rows = read_stream(desk, sources.stream(mine), accelerator.device, batch_size)
    bar = tqdm(rows, "Reading X-rays", len(mine), disable=None if accelerator.is_main_process else True, unit="image")
    try:
        with file_of(desk.folder, rank).open("a", buffering=1) as file:  # a line at a time
            for row in bar:
                file.write(json.dumps(row) + "\n")
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt("stopped: the same command goes on from there") from stopped
