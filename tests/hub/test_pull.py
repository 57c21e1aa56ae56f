"""Models pulled from the loopback Hub: whole and as they were sent, or one sentence and nothing damaged kept."""

import random
import resource
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import pytest
from hub_runs import BOTH, AsUser, said_by
from hub_runs import content as content_of_run
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub, clients_of
from PIL import Image

from hub_models.hub_client.downloads import RUN_FILES, local_run, pull_model
from hub_models.hub_client.repository import Repository, folder_files
from hub_models.models.trained_model import TrainedModel

Publish = Callable[..., str]
STEPS = {
    "resolve": "GET /api/models/alice/tb$",
    "tree": "GET .*/tree/",
    "head": "HEAD .*/resolve/.*/config.json",
    "get": "GET .*/resolve/.*/config.json",
}
STORAGE = {
    True: {"token": "GET .*/xet-read-token/", "plan": "GET .*/reconstructions/", "xorb": "GET /xorbs/"},
    False: {"cdn": "GET /cdn/"},
}
SLOW = pytest.mark.slow
QUICK = ("get", "cdn", "xorb")  # the steps that are tried in the default run
EVERY_STEP = pytest.mark.parametrize(
    ("xet", "step"),
    [
        pytest.param(xet, step, id=f"{'xet' if xet else 'lfs'}-{step}", marks=() if step in QUICK else SLOW)
        for xet, steps in ((False, STEPS), *STORAGE.items())
        for step in steps
    ],
)


@pytest.fixture(scope="module")
def files(finished_run: Path) -> dict[str, bytes]:
    """Content of what a push of the run sends, by path."""
    return content_of_run(finished_run, "alice/tb")


@pytest.fixture
def publish(hub: LoopbackHub, as_user: AsUser, files: dict[str, bytes]) -> Publish:
    """What lets alice/tb hold the run, or other files; its commit is given."""

    def publish(changed: dict[str, bytes | None] | None = None, xet: bool = False) -> str:
        wanted = {name: one for name, one in (files | (changed or {})).items() if one is not None}
        if not xet and not hub.repos:
            return hub.create("alice/tb", wanted, private=True).commits[0].oid
        with as_user(xet=xet):
            repository = Repository(HfApi(), "alice/tb")
            commit, _ = repository.commit(wanted, "Add", repository.create())
        hub.requests.clear()
        return commit

    return publish


def content(folder: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in folder_files(folder).items()}


@BOTH
def test_model_comes_as_it_was_sent(hub, as_user, publish, files, finished_run, xet) -> None:
    commit = publish(xet=xet)
    with as_user(xet=xet) as home:
        folder = pull_model("alice/tb")
        assert folder.is_relative_to(home) and folder.name == commit
        assert content(folder) == files
        image = Image.effect_noise((150, 90), 60)
        assert TrainedModel.from_run(folder)(image) == TrainedModel.from_run(finished_run)(image)
        assert set(RUN_FILES) <= set(files)
        fetched = [request for request in hub.requests if request.method == "GET" and "/xorbs/" in request.path]
        assert bool(fetched) == xet
        hub.requests.clear()
        assert pull_model("alice/tb") == folder
        assert [request.path for request in hub.requests] == ["/api/models/alice/tb"]  # has the branch moved?
        assert content(pull_model("alice/tb", cache_dir=home / "other")) == files


def test_branch_tag_and_commit(as_user: AsUser, publish: Publish, files: dict[str, bytes]) -> None:
    first = publish()
    with as_user():
        huggingface_hub.create_tag("alice/tb", tag="v1")
        huggingface_hub.create_branch("alice/tb", branch="try/this")
    second = publish({"results.json": files["results.json"] + b"\n"})
    with as_user():
        for revision, commit in ((None, second), ("main", second), ("v1", first), ("try/this", first), (first, first)):
            folder = pull_model("alice/tb", revision)
            assert folder.name == commit
            assert content(folder)["results.json"] == files["results.json"] + (b"\n" if commit == second else b"")


def test_all_files_are_of_one_commit(hub, as_user, publish, files, monkeypatch) -> None:
    """The branch moves while its files come."""
    first = publish()
    repository, resolve = hub.repo("alice/tb"), HfApi.resolve_revision

    def then_move(self: HfApi, *args: Any, **options: Any) -> Any:
        found = resolve(self, *args, **options)
        huggingface_hub.upload_file(repo_id="alice/tb", path_in_repo="README.md", path_or_fileobj=b"new")
        return found

    monkeypatch.setattr(HfApi, "resolve_revision", then_move)
    with as_user(xet=False):
        folder = pull_model("alice/tb")
    assert (folder.name, content(folder)) == (first, files)
    assert repository.files()["README.md"] == b"new"


def test_only_data_comes(hub: LoopbackHub, as_user: AsUser, publish: Publish, files: dict[str, bytes]) -> None:
    names = ("pytorch_model.bin", "m.pt", "m.pkl", "m.ckpt", "modeling.py", "sub/x.pickle", "run.sh", "m.h5", "m.onnx")
    publish({name: b"boo" for name in names})
    with as_user(xet=False):
        assert content(pull_model("alice/tb")) == files
        # what another program put into the cache is not checked, nor in the way
        huggingface_hub.snapshot_download("alice/tb")
        assert content(pull_model("alice/tb")).keys() == files.keys() | set(names) | {".gitattributes"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model.safetensors": None}, "alice/tb lacks model.safetensors: pass a model that cxm push sent"),
        ({"train_config.json": None, "data.json": None}, "alice/tb lacks train_config.json, data.json: pass"),
        ({"config.json": b'{"model_type": "resnet"}'}, "config.json of alice/tb has no chest_xray_masks: pass"),
        ({"config.json": b"1"}, "config.json of alice/tb is damaged"),
        ({"config.json": b"{"}, "config.json of alice/tb is damaged"),
        (
            {"config.json": b'{"chest_xray_masks": {}, "auto_map": {"AutoModel": "x.Y"}}'},
            "packages of its own \\(auto_map\\)",
        ),
        (
            {"config.json": b'{"chest_xray_masks": {}, "custom_pipelines": {}}'},
            "packages of its own \\(custom_pipelines\\)",
        ),
        ({"config.json": b'{"chest_xray_masks": {"a": [{"auto_map": {}}]}}'}, "packages of its own \\(auto_map\\)"),
        ({"preprocessor_config.json": b'{"auto_map": {}}'}, "preprocessor_config.json of alice/tb asks to load code"),
        (
            {"config.json": b'{"chest_xray_masks": {}, "attn_implementation": "x/y"}'},
            "packages of its own \\(attn_implem",
        ),
        ({"config.json": b"[" * 100_000}, "config.json of alice/tb is damaged"),
        ({"data.json": b"{}\xff"}, "data.json of alice/tb is damaged"),
        ({"results.json": b'{"a": NaN}'}, "results.json of alice/tb is damaged"),
        ({"adapter_config.json": b"{}"}, "adapter_config.json of alice/tb would be read in place of preproc"),
        ({"processor_config.json": b"{}"}, "processor_config.json of alice/tb would be read in place of preproc"),
    ],
)
def test_what_is_no_model_of_ours_is_refused_before_its_weights_come(hub, as_user, publish, changed, said) -> None:
    publish(changed)
    with as_user(xet=False), pytest.raises(ValueError, match=said):
        pull_model("alice/tb")
    assert hub.requests and not [request for request in hub.requests if request.path.endswith(".safetensors")]


def test_each_refusal_is_one_sentence(hub: LoopbackHub, as_user: AsUser, publish: Publish) -> None:
    publish()
    with as_user():
        said = said_by(FileNotFoundError, lambda: pull_model("alice/tb", "v9"), hub)
        assert said == "no such branch, tag or commit in model alice/tb: pass one that is there"
        said = said_by(FileNotFoundError, lambda: pull_model("alice/tb", "0" * 40), hub)
        assert said == "no such branch, tag or commit in model alice/tb: pass one that is there"
        assert "no model alice/none on the Hub" in said_by(FileNotFoundError, lambda: pull_model("alice/none"), hub)
        assert "Repo id must" in said_by(ValueError, lambda: pull_model("a/b/c"), hub)
        call = lambda: pull_model("alice/tb", token="hf_nobodys_token")  # noqa: E731
        assert "does not take this token" in said_by(PermissionError, call, hub)
    sentences = set()
    for name in ("bob", None):
        with as_user(name):
            said = said_by(FileNotFoundError, lambda: pull_model("alice/tb"), hub)
            assert "check the name, or, if it is private, log in with `hf auth login`" in said
            sentences.add(said)
    assert len(sentences) == 2  # who is not logged in is told so
    hub.repo("alice/tb").private, hub.repo("alice/tb").gated = False, "auto"
    with as_user("bob"):
        assert "model alice/tb is gated: ask for access" in said_by(
            PermissionError, lambda: pull_model("alice/tb"), hub
        )


@EVERY_STEP
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 503}, id="503"),
        pytest.param({"status": 429, "headers": {"Retry-After": "0"}}, id="429", marks=SLOW),
        pytest.param({"cut_after": 0}, id="no answer", marks=SLOW),
        pytest.param({"cut_after": 200}, id="cut", marks=SLOW),
    ],
)
def test_step_that_fails_for_a_moment(hub, as_user, publish, files, xet, step, fault) -> None:
    publish(xet=xet)
    with as_user(xet=xet):
        hub.fail((STEPS | STORAGE[xet])[step], times=2, **fault)
        assert content(pull_model("alice/tb")) == files


@EVERY_STEP
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param({"status": 401}, PermissionError, id="401", marks=SLOW),
        pytest.param({"status": 403}, PermissionError, id="403"),
        pytest.param({"status": 404}, ValueError, id="404", marks=SLOW),
        pytest.param({"status": 500}, ConnectionError, id="500", marks=SLOW),
        pytest.param({"cut_after": 0}, ConnectionError, id="cut", marks=SLOW),
    ],
)
def test_step_that_keeps_failing(hub, as_user, publish, files, xet, step, fault, kind) -> None:
    publish(xet=xet)
    with as_user(xet=xet):
        hub.fail((STEPS | STORAGE[xet])[step], times=None, **fault)
        said = said_by(kind, lambda: pull_model("alice/tb"), hub)
        assert str(fault.get("status", "")) in said
        hub.clear_faults()
        assert content(pull_model("alice/tb")) == files  # resumes


GARBAGE = {
    "object": b'{"a": 1}',
    "list": b'[1, "x", null]',
    "null": b"null",
    "no files": b"[]",
    "wrong types": b'{"id": 1, "sha": 5, "siblings": 3, "lastModified": 4}',
    "html": b"<html>Log in to the proxy</html>",
    "no text": b"\xff\xfe",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("step", ["resolve", "tree"])
@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
def test_answer_of_a_proxy_is_one_sentence(hub, as_user, publish, files, step, body) -> None:
    publish()
    with as_user(xet=False):
        hub.fail(STEPS[step], status=200, times=None, body=body)
        assert "alice/tb" in said_by((ConnectionError, ValueError), lambda: pull_model("alice/tb"), hub)
        hub.clear_faults()
        huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE.clear()  # as for the next command
        assert content(pull_model("alice/tb")) == files


def test_all_damaged_files_are_removed_at_once(hub, as_user, publish, files) -> None:
    publish()
    with as_user(xet=False):
        folder = pull_model("alice/tb")
        damaged = ["model.safetensors", "results.json", "roc.png"]
        for name in damaged:
            blob = (folder / name).resolve()
            blob.chmod(0o644)
            blob.write_bytes(b"x" + blob.read_bytes()[1:])
        said = said_by(ValueError, lambda: pull_model("alice/tb"), hub)
        assert all(name in said for name in damaged) and not any((folder / name).exists() for name in damaged)
        assert content(pull_model("alice/tb")) == files


@BOTH
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_file_is_found_and_downloaded_again(hub, as_user, publish, files, xet, name) -> None:
    """The size is right, so the client itself does not notice."""
    sent = files | {other: None for other in files if other.endswith(".png")}  # no other file from the storage
    sent["model.safetensors"] = random.Random(0).randbytes(30_000)  # Xet would notice damage in what it has packed
    publish(sent, xet=xet)
    with as_user(xet=xet) as home:
        where = ("GET /xorbs/" if xet else "GET /cdn/") if name == "model.safetensors" else f"GET .*/{name}"
        hub.fail(where, corrupt=True, times=None)
        said = said_by(ValueError, lambda: pull_model("alice/tb"), hub)
        assert said == f"{name} of alice/tb arrived damaged and was removed: run the same command again to download it"
        assert not [path for path in home.rglob(name) if path.exists()]
        hub.clear_faults()
        assert content(pull_model("alice/tb"))[name] == sent[name]


def test_file_damaged_in_the_cache_is_found(hub: LoopbackHub, as_user: AsUser, publish: Publish) -> None:
    publish()
    with as_user(xet=False):
        weights = (pull_model("alice/tb") / "model.safetensors").resolve()
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.chmod(0o644)
        weights.write_bytes(data)
        hub.fail(".", status=503, times=None)
        with pytest.raises(ValueError, match=r"^model\.safetensors of alice/tb arrived damaged and was removed"):
            pull_model("alice/tb")
        assert not weights.exists()
        with pytest.raises(ConnectionError, match="503"):
            pull_model("alice/tb")
        hub.clear_faults()
        data[-1] ^= 1
        assert (pull_model("alice/tb") / "model.safetensors").read_bytes() == data


def test_cut_download_is_resumed(hub: LoopbackHub, as_user: AsUser, publish: Publish) -> None:
    publish({"large.safetensors": random.Random(1).randbytes(21 << 20)})
    hub.fail("GET /cdn/", cut_after=15 << 20)
    hub.fail("GET /cdn/", cut_after=15 << 20)
    with as_user(xet=False):
        assert (pull_model("alice/tb") / "large.safetensors").stat().st_size == 21 << 20
    ranges = [request.headers.get("range") for request in hub.requests if request.path.startswith("/cdn/")]
    assert any(one == "bytes=10485760-" for one in ranges)  # the client counts in pieces of 10 MiB


@BOTH
def test_cache_serves_without_the_hub(hub, as_user, publish, files, caplog, xet) -> None:
    commit = publish(xet=xet)
    with as_user(xet=xet) as home:
        folder = pull_model("alice/tb")
        for fault in ({"status": 503}, {"cut_after": 0}):
            hub.fail(".", times=None, **fault)
            assert pull_model("alice/tb") == pull_model("alice/tb", "main") == pull_model("alice/tb", commit) == folder
            hub.clear_faults()
        hub.requests.clear()
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        try:
            assert pull_model("alice/tb") == folder
            said = said_by(ConnectionError, lambda: pull_model("alice/other"), hub)
            assert said == "downloading model alice/other needs the network: unset HF_HUB_OFFLINE"
            assert local_run("alice/tb") == folder
            (folder / "model.safetensors").unlink()
            said = said_by(ConnectionError, lambda: pull_model("alice/tb"), hub)
            assert said == "downloading model alice/tb needs the network: unset HF_HUB_OFFLINE"
        finally:
            huggingface_hub.constants.HF_HUB_OFFLINE = False
        assert hub.requests == []
        assert content(pull_model("alice/tb")) == files
    with as_user(xet=xet, home=home):
        hub.fail(".", status=503, times=None)
        assert "failed (503: fault" in said_by(ConnectionError, lambda: pull_model("alice/other"), hub)


def test_hub_that_is_gone(as_user: AsUser, gone_hub: LoopbackHub) -> None:
    token, said = gone_hub.add_user("alice"), "^downloading model alice/tb failed .*: run the same command again"
    with as_user() as home, clients_of(gone_hub, token, home), pytest.raises(ConnectionError, match=said):
        pull_model("alice/tb")


def test_typo_in_a_path_is_told_without_waits(as_user, gone_hub, tmp_path, monkeypatch, caplog) -> None:
    """Where the folder above is there, and the Hub does not answer."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    token, said = gone_hub.add_user("alice"), "^no folder runs/typo here, and looking up model runs/typo failed"
    with as_user() as home, clients_of(gone_hub, token, home), pytest.raises(ConnectionError, match=said):
        local_run("runs/typo")
    assert "again in" not in caplog.text


@BOTH
def test_full_disk_is_said(hub, as_user, publish, files, xet) -> None:
    """Of the weights' 30 kB no more than 20 can be written, as the system itself has it."""
    publish({name: None for name in files if name.endswith(".png")}, xet=xet)
    assert len(files["model.safetensors"]) > 20_000 > max(len(files[name]) for name in RUN_FILES[:-1])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with as_user(xet=xet) as home:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            said = said_by(OSError, lambda: pull_model("alice/tb"), hub)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert said.startswith(
            "no space left on the disk for downloading model alice/tb: free some, or set HF_HOME to"
        )
        assert not list(home.rglob("*.incomplete"))
        assert content(pull_model("alice/tb"))["model.safetensors"] == files["model.safetensors"]


def test_what_a_program_wrote_into_the_cache_is_not_the_hubs(as_user, publish, files) -> None:
    publish()
    with as_user(xet=False):
        folder = pull_model("alice/tb")
        (folder / "evaluation").mkdir()
        (folder / "evaluation" / "results.json").write_bytes(b"{}")
        assert content(pull_model("alice/tb")) == files | {"evaluation/results.json": b"{}"}
        (folder / "config.json").unlink()
        (folder / "config.json").write_bytes(files["config.json"])
        with pytest.raises(ValueError, match="^alice/tb lacks config.json: pass a model"):
            pull_model("alice/tb")


def test_cache_without_links(hub, as_user, publish, files, monkeypatch) -> None:
    """As on systems that have none: the digests are the Hub's own list."""
    publish()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_SYMLINKS", True)
    with as_user(xet=False):
        folder = pull_model("alice/tb")
        assert not (folder / "config.json").is_symlink() and content(folder) == files
        (folder / "config.json").write_bytes(files["config.json"] + b" ")
        with pytest.raises(ValueError, match="config.json of alice/tb arrived damaged"):
            pull_model("alice/tb")
        assert content(pull_model("alice/tb")) == files


def offline() -> AbstractContextManager[object]:
    """What sets HF_HUB_OFFLINE for a block; `monkeypatch` would put it back only after `as_user` has."""
    return mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def unlink_cache(home: Path) -> None:
    """Replace the cache's links by the files, as copies to a disk without links do."""
    for link in [path for path in (home / "hub").rglob("*") if path.is_symlink()]:
        blob = link.resolve()
        link.unlink()
        shutil.copy(blob, link)
    shutil.rmtree(next((home / "hub").rglob("blobs")))


@pytest.mark.parametrize("had_links", [False, True], ids=["never linked", "links replaced"])
def test_cache_without_links_serves_offline(had_links, hub, as_user, publish, files, monkeypatch, caplog) -> None:
    commit = publish()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_SYMLINKS", not had_links)
    with as_user(xet=False) as home:
        huggingface_hub.create_tag("alice/tb", tag="v1")
        folders = [pull_model("alice/tb", revision) for revision in (None, "v1", commit)]
        if had_links:
            unlink_cache(home)
        assert not any(path.is_symlink() for path in (home / "hub").rglob("*"))
        hub.requests.clear()
        with offline():
            for revision, folder in zip((None, "v1", commit), folders, strict=True):
                assert pull_model("alice/tb", revision) == local_run("alice/tb", revision) == folder
            assert content(folders[0]) == files
            assert not hub.requests and "not checked" not in caplog.text
            weights = folders[0] / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1] + b"x")
            with pytest.raises(ValueError, match=r"^model\.safetensors of alice/tb arrived damaged"):
                pull_model("alice/tb")


def test_cache_that_another_program_filled_serves_offline_with_a_warning(
    hub, as_user, publish, files, monkeypatch, caplog
) -> None:
    """File by file and without links: no list of digests is kept."""
    publish()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_SYMLINKS", True)
    with as_user(xet=False):
        for name in files:
            huggingface_hub.hf_hub_download("alice/tb", name)
        with offline():
            folder = pull_model("alice/tb")
        assert content(folder) == files
        assert "alice/tb" in caplog.text and "is not checked" in caplog.text
        caplog.clear()
        assert pull_model("alice/tb") == folder
        assert "not checked" not in caplog.text


def test_local_run_is_a_folder_or_a_hub_id(hub, as_user, publish, tmp_path, monkeypatch) -> None:
    commit = publish()
    assert local_run(tmp_path) == local_run(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice" / "tb").mkdir(parents=True)
    assert local_run("alice/tb") == Path("alice/tb")  # what is here goes first
    with as_user():
        assert local_run("alice/./tb") == Path("alice/tb")
        (tmp_path / "alice" / "tb").rmdir()
        assert local_run("alice/tb", "main").name == commit
        with pytest.raises(FileNotFoundError, match="^no folder runs/typo here, and no model runs/typo on the Hub"):
            local_run("runs/typo")
        for path in (tmp_path / "typo", "./runs/typo", "~/runs/typo", "lungs", "a/b/c"):
            with pytest.raises(
                FileNotFoundError, match="and it is not a Hub id: pass a run folder, or <owner>/<name>"
            ):
                local_run(path)


def test_two_pulls_at_once(as_user: AsUser, publish: Publish, files: dict[str, bytes]) -> None:
    publish()
    with as_user(xet=False), ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: pull_model("alice/tb"), range(2)))
    assert folders[0] == folders[1] and content(folders[0]) == files
