"""Repositories as git has them, in memory: files, commits, branches, tags."""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from loopback_hub.messages import Refusal

PLURALS = {"models": "model", "datasets": "dataset", "spaces": "space"}
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
LARGE = 10_000_000  # bytes; the real Hub's own limit is not known here
COMMON = (
    "7z arrow bin bz2 ckpt ftz gz h5 joblib mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt pth rar"
    " safetensors tar tflite tgz wasm xz zip zst"
)
MEDIA = "bmp gif jpeg jpg png tif tiff webp flac mp3 mp4 ogg wav"


def attributes_of(repo_type: str) -> bytes:
    """The .gitattributes that a new repository starts with: which names are kept outside git."""
    suffixes = COMMON.split() + (MEDIA.split() if repo_type == "dataset" else [])
    lines = [f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in suffixes]
    return "".join([*lines, "*tfevents* filter=lfs diff=lfs merge=lfs -text\n"]).encode()


@dataclass(frozen=True)
class File:
    """Content of a file; `large` where git holds a pointer only, `xet_hash` where it came by Xet."""

    data: bytes = field(repr=False)
    large: bool = False
    xet_hash: str | None = None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git itself keeps: the content, or a pointer to it."""
        if not self.large:
            return self.data
        spec = "version https://git-lfs.github.com/spec/v1"
        return f"{spec}\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def oid(self) -> str:
        """Git's own id of what it keeps."""
        return hashlib.sha1(b"blob %d\0" % len(self.pointer) + self.pointer).hexdigest()


@dataclass(frozen=True)
class Commit:
    """One state of a repository, whole."""

    oid: str
    title: str
    message: str
    author: str
    date: str
    parent: "Commit | None" = field(repr=False)
    entries: dict[str, File] = field(repr=False)

    @classmethod
    def of(cls, title: str, message: str, author: str, parent: "Commit | None", entries: dict[str, File]) -> "Commit":
        """A commit made now."""
        date = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        tree = [f"{path} {entries[path].oid}" for path in sorted(entries)]
        made_of = [parent.oid if parent else "", title, message, author, date, *tree]
        oid = hashlib.sha1("\n".join(made_of).encode()).hexdigest()
        return cls(oid, title, message, author, date, parent, dict(sorted(entries.items())))

    def history(self) -> "list[Commit]":
        """This commit and those before it, newest first."""
        commits, commit = [], self
        while commit is not None:
            commits.append(commit)
            commit = commit.parent
        return commits

    def last_change(self, path: str) -> "Commit":
        """The commit that gave the file or folder at `path` what it holds here."""

        def under(commit: Commit) -> list[tuple[str, File]]:
            return [(p, f) for p, f in commit.entries.items() if p == path or p.startswith(f"{path}/")]

        here, found = under(self), self
        for commit in self.history():
            if under(commit) != here:
                break
            found = commit
        return found


class Repo:
    """A repository: `private`, `branches` and `tags` by name to the id of a commit, and its commits by id."""

    def __init__(self, repo_type: str, repo_id: str, private: bool, author: str) -> None:
        self.type, self.id, self.private = repo_type, repo_id, private
        self.gated: str | bool = False  # "auto" and "manual" are the ways to let people have the files
        self.hardware: str | None = None  # that a Space was made with
        first = Commit.of("initial commit", "", author, None, {".gitattributes": File(attributes_of(repo_type))})
        self.by_oid = {first.oid: first}
        self.branches = {"main": first.oid}
        self.tags: dict[str, str] = {}
        self.stored: set[str] = set()  # SHA-256 of each large file that was uploaded to this repository

    @property
    def owner(self) -> str:
        """Name of the user whose repository it is."""
        return self.id.split("/")[0]

    @property
    def commits(self) -> list[Commit]:
        """Commits of the main branch, newest first; the last is the empty start."""
        return self.at("main").history()

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Content by path at a branch, tag or commit, without the .gitattributes that the hub itself put there."""
        try:
            commit = self.at(revision)
        except Refusal as error:
            raise KeyError(f"{self.id} has no revision {revision}") from error
        own = attributes_of(self.type)
        return {
            path: file.data for path, file in commit.entries.items() if (path, file.data) != (".gitattributes", own)
        }

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag, or an id of at least 7 digits."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        if oid := self.branches.get(name) or self.tags.get(name):
            return self.by_oid[oid]
        found = [oid for oid in self.by_oid if len(revision) >= 7 and oid.startswith(revision)]
        if len(found) == 1:
            return self.by_oid[found[0]]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def is_large(self, path: str, size: int) -> bool:
        """Whether a file of this name and size is kept outside git."""
        suffixes = COMMON.split() + (MEDIA.split() if self.type == "dataset" else [])
        named = path.rpartition(".")[2].lower() in suffixes and "." in path
        return size > 0 and (named or "tfevents" in path.rpartition("/")[2] or size >= LARGE)

    def commit(self, branch: str, commit: Commit) -> None:
        """Let `commit` be the head of `branch`."""
        self.by_oid[commit.oid] = commit
        self.branches[branch] = commit.oid

    def add_ref(self, kind: str, name: str, revision: str) -> None:
        """A new "tag" or "branch" at `revision`."""
        refs = self.tags if kind == "tag" else self.branches
        if not re.fullmatch(r"[\w][\w./-]*", name) or ".." in name or name.endswith(("/", ".lock")):
            raise Refusal(400, f"Invalid {kind} name: {name}")
        if name in refs:
            raise Refusal(409, f"{kind.capitalize()} already exists: {name}")
        refs[name] = self.at(revision).oid

    def remove_ref(self, kind: str, name: str) -> None:
        """Take a "tag" or "branch" away; its commits stay."""
        refs = self.tags if kind == "tag" else self.branches
        if (kind, name) == ("branch", "main"):
            raise Refusal(403, "Cannot delete the main branch")
        if refs.pop(name, None) is None:
            raise Refusal(404, f"No such {kind}: {name}", "RevisionNotFound")
