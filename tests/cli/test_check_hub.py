"""The check on a Hub that does what it should, and on ones that do not."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from launch import python
from loopback_hub import LoopbackHub

from hub_models.cli import check_hub as check
from hub_models.cli.check_hub import check_hub
from hub_models.hub.dataset_export import export
from hub_models.hub.push import push_model

AsUser = Callable[..., Any]
SLOW = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_script_passes_and_leaves_nothing(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xet: bool
) -> None:
    for name, value in hub.environment(hub.add_user("alice"), tmp_path, xet).items():
        monkeypatch.setenv(name, value)
    done = python("scripts/check_hub.py")
    assert done.stdout == "all is well\n"
    whole, without_picture, again = map(int, re.findall(r"^(\d+) files came back$", done.stderr, re.MULTILINE))
    assert whole == again == without_picture + 1
    assert "a late commit is refused (412)" in done.stderr
    assert [done.stderr.count(line) for line in ("nobody else sees it", "deleted http")] == [2, 2]
    rows = re.findall(r"(\d+) rows of (\S+), (\S+) came back, loaded and streamed", done.stderr)
    counts = {name: sum(int(count) for count, one, _ in rows if one == name) for name in ("MC", "all")}
    assert counts == {"MC": 12, "all": 30} and len(rows) == 6
    assert hub.repos == {}
    assert any("/xorbs/" in request.path for request in hub.requests) == xet


@pytest.fixture
def made(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was made before, in place of one that is trained now."""
    monkeypatch.setattr(check, "train", lambda config: shutil.copytree(finished_run, config.output_dir))
    monkeypatch.setattr(check, "write_phantoms", lambda folder, *_: folder)


@pytest.fixture
def data_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is made or pushed."""
    monkeypatch.setattr(check, "train", lambda config: None)
    monkeypatch.setattr(check, "_check_model", lambda *_: None)


@pytest.mark.parametrize(
    ("skipped", "pattern", "fault", "kind", "message"),
    [
        ("made", "GET /cdn/", {"corrupt": True}, ValueError, "arrived damaged"),
        ("made", "POST .*/commit/", {"status": 403}, PermissionError, "is not allowed"),
        ("made", "POST .*/tag/", {"status": 500}, ConnectionError, "tagging model alice/chest-xray-masks-check-"),
        SLOW("data_only", "POST /api/datasets/.*/commit/", {"status": 403}, PermissionError, "is not allowed"),
        SLOW("data_only", "POST /api/datasets/.*/tag/", {"status": 500}, ConnectionError, "tagging dataset alice/"),
        SLOW("data_only", "GET /cdn/", {"status": 403}, PermissionError, "^loading dataset alice/.* is not allowed"),
        ("data_only", "GET /cdn/", {"corrupt": True}, ValueError, "^the Hub is not as expected: "),
    ],
)
def test_fault_is_named_and_the_repository_deleted(
    hub: LoopbackHub, as_user: AsUser, request, skipped: str, pattern: str, fault: dict, kind: type, message: str
) -> None:
    request.getfixturevalue(skipped)
    hub.fail(pattern, times=None, **fault)
    with as_user(xet=False), pytest.raises(kind, match=message):
        check_hub()
    assert hub.repos == {}
    assert any(one.method == "DELETE" and one.status == 200 for one in hub.requests)


def test_public_repository_is_a_fault(
    hub: LoopbackHub, as_user: AsUser, made: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "push_model", partial(push_model, private=False))
    with as_user(xet=False), pytest.raises(ValueError, match="^the Hub is not as expected: everyone sees http"):
        check_hub()
    assert hub.repos == {}


@pytest.mark.slow
def test_public_set_and_other_rows_are_faults(
    hub: LoopbackHub, as_user: AsUser, data_only: None, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changed, said in (
        ({"public": True, "i_accept_the_terms": True}, "everyone sees http"),
        ({"data_dir": phantoms}, "other rows of MC, "),
    ):
        monkeypatch.setattr(check, "export", lambda config, changed=changed: export(replace(config, **changed)))
        with as_user(xet=False), pytest.raises(ValueError, match=f"^the Hub is not as expected: {said}"):
            check_hub()
        assert hub.repos == {}
