"""The Xet store: blocks of chunks (xorbs) and the lists (shards) that make files of them, taken in and given out.

Each file of a shard is put together from its chunks as it comes in, and refused if its SHA-256 is not what the shard
says.
"""

import hashlib
import re
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from loopback_hub.api import REPO
from loopback_hub.messages import Call, Refusal, Response, Route, byte_span, ranged
from loopback_hub.repos import Repo
from loopback_hub.rights import open_to, writable
from loopback_hub.storage import check_signature, signed

if TYPE_CHECKING:
    from loopback_hub.hub import LoopbackHub

LIFE = 3600  # seconds for which a token of the store is good
END = b"\xff" * 32
VERIFIED, NAMED = 1 << 31, 1 << 30  # flags of a shard's file: a hash per term; the SHA-256


@dataclass(frozen=True)
class Term:
    """Chunks `start` to `end` of a xorb, the end excluded."""

    xorb: str
    start: int
    end: int


@dataclass
class Store:
    """What was taken in: xorbs and the terms of files by their hash, and which of both are one file."""

    xorbs: dict[str, bytes] = field(default_factory=dict)
    chunks: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)  # offset, end, length unpacked
    files: dict[str, list[Term]] = field(default_factory=dict)
    file_of_sha256: dict[str, str] = field(default_factory=dict)
    grants: dict[str, tuple[str, Repo]] = field(default_factory=dict)  # token to "read" or "write", and where


def hash_text(raw: bytes) -> str:
    """A hash as Xet prints it: four little-endian numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def chunk_table(xorb: bytes) -> list[tuple[int, int, int]]:
    """(offset, end, length unpacked) of each chunk of a xorb, up to its footer."""
    table, offset = [], 0
    while offset + 8 <= len(xorb) and xorb[offset] == 0:
        packed = int.from_bytes(xorb[offset + 1 : offset + 4], "little")
        length = int.from_bytes(xorb[offset + 5 : offset + 8], "little")
        end = offset + 8 + packed
        if end > len(xorb):
            raise ValueError(f"the xorb ends at {len(xorb)}, within the chunk of {offset} to {end}")
        table.append((offset, end, length))
        offset = end
    return table


def unpacked(chunk: bytes, length: int) -> bytes:
    """Content of one chunk of a xorb, header included."""
    scheme, payload = chunk[4], chunk[8:]
    if scheme == 0:
        return payload
    if scheme not in (1, 2):
        raise ValueError(f"cannot unpack a chunk by scheme {scheme}")
    plain = pa.Codec("lz4").decompress(payload, length, asbytes=True)
    if scheme == 1:
        return plain
    grouped, planes = np.frombuffer(plain, np.uint8), np.empty(length, np.uint8)
    start = 0
    for place in range(4):
        size = len(planes[place::4])
        planes[place::4] = grouped[start : start + size]
        start += size
    return planes.tobytes()


def put_together(store: Store, terms: list[Term]) -> bytes:
    """The file that terms make."""
    parts = []
    for term in terms:
        xorb = store.xorbs[term.xorb]
        spans = store.chunks[term.xorb][term.start : term.end]
        if len(spans) != term.end - term.start:
            raise ValueError(f"xorb {term.xorb} has no chunks {term.start} to {term.end}")
        parts += [unpacked(xorb[offset:end], length) for offset, end, length in spans]
    return b"".join(parts)


def files_of_shard(shard: bytes) -> list[tuple[str, list[Term], str | None]]:
    """(hash, terms, SHA-256 or None) of each file of a shard."""
    files, at = [], 48
    while shard[at : at + 32] != END:
        name, flags, count = hash_text(shard[at : at + 32]), *struct.unpack_from("<II", shard, at + 32)
        at += 48
        terms = []
        for _ in range(count):
            start, end = struct.unpack_from("<II", shard, at + 40)
            terms.append(Term(hash_text(shard[at : at + 32]), start, end))
            at += 48
        at += 48 * count if flags & VERIFIED else 0
        sha256 = None
        if flags & NAMED:
            sha256 = hash_text(shard[at : at + 32])
            at += 48
        files.append((name, terms, sha256))
    return files


def token(hub: "LoopbackHub", call: Call, plural: str, repo_id: str, kind: str, revision: str) -> Response:
    """A token for the store, to read or to write."""
    repo = (writable if kind == "write" else open_to)(hub, call, plural, repo_id)
    name = f"xet_{hub.new_secret()}"
    hub.cas.grants[name] = (kind, repo)
    address, expiry = hub.cas_url, int(time.time()) + LIFE
    headers = {"X_Xet_Cas_Url": address, "X_Xet_Access_Token": name, "X_Xet_Token_Expiration": str(expiry)}
    return Response.json({"casUrl": address, "accessToken": name, "exp": expiry}, **headers)


def _granted(hub: "LoopbackHub", call: Call, kinds: tuple[str, ...]) -> Repo:
    kind, repo = hub.cas.grants.get(call.bearer or "", (None, None))
    if repo is None:
        raise Refusal(401, "no token of the store")
    if kind not in kinds:
        raise Refusal(403, f"a token to {kind} does not let you do this")
    return repo


def chunk(hub: "LoopbackHub", call: Call, _: str) -> Response:
    """Where a chunk is already: nowhere, as far as this store tells."""
    _granted(hub, call, ("read", "write"))
    raise Refusal(404, "no such chunk")


def put_xorb(hub: "LoopbackHub", call: Call, name: str) -> Response:
    """Take a xorb in."""
    _granted(hub, call, ("write",))
    try:
        table = chunk_table(call.body)
    except ValueError as error:
        raise Refusal(400, str(error)) from error
    new = name not in hub.cas.xorbs
    hub.cas.xorbs[name], hub.cas.chunks[name] = call.body, table
    return Response.json({"was_inserted": new})


def put_shard(hub: "LoopbackHub", call: Call) -> Response:
    """Take in the files that a shard lists, if each is what the shard says."""
    repo, taken = _granted(hub, call, ("write",)), []
    try:
        for name, terms, sha256 in files_of_shard(call.body):
            data = put_together(hub.cas, terms)
            found = hashlib.sha256(data).hexdigest()
            if sha256 not in (None, found):
                raise ValueError(f"file {name}: its SHA-256 is {found}, the shard says {sha256}")
            taken.append((name, terms, found, data))
    except (KeyError, ValueError, OSError, struct.error) as error:
        raise Refusal(400, f"the shard is refused: {error}") from error
    for name, terms, found, data in taken:
        hub.cas.files[name], hub.cas.file_of_sha256[found] = terms, name
        hub.blobs[found] = data
        repo.stored.add(found)
    return Response.json({"result": 1})


def reconstruction(hub: "LoopbackHub", call: Call, name: str) -> Response:
    """Which chunks make a file, or the wanted range of it, and where their bytes are."""
    repo, terms = _granted(hub, call, ("read", "write")), hub.cas.files.get(name)
    if terms is None or not any(hub.cas.file_of_sha256.get(oid) == name for oid in repo.stored):
        raise Refusal(404, "no such file")
    pieces = [(term.xorb, index) for term in terms for index in range(term.start, term.end)]
    lengths = [hub.cas.chunks[xorb][index][2] for xorb, index in pieces]
    total = sum(lengths)
    span = byte_span(call.headers["range"], total) if "range" in call.headers else (0, total)
    if span is None:
        return Response(416, b"", {"Content-Range": f"bytes */{total}"})
    kept, skipped, at = [], 0, 0
    for piece, length in zip(pieces, lengths, strict=True):
        if at < span[1] and at + length > span[0]:
            skipped = span[0] - at if not kept else skipped
            kept.append((*piece, length))
        at += length
    wanted = _joined(kept)
    body = {"offset_into_first_range": skipped, "terms": wanted, "fetch_info": _fetches(hub, wanted)}
    return Response.json(body)


def _joined(pieces: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Terms of chunks (xorb, index, length) in a row."""
    terms: list[dict[str, Any]] = []
    for xorb, index, length in pieces:
        last = terms[-1] if terms else None
        if last and (last["hash"], last["range"]["end"]) == (xorb, index):
            last["range"]["end"] += 1
            last["unpacked_length"] += length
        else:
            terms.append({"hash": xorb, "unpacked_length": length, "range": {"start": index, "end": index + 1}})
    return terms


def _fetches(hub: "LoopbackHub", terms: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """For each xorb one span that holds all its terms: the client takes no overlapping ones."""
    fetches = {}
    for xorb in {term["hash"]: None for term in terms}:
        ranges = [term["range"] for term in terms if term["hash"] == xorb]
        start, end = min(span["start"] for span in ranges), max(span["end"] for span in ranges)
        table = hub.cas.chunks[xorb]
        url_range = {"start": table[start][0], "end": table[end - 1][1] - 1}  # the end included
        url = signed(hub, f"/xorbs/{xorb}")
        fetches[xorb] = [{"range": {"start": start, "end": end}, "url": url, "url_range": url_range}]
    return fetches


def xorb(hub: "LoopbackHub", call: Call, name: str) -> Response:
    """The bytes of a xorb, or a range of them."""
    check_signature(hub, call)
    return ranged(hub.cas.xorbs[name], call.headers.get("range"), {})


CAS = "/cas/[0-9a-f]+/v1"
ROUTES: list[Route] = [
    (method, re.compile(pattern), function)
    for method, pattern, function in (
        ("GET", rf"{REPO}/xet-(read|write)-token/([^/]+)", token),
        ("GET", rf"{CAS}/chunks/[^/]+/([0-9a-f]{{64}})", chunk),
        ("POST", rf"{CAS}/xorbs/[^/]+/([0-9a-f]{{64}})", put_xorb),
        ("POST", rf"{CAS}/shards", put_shard),
        ("GET", rf"{CAS}/reconstructions/([0-9a-f]{{64}})", reconstruction),
        ("GET", "/xorbs/([0-9a-f]{64})", xorb),
    )
]
