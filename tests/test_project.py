"""The project's own files: what the tools of a repository read, and what a wheel holds."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from installs import build_wheel, tracked
from launch import ROOT
from packaging.requirements import Requirement

import chest_xray_masks as cxm

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()


def read_yaml(path: Path | str) -> dict:
    return yaml.safe_load((ROOT / path).read_text())


def test_citation_is_of_this_version_and_the_papers() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["version"] == cxm.__version__
    cited = {one["doi"] if "doi" in one else one["url"].rpartition("/")[2] for one in citation["references"]}
    assert cited == set(re.findall(r"(?:doi|arXiv) (\S+?),?$", cxm.CITATION, re.M)) and len(cited) == 4


@pytest.mark.parametrize("path", FORMS, ids=[path.stem for path in FORMS])
def test_issue_form_has_what_github_needs(path: Path) -> None:
    form = read_yaml(path)
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids) > 0 and all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_workflow_and_ci_run_the_same_targets() -> None:
    job = read_yaml(".github/workflows/checks.yml")["jobs"]["make"]
    targets = job["strategy"]["matrix"]["target"]
    assert job["steps"][-1]["run"] == "make ${{ matrix.target }}"
    same = {"test" if one == "coverage" else one for one in targets}  # `make coverage` is `make test`, half as fast
    made = re.findall(r"^make (?:--jobs 2 )?([\w -]+)", (ROOT / ".ci" / "run").read_text(), re.M)
    assert same == set(" ".join(made).split())
    assert set(targets) <= set(re.search(r"^\.PHONY: (.*)", MAKEFILE, re.M)[1].split())


def test_every_dependency_and_tool_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    wanted += [line for tool in ("mypy", "pytest-cov") for line in requires(tool) if ";" not in line]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    some = [[re.match(r"[\w-]+", one)[0].lower().replace("_", "-") for one in each] for each in (lines, wanted)]
    assert set(some[1]) <= {*some[0], project["name"]} and len(set(some[0])) == len(some[0])


@pytest.mark.parametrize(
    ("name", "blocked"),
    [("x/MCUCXR_0001_0.png", True), ("CHNCXR_0327_1_mask.png", True), ("tests/test_app.py", False)],
)
def test_pre_commit_refuses_files_of_the_set(name: str, blocked: bool) -> None:
    (hook,) = (one for one in read_yaml(".pre-commit-config.yaml")["repos"][0]["hooks"] if one["language"] == "fail")
    assert bool(re.search(hook["files"], name)) == blocked
    assert not [one for one in tracked() if re.search(hook["files"], one)]


def test_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    files = {name for name in tracked() if name.startswith("hub_models/")} | {"chest_xray_masks.py"}
    wheel = build_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as opened:
        assert {name for name in opened.namelist() if ".dist-info/" not in name} == files
    assert "hub_models/py.typed" in files


# the reference implementation of PEP 723
METADATA = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def test_training_script_names_what_it_needs() -> None:
    (found,) = METADATA.finditer((ROOT / "scripts" / "train.py").read_text())
    assert found["type"] == "script"
    lines = found["content"].splitlines(keepends=True)
    script = tomllib.loads("".join(line[2:] if line.startswith("# ") else line[1:] for line in lines))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    package, torch = map(Requirement, script["dependencies"])
    assert script["requires-python"] == project["requires-python"]
    assert (package.name, package.url) == (project["name"], f"git+{project['urls']['Repository']}")
    assert {"models"} <= package.extras <= set(project["optional-dependencies"])
    assert str(torch) in project["optional-dependencies"]["models"]


@pytest.mark.slow
def test_training_script_runs_alone_beside_an_installed_package(tmp_path: Path, phantoms: Path) -> None:
    wheel = build_wheel(tmp_path)
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    shutil.copy(ROOT / "scripts" / "train.py", tmp_path / "train.py")
    words = ["--data", str(phantoms), "--output", "run", "--model", "segformer-light", "--from_scratch"]
    words += ["--image_size", "32", "--epochs", "1", "--tracker", "none"]
    # before what the environment holds, which may be the clone
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "PYTHONVERBOSE": "1"}
    done = subprocess.run(
        [sys.executable, "train.py", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "results.json").is_file()
    loaded = set(
        re.findall(r"code object from '([^']*/hub_models/[^']*)'|matches ([^\s]*/hub_models/\S*)", done.stderr)
    )
    places = {one for pair in loaded for one in pair if one}
    assert places and all(one.startswith(str(tmp_path / "site")) for one in places)
