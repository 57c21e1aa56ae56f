"""Repositories on the Hub: read what a branch holds, and make it hold other files in one commit."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceHardware
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoSibling

from hub_models.hub_client.requests import plain_errors, retried

HUB_FILE = ".gitattributes"  # the Hub's own, in every repository
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
FileContent = Path | bytes


def folder_files(folder: Path) -> dict[str, Path]:
    """Return every file below a folder by its path in the repository."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def digests_of(source: FileContent) -> frozenset[str]:
    """Return the two ids that the Hub may give a content: its SHA-256 (large files) and git's own (the others)."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            git.update(chunk)
    return frozenset({sha256.hexdigest(), git.hexdigest()})


@dataclass(frozen=True)
class Head:
    """What a branch holds: the id of its commit, and each file's SHA-256 (large ones) or git's id, by its path.

    `gated`: the repository shows itself, and its owner lets people have its files.
    """

    commit: str
    private: bool
    digests: dict[str, str]
    gated: bool = False


def differences(ours: Mapping[str, frozenset[str]], head: Head) -> tuple[list[str], list[str]]:
    """Return the paths of `ours` that a head lacks or holds with another digest, and the paths that only it holds."""
    wanted = [path for path in ours if head.digests.get(path) not in ours[path]]
    return wanted, [path for path in head.digests if path not in ours and path != HUB_FILE]


@dataclass(frozen=True)
class Repository:
    """A branch of a "model", "dataset" or "space" repository, which need not exist yet."""

    api: HfApi
    id: str
    type: str = "model"
    branch: str = "main"

    @property
    def url(self) -> str:
        """Return the address of its page."""
        return f"{self.api.endpoint}/{PREFIXES[self.type]}{self.id}"

    def _plain(self, doing: str) -> AbstractContextManager[None]:
        return plain_errors(doing, f"{self.type} {self.id}", self.api.token)

    def _read_head(self, revision: str) -> Head | None:
        """Return what a revision holds; None where it, or the whole repository, does not exist."""
        try:
            info = self.api.repo_info(self.id, repo_type=self.type, revision=revision, files_metadata=True)
        except GatedRepoError:
            raise
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None
        files: Sequence[RepoSibling] = getattr(info, "siblings", None) or ()
        digests = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id or "" for file in files}
        return Head(info.sha or "", bool(info.private), digests, bool(info.gated))

    def head(self, revision: str | None = None) -> Head | None:
        """Return what the branch, or another revision, holds; None where there is none."""
        with self._plain("reading"):
            return retried(self._read_head, revision or self.branch, secret=self.api.token)

    def create(self, private: bool = True, hardware: str | None = None) -> Head:
        """Return what the branch holds; create it, and the repository, where there is none.

        A new branch begins at the head of main. A repository that exists keeps its visibility, and a Space its
        `hardware`.
        """

        def once() -> Head:
            if self._read_head("main") is None:
                sdk = "gradio" if self.type == "space" else None
                wanted = SpaceHardware(hardware) if hardware else None
                self.api.create_repo(
                    self.id, repo_type=self.type, private=private, space_sdk=sdk, space_hardware=wanted
                )
            if self.branch != "main" and self._read_head(self.branch) is None:
                self.api.create_branch(self.id, repo_type=self.type, branch=self.branch)
            if (made := self._read_head(self.branch)) is None:
                raise ConnectionError("it was made and cannot be seen yet")
            return made

        with self._plain("making"):
            return retried(once, also=(409,), secret=self.api.token)  # created meanwhile, or an answer was lost

    def gate(self) -> None:
        """Let the owner decide who may have the files; a repository that is gated keeps its way of deciding."""

        def once() -> None:
            if (head := self._read_head("main")) is None or not head.gated:
                self.api.update_repo_settings(self.id, repo_type=self.type, gated="manual")
                head = self._read_head("main")
            if head is None or not head.gated:
                raise ValueError(f"the Hub did not gate it, nothing was made public: gate it at {self.url}/settings")

        with self._plain("gating"):
            retried(once, secret=self.api.token)

    def make_public(self) -> None:
        """Let everybody see it, with its history; a gated one keeps its gate."""

        def once() -> None:
            if (head := self._read_head("main")) is None or head.private:
                self.api.update_repo_settings(self.id, repo_type=self.type, private=False)

        with self._plain("making public"):
            retried(once, secret=self.api.token)

    def commit(self, files: Mapping[str, FileContent], message: str, parent: Head) -> tuple[str, bool]:
        """Return the id of the commit at which the branch holds `files` and nothing else, and whether it is new.

        All files go in one commit on top of `parent`, so the branch is whole at any time. A file that is there already
        is not sent, and a lost answer makes no second commit.

        Raises:
            ValueError: somebody else pushed other files meanwhile, `branch` is not a branch, or a .gitignore is there.
        """
        ours = {path: digests_of(source) for path, source in files.items()}
        adds = {path: CommitOperationAdd(path, source) for path, source in files.items()}  # each knows if it was sent

        def once() -> tuple[str, bool]:
            head = self._read_head(self.branch)
            wanted, gone = differences(ours, head) if head else ([], [])
            if head is not None and not wanted + gone:
                return head.commit, head.commit != parent.commit
            if head is None or head.commit != parent.commit:
                raise ValueError(f"somebody else pushed there meanwhile: look at {self.url}, then push again")
            made = self.api.create_commit(
                self.id,
                [*map(CommitOperationDelete, gone), *(adds[path] for path in wanted)],
                commit_message=message,
                repo_type=self.type,
                revision=self.branch,
                parent_commit=parent.commit,
            )
            return made.oid, True

        with self._plain("pushing to"):
            if ".gitignore" in parent.digests and ".gitignore" not in files:
                raise ValueError(f"a .gitignore there could hide files from a push: delete it at {self.url} first")
            try:
                return retried(once, also=(409, 412), secret=self.api.token)  # the next try reads what became of it
            except RevisionNotFoundError:
                raise ValueError(f"{self.branch!r} is not a branch of it: pass the name of one") from None

    def tag(self, name: str, commit: str) -> None:
        """Set the tag `name` at `commit`; ValueError where it is at another commit already."""

        def once() -> None:
            if (there := self._read_head(name)) is None:
                self.api.create_tag(self.id, tag=name, revision=commit, repo_type=self.type)
            elif there.commit != commit:
                raise ValueError(f"version {name} stands for other files there: pass another name")

        with self._plain("tagging"):
            retried(once, also=(409,), secret=self.api.token)
