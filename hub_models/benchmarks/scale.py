"""Time and memory of the parts of a prediction job that hold a row for every X-ray, with rows that are made up."""

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hub_models.benchmarks.dataset import Cost, measure_alone
from hub_models.predict.index import Entry, Sources, index_of, stream_places
from hub_models.predict.row_log import NUMBER, close_row_log, done_before, file_of, open_row_log
from hub_models.predict.stream import PREDICTION_SCHEMA

FEWER = 10  # how many times as few rows the others are compared with
PROCESSES = 2  # that wrote the rows


def scale_ratios(rows: int = 1_000_000) -> dict[str, float]:
    """Return what a job of so many X-rays takes beside reading them, each part in a process of its own.

    * index: keys, places and the digest of X-rays that are found already;
    * resume: the rows of an earlier launch looked through, all of which stand;
    * merge: the rows of all processes joined to both tables.

    Of each part: `rows_per_second`; `time_per_row`, the ratio to that with a tenth of the rows, which is 1 where time
    grows with the rows; `bytes_per_row`, growth of the peak memory for each row more.

    Raises:
        ValueError: fewer than 1,000 rows.
    """
    if rows < 1000:
        raise ValueError(f"rows must be at least 1000, got {rows}")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folders = {count: Path(name) / str(count) for count in (0, rows // FEWER, rows)}
        for count, folder in folders.items():
            write_rows(folder, count)
        for part, work in {"index": _index, "resume": _resume, "merge": _merge}.items():
            none, few, many = (measure_alone(partial(work, count), folder) for count, folder in folders.items())
            found |= {f"{part}_{key}": value for key, value in _growth(none, few, many, rows).items()}
    return found


def _growth(none: Cost, few: Cost, many: Cost, rows: int) -> dict[str, float]:
    less = rows // FEWER
    each, each_of_few = ((cost.seconds - none.seconds) / count for cost, count in ((many, rows), (few, less)))
    more = (many.peak_bytes - few.peak_bytes) / (rows - less)
    return {"rows_per_second": 1 / each, "time_per_row": each / each_of_few, "bytes_per_row": more}


def write_rows(folder: Path, count: int) -> None:
    """Write so many rows, as long as those of read X-rays, as the processes of a launch do."""
    open_row_log(folder)
    files = [file_of(folder, process).open("w") for process in range(PROCESSES)]
    try:
        for number in range(count):
            files[number * PROCESSES // count].write(json.dumps(_row(number)) + "\n")
    finally:
        for file in files:
            file.close()


def _row(number: int) -> dict[str, Any]:
    name = f"{number:08d}.png"
    return {
        NUMBER: number, "source": f"archive/{number // 1000:05d}/{name}", "right_fraction": 0.1352436582,
        "left_fraction": 0.1184265763, "right_mm2": None, "left_mm2": None,
        "mask": f"masks/archive/{number // 1000:05d}/{name}", "is_suspected": False, "height": 2048, "width": 2048,
        "probability": 0.0523612349, "threshold": 0.2306513747,
        "decision": "tuberculosis not suspected: below the threshold, which does not rule it out",
        "distance": 18.31643, "name": name, "flags": "", "flag_messages": "",
    }  # fmt: skip


def _entries(count: int) -> Iterator[Entry]:
    for number in range(count):
        name = f"archive/{number // 1000:05d}/{number:08d}.png"
        yield name, f"/data/{name}", None, 1_000_000 + number


def _index(count: int, folder: str, cache: str) -> None:
    Sources(index_of(_entries(count), by_key=True), partial(stream_places, Path)).digest  # noqa: B018


def _resume(count: int, folder: str, cache: str) -> None:
    open_row_log(Path(folder))
    done_before(Path(folder), count)


def _merge(count: int, folder: str, cache: str) -> None:
    close_row_log(Path(folder), "predictions", PREDICTION_SCHEMA, count)
