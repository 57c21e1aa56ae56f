"""Call the Hub: try again after failures that pass, turn other errors into one sentence, see who is logged in."""

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, RepoCard, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from hub_models.files import full_disk

logger = logging.getLogger(__name__)

WAITS = (1, 2, 4, 8, 8)  # seconds between tries, as in the client's own retries
LONGEST_WAIT = 301  # seconds that the Hub may ask for: one more than its window of counting requests
PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
# raised by an answer that is not the Hub's: HTML, JSON of another kind
NO_CONNECTION = r"^\[Errno (-[0-9]+|1[01][0-9])\] "  # no such host, nobody answers, the network is down
GARBLED = (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError)
CLIENT_ERRORS = (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError, ValueError, *GARBLED)
LOGIN = "log in with `hf auth login` or set HF_TOKEN"
Answer = TypeVar("Answer")


def retried(
    call: Callable[..., Answer], *args: Any, also: Collection[int] = (), secret: str | bool | None = None, **more: Any
) -> Answer:
    """Return what `call` returns; repeat it after 408, 429, 5xx, lost connections and the statuses `also`.

    An answer may be lost after the Hub has done its work, so `call` must first check what is left to do.
    `secret` is the token that `call` uses; the log leaves it out. Raises the error of the last try, or the first one
    that another try would not change.
    """
    for wait in WAITS:
        try:
            return call(*args, **more)
        except CLIENT_ERRORS as error:
            seconds = max(wait, _requested_wait(error))
            if not (passes(error) or status_of(error) in also) or seconds > LONGEST_WAIT:
                raise
            logger.warning("%s; again in %d s", reason_of(error, secret), seconds)
        time.sleep(seconds)
    return call(*args, **more)


def passes(error: BaseException) -> bool:
    """Return whether the same call may succeed a moment later."""
    if full_disk(error):
        return False
    wrapped = isinstance(error, RuntimeError)  # an upload by LFS or a download by Xet
    if (status := status_of(error)) is not None:
        return status in PASSING_STATUSES or (status == 403 and wrapped)  # an address of the storage expires
    lost = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, ConnectionError, *GARBLED)
    return wrapped or any(
        (isinstance(one, lost) and not isinstance(one, OfflineModeIsEnabled)) or "Consistency check failed" in str(one)
        for one in _chain(error)
    )


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the Hub or its storage that caused an error; None without one."""
    for one in _chain(error):
        if isinstance(one, HfHubHTTPError):
            return one.response.status_code
        if found := re.search(r"HTTP status \w+ error \(([0-9]{3})", str(one)):  # Xet gives only a text
            return int(found[1])
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def _requested_wait(error: BaseException) -> int:
    """Return the seconds to wait that the Hub gives, or that are left of its rate limit's window; 0 without either."""
    for one in _chain(error):
        if isinstance(one, HfHubHTTPError):
            requested = one.response.headers.get("Retry-After", "").strip()
            counted = parse_ratelimit_headers(one.response.headers)
            if re.fullmatch("[0-9]+", requested):
                return int(requested)
            return counted.reset_in_seconds + 1 if counted and not counted.remaining else 0
    return 0


def reason_of(error: BaseException, token: str | bool | None = None) -> str:
    """Return the message of an error of the clients, as one line without tokens and signatures."""
    if isinstance(error, GARBLED):
        return "its answer cannot be read"
    chain = [*_chain(error)]
    if answer := next((one for one in chain if isinstance(one, HfHubHTTPError)), None):
        said = answer.server_message or answer.response.reason_phrase
        return scrub(f"{answer.response.status_code}: {said}", token)
    said = str(chain[-1] if isinstance(error, RuntimeError) else error) or type(error).__name__
    said = re.sub(NO_CONNECTION, "no connection: ", said)
    return scrub(re.sub(r", domain: \S+| for url \(\S+\)", "", said), token)


def scrub(text: str, token: str | bool | None = None) -> str:
    """Return `text` on one line, without `token` or any other token, and without the queries of addresses."""
    for secret in (token, get_token()):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "<token>")
    text = re.sub(r"\bhf_\w{8,}", "<token>", text)
    return " ".join(re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\")]*", r"\1", text).split())


@contextmanager
def plain_errors(doing: str, where: str, token: str | bool | None = None) -> Iterator[None]:
    """Turn the errors that the Hub's clients raise in a block into one sentence: `doing` (an -ing form) `where`.

    Raises:
        FileNotFoundError: no such repository or revision.
        PermissionError: not logged in, or without the right.
        ConnectionError: no answer, or an error of the Hub itself.
        ValueError: the Hub refuses what was sent, or the block raises one.
        OSError: the disk is full, or another error of the system.
    """
    try:
        yield
    except CLIENT_ERRORS as error:  # kept out of tracebacks: addresses in it can hold signatures
        raise _plain(error, doing, where, token) from None


def _plain(error: BaseException, doing: str, where: str, token: str | bool | None) -> OSError | ValueError:
    """Return the built-in error, with its sentence, for an error of the clients."""
    status, said = status_of(error), reason_of(error, token)
    way = f"check the name, or, if it is private, {LOGIN}"
    hidden = f"no {where} on the Hub that you may see: {way} as a user who may"
    if token is False or not (token or get_token()):
        hidden = f"the Hub shows no {where} to a user who is not logged in: {way}"
    known: dict[type, OSError] = {
        OfflineModeIsEnabled: ConnectionError(f"{doing} {where} needs the network: unset HF_HUB_OFFLINE"),
        LocalTokenNotFoundError: PermissionError(f"{doing} {where} needs a login: {LOGIN}"),
        GatedRepoError: PermissionError(f"{where} is gated: ask for access on its page, then {LOGIN}"),
        RepositoryNotFoundError: FileNotFoundError(hidden),
        RevisionNotFoundError: FileNotFoundError(f"no such branch, tag or commit in {where}: pass one that is there"),
    }
    if full_disk(error):
        return OSError(f"no space left on the disk for {doing} {where}: free some, or set HF_HOME to another disk")
    for one in _chain(error):
        if plain := next((plain for kind, plain in known.items() if isinstance(one, kind)), None):
            return plain
    if status == 401:
        return PermissionError(f"the Hub does not take this token ({said}): {LOGIN}")
    if status == 403:
        return PermissionError(f"{doing} {where} is not allowed ({said}): {LOGIN}, with a token that may do this")
    if passes(error):
        wait = f"; it asks to wait {seconds} s" if (seconds := _requested_wait(error)) else ""
        again = "check its name, or try again" if doing == "looking up" else "run the same command again: it resumes"
        return ConnectionError(f"{doing} {where} failed ({said}{wait}): {again}")
    if status is not None:
        return ValueError(f"{doing} {where} was refused ({said})")
    kind = ValueError if isinstance(error, ValueError) else OSError
    return kind(f"{doing} {where} failed: {said}")


def check_metadata(card: RepoCard, token: str | bool | None = None) -> None:
    """Let the Hub check the metadata of a card before a commit, which it would refuse for a fault.

    Raises:
        ValueError: it finds a fault, such as a licence that it does not know.
        ConnectionError: no answer.
    """

    def refusal() -> str:
        try:
            card.validate()
        except json.JSONDecodeError:
            raise
        except ValueError as error:  # as JSON or plain
            return str(error)
        return ""

    with plain_errors("checking", "the card's metadata", token):
        said = retried(refusal, secret=token)
    if said:
        with suppress(ValueError, KeyError, TypeError):
            said = "; ".join(one["message"] for one in json.loads(said)["errors"])
        raise ValueError(f"the Hub does not take the card's metadata: {scrub(said, token)}")


def whoami_writer(api: HfApi, owner: str | None = None) -> str:
    """Return the owner of a new repository, `owner` or the logged-in user, checked to be writable by the token.

    The rights of a fine-grained token are known to the Hub alone and not checked here.

    Raises:
        PermissionError: not logged in, the token is unknown or for reading, or `owner` is somebody else.
        ConnectionError: no answer.
    """
    with plain_errors("pushing", "to the Hub", api.token):
        who = retried(api.whoami, secret=api.token)
        name, role = who["name"], who.get("auth", {}).get("accessToken", {}).get("role")
        names = [name, *(org["name"] for org in who.get("orgs", []))]
    if role == "read":
        raise PermissionError(f"the token of {name} is for reading: make one for writing, then {LOGIN}")
    if owner not in (None, *names):
        raise PermissionError(f"{name} may not write to {owner}: pass one of {', '.join(names)}")
    return owner or name
