"""Model folders that are damaged or would have code loaded: each loader says so in a sentence that names the file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hub_runs import edit
from safetensors.torch import load_file, save_file

from hub_models.app.page import Page
from hub_models.app.static_page import ExportedModel
from hub_models.evaluation.evaluate import evaluate_run
from hub_models.hub.run_files import release
from hub_models.models.architectures import build
from hub_models.models.image_processors import image_processor_for
from hub_models.models.onnx_model import OnnxModel
from hub_models.models.out_of_distribution import OUT_OF_DISTRIBUTION_NAME, OutOfDistribution
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.export import export_model
from hub_models.predict.job import read_all
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs.config import TrainConfig
from hub_models.runs.run_folder import RunFolder

LABELS = TASKS["tb_classification"].labels
START = {"config.json", "preprocessor_config.json", "model.safetensors"}
READ = {*START, "train_config.json", "data.json"}
# by loader: the files that it reads, and itself
LOADERS: dict[str, tuple[set[str], Callable[[Path, Path, Path], object]]] = {
    "from_run": (START, lambda run, data, out: TrainedModel.from_run(run)),
    "reader": (READ, lambda run, data, out: ChestXrayReader(classifier=run)),
    "predict": (READ, lambda run, data, out: read_all(str(data), out, classifier=run)),
    "page": (READ, lambda run, data, out: Page.of(None, run)),
    "evaluate": (READ - {"data.json"}, lambda run, data, out: evaluate_run(run, data, output=out)),
    "export": (READ - {"data.json"}, lambda run, data, out: export_model(run, out)),
    "push": ({*READ, "results.json"}, lambda run, data, out: release(RunFolder.read(run), "alice/tb", "mit")),
    "train": (START, lambda run, data, out: start(run)),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "deep": lambda data: b"[" * 100_000 + b"]" * 100_000,
    "deep object": lambda data: data.rstrip()[:-1] + b', "more": ' + b"[" * 200 + b"]" * 200 + b"}",
    "list": lambda data: b"[" + data + b"]",
    "null": lambda data: b"null",
    "no text": lambda data: data.replace(b"{", b"{\xff", 1),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "digits": lambda data: data.rstrip()[:-1] + b', "more": ' + b"9" * 5000 + b"}",
    "large": lambda data: data.rstrip()[:-1] + b', "more": ' + b"9" * 400 + b"}",
    "NaN": lambda data: data.rstrip()[:-1] + b', "more": NaN}',
    "infinite": lambda data: data.rstrip()[:-1] + b', "more": [1e999]}',
    "half a character": lambda data: data.rstrip()[:-1] + b', "more": "\\ud800"}',
    "code": lambda data: data.rstrip()[:-1] + b', "more": [{"auto_map": {"AutoModel": "x.Y"}}]}',
}
JSON_FILES = ("config.json", "preprocessor_config.json", "train_config.json", "data.json", "results.json")


def start(run: Path) -> None:
    """Take a folder as `cxm train --model` does."""
    build("classification", str(run), False, LABELS, 32)
    image_processor_for("classification", str(run), False, 32)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run of a TB model that a test can damage."""
    return Path(shutil.copytree(finished_run, tmp_path / "tb"))


def refuse(run: Path, name: str, phantoms: Path, loaders: tuple[str, ...] = tuple(LOADERS)) -> set[str]:
    """Let every loader that reads a file refuse it; what they say."""
    said = set()
    for key in loaders:
        files, load = LOADERS[key]
        if name in files:
            with pytest.raises((ValueError, OSError)) as error:
                load(run, phantoms, run.parent / "out")
            said.add(str(error.value))
            assert name in str(error.value) and str(run) in str(error.value) and "\n" not in str(error.value), key
            assert len(str(error.value)) < 500
    assert said
    return said


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", JSON_FILES)
def test_json_that_is_none(run: Path, phantoms: Path, name: str, damage: str) -> None:
    (run / name).write_bytes(DAMAGES[damage]((run / name).read_bytes()))
    refuse(run, name, phantoms)


BIG = 10**6
CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "image size": ("config.json", lambda v: v["chest_xray_masks"].update(image_size=BIG)),
    "views": ("config.json", lambda v: v["chest_xray_masks"].update(views=[1])),
    "task": ("config.json", lambda v: v["chest_xray_masks"].update(task="x")),
    "temperature": ("config.json", lambda v: v["chest_xray_masks"].update(temperature="hot")),
    "settings": ("config.json", lambda v: v.update(chest_xray_masks=[1])),
    "std of 0": ("preprocessor_config.json", lambda v: v.update(image_std=[0, 0.2, 0.2])),
    "mean of text": ("preprocessor_config.json", lambda v: v.update(image_mean="abc")),
    "mean of lists": ("preprocessor_config.json", lambda v: v.update(image_mean=[[1], [1], [1]])),
    "size": ("preprocessor_config.json", lambda v: v.update(size={"height": BIG, "width": BIG})),
    "size of a list": ("preprocessor_config.json", lambda v: v.update(size=[32, 32])),
    "resample": ("preprocessor_config.json", lambda v: v.update(resample=[2])),
    "step of a list": ("preprocessor_config.json", lambda v: v.update(do_resize=[True])),
    "factor": ("preprocessor_config.json", lambda v: v.update(rescale_factor=1)),
    "epochs": ("train_config.json", lambda v: v.update(epochs="many")),
    "model": ("train_config.json", lambda v: v.update(model=[1])),
    "trained size": ("train_config.json", lambda v: v.update(image_size=32 * BIG)),
    "version": ("train_config.json", lambda v: v.pop("data_dir")),
    "ids": ("data.json", lambda v: v.update(train={"a": 1})),
    "id": ("data.json", lambda v: v.update(test=[1])),
    "no ids": ("data.json", lambda v: v.pop("earlier")),
    "no metrics": ("results.json", lambda v: v.pop("metrics")),
    "empty metrics": ("results.json", lambda v: v.update(metrics={})),
    "a metric": ("results.json", lambda v: v["metrics"]["all"].update(auroc=[1])),
    "another metric": ("results.json", lambda v: v.update(main_metric="x")),
    "fewer metrics": ("results.json", lambda v: v["metrics"]["site: Shenzhen"].pop("auroc")),
    "worst": ("results.json", lambda v: v.update(worst=[1])),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_values_that_cannot_be(run: Path, phantoms: Path, change: str) -> None:
    name, edited = CHANGES[change]
    edit(run / name, edited)
    own = {"train"} if "chest_xray_masks" in (run / name).read_text() or name == "preprocessor_config.json" else set()
    refuse(run, name, phantoms, tuple(LOADERS.keys() - own))


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_sizes": [BIG, BIG]}, {"hidden_sizes": [2**17, 2**17]}, {"depths": [BIG] * 2},
        pytest.param({"depths": [2**17] * 2}, marks=pytest.mark.slow),
        {"embedding_size": BIG}, {"embedding_size": -1}, {"embedding_size": "x"}, {"hidden_sizes": 8},
        {"num_channels": 0}, {"num_channels": 4}, {"hidden_act": "x"}, {"layer_type": ["basic"]},
        {"model_type": "vit"}, {"model_type": "bert"}, {"model_type": "x"}, {"model_type": [1]}, {"id2label": [1]},
        {"to_dict": 1}, {"model_type": "timm_wrapper", "architecture": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_config_of_no_model(run: Path, phantoms: Path, values: dict[str, Any]) -> None:
    edit(run / "config.json", lambda config: config.update(values))
    for key in ("from_run", "push", "train"):
        with pytest.raises((ValueError, OSError)) as error:
            LOADERS[key][1](run, phantoms, run.parent / "out")
        said = str(error.value)
        assert str(run) in said and "\n" not in said and ("config.json" in said or "model_type" in values), said


@pytest.mark.parametrize("name", ["processor_config.json", "adapter_config.json", "modeling.py", "pytorch_model.bin"])
def test_files_that_transformers_would_load(run: Path, phantoms: Path, name: str) -> None:
    (run / name).write_text('{"base_model_name_or_path": "x/y", "image_std": [0, 0, 0]}')
    is_refused = {"from_run", "reader", "predict", "page", "evaluate", "export", "push"}
    for key in is_refused | ({"train"} if name in ("adapter_config.json", "modeling.py") else set()):
        with pytest.raises(ValueError, match=f"{name} "):
            LOADERS[key][1](run, phantoms, run.parent / "out")


def zeroed(pattern: str) -> Callable[[Path], None]:
    """What sets the tensors whose name ends so to 0."""

    def change(path: Path) -> None:
        weights = load_file(path)
        assert any(name.endswith(pattern) for name in weights)
        changed = {name: torch.zeros_like(one) if name.endswith(pattern) else one for name, one in weights.items()}
        save_file(changed, path, {"format": "pt"})

    return change


WEIGHTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "huge header": lambda path: path.write_bytes(b"\xff" * 7 + b"\x00" + path.read_bytes()[8:]),
    "header of another size": lambda path: path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:]),
    "pickle": lambda path: torch.save({"a": torch.zeros(1)}, path),
    "no tensors": lambda path: save_file({}, path),
    "all 0": zeroed(""),
    "a kernel of 0": zeroed("convolution.weight"),
    "scales of 0": zeroed("normalization.weight"),
    "variance of 0": zeroed("running_var"),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", WEIGHTS)
def test_weights_that_are_none(run: Path, phantoms: Path, damage: str) -> None:
    WEIGHTS[damage](run / "model.safetensors")
    refuse(run, "model.safetensors", phantoms)


def test_head_of_0_is_refused_but_to_train_from(run: Path, phantoms: Path) -> None:
    zeroed("classifier.1.weight")(run / "model.safetensors")
    said = refuse(run, "model.safetensors", phantoms, ("from_run", "push"))
    assert all("all 0 (classifier.1.weight)" in one for one in said)
    start(run)


def test_pickles_of_a_folder_are_no_weights(run: Path) -> None:
    (run / "model.safetensors").rename(run / "pytorch_model.bin")
    with pytest.raises(OSError, match=f"no weights in {run}"):
        start(run)


@pytest.fixture(scope="module")
def lungs(make_run, tiny_segformer, tmp_path_factory) -> Path:
    """A run of a lung model with its out-of-distribution score."""
    folder = str(tmp_path_factory.mktemp("lungs"))
    run = make_run(TrainConfig("data", folder, model=str(tiny_segformer), image_size=64))
    OutOfDistribution(np.zeros(56), np.eye(56), 0.5, 30).save(run)
    return run


@pytest.fixture(scope="module")
def exported(lungs: Path) -> Path:
    """The lung model as an exported folder."""
    return export_model(lungs)


BACKENDS = pytest.mark.parametrize(
    ("source", "load"),
    [("lungs", TrainedModel.from_run), pytest.param("exported", OnnxModel, marks=pytest.mark.slow)],
)


@BACKENDS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", np.full(56, np.nan)), ("mean", np.zeros(7)), ("mean", np.zeros((56, 1))), ("limit", np.array(np.nan)),
        ("limit", np.array(0.0)), ("limit", np.zeros(2)), ("precision", np.zeros((56, 56))), ("precision", np.eye(7)),
        ("precision", np.full((56, 56), np.inf)), ("count", np.array(np.nan)),
    ],
)  # fmt: skip
def test_out_of_distribution_score_that_is_none(request, tmp_path, source, load, name, value) -> None:
    path = Path(shutil.copytree(request.getfixturevalue(source), tmp_path / "copy")) / OUT_OF_DISTRIBUTION_NAME
    safetensors.numpy.save_file(safetensors.numpy.load_file(path) | {name: value}, path)
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        load(path.parent)


@BACKENDS
def test_score_of_another_model(request, tmp_path, source, load) -> None:
    other = Path(shutil.copytree(request.getfixturevalue(source), tmp_path / "copy"))
    OutOfDistribution(np.zeros(7), np.eye(7), 0.5, 30).save(other)
    with pytest.raises(ValueError, match=f"{other} .*{OUT_OF_DISTRIBUTION_NAME}.*7 features"):
        load(other)


ONNX_LOADERS: tuple[Callable[[Path, Path], object], ...] = (
    lambda folder, tmp: ChestXrayReader(folder),
    lambda folder, tmp: OnnxModel(folder),
    lambda folder, tmp: ExportedModel.of(folder, "lung_segmentation", tmp / "scratch", None),
)
PREPROCESSING: dict[str, dict[str, Any]] = {
    "size": {"image_size": BIG}, "std": {"image_std": [0, 0, 0]}, "mean": {"image_mean": [1]}, "views": {"views": "x"},
    "task": {"task": "x"}, "resample": {"resample": "x"}, "resamples": {"resample": [1]}, "format": {"format": [1]},
    "digest": {"digest": None}, "two lungs": {"two_lungs": "no"}, "graph": {"graph": "0" * 64},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*DAMAGES, *PREPROCESSING])
def test_preprocessing_of_an_export(exported: Path, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "onnx"))
    path = folder / "preprocessing.json"
    if damage in DAMAGES:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    else:
        edit(path, lambda values: values.update(PREPROCESSING[damage]))
    for load in ONNX_LOADERS if damage != "size" else ONNX_LOADERS[:2]:
        with pytest.raises(ValueError) as error:
            load(folder, tmp_path)
        assert str(folder) in str(error.value) and path.name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-9], lambda data: data[:-9] + bytes(9)])
def test_graph_of_an_export(exported: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "onnx"))
    (folder / "model.onnx").write_bytes(damage((folder / "model.onnx").read_bytes()))
    for load in ONNX_LOADERS:
        with pytest.raises(ValueError, match=f"{folder / 'model.onnx'}"):
            load(folder, tmp_path)


def test_run_that_is_whole_is_taken(run: Path, phantoms: Path, tmp_path: Path) -> None:
    for key in LOADERS.keys() - {"evaluate", "export", "predict"}:
        LOADERS[key][1](run, phantoms, tmp_path / "out")


@pytest.mark.slow
def test_export_that_is_whole_is_taken(exported: Path, tmp_path: Path) -> None:
    for load in ONNX_LOADERS:
        load(exported, tmp_path)
