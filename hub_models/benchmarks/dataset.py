"""Ratios that tell whether the dataset builder is fast and small, against `load_dataset("imagefolder")`."""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import datasets

from chest_xray_masks import rows_of, scan

BUILD_REPEATS = 5
COPIES = 4  # how many times the images, to see whether memory grows with them


def dataset_ratios(data_dir: str | Path) -> dict[str, float]:
    """Return ratios against `load_dataset("imagefolder")`, medians of `BUILD_REPEATS` pairs taken in turn.

    `build_time`: both are given the folder. `build_time_listed`: imagefolder is given each PNG file that our rows use.
    It notes their paths and opens none; the builder checks every byte and keeps all in the Arrow file.
    `build_memory`: peak memory of building `COPIES` times as many images over that of building them once.
    `first_row_files`: PNG files opened to stream the first row; its image and its mask make 2.
    """
    files = [file.path for row in rows_of(scan(data_dir)) for file in (row.image, *row.masks)]
    build = partial(_load, "chest_xray_masks", None)
    works = (build, partial(_load, "imagefolder", None), partial(_load, "imagefolder", files))
    runs = [[measure_alone(work, data_dir) for work in works] for _ in range(BUILD_REPEATS)]
    with tempfile.TemporaryDirectory() as folder:
        _link_copies(Path(data_dir), Path(folder))
        many_bytes = measure_alone(build, folder).peak_bytes
    return {
        "build_time": statistics.median(ours.seconds / folder.seconds for ours, folder, _ in runs),
        "build_time_listed": statistics.median(ours.seconds / listed.seconds for ours, _, listed in runs),
        "build_memory": many_bytes / statistics.median(ours.peak_bytes for ours, *_ in runs),
        "first_row_files": measure_alone(_first_row, data_dir).png_files,
    }


class Cost(NamedTuple):
    """What a work took; `cpu_seconds` are of all cores together."""

    seconds: float
    peak_bytes: int
    png_files: int
    cpu_seconds: float


def measure_alone(work: Callable[[str, str], None], data_dir: str | Path) -> Cost:
    """Return the cost of `work`, given `data_dir` and an empty cache, in a process of its own."""
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(1, get_context("spawn")) as pool,  # a fresh process: its peak is the work's
    ):
        return pool.submit(_measured, work, str(data_dir), cache).result()


def _measured(work: Callable[[str, str], None], data_dir: str, cache: str) -> Cost:
    datasets.disable_progress_bars()
    opened: set[str] = set()
    sys.addaudithook(lambda event, seen: opened.add(seen[0]) if event == "open" and isinstance(seen[0], str) else None)
    started, started_cpu = time.perf_counter(), time.process_time()
    work(data_dir, cache)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    return Cost(seconds, _peak_bytes(), sum(name.lower().endswith(".png") for name in opened), cpu_seconds)


def _peak_bytes() -> int:
    """Return the most memory that this process has held; on Linux, getrusage counts what its parent held, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of macOS, in bytes


def _load(builder: str, files: list[str] | None, data_dir: str, cache: str) -> None:
    datasets.load_dataset(builder, data_dir=None if files else data_dir, data_files=files, cache_dir=cache)


def _first_row(data_dir: str, cache: str) -> None:
    next(iter(datasets.load_dataset("chest_xray_masks", data_dir=data_dir, split="train", streaming=True)))


def _link_copies(data_dir: Path, folder: Path) -> None:
    """Fill `folder` with links to each image, mask and reading of `data_dir`, `COPIES` times under other ids."""
    chosen = scan(str(data_dir)).chosen()
    if any(file.member for file in chosen.values()):
        raise ValueError(f"{data_dir} is or holds a zip: unpack it to measure memory")
    homes = {"image": "CXR_png", "mask": "masks", "reading": "ClinicalReadings"}
    for home in homes.values():
        (folder / home).mkdir()
    for (role, id), file in chosen.items():
        for copy in range(COPIES if role in homes else 0):
            name = f"{id[:7]}{copy + 1}{id[7:]}{'_mask' if role == 'mask' else ''}"  # MCUCXR_0001_0 to MCUCXR_10001_0
            (folder / homes[role] / f"{name}{Path(file.path).suffix}").symlink_to(file.path)
    if len(rows_of(scan(str(folder)))) != COPIES * sum(role == "image" for role, _ in chosen):
        raise ValueError(f"{data_dir} could not be linked {COPIES} times: are its ids longer than the set's?")
