"""What the page answers, by host, origin, path, size and form, over real HTTP; and what a browser makes of it."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import httpx
import pytest
from playwright.sync_api import Browser, Route
from visitors import Served, ask, call_and_listen, functions

from hub_models.app import gate
from hub_models.app import page as app
from hub_models.app.view import ShownModel

SPACE = "owner-reader.hf.space"
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
FILE_META = {"_type": "gradio.FileData"}


@contextmanager
def empty_page(host: str = "127.0.0.1", hosts: tuple[str, ...] = ()) -> Iterator[str]:
    """Address of a page that reads nothing."""
    models = {"Lung model": ShownModel("m", "0" * 16, False, ("None.",))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))  # which the next line changes
        with app.serving(app.Page(None, models, {}), host, hosts=hosts) as (url, _):
            yield url


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:{port}", "127.0.0.1", "127.0.0.1:{port}", "[::1]:{port}"])
def test_hosts_of_this_machine_are_answered(host: str, served: Served) -> None:
    host = host.format(port=urlparse(served.url).port)
    assert ask(served.url, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "10.0.0.1"]
    + ["127.0.0.1@evil.example", "evil.example/localhost", "[::2]", "x" * 5000, ""],
)
def test_other_hosts_are_refused(host: str, method: str, served: Served) -> None:
    headers = {"Host": host, "Origin": f"http://{host[:100]}", "Access-Control-Request-Method": "POST"}
    for path in ("", "config", "gradio_api/queue/join", "gradio_api/upload"):
        answer = ask(served.url, path, method, headers=headers)
        assert answer.status_code == 400 and "access-control-allow-origin" not in answer.headers
        assert "X-ray" not in answer.text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", "http://localhost:1", "x"])
def test_pages_of_others_are_refused(origin: str, served: Served) -> None:
    for method, path in (("GET", ""), ("GET", "config"), ("POST", "gradio_api/upload"), ("OPTIONS", "config")):
        answer = ask(served.url, path, method, headers={"Origin": origin})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert ask(served.url, "config", headers={"Origin": served.url.rstrip("/")}).status_code == 200


def test_hosts_of_an_open_page_are_its_own_and_those_that_are_named() -> None:
    with empty_page("0.0.0.0", ("xray.hospital.example", "*.lan")) as url:  # noqa: S104
        own = socket.gethostname()
        for host in (own, "localhost", "127.0.0.1", "xray.hospital.example", "XRAY.hospital.example:80", "a.lan"):
            assert ask(url, headers={"Host": host}).status_code == 200, host
        for host in ("hospital.example", "www.xray.hospital.example", "evil.example", "lan.evil.example"):
            assert ask(url, headers={"Host": host}, follow_redirects=False).status_code == 400, host
        named = {"Origin": "https://xray.hospital.example"}  # of a proxy that passes on another host
        assert ask(url, "config", headers=named).status_code == 200


def test_name_that_is_no_host_is_said_at_once() -> None:
    for wrong in ("http://x", "x:80", "a b", "", "a*"):
        with pytest.raises(ValueError, match="is not a host"):
            gate.hosts_of(None, [wrong])


def test_machine_answers_by_the_address_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")  # noqa: S104
    assert "0.0.0.0" in gate.hosts_of(None) and socket.gethostname() in gate.hosts_of(None)  # noqa: S104
    monkeypatch.delenv("GRADIO_SERVER_NAME")
    assert gate.hosts_of(None) == gate.LOOPBACK == gate.hosts_of("127.0.0.1")
    with empty_page("127.0.0.2") as url:
        assert ask(url).status_code == 200 and "127.0.0.2" in url
        assert ask(url, headers={"Host": "127.0.0.3"}).status_code == 400


def test_every_answer_has_the_headers(served: Served) -> None:
    for path in ("", "config", "nowhere", "theme.css", "static/img/logo.svg"):
        headers = ask(served.url, path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.slow
def test_space_is_served_and_framed_by_the_hub(monkeypatch: pytest.MonkeyPatch, browser: Browser) -> None:
    framed: list[str] = []
    for space in ("", SPACE):
        monkeypatch.setenv("SPACE_HOST", space)
        with empty_page() as url:
            is_space = bool(space)
            assert ask(url, headers={"Host": SPACE}).status_code == (200 if is_space else 400)
            assert ask(url, headers={"Origin": f"https://{SPACE}"}).status_code == (200 if is_space else 403)
            assert ask(url, headers={"Origin": "https://other.hf.space"}).status_code == 403
            assert ("x-frame-options" in ask(url).headers) != is_space
            framed += [f"{site} {space}" for site in ("huggingface.co", "evil.example") if frames(browser, site, url)]
    assert framed == [f"huggingface.co {SPACE}"]


def frames(browser: Browser, site: str, url: str) -> bool:
    """Whether the page, at the Space's address, is shown in a frame of another site."""
    context = browser.new_context()
    html = f"<!doctype html><iframe src='https://{SPACE}/'></iframe>"
    context.route(f"https://{site}/**", lambda route: route.fulfill(body=html, content_type="text/html"))

    def by_proxy(route: Route) -> None:
        path = urlparse(route.request.url).path[1:]
        headers = {"Host": SPACE, "X-Forwarded-Proto": "https"} if os.environ["SPACE_HOST"] else {}
        answer = ask(url, path, headers=headers)
        route.fulfill(status=answer.status_code, headers=dict(answer.headers), body=answer.content)

    context.route(f"https://{SPACE}/**", by_proxy)
    tab = context.new_page()
    tab.goto(f"https://{site}/x")
    tab.wait_for_timeout(3000)
    is_shown = any(frame.locator("#limits li").count() for frame in tab.frames)
    context.close()
    return is_shown


def test_browser_without_javascript_is_told(served: Served, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(served.url)
    assert "JavaScript: switch it on" in tab.inner_text("body")
    context.close()


def forged(folder: Path, file: int, example: int) -> dict[str, object]:
    """Calls that the page does not make, by what is wrong."""

    def call(data: object, number: object = file, session: object = "a1") -> dict[str, object]:
        return {"data": data, "fn_index": number, "session_hash": session}

    def named(path: object, **more: object) -> list[object]:
        return [{"path": path, "meta": FILE_META} | more]

    paths = {
        "file of the system": "/etc/passwd",
        "address": "http://127.0.0.1:9/x.png",
        "other address": "https://evil.example/x.png",
        "dots": f"{folder}/../x/../../etc/passwd",
        "dots at the end": f"{folder}/x/..",
        "its folder": str(folder),
        "beside": f"{folder}x/a/b.png",
        "relative": "x.png",
        "empty": "",
        "null": f"{folder}/a/\0",
        "long name": f"{folder}/a/{'b' * 300}",
        "long path": "a" * 10_000,
        "number": 5,
        "list": ["a"],
        "none": None,
    }
    one = named(f"{folder}/a/b")
    shapes = {
        "no": [],
        "two": 2 * one,
        "text": ["x"],
        "bare": [5],
        "nested": [[1]],
        "none": [None],
        "object": {"a": 1},
    }
    return {
        **{f"path: {what}": call(named(path)) for what, path in paths.items()},
        **{f"data: {what}": call(data) for what, data in shapes.items()},
        "meta of another kind": call(named(f"{folder}/a/b", meta=5)),
        "example: a file": call(named("/etc/passwd"), example),
        "example: long": call(["x" * 200], example),
        "no such function": call(one, 99),
        "function without work": call(one, 0),
        "function by name": call(one, "show"),
        "session: none": call(["x"], example, None),
        "session: markup": call(["x"], example, "<b>"),
        "session: long": call(["x"], example, "a" * 100),
        "list": [1],
        "text": "x",
    }


def test_forged_calls_end_in_a_short_refusal(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    known = functions(served.url)
    for what, call in forged(served.folder, known["upload"], known["click"]).items():
        answer = ask(served.url, "gradio_api/queue/join", "POST", json=call)
        assert answer.status_code == 422 and answer.text == gate.NO_CALL, what
    for body, status in ((b"\xff", 422), (b"", 422), (b"{}", 422), (b"[" * 60_000, 422), (b"[" * 10**6, 413)):
        assert ask(served.url, "gradio_api/queue/join", "POST", content=body).status_code == status
    for path in (
        "run/show",
        "api/show",
        "call/show",
        "call/v2/show",
        "component_server",
        "reset",
        "cancel",
    ):
        assert ask(served.url, f"gradio_api/{path}", "POST", json={"data": []}).status_code == 404, path
    for path in ("file=/etc/passwd", "proxy=http://127.0.0.1:9/", "deep_link?session_hash=a1", "openapi.json", "runs"):
        assert ask(served.url, f"gradio_api/{path}").status_code == 404, path
    assert Path("/etc/passwd").exists()
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out and "passwd" not in said.err + said.out


def test_call_for_an_upload_that_is_gone_is_answered_in_words(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    known = functions(served.url)
    for data, number in (([{"path": f"{served.folder}/a/gone.png"}], known["upload"]), (["nothing"], known["click"])):
        said = call_and_listen(served.url, data, number)
        assert app.LOST in said and "could not be read" in said
    assert "Traceback" not in "".join(capfd.readouterr())


def test_bad_uploads_end_in_a_short_refusal(
    served: Served, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "LARGEST", 10**5)
    monkeypatch.setattr(gate, "AROUND", 0)

    def pieces() -> Iterator[bytes]:  # without a length
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        yield from [b"a" * 1000] * 200

    upload: Callable[..., httpx.Response] = lambda **body: ask(served.url, "gradio_api/upload", "POST", **body)  # noqa: E731
    assert upload(content=b"a" * (10**5 + 1), headers=FORM).status_code == 413
    assert upload(content=pieces(), headers=FORM).status_code == 413
    assert upload(content=b"x", headers=FORM).status_code == 400
    assert upload(content=b"x").status_code == 400
    assert upload(files={"files": ("..", b"x")}).status_code == 400
    assert upload(files={"files": (None, b"x")}).status_code == 500  # no file, which Gradio does not expect
    assert not served.page.backlog.arriving
    assert "Traceback" not in "".join(capfd.readouterr())
    app.delete_broken_uploads(served.folder, -1)
