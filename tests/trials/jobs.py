"""Jobs that trials disturb: a command of this project, the folder that it makes, and what must be in it at the end."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SECONDS = 300  # that a job may take
# Runs `cxm WORDS`; the process ends itself at the operation of a number on files below a folder, and counts them
COUNTED = """
import os, signal, sys
last, limit, folder, counter, *words = sys.argv[1:]
last, limit, seen = int(last), int(limit), 0

def watch(event, arguments):
    global seen
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if (writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")) and folder in str(arguments[0]):
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
if limit:
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from hub_models.cli import main
try:
    main(words)
finally:
    if not last:
        with open(counter, "w") as file:
            file.write(str(seen))
"""


def digests(folder: Path, among: str = "*") -> dict[str, str]:
    """SHA-256 of each file below a folder by its name."""
    files = [path for path in folder.rglob(among) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def of_run(folder: Path) -> dict[str, str]:
    """What a training must leave, to the bit; besides, no checkpoint and nothing hidden."""
    names = {path.name for path in folder.iterdir()}
    assert "results.json" in names and "checkpoints" not in names, f"{folder} holds {sorted(names)}"
    assert not (hidden := [name for name in names if name.startswith(".")]), f"{folder} holds {hidden}"
    kept = ("model.safetensors", "per_image.parquet", "config.json")
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    return {name: one for name, one in digests(folder).items() if name in kept} | {"metrics": json.dumps(metrics)}


def of_predictions(folder: Path) -> dict[str, str]:
    """What a prediction must leave: table and masks."""
    assert not [path for path in folder.iterdir() if path.name.startswith(".") or path.name == "rows"]
    return {name: one for name, one in digests(folder).items() if name.endswith((".parquet", ".png", ".csv"))}


@dataclass(frozen=True)
class Job:
    """A command that makes a folder, and what it must hold.

    Attributes:
        words: of `cxm`, with `{output}` for the folder, `{name}` for that of the folder it lies in.
        result: what the folder of a finished job holds; AssertionError where it looks unfinished.
        environment: of the process.
        launch: what the command is started with, in place of Python.
    """

    words: tuple[str, ...]
    result: Callable[[Path], Mapping[str, str]] = digests
    environment: Mapping[str, str] = field(default_factory=dict)
    launch: tuple[str, ...] = ()

    def output(self, folder: Path, name: str) -> Path:
        """A folder to make, of the same name as others: cards quote it."""
        (folder / name).mkdir(parents=True)
        return folder / name / self.words[0]

    def start(self, output: Path, last: int = 0, limit: int = 0) -> subprocess.Popen:
        """Start the job; it kills itself at operation `last` on files, and writes files of at most `limit` bytes."""
        words = [word.format(output=output, name=output.parent.name) for word in self.words]
        counter = f"{output}.operations"
        own = [sys.executable, "-c", COUNTED, str(last), str(limit), str(output), counter]
        environment = ENVIRONMENT | self.environment
        with Path(f"{output}.log").open("w") as log:  # no pipe: nobody reads it
            streams = {"stdout": log, "stderr": subprocess.STDOUT}
            command = [*(self.launch or own), *words]
            return subprocess.Popen(command, cwd=output.parent, env=environment, start_new_session=True, **streams)

    def finish(self, output: Path, limit: int = 0) -> tuple[int, str]:
        """Run the job to its end, with a `limit` of bytes of a file if not 0: exit status and output."""
        status = ended(self.start(output, limit=limit))
        return status, Path(f"{output}.log").read_text()

    def reference(self, folder: Path) -> tuple[Mapping[str, str], int, float]:
        """What the undisturbed job leaves, its operations on files, and its seconds."""
        output, began = self.output(folder, "reference"), time.monotonic()
        status, said = self.finish(output)
        assert status == 0, said
        counter = Path(f"{output}.operations")
        operations = int(counter.read_text()) if counter.is_file() else 0
        return self.result(output), operations, time.monotonic() - began


def ended(running: subprocess.Popen) -> int:
    """Exit status of a process; it is killed where it takes too long."""
    try:
        return running.wait(SECONDS)
    except subprocess.TimeoutExpired:
        kill_all(running.pid)
        return running.wait()


def kill_all(pid: int) -> None:
    """End a process with SIGKILL, and all that it has started."""
    try:
        family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def kill_alone(pid: int) -> list[psutil.Process]:
    """End a process with SIGKILL; return those that it had started."""
    try:
        process = psutil.Process(pid)
        children = process.children(recursive=True)
        process.kill()
    except psutil.NoSuchProcess:
        return []
    return children


def last_line(text: str) -> str:
    """The last line of an output that holds something."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def seeded(seed: int, *names: object) -> Random:
    """Random numbers of a trial."""
    return Random(f"{seed} {names}")
