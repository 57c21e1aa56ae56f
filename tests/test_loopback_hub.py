"""The loopback Hub, met by the real clients as users run them."""

import hashlib
import http.client
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import datasets
import huggingface_hub
import pyarrow as pa
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session
from loopback_hub import LoopbackHub
from loopback_hub.__main__ import _wait
from loopback_hub.xet import chunk_table, hash_text, unpacked

CARD = "---\nlicense: mit\n---\n# A model\n"
ROUTES = pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
AsUser = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a model's: a card, a file below, and weights of more than one piece of plain LFS."""
    draw, folder = random.Random(0), tmp_path / "model"
    (folder / "notes").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "notes" / "a b.txt").write_text("text")
    (folder / "model.safetensors").write_bytes(draw.randbytes(12_000_000))
    (folder / "small.bin").write_bytes(draw.randbytes(1000) + bytes(100_000))  # the zeros are packed
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def count_requests(hub: LoopbackHub, method: str, path: str) -> int:
    return sum(request.method == method and path in request.path for request in hub.requests)


def raw(hub: LoopbackHub, method: str, url: str, body: bytes = b"", **headers: str) -> tuple[int, dict, bytes]:
    """Status, headers and body of one request, without any client's help."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=10)
    connection.request(method, f"{address.path}?{address.query}", body, headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, data


@ROUTES
def test_folder_goes_and_comes_back(hub: LoopbackHub, as_user: AsUser, folder: Path, xet: bool) -> None:
    with as_user(xet=xet) as home:
        url = huggingface_hub.create_repo("alice/lungs", private=True)
        assert str(url) == f"{hub.endpoint}/alice/lungs"
        info = huggingface_hub.upload_folder(repo_id="alice/lungs", folder_path=folder)
        assert hub.repo("alice/lungs").commits[0].oid == info.oid
        assert hub.repo("alice/lungs").files() == contents(folder)
        sent = {"xorbs": count_requests(hub, "POST", "/v1/xorbs/"), "lfs": count_requests(hub, "PUT", "/lfs/")}
        assert sent == ({"xorbs": 1, "lfs": 0} if xet else {"xorbs": 0, "lfs": 3})  # 12 MB are two pieces

        huggingface_hub.upload_folder(repo_id="alice/lungs", folder_path=folder)
        assert [commit.title for commit in hub.repo("alice/lungs").commits] == [info.commit_message, "initial commit"]
        assert count_requests(hub, "POST", "/commit/") == 1

        there = Path(snapshot_download("alice/lungs"))
        assert there.is_relative_to(home)
        assert {path: data for path, data in contents(there).items() if path != ".gitattributes"} == contents(folder)
        assert count_requests(hub, "GET", "/xorbs/" if xet else "/cdn/") > 0
        assert count_requests(hub, "GET", "/cdn/" if xet else "/xorbs/") == 0
        weights = next(file for file in HfApi().list_repo_tree("alice/lungs") if file.path == "model.safetensors")
        assert weights.lfs.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (hub.repo("alice/lungs").commits[0].entries["model.safetensors"].xet_hash is not None) == xet
    tokens = set(hub.users)
    for request in hub.requests:  # the hub's token goes to the hub alone
        at_storage = request.headers["host"].startswith("localhost")
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        assert (bearer in tokens) != at_storage, request
        assert not (request.path.startswith(("/cdn/", "/lfs/", "/xorbs/")) and bearer), request


def test_file_sent_by_xet_is_fetched_without_it(hub: LoopbackHub, as_user: AsUser, folder: Path) -> None:
    with as_user(xet=True):
        huggingface_hub.create_repo("alice/m")
        huggingface_hub.upload_folder(repo_id="alice/m", folder_path=folder)
    with as_user(xet=False):
        path = hf_hub_download("alice/m", "small.bin")
        assert Path(path).read_bytes() == (folder / "small.bin").read_bytes()
    assert count_requests(hub, "GET", "/cdn/") == 1


def test_create_and_delete(hub: LoopbackHub, as_user: AsUser) -> None:
    with as_user():
        for repo_type in ("model", "dataset", "space"):
            sdk = {"space_sdk": "static"} if repo_type == "space" else {}
            huggingface_hub.create_repo("mine", repo_type=repo_type, private=repo_type == "dataset", **sdk)
            assert hub.repo("alice/mine", repo_type).private == (repo_type == "dataset")
            with pytest.raises(HfHubHTTPError, match="409"):
                huggingface_hub.create_repo("alice/mine", repo_type=repo_type, **sdk)
            huggingface_hub.create_repo("alice/mine", repo_type=repo_type, exist_ok=True, **sdk)
        huggingface_hub.delete_repo("alice/mine")
        with pytest.raises(KeyError, match="no model alice/mine"):
            hub.repo("alice/mine")
        with pytest.raises(RepositoryNotFoundError):
            huggingface_hub.delete_repo("alice/mine")
        huggingface_hub.delete_repo("alice/mine", missing_ok=True)
        huggingface_hub.update_repo_settings("alice/mine", repo_type="dataset", private=False)
        assert not hub.repo("alice/mine", "dataset").private


def test_who_may_do_what(hub: LoopbackHub, as_user: AsUser) -> None:
    hub.create("alice/open", {"a.txt": b"a"})
    hub.create("alice/closed", {"a.txt": b"a", "w.bin": b"w"}, private=True)
    with as_user("alice", role="read"):
        assert huggingface_hub.whoami()["auth"]["accessToken"]["role"] == "read"
        assert hf_hub_download("alice/closed", "w.bin")
        for change in (
            lambda: huggingface_hub.create_repo("alice/new"),
            lambda: huggingface_hub.upload_file(repo_id="alice/open", path_in_repo="b", path_or_fileobj=b"b"),
            lambda: huggingface_hub.create_tag("alice/open", tag="v1"),
            lambda: huggingface_hub.delete_repo("alice/open"),
        ):
            with pytest.raises(HfHubHTTPError, match="403"):
                change()
    with as_user("bob"):
        assert hf_hub_download("alice/open", "a.txt")
        with pytest.raises(RepositoryNotFoundError, match="404"):
            huggingface_hub.model_info("alice/closed")
        with pytest.raises(HfHubHTTPError, match="403"):
            huggingface_hub.upload_file(repo_id="alice/open", path_in_repo="b", path_or_fileobj=b"b")
        with pytest.raises(HfHubHTTPError, match="403"):
            huggingface_hub.create_repo("alice/new")
    with as_user(None):
        assert hf_hub_download("alice/open", "a.txt")
        with pytest.raises(RepositoryNotFoundError, match="401"):
            hf_hub_download("alice/closed", "a.txt")
        with pytest.raises(HfHubHTTPError, match="401"):
            huggingface_hub.create_repo("alice/new")
        with pytest.raises(HfHubHTTPError, match="Invalid user token"):
            huggingface_hub.whoami(token="hf_nobodys")
    assert set(hub.repos) == {("model", "alice/open"), ("model", "alice/closed")}
    assert list(hub.repo("alice/open").files()) == ["a.txt"]
    with pytest.raises(ValueError, match="role must be"):
        hub.add_user("carol", role="admin")


def test_gated_repository_shows_itself_and_keeps_its_files(hub: LoopbackHub, as_user: AsUser) -> None:
    hub.create("alice/m", {"a.txt": b"a"})
    with as_user():
        for gated in ("manual", False, "auto"):
            huggingface_hub.update_repo_settings("alice/m", gated=gated)
            assert huggingface_hub.model_info("alice/m").gated == gated
        settings = f"{hub.endpoint}/api/models/alice/m/settings"
        refused = get_session().put(settings, headers=build_hf_headers(), json={"gated": True})
        assert refused.status_code == 400 and hf_hub_download("alice/m", "a.txt")
    with as_user("bob"):
        assert huggingface_hub.model_info("alice/m").gated == "auto"
        with pytest.raises(GatedRepoError):
            hf_hub_download("alice/m", "a.txt")


def test_branches_tags_and_revisions(hub: LoopbackHub, as_user: AsUser) -> None:
    with as_user():
        huggingface_hub.create_repo("alice/m")
        first = huggingface_hub.upload_file(repo_id="alice/m", path_in_repo="a.txt", path_or_fileobj=b"1")
        huggingface_hub.create_tag("alice/m", tag="v1", tag_message="the first")
        huggingface_hub.create_branch("alice/m", branch="try/this")
        second = huggingface_hub.upload_file(
            repo_id="alice/m", path_in_repo="a.txt", path_or_fileobj=b"22", revision="try/this"
        )
        repo = hub.repo("alice/m")
        assert (repo.tags, repo.branches["try/this"]) == ({"v1": first.oid}, second.oid)
        assert (repo.files()["a.txt"], repo.files("try/this")["a.txt"]) == (b"1", b"22")
        for revision, text in (("v1", "1"), ("try/this", "22"), (second.oid, "22"), (second.oid[:7], "22")):
            assert Path(hf_hub_download("alice/m", "a.txt", revision=revision)).read_text() == text
        with pytest.raises(RevisionNotFoundError):
            hf_hub_download("alice/m", "a.txt", revision="v2")
        with pytest.raises(KeyError, match="no revision v2"):
            repo.files("v2")
        with pytest.raises(EntryNotFoundError):
            hf_hub_download("alice/m", "b.txt")
        with pytest.raises(HfHubHTTPError, match="409"):
            huggingface_hub.create_tag("alice/m", tag="v1")
        huggingface_hub.create_tag("alice/m", tag="v1", exist_ok=True)
        refs = huggingface_hub.list_repo_refs("alice/m")
        assert {ref.name: ref.target_commit for ref in refs.branches + refs.tags} == repo.branches | repo.tags
        huggingface_hub.delete_tag("alice/m", tag="v1")
        huggingface_hub.delete_branch("alice/m", branch="try/this")
        with pytest.raises(RevisionNotFoundError):
            huggingface_hub.delete_tag("alice/m", tag="v1")
        with pytest.raises(HfHubHTTPError, match="403"):
            huggingface_hub.delete_branch("alice/m", branch="main")
    assert (repo.tags, list(repo.branches)) == ({}, ["main"])


def test_tree_and_paths(hub: LoopbackHub, as_user: AsUser) -> None:
    files = {"README.md": CARD.encode(), "data/a/x.parquet": b"x", "data/b.txt": b"bb"}
    oid = hub.create("alice/d", files, repo_type="dataset").commits[0].oid
    with as_user():
        api = HfApi()
        tree = api.list_repo_tree("alice/d", repo_type="dataset", recursive=True, expand=True)
        shown = {entry.path: (getattr(entry, "size", None), entry.last_commit.oid == oid) for entry in tree}
        size = len(hub.repo("alice/d", "dataset").commits[0].entries[".gitattributes"].data)
        assert shown == {
            ".gitattributes": (size, False),  # from the start
            "README.md": (len(CARD), True),
            "data": (None, True),
            "data/a": (None, True),
            "data/a/x.parquet": (1, True),
            "data/b.txt": (2, True),
        }
        assert [e.path for e in api.list_repo_tree("alice/d", "data", repo_type="dataset")] == ["data/a", "data/b.txt"]
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree("alice/d", "nothing", repo_type="dataset"))
        found = api.get_paths_info("alice/d", ["data/b.txt", "data/a", "none"], repo_type="dataset")
        # git's own id of a blob: `printf bb | git hash-object --stdin`
        assert [(entry.path, getattr(entry, "blob_id", "folder")) for entry in found] == [
            ("data/b.txt", hashlib.sha1(b"blob 2\0bb").hexdigest()),
            ("data/a", "folder"),
        ]
        info = api.dataset_info("alice/d", files_metadata=True)
        assert {s.rfilename: s.size for s in info.siblings}["data/b.txt"] == 2
        assert (info.sha, info.card_data.license, info.private) == (oid, "mit", False)
        api.delete_folder("data/a", "alice/d", repo_type="dataset")
        assert set(hub.repo("alice/d", "dataset").files()) == {"README.md", "data/b.txt"}
        with pytest.raises(EntryNotFoundError):
            api.delete_file("data/none", "alice/d", repo_type="dataset")


def test_what_the_hub_does_not_do_is_said(hub: LoopbackHub, as_user: AsUser) -> None:
    hub.create("alice/m", {"a.txt": b"a"})
    with as_user():
        with pytest.raises(HfHubHTTPError, match="501"):
            huggingface_hub.upload_file(repo_id="alice/m", path_in_repo="b", path_or_fileobj=b"b", create_pr=True)
        with pytest.raises(HfHubHTTPError, match="no route for GET /api/models"):
            list(huggingface_hub.list_models())
        with pytest.raises(RepositoryNotFoundError):
            huggingface_hub.model_info("resnet-light")  # a name without its user's


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        ("license: [unclosed", "YAML"),
        ("- a list", "must be a mapping"),
        ("license: apache2", "known identifiers, got 'apache2'"),
        ("tags: chest", '"tags" must be an array'),
        ("tags: [1]", "must hold strings, got 1"),
        ("model-index:\n- name: m", "results"),
        ("model-index:\n- name: m\n  results:\n  - task: {type: t}\n    metrics: []", "dataset.type"),
    ],
)
def test_bad_card_is_refused(hub: LoopbackHub, as_user: AsUser, head: str, fault: str) -> None:
    card = f"---\n{head}\n---\n# A model\n".encode()
    hub.create("alice/m")
    with as_user():
        with pytest.raises(ValueError, match="Invalid metadata in README.md"):
            huggingface_hub.upload_file(repo_id="alice/m", path_in_repo="README.md", path_or_fileobj=card)
        lines = {"header": {"summary": "s"}, "file": {"path": "README.md", "content": card.decode()}}
        body = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines.items())
        bearer = f"Bearer {os.environ['HF_TOKEN']}"
    status, _, answer = raw(hub, "POST", "/api/models/alice/m/commit/main", body.encode(), Authorization=bearer)
    assert (status, fault in json.loads(answer)["error"]) == (400, True), answer
    assert hub.repo("alice/m").files() == {}


def test_good_cards_are_taken(hub: LoopbackHub, as_user: AsUser) -> None:
    metric = "{type: dice, value: 0.9}"
    results = f"  results:\n  - task: {{type: t}}\n    dataset: {{type: d, name: D}}\n    metrics: [{metric}]"
    hub.create("alice/m")
    with as_user():
        with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
            huggingface_hub.upload_file(repo_id="alice/m", path_in_repo="README.md", path_or_fileobj=b"# no head\n")
        for card in (CARD, f"---\nlicense: other\nmodel-index:\n- name: m\n{results}\n---\n"):
            huggingface_hub.upload_file(repo_id="alice/m", path_in_repo="README.md", path_or_fileobj=card.encode())
            assert hub.repo("alice/m").files() == {"README.md": card.encode()}
        assert huggingface_hub.model_info("alice/m").card_data.eval_results[0].metric_value == 0.9


def test_ranges(hub: LoopbackHub) -> None:
    hub.create("alice/m", {"a.txt": b"0123456789", "w.bin": b"abcdefghij"})
    address = f"{hub.endpoint}/alice/m/resolve/main/a.txt"
    for asks, status, body, where in (
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
    ):
        got = raw(hub, "GET", address, Range=asks)
        assert (got[0], got[2], got[1]["content-range"]) == (status, body, where)
    assert raw(hub, "HEAD", address)[1]["content-length"] == "10"
    status, headers, _ = raw(hub, "HEAD", f"{hub.endpoint}/alice/m/resolve/main/w.bin")
    assert (status, headers["x-linked-size"]) == (302, "10")
    assert headers["location"].startswith(f"http://localhost:{hub.port}/cdn/")
    assert raw(hub, "GET", headers["location"], Range="bytes=1-2")[2] == b"bc"
    assert raw(hub, "GET", headers["location"].partition("?")[0])[0] == 403  # the address alone is not enough


def test_wrong_bytes_are_refused(hub: LoopbackHub) -> None:
    hub.create("alice/m")
    bearer = {"Authorization": f"Bearer {hub.add_user('alice')}"}
    oid, wrong = hashlib.sha256(b"right").hexdigest(), b"wrong"

    def offer(size: int) -> dict[str, Any]:
        body = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [{"oid": oid, "size": size}]}
        answer = raw(hub, "POST", "/alice/m.git/info/lfs/objects/batch", json.dumps(body).encode(), **bearer)[2]
        return json.loads(answer)["objects"][0].get("actions")

    def commit() -> int:
        lines = [{"key": "header", "value": {"summary": "s"}}]
        lines.append({"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": oid, "size": 5}})
        body = "\n".join(map(json.dumps, lines)).encode()
        return raw(hub, "POST", "/api/models/alice/m/commit/main", body, **bearer)[0]

    upload = offer(5)["upload"]["href"]
    assert raw(hub, "PUT", upload, wrong)[0] == 400
    assert raw(hub, "PUT", upload, b"right, and more")[0] == 400
    assert raw(hub, "PUT", upload.replace("signature=", "signature=0"), b"right")[0] == 403
    hub.part_size = 3
    parts = offer(5)["upload"]
    etags = [raw(hub, "PUT", parts["header"][f"{n:05d}"], wrong[3 * n - 3 : 3 * n])[1]["etag"] for n in (1, 2)]
    whole = {"oid": oid, "parts": [{"partNumber": n, "etag": etag} for n, etag in enumerate(etags, 1)]}
    assert raw(hub, "POST", parts["href"], json.dumps(whole).encode())[0] == 400
    right = [raw(hub, "PUT", parts["header"][f"{n:05d}"], b"right"[3 * n - 3 : 3 * n])[0] for n in (1, 2)]
    assert right == [200, 200]
    assert raw(hub, "POST", parts["href"], json.dumps(whole).encode())[0] == 400  # the ETags are of the wrong parts
    assert commit() == 400
    assert hub.repo("alice/m").files() == {}
    assert raw(hub, "PUT", upload, b"right")[0] == 200
    assert offer(5) is None
    assert commit() == 200
    assert hub.repo("alice/m").files() == {"w.bin": b"right"}


def test_xet_wire_format(hub: LoopbackHub) -> None:
    """A xorb made by hand, in the client's wire format."""

    def chunk(scheme: int, payload: bytes, length: int) -> bytes:
        return (
            bytes([0]) + len(payload).to_bytes(3, "little") + bytes([scheme]) + length.to_bytes(3, "little") + payload
        )

    lz4 = pa.Codec("lz4")
    plain, grouped = b"x" * 100, b"0123456789"
    planes = b"048" + b"159" + b"26" + b"37"  # each fourth byte, from the first, the second, ...
    xorb = chunk(0, b"as is", 5) + chunk(1, lz4.compress(plain, asbytes=True), 100)
    xorb += chunk(2, lz4.compress(planes, asbytes=True), 10)
    table = chunk_table(xorb + b"\x01footer")
    assert [unpacked(xorb[a:b], n) for a, b, n in table] == [b"as is", plain, grouped]
    with pytest.raises(ValueError, match="within the chunk"):
        chunk_table(xorb[:-1])
    with pytest.raises(ValueError, match="scheme 3"):
        unpacked(chunk(3, b"a", 1), 1)
    # four little-endian numbers: 1, 2, 3, 4
    name = bytes([1] + [0] * 7 + [2] + [0] * 7 + [3] + [0] * 7 + [4] + [0] * 7)
    assert hash_text(name) == "0000000000000001000000000000000200000000000000030000000000000004"
    hub.create("alice/m")
    bearer = f"Bearer {hub.add_user('alice')}"
    token = json.loads(raw(hub, "GET", "/api/models/alice/m/xet-write-token/main", Authorization=bearer)[2])
    xorbs = f"{token['casUrl']}/v1/xorbs/default/{hash_text(name)}"
    assert raw(hub, "POST", xorbs, xorb, Authorization=bearer)[0] == 401  # the hub's token is not the store's
    reading = json.loads(raw(hub, "GET", "/api/models/alice/m/xet-read-token/main", Authorization=bearer)[2])
    assert raw(hub, "POST", xorbs, xorb, Authorization=f"Bearer {reading['accessToken']}")[0] == 403
    stranger = f"Bearer {hub.add_user('bob')}"
    assert raw(hub, "GET", "/api/models/alice/m/xet-write-token/main", Authorization=stranger)[0] == 403


def test_download_is_resumed_where_it_was_cut(hub: LoopbackHub, as_user: AsUser) -> None:
    data = random.Random(1).randbytes(21 << 20)
    hub.create("alice/m", {"w.bin": data})
    hub.fail("GET /cdn/", cut_after=15 << 20)
    with as_user(xet=False):
        assert Path(hf_hub_download("alice/m", "w.bin")).read_bytes() == data
    fetches = [request for request in hub.requests if request.path.startswith("/cdn/") and request.method == "GET"]
    assert [(f.status, f.headers.get("range")) for f in fetches] == [(0, None), (206, "bytes=10485760-")]


def test_fault_after_the_deed(hub: LoopbackHub, as_user: AsUser) -> None:
    with as_user():
        hub.fail("POST /api/repos/create", status=503, after=True)
        with pytest.raises(HfHubHTTPError, match="503"):
            huggingface_hub.create_repo("alice/m")
        assert hub.repo("alice/m")
        hub.fail("/commit/", cut_after=0, after=True)
        with pytest.raises(huggingface_hub.utils.httpx.RemoteProtocolError):
            huggingface_hub.upload_file(repo_id="alice/m", path_in_repo="a", path_or_fileobj=b"a")
        assert hub.repo("alice/m").files() == {"a": b"a"}
        hub.fail("DELETE", cut_after=0)
        with pytest.raises(huggingface_hub.utils.httpx.RemoteProtocolError):
            huggingface_hub.delete_repo("alice/m")
        assert hub.repo("alice/m")


def test_faults_in_order_slow_and_endless(hub: LoopbackHub) -> None:
    hub.create("alice/m", {"a.txt": b"0123456789"})
    path = "/alice/m/resolve/main/a.txt"
    hub.fail("GET .*a.txt", corrupt=True)
    hub.fail("GET", headers={"X-More": "1"}, delay=0.01, times=2)
    answers = [raw(hub, "GET", path) for _ in range(4)]
    # 5 is 0x35: inverted, 0xca
    assert [body for _, _, body in answers] == [b"01234\xca6789", *[b"0123456789"] * 3]
    assert [headers.get("x-more") for _, headers, _ in answers] == [None, "1", "1", None]
    hub.fail("GET", status=500, times=None)
    assert {raw(hub, "GET", path)[0] for _ in range(3)} == {500}
    hub.clear_faults()
    hub.fail("GET", cut_after=4)
    with pytest.raises(http.client.IncompleteRead) as cut:
        raw(hub, "GET", path)
    assert (cut.value.partial, hub.requests[-1].status) == (b"0123", 0)
    hub.fail("GET", cut_after=0)
    with pytest.raises(http.client.RemoteDisconnected):
        raw(hub, "GET", path)
    with pytest.raises(ValueError, match="a fault needs one of"):
        hub.fail("GET")
    with pytest.raises(ValueError, match="times must be"):
        hub.fail("GET", status=500, times=0)
    hub.reset()
    assert (raw(hub, "GET", path)[0], len(hub.requests), hub.repos) == (401, 1, {})


def test_stop_closes_what_is_open(as_user: AsUser, hub: LoopbackHub) -> None:
    with LoopbackHub() as other:
        connection = http.client.HTTPConnection("127.0.0.1", other.port, timeout=10)
        connection.request("GET", "/api/agent-harnesses")
        assert connection.getresponse().read()
        idle = http.client.HTTPConnection("127.0.0.1", other.port, timeout=10)
        idle.request("GET", "/api/agent-harnesses")
        assert idle.getresponse().read()
        other.fail("GET", delay=600)
        connection.request("GET", "/api/agent-harnesses")
    gone = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
    with pytest.raises(gone):
        connection.getresponse()
    with pytest.raises(gone):
        idle.request("GET", "/api/agent-harnesses")
        idle.getresponse()
    connection.close()
    idle.close()
    with pytest.raises(ConnectionRefusedError):
        raw(other, "GET", "/")
    hub.create("alice/m", {"a.txt": b"a"})
    with as_user():
        hub.fail(".", status=503, times=None)
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download("alice/m", "a.txt")


def test_clients_are_put_back(hub: LoopbackHub, as_user: AsUser) -> None:
    before = {name: getattr(huggingface_hub.constants, name) for name in vars(huggingface_hub.constants)}
    environment, caches = dict(os.environ), datasets.config.HF_DATASETS_CACHE
    with as_user() as home:
        assert huggingface_hub.whoami()["name"] == "alice"
        assert datasets.config.HF_DATASETS_CACHE.is_relative_to(home)
        assert huggingface_hub.HfFileSystem().endpoint == huggingface_hub.hffs.endpoint == hub.endpoint
    assert {name: getattr(huggingface_hub.constants, name) for name in vars(huggingface_hub.constants)} == before
    assert (dict(os.environ), datasets.config.HF_DATASETS_CACHE) == (environment, caches)
    assert huggingface_hub.HfFileSystem().endpoint == before["ENDPOINT"] != hub.endpoint
    with pytest.raises(OfflineModeIsEnabled):
        huggingface_hub.model_info("alice/m")


@ROUTES
def test_dataset_goes_and_comes_back(hub: LoopbackHub, as_user: AsUser, xet: bool) -> None:
    rows = {"id": [f"x{n}" for n in range(20)], "pixels": [random.Random(n).randbytes(1000) for n in range(20)]}
    with as_user(xet=xet):
        datasets.Dataset.from_dict(rows).push_to_hub("alice/d", "MC", private=True, num_shards=2)
        back = datasets.load_dataset("alice/d", "MC", split="train")
        assert back.to_dict() == rows
        streamed = datasets.load_dataset("alice/d", "MC", split="train", streaming=True)
        assert [row["pixels"] for row in streamed] == rows["pixels"]
    shards = {path for path in hub.repo("alice/d", "dataset").files() if path.endswith(".parquet")}
    assert shards == {"MC/train-00000-of-00002.parquet", "MC/train-00001-of-00002.parquet"}
    assert any("range" in request.headers for request in hub.requests if request.path.startswith("/cdn/"))
    with as_user("bob"), pytest.raises(datasets.exceptions.DatasetNotFoundError):
        datasets.load_dataset("alice/d", "MC")


SCRIPT = """
import sys
import huggingface_hub
huggingface_hub.create_repo("demo/d", repo_type="dataset")
huggingface_hub.upload_file(repo_id="demo/d", repo_type="dataset", path_in_repo="a/b.bin", path_or_fileobj=b"123")
print(huggingface_hub.whoami()["name"])
sys.exit(7)
"""


def test_command_runs_with_a_hub(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    module = [sys.executable, "-m", "loopback_hub", "--keep", str(tmp_path / "kept")]
    done = subprocess.run(
        [*module, "--", sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (7, "demo\n"), done.stderr
    assert contents(tmp_path / "kept") == {"datasets/demo/d/a/b.bin": b"123"}

    with subprocess.Popen(module, env=environment, stdout=subprocess.PIPE, text=True) as serving:
        lines = [serving.stdout.readline().strip()]
        while lines[-1] and not lines[-1].startswith("#"):
            lines.append(serving.stdout.readline().strip())
        variables = dict(line.removeprefix("export ").split("=", 1) for line in lines[:-1])
        address = urlsplit(variables["HF_ENDPOINT"])
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        connection.request("GET", "/api/whoami-v2", headers={"Authorization": f"Bearer {variables['HF_TOKEN']}"})
        assert json.loads(connection.getresponse().read())["name"] == "demo"
        connection.close()
        serving.send_signal(signal.SIGINT)
        assert serving.wait(timeout=30) == 0


class Hasty(io.StringIO):
    """A reader of the output who presses Ctrl-C on its last line."""

    def write(self, text: str) -> int:
        if text.startswith("#"):
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def test_ctrl_c_that_comes_at_once_ends_it_well(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(sys, "stdout", Hasty())
    try:
        assert _wait({"A": "1"}) == 0
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C was not awaited")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
