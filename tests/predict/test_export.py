import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from hub_models.models.onnx_model import OnnxModel
from hub_models.models.out_of_distribution import OutOfDistribution
from hub_models.models.settings import Settings
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.export import LARGEST_DIFFERENCE, LEAST_DICE, export_model
from hub_models.runs.config import TrainConfig
from hub_models.runs.run_folder import RunFolder

KEYS = {
    *(
        "format",
        "name",
        "digest",
        "graph",
        "segmenter",
        "synthetic",
        "precision",
        "version",
        "task",
        "image_size",
        "fit",
    ),
    *(
        "region",
        "temperature",
        "threshold",
        "threshold_source",
        "views",
        "two_lungs",
        "resample",
        "image_mean",
        "image_std",
        "labels",
        "measured",
    ),
}


@pytest.fixture(scope="module")
def lungs_folder(make_run, tiny_segformer, tmp_path_factory) -> Path:
    """A run with an out-of-distribution score."""
    folder = make_run(
        TrainConfig("data", str(tmp_path_factory.mktemp("lungs")), model=str(tiny_segformer), image_size=64)
    )
    OutOfDistribution(np.zeros(56), np.eye(56), 0.5, 30).save(folder)  # 24 + 32 channels of the last two stages
    return folder


@pytest.fixture(scope="module")
def tb_folder(make_run, tiny_resnet, tmp_path_factory) -> Path:
    """A TB model that sees the lungs only, the aspect kept."""
    options = {"region": "lungs", "fit": "pad", "model": str(tiny_resnet), "image_size": 64}
    folder = str(tmp_path_factory.mktemp("tb"))
    return make_run(
        TrainConfig("data", folder, "tb_classification", **options), segmenter="of another run", synthetic=1
    )


@pytest.fixture(scope="module")
def exported(lungs_folder, tb_folder, tmp_path_factory) -> dict[str, Path]:
    """Exports in fp32 by task, measured on phantoms."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        TrainedModel.from_run(run).settings.task: export_model(run, folder / run.name)
        for run in (lungs_folder, tb_folder)
    }


def test_graph_and_preprocessing_are_what_other_programs_rely_on(exported, lungs_folder, tb_folder) -> None:
    for task, run, shape in (("lung_segmentation", lungs_folder, (2, 16, 16)), ("tb_classification", tb_folder, (2,))):
        folder, settings = exported[task], TrainedModel.from_run(run).settings
        assert {path.name for path in folder.iterdir()} >= {"model.onnx", "preprocessing.json"}
        values = json.loads((folder / "preprocessing.json").read_text())
        assert set(values) == KEYS and values["format"] == 1 and values["task"] == task
        assert values["digest"] == RunFolder.read(run).digest and values["name"] == run.name
        assert values["synthetic"] == (task == "tb_classification")
        for name in ("image_size", "fit", "region", "two_lungs", "views"):
            assert values[name] == getattr(settings, name)
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        (taken,) = session.get_inputs()
        assert (taken.name, taken.type, taken.shape[1:]) == ("pixel_values", "tensor(float)", [3, 64, 64])
        for count in (1, 3):
            pixels = np.random.default_rng(0).normal(size=(count, 3, 64, 64)).astype(np.float32)
            logits = session.run(["logits"], {"pixel_values": pixels})[0]
            assert logits.dtype == np.float32 and logits.shape == (count, *shape)
            with torch.no_grad():
                expected = TrainedModel.from_run(run).model(pixel_values=torch.from_numpy(pixels)).logits
            np.testing.assert_allclose(logits, expected, atol=1e-5)
    lungs, tb = (
        json.loads((exported[task] / "preprocessing.json").read_text())
        for task in ("lung_segmentation", "tb_classification")
    )
    assert lungs["labels"] == ["background", "lung"] and tb["labels"] == ["normal", "tuberculosis"]
    assert lungs["threshold"] is None and tb["threshold"] == 0.5 and tb["segmenter"] == "of another run"
    assert lungs["threshold_source"] is None and "validation split of its training" in tb["threshold_source"]


def test_measured_is_equal_in_fp32_and_said_in_other_precisions(exported, lungs_folder, tb_folder, tmp_path) -> None:
    for task, folder in exported.items():
        measured = json.loads((folder / "preprocessing.json").read_text())["measured"]
        assert (measured["xrays"], measured["source"]) == (12, "phantoms")
        if task == "lung_segmentation":
            assert measured["least_dice"] >= LEAST_DICE
        else:
            assert measured["largest_probability_difference"] <= LARGEST_DIFFERENCE
    Image.effect_noise((90, 70), 60).save(tmp_path / "xray.png")
    for precision in ("fp16", "int8"):
        folder = export_model(tb_folder, tmp_path / precision, precision, str(tmp_path / "xray.png"))
        values = json.loads((folder / "preprocessing.json").read_text())
        assert values["precision"] == precision and values["measured"]["source"] == "given"
        assert values["measured"]["xrays"] == 1 and values["measured"]["largest_probability_difference"] < 0.05
    sizes = [(path / "model.onnx").stat().st_size for path in (exported["tb_classification"], tmp_path / "fp16")]
    assert sizes[1] < sizes[0]


def test_exported_model_answers_as_the_run(exported, lungs_folder, tb_folder, phantoms) -> None:
    lungs, tb = OnnxModel(exported["lung_segmentation"]), OnnxModel(exported["tb_classification"], "tb_classification")
    assert lungs.settings == TrainedModel.from_run(lungs_folder).settings
    assert tb.settings == TrainedModel.from_run(tb_folder).settings
    for path in sorted(phantoms.rglob("CXR_png/*.png"))[::10]:
        mask = TrainedModel.from_run(lungs_folder)(path)
        np.testing.assert_array_equal(lungs(path), mask)
        assert tb(path, mask) == pytest.approx(TrainedModel.from_run(tb_folder)(path, mask), abs=1e-5)
    with pytest.raises(ValueError, match="sees the lungs only"):
        tb(path)


@pytest.mark.parametrize(("given", "threads"), [("1", 1), ("3,1", 3), ("", 0), ("all", 0)])
def test_exported_model_takes_the_threads_of_the_environment(
    exported, given: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    session = OnnxModel(exported["tb_classification"])._session
    assert session.get_session_options().intra_op_num_threads == threads


def test_features_are_those_of_the_run(exported, lungs_folder) -> None:
    pixels = [np.random.default_rng(seed).integers(0, 256, (64, 64), np.uint8) for seed in range(3)]
    ours, theirs = OnnxModel(exported["lung_segmentation"]), TrainedModel.from_run(lungs_folder)
    together = ours.forward(pixels)[0]
    np.testing.assert_array_equal(np.concatenate([ours.forward([one])[0] for one in pixels]), together)
    np.testing.assert_allclose(ours.forward(pixels, True)[1], theirs.forward(pixels, True)[1], atol=1e-4)
    assert ours.out_of_distribution.limit == 0.5
    with ours.one_thread():
        logits = ours.forward(pixels)[0]
    np.testing.assert_allclose(logits, theirs.forward(pixels)[0], atol=1e-5)


def test_what_cannot_be_exported_or_read_is_refused(exported, tb_folder, make_run, tiny_resnet, tmp_path) -> None:
    config = TrainConfig("data", str(tmp_path / "run"), "tb_classification", model=str(tiny_resnet), image_size=64)
    run = make_run(config)
    values = json.loads((run / "config.json").read_text())
    values["chest_xray_masks"]["views"] = 3
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="3 views"):
        export_model(run)
    with pytest.raises(ValueError, match="fp64"):
        export_model(tb_folder, tmp_path / "out", "fp64")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="notes.txt"):
        export_model(tb_folder, tmp_path / "full")
    with pytest.raises(ValueError, match="holds a model for tb_classification"):
        OnnxModel(exported["tb_classification"], "lung_segmentation")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for graph, text, error in (
        (None, "{}", FileNotFoundError),
        (b"", "{", ValueError),
        (b"", '{"format": 99}', ValueError),
        (b"text", (exported["tb_classification"] / "preprocessing.json").read_text(), ValueError),
    ):
        if graph is not None:
            (damaged / "model.onnx").write_bytes(graph)
        (damaged / "preprocessing.json").write_text(text)
        with pytest.raises(error, match="damaged"):
            OnnxModel(damaged)


@pytest.mark.slow
def test_exports_read_the_real_test_xrays_as_the_trained_models_do(real_data_dir, real_runs, tmp_path) -> None:
    places = {path.stem: str(path) for path in real_data_dir.rglob("CXR_png/*.png")}
    xrays = tmp_path / "test.txt"
    xrays.write_text("\n".join(places[id] for id in RunFolder.read(real_runs[1]).data["test"]))
    limits = {"fp32": (0.999, 1e-3), "fp16": (0.999, 0.01), "int8": (0.98, 0.05)}  # least Dice, largest difference
    for precision, (least_dice, largest_difference) in limits.items():
        for run in real_runs:
            folder = export_model(run, tmp_path / precision / run.name, precision, str(xrays))
            measured = json.loads((folder / "preprocessing.json").read_text())["measured"]
            print(precision, measured)
            assert measured["xrays"] == 95 and measured.get("least_dice", 1) >= least_dice
            assert measured.get("largest_probability_difference", 0) <= largest_difference


def test_settings_of_a_run_are_those_that_are_exported() -> None:
    assert {*Settings.__dataclass_fields__} <= KEYS
