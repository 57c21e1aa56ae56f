"""Real kills of real processes: nothing lives on, and the sentence of an error stands last."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest
from launch import ROOT, accelerate, command_of, config_line

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with another")

# Each makes processes that wait for ever once the one that made them is killed.
WORK = {
    "datasets": """
        import datasets
        from hub_models.dataset.preprocessing import prepare
        from hub_models.dataset.sources import load_splits
        rows = load_splits(sys.argv[1])["train"]
        prepare(datasets.concatenate_datasets([rows] * 40), 512)
    """,
    "executor": """
        from concurrent.futures import ProcessPoolExecutor
        with tied_workers(), ProcessPoolExecutor(2) as pool:
            list(pool.map(time.sleep, [300, 300]))
    """,
}


def script(text: str) -> str:
    lines = ["import sys, time", "from hub_models.lifetime import tied_workers", *text.strip().splitlines()]
    return "\n".join(line.removeprefix("        ") for line in lines)


def wait_for(reached: Callable[[], object], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < limit, "it was never reached"
        time.sleep(0.02)


@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_made_them(kind: str, number: signal.Signals, phantoms, tmp_path) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", script(WORK[kind]), str(phantoms)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        one = psutil.Process(process.pid)
        wait_for(lambda: len(one.children(recursive=True)) >= 2)
        workers = one.children(recursive=True)
        process.send_signal(number)
        process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert len(workers) >= 2 and not alive


def test_process_that_no_launcher_started_outlives_its_parent_and_says_nothing_twice(tmp_path) -> None:
    code = "from hub_models.console import plain_terminal\nwith plain_terminal(): raise ValueError('bad size 3')"
    environment = os.environ | {"ACCELERATE_MIXED_PRECISION": "bf16"}  # set by a user, in a shell
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "error: bad size 3\n"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sentence_stands_last_under_a_launcher(processes: int, tmp_path) -> None:
    line = ["scripts/train.py", "--data", tmp_path / "nowhere", "--output", tmp_path / "run", "--from_scratch"]
    done = accelerate(*line, "--model", "segformer-light", processes=processes, check=False)
    last = done.stderr.rstrip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith(f"error: {tmp_path / 'nowhere'} ")
    assert "Connection closed by peer" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("killed", ["launcher", "last"])
def test_killed_launcher_takes_its_processes_along(
    killed: str, processes: int, phantoms, tiny_segformer, tmp_path
) -> None:
    line = config_line(phantoms, tmp_path / "run", model=tiny_segformer, epochs=500)
    with subprocess.Popen(
        command_of(processes, line), cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    ) as launcher:
        wait_for(lambda: any((tmp_path / "run" / "checkpoints").glob("epoch-*")))
        workers = psutil.Process(launcher.pid).children(recursive=True)
        os.kill(launcher.pid if killed == "launcher" else workers[-1].pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert len(workers) == processes and not alive
        assert launcher.wait(60) != 0


RANK_1_FAILS = """
import os
from hub_models.console import plain_terminal
with plain_terminal():
    from hub_models.runs.launch import make_accelerator
    accelerator = make_accelerator()
    if not accelerator.is_main_process:
        raise ValueError("rank 1 has no disk")
    accelerator.wait_for_everyone()
"""


@pytest.mark.slow
def test_error_of_one_process_ends_the_other_at_once(tmp_path) -> None:
    (tmp_path / "one_fails.py").write_text(RANK_1_FAILS)
    done = accelerate(tmp_path / "one_fails.py", processes=2, check=False)
    assert done.returncode  # at once, as otherwise it ends by the timeout
    assert done.stderr.rstrip().splitlines()[-1] == "error: rank 1 has no disk"
