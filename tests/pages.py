"""Pages in a real browser: Debian's Chromium, and ports for the programs that serve them."""

import shutil
import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync")  # as root
FLAGS += ("--disable-background-networking", "--disable-component-update")


def chromium() -> str:
    """The program; the test is skipped, saying so, where it is not installed."""
    if not (found := shutil.which("chromium")):
        pytest.skip("no chromium: apt-get install chromium")
    return found


def start_browser(playwright: "Playwright") -> "Browser":
    """Chromium without a window, with an empty profile."""
    return playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
