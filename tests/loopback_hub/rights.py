"""Who asks, and what they may do."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loopback_hub.messages import Call, Refusal
from loopback_hub.repos import PLURALS, Repo

if TYPE_CHECKING:
    from loopback_hub.hub import LoopbackHub


@dataclass(frozen=True)
class User:
    """A user by one token, whose role is "read" or "write"."""

    name: str
    token: str
    role: str


def user_of(hub: "LoopbackHub", call: Call) -> User | None:
    """Whose token the call carries; None if it carries none."""
    if call.bearer is None:
        return None
    if call.bearer not in hub.users:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return hub.users[call.bearer]


def readable(hub: "LoopbackHub", call: Call, plural: str, repo_id: str) -> Repo:
    """The repository, if the caller may know of it."""
    user = user_of(hub, call)
    repo = hub.repos.get((PLURALS[plural], repo_id))
    if repo is None or (repo.private and (user is None or user.name != repo.owner)):
        raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
    return repo


def open_to(hub: "LoopbackHub", call: Call, plural: str, repo_id: str) -> Repo:
    """The repository, if the caller may have its files."""
    repo, user = readable(hub, call, plural, repo_id), user_of(hub, call)
    if repo.gated and (user is None or user.name != repo.owner):
        message = f"Access to {PLURALS[plural]} {repo_id} is restricted. You must have access to it."
        raise Refusal(403 if user else 401, message, "GatedRepo")
    return repo


def writable(hub: "LoopbackHub", call: Call, plural: str, repo_id: str) -> Repo:
    """The repository, if the caller may change it."""
    if call.bearer is None and (PLURALS[plural], repo_id) in hub.repos:
        raise Refusal(401, "Invalid username or password.")
    repo = readable(hub, call, plural, repo_id)
    writer(hub, call, repo.owner)
    return repo


def writer(hub: "LoopbackHub", call: Call, owner: str | None = None) -> User:
    """The caller, if they may write, under the name of `owner` where given."""
    user = user_of(hub, call)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    if user.role != "write" or owner not in (None, user.name):
        raise Refusal(403, f"You don't have the rights to write under the namespace {owner or user.name!r}")
    return user
