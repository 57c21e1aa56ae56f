"""Where large files live: the way in by plain LFS, on another origin than the hub, and the way out to everyone."""

import hashlib
import hmac
import math
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from loopback_hub.messages import Call, Refusal, Response, Route, ranged
from loopback_hub.repos import PLURALS, PREFIXES, Repo
from loopback_hub.rights import open_to, writable

if TYPE_CHECKING:
    from loopback_hub.hub import LoopbackHub

GIT = rf"/(?:({'|'.join(PLURALS)})/)?([^/]+/[^/]+)\.git"
FILE = rf"/(?:({'|'.join(PLURALS)})/)?([^/]+/[^/]+)/(?:resolve|raw)/([^/]+)/(.+)"


def signed(hub: "LoopbackHub", path: str) -> str:
    """The address of `path` on the storage's origin, with the signature that stands for a token there."""
    return f"{hub.storage}{path}?signature={_signature(hub, path)}"


def _signature(hub: "LoopbackHub", path: str) -> str:
    return hmac.new(hub.secret, path.encode(), hashlib.sha256).hexdigest()[:32]


def check_signature(hub: "LoopbackHub", call: Call) -> None:
    """Refuse a call to an address that `signed` did not give out."""
    if not hmac.compare_digest(_signature(hub, call.path), call.parameter("signature") or ""):
        raise Refusal(403, "Signature does not match")


def batch(hub: "LoopbackHub", call: Call, plural: str | None, repo_id: str) -> Response:
    """For each object, where to send it; nothing for those that are here."""
    repo, body = writable(hub, call, plural or "models", repo_id), call.json()
    if body.get("operation") != "upload" or body.get("hash_algo", "sha256") != "sha256":
        raise Refusal(400, f"cannot do {body.get('operation')!r} with {body.get('hash_algo')!r}")
    objects = [_offer(hub, repo, item, "multipart" in body.get("transfers", [])) for item in body.get("objects", [])]
    multipart = any("chunk_size" in item.get("actions", {}).get("upload", {}).get("header", {}) for item in objects)
    return Response.json({"transfer": "multipart" if multipart else "basic", "objects": objects})


def _offer(hub: "LoopbackHub", repo: Repo, item: dict[str, Any], multipart: bool) -> dict[str, Any]:
    oid, size = str(item.get("oid", "")), item.get("size")
    if not re.fullmatch("[0-9a-f]{64}", oid) or not isinstance(size, int) or size < 1:
        raise Refusal(400, f"no LFS object: {item}")
    known = {"oid": oid, "size": size}
    if oid in repo.stored:
        return known
    where = f"/lfs/{PREFIXES[repo.type]}{repo.id}/{oid}/{size}"
    header: dict[str, str] = {}
    if multipart and size > hub.part_size:
        numbers = range(1, math.ceil(size / hub.part_size) + 1)
        header = {f"{number:05d}": signed(hub, f"{where}/{number}") for number in numbers}
        header["chunk_size"] = str(hub.part_size)
    verify = f"{hub.endpoint}/{PREFIXES[repo.type]}{repo.id}.git/info/lfs/verify"
    upload = {"href": signed(hub, where), "header": header}
    return known | {"actions": {"upload": upload, "verify": {"href": verify, "header": {}}}}


def put(hub: "LoopbackHub", call: Call, plural: str | None, repo_id: str, oid: str, size: str) -> Response:
    """Take an object in, whole."""
    check_signature(hub, call)
    _keep(hub, plural, repo_id, oid, int(size), call.body)
    return Response()


def put_part(
    hub: "LoopbackHub", call: Call, plural: str | None, repo_id: str, oid: str, _: str, part: str
) -> Response:
    """Take a part of an object in; its ETag stands for it when the parts are put together."""
    check_signature(hub, call)
    hub.parts[repo_id, oid, int(part)] = call.body
    return Response(headers={"ETag": f'"{hashlib.md5(call.body).hexdigest()}"'})


def complete(hub: "LoopbackHub", call: Call, plural: str | None, repo_id: str, oid: str, size: str) -> Response:
    """Put the parts of an object together."""
    check_signature(hub, call)
    data = b""
    for part in sorted(call.json().get("parts", []), key=lambda part: part["partNumber"]):
        held = hub.parts.get((repo_id, oid, part["partNumber"]))
        if held is None or part["etag"].strip('"') != hashlib.md5(held).hexdigest():
            raise Refusal(400, f"part {part['partNumber']} of {oid} is not what was uploaded")
        data += held
    _keep(hub, plural, repo_id, oid, int(size), data)
    hub.parts = {key: held for key, held in hub.parts.items() if key[:2] != (repo_id, oid)}
    return Response.json({})


def _keep(hub: "LoopbackHub", plural: str | None, repo_id: str, oid: str, size: int, data: bytes) -> None:
    """Store an object for a repository, if it is what its name says."""
    found = hashlib.sha256(data).hexdigest()
    if (found, len(data)) != (oid, size):
        raise Refusal(400, f"object {oid} of {size} bytes: got {len(data)} bytes with SHA-256 {found}")
    repo = hub.repos.get((PLURALS[plural or "models"], repo_id))
    if repo is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    hub.blobs[oid] = data
    repo.stored.add(oid)


def verify(hub: "LoopbackHub", call: Call, plural: str | None, repo_id: str) -> Response:
    """Whether an object is here."""
    repo, item = writable(hub, call, plural or "models", repo_id), call.json()
    if item.get("oid") not in repo.stored or len(hub.blobs[item["oid"]]) != item.get("size"):
        raise Refusal(404, f"object {item.get('oid')} was not uploaded")
    return Response.json({})


def resolve(hub: "LoopbackHub", call: Call, plural: str | None, repo_id: str, revision: str, path: str) -> Response:
    """A file's content, or the way to it where it is large."""
    repo, path = open_to(hub, call, plural or "models", repo_id), unquote(path)
    commit = repo.at(unquote(revision))
    file, known = commit.entries.get(path), {"X-Repo-Commit": commit.oid}
    if file is None:
        refusal = Refusal(404, "Entry not found", "EntryNotFound")
        refusal.response.headers |= known
        raise refusal
    known["Access-Control-Expose-Headers"] = "X-Repo-Commit,X-Linked-Etag,X-Linked-Size,X-Xet-Hash,Link,ETag"
    if not file.large:
        return ranged(file.data, call.headers.get("range"), known | {"ETag": f'"{file.oid}"'})
    known |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
    if file.xet_hash:
        token = f"{hub.endpoint}/api/{repo.type}s/{quote(repo.id)}/xet-read-token/{commit.oid}"
        known |= {"X-Xet-Hash": file.xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
    return Response(302, b"", known | {"Location": signed(hub, f"/cdn/{file.sha256}")})


def cdn(hub: "LoopbackHub", call: Call, oid: str) -> Response:
    """The bytes of a large file, or a range of them."""
    check_signature(hub, call)
    return ranged(hub.blobs[oid], call.headers.get("range"), {"ETag": f'"{oid}"'})


LFS = rf"/lfs/(?:({'|'.join(PLURALS)})/)?([^/]+/[^/]+)/([0-9a-f]{{64}})/(\d+)"
ROUTES: list[Route] = [
    (method, re.compile(pattern), function)
    for method, pattern, function in (
        ("POST", rf"{GIT}/info/lfs/objects/batch", batch),
        ("POST", rf"{GIT}/info/lfs/verify", verify),
        ("PUT", LFS, put),
        ("POST", LFS, complete),
        ("PUT", rf"{LFS}/(\d+)", put_part),
        ("GET", "/cdn/([0-9a-f]{64})", cdn),
        ("HEAD", "/cdn/([0-9a-f]{64})", cdn),
        ("HEAD", FILE, resolve),
        ("GET", FILE, resolve),
    )
]
