"""Hours of work in minutes: memory, descriptors and threads of a process while it reads thousands of X-rays."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from trials.jobs import ENVIRONMENT, last_line

GROWTH, SLACK = 1.15, 64 << 20  # of memory: factor, and bytes
LEAST = 80  # measurements that can show it


class Load(NamedTuple):
    """What a process and its children hold: bytes, open descriptors, threads."""

    memory: int
    descriptors: int
    threads: int


def load_of(pid: int) -> Load:
    """What the process and those that it has started hold now."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return Load(
        sum(one.memory_info().rss for one in family),
        sum(one.num_fds() for one in family),
        sum(one.num_threads() for one in family),
    )


def grown(loads: list[Load]) -> str:
    """What has grown from the second quarter to the last; "" where nothing has, or too little was seen to tell."""
    if len(loads) < LEAST:
        return ""
    quarter = len(loads) // 4
    early, late = (
        Load(*map(max, zip(*part, strict=True))) for part in (loads[quarter : 2 * quarter], loads[-quarter:])
    )
    if late.memory > GROWTH * early.memory + SLACK:
        return f"memory grew from {early.memory >> 20} to {late.memory >> 20} MB"
    if late.descriptors > early.descriptors + 8:
        return f"descriptors grew from {early.descriptors} to {late.descriptors}"
    return f"threads grew from {early.threads} to {late.threads}" if late.threads > early.threads + 4 else ""


def predictions(n: int, xrays: list[Path], models: list[str], folder: Path) -> Iterator[str]:
    """Read `n` X-rays, links to a few, in one job; yield "" for each X-ray, or what has grown."""
    (folder / "many").mkdir(parents=True)
    for number in range(n):
        os.link(xrays[number % len(xrays)], folder / "many" / f"{number:06d}.png")
    words = [sys.executable, "-m", "hub_models.cli", "predict", "--data", "many", "--output", "out", *models]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
        loads = []
        while running.poll() is None:
            try:
                loads.append(load_of(running.pid))
            except psutil.NoSuchProcess:
                break
            time.sleep(1)
        status = running.wait()
    said = last_line((folder / "log").read_text()) if status else grown(loads)
    print(f"soak of predict: {loads[-1].memory >> 20} MB, {loads[-1].descriptors} descriptors", file=sys.stderr)
    yield from [said] * n if said else [""] * n


def page_reads(n: int, xrays: list[Path], models: list[str], folder: Path) -> Iterator[str]:
    """Let one visitor after another read an X-ray on the page, in Chromium; yield "" for each that was answered."""
    from pages import free_port, start_browser
    from playwright.sync_api import expect, sync_playwright

    folder.mkdir(parents=True)
    words = [sys.executable, "-u", "-m", "hub_models.cli", "app", "--port", str(free_port()), *models]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, **streams) as running, sync_playwright() as playwright:
        url = next(match[1] for line in running.stdout if (match := re.search(r"serving at (http://\S+?);", line)))
        browser = start_browser(playwright)
        loads: list[Load] = []
        try:
            for number in range(n):
                tab = browser.new_page()
                tab.goto(url)
                xray = xrays[number % len(xrays)]
                tab.set_input_files("#upload input[type=file]", xray)
                expect(tab.locator("#result .name")).to_contain_text(xray.name, timeout=60_000)
                tab.close()
                loads.append(load_of(running.pid))
                yield ""
        finally:
            browser.close()
            running.terminate()
    print(f"soak of the page: {loads[-1].memory >> 20} MB, {loads[-1].descriptors} descriptors", file=sys.stderr)
    if said := grown(loads):
        yield said
