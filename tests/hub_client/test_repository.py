"""Files that become all that a branch holds, on the loopback Hub, by Xet and by plain LFS, with each step failing."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from loopback_hub.steps import STEPS, STORAGE

from hub_models.hub_client.repository import Head, Repository, differences, digests_of, folder_files

AsUser = Callable[..., Any]
CARD = b"---\nlicense: mit\n---\n# A model\n"
FILES = {"README.md": CARD, "a/b.json": b"{}", "w.safetensors": random.Random(0).randbytes(50_000)}
BOTH = pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
# The requests of a push in turn; those to the storage differ between the two routes.
SLOW = pytest.mark.slow
QUICK = ("create", "preupload", "commit", "tag", "put", "xorb")  # the steps that are tried in the default run
EVERY_STEP = pytest.mark.parametrize(
    ("xet", "step"),
    [
        pytest.param(xet, step, id=f"{'xet' if xet else 'lfs'}-{step}", marks=() if step in QUICK else SLOW)
        for xet, steps in ((False, STEPS), *STORAGE.items())
        for step in steps
    ],
)


def push(files: dict[str, bytes] = FILES, version: str | None = "v1") -> tuple[str, bool]:
    repository = Repository(HfApi(), "alice/m")
    commit, is_new = repository.commit(files, "One", repository.create())
    if version:
        repository.tag(version, commit)
    return commit, is_new


def titles(hub: LoopbackHub) -> list[str]:
    return [commit.title for commit in hub.repo("alice/m").commits]


def requests_of(hub: LoopbackHub, method: str, path: str) -> int:
    return sum(request.method == method and path in request.path for request in hub.requests)


def check_state(hub: LoopbackHub) -> bool:
    """Whether the push arrived, once; if not, that nothing of it is to be seen."""
    if ("model", "alice/m") not in hub.repos:
        return False
    repo = hub.repo("alice/m")
    assert (titles(hub), repo.files()) in ((["initial commit"], {}), (["One", "initial commit"], FILES))
    return bool(repo.files())


@BOTH
@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
def test_files_become_the_head(hub: LoopbackHub, as_user: AsUser, repo_type: str, xet: bool) -> None:
    with as_user(xet=xet):
        repository = Repository(HfApi(), "alice/m", repo_type)
        assert repository.head() is None
        start = repository.create()
        commit, is_new = repository.commit(FILES, "One", start)
        repository.tag("v1", commit)
        head = repository.head()
        assert repository.head("v1") == repository.head(commit) == head
        assert repository.create() == head  # what is there stays
    repo = hub.repo("alice/m", repo_type)
    assert (repo.private, repo.files(), is_new, repo.tags) == (True, FILES, True, {"v1": head.commit})
    assert [made.title for made in repo.commits] == ["One", "initial commit"]
    sent = {"POST": requests_of(hub, "POST", "/v1/xorbs/"), "PUT": requests_of(hub, "PUT", "/lfs/")}
    assert sent == ({"POST": 1, "PUT": 0} if xet else {"POST": 0, "PUT": 1})
    # `printf '{}' | git hash-object --stdin`
    assert head.digests["a/b.json"] == "9e26dfeeb6e641a33dae4961196235bdb965b21b"
    assert head.digests["w.safetensors"] == hashlib.sha256(FILES["w.safetensors"]).hexdigest()
    prefix = {"model": "", "dataset": "datasets/", "space": "spaces/"}[repo_type]
    assert repository.url == f"{hub.endpoint}/{prefix}alice/m"


@BOTH
def test_only_what_changed_goes(hub: LoopbackHub, as_user: AsUser, xet: bool) -> None:
    with as_user(xet=xet):
        first, _ = push()
        hub.requests.clear()
        assert push() == (first, False)
        assert not requests_of(hub, "POST", "/")
        changed = {"README.md": CARD + b"more", "w.safetensors": FILES["w.safetensors"]}
        second, is_new = push(changed, "v2")
        assert is_new
    assert not requests_of(hub, "PUT", "/lfs/") and not requests_of(hub, "POST", "/v1/xorbs/")
    assert (hub.repo("alice/m").files(), hub.repo("alice/m").files("v1")) == (changed, FILES)
    assert hub.repo("alice/m").tags == {"v1": first, "v2": second}


def test_files_of_a_folder_and_their_digests(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert folder_files(tmp_path) == {name: tmp_path / name for name in FILES}
    for name, content in FILES.items():
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        assert digests_of(content) == digests_of(tmp_path / name) == {hashlib.sha256(content).hexdigest(), git}


def test_differences() -> None:
    ours = {name: digests_of(content) for name, content in FILES.items()}
    there = {name: min(digests) for name, digests in ours.items()}
    assert differences(ours, Head("c", True, there | {".gitattributes": "x"})) == ([], [])
    other = {"README.md": "x", "w.safetensors": there["w.safetensors"], "old.bin": "y"}
    assert differences(ours, Head("c", True, other)) == (["README.md", "a/b.json"], ["old.bin"])


def test_repository_that_shows_late(hub: LoopbackHub, as_user: AsUser) -> None:
    missing = {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}
    with as_user(xet=False):
        hub.fail(STEPS["head"], times=3, **missing)  # before it is made, and twice after that
        push()
        assert check_state(hub)
        hub.fail(STEPS["head"], times=None, **missing)
        with pytest.raises(ValueError, match=r"^making model alice/m was refused \(409: You already created this"):
            Repository(HfApi(), "alice/m").create()


def test_branches(hub: LoopbackHub, as_user: AsUser) -> None:
    with as_user():
        first, _ = push()
        repository = Repository(HfApi(), "alice/m", branch="try")
        assert repository.head() is None
        start = repository.create()
        assert start.commit == first  # a new branch begins where main stands
        repository.commit({"README.md": CARD}, "Less", start)
        with pytest.raises(ValueError, match="^pushing to model alice/m failed: 'v1' is not a branch of it"):
            Repository(HfApi(), "alice/m", branch="v1").commit({"README.md": CARD}, "Less", start)
    assert (hub.repo("alice/m").files("try"), hub.repo("alice/m").files()) == ({"README.md": CARD}, FILES)


def test_version_of_other_files_stays(hub: LoopbackHub, as_user: AsUser) -> None:
    with as_user():
        first, _ = push()
        with pytest.raises(ValueError, match="^tagging model alice/m failed: version v1 stands for other files there"):
            push({"README.md": CARD})
    assert hub.repo("alice/m").tags == {"v1": first}


@EVERY_STEP
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 503}, id="503"),
        pytest.param({"status": 429, "headers": {"Retry-After": "0"}}, id="429", marks=SLOW),
        pytest.param({"cut_after": 0}, id="cut", marks=SLOW),
    ],
)
def test_step_that_fails_for_a_moment(
    hub: LoopbackHub, as_user: AsUser, xet: bool, step: str, fault: dict[str, Any]
) -> None:
    with as_user(xet=xet):
        hub.fail((STEPS | STORAGE[xet])[step], times=2, **fault)
        push()
    assert check_state(hub)
    assert list(hub.repo("alice/m").tags) == ["v1"]


@pytest.mark.parametrize("step", ["create", "commit", "tag"])
@pytest.mark.parametrize("fault", [{"status": 503}, {"cut_after": 0}], ids=["503", "cut"])
def test_deed_whose_answer_is_lost_is_not_done_twice(
    hub: LoopbackHub, as_user: AsUser, step: str, fault: dict[str, Any]
) -> None:
    with as_user(xet=False):
        hub.fail(STEPS[step], after=True, **fault)
        push()
    assert check_state(hub)
    assert requests_of(hub, *STEPS[step].replace(".*", "").split(" ")) == 1
    assert list(hub.repo("alice/m").tags) == ["v1"]


@EVERY_STEP
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param({"status": 401}, PermissionError, id="401", marks=SLOW),
        pytest.param({"status": 403}, PermissionError, id="403"),
        pytest.param({"status": 404}, ValueError, id="404", marks=SLOW),
        pytest.param({"status": 409}, ValueError, id="409", marks=SLOW),
        pytest.param({"status": 412}, ValueError, id="412", marks=SLOW),
        pytest.param({"status": 429}, ConnectionError, id="429", marks=SLOW),
        pytest.param({"status": 500}, ConnectionError, id="500", marks=SLOW),
        pytest.param({"cut_after": 0}, ConnectionError, id="cut", marks=SLOW),
    ],
)
def test_step_that_keeps_failing(
    hub: LoopbackHub, as_user: AsUser, caplog: Any, xet: bool, step: str, fault: dict[str, Any], kind: type
) -> None:
    with as_user(xet=xet):
        hub.fail((STEPS | STORAGE[xet])[step], times=None, **fault)
        if step == "verify" and fault.get("status") not in (401, 404):
            push()  # what could not be verified is found to be there at the next try
            assert check_state(hub)
            return
        with pytest.raises(kind) as error:
            push()
        assert check_state(hub) == step.endswith("tag")
        said = str(error.value)
        assert str(fault.get("status", "")) in said and "\n" not in said and "signature=" not in said
        assert not any(token in said + caplog.text for token in hub.users)
        hub.clear_faults()
        push()  # resumes
    assert check_state(hub)


@BOTH
def test_cut_upload_is_resumed(hub: LoopbackHub, as_user: AsUser, xet: bool) -> None:
    files = FILES | {f"{n}.safetensors": random.Random(n).randbytes(50_000) for n in range(3)}
    last = hashlib.sha256(files["2.safetensors"]).hexdigest()
    with as_user(xet=xet):
        # by Xet, what was sent counts as stored when its list, the shard, has arrived
        hub.fail("POST .*/commit/" if xet else f"PUT /lfs/.*{last}", cut_after=10, times=None)
        with pytest.raises(ConnectionError):
            push(files)
        assert titles(hub) == ["initial commit"]
        hub.clear_faults()
        hub.requests.clear()
        push(files)
    assert hub.repo("alice/m").files() == files
    assert (requests_of(hub, "POST", "/v1/xorbs/"), requests_of(hub, "PUT", "/lfs/")) == ((0, 0) if xet else (0, 1))


def test_two_at_once_have_one_winner(hub: LoopbackHub, as_user: AsUser) -> None:
    with as_user():
        repository = Repository(HfApi(), "alice/m")
        start = repository.create()
        commit, _ = repository.commit(FILES, "One", start)
        assert repository.commit(FILES, "Two", start) == (commit, True)  # the same files: there is nothing left to do
        with pytest.raises(ValueError, match=f"meanwhile: look at {hub.endpoint}/alice/m, "):
            repository.commit({"README.md": CARD}, "Two", start)
    assert check_state(hub)


def test_somebody_pushes_between_the_head_and_the_commit(
    hub: LoopbackHub, as_user: AsUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_user():
        repository = Repository(HfApi(), "alice/m")
        start, create_commit = repository.create(), HfApi.create_commit

        def late(self: HfApi, *args: Any, **options: Any) -> Any:
            monkeypatch.setattr(HfApi, "create_commit", create_commit)
            huggingface_hub.upload_file(repo_id="alice/m", path_in_repo="other.txt", path_or_fileobj=b"other")
            return create_commit(self, *args, **options)

        monkeypatch.setattr(HfApi, "create_commit", late)
        with pytest.raises(ValueError, match="somebody else pushed there meanwhile"):
            repository.commit(FILES, "One", start)
    assert [request.status for request in hub.requests if "/commit/" in request.path] == [200, 412]
    assert hub.repo("alice/m").files() == {"other.txt": b"other"}


def test_gitignore_is_refused_before_anything_goes(hub: LoopbackHub, as_user: AsUser) -> None:
    before = hub.create("alice/m", {".gitignore": b"*.json"}).files()
    with as_user(), pytest.raises(ValueError, match=f"delete it at {hub.endpoint}/alice/m first"):
        push()
    assert hub.repo("alice/m").files() == before
    assert not requests_of(hub, "POST", "/preupload/")
