"""Calls that meet a Hub's bad moments, with the real client."""

import errno
import logging
from collections.abc import Callable
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from loopback_hub import LoopbackHub

from hub_models.files import full_disk
from hub_models.hub_client import requests as remote
from hub_models.hub_client.requests import (
    LONGEST_WAIT,
    WAITS,
    passes,
    plain_errors,
    reason_of,
    retried,
    scrub,
    status_of,
    whoami_writer,
)

AsUser = Callable[..., Any]
WHOAMI = "GET /api/whoami-v2"


def answered(status: int, text: str = "", **headers: str) -> HfHubHTTPError:
    """An error of the client for an answer."""
    request = httpx2.Request("GET", "http://hub/x?signature=secret")
    response = httpx2.Response(status, request=request, headers=headers)
    message = f"Error {status} for url http://hub/x?signature=secret"
    return HfHubHTTPError(message, response=response, server_message=text)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept through, by nobody."""
    slept: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    return slept


def raising(*errors: Exception) -> Callable[[], str]:
    """A call that raises one error after the other, and then works."""
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


@pytest.mark.parametrize(
    "fault",
    [
        *({"status": status} for status in (408, 429, 500, 502, 503, 504)),
        {"cut_after": 0},
        {"cut_after": 20},
        {"corrupt": True},  # what comes is not JSON
    ],
    ids=str,
)
def test_what_passes_is_tried_again(hub: LoopbackHub, as_user: AsUser, fault: dict[str, Any]) -> None:
    with as_user():
        hub.fail(WHOAMI, times=len(WAITS), **fault)
        assert whoami_writer(HfApi()) == "alice"
        assert len(hub.requests) == len(WAITS) + 1
        hub.requests.clear()
        hub.fail(WHOAMI, times=None, **fault)
        with pytest.raises(ConnectionError, match="^pushing to the Hub failed .*: run the same command again"):
            whoami_writer(HfApi())
        assert len(hub.requests) == len(WAITS) + 1


@pytest.mark.parametrize(("status", "kind"), [(400, ValueError), (401, PermissionError), (403, PermissionError)])
def test_what_stays_is_tried_once(hub: LoopbackHub, as_user: AsUser, status: int, kind: type) -> None:
    with as_user():
        hub.fail(WHOAMI, status=status, times=None)
        with pytest.raises(kind) as error:
            whoami_writer(HfApi())
    assert len(hub.requests) == 1
    assert "\n" not in str(error.value) and str(status) in str(error.value)


def test_waits_grow_and_follow_what_the_hub_asks_for(naps: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hub_models"):
        assert retried(raising(answered(503), answered(429, "slow", **{"Retry-After": "7"}), answered(500))) == "done"
    assert naps == [1, 7, 4]  # the second would have been 2
    assert caplog.messages == [
        "503: Service Unavailable; again in 1 s",
        "429: slow; again in 7 s",
        "500: Internal Server Error; again in 4 s",
    ]
    naps.clear()
    used_up = answered(429, "slow", ratelimit='"api";r=0;t=12')
    assert retried(raising(used_up, answered(429, ratelimit='"api";r=3;t=12'))) == "done"
    assert naps == [13, 2]
    naps.clear()
    too_long = answered(429, "slow", **{"Retry-After": str(LONGEST_WAIT + 1)})
    with pytest.raises(ConnectionError, match=f"wait {LONGEST_WAIT + 1} s"), plain_errors("doing", "it"):
        retried(raising(too_long))
    assert naps == []
    assert retried(raising(answered(409)), also=(409,)) == "done"
    with pytest.raises(HfHubHTTPError):
        retried(raising(answered(409)))


def test_bugs_are_not_tried_again(naps: list[float]) -> None:
    with pytest.raises(NameError), plain_errors("doing", "it"):
        retried(raising(NameError("a bug")))
    assert naps == []


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [
        (answered(503), 503, True),
        (answered(404), 404, False),
        (httpx2.ConnectError("refused"), None, True),
        (httpx2.ReadTimeout("slow"), None, True),
        (httpx2.UnsupportedProtocol("ftp"), None, False),
        (OfflineModeIsEnabled("offline"), None, False),
        (OSError("Consistency check failed: file should be of size 3 but has size 2"), None, True),
        (FileNotFoundError("no file x"), None, False),
        (ValueError("bad"), None, False),
        # plain LFS: the client wraps what happened; a storage address that was good for some time gives 403 after it
        (caused(RuntimeError("Error while uploading 'w'"), answered(500)), 500, True),
        (caused(RuntimeError("Error while uploading 'w'"), answered(403)), 403, True),
        (caused(RuntimeError("Error while uploading 'w'"), answered(400)), 400, False),
        (caused(RuntimeError("Error while uploading 'w'"), httpx2.RemoteProtocolError("gone")), None, True),
        # Xet: only a text
        (ConnectionError("Network error: HTTP status client error (403 Forbidden), domain: x"), 403, False),
        (ConnectionError("Rate limited: Request error: HTTP status client error (429 Too Many Requests)"), 429, True),
        (ConnectionError("Network error: error sending request for url (http://x)"), None, True),
        (RuntimeError("Task error: CAS Client Error: Request middleware error: error sending request"), None, True),
        (RuntimeError("Task error: I/O error: No space left on device (os error 28)"), None, False),
        (OSError(errno.ENOSPC, "No space left on device"), None, False),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}"[:60] if isinstance(value, Exception) else None,
)  # fmt: skip
def test_which_errors_pass(error: Exception, status: int | None, again: bool) -> None:
    assert (status_of(error), passes(error)) == (status, again)


def test_full_disks_are_known() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert full_disk(OSError(number, "full"))
        assert full_disk(RuntimeError(f"I/O error: (os error {number})"))
    assert not full_disk(OSError(errno.EACCES, "denied"))
    said = "^no space left on the disk for downloading model a/b: free some"
    with pytest.raises(OSError, match=said), plain_errors("downloading", "model a/b"):
        raise caused(RuntimeError("x"), OSError(errno.ENOSPC, "No space left on device"))


def test_a_host_that_is_not_there_is_said_in_words() -> None:
    assert reason_of(httpx2.ConnectError("[Errno -2] Name or service not known")).startswith("no connection: Name")
    assert reason_of(httpx2.ConnectError("[Errno 111] Connection refused")) == "no connection: Connection refused"
    assert reason_of(OSError("[Errno 28] No space left")) == "[Errno 28] No space left"


def test_nothing_secret_is_said(
    monkeypatch: pytest.MonkeyPatch, naps: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "my-own-token")
    text = "GET https://cdn/x?X-Amz-Signature=abc&y=1\nfor hf_abcdefghij (my-own-token, other-one)"
    assert scrub(text, "other-one") == "GET https://cdn/x for <token> (<token>, <token>)"
    assert "secret" not in reason_of(answered(500)) + reason_of(caused(RuntimeError("x"), answered(500)))
    with pytest.raises(ConnectionError) as error, plain_errors("doing", "it"):
        raise answered(500, "hf_abcdefghij is wrong")
    assert str(error.value) == "doing it failed (500: <token> is wrong): run the same command again: it resumes"
    assert retried(raising(answered(500, "api_org_other is wrong")), secret="api_org_other") == "done"
    assert caplog.messages == ["500: <token> is wrong; again in 1 s"] and naps == [1]
    assert error.value.__cause__ is None and error.value.__suppress_context__  # no traceback shows the client's error


def test_each_refusal_is_one_sentence(hub: LoopbackHub, as_user: AsUser) -> None:
    hub.create("alice/closed", private=True)
    hub.create("alice/gated").gated = "auto"

    def said(doing: Callable[[], object], kind: type) -> str:
        with pytest.raises(kind) as error, plain_errors("reading", "model it"):
            doing()
        assert "\n" not in str(error.value)
        return str(error.value)

    with as_user("bob"):
        found = said(lambda: huggingface_hub.model_info("alice/closed"), FileNotFoundError)
        assert found.startswith("no model it on the Hub that you may see: check the name")
        gated = said(lambda: huggingface_hub.hf_hub_download("alice/gated", "a"), PermissionError)
        assert gated.startswith("model it is gated: ask for access on its page")
        found = said(lambda: huggingface_hub.model_info("alice/gated", revision="v9"), FileNotFoundError)
        assert found == "no such branch, tag or commit in model it: pass one that is there"
        refused = said(lambda: huggingface_hub.create_repo("alice/m"), PermissionError)
        assert "is not allowed (403: You don't" in refused
    with as_user(None):
        assert "needs a login: log in with `hf auth login`" in said(lambda: huggingface_hub.whoami(), PermissionError)
    assert "unset HF_HUB_OFFLINE" in said(lambda: huggingface_hub.model_info("alice/m"), ConnectionError)
    assert said(lambda: huggingface_hub.model_info("a/b/c"), ValueError).startswith("reading model it failed: Repo id")


def test_who_may_write(hub: LoopbackHub, as_user: AsUser, monkeypatch: pytest.MonkeyPatch) -> None:
    with as_user():
        assert whoami_writer(HfApi()) == whoami_writer(HfApi(), "alice") == "alice"
        with pytest.raises(PermissionError, match="^alice may not write to bob: pass one of alice$"):
            whoami_writer(HfApi(), "bob")
        with pytest.raises(PermissionError, match=r"^the Hub does not take this token \(401: .*\): log in"):
            whoami_writer(HfApi(token="hf_nobodys_token"))
    with as_user(role="read"), pytest.raises(PermissionError, match="^the token of alice is for reading: make one"):
        whoami_writer(HfApi())
    with as_user(None), pytest.raises(PermissionError, match="^pushing to the Hub needs a login: log in with"):
        whoami_writer(HfApi())
    with pytest.raises(ConnectionError, match="^pushing to the Hub needs the network: unset HF_HUB_OFFLINE$"):
        whoami_writer(HfApi(token="hf_any_token"))
