"""The Hub's own API: users, repositories, what is in them, branches and tags."""

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from loopback_hub.cards import faults_of, metadata_of
from loopback_hub.messages import Call, Refusal, Response, Route
from loopback_hub.repos import PLURALS, PREFIXES, Commit, File, Repo
from loopback_hub.rights import open_to, readable, user_of, writable, writer

if TYPE_CHECKING:
    from loopback_hub.hub import LoopbackHub


def whoami(hub: "LoopbackHub", call: Call) -> Response:
    """Whose token this is."""
    user = hub.users.get(call.bearer or "")
    if user is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    key = {"displayName": user.role, "role": user.role, "createdAt": "2026-01-01T00:00:00.000Z"}
    who = {"type": "user", "id": user.name, "name": user.name, "fullname": user.name.capitalize(), "orgs": []}
    return Response.json(who | {"auth": {"type": "access_token", "accessToken": key}})


def _named(hub: "LoopbackHub", call: Call) -> tuple[str, str]:
    """(type, id) of the repository that the body names, if the caller may write under that name."""
    body = call.json()
    owner, name = body.get("organization"), str(body.get("name", ""))
    if "/" in name:
        owner, name = name.split("/", 1)
    user = writer(hub, call, owner)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}", name) or ".." in name or "--" in name or name.endswith(".git"):
        raise Refusal(400, f"Invalid repo name: {name}")
    if body.get("type", "model") not in PREFIXES:
        raise Refusal(400, f"Invalid repo type: {body['type']}")
    return body.get("type") or "model", f"{owner or user.name}/{name}"


def create(hub: "LoopbackHub", call: Call) -> Response:
    """The address of a new repository."""
    key, body = _named(hub, call), call.json()
    url = f"{hub.endpoint}/{PREFIXES[key[0]]}{key[1]}"
    if key in hub.repos:
        raise Refusal(409, f"You already created this {key[0]} repo: {key[1]}", url=url)
    private = body.get("private", body.get("visibility") == "private")
    hub.repos[key] = Repo(*key, bool(private), key[1].split("/")[0])
    hub.repos[key].hardware = body.get("hardware")
    return Response.json({"url": url, "name": key[1], "id": key[1]})


def delete(hub: "LoopbackHub", call: Call) -> Response:
    """Take a repository away."""
    if hub.repos.pop(_named(hub, call), None) is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    return Response.json({})


def settings(hub: "LoopbackHub", call: Call, plural: str, repo_id: str) -> Response:
    """Make a repository private or public, gated or open."""
    repo, body = writable(hub, call, plural, repo_id), call.json()
    if "private" in body or "visibility" in body:
        repo.private = bool(body.get("private", body.get("visibility") == "private"))
    if body.get("gated", False) not in ("auto", "manual", False):
        raise Refusal(400, f'"gated" must be one of [auto, manual, false], got {body["gated"]!r}')
    repo.gated = body.get("gated", repo.gated)
    return Response.json({"private": repo.private, "gated": repo.gated})


def validate_yaml(hub: "LoopbackHub", call: Call) -> Response:
    """Whether the head of a card would be taken."""
    content = str(call.json().get("content", ""))
    if errors := [{"message": fault} for fault in faults_of(content)]:
        raise Refusal(400, "Invalid metadata in README.md", errors=errors, warnings=[])
    warnings = [] if metadata_of(content) else [{"message": "empty or missing yaml metadata in repo card"}]
    return Response.json({"errors": [], "warnings": warnings})


def info(hub: "LoopbackHub", call: Call, plural: str, repo_id: str, revision: str = "main") -> Response:
    """What is known of a repository at a revision."""
    repo = readable(hub, call, plural, repo_id)
    commit, blobs = repo.at(unquote(revision)), call.parameter("blobs") in ("true", "True", "1")
    readme = commit.entries.get("README.md", File(b"")).data.decode(errors="replace")
    card = {} if faults_of(readme) else metadata_of(readme)
    siblings = [{"rfilename": path} | (_sibling(file) if blobs else {}) for path, file in commit.entries.items()]
    named = {name: card[name] for name in ("pipeline_tag", "library_name") if name in card}
    return Response.json(
        {"_id": repo.id, "id": repo.id, "author": repo.owner, "sha": commit.oid, "lastModified": commit.date}
        | {"createdAt": commit.history()[-1].date, "private": repo.private, "gated": repo.gated}
        | {"disabled": False, "downloads": 0, "likes": 0, "tags": card.get("tags", []), "cardData": card}
        | {"siblings": siblings, "usedStorage": sum(len(file.data) for file in commit.entries.values())}
        | named
    )


def _sibling(file: File) -> dict[str, Any]:
    large = {"sha256": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    return {"size": len(file.data), "blobId": file.oid} | ({"lfs": large} if file.large else {})


def _entry(commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    """A file or folder as the tree shows it."""
    file, more = commit.entries.get(path), {}
    if expand:
        last = commit.last_change(path)
        more["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
    if file is None:
        inside = [f"{name} {f.oid}" for name, f in commit.entries.items() if name.startswith(f"{path}/")]
        return {"type": "directory", "path": path, "size": 0, "oid": File("\n".join(inside).encode()).oid} | more
    if file.large:
        more["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    if file.xet_hash:
        more["xetHash"] = file.xet_hash
    return {"type": "file", "path": path, "size": len(file.data), "oid": file.oid} | more


def tree(hub: "LoopbackHub", call: Call, plural: str, repo_id: str, revision: str, folder: str = "") -> Response:
    """Files and folders of a folder, or of all below it."""
    commit = open_to(hub, call, plural, repo_id).at(unquote(revision))
    top = f"{unquote(folder).strip('/')}/".lstrip("/")
    below = [path for path in commit.entries if path.startswith(top)]
    if top and not below:
        raise Refusal(404, f"{top[:-1]} does not exist on {unquote(revision)!r}", "EntryNotFound")
    found = set()
    for path in below:
        parts = path[len(top) :].split("/")
        found |= {top + "/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    if call.parameter("recursive") not in ("true", "True", "1"):
        found = {path for path in found if "/" not in path[len(top) :]}
    expand = call.parameter("expand") in ("true", "True", "1")
    return Response.json([_entry(commit, path, expand) for path in sorted(found)])


def paths_info(hub: "LoopbackHub", call: Call, plural: str, repo_id: str, revision: str) -> Response:
    """Those of the named files and folders that are there."""
    commit = open_to(hub, call, plural, repo_id).at(unquote(revision))
    if "json" in call.headers.get("content-type", ""):
        body = call.json()
        paths, expand = body.get("paths", []), bool(body.get("expand"))
    else:
        form = parse_qs(call.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[0] in ("true", "True", "1")
    paths = [paths] if isinstance(paths, str) else paths
    there = [p for p in paths if p in commit.entries or any(q.startswith(f"{p}/") for q in commit.entries)]
    return Response.json([_entry(commit, path, expand) for path in there])


def refs(hub: "LoopbackHub", call: Call, plural: str, repo_id: str) -> Response:
    """Branches and tags."""
    repo = readable(hub, call, plural, repo_id)

    def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": names[name]} for name in sorted(names)]

    heads = {"branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags)}
    return Response.json(heads | {"converts": [], "pullRequests": []})


def add_ref(hub: "LoopbackHub", call: Call, plural: str, repo_id: str, kind: str, name: str) -> Response:
    """A new tag at the revision `name`, or a new branch of that name."""
    repo, body, name = writable(hub, call, plural, repo_id), call.json(), unquote(name)
    if kind == "tag":
        repo.add_ref("tag", str(body.get("tag", "")), name)
    else:
        repo.add_ref("branch", name, body.get("startingPoint") or "main")
    return Response.json({}, 201)


def remove_ref(hub: "LoopbackHub", call: Call, plural: str, repo_id: str, kind: str, name: str) -> Response:
    """Take a tag or branch away."""
    writable(hub, call, plural, repo_id).remove_ref(kind, unquote(name))
    return Response.json({})


def absent(hub: "LoopbackHub", call: Call) -> Response:
    """The refusal of a repository without a user's name, of which there are none here."""
    raise Refusal(404 if user_of(hub, call) else 401, "Repository not found", "RepoNotFound")


def harnesses(hub: "LoopbackHub", call: Call) -> Response:
    """The list of programs by which the client finds out what it runs in: an empty one."""
    return Response.json({"standardEnvVars": [], "harnesses": {}})


REPO = rf"/api/({'|'.join(PLURALS)})/([^/]+/[^/]+)"
ROUTES: list[Route] = [
    (method, re.compile(pattern), function)
    for method, pattern, function in (
        ("GET", "/api/whoami-v2", whoami),
        ("GET", "/api/agent-harnesses", harnesses),
        ("POST", "/api/repos/create", create),
        ("DELETE", "/api/repos/delete", delete),
        ("POST", "/api/validate-yaml", validate_yaml),
        ("PUT", rf"{REPO}/settings", settings),
        ("GET", REPO, info),
        ("GET", rf"{REPO}/revision/([^/]+)", info),
        ("GET", rf"{REPO}/tree/([^/]+)(?:/(.*))?", tree),
        ("POST", rf"{REPO}/paths-info/([^/]+)", paths_info),
        ("GET", rf"{REPO}/refs", refs),
        ("POST", rf"{REPO}/(tag|branch)/([^/]+)", add_ref),
        ("DELETE", rf"{REPO}/(tag|branch)/([^/]+)", remove_ref),
        ("GET", rf"/api/(?:{'|'.join(PLURALS)})/[^/]+(?:/(?:revision|tree|refs)(?:/.*)?)?", absent),
        ("HEAD", r"/(?:datasets/|spaces/)?[^/]+/resolve/.*", absent),
        ("GET", r"/(?:datasets/|spaces/)?[^/]+/resolve/.*", absent),
    )
]
