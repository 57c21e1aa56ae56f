"""The set as a folder and on the Hub: the builder's rows again, by the real clients, and nothing half there."""

import dataclasses
import hashlib
import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import tiny
from huggingface_hub import DatasetCard
from huggingface_hub.errors import GatedRepoError
from loopback_hub import LoopbackHub

import chest_xray_masks as cxm
from hub_models.dataset.phantoms import write_phantoms
from hub_models.hub import dataset_export as export_module
from hub_models.hub.dataset_export import RECORD_NAME, ExportConfig, build, export
from hub_models.hub_client.repository import Repository
from hub_models.runs.notes import CARD_NAME, NOTES_NAME, finished

ROOT = Path(__file__).parents[2]
REPO = "alice/chest-xrays"
SHARDS = {"max_shard_size": "1KB"}  # so small that each group of rows has its own
VERSION = "1.0.0"


@pytest.fixture(scope="module")
def built(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set as a folder for `REPO`, 12 shards."""
    folder = tmp_path_factory.mktemp("built") / "chest-xrays"
    build(tiny_set, folder, REPO, **SHARDS)
    return folder


@pytest.fixture(scope="module")
def config(tiny_set: Path, built: Path) -> Callable[..., ExportConfig]:
    """What makes the config of a push of `built`."""
    return lambda **options: ExportConfig(data_dir=tiny_set, output=built, repo_id=REPO, **SHARDS, **options)


@pytest.fixture(scope="module")
def other(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportConfig:
    """Config of the push of a second version of the tiny set, in 6 larger shards; it is built."""
    folder = tmp_path_factory.mktemp("other") / "chest-xrays"
    build(tiny_set, folder, REPO)
    return ExportConfig(data_dir=tiny_set, output=folder, repo_id=REPO, version="1.0.1")


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of each file of a set, by path; of those that go to the Hub."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != RECORD_NAME}


def rows_of(splits: datasets.DatasetDict) -> dict[str, dict[str, dict]]:
    """Rows by split and id, images and masks as bytes."""
    plain = {name: rows.cast_column("image", datasets.Image(decode=False)) for name, rows in splits.items()}
    plain = {name: rows.cast_column("mask", datasets.Image(decode=False)) for name, rows in plain.items()}
    return {name: {row["id"]: row for row in rows} for name, rows in plain.items()}


def check_rows(loaded: datasets.DatasetDict, source: Path, name: str) -> int:
    """How many rows there are, each proved to be the builder's, in the builder's order."""
    expected = datasets.load_dataset("chest_xray_masks", name, data_dir=str(source))
    assert list(loaded) == [split for split in expected if len(expected[split])]
    for split, rows in loaded.items():
        assert rows.features == expected[split].features == cxm.FEATURES
    found, known = rows_of(loaded), rows_of(expected)
    for split in found:
        assert list(found[split]) == list(known[split])
        assert found[split] == known[split]
    return sum(map(len, found.values()))


@pytest.mark.parametrize("name", ["MC", "Shenzhen", "all"])
def test_folder_gives_the_builders_rows(name: str, built, tiny_set) -> None:
    loaded = datasets.load_dataset(str(built), name)
    assert check_rows(loaded, tiny_set, name) == (54 if name == "all" else 27)
    rows = rows_of(loaded)["train"]
    if name != "MC":
        first, second, third = sorted(rows)[:3]
        assert rows[first]["mask"] is None and rows[third]["age_years"] is None
        assert [rows[second][name] for name in ("sex", "age_years", "findings", "reading")] == [None] * 4
    if name == "all":
        assert datasets.get_dataset_default_config_name(str(built)) == "all"
    streamed = datasets.load_dataset(str(built), name, split="train", streaming=True)
    assert [row["id"] for row in streamed] == list(rows)
    assert streamed.features == cxm.FEATURES


@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_repository_gives_the_builders_rows(xet: bool, hub: LoopbackHub, as_user, config, built, tiny_set) -> None:
    with as_user("alice", xet=xet):
        assert export(config()) == f"{hub.endpoint}/datasets/{REPO}"
        for name in ("MC", "all"):
            assert check_rows(datasets.load_dataset(REPO, name), tiny_set, name)
        assert check_rows(datasets.load_dataset(REPO, "MC", revision=VERSION), tiny_set, "MC")
        info = datasets.load_dataset_builder(REPO, "Shenzhen").info
        assert (info.features, info.splits["test"].num_examples) == (cxm.FEATURES, 5)
    repo = hub.repo(REPO, "dataset")
    assert repo.files() == contents(built)
    assert len(repo.commits) == 2 and repo.tags == {VERSION: repo.commits[0].oid}  # after the empty start
    assert repo.private
    assert any(request.path.startswith("/cas/") for request in hub.requests) == xet


def test_stream_reads_only_what_it_needs(hub: LoopbackHub, as_user, config, built) -> None:
    with as_user("alice"):
        export(config())
    with as_user("alice"):  # with caches of its own
        hub.requests.clear()
        rows = datasets.load_dataset(REPO, "Shenzhen", split="train", streaming=True)
        first = next(iter(rows))
        shards = sorted((built / "Shenzhen").glob("train-*"))
        assert len(shards) == rows.num_shards == 3
        fetched = {request.path for request in hub.requests if request.method == "GET" and ".parquet" in request.path}
        assert {path.rpartition("/")[2] for path in fetched} == {shards[0].name}
        stored = {request.path.rpartition("/")[2] for request in hub.requests if "/cdn/" in request.path}
        assert stored <= {hashlib.sha256(shards[0].read_bytes()).hexdigest()}
        assert [first["id"], *(row["id"] for row in rows.skip(1))] == sorted(row["id"] for row in rows)
        halves = [{row["id"] for row in rows.shard(3, index)} for index in range(3)]  # as workers split it
        assert [len(half) for half in halves] == [8, 8, 2]


def test_single_site_and_zip(tmp_path, as_user, hub: LoopbackHub) -> None:
    packed = tiny.write_zip(tiny.nlm_montgomery(), tmp_path / "NLM.zip")
    build(packed, tmp_path / "out")
    for name in ("MC", "all"):
        assert check_rows(datasets.load_dataset(str(tmp_path / "out"), name), packed, name) == 3
    with pytest.raises(ValueError, match="Shenzhen"):
        datasets.load_dataset(str(tmp_path / "out"), "Shenzhen")
    with as_user("alice"):
        export(ExportConfig(data_dir=packed, repo_id="xrays"))  # in a temporary folder, and the name alone
        assert check_rows(datasets.load_dataset("alice/xrays"), packed, "MC") == 3
    assert 'load_dataset("alice/xrays", "MC"' in hub.repo("alice/xrays", "dataset").files()[CARD_NAME].decode()


def test_same_set_is_left_and_changed_set_replaced(tmp_path, monkeypatch) -> None:
    source, out = tiny.write_tree(tiny.kaggle(), tmp_path / "set"), tmp_path / "out"
    build(source, out)
    before, times = contents(out), {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    build(source, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    (source / "Lung Segmentation" / "ClinicalReadings" / f"{tiny.IDS[0]}.txt").write_text("female 20yrs\nnormal")
    build(source, out)
    after = contents(out)
    changed = {name for name in before if before[name] != after[name]}
    assert after.keys() == before.keys() and changed == {
        CARD_NAME,
        "Shenzhen/train-00000-of-00001.parquet",
        "overview.png",
    }
    next(out.glob("MC/*")).unlink()
    build(source, out)  # what is not whole is not left
    assert contents(out) == after
    made = (out / RECORD_NAME).read_text()
    monkeypatch.setattr(export_module, "EXPORT_VERSION", export_module.EXPORT_VERSION + 1)
    build(source, out)
    assert contents(out) == after and (out / RECORD_NAME).read_text() != made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


def test_notes_stand_in_the_card_of_a_set_and_an_edited_card_is_not_lost(tmp_path) -> None:
    source, out = tiny.write_tree(tiny.nlm_montgomery(), tmp_path / "set"), tmp_path / "out"
    out.mkdir()
    (out / NOTES_NAME).write_text("Looked at by *two* of us.\n")
    build(source, out)
    card = (out / CARD_NAME).read_text()
    assert "\n\n## Notes\n\nLooked at by *two* of us.\n\n<!-- " in card and DatasetCard(card).data.language == "en"
    shard = next(out.glob("MC/*")).stat()
    (out / NOTES_NAME).write_text("By three.")
    build(source, out)  # the card alone is made again
    assert (out / CARD_NAME).read_text() == finished(card[: card.index("## Notes")], "By three.")
    assert next(out.glob("MC/*")).stat().st_mtime_ns == shard.st_mtime_ns
    build(source, out, "alice/others")  # the set is replaced
    assert (out / NOTES_NAME).read_text() == "By three." and "By three." in (out / CARD_NAME).read_text()
    (out / CARD_NAME).write_text(card.replace("two", "ten"))
    before = contents(out)
    for repo_id in ("alice/others", REPO):
        with pytest.raises(ValueError, match=f"{out / CARD_NAME} was edited.* {NOTES_NAME} beside it"):
            build(source, out, repo_id)
    assert contents(out) == before


def test_other_folders_are_left_alone(hub: LoopbackHub, as_user, tmp_path) -> None:
    source, out = tiny.write_tree(tiny.nlm_montgomery(), tmp_path / "set"), tmp_path / "out"
    build(source, out, REPO)
    before = contents(out)
    (out / "notes.txt").write_text("of mine")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    for folder, said in (
        (tmp_path / "thesis", "holds thesis.tex.*pass a new"),
        (tmp_path / "thesis" / "thesis.tex", "is a file.*pass a new"),
        (out, "holds notes.txt"),
    ):
        with as_user("alice"), pytest.raises(FileExistsError, match=f"{folder} {said}"):
            export(ExportConfig(data_dir=source, output=folder, repo_id=REPO))
    assert contents(out) == before | {"notes.txt": b"of mine"} and not hub.repos


@pytest.mark.parametrize("killed", [False, True], ids=["failed", "killed before"])
def test_failed_build_leaves_what_was_there(killed: bool, tmp_path) -> None:
    source, out = tiny.write_tree(tiny.kaggle(), tmp_path / "set"), tmp_path / "out"
    build(source, out)
    before = contents(out)
    if killed:  # as the new one was to be put in its place
        (tmp_path / ".out.writing" / "new").mkdir(parents=True)
        out.rename(tmp_path / ".out.writing" / "replaced")
    (source / "Lung Segmentation" / "CXR_png" / f"{tiny.IDS[-1]}.png").write_bytes(b"no image")
    for folder in (out, tmp_path / "new"):
        with pytest.raises(ValueError, match=f"{tiny.IDS[-1]}.png cannot be decoded"):
            build(source, folder)
    assert contents(out) == before and sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


def script(*options: str | Path) -> list[str]:
    return [sys.executable, "scripts/build_dataset.py", *map(str, options)]


KILLED_AT = """
import os, runpy, signal, sys
from fnmatch import fnmatch

def kill(event, arguments):
    if event in ("open", "os.rename") and any(fnmatch(str(one), moment) for one in arguments):
        os.kill(os.getpid(), signal.SIGKILL)

moment, *sys.argv = sys.argv[1:]
sys.addaudithook(kill)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["*/MC.incomplete/*train-00000*", "*/new/MC/train-*", "*/new/samples.png", "*/new/README.md", "*/out"]
)
def test_killed_build_leaves_nothing_that_looks_whole(moment: str, tmp_path) -> None:
    source, out = write_phantoms(tmp_path / "phantoms", 16, 16, 256), tmp_path / "out"
    interpreter, *arguments = script("--data_dir", source, "--output", out)
    done = subprocess.run([interpreter, "-c", KILLED_AT, moment, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists() and (tmp_path / ".out.writing").is_dir()
    build(source, out)
    assert len(datasets.load_dataset(str(out), "all", split="train")) and not (tmp_path / ".out.writing").exists()


@pytest.mark.slow
def test_script_says_where_the_set_is(tmp_path) -> None:
    source = tiny.write_tree(tiny.kaggle(), tmp_path / "set")
    done = subprocess.run(
        script("--data_dir", source, "--output", tmp_path / "out"), cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n")
    done = subprocess.run(script("--data_dir", source), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "error: no place for the set: pass --output" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repo_id": None}, "pass --output, a folder to make, or --repo_id, or both"),
        ({"repo_id": None, "output": Path("set"), "public": True}, "--public is only for a push: pass --repo_id too"),
        (
            {"repo_id": None, "output": Path("set"), "dry_run": True},
            "--dry_run is only for a push",
        ),
        ({"repo_id": "no/such/name"}, "no/such/name"),
        ({"num_shards": 0}, "num_shards must be 1 or more, got 0"),
        ({"public": True}, "--public shares the X-rays with all; NLM asks .* pass --i_accept_the_terms too"),
        *(({"version": name}, f"version must be .* got '{name}'") for name in ("a b", "main", "", "-v", "a..b")),
    ],
)
def test_config_is_checked(options, said: str, tmp_path) -> None:
    assert not ExportConfig(data_dir=tmp_path, repo_id=REPO, version="a.b-1").public
    with pytest.raises(ValueError, match=said):
        ExportConfig(**{"data_dir": tmp_path, "repo_id": REPO} | options)


def test_terms_are_shown_before_anything_is_sent(hub: LoopbackHub, as_user, config, caplog) -> None:
    sent: list[int] = []

    class Counter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "not to share the set outside" in record.getMessage():
                sent.append(sum(request.method != "GET" for request in hub.requests))

    log = logging.getLogger("hub_models.hub.dataset_export")
    log.addHandler(handler := Counter())
    with caplog.at_level("INFO"), as_user("alice"):
        export(config())
    log.removeHandler(handler)
    assert sent == [0]  # requests that change something
    said = caplog.text
    for words in ("The terms of these X-rays", "CC BY-NC-SA 4.0", "CC0", "Shenzhen/test-00000-of-00001.parquet"):
        assert words in said


def test_dry_run_sends_the_hub_nothing(hub: LoopbackHub, as_user, config, caplog) -> None:
    with caplog.at_level("INFO"), as_user(None):
        assert export(config(dry_run=True)).endswith(f"this would go to {REPO}, private")
        assert export(config(dry_run=True, public=True)).endswith(", public")
    assert not hub.requests and "CC BY-NC-SA" in caplog.text
    assert re.search(r" \d+ bytes  README.md", caplog.text) and RECORD_NAME not in caplog.text


def test_unchanged_set_makes_no_commit(hub: LoopbackHub, as_user, config, built, caplog) -> None:
    repo = hub.create(REPO, repo_type="dataset", private=True)  # empty, as made on the Hub's page
    with as_user("alice"):
        export(config())
        assert repo.files() == contents(built)
        head = repo.commits[0].oid
        hub.requests.clear()
        with caplog.at_level("INFO"):
            export(config())
    assert repo.commits[0].oid == head and "nothing has changed, no commit" in caplog.text
    assert {one.method for one in hub.requests if one.path != "/api/validate-yaml"} == {"GET", "HEAD"}


def test_changed_set_is_one_commit_that_leaves_no_shard_behind(hub: LoopbackHub, as_user, config, other) -> None:
    with as_user("alice"):
        export(config())
        with pytest.raises(ValueError, match=f"{REPO} has a version 1.0.0 of other files: pass another"):
            export(dataclasses.replace(other, version=VERSION))
        assert len(hub.repo(REPO, "dataset").commits) == 2
        export(other)
    repo = hub.repo(REPO, "dataset")
    assert repo.files() == contents(other.output) and len(repo.commits) == 3
    assert "MC/train-00000-of-00001.parquet" in repo.files() and "MC/train-00000-of-00003.parquet" not in repo.files()
    assert repo.files(VERSION)["MC/train-00000-of-00003.parquet"]
    assert repo.tags["1.0.1"] == repo.commits[0].oid


def test_public_needs_the_option(hub: LoopbackHub, as_user, config, built) -> None:
    with as_user("alice"):
        export(config())
        assert hub.repo(REPO, "dataset").private and not hub.repo(REPO, "dataset").gated
        huggingface_hub.update_repo_settings(REPO, private=False, repo_type="dataset")
        with pytest.raises(
            ValueError, match=rf"{REPO} is not private: make it so on its settings page, or pass --public"
        ):
            export(config())
    assert hub.repo(REPO, "dataset").files() == contents(built)


@pytest.mark.parametrize("before", [None, "private", "public", "gated"])
def test_public_set_is_gated(before: str | None, hub: LoopbackHub, as_user, config, built, tiny_set) -> None:
    with as_user("alice"):
        if before:
            export(config())
            repo = hub.repo(REPO, "dataset")
            repo.private, repo.gated = before == "private", "auto" if before == "gated" else False
            hub.requests.clear()
        assert export(config(public=True, i_accept_the_terms=True)) == f"{hub.endpoint}/datasets/{REPO}"
        assert check_rows(datasets.load_dataset(REPO, "MC"), tiny_set, "MC") == 27  # its owner
    repo = hub.repo(REPO, "dataset")
    assert not repo.private and repo.gated == ("auto" if before == "gated" else "manual")
    assert repo.files() == contents(built) and len(repo.commits) == 2
    changes = [one.path.rpartition("/")[2] for one in hub.requests if one.method == "PUT" and "/settings" in one.path]
    assert len(changes) == {None: 2, "private": 2, "public": 1, "gated": 0}[before]
    with as_user("bob"):
        assert huggingface_hub.dataset_info(REPO).gated == repo.gated
        with pytest.raises(GatedRepoError):
            huggingface_hub.hf_hub_download(REPO, CARD_NAME, repo_type="dataset")
        with pytest.raises(datasets.exceptions.DatasetNotFoundError, match="gated"):
            datasets.load_dataset(REPO, "MC")


STOPPED = [
    ("PUT .*/settings", "gating", False),
    ("POST .*/preupload/", "pushing to", False),
    ("POST .*/commit/", "pushing to", False),
    ("POST .*/tag/", "tagging", False),
    ("PUT .*/settings", "making public", True),
]


@pytest.mark.parametrize(("pattern", "doing", "gated"), STOPPED, ids=[f"{one[0]}, {one[1]}" for one in STOPPED])
def test_broken_off_public_push_shows_nothing(pattern, doing, gated, hub, as_user, config, built, monkeypatch) -> None:
    monkeypatch.setattr("hub_models.hub_client.requests.WAITS", (0.01,) * 2)
    public = config(public=True, i_accept_the_terms=True)
    if gated:
        hub.create(REPO, repo_type="dataset", private=True).gated = "manual"
    with as_user("alice"):
        hub.fail(pattern, status=403, times=None)
        with pytest.raises(PermissionError, match=f"{doing} dataset {REPO} "):
            export(public)
        hub.clear_faults()
        repo = hub.repo(REPO, "dataset")
        assert repo.private and (repo.gated == "manual" or not repo.files())
        export(public)  # the same again
    assert (repo.private, repo.gated, repo.files()) == (False, "manual", contents(built))


def test_lost_answers_of_settings_are_no_failure(hub: LoopbackHub, as_user, config, monkeypatch) -> None:
    monkeypatch.setattr("hub_models.hub_client.requests.WAITS", (0.01,) * 2)
    hub.fail("PUT .*/settings", times=2, cut_after=0, after=True)
    with as_user("alice"):
        export(config(public=True, i_accept_the_terms=True))
    assert not hub.repo(REPO, "dataset").private and hub.repo(REPO, "dataset").gated == "manual"


def test_set_that_the_hub_does_not_gate_stays_private(hub, as_user, config, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "update_repo_settings", lambda *_, **__: None)
    with as_user("alice"), pytest.raises(ValueError, match=f"did not gate it.*{REPO}/settings"):
        export(config(public=True, i_accept_the_terms=True))
    assert hub.repo(REPO, "dataset").private and not hub.repo(REPO, "dataset").files()


def test_public_phantoms_need_no_gate(hub: LoopbackHub, as_user, phantoms: Path) -> None:
    with as_user("alice"):
        export(ExportConfig(data_dir=phantoms, repo_id=REPO, public=True, i_accept_the_terms=True))
    assert not hub.repo(REPO, "dataset").private and not hub.repo(REPO, "dataset").gated


OTHER = [
    ({"notes.csv": b"a,b\n"}, "notes.csv"),
    ({"MC/train-00000-of-00001.parquet": b"PAR1", "data/train.parquet": b"PAR1"}, "data/train.parquet"),
    ({CARD_NAME: b"---\ntags:\n- other\n---\n# Mine\n"}, CARD_NAME),
    ({CARD_NAME: b"# Mine\n"}, CARD_NAME),
]


@pytest.mark.parametrize(("files", "named"), OTHER)
def test_other_content_is_left_alone(files, named: str, hub: LoopbackHub, as_user, config) -> None:
    repo = hub.create(REPO, files, "dataset", private=True)
    with (
        as_user("alice"),
        pytest.raises(ValueError, match=f"{REPO} holds {named}, which belongs to no set"),
    ):
        export(config())
    assert repo.files() == files


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"files": {"thesis.tex": b"x"}, "private": True}, "holds thesis.tex, which belongs to no set built here"),
        ({"private": False}, "is not private: make it so on its settings page"),
    ],
    ids=["other content", "public"],
)
def test_repository_that_came_to_be_meanwhile_is_checked(made, said, hub, as_user, config, monkeypatch) -> None:
    """Somebody makes it after this push has read it, before its own `create_repo`."""
    create = Repository.create

    def late(self: Repository, *args: object) -> object:
        hub.create(REPO, repo_type="dataset", **made)
        return create(self, *args)

    monkeypatch.setattr(Repository, "create", late)
    with as_user("alice"), pytest.raises(ValueError, match=said):
        export(config())
    assert hub.repo(REPO, "dataset").files() == made.get("files", {})


def test_who_may_not_write_is_told_before_the_work(hub: LoopbackHub, as_user, tiny_set, tmp_path) -> None:
    config = ExportConfig(data_dir=tiny_set, output=tmp_path / "out", repo_id=REPO)
    hub.add_user("alice")
    cases = [
        (lambda: as_user(None), "log in with `hf auth login`"),
        (lambda: as_user("alice", role="read"), "is for reading"),
        (lambda: as_user("bob"), "bob may not write to alice"),
    ]
    for user, said in cases:
        with user(), pytest.raises(PermissionError, match=said):
            export(config)
    with as_user("alice"):
        hub.users.clear()  # the token was taken back
        with pytest.raises(PermissionError, match="does not take this token"):
            export(config)
    assert not hub.repos and not (tmp_path / "out").exists()


FAULTS = [
    ("commit answered with 503", True, {"pattern": r"POST .*/commit/", "status": 503, "times": 2}),
    ("commit done, its answer lost", True, {"pattern": r"POST .*/commit/", "cut_after": 0, "after": True}),
    ("xorb cut", True, {"pattern": r"POST /cas/.*/xorbs/", "cut_after": 10}),
    ("preupload 500", False, {"pattern": r"POST .*/preupload/", "status": 500, "times": 2}),
    ("LFS part cut", False, {"pattern": r"PUT /lfs/", "cut_after": 10}),
    ("tag 503", False, {"pattern": r"POST .*/tag/", "status": 503}),
]


@pytest.mark.parametrize(("xet", "fault"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_moments_pass(xet: bool, fault, hub: LoopbackHub, as_user, config, built, monkeypatch) -> None:
    monkeypatch.setattr("hub_models.hub_client.requests.WAITS", (0.01,) * 5)
    hub.fail(**fault)
    with as_user("alice", xet=xet):
        export(config())
    repo = hub.repo(REPO, "dataset")
    assert repo.files() == contents(built) and len(repo.commits) == 2 and repo.tags == {VERSION: repo.commits[0].oid}


@pytest.mark.parametrize("xet", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["xet", "lfs"])
def test_broken_off_push_leaves_the_head_whole(xet, hub, as_user, config, built, other, tiny_set, monkeypatch) -> None:
    monkeypatch.setattr("hub_models.hub_client.requests.WAITS", (0.01,) * 5)
    with as_user("alice", xet=xet):
        export(config())
        repo = hub.repo(REPO, "dataset")
        for fault in ({"pattern": "/commit/", "status": 503}, {"pattern": "/preupload/", "cut_after": 1}):
            hub.fail(times=None, **fault)
            with pytest.raises(
                ConnectionError, match=f"pushing to dataset {REPO} failed .* run the same command again"
            ):
                export(other)
            assert repo.files() == contents(built) and repo.tags == {VERSION: repo.commits[0].oid}
            hub.clear_faults()
        hub.fail("/commit/", status=403)
        with pytest.raises(PermissionError, match=f"pushing to dataset {REPO} "):
            export(other)
        assert check_rows(datasets.load_dataset(REPO, "MC"), tiny_set, "MC")
        export(other)
    assert repo.files() == contents(other.output) and len(repo.commits) == 3


def test_push_beside_another_is_refused(hub: LoopbackHub, as_user, config, monkeypatch) -> None:
    with as_user("alice"):
        huggingface_hub.create_repo(REPO, repo_type="dataset", private=True)
        made = huggingface_hub.HfApi.create_commit

        def late(self, *args, **kwargs):
            monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", made)
            self.upload_file(path_or_fileobj=b"x", path_in_repo="notes.txt", repo_id=REPO, repo_type="dataset")
            return made(self, *args, **kwargs)

        monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", late)
        with pytest.raises(ValueError, match="somebody else pushed"):
            export(config())
    assert hub.repo(REPO, "dataset").files() == {"notes.txt": b"x"}


@pytest.mark.slow
def test_real_x_rays_come_back(real_data_dir, tmp_path, hub: LoopbackHub, as_user) -> None:
    config = ExportConfig(data_dir=real_data_dir, output=tmp_path / "out", repo_id=REPO, max_shard_size="20MB")
    with as_user("alice"):
        export(config)
        for name, count in {"MC": 87, "Shenzhen": 438, "all": 525}.items():
            assert check_rows(datasets.load_dataset(REPO, name), real_data_dir, name) == count
            assert check_rows(datasets.load_dataset(str(tmp_path / "out"), name), real_data_dir, name) == count
    record = json.loads((tmp_path / "out" / RECORD_NAME).read_text())
    assert len([name for name in record["files"] if name.startswith("Shenzhen/train")]) == 3
