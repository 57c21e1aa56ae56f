"""Runs pushed to the loopback Hub: one commit or none, the other's work kept, and a sentence where it cannot be."""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from hub_runs import BOTH, AsUser, content, said_by
from huggingface_hub import parse_eval_result_entries
from launch import ROOT, python
from loopback_hub import LoopbackHub
from loopback_hub.steps import STEPS, STORAGE
from PIL import Image

from hub_models.hub.dataset_export import ExportConfig, export
from hub_models.hub.push import Push, pull_model, push_model
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import TrainConfig
from hub_models.runs.run_folder import RunFolder


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run that a test can change."""
    return Path(shutil.copytree(finished_run, tmp_path / "tb"))


def push(run: Path, repo_id: str = "alice/m", **options: Any) -> Push:
    return push_model(run, repo_id, **{"license": "mit"} | options)


def titles(hub: LoopbackHub) -> list[str]:
    return [commit.title for commit in hub.repo("alice/m").commits]


def test_card_names_the_lung_model_that_the_run_was_trained_with(
    hub, as_user, finish, make_run, phantoms, tiny_segformer, tiny_resnet, tmp_path
) -> None:
    def made(name: str, model: Path, seed: int = 3, task: str = "lung_segmentation", **options: Any) -> Path:
        shared = {"model": str(model), "from_scratch": True, "image_size": 32, "keep": "last"}
        return make_run(TrainConfig(str(phantoms), str(tmp_path / name), task, **shared | options), seed)

    lungs, others = (finish(made(name, tiny_segformer, seed)) for seed, name in enumerate(("lungs", "others")))
    options = {"region": "lungs", "segmenter": str(lungs)}
    tb = finish(made("tb", tiny_resnet, task="tb_classification", **options))
    with as_user():
        said = said_by(FileNotFoundError, lambda: push(tb, segmenter="alice/lungs"), hub)
        assert "alice/lungs" in said and ("model", "alice/m") not in hub.repos
        push(others, "alice/others")
        said = said_by(ValueError, lambda: push(tb, segmenter="alice/others"), hub)
        known = f"was trained and tested with the lungs that model {RunFolder.read(lungs).digest[:16]} finds"
        assert said.startswith(f"{tb} {known}, which is not alice/others: ")
        assert ("model", "alice/m") not in hub.repos
        push(lungs, "alice/lungs")
        push(tb, segmenter="alice/lungs")
        assert b'segmenter="alice/lungs"' in hub.repo("alice/m").files()["README.md"]


@BOTH
def test_run_goes_and_comes_back(hub: LoopbackHub, as_user: AsUser, run: Path, xet: bool) -> None:
    with as_user(xet=xet):
        done = push(run, "m", version="v1")
        repo = hub.repo("alice/m")
        assert (repo.private, repo.files(), repo.tags) == (True, content(run), {"v1": done.commit})
        auroc = json.loads((run / "results.json").read_text())["metrics"]["all"]["auroc"]["value"]
        title = f"tb_classification, auroc {auroc:.3f} on 8 X-rays of the test split"
        assert titles(hub) == [title, "initial commit"]
        shown = f"pushed to {hub.endpoint}/alice/m (private), branch main, version v1, commit {done.commit[:7]}"
        assert (done.is_new, str(done)) == (True, shown)
        there = pull_model("alice/m", "v1")
        image = Image.effect_noise((150, 90), 60)
        assert TrainedModel.from_run(there)(image) == TrainedModel.from_run(run)(image)

        again = push(run, version="v1")
        assert (again.commit, again.is_new) == (done.commit, False)
        assert str(again).startswith(f"nothing has changed, no commit was made: {hub.endpoint}/alice/m (private)")
        assert push(there).commit == done.commit  # what was pulled is the run
        assert len(titles(hub)) == 2


def test_dry_run_sends_nothing(hub: LoopbackHub, as_user: AsUser, run: Path) -> None:
    expected = content(run)
    with as_user(role="read"):
        planned = push(run, version="v1", dry_run=True)
        assert hub.requests == []
        assert push(run, "m", dry_run=True).repository.id == "alice/m"
        assert [request.path for request in hub.requests] == ["/api/whoami-v2"]
    assert not hub.repos
    first, *lines, last = str(planned).splitlines()
    assert "metadata were not checked" in last
    where = f"would go to {hub.endpoint}/alice/m (private), branch main, version v1"
    assert first.startswith(where) and first.endswith("on 8 X-rays of the test split':")
    sizes = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert sizes == {name: pytest.approx(len(data) / 1000, abs=0.051) for name, data in expected.items()}
    assert planned.commit is None
    with pytest.raises(ValueError, match="^Repo id must use alphanumeric chars"):
        push(run, "alice/my model", dry_run=True)
    with pytest.raises(ConnectionError, match="^looking up your name needs the network: unset HF_HUB_OFFLINE"):
        push(run, "m", dry_run=True, token="hf_any_token")


def test_branch_is_made_and_kept_apart(hub: LoopbackHub, as_user: AsUser, run: Path) -> None:
    with as_user(xet=False):
        push(run)
        first = content(run)
        (run / "roc.png").unlink()
        push(run, revision="try/this")
        assert pull_model("alice/m", "try/this").name == hub.repo("alice/m").branches["try/this"]
    assert (hub.repo("alice/m").files(), hub.repo("alice/m").files("try/this")) == (first, content(run))


def test_what_is_not_ours_stays_unless_told(hub: LoopbackHub, as_user: AsUser, run: Path) -> None:
    lungs = b'{"architectures": ["X"], "chest_xray_masks": {"task": "lung_segmentation"}}'
    for files, said in (
        (
            {"pytorch_model.bin": b"1", "notes.txt": b"2"},
            "holds notes.txt, which no push of a model sent",
        ),
        ({"config.json": b'{"architectures": ["BertModel"]}'}, "another model (no task of ours by BertModel, not"),
        ({"config.json": lungs}, "(lung_segmentation by X, not tb_classification by ResNetForImageClassification)"),
        ({"config.json": b"{oops"}, "holds another model (no task of ours by unknown, not"),
        ({"config.json": b"[1]"}, "holds another model (no task of ours by unknown, not"),
    ):
        hub.reset()
        hub.create("alice/m", files, private=True)
        with as_user(xet=False):
            assert said in said_by(ValueError, lambda: push(run), hub)
            assert said in said_by(ValueError, lambda: push(run, revision="new"), hub)
            assert (hub.repo("alice/m").files(), list(hub.repo("alice/m").branches)) == (files, ["main"])
            push(run, replace=True)
        assert hub.repo("alice/m").files() == content(run)
    hub.reset()
    hub.create("alice/m", {"README.md": b"---\nlicense: mit\n---\n"}, private=True)  # as made on the Hub's page
    with as_user(xet=False):
        push(run)
    assert hub.repo("alice/m").files() == content(run)


def test_visibility_is_as_told(hub: LoopbackHub, as_user: AsUser, run: Path) -> None:
    with as_user(xet=False):
        push(run, private=False)
        assert not hub.repo("alice/m").private
        said = said_by(ValueError, lambda: push(run), hub)
        assert said == f"{hub.endpoint}/alice/m is not private: make it so on its settings page, or pass --public"
        hub.repo("alice/m").private = True
        said = said_by(ValueError, lambda: push(run, private=False), hub)
        assert said == f"{hub.endpoint}/alice/m is not public: make it so on its settings page, or leave out --public"


def test_changed_run_is_one_commit_and_another_version(hub: LoopbackHub, as_user: AsUser, run: Path) -> None:
    with as_user(xet=False):
        first, before = push(run, version="v1"), content(run)
        (run / "roc.png").unlink()
        for options in ({}, {"revision": "new"}):
            said = said_by(ValueError, lambda options=options: push(run, version="v1", **options), hub)
            assert said == "alice/m has v1 for other files: pass another --version"
        for name in ("main", "a b", "../x", "x.lock", "", "v1/"):
            with pytest.raises(ValueError, match="cannot be a version: pass a name such as v1.0"):
                push(run, version=name)
        repo = hub.repo("alice/m")
        assert list(repo.branches) == ["main"] and len(titles(hub)) == 2
        second = push(run, version="v2")
    assert len(titles(hub)) == 3 and "roc.png" not in repo.files()
    assert (repo.files(), repo.files("v1")) == (content(run), before)
    assert repo.tags == {"v1": first.commit, "v2": second.commit}


def test_bad_runs_and_licences_are_refused_before_the_repository_is_made(hub, as_user, run) -> None:
    with as_user():
        assert "no licence is chosen" in said_by(ValueError, lambda: push(run, license=None), hub)
        said = said_by(ValueError, lambda: push(run, license="apache2"), hub)
        assert "license" in said and "'apache2'" in said and "{" not in said
        hub.fail("POST /api/validate-yaml", status=500, times=None)
        assert "checking the card's metadata failed" in said_by(ConnectionError, lambda: push(run), hub)
        hub.clear_faults()
        (run / "README.md").write_text("# My words\n")
        assert "NOTES.md" in said_by(ValueError, lambda: push(run), hub)
        (run / "README.md").unlink()
        (run / "model.safetensors").write_bytes(b"no weights")
        assert "is damaged" in said_by(ValueError, lambda: push(run), hub)
        (run / "results.json").unlink()
        assert "no results.json" in said_by(FileNotFoundError, lambda: push(run), hub)
    assert not hub.repos


def test_who_may_not_push_is_told_why(hub: LoopbackHub, as_user: AsUser, run: Path) -> None:
    hub.create("alice/m", private=True)
    cases = (
        ("alice", "read", "the token of alice is for reading: make one for writing, then log in with `hf auth login`"),
        ("bob", "write", "bob may not write to alice: pass one of bob"),
        (None, "write", "pushing to the Hub needs a login: log in with `hf auth login` or set HF_TOKEN"),
    )
    for name, role, sentence in cases:
        with as_user(name, role=role):
            assert said_by(PermissionError, lambda: push(run), hub).startswith(sentence)
    with as_user():
        call = lambda: push(run, token="hf_nobodys_token")  # noqa: E731
        assert said_by(PermissionError, call, hub).startswith("the Hub does not take this token (401: ")
    assert titles(hub) == ["initial commit"]


@pytest.mark.parametrize("same", [True, False], ids=["same files", "other files"])
def test_two_pushes_at_once_have_one_winner(hub, as_user, run, tmp_path, monkeypatch, same) -> None:
    """The other push ends after this one has read the branch and before its commit."""
    other = Path(shutil.copytree(run, tmp_path / "other"))
    if not same:
        (other / "roc.png").unlink()
    create_commit = huggingface_hub.HfApi.create_commit

    def late(self: huggingface_hub.HfApi, *args: Any, **options: Any) -> Any:
        monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", create_commit)
        push(other)
        return create_commit(self, *args, **options)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", late)
    with as_user(xet=False):
        if same:
            assert push(run, version="v1").is_new
        else:
            said = said_by(ValueError, lambda: push(run, version="v1"), hub)
            assert "somebody else pushed there meanwhile: look at" in said
    assert len(titles(hub)) == 2
    assert hub.repo("alice/m").files() == content(other)
    assert bool(hub.repo("alice/m").tags) == same


@pytest.mark.slow
@pytest.mark.parametrize(
    ("xet", "step"), [*((False, step) for step in STEPS), *((xet, step) for xet in STORAGE for step in STORAGE[xet])]
)
@pytest.mark.parametrize("status", [403, 503])
def test_push_that_cannot_be_leaves_nothing_half(hub, as_user, run, xet, step, status) -> None:
    with as_user(xet=xet):
        push(run)
        before = content(run)
        (run / "reliability.png").unlink()
        wanted = content(run)
        if step in ("put", "xorb"):  # something new for the storage
            shutil.copy(run / "roc.png", run / "reliability.png")
            wanted = content(run)
        hub.fail((STEPS | STORAGE[xet])[step], status=status, times=None)
        try:
            push(run, version="v1")
        except (PermissionError, ConnectionError) as error:
            assert "\n" not in str(error) and not any(token in str(error) for token in hub.users)
            assert hub.repo("alice/m").files() in ((before, wanted) if "tag" in step else (before,))
        else:
            assert step in ("create", *STORAGE[xet])  # was not needed, or not missed
        hub.clear_faults()
        push(run, version="v1")
    assert hub.repo("alice/m").files() == hub.repo("alice/m").files("v1") == wanted
    assert len(titles(hub)) == 3


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[object, str, str]]:
    """What runs scripts/push.py within this process, which has the libraries at hand: its end, output, and errors."""

    def script(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["push.py", *map(str, arguments)])
        code: object = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "push.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return script


def test_script_ends_in_one_sentence(hub, as_user, run, script, tmp_path, caplog, monkeypatch) -> None:
    command = ("--run", run, "--repo_id", "alice/m", "--license", "mit")
    with as_user(xet=False):
        hub.fail("POST .*/commit/", status=403)
        code, out, err = script(*command)
        assert str(code).startswith(
            "error: pushing to model alice/m is not allowed (403: fault 403 as asked for): log in"
        )
        assert not hub.repo("alice/m").files() and out == ""
        hub.fail("POST .*/commit/", status=503)
        code, out, more = script(*command, "--version", "v1")
        assert code == 0
        assert out.startswith(f"pushed to {hub.endpoint}/alice/m (private), branch main, version v1, commit ")
        assert "503: fault 503 as asked for; again in 1 s" in caplog.text
        assert not any(token in err + out + more + caplog.text for token in hub.users)
    assert hub.repo("alice/m").files() == content(run)
    for options, said in (
        (("--license", ""), "error: no licence is chosen: pass --license"),
        (("--run", tmp_path), f"error: no train_config.json in {tmp_path}"),
    ):
        for way in ((), ("--dry_run",)):  # without a login, which is asked for last
            code, out, err = script(*command, *options, *way)
            assert str(code).startswith(said) and out == ""
    code, out, _ = script(*command, "--dry_run", "--public")  # needs no Hub
    assert code == 0 and re.match(r"would go to \S+/alice/m \(public\), branch main, [01]\.[0-9] MB, ", out)
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    assert script(*command)[0] == "error: pushing to the Hub needs the network: unset HF_HUB_OFFLINE"


@pytest.mark.slow
def test_script_as_users_run_it(hub, gone_hub, run, tmp_path, monkeypatch) -> None:
    for name, value in hub.environment(hub.add_user("alice"), tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    command = ("scripts/push.py", "--run", run, "--repo_id", "alice/m", "--license", "mit")
    hub.fail("POST .*/shards", status=403)
    failed = python(*command, check=False)
    said = "error: pushing to model alice/m is not allowed (Network error: "
    assert failed.returncode == 1 and failed.stderr.splitlines()[-1].startswith(said)
    hub.fail("POST .*/shards", status=500)
    hub.fail("POST .*/tag/", cut_after=0)
    done = python(*command, "--version", "v1")
    assert done.stdout.startswith(f"pushed to {hub.endpoint}/alice/m (private), branch main, version v1, commit ")
    assert hub.repo("alice/m").files() == hub.repo("alice/m").files("v1") == content(run)
    monkeypatch.setenv("HF_ENDPOINT", gone_hub.endpoint)
    lost = python(*command, check=False)  # waits as long as it does for users
    assert lost.returncode == 1 and lost.stderr.splitlines()[-1].startswith("error: pushing to the Hub failed (")
    for one in (failed, done, lost):
        assert "Traceback" not in one.stderr
        assert not any(token in one.stdout + one.stderr for token in hub.users)


def test_results_name_the_exported_set(hub: LoopbackHub, as_user, run: Path, phantoms: Path) -> None:
    hub.create("alice/other", {"a.txt": b"a"}, "dataset")
    with as_user("alice"):
        assert "alice/xrays is not there" in said_by(ValueError, lambda: push(run, dataset="alice/xrays"), hub)
        assert "alice/other has no eval.yaml" in said_by(ValueError, lambda: push(run, dataset="alice/other"), hub)
        assert ("model", "alice/m") not in hub.repos
        export(ExportConfig(data_dir=phantoms, repo_id="alice/xrays"))
        push(run, dataset="alice/xrays")
        assert huggingface_hub.model_info("alice/m").card_data.datasets == ["alice/xrays"]
    files, data = hub.repo("alice/m").files(), hub.repo("alice/xrays", "dataset")
    entries = parse_eval_result_entries(yaml.safe_load(files[".eval_results/chest_xray_masks.yaml"]))
    assert {one.dataset_revision for one in entries} == {data.commits[0].oid}
    named = {task["id"] for task in yaml.safe_load(data.files()["eval.yaml"])["tasks"]}
    assert {"tb_classification"} <= {one.task_id for one in entries} <= named
