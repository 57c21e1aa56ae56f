"""The HTTP side: a thread for each connection, the log, and the faults as the client meets them."""

import contextlib
import http.server
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from loopback_hub.faults import Fault
from loopback_hub.messages import Call, Request, Response

if TYPE_CHECKING:
    from loopback_hub.hub import LoopbackHub


class Cut(Exception):  # noqa: N818 - a way to end, not a mistake
    """The connection is to be closed at once."""


class Server(http.server.ThreadingHTTPServer):
    """Threads on a free port of the loopback address, whose connections can all be closed at once."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: "LoopbackHub") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub
        self.closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away; show the rest."""
        import sys

        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """End the threads and close every connection."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection: each request whole, then its answer, with its fault, if any."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for the client's delayed acknowledgement
    server: Server

    def do_GET(self) -> None:
        """Answer a request of any method."""
        hub, (path, _, query) = self.server.hub, self.path.partition("?")
        self.target = unquote(path), query
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = hub.faults.take(self.command, self.target[0])
        try:
            body = self._body(headers, fault)
            call = Call(self.command, path, query, headers, body)
            response = self._response(call, fault)
            cut_after = fault.cut_after if fault is not None else None
            self._log(headers, response.status if cut_after is None else 0)
            self._send(response, cut_after)
        except Cut:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _body(self, headers: dict[str, str], fault: Fault | None) -> bytes:
        """The request's body, whole; a fault may cut it."""
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = int(headers.get("content-length", 0))
        limit = fault.cut_after if fault is not None and not fault.after else None
        if limit is not None and self.command not in ("GET", "HEAD"):
            self.rfile.read(limit if chunked else min(limit, length))
            self._log(headers, 0)
            raise Cut
        if not chunked:
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _response(self, call: Call, fault: Fault | None) -> Response:
        """What the hub says, or the fault says for it."""
        if fault is None:
            return self.server.hub.respond(call)
        if fault.delay and self.server.closing.wait(fault.delay):
            raise Cut
        response = None
        if fault.status is None or fault.after:
            response = self.server.hub.respond(call)
        if fault.status is not None:
            response = Response.json({"error": f"fault {fault.status} as asked for"}, fault.status)
        response.headers |= fault.headers
        response.body = response.body if fault.body is None else fault.body
        response.body = fault.spoil(response.body)
        return response

    def _log(self, headers: dict[str, str], status: int) -> None:
        user = self.server.hub.users.get(headers.get("authorization", "").partition(" ")[2].strip())
        name = user.name if user else None
        self.server.hub.requests.append(Request(self.command, self.target[0], name, status, headers, self.target[1]))

    def _send(self, response: Response, cut_after: int | None) -> None:
        """The answer, or its first `cut_after` bytes and an end; none at all where that is 0."""
        if cut_after == 0:
            raise Cut
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        body = b"" if self.command == "HEAD" else response.body
        self.wfile.write(body if cut_after is None else body[:cut_after])
        if cut_after is not None:
            raise Cut

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the hub keeps a log of its own."""
