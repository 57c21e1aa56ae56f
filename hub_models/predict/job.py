"""Read any number of X-rays to masks and a table, in all processes of a launch; a killed job can be resumed."""

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.dataset
from datasets.distributed import split_dataset_by_node
from tqdm.auto import tqdm

from hub_models.console import counted
from hub_models.files import check_output, check_outside, held, is_hidden, write_json
from hub_models.hub_client.bundled import DEFAULT_MODELS
from hub_models.hub_client.model_files import read_json
from hub_models.models.answers import PREDICTION_VERSION
from hub_models.predict.dicom_output import DicomOutput, algorithm
from hub_models.predict.index import Sources
from hub_models.predict.inputs import find_sources
from hub_models.predict.loading import Backend, find_models
from hub_models.predict.passed_over import PassedOver
from hub_models.predict.processes import OneProcess, processes_for
from hub_models.predict.reader import ChestXrayReader
from hub_models.predict.row_log import (
    close_row_log,
    done_before,
    drop_rows,
    fatal_before,
    file_of,
    is_whole,
    open_notes,
    open_row_log,
)
from hub_models.predict.stream import PREDICTION_SCHEMA, StreamOutput, TableRow, read_stream

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hub_models.predict.saliency_model import SaliencyModel

logger = logging.getLogger(__name__)

SETTINGS_NAME = "predict.json"
TABLE_NAME = "predictions"
JobSettings = dict[str, str | int | None]  # predict.json: what decides on the rows


def read_all(
    images: str,
    output: str | Path,
    segmenter: str | Path | None = None,
    classifier: str | Path | None = None,
    revision: str | None = None,
    overlays: bool = False,
    saliency: bool = False,
    dicom_seg: bool = False,
    dicom_sr: bool = False,
    batch_size: int | None = None,
    config: str | None = None,
    split: str | None = None,
    data_dir: str | None = None,
    column: str | None = None,
    backend: Backend | None = None,
    allow_paths: bool = False,
    id_column: str | None = None,
) -> Path:
    """Read each X-ray to a row in `predictions.parquet` and `.csv` and a mask in `masks/`; return `output`.

    The columns are `stream.PREDICTION_COLUMNS`: `source`, the key that `find_sources` gives; `mask`, the path in the
    folder of a PNG of 1 bit, as large as the X-ray; `error`, one sentence where a file could not be read, else null.
    What is not known, or no model was given for, is null. Fractions are of the X-ray's pixels, in [0, 1].

    The processes of a launch share the X-rays. After a kill the same call resumes, with any number of processes. Both
    tables are written last. A finished folder is left as it is.

    Args:
        images: as `find_sources` takes them.
        output: folder to write to.
        segmenter: run folder, exported folder or Hub id of a lung model.
        classifier: run folder, exported folder or Hub id of a TB model. Without both, the bundled models read.
        revision: of those from the Hub.
        overlays: whether to write pictures of the X-rays with a rim around the lungs, to `overlays/`.
        saliency: whether to write pictures of what speaks for tuberculosis to the classifier, to `saliency/`.
        dicom_seg: whether to write the lungs of DICOM X-rays as DICOM Segmentations, too, to `segmentations/`.
        dicom_sr: whether to write what was found in DICOM X-rays as DICOM Structured Reports, to `reports/`; with a
            segmenter the DICOM Segmentations, too, to which they refer.
        batch_size: X-rays that are decoded and read together; by default 16, on a CPU 4. No answer depends on it.
        config: of a dataset, as are `split` and `data_dir`.
        split: "test" and the like; by default all.
        data_dir: folder or zip of the set.
        column: of the X-rays, in Parquet or a dataset.
        backend: torch or onnx (default: onnx for an exported folder, else torch).
        allow_paths: whether to open what Parquet, datasets and lists at a URL name, as `find_sources` says.
        id_column: of a table, whose values are the keys.

    Raises:
        FileNotFoundError: there is no X-ray, or no model.
        FileExistsError: `output` holds something else.
        ValueError: `output` holds other predictions, or another launch writes to it; a model cannot be used.
    """
    folder = Path(output)
    if segmenter is None and classifier is None:
        segmenter, classifier = DEFAULT_MODELS
    if segmenter is None:
        _check_absent("segmenter", overlays=overlays, dicom_seg=dicom_seg)
    if classifier is None:
        _check_absent("classifier", saliency=saliency)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    check_outside(folder, images)
    if not (folder / SETTINGS_NAME).exists():  # before anything is downloaded or listed
        check_output(folder, "prediction job", is_hidden)
    accelerator = processes_for(segmenter, classifier, backend=backend)
    with accelerator.local_main_process_first():  # downloads and builds what is not in the cache
        sources = find_sources(images, config, split, data_dir, column, allow_paths, id_column)
        lungs, tb = find_models(segmenter, classifier, revision, backend)
    if saliency and tb and tb.precision:
        raise ValueError("no saliency of an exported model: leave saliency out, or pass the run folder as classifier")
    settings: JobSettings = {"X-rays": sources.digest, "segmenter": lungs and lungs.identity}
    settings |= {"classifier": tb and tb.identity}
    settings |= {"version": PREDICTION_VERSION, "overlays": overlays, "saliency": saliency, "dicom_seg": dicom_seg}
    settings["dicom_sr"] = dicom_sr or None  # of which a folder of version 0.2.0 says nothing
    _check_folder(folder, settings)
    if is_whole(folder, TABLE_NAME):
        logger.info("%s is finished: delete it, or pass another output, to read the X-rays again", folder)
        if accelerator.is_main_process:
            drop_rows(folder)  # of a launch that was killed at the very end
    else:
        segmented_by = algorithm("lung_segmentation", lungs and lungs.digest)
        classified_by = algorithm("tb_classification", tb and tb.digest)
        dicom = DicomOutput(segmented_by, classified_by, has_report=dicom_sr) if dicom_seg or dicom_sr else None
        reader = ChestXrayReader(lungs, tb)
        saliency_model = _saliency_model(reader) if saliency else None
        stream = StreamOutput(reader, folder, overlays, saliency_model, dicom)
        _read(stream, sources, settings, accelerator, batch_size)
    logger.info("%s", _summary(folder, sources.passed_over))
    return folder


def _check_absent(model: str, **wanted: bool) -> None:
    """Raise ValueError where something is wanted that a model makes which was not passed."""
    for name, is_wanted in wanted.items():
        if is_wanted:
            raise ValueError(f"{name} is made with a {model}: pass a {model}, or leave {name} out")


def _saliency_model(reader: ChestXrayReader) -> "SaliencyModel | None":
    """Return what draws the saliency of the reader's TB model, if it has one."""
    from hub_models.predict.saliency_model import SaliencyModel  # late: it needs torch

    return SaliencyModel(reader.classifier) if reader.classifier else None


def _check_folder(folder: Path, settings: JobSettings) -> None:
    """Raise ValueError where `folder` holds predictions of other settings."""
    path = folder / SETTINGS_NAME
    if not path.exists():
        return
    then = read_json(path, way=f"delete {folder}, or pass another output")
    if others := [name for name in settings if settings[name] != then.get(name)]:
        named = ", ".join(others)
        raise ValueError(f"output {folder} was made with other {named}: delete it, or pass another output")


def _read(
    output: StreamOutput,
    sources: Sources,
    settings: JobSettings,
    accelerator: "Accelerator | OneProcess",
    batch_size: int | None,
) -> None:
    """Read what is left in all processes, and make the tables."""
    folder, is_main = output.folder, accelerator.is_main_process
    with held(folder, is_main):
        if is_main:
            write_json(settings, folder / SETTINGS_NAME)
            sources.passed_over.write(folder)
            open_row_log(folder)
        accelerator.wait_for_everyone()
        _read_left(output, sources, accelerator, batch_size)
        accelerator.wait_for_everyone()
        if is_main:
            close_row_log(folder, TABLE_NAME, PREDICTION_SCHEMA, len(sources.index))
    accelerator.wait_for_everyone()


def _read_left(
    output: StreamOutput, sources: Sources, accelerator: "Accelerator | OneProcess", batch_size: int | None
) -> None:
    """Read this process's X-rays of what earlier launches left, and append a row for each to its file."""
    left = np.flatnonzero(~done_before(output.folder, len(sources.index), partial(_stands, output.folder)))
    if len(left) < len(sources.index):
        logger.info("resumed: %d of %d X-rays are left", len(left), len(sources.index))
    rank, processes = accelerator.process_index, accelerator.num_processes
    mine = split_dataset_by_node(sources.index.select(left), rank, processes)
    no_bar = None if accelerator.is_main_process else True
    try:
        with file_of(output.folder, rank).open("a", buffering=1) as file, open_notes(output.folder, rank) as notes:
            output = replace(output, notes=notes, fatal=fatal_before(output.folder))
            rows = read_stream(output, sources.stream(mine), accelerator.device, batch_size)
            for row in tqdm(rows, "Reading X-rays", len(mine), disable=no_bar, unit="image"):
                file.write(json.dumps(row) + "\n")  # written out line by line
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt("stopped: the same command resumes") from stopped


def _stands(folder: Path, row: TableRow) -> bool:
    """Return whether the files that a row names are there; a power cut may leave them empty."""
    files = [folder / str(row[name]) for name in ("mask", "dicom_seg", "dicom_sr") if row.get(name)]
    return all(file.is_file() and file.stat().st_size for file in files)


def _summary(folder: Path, passed_over: PassedOver) -> str:
    """Return how many rows the table has, how many of them have an error or a flag, and what was passed over."""
    table, field = pyarrow.dataset.dataset(folder / f"{TABLE_NAME}.parquet"), pyarrow.dataset.field
    unreadable, flagged = (table.count_rows(filter=one) for one in (field("error").is_valid(), field("flags") != ""))
    images = counted(table.count_rows(), "image")
    others = f", {passed_over}" if passed_over else ""
    return f"{images}, {unreadable} unreadable, {flagged} flagged{others}: {folder / f'{TABLE_NAME}.csv'}"


def has_readings(folder: Path) -> bool:
    """Return whether a finished job could read any of its X-rays."""
    table = pyarrow.dataset.dataset(folder / f"{TABLE_NAME}.parquet")
    return bool(table.head(1, columns=["error"], filter=pyarrow.dataset.field("error").is_null()).num_rows)
