"""How files get into a repository: what each will be kept as, and the commit that names them."""

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from loopback_hub.api import REPO
from loopback_hub.cards import faults_of
from loopback_hub.messages import Call, Refusal, Response, Route
from loopback_hub.repos import PREFIXES, Commit, File, Repo
from loopback_hub.rights import writable, writer

if TYPE_CHECKING:
    from loopback_hub.hub import LoopbackHub

MOST_FILES = 256  # that one call of preupload may name


def preupload(hub: "LoopbackHub", call: Call, plural: str, repo_id: str, revision: str) -> Response:
    """For each file, whether it goes into git or beside it, and the id of what is there now."""
    repo = writable(hub, call, plural, repo_id)
    _refuse_pull_request(call)
    commit, files = repo.at(unquote(revision)), call.json().get("files", [])
    if len(files) > MOST_FILES:
        raise Refusal(413, f"at most {MOST_FILES} files at once, got {len(files)}")
    answer = []
    for file in files:
        path, large = file["path"], repo.is_large(file["path"], file["size"])
        there = commit.entries.get(path)
        oid = {"oid": there.sha256 if there.large else there.oid} if there else {}
        mode = "lfs" if large else "regular"
        answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False} | oid)
    return Response.json({"files": answer, "commitOid": commit.oid})


def commit(hub: "LoopbackHub", call: Call, plural: str, repo_id: str, revision: str) -> Response:
    """The id of a new commit on a branch."""
    repo, branch = writable(hub, call, plural, repo_id), unquote(revision).removeprefix("refs/heads/")
    _refuse_pull_request(call)
    if branch not in repo.branches:
        raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    lines = _lines(call.body)
    header = lines[0]["value"]
    parent = repo.at(f"refs/heads/{branch}")
    if header.get("parentCommit") not in (None, parent.oid):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    if not header.get("summary"):
        raise Refusal(400, "a commit needs a summary")
    entries = dict(parent.entries)
    for line in lines[1:]:
        _apply(hub, repo, entries, line["key"], line["value"])
    readme = entries.get("README.md")
    if readme and (found := faults_of(readme.data.decode(errors="replace"))):
        raise Refusal(400, f"Invalid metadata in README.md: {'; '.join(found)}")
    author = writer(hub, call, repo.owner).name
    made = Commit.of(header["summary"], header.get("description", ""), author, parent, entries)
    repo.commit(branch, made)
    url = f"{hub.endpoint}/{PREFIXES[repo.type]}{repo.id}/commit/{made.oid}"
    return Response.json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def _lines(body: bytes) -> list[dict[str, Any]]:
    """The body's lines, a header first."""
    try:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    except ValueError as error:
        raise Refusal(400, f"the commit is not NDJSON: {error}") from error
    if not lines or lines[0].get("key") != "header":
        raise Refusal(400, "a commit begins with a header")
    return lines


def _apply(hub: "LoopbackHub", repo: Repo, entries: dict[str, File], key: str, value: dict[str, Any]) -> None:
    """Do one line of a commit to `entries`."""
    path = str(value.get("path", ""))
    if not path or path.startswith("/") or not {"", ".", "..", ".git"}.isdisjoint(path.rstrip("/").split("/")):
        raise Refusal(400, f"Invalid path in commit: {path!r}")
    if key == "file":
        entries[path] = File(_decoded(value))
        if repo.is_large(path, len(entries[path].data)):
            raise Refusal(400, f"{path} is too large, or of a kind, to be committed as a regular file")
    elif key == "lfsFile":
        entries[path] = _large(hub, repo, path, value)
    elif key == "deletedFile":
        if entries.pop(path, None) is None:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
    elif key == "deletedFolder":
        inside = [name for name in entries if name.startswith(f"{path.rstrip('/')}/")]
        if not inside:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        for name in inside:
            del entries[name]
    else:
        raise Refusal(400, f"Invalid line in commit: {key!r}")


def _decoded(value: dict[str, Any]) -> bytes:
    content = value.get("content", "")
    if value.get("encoding") != "base64":
        return content.encode()
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise Refusal(400, f"the content of {value['path']} is not base64") from error


def _large(hub: "LoopbackHub", repo: Repo, path: str, value: dict[str, Any]) -> File:
    """The large file that the line names by its SHA-256, if it was uploaded to this repository."""
    oid = value.get("oid", "")
    if value.get("algo") != "sha256" or oid not in repo.stored:
        raise Refusal(400, f"{path} refers to {oid}, which was not uploaded to this repository")
    data = hub.blobs[oid]
    if value.get("size", len(data)) != len(data):
        raise Refusal(400, f"{path} is said to have {value['size']} bytes, and {len(data)} were uploaded")
    return File(data, large=True, xet_hash=hub.cas.file_of_sha256.get(oid))


def _refuse_pull_request(call: Call) -> None:
    if call.parameter("create_pr"):
        raise Refusal(501, "this hub has no pull requests")


ROUTES: list[Route] = [
    ("POST", re.compile(rf"{REPO}/preupload/([^/]+)"), preupload),
    ("POST", re.compile(rf"{REPO}/commit/([^/]+)"), commit),
]
