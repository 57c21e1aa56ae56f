"""Repositories on the Hub: what a branch holds, and files that become all it holds, in one commit."""

import hashlib
import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from hub_models.remote import plain_errors, retried

KEPT = ".gitattributes"  # the Hub's own file in every repository
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
Source = Path | bytes


def folder_files(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its path in the repository."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def digests_of(source: Source) -> frozenset[str]:
    """The two ids by which the Hub may know a content: its SHA-256 (large files) and git's own (the others)."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            git.update(chunk)
    return frozenset({sha256.hexdigest(), git.hexdigest()})


@dataclass(frozen=True)
class Head:
    """What a branch holds: the id of its commit, and each file's SHA-256 (large ones) or git's id, by its path."""

    commit: str
    private: bool
    digests: dict[str, str]


def differences(ours: Mapping[str, frozenset[str]], head: Head) -> tuple[list[str], list[str]]:
    """Paths of `ours`, with both digests of each, that a head has not or otherwise; and paths that only it has."""
    wanted = [path for path in ours if head.digests.get(path) not in ours[path]]
    return wanted, [path for path in head.digests if path not in ours and path != KEPT]


@dataclass(frozen=True)
class Repository:
    """A branch of a "model", "dataset" or "space" repository, which need not exist yet."""

    api: HfApi
    id: str
    type: str = "model"
    branch: str = "main"

    @property
    def url(self) -> str:
        """Address of its page."""
        return f"{self.api.endpoint}/{PREFIXES[self.type]}{self.id}"

    def _plain(self, doing: str) -> AbstractContextManager[None]:
        return plain_errors(doing, f"{self.type} {self.id}", self.api.token)

    def _look(self, revision: str) -> Head | None:
        try:
            info = self.api.repo_info(self.id, repo_type=self.type, revision=revision, files_metadata=True)
        except GatedRepoError:
            raise
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None
        digests = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings}
        return Head(info.sha, bool(info.private), digests)

    def head(self, revision: str | None = None) -> Head | None:
        """What the branch, or another revision, holds; None where it, or the whole repository, does not exist."""
        with self._plain("reading"):
            return retried(self._look, revision or self.branch, secret=self.api.token)

    def create(self, private: bool = True) -> Head:
        """What the branch holds, made where there is none: an empty repository's start, or the state of main.

        A repository that exists keeps its visibility.
        """

        def once() -> Head:
            """Look, do what is left to do, and look again."""
            if self._look("main") is None:
                sdk = {"space_sdk": "gradio"} if self.type == "space" else {}
                self.api.create_repo(self.id, repo_type=self.type, private=private, **sdk)
            if self.branch != "main" and self._look(self.branch) is None:
                self.api.create_branch(self.id, repo_type=self.type, branch=self.branch)
            if (made := self._look(self.branch)) is None:
                raise ConnectionError("it was made and cannot be seen yet")
            return made

        with self._plain("making"):
            return retried(once, also=(409,), secret=self.api.token)  # it came to be meanwhile, or an answer was lost

    def commit(self, files: Mapping[str, Source], message: str, parent: Head) -> tuple[str, bool]:
        """Id of the commit at which the branch holds `files` and nothing else, and whether it is a new one.

        All goes in one commit on top of `parent`, so the branch's head is whole at any time. What is there already is
        not sent, and an answer that was lost makes no second commit.

        Raises:
            ValueError: somebody else pushed other files meanwhile, the branch is none, or a .gitignore is there.
        """
        ours = {path: digests_of(source) for path, source in files.items()}
        adds = {path: CommitOperationAdd(path, source) for path, source in files.items()}  # each knows if it was sent

        def once() -> tuple[str, bool]:
            """Look, and commit what is left to commit."""
            head = self._look(self.branch)
            wanted, gone = differences(ours, head) if head else ([], [])
            if head is not None and not wanted + gone:
                return head.commit, head.commit != parent.commit
            if head is None or head.commit != parent.commit:
                raise ValueError(f"somebody else pushed there meanwhile: look at {self.url}, then push again")
            operations = [*map(CommitOperationDelete, gone), *(adds[path] for path in wanted)]
            options = {"commit_message": message, "repo_type": self.type, "revision": self.branch}
            return self.api.create_commit(self.id, operations, parent_commit=parent.commit, **options).oid, True

        with self._plain("pushing to"):
            if ".gitignore" in parent.digests and ".gitignore" not in files:
                raise ValueError(f"a .gitignore there could hide files from a push: delete it at {self.url} first")
            try:
                return retried(once, also=(409, 412), secret=self.api.token)  # the next look says what became of it
            except RevisionNotFoundError:
                raise ValueError(f"{self.branch!r} is none of its branches: pass the name of one") from None

    def tag(self, name: str, commit: str) -> None:
        """Let the tag `name` stand at `commit`.

        Raises:
            ValueError: it stands elsewhere.
        """

        def once() -> None:
            """Look, and set the tag where there is none."""
            there = self._look(name)
            if there is not None and there.commit != commit:
                raise ValueError(f"version {name} stands for other files there: pass another name")
            if there is None:
                self.api.create_tag(self.id, tag=name, revision=commit, repo_type=self.type)

        with self._plain("tagging"):
            retried(once, also=(409,), secret=self.api.token)
