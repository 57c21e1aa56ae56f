"""Many visitors at once: all are answered or told to wait, and the page's memory stays within what it states."""

import gc
import io
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from visitors import Held, Served, ask, call_and_listen, functions, upload_and_read

from hub_models.app import backlog
from hub_models.app.backlog import LARGEST, MOST_BYTES, MOST_FILES, MOST_OF_ONE, Backlog

ROOT = Path(__file__).parents[2]


def xray_of(size: int) -> bytes:
    """A PNG of noise of about `size` bytes."""
    side = int(size**0.5)
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def visits(url: str, count: int, data: bytes) -> Counter[str]:
    """What became of visitors who came at once, each with a file of another content."""
    with ThreadPoolExecutor(count) as visitors:
        files = [(f"{number}.png", data + number.to_bytes(4)) for number in range(count)]
        return Counter(visitors.map(lambda one: upload_and_read(url, *one, one[0].replace(".", "")), files))


def test_backlog_counts_what_arrives_lies_and_waits(tmp_path: Path) -> None:
    held = Backlog(tmp_path)
    assert not held.is_full(MOST_BYTES) and held.is_full(MOST_BYTES + 1)
    held.arriving["request"] = 100
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").write_bytes(b"x" * 20)
    (tmp_path / "tmp1").write_bytes(b"x" * 3)  # broken off
    with held.holding("me", 4000):
        assert not held.is_full(MOST_BYTES - 4123) and held.is_full(MOST_BYTES - 4122)
        assert held.objection("me", LARGEST - 4000) == held.objection("you", LARGEST) == ""
        assert held.objection("me", LARGEST - 3999) == backlog.ENOUGH_OF_ONE
    assert not held.sizes and not held.files
    with pytest.raises(KeyError), held.holding("me", 1):
        raise KeyError
    assert not held.sizes and not held.files


def test_files_without_bytes_are_counted_too() -> None:
    held = Backlog()
    held.files["me"] = MOST_OF_ONE - 1
    assert held.objection("me", 0) == ""
    held.files["me"] = MOST_OF_ONE
    assert held.objection("me", 0) == backlog.ENOUGH_OF_ONE and held.objection("you", 0) == ""
    held.files["others"] = MOST_FILES - MOST_OF_ONE
    assert held.objection("you", 0) == backlog.FULL and held.is_full()


def test_visitors_at_once_are_answered_or_told_to_wait(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    data = xray_of(100_000)
    assert visits(served.url, 6, data) == {"answered": 6}
    monkeypatch.setattr(backlog, "MOST_BYTES", 250_000)
    some = visits(served.url, 12, data)
    assert (
        some["answered"] >= 2
        and some["before"] + some["after"] >= 1
        and some.total() == 12 == sum(some[one] for one in ("answered", "before", "after"))
    )
    assert not served.page.backlog.sizes and not served.page.backlog.arriving and not served.page.uploads
    assert visits(served.url, 2, data) == {"answered": 2}  # as soon as there is space


def test_examples_at_once_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MOST_FILES", 3)
    number, name = functions(served.url)["click"], next(iter(served.page.examples))
    with ThreadPoolExecutor(12) as visitors:
        said = list(visitors.map(lambda one: call_and_listen(served.url, [name], number, f"e{one}"), range(12)))
    assert all(("data-probability" in one) != (backlog.FULL in one) for one in said)
    assert sum(backlog.FULL in one for one in said) >= 1 and not served.page.backlog.files


def test_what_visitors_were_shown_is_forgotten(served: Served) -> None:
    data, before = xray_of(50_000), names_in_memory()  # of pages of other tests
    assert visits(served.url, 4, data) == {"answered": 4}
    assert upload_and_read(served.url, "last.png", data, "last") == "answered"
    assert names_in_memory() - before == {"last.png"}


def names_in_memory() -> set[str]:
    """Names of the X-rays whose readings a page in this process still holds."""
    shown = [str(one["value"]) for one in gc.get_objects() if type(one) is dict and "value" in one]
    return {match[1] for one in shown if (match := re.search('class="reading" data-name="(.*?)"', one))}


def test_reading_that_nobody_fetches_is_not_made(served: Served, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "LISTENS_WITHIN", 1)
    known, name = functions(served.url), next(iter(served.page.examples))
    call = {"data": [name], "fn_index": known["click"], "session_hash": "deaf"}
    assert ask(served.url, "gradio_api/queue/join", "POST", json=call).status_code == 200
    held.may_go.set()
    assert "data-probability" in call_and_listen(served.url, [name], known["click"], "hears")
    time.sleep(2)
    assert len(held.names) == 1 and not served.page.backlog.files


@contextmanager
def page_process(folders: tuple[str, str]) -> Iterator[tuple[str, Path]]:
    """Address and /proc folder of the page as a process of its own."""
    lungs, tb = folders
    command = [sys.executable, "scripts/app.py", "--segmenter", lungs, "--classifier", tb, "--port", "7951"]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        url = next(match[1] for line in running.stdout if (match := re.search(r"serving at (http\S+/)", line)))
        yield url, Path(f"/proc/{running.pid}")
    finally:
        running.terminate()
        output, _ = running.communicate(timeout=60)
    assert "Traceback" not in output, output


def megabytes(process: Path, what: str) -> float:
    return int(re.search(rf"{what}:\s+(\d+) kB", (process / "status").read_text())[1]) / 1000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the resident memory is read from /proc")
def test_fifty_visitors_with_twenty_megabytes(folders: tuple[str, str]) -> None:
    """The figures that docs/predict.md states; `pytest -s` prints them."""
    data = xray_of(20_000_000)
    with page_process(folders) as (url, process):
        assert upload_and_read(url, "first.png", data, "first") == "answered"
        before = megabytes(process, "VmHWM")
        became = visits(url, 50, data)
        most, after = megabytes(process, "VmHWM"), megabytes(process, "VmRSS")
    print(f"\n50 x 20 MB: {dict(became)}; MB after one reading {before:.0f}, at most {most:.0f}, at last {after:.0f}")
    assert became["answered"] >= 15 and set(became) <= {"answered", "before", "after"}
    assert most < before + MOST_BYTES / 1e6 + 300
