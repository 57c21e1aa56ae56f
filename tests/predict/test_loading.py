"""Exported models in the reader and in a job, and both without torch."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from installs import OUTSIDE, build_wheel, fresh_python
from launch import ROOT
from PIL import Image

from hub_models.imaging.flags import Flag
from hub_models.metrics import count_overlap, dice
from hub_models.models.trained_model import TrainedModel
from hub_models.predict import loading
from hub_models.predict.export import LARGEST_DIFFERENCE, LEAST_DICE, export_model
from hub_models.predict.job import read_all
from hub_models.predict.loading import find_model
from hub_models.predict.processes import OneProcess, processes_for
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs.config import TrainConfig
from hub_models.runs.run_folder import RunFolder

ABSENT = ("torch", "transformers", "accelerate", "monai", "sklearn", "matplotlib", "rich", "evaluate", "jinja2")
NO_TORCH = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); "


@pytest.fixture(scope="module")
def runs(make_run, tiny_segformer, tiny_resnet, tmp_path_factory) -> list[Path]:
    """A lung model, and a TB model that sees its lungs; both exported into their folders."""
    folders = [str(tmp_path_factory.mktemp(name)) for name in ("lungs", "tb")]
    lungs = make_run(TrainConfig("data", folders[0], model=str(tiny_segformer), image_size=64))
    options = {"region": "lungs", "model": str(tiny_resnet), "image_size": 64}
    config = TrainConfig("data", folders[1], "tb_classification", **options)
    tb = make_run(config, segmenter=RunFolder.read(lungs).digest)
    for run in (lungs, tb):
        assert export_model(run) == run / "onnx"
    return [lungs, tb]


def assert_equal(xrays: list[Path], ours: ChestXrayReader, theirs: ChestXrayReader) -> None:
    for one, other in zip(ours.read(xrays), theirs.read(xrays), strict=True):
        assert dice(count_overlap(one.mask, other.mask)) >= LEAST_DICE
        assert one.probability == pytest.approx(other.probability, abs=LARGEST_DIFFERENCE)
        assert (one.threshold, one.flag_codes) == (other.threshold, other.flag_codes)


def test_reader_gives_the_same_with_either_backend(runs, phantoms) -> None:
    xrays = sorted(phantoms.rglob("CXR_png/*.png"))
    torch_reader = ChestXrayReader(*runs)
    assert isinstance(torch_reader.segmenter, TrainedModel)
    assert_equal(xrays, ChestXrayReader(*runs, backend="onnx"), torch_reader)
    implied = ChestXrayReader(*(run / "onnx" for run in runs))
    assert_equal(xrays[:4], implied, torch_reader)
    assert implied.model_flags == ()


def test_other_segmenter_is_flagged_across_backends(runs, make_run, tiny_segformer, tmp_path) -> None:
    other = make_run(TrainConfig("data", str(tmp_path), model=str(tiny_segformer), image_size=64), seed=5)
    for tb in (runs[1], runs[1] / "onnx"):
        (flag,) = ChestXrayReader(other, tb).model_flags
        assert flag.code == Flag.OTHER_SEGMENTER


def test_backend_is_chosen_by_the_folder(runs, tmp_path, monkeypatch) -> None:
    run = runs[0]
    assert find_model(run) == find_model(run, backend="torch") and find_model(run).precision is None
    assert find_model(run, backend="onnx").path == run / "onnx"
    assert find_model(run / "onnx").identity == f"{RunFolder.read(run).digest} onnx fp32"
    with pytest.raises(ValueError, match="leave the backend out"):
        find_model(run / "onnx", backend="torch")
    with pytest.raises(ValueError, match="jax"):
        find_model(run, backend="jax")
    bare = Path(shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("onnx")))
    with pytest.raises(ValueError, match=f"cxm export --model {bare} --format onnx"):
        find_model(bare, backend="onnx")
    monkeypatch.setattr(loading, "DEFAULT_BACKEND", "onnx")
    assert find_model(run).precision == "fp32" and find_model(bare).precision is None
    other = Path(shutil.copytree(run, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text()) | {"more": 1}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="exported from other weights"):
        find_model(other)


def test_one_process_joins_exported_models_only(runs, monkeypatch) -> None:
    assert isinstance(processes_for(runs[0] / "onnx", None), OneProcess)
    assert isinstance(processes_for(*runs, backend="onnx"), OneProcess)
    assert not isinstance(processes_for(runs[0] / "onnx", runs[1]), OneProcess)


def test_job_with_exported_models_needs_no_torch(runs, phantoms, tmp_path) -> None:
    xrays, lungs, tb = next(phantoms.rglob("CXR_png")), *(str(run / "onnx") for run in runs)
    line = ["predict", "--data", str(xrays), "--output", str(tmp_path / "out"), "--segmenter", lungs]
    code = f"{NO_TORCH}from hub_models.cli import main; main({[*line, '--classifier', tb, '--overlays']})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = read_all(str(xrays), tmp_path / "torch", *runs)
    rows, theirs = (pyarrow.parquet.read_table(one / "predictions.parquet") for one in (tmp_path / "out", expected))
    assert rows["source"] == theirs["source"] and rows["flags"] == theirs["flags"]
    np.testing.assert_allclose(rows["probability"], theirs["probability"], atol=LARGEST_DIFFERENCE)
    for name in rows["mask"].to_pylist():
        masks = [np.asarray(Image.open(one / name)) for one in (tmp_path / "out", expected)]
        assert dice(count_overlap(*masks)) >= LEAST_DICE


def test_what_needs_torch_is_said_before_work(runs, phantoms, tmp_path) -> None:
    with pytest.raises(ValueError, match="no saliency of an exported model"):
        read_all(str(phantoms), tmp_path / "out", runs[0] / "onnx", runs[1] / "onnx", saliency=True)
    assert not (tmp_path / "out").exists()
    bare = shutil.copytree(runs[0], tmp_path / "bare", ignore=shutil.ignore_patterns("onnx"))
    code = f"{NO_TORCH}from hub_models import ChestXrayReader; ChestXrayReader({str(bare)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = done.stderr.splitlines()[-1]
    assert said.startswith("ImportError") and said.endswith("pip install 'chest-xray-masks[models]'")


@pytest.mark.slow
def test_masks_of_real_x_rays_are_those_of_the_run(real_data_dir, runs) -> None:
    from hub_models.dataset.sources import load_splits

    test = load_splits(str(real_data_dir))["test"]
    images = [row["image"] for row in test]
    assert len(images) > 20
    assert_equal(images, ChestXrayReader(*runs, backend="onnx"), ChestXrayReader(*runs))


@pytest.mark.slow
def test_fresh_install_of_read_reads_without_torch(runs, phantoms, tmp_path) -> None:
    """A wheel of this tree with [read] in an environment of its own; needs a package registry."""
    python = fresh_python(tmp_path / "venv", f"{build_wheel(tmp_path)}[read]")
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    megabytes = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
    print(f"installed: {megabytes:.0f} MB")
    assert megabytes < 700 and not (site / "torch").exists() and not (site / "transformers").exists()
    line = [python.with_name("cxm"), "predict", "--data", next(phantoms.rglob("CXR_png"))]
    line += ["--segmenter", runs[0] / "onnx", "--classifier", runs[1] / "onnx"]
    line += ["--overlays", "--output", tmp_path / "out"]
    done = subprocess.run(line, cwd=tmp_path, env=os.environ | OUTSIDE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "predictions.parquet")
    assert len(rows) == 60 and rows["error"].null_count == 60 and rows["probability"].null_count == 0
    line = [*line[:4], "--output", tmp_path / "bundled"]
    done = subprocess.run(line, cwd=tmp_path, env=os.environ | OUTSIDE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pyarrow.parquet.read_table(tmp_path / "bundled" / "predictions.parquet")["probability"].null_count == 0


def test_export_in_a_run_is_read_where_torch_is_not_installed(runs, monkeypatch) -> None:
    assert find_model("bundled:tb").precision is None
    monkeypatch.setattr(loading, "has_torch", lambda: False)
    assert find_model("bundled:tb").precision == "fp32" and find_model(runs[0]).path == runs[0] / "onnx"
