"""Works timed in turn, round after round, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Collection, Mapping

from tqdm.auto import tqdm

ROUNDS = 3
Works = Mapping[str, Callable[[], object]]
Seconds = dict[str, list[float]]


def timed_rounds(works: Works, rounds: int, last_only: Collection[str] = ()) -> Seconds:
    """Return the seconds of each work in each of `rounds` rounds; one more round before them warms up.

    A work of `last_only` runs in the last round only.
    """
    seconds: Seconds = {name: [] for name in works}
    for number in tqdm(range(rounds + 1), desc="Rounds", disable=None):
        for name, work in works.items():
            if number < rounds and name in last_only:
                continue
            started = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def speed_ratio(ours: list[float], theirs: list[float]) -> float:
    """Return how many times as fast ours is: the median over rounds; one round of theirs counts for all."""
    theirs = theirs * len(ours) if len(theirs) == 1 else theirs
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))


def speeds(seconds: Seconds, images: int) -> dict[str, float]:
    """Return the images per second of each work, from the median of its rounds of so many images."""
    return {f"{name}_images_per_second": images / statistics.median(taken) for name, taken in seconds.items()}


def fastest(seconds: Seconds) -> str:
    """Return which of the works that are named by a number of workers took the least time, by its median."""
    return min((name for name in seconds if name.isdigit()), key=lambda name: statistics.median(seconds[name]))
