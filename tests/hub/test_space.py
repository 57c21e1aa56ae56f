"""The page as a Space: packed, pushed to a Hub, taken from there and run as it is there, in a process of its own."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import SpaceCard
from installs import TORCH, fresh_python
from loopback_hub import LoopbackHub
from playwright.sync_api import expect

from hub_models.hub import space
from hub_models.hub.space import pack_space, push, push_space, requirements
from hub_models.hub_client.bundled import BUNDLED, BUNDLED_LICENSE, WEIGHTS
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs.config import TrainConfig


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folder_is_a_space_of_gradio(tmp_path: Path) -> None:
    folder = pack_space(tmp_path / "new" / "space", "alice/lungs", "alice/tb", title="Lungs", license="mit")
    text = (folder / "README.md").read_text()
    data = SpaceCard(text).data
    assert text.startswith("---\n") and (data.title, data.license, data.sdk) == ("Lungs", "mit", "gradio")
    assert data.sdk_version == version("gradio") and data.app_file == "app.py"
    assert data.python_version == f"{sys.version_info.major}.{sys.version_info.minor}"  # a string: 3.10 is no 3.1
    assert data.models == ["alice/lungs", "alice/tb"] and len(data.to_dict()["short_description"]) <= 60
    assert "not a medical device" in text and "HF_TOKEN" in text
    code = {path.relative_to(folder) for path in folder.rglob("*.py")}
    shipped = {path.relative_to(space.ROOT) for path in (space.ROOT / "hub_models").rglob("*.py")}
    assert code == shipped | {Path("app.py"), Path("chest_xray_masks.py")}
    assert (folder / "hub_models" / "app" / "reading.html").is_file() and not list(folder.rglob("__pycache__"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["space"]  # and nothing aside


def test_versions_are_those_installed() -> None:
    pinned = dict(re.fullmatch(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", line).groups() for line in requirements())
    assert {"torch", "transformers", "gradio", "pydicom", "pillow"} <= set(pinned)
    assert not {"pytest", "playwright", "tensorboard"} & set(pinned)
    assert all(version(name).split("+")[0] == value for name, value in pinned.items())
    assert "fsspec[http]" in {line.split("==")[0] for line in requirements()}


def test_hardware_is_named_and_a_gpu_is_borrowed_only_on_zero_gpu(
    hub: LoopbackHub, as_user: Callable, tmp_path
) -> None:
    plain, lent = (pack_space(tmp_path / one, "alice/lungs", hardware=one) for one in space.HARDWARE)
    for folder, name in ((plain, "cpu-basic"), (lent, "zero-a10g")):
        assert SpaceCard.load(folder / "README.md").data.suggested_hardware == name
        compile((folder / "app.py").read_text(), "app.py", "exec")
    assert "spaces" not in (plain / "app.py").read_text()
    lines = [line for line in (lent / "app.py").read_text().splitlines() if re.search(r"import|serve\(", line)]
    assert lines[0] == "import spaces" and "port=None, wrap=spaces.GPU)" in lines[-1]
    with pytest.raises(ValueError, match="cpu-basic, zero-a10g, got 'h200'"):
        pack_space(tmp_path / "other", "alice/lungs", hardware="h200")
    with as_user("alice"):
        push(None, "reader", True, None, segmenter="alice/lungs", hardware="zero-a10g")
        assert hub.repo("alice/reader", "space").hardware == "zero-a10g"
        assert b"wrap=spaces.GPU" in hub.repo("alice/reader", "space").files()["app.py"]
    for options in ({"run": tmp_path, "space": False}, {"run": None, "space": True, "metric": "screening"}):
        with pytest.raises(ValueError, match="--hardware zero-a10g is only for the page"):
            push(repo_id="alice/reader", classifier=None, hardware="zero-a10g", **options)


def test_one_model_is_enough(tmp_path: Path) -> None:
    folder = pack_space(tmp_path / "space", segmenter="alice/lungs")
    assert "serve('alice/lungs', None, host=None, port=None)" in (folder / "app.py").read_text()
    assert SpaceCard.load(folder / "README.md").data.models == ["alice/lungs"]


def test_without_a_model_the_bundled_ones_go_with_it(tmp_path: Path) -> None:
    folder = pack_space(tmp_path / "space")
    assert "serve(None, None, host=None, port=None)" in (folder / "app.py").read_text()
    card, weights = SpaceCard.load(folder / "README.md"), folder / "hub_models" / "weights"
    assert card.data.license == BUNDLED_LICENSE and card.data.models is None
    assert all(f"[{name}](hub_models/weights/{run.name}/README.md)" in card.text for name, run in BUNDLED.items())
    assert files_of(weights) == files_of(WEIGHTS)
    named = pack_space(tmp_path / "named", "alice/lungs")
    assert not (named / "hub_models" / "weights").exists()
    assert SpaceCard.load(named / "README.md").data.license == "apache-2.0"


def test_what_is_no_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "lungs").mkdir(parents=True)
    (tmp_path / "runs" / "lungs" / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    for models, said in (
        (("runs/lungs",), "takes its models from the Hub, got runs/lungs: push it"),
        (("lungs",), "takes its models from the Hub, got lungs"),
        (("alice/lungs'); print('x",), "Repo id must"),
    ):
        with pytest.raises(ValueError, match=said):
            pack_space(tmp_path / "space", *models)
    with pytest.raises(FileExistsError, match="runs holds lungs/config.json, .*: pass a new"):
        pack_space(tmp_path / "runs", "alice/lungs")
    with pytest.raises(FileNotFoundError, match="pack the Space first"):
        push_space(tmp_path / "runs", "alice/page")
    monkeypatch.setattr(space, "ROOT", tmp_path / "site-packages")
    with pytest.raises(FileNotFoundError, match="pack a Space from a clone of the project"):
        requirements()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_folder_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise OSError("disk full")

    monkeypatch.setattr(space, "requirements", fail)
    with pytest.raises(OSError, match="disk full"):
        pack_space(tmp_path / "space", "alice/lungs")
    assert not list(tmp_path.iterdir())


def test_push_is_one_commit_and_no_other_space_is_lost(hub: LoopbackHub, as_user: Callable, tmp_path: Path) -> None:
    folder = pack_space(tmp_path / "space", "alice/lungs")
    with as_user("alice"):
        url = push_space(folder, "page")
        assert url.endswith("/spaces/alice/page")
        info = huggingface_hub.HfApi().repo_info("alice/page", repo_type="space")
        assert info.private
        assert {file.rfilename for file in info.siblings} - {".gitattributes"} == set(files_of(folder))
        push_space(folder, "alice/page")  # nothing new
        assert huggingface_hub.HfApi().repo_info("alice/page", repo_type="space").sha == info.sha
        with pytest.raises(ValueError, match="private: change it on its settings page"):
            push_space(folder, "alice/page", private=False)
        hub.create("alice/game", {"game.py": b"x"}, "space", private=True)
        with pytest.raises(ValueError, match="holds game.py and not this page"):
            push_space(folder, "alice/game")
    with as_user(None), pytest.raises(PermissionError):
        push_space(folder, "alice/page")


@pytest.mark.slow
@pytest.mark.parametrize("environment_of", ["the tests", "the Space"])
def test_space_from_the_hub_reads_with_models_from_the_hub(
    environment_of: str, hub, as_user, browser, make_run, tiny_segformer, tiny_resnet, phantoms, tmp_path
) -> None:
    lungs = make_run(TrainConfig("data", str(tmp_path / "lungs"), model=str(tiny_segformer), image_size=64))
    options = {"model": str(tiny_resnet), "image_size": 64, "region": "lungs"}
    tb = make_run(TrainConfig("data", str(tmp_path / "tb"), "tb_classification", **options))
    with as_user("alice"):
        for name, folder, private in (("lungs", lungs, True), ("tb", tb, False)):
            huggingface_hub.create_repo(f"alice/{name}", private=private)
            huggingface_hub.upload_folder(repo_id=f"alice/{name}", folder_path=folder)
        push_space(pack_space(tmp_path / "packed", "alice/lungs", "alice/tb"), "alice/page")
        pulled = huggingface_hub.snapshot_download("alice/page", repo_type="space")
    there = Path(shutil.copytree(pulled, tmp_path / "there"))
    environment = hub.environment(hub.add_user("alice"), tmp_path / "home")
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.devnull}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    python = sys.executable
    if environment_of == "the Space":
        needed = (there / "requirements.txt").read_text().splitlines()
        python = fresh_python(tmp_path / "environment", TORCH, *needed)
    with subprocess.Popen([python, "app.py"], cwd=there, env=environment, **streams) as running:
        said = []
        for line in running.stdout:
            said.append(line)
            if match := re.search(r"serving at (http://\S+?);", line):
                break
        try:
            assert match, said
            tab = browser.new_page()
            tab.goto(match[1])
            xray = next(phantoms.rglob("CXR_png/CHN*.png"))
            tab.set_input_files("#upload input[type=file]", xray)
            expect(tab.locator("#result .name")).to_contain_text(xray.name, timeout=120_000)
            (found,) = ChestXrayReader(lungs, tb).read(xray)
            shown = float(tab.get_attribute("#result .reading", "data-probability"))
            assert shown == pytest.approx(found.probability, abs=1e-6)
            assert "alice/lungs" in tab.inner_text("#limits") and "alice/tb" in tab.inner_text("#limits")
            tab.close()
        finally:
            running.terminate()


def test_one_command_packs_and_pushes(hub: LoopbackHub, as_user: Callable) -> None:
    models = {"segmenter": "alice/lungs", "classifier": "alice/tb"}
    with as_user("alice"):
        planned = push(None, "alice/reader", True, **models, dry_run=True)
        assert planned.startswith("would go to the Space alice/reader (private):\n") and "\napp.py" in planned
        assert not hub.repos
        assert push(None, "reader", True, **models) == f"pushed to {hub.endpoint}/spaces/alice/reader"
    repo = hub.repo("alice/reader", "space")
    assert repo.private and b"serve('alice/lungs', 'alice/tb'" in repo.files()["app.py"]


def test_options_of_the_other_push_are_refused(tmp_path: Path) -> None:
    for run, space_too, classifier, options, said in (
        (None, False, None, {}, "pass either --model <run folder> or --space"),
        (tmp_path, True, None, {}, "pass either --model <run folder> or --space"),
        (tmp_path, False, "alice/tb", {}, "--classifier alice/tb is only for --space"),
        (None, True, "alice/tb", {"version": "v1"}, "--version is only for the push of a model"),
        (None, True, "alice/tb", {"also": [tmp_path]}, "--also is only for the push of a model"),
    ):
        with pytest.raises(ValueError, match=said):
            push(run, "alice/reader", space_too, classifier, **options)
