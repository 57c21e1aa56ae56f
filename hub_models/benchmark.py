"""Ratios that tell whether the project is fast enough, each measured against its yardstick in one run."""

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

import datasets

from chest_xray_masks import rows_of, scan

REPEATS = 5
COPIES = 4  # how many times the images, to see whether memory grows with them


def dataset_ratios(data_dir: str | Path) -> dict[str, float]:
    """Ratios of the dataset builder against `load_dataset("imagefolder")`, medians of `REPEATS` pairs taken in turn.

    `build_time`: both are given the folder. `build_time_listed`: imagefolder is given each PNG file that our rows use;
    it notes their paths and opens none, while the builder reads and checks every byte, thresholds the masks and keeps
    all in the Arrow file. `build_memory`: peak memory of building `COPIES` times as many images over that of building
    them once. `first_row_files`: PNG files opened to stream the first row; its image and its mask make 2.
    """
    files = [file.path for row in rows_of(scan(data_dir)) for file in (row.image, *row.masks)]
    works = (_build, _imagefolder, partial(_imagefolder_listed, files))
    runs = [[measure_alone(work, data_dir) for work in works] for _ in range(REPEATS)]
    with tempfile.TemporaryDirectory() as folder:
        _link_copies(Path(data_dir), Path(folder))
        many_bytes = measure_alone(_build, folder)[1]
    return {
        "build_time": statistics.median(ours[0] / folder[0] for ours, folder, _ in runs),
        "build_time_listed": statistics.median(ours[0] / listed[0] for ours, _, listed in runs),
        "build_memory": many_bytes / statistics.median(ours[1] for ours, *_ in runs),
        "first_row_files": measure_alone(_first_row, data_dir)[2],
    }


def measure_alone(work: Callable[[str, str], None], data_dir: str | Path) -> tuple[float, int, int]:
    """(seconds, peak bytes, PNG files opened) of `work` in a process of its own, with an empty cache."""
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(1, get_context("spawn")) as pool,  # a fresh process: its peak is the work's
    ):
        return pool.submit(_measured, work, str(data_dir), cache).result()


def _measured(work: Callable[[str, str], None], data_dir: str, cache: str) -> tuple[float, int, int]:
    datasets.disable_progress_bars()
    opened = set()
    sys.addaudithook(lambda event, seen: opened.add(seen[0]) if event == "open" and isinstance(seen[0], str) else None)
    started = time.perf_counter()
    work(data_dir, cache)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # given in KiB
    return seconds, peak, sum(name.lower().endswith(".png") for name in opened)


def _build(data_dir: str, cache: str) -> None:
    datasets.load_dataset("chest_xray_masks", data_dir=data_dir, cache_dir=cache)


def _imagefolder(data_dir: str, cache: str) -> None:
    datasets.load_dataset("imagefolder", data_dir=data_dir, cache_dir=cache)


def _imagefolder_listed(files: list[str], data_dir: str, cache: str) -> None:
    datasets.load_dataset("imagefolder", data_files=files, cache_dir=cache)


def _first_row(data_dir: str, cache: str) -> None:
    next(iter(datasets.load_dataset("chest_xray_masks", data_dir=data_dir, split="train", streaming=True)))


def _link_copies(data_dir: Path, folder: Path) -> None:
    """Fill `folder` with a tree that holds each image, mask and reading of `data_dir` `COPIES` times, as links."""
    chosen = scan(str(data_dir)).chosen()
    if any(file.member for file in chosen.values()):
        raise ValueError(f"{data_dir} is or holds a zip: unpack it to measure memory")
    homes = {"image": "CXR_png", "mask": "masks", "reading": "ClinicalReadings"}
    for home in homes.values():
        (folder / home).mkdir()
    for (role, id), file in chosen.items():
        for copy in range(COPIES if role in homes else 0):
            name = f"{id[:7]}{copy + 1}{id[7:]}"  # MCUCXR_0001_0 to MCUCXR_10001_0
            mask = "_mask" if role == "mask" else ""
            (folder / homes[role] / f"{name}{mask}{Path(file.path).suffix}").symlink_to(file.path)
    if len(rows_of(scan(str(folder)))) != COPIES * sum(role == "image" for role, _ in chosen):
        raise ValueError(f"{data_dir} could not be linked {COPIES} times: are its ids longer than the set's?")
