"""Let through to Gradio what the page itself asks for: by host, origin, path, size and form; one line for an error."""

import logging
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub_models.app.backlog import FULL, LARGEST, TRY_AGAIN, Backlog

log = logging.getLogger(__name__)
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
UPLOAD, CALL = "/gradio_api/upload", "/gradio_api/queue/join"
ASKED = re.compile(
    r"/|/(config|theme\.css|manifest\.json|favicon\.ico|robots\.txt|pwa_icon(/[0-9]+)?)|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info|startup-events|app_id|theme\.css|queue/data|upload_progress|heartbeat/\w+)"
)
LARGEST_CALL = 2**16  # bytes
AROUND = 2**16  # bytes of a form around its file
# Gradio makes functions of text and has scripts in its HTML, so that a policy cannot forbid either
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors "
)
SPACE_FRAMES = "'self' https://huggingface.co https://*.hf.space"
NO_CALL = "This is not a call that the page makes."
NO_SCRIPT = b"<noscript>This page reads X-rays by JavaScript: switch it on, then load the page again.</noscript>"


class UploadedFile(BaseModel):
    """What a call names of an upload."""

    path: Annotated[str, Field(max_length=4096)]
    meta: dict[str, str] = {"_type": "gradio.FileData"}


class PageCall(BaseModel):
    """What the page sends to have an upload, or the example of a name, read."""

    data: tuple[UploadedFile | Annotated[str, Field(max_length=100)]]
    fn_index: int
    session_hash: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,64}$")]


def hosts_of(listening: str | None, named: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the hosts that a page is served as, beside the address that a request came to.

    Args:
        listening: address or name to listen at; None for what Gradio's environment variable says.
        named: what else it is served as, such as the name that a proxy in front of it has.

    Raises:
        ValueError: one of them is not a host.
    """
    if wrong := [one for one in named if not re.fullmatch(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*|\[[0-9A-Fa-f:]+\]", one)]:
        raise ValueError(f"{wrong[0]} is not a host: pass a name or an address, without http:// and port")
    listening = listening or os.environ.get("GRADIO_SERVER_NAME", LOOPBACK[1])
    own = () if listening in LOOPBACK else (listening, socket.gethostname())
    space = os.environ.get("SPACE_HOST")
    return (*LOOPBACK, *own, *named, *((space, "*.hf.space") if space else ()))


def unusable(port: int | None) -> OSError:
    """Return the error of a port at which nothing can listen; None is the default one."""
    at = "the default port" if port is None else f"port {port}"
    return OSError(f"{at} cannot be used, perhaps as another page is there: pass another --port")


def check_port(host: str | None, port: int) -> None:
    """Raise OSError where nothing can listen at a port."""
    family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
    try:
        socket.create_server((host or "127.0.0.1", port), family=family).close()
    except (OSError, OverflowError) as error:
        raise unusable(port) from error


class Gate:
    """An ASGI application around Gradio's.

    Attributes:
        app: Gradio's.
        hosts: of `hosts_of`.
        origins: hosts whose pages may ask, beside the one that is asked: a proxy may pass on another.
        takes_file: by the number of each function that may be called, whether it takes an upload.
        backlog: that an upload must fit into.
    """

    def __init__(
        self, app: ASGIApp, listening: str | None, named: Sequence[str], config: Mapping[str, Any], backlog: Backlog
    ) -> None:
        """Stand before an application whose Gradio `config` names its functions."""
        self.app, self.backlog, self.hosts = app, backlog, hosts_of(listening, named)
        space = os.environ.get("SPACE_HOST")
        self.origins = {*named, *((space,) if space else ())}
        functions = [one for one in config["dependencies"] if one["backend_fn"]]
        self.takes_file = {one["id"]: one["targets"][0][1] == "upload" for one in functions}
        self.headers = {
            "Content-Security-Policy": POLICY + (SPACE_FRAMES if space else "'none'"),
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        } | ({} if space else {"X-Frame-Options": "DENY"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        address = (scope.get("server") or LOOPBACK[1:2])[0].removeprefix("::ffff:")
        own = f"[{address}]" if ":" in address else address
        trusted = TrustedHostMiddleware(self._answer, (*self.hosts, own), www_redirect=False)
        await trusted(scope, receive, send_guarded)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            self._check(request)
            if request.url.path == UPLOAD:
                await self._take_in(request, send)
            elif request.url.path == CALL:
                await self.app(scope, await self._call(request), send)
            elif request.url.path == "/":
                await self.app(_without_compression(scope), receive, _with_no_script(send))
            else:
                await self.app(scope, receive, send)
        except HTTPException as refusal:
            answer = PlainTextResponse(refusal.detail, refusal.status_code, refusal.headers)
            await answer(scope, receive, send)
        except ClientDisconnect:
            pass
        except Exception as error:  # after Gradio has answered, and without its words: they may name a patient's file
            log.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)

    def _check(self, request: Request) -> None:
        """Raise HTTPException for a request of another site, and for one that the page does not make."""
        origin, path = request.headers.get("origin"), request.url.path
        if origin is not None:
            site = urlsplit(origin)
            if site.netloc != request.headers.get("host") and site.hostname not in self.origins:
                raise HTTPException(403, "This page does not answer other sites.")
        if path in (UPLOAD, CALL):
            if request.method != "POST":
                raise HTTPException(405, "Not allowed.", {"Allow": "POST"})
        elif not ASKED.fullmatch(path.removesuffix("/") or "/"):
            raise HTTPException(404, "Not found.")
        elif request.method not in ("GET", "HEAD"):
            raise HTTPException(405, "Not allowed.", {"Allow": "GET, HEAD"})

    async def _take_in(self, request: Request, send: Send) -> None:
        """Let an upload arrive, if it fits."""
        said = request.headers.get("content-length", "")
        size = int(said) if said.isdecimal() else LARGEST + AROUND  # in pieces, of which no header says how many
        if size > LARGEST + AROUND:
            raise HTTPException(413, f"The file has more than {LARGEST // 2**20} MB, which this page does not take.")
        if self.backlog.is_full(size):
            raise HTTPException(503, FULL, {"Retry-After": str(TRY_AGAIN)})
        arriving = self.backlog.arriving
        arriving[request] = size

        def counted(pieces: int) -> None:
            arriving[request] -= pieces

        try:
            await self.app(request.scope, _limited(request.receive, size, counted), send)
        finally:
            del arriving[request]

    async def _call(self, request: Request) -> Receive:
        """Return what gives Gradio a checked call and nothing else that was in it."""
        body = await Request(request.scope, _limited(request.receive, LARGEST_CALL)).body()
        try:
            call = PageCall.model_validate_json(body)
        except ValidationError:
            raise HTTPException(422, NO_CALL) from None
        (given,) = call.data
        is_sound = not isinstance(given, UploadedFile) or self._is_ours(given.path)
        if not is_sound or self.takes_file.get(call.fn_index) != isinstance(given, UploadedFile):
            raise HTTPException(422, NO_CALL)
        return _given_then(call.model_dump_json().encode(), request.receive)

    def _is_ours(self, path: str) -> bool:
        """Return whether an upload may lie there."""
        where = Path(path)
        is_plain = ".." not in where.parts and "\0" not in path and len(where.name.encode(errors="replace")) <= 255
        return is_plain and where.parent.parent == self.backlog.folder


def _limited(receive: Receive, most: int, arrived: Callable[[int], None] = lambda size: None) -> Receive:
    """Return what receives a body of at most `most` bytes, and tells how many of them came each time."""
    left = most

    async def receive_limited() -> Message:
        nonlocal left
        message = await receive()
        size = len(message.get("body", b""))
        left -= size
        if left < 0:
            raise HTTPException(413, f"More than {most} bytes.")
        arrived(size)
        return message

    return receive_limited


def _given_then(body: bytes, receive: Receive) -> Receive:
    """Return what receives a whole body, and afterwards what `receive` does."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_given() -> Message:
        return messages.pop() if messages else await receive()

    return receive_given


def _without_compression(scope: Scope) -> Scope:
    return {**scope, "headers": [one for one in scope["headers"] if one[0] != b"accept-encoding"]}


def _with_no_script(send: Send) -> Send:
    """Return what sends the page with words for a browser without JavaScript, which Gradio has none of."""
    start: Message = {}

    async def send_with_words(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        if start:
            message["body"] = message["body"].replace(b"<gradio-app", NO_SCRIPT + b"<gradio-app", 1)
            MutableHeaders(scope=start)["content-length"] = str(len(message["body"]))  # it comes as one piece
            await send(start)
            start = {}
        await send(message)

    return send_with_words
