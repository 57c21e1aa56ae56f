"""What goes over the wire, seen from a route: the request it gets, the response it gives, the refusal it raises."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs


@dataclass(frozen=True)
class Request:
    """One request as the hub's log keeps it: `path` without query and %-escapes, header names in small letters.

    `status` is 0 where the connection was cut before the end of the answer; `user` is None without a hub's token.
    """

    method: str
    path: str
    user: str | None
    status: int
    headers: dict[str, str]
    query: str = ""


@dataclass(frozen=True)
class Call:
    """One request as a route sees it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body, parsed; {} if there is none."""
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise Refusal(400, f"the body is not JSON: {error}") from error

    def parameter(self, name: str) -> str | None:
        """A value of the query string, or None."""
        return parse_qs(self.query).get(name, [None])[0]

    @property
    def bearer(self) -> str | None:
        """The token of the Authorization header, or None."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None


@dataclass
class Response:
    """Status, body and headers of an answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, values: Any, status: int = 200, **headers: str) -> "Response":
        """An answer in JSON; header names are given with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps(values).encode(), {"Content-Type": "application/json; charset=utf-8"} | named)


class Refusal(Exception):  # noqa: N818 - an answer, not a mistake
    """An answer of 400 or above, raised from wherever it becomes clear."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: Any) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message.splitlines()[0]} | ({"X-Error-Code": code} if code else {})
        self.response = Response.json({"error": message} | more, status)
        self.response.headers |= headers


def ranged(data: bytes, header: str | None, headers: dict[str, str]) -> Response:
    """`data` whole (200), the bytes that a Range header names (206), or 416 where there is none such."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"} | headers
    if header is None:
        return Response(200, data, headers)
    span = byte_span(header, len(data))
    if span is None:
        return Response(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
    start, end = span
    return Response(206, data[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})


def byte_span(header: str, size: int) -> tuple[int, int] | None:
    """(start, end) with the end excluded, of a header `bytes=a-b`, `bytes=a-` or `bytes=-n`; None if it is empty."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not found or found.groups() == ("", ""):
        raise Refusal(400, f"cannot read the range {header!r}")
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    return (start, end) if start < end else None


Route = tuple[str, re.Pattern[str], Callable[..., Response]]
