"""The metrics of `evaluate` as Spaces: packed, pushed, loaded from the Hub without this project, and run there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import gradio_client
import pytest
from huggingface_hub import SpaceCard
from loopback_hub import LoopbackHub

from hub_models.hub.metric_space import pack_metric
from hub_models.hub.space import push

# as from a machine without this project: its modules cannot be imported
LOAD = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hub_models", "chest_xray_masks"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import evaluate
metric = evaluate.load(sys.argv[1])
print(metric.compute(predictions={predictions}, references={references})[{name!r}])
"""
# Dice of one pixel of two: 2 * 1 / (2 + 1). AUROC of 6 pairs, one of them lost.
OVERLAP = {"predictions": [[[1, 1], [0, 0]]], "references": [[[1, 0], [0, 0]]], "name": "dice"}
SCREENED = {"predictions": [0.9, 0.6, 0.2, 0.4, 0.1], "references": [1, 1, 1, 0, 0], "name": "auroc"}
VALUES = {"lung_overlap": (OVERLAP, 2 / 3), "screening": (SCREENED, 5 / 6)}


def test_space_is_of_gradio_and_names_what_it_needs(tmp_path: Path) -> None:
    folder = pack_metric(tmp_path / "space", "lung_overlap", "alice/overlap")
    names = {"overlap.py", "segmentation.py", "weighted.py", "app.py", "README.md", "requirements.txt"}
    assert {path.name for path in folder.iterdir()} == names
    scripts = [path.read_text() for path in folder.glob("*.py")]
    assert not any(re.search(r"^ *(from|import) hub_models", text, re.M) for text in scripts)
    card = SpaceCard.load(folder / "README.md")
    assert card.data.sdk == "gradio" and {"evaluate", "metric"} <= set(card.data.tags)
    assert 'evaluate.load("alice/overlap")' in card.text
    pinned = (folder / "requirements.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in pinned] == ["datasets", "evaluate", "numpy"]
    with pytest.raises(FileExistsError, match="space holds"):
        pack_metric(folder, "screening", "alice/screening")


@pytest.mark.slow
@pytest.mark.parametrize("metric", VALUES)
def test_evaluate_loads_it_from_the_hub_where_this_project_is_not(
    hub: LoopbackHub, as_user, metric: str, tmp_path: Path
) -> None:
    data, expected = VALUES[metric]
    with as_user():
        assert push(None, metric, True, None, metric=metric).startswith(f"pushed to {hub.endpoint}/spaces/alice/")
        push(None, f"alice/{metric}", True, None, metric=metric)
    assert len(hub.repo(f"alice/{metric}", "space").commits) == 2
    line = [sys.executable, "-c", LOAD.format(**data), f"alice/{metric}"]
    environment = hub.environment(hub.add_user("alice"), tmp_path / "home")
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("metric", VALUES)
def test_form_computes_over_http(metric: str, tmp_path: Path) -> None:
    data, expected = VALUES[metric]
    folder = pack_metric(tmp_path / "space", metric, f"alice/{metric}")
    environment = os.environ | {"GRADIO_SERVER_NAME": "127.0.0.1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.devnull}
    environment |= {"HF_HOME": str(tmp_path / "home"), "GRADIO_ANALYTICS_ENABLED": "False"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, **streams) as running:
        said = []
        for line in running.stdout:
            said.append(line)
            if match := re.search(r"(http://127\S+)", line):
                break
        try:
            assert match, said
            client = gradio_client.Client(match[1], verbose=False)
            found = client.predict(str(data["predictions"]), str(data["references"]), api_name="/compute")
            assert found[data["name"]] == pytest.approx(expected)
            with pytest.raises(gradio_client.exceptions.AppError, match="for 1 references|must both be|no image"):
                client.predict("[]", "[1]", api_name="/compute")
        finally:
            running.terminate()


def test_what_is_no_metric_is_refused(hub: LoopbackHub, as_user, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no module 'dice'"):
        pack_metric(tmp_path / "space", "dice", "alice/dice")
    for options, said in (
        ({"space": False, "run": tmp_path}, "--metric screening is only for --space"),
        ({"segmenter": "alice/lungs"}, "--segmenter is not for a metric"),
        ({"license": "mit"}, "--license is not for a metric"),
        ({"replace": True}, "--replace is only for the push of a model"),
    ):
        given = {"run": None, "space": True, "classifier": None} | options
        with pytest.raises(ValueError, match=said):
            push(repo_id="alice/screening", metric="screening", **given)
    hub.create("alice/screening", {"game.py": b"x"}, "space", private=True)
    with as_user(), pytest.raises(ValueError, match="holds game.py and not this metric"):
        push(None, "alice/screening", True, None, metric="screening")
    assert not list(tmp_path.iterdir())
