"""A visitor of the page in a real Chromium, who asks its server only and leaves without errors."""

import json
from pathlib import Path
from threading import Event
from typing import NamedTuple

import httpx
from playwright.sync_api import Browser, Page, expect

from hub_models.app import page as app
from hub_models.app.backlog import FULL
from hub_models.predict.reader import ChestXrayReader

WAIT = 120_000  # milliseconds for a reading on a busy machine
POLICY, REFUSALS = "Content Security Policy", (400, 403, 404, 405, 422)


class Served(NamedTuple):
    """The page under test: address, the folder that uploads pass through, events, whom the server called, models."""

    url: str
    folder: Path
    page: app.Page
    called: set[str]
    reader: ChestXrayReader


class Held(NamedTuple):
    """Whether an X-ray is being read, whether it may finish, and the names of those read."""

    is_busy: Event
    may_go: Event
    names: list[str]


class visit:
    """A new visitor's tab, open at the page."""

    def __init__(self, browser: Browser, served: Served, **options: object) -> None:
        self.context, self.served = browser.new_context(**options), served
        self.requested: list[str] = []
        self.errors: list[str] = []
        self.refused: list[str] = []  # what the page asks for and its server does not know

    def __enter__(self) -> Page:
        tab = self.context.new_page()
        tab.on("request", lambda request: self.requested.append(request.url))
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", lambda said: self.errors.append(said.text) if POLICY in said.text else None)
        tab.on("response", lambda one: self.refused.append(one.url) if one.status in REFUSALS else None)
        tab.set_default_timeout(WAIT)
        tab.goto(self.served.url)
        tab.wait_for_selector("#upload input[type=file]", state="attached")
        tab.wait_for_selector("#limits li")
        return tab

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.requested and not (seen := [*self.errors, *self.refused]), seen
            elsewhere = [
                url for url in self.requested if not url.startswith((self.served.url, "data:", "blob:", "file:"))
            ]
            assert not elsewhere, elsewhere
            assert self.served.called <= {"127.0.0.1", "localhost", "::1"}


def drop(tab: Page, *files: Path | dict) -> None:
    for file in files:
        tab.set_input_files("#upload input[type=file]", file)


def wait_for(tab: Page, name: str) -> None:
    expect(tab.locator("#result .name, #result .problem h2")).to_contain_text(name, timeout=WAIT)
    expect(tab.locator("#files a, #result .problem").first).to_be_visible(timeout=WAIT)


def ask(url: str, path: str = "", method: str = "GET", **options: object) -> httpx.Response:
    return httpx.request(method, url + path, **{"timeout": 30} | options)


def functions(url: str) -> dict[str, int]:
    """Numbers of one function that takes an upload, and of one that takes the name of an example."""
    known = [one for one in ask(url, "config").json()["dependencies"] if one["backend_fn"]]
    return {one["targets"][0][1]: one["id"] for one in known}


def call_and_listen(url: str, data: list[object], number: int, session: str = "b2") -> str:
    """HTML of the last answer to a call."""
    call = {"data": data, "fn_index": number, "session_hash": session}
    assert ask(url, "gradio_api/queue/join", "POST", json=call).status_code == 200
    said = ""
    with httpx.stream("GET", f"{url}gradio_api/queue/data?session_hash={session}", timeout=600) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") in ("process_generating", "process_completed"):
                said += json.dumps(message["output"])
            if message.get("msg") == "process_completed":
                return said
    raise AssertionError("no answer")


def upload_and_read(url: str, name: str, data: bytes, session: str) -> str:
    """Whether a visitor without a browser is `answered`, or told to wait `before` or `after` the upload."""
    sent = ask(url, "gradio_api/upload", "POST", files={"files": (name, data)}, timeout=300)
    if sent.status_code == 503:
        assert sent.text == FULL and sent.headers["retry-after"] == "60"
        return "before"
    said = call_and_listen(url, [{"path": sent.json()[0]}], functions(url)["upload"], session)
    assert f"{name}: reading" in said or FULL in said
    return "after" if FULL in said else "answered" if "data-probability" in said else said
