"""The hub itself: users, repositories, what they hold, and how a client is told where it is."""

import os
import re
import secrets
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from loopback_hub import api, commits, storage, xet
from loopback_hub.faults import Fault, Faults
from loopback_hub.messages import Call, Refusal, Request, Response
from loopback_hub.repos import Commit, File, Repo
from loopback_hub.rights import User
from loopback_hub.server import Server

ROUTES = [*api.ROUTES, *commits.ROUTES, *storage.ROUTES, *xet.ROUTES]


class LoopbackHub:
    """A Hub on this machine, to be used in a `with`: it serves until the end of it, and all is in memory.

    `part_size` is the size in bytes above which a file goes by multipart LFS, in parts of that size.
    """

    def __init__(self, part_size: int = 8 << 20) -> None:
        self.part_size = part_size
        self.faults = Faults()
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forget users, repositories, contents, requests and faults; the address stays."""
        with self._lock:
            self.users: dict[str, User] = {}
            self.repos: dict[tuple[str, str], Repo] = {}
            self.blobs: dict[str, bytes] = {}  # by SHA-256
            self.parts: dict[tuple[str, str, int], bytes] = {}  # by repository, SHA-256 and number
            self.cas = xet.Store()
            self.cas_id = secrets.token_hex(8)  # clients keep what they know of a store by its address
            self.secret = secrets.token_bytes(16)
            self.requests: list[Request] = []
            self.faults.clear()

    def __enter__(self) -> Self:
        """Start to serve."""
        self._server = Server(self)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop, and close all connections."""
        self._server.stop()

    @property
    def port(self) -> int:
        """The port, of both origins."""
        return self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        """Address of the hub, as HF_ENDPOINT takes it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        """Address of the storage: another origin by its host name, as the client must send no token there."""
        return f"http://localhost:{self.port}"

    @property
    def cas_url(self) -> str:
        """Address of the Xet store."""
        return f"{self.storage}/cas/{self.cas_id}"

    @staticmethod
    def new_secret() -> str:
        """Text that nobody guesses."""
        return secrets.token_hex(16)

    def add_user(self, name: str, role: str = "write") -> str:
        """A new token of user `name`, to "write" or to "read"; a user may have several."""
        if role not in ("read", "write"):
            raise ValueError(f"role must be 'read' or 'write', got {role!r}")
        token = f"hf_{self.new_secret()}"
        self.users[token] = User(name, token, role)
        return token

    def variables(self, token: str | None, home: str | Path, xet: bool = True) -> dict[str, str]:
        """Environment variables by which the clients use this hub, with all their caches under `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_XET_TELEMETRY_ENABLED": "0",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        } | ({"HF_TOKEN": token} if token else {})

    def environment(self, token: str | None, home: str | Path, xet: bool = True) -> dict[str, str]:
        """The whole environment for a subprocess that uses this hub: this process's, with `variables`.

        `token` None is a user who is not logged in.
        """
        others = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        others = {name: value for name, value in others.items() if name != "TRANSFORMERS_OFFLINE"}
        return others | self.variables(token, home, xet)

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        """A repository."""
        if (repo_type, repo_id) not in self.repos:
            raise KeyError(f"no {repo_type} {repo_id} on this hub")
        return self.repos[repo_type, repo_id]

    def create(
        self, repo_id: str, files: dict[str, bytes] | None = None, repo_type: str = "model", private: bool = False
    ) -> Repo:
        """A new repository with `files` by path, made without a request; large files as plain LFS keeps them."""
        with self._lock:
            repo = self.repos[repo_type, repo_id] = Repo(repo_type, repo_id, private, repo_id.split("/")[0])
            if files:
                kept = {path: File(data, repo.is_large(path, len(data))) for path, data in files.items()}
                for file in kept.values():
                    if file.large:
                        self.blobs[file.sha256] = file.data
                        repo.stored.add(file.sha256)
                first = repo.at("main")
                repo.commit("main", Commit.of("Add files", "", repo.owner, first, first.entries | kept))
        return repo

    def fail(
        self,
        pattern: str,
        status: int | None = None,
        times: int | None = 1,
        cut_after: int | None = None,
        delay: float = 0.0,
        corrupt: bool = False,
        headers: dict[str, str] | None = None,
        after: bool = False,
        body: bytes | None = None,
    ) -> None:
        """Let the next `times` requests (None: all) fail whose "METHOD /path" holds the regex `pattern`.

        The path has no query and no %-escapes. One fault per request, the oldest. `status`: that answer
        and nothing is done. `cut_after`: the connection ends after so many bytes of the answer to a GET (0: no answer
        at all), or of the body of any other request, and nothing is done. `delay`: seconds to wait first.
        `corrupt`: the middle byte of the answer is inverted. `headers`: more headers of the answer. `after`:
        the request is served, and only the answer is replaced by `status`, or cut. `body`: of that answer.

        The storage has paths of its own: PUT /lfs/[datasets/]<id>/<sha256>/<size>[/<part>], GET /cdn/<sha256>, and
        for Xet POST /cas/<any>/v1/xorbs/, POST /cas/<any>/v1/shards, GET /cas/<any>/v1/reconstructions/, GET /xorbs/.
        """
        fault = Fault(re.compile(pattern), status, times, cut_after, delay, corrupt, headers or {}, after, body)
        self.faults.add(fault)

    def clear_faults(self) -> None:
        """Let all go well from now on."""
        self.faults.clear()

    def respond(self, call: Call) -> Response:
        """The answer to a request."""
        for method, pattern, function in ROUTES:
            if method == call.method and (found := pattern.fullmatch(call.path)):
                with self._lock:
                    try:
                        return function(self, call, *_given(found))
                    except Refusal as refusal:
                        return refusal.response
        return Response.json({"error": f"no route for {call.method} {call.path}"}, 404)


def _given(found: re.Match[str]) -> tuple[str | None, ...]:
    """The groups of a match; those at its end that took no part are left out."""
    groups = found.groups()
    while groups and groups[-1] is None:
        groups = groups[:-1]
    return groups
