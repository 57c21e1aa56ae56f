"""Kills at random moments and at operations on files: the same command then ends with the very same files."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from trials.jobs import Job, ended, kill_alone, last_line, seeded

LINGER = 60  # seconds that the processes of a killed one may take to end: a trainer writes a checkpoint first


def kills(job: Job, n: int, seed: int, folder: Path) -> Iterator[str]:
    """Kill `n` launches, half of them at an operation on files; yield "" for each that could be finished.

    A kill by the clock takes the process alone: those that it has started must end by themselves.
    """
    expected, operations, seconds = job.reference(folder)
    for number in range(n):
        random, output = seeded(seed, job.words[0], number), job.output(folder, f"killed-{number}")
        at = random.randrange(1, operations + 1) if operations and number % 2 else 0
        moment = f"operation {at} of {operations}" if at else f"{(after := random.uniform(0, seconds)):.1f} s"
        running, orphans = job.start(output, at), []
        if at:
            ended(running)
        else:
            time.sleep(after)
            orphans = kill_alone(running.pid)
            running.wait()
        _, alive = psutil.wait_procs(orphans, LINGER)
        for one in alive:
            one.kill()
        if alive:
            yield f"killed at {moment}: {len(alive)} processes lived on"
            continue
        yield _finished(job, output, expected, moment)


def _finished(job: Job, output: Path, expected: object, moment: str) -> str:
    status, said = job.finish(output)
    try:
        found = job.result(output)
    except (AssertionError, OSError, KeyError) as error:
        return f"killed at {moment}: the next launch ended with {status}, {last_line(said)} ({error})"
    if found != expected:
        return f"killed at {moment}: other files than without a kill, status {status}"
    if status and "already" not in last_line(said):  # of a launch that was killed after its last operation
        return f"killed at {moment}: the next launch ended with {status}, {last_line(said)}"
    if aside := [path.name for path in output.parent.glob(f".{output.name}*")]:
        return f"killed at {moment}: {aside[0]} is left beside the folder"
    return ""
