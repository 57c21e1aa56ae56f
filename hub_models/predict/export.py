"""Export a model as one ONNX file with its preprocessing beside it, measured against the run that it comes from."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from chest_xray_masks import __version__
from hub_models.console import counted
from hub_models.dataset.phantoms import write_phantoms
from hub_models.files import check_output, new_folder, write_json
from hub_models.hub.limits import threshold_source
from hub_models.hub_client.downloads import local_run
from hub_models.imaging.gray import to_gray
from hub_models.metrics import count_overlap, dice
from hub_models.models.onnx_model import FORMAT, GRAPH_NAME, PREPROCESSING_NAME, OnnxModel, digest_of_graph
from hub_models.models.out_of_distribution import OUT_OF_DISTRIBUTION_NAME, features_of
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.inputs import find_sources
from hub_models.predict.loading import EXPORT_FOLDER, XrayModel
from hub_models.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
EXPORT_FILES = (GRAPH_NAME, PREPROCESSING_NAME, OUT_OF_DISTRIBUTION_NAME)
LEAST_DICE, LARGEST_DIFFERENCE = 0.999, 1e-3  # of masks and of probabilities: what an export in fp32 must reach
PHANTOMS = 12  # that an export is measured on where no X-rays are given
MOST_XRAYS = 200  # of those given


def export_model(
    model: str | Path,
    output: str | Path | None = None,
    precision: Precision = "fp32",
    images: str | None = None,
    revision: str | None = None,
) -> Path:
    """Write `model.onnx` and `preprocessing.json` of a run to a folder, and return the folder.

    The graph takes `pixel_values` (B, 3, S, S) float32, normalized, and gives `logits`: (B, 2, s, s) of the lungs, or
    (B, 2) of tuberculosis. Where the run has an out-of-distribution score it also gives `features` (B, D), which
    `out_of_distribution.safetensors`, copied beside it, judges.

    The export is measured against the run on the first MOST_XRAYS of `images`, by default on phantoms, and
    `preprocessing.json` says the result under `measured`. A TB model of the lung region sees each of them whole there.

    Args:
        model: run folder or Hub id.
        output: folder to make (default: `onnx` in the run folder); an earlier export there is replaced.
        precision: of the weights: fp32; fp16, with inputs and outputs in fp32; int8, of matrix products only.
        images: X-rays to measure on, as `find_sources` takes them.
        revision: branch, tag or commit of a model from the Hub.

    Raises:
        FileNotFoundError: no run, or it has not ended; no X-ray in `images`.
        FileExistsError: `output` holds other files.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        ValueError: the model reads several views of an X-ray, or its export in fp32 does not give its answers.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(f"an export needs {error.name}: pip install 'chest-xray-masks[export]'") from error
    run = RunFolder.read(local_run(model, revision))
    trained = TrainedModel.from_run(run.path)
    if (views := trained.settings.views) > 1:
        raise ValueError(f"{model} reads {views} views of an X-ray, and an exported model one: export another run")
    folder = run.path / EXPORT_FOLDER if output is None else Path(output)
    check_output(folder, "exported model", lambda name: name in EXPORT_FILES)
    with _xrays(images) as xrays, new_folder(folder) as new:
        _write_graph(trained, new / GRAPH_NAME, precision)
        if trained.out_of_distribution is not None:
            trained.out_of_distribution.save(new)
        name = run.path.resolve().name if Path(model).is_dir() else str(model)  # a Hub id, or a folder; never a path
        values = preprocessing(name, run, trained, precision, digest_of_graph(new))
        write_json(values, new / PREPROCESSING_NAME)
        measured = compare(trained, OnnxModel(new), xrays) | {"source": "phantoms" if images is None else "given"}
        if precision == "fp32" and not _is_equal(measured):
            raise ValueError(f"the export of {model} does not give its answers ({measured}): it was not written")
        write_json(values | {"measured": measured}, new / PREPROCESSING_NAME)
    logger.info("%s", _summary(folder, precision, measured))
    return folder


def preprocessing(
    name: str, run: RunFolder, trained: TrainedModel, precision: Precision, graph: str
) -> dict[str, Any]:
    """Return the values of `preprocessing.json`, see `Preprocessing`; `graph` is the digest of the graph."""
    settings, processor = trained.settings, trained.image_processor.to_dict()
    named = asdict(settings) | {
        "threshold": None if trained.task.learns_masks else settings.threshold,
        "temperature": 1.0,  # the weights, and so the logits, hold that of the run already
    }
    return {
        "format": FORMAT,
        "name": name,
        "digest": run.digest,
        "graph": graph,
        "segmenter": run.data.get("segmenter"),
        "synthetic": bool(run.data.get("synthetic")),
        "precision": precision,
        "version": __version__,
        **named,
        "resample": trained.resample.name.lower(),
        "image_mean": list(processor["image_mean"]),
        "image_std": list(processor["image_std"]),
        "labels": list(trained.task.labels),
        "threshold_source": threshold_source(run) or None,
    }


class _Graph(nn.Module):
    """The model as the graph has it: a tensor in, and `logits`, or `logits` and `features`, out."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.model, self.with_features = trained.model, trained.out_of_distribution is not None

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not self.with_features:
            return (self.model(pixel_values=pixel_values).logits,)
        outputs = self.model(pixel_values=pixel_values, output_hidden_states=True)
        return outputs.logits, features_of(outputs.hidden_states)


def _write_graph(trained: TrainedModel, path: Path, precision: Precision) -> None:
    graph, side = _Graph(trained).eval(), trained.settings.image_size
    names = ["logits", "features"] if graph.with_features else ["logits"]
    with _quiet():
        torch.onnx.export(
            graph,
            (torch.zeros(2, 3, side, side),),
            path,
            input_names=["pixel_values"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,  # one file
            verbose=False,
        )
        if precision == "fp16":
            import onnx
            from onnxruntime.transformers.float16 import convert_float_to_float16

            onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
        elif precision == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            # convolutions in int8 are slower on a CPU than in fp32, and move the logits four times as far
            quantize_dynamic(path, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says of absent libraries and of its own parts."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "root")]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


@contextmanager
def _xrays(images: str | None) -> Iterator[list[Any]]:
    """Yield what opens each X-ray to measure on; raise as `find_sources`."""
    with tempfile.TemporaryDirectory() as name:
        if images is None:
            root = write_phantoms(Path(name) / "phantoms", PHANTOMS // 3, PHANTOMS - PHANTOMS // 3)
            images = str(next(root.rglob("CXR_png")))
        sources = find_sources(images)
        yield [open_source for _, open_source in islice(sources.stream(sources.index), MOST_XRAYS)]


def compare(trained: TrainedModel, exported: XrayModel, xrays: list[Any]) -> dict[str, Any]:
    """Return the count of X-rays, and the least Dice or the largest difference of probability, of two models' answers.

    `xrays` are functions that return a source each.
    """
    found = []
    for open_source in xrays:
        gray = to_gray(open_source())
        whole = np.ones((gray.height, gray.width), bool)
        ours, theirs = (
            one.predict(one.forward([one.to_pixels(gray, whole)])[0][0], gray.height, gray.width)
            for one in (trained, exported)
        )
        is_mask = isinstance(ours, np.ndarray)
        found.append(dice(count_overlap(theirs, ours)) if is_mask else abs(theirs - ours))
    if trained.task.learns_masks:
        return {"xrays": len(found), "least_dice": min(found)}
    return {"xrays": len(found), "largest_probability_difference": max(found)}


def _is_equal(measured: dict[str, Any]) -> bool:
    if "least_dice" in measured:
        return measured["least_dice"] >= LEAST_DICE
    return measured["largest_probability_difference"] <= LARGEST_DIFFERENCE


def _summary(folder: Path, precision: Precision, measured: dict[str, Any]) -> str:
    megabytes = (folder / GRAPH_NAME).stat().st_size / 1e6
    name = "least_dice" if "least_dice" in measured else "largest_probability_difference"
    against = f"{name.replace('_', ' ')} {measured[name]:.6f} against the run"
    of = "phantom" if measured["source"] == "phantoms" else "X-ray"
    return f"{folder}: {precision}, {megabytes:.1f} MB; {against} on {counted(measured['xrays'], of)}"
