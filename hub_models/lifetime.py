"""Processes that end with the one that started them, also after `kill -9`; and the last word under a launcher (Linux).

Elsewhere a launcher that is killed leaves its processes, and a killed process its workers, to be ended by hand.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PR_SET_PDEATHSIG = 1  # Source: prctl(2); the signal comes when the thread ends that started the process
LAUNCHER = re.compile(r"\b(accelerate|torchrun|torch\.distributed|deepspeed)\b")
LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # which launchers set for their processes
# waits for the launcher of a descriptor, but for no more than 60 seconds
SAY_LAST = "import select, sys; select.select([int(sys.argv[1])], [], [], 60); print(sys.argv[2], file=sys.stderr)"

_here = threading.local()  # `parent`: the process whose forks in this thread are tied to it


def _launcher() -> int | None:
    """Return the id of the launcher that started this process, such as `accelerate launch`; None without one."""
    if sys.platform != "linux" or not any(name in os.environ for name in LAUNCHED):
        return None
    parent = os.getppid()
    try:
        words = Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return None
    return parent if LAUNCHER.search(words) else None


def end_with_launcher() -> None:
    """Let the system send SIGTERM to this process when its launcher ends; without one, do nothing."""
    if _launcher() is not None:
        _tie(signal.SIGTERM)


def _tie(number: signal.Signals) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


@contextmanager
def tied_workers() -> Iterator[None]:
    """Let the system kill the processes that this thread forks in the block when this process ends in any way."""
    former, _here.parent = getattr(_here, "parent", None), os.getpid()
    try:
        yield
    finally:
        _here.parent = former


def _tie_fork() -> None:
    parent = getattr(_here, "parent", None)
    if parent is not None and sys.platform == "linux":
        _here.parent = None  # a fork of this fork is its own affair
        _tie(signal.SIGKILL)
        if os.getppid() != parent:  # which ended before
            os._exit(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tie_fork)


def say_last(sentence: str) -> None:
    """Write `sentence` to the error output once the launcher has ended, which has much to say of a failed process.

    A process of its own does so, as the launcher ends after this one. Without a launcher, do nothing.
    """
    if (launcher := _launcher()) is None:
        return
    number = os.pidfd_open(launcher)
    command = [sys.executable, "-I", "-S", "-c", SAY_LAST, str(number), sentence]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[number], start_new_session=True)
