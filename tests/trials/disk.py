"""A disk that is full at a random moment: one sentence, and the same command goes on when there is room."""

from collections.abc import Iterator
from pathlib import Path

from trials.jobs import Job, last_line, seeded


def full_disks(job: Job, n: int, seed: int, folder: Path) -> Iterator[str]:
    """Run a job `n` times with files limited to a random size; yield "" where it said so and could be finished."""
    expected, _, _ = job.reference(folder)
    largest = max(path.stat().st_size for path in (folder / "reference" / job.words[0]).rglob("*") if path.is_file())
    for number in range(n):
        limit, output = (
            seeded(seed, "disk", job.words[0], number).randrange(100, largest),
            job.output(folder, f"full-{number}"),
        )
        status, said = job.finish(output, limit)
        what = f"{job.words[0]} with files of at most {limit} bytes"
        if status and ("Traceback" in said or output.name not in last_line(said)):
            yield f"{what}: ended with {last_line(said)}"
            continue
        if not status:
            yield f"{what}: ended as if nothing had happened"
            continue
        status, said = job.finish(output)
        yield "" if status == 0 and job.result(output) == expected else f"{what}: then {last_line(said)}"
