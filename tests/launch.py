"""Scripts run as users run them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from hub_models.cli.commands import COMMANDS
from hub_models.cli.plans import train_config
from hub_models.runs.config import TrainConfig

ROOT = Path(__file__).parents[1]


def config_of(words: list[str]) -> TrainConfig:
    """Config that the options of `cxm train` make."""
    parser = COMMANDS["train"].parser("train")
    return train_config(parser.parse(words))


def python(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Finished `python ARGUMENTS` in the project's root; its output is shown where it failed and `check` is set."""
    return _run([sys.executable, *map(str, arguments)], check)


def accelerate(*arguments: object, processes: int = 1, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Finished `accelerate launch ... ARGUMENTS` on the CPU, in one process or two, in the project's root."""
    return _run(command_of(processes, arguments), check)


def kill_when(reached: Callable[[], bool], *arguments: object, processes: int = 1) -> None:
    """Start `accelerate launch ... ARGUMENTS` and end it with SIGKILL as soon as `reached()` is true."""
    _signal_when(reached, signal.SIGKILL, arguments, processes)


def interrupt_when(reached: Callable[[], bool], *arguments: object) -> tuple[int, str]:
    """The same with Ctrl-C, which a terminal sends to every process of a command: exit status and error output."""
    return _signal_when(reached, signal.SIGINT, arguments)


def _signal_when(
    reached: Callable[[], bool], number: int, arguments: tuple[object, ...], processes: int = 1, seconds: float = 300
) -> tuple[int, str]:
    command = command_of(processes, arguments)
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        limit = time.monotonic() + seconds
        while not reached():
            if process.poll() is not None or time.monotonic() > limit:
                os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
                raise RuntimeError(
                    f"{command} ended, or took {seconds} s, before it was to be signalled: {process.stderr.read()}"
                )
            time.sleep(0.01)
        for worker in psutil.Process(process.pid).children(recursive=True) if number == signal.SIGKILL else ():
            with suppress(psutil.NoSuchProcess):  # it may have ended by now
                worker.kill()  # of several processes each is in a group of its own
        os.killpg(process.pid, number)
        log = process.stderr.read()
        return process.wait(), log


def shell(command: str, folder: Path, environment: dict[str, str], root: Path = ROOT) -> str:
    """Output of a shell command with the environment's programs first on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = environment | {"PATH": path, "PYTHONPATH": str(root), "MAKEFLAGS": ""}
    done = subprocess.run(
        ["bash", "-e", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=1200
    )
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def config_line(data: Path, output: Path, **options: object) -> list[object]:
    """Line of scripts/train.py: 32 px from random weights, without a tracker."""
    given = {"data": data, "output": output, "image_size": 32, "tracker": "none", **options}
    pairs = (text for name, value in given.items() for text in (f"--{name}", value))
    return ["scripts/train.py", "--from_scratch", *pairs]


def command_of(processes: int, arguments: Sequence[object]) -> list[str]:
    """Command `accelerate launch ... ARGUMENTS` on the CPU, in one process or two."""
    single = "--config_file scripts/accelerate/cpu.yaml"
    double = "--config_file scripts/accelerate/cpu_2_processes.yaml --main_process_port 0"  # 0: any free port
    options = {1: single, 2: double}[processes].split()
    return [sys.executable, "-m", "accelerate.commands.launch", *options, *map(str, arguments)]


def _run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540)
    if check and done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done
