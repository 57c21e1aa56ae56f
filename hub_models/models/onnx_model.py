"""An exported model, read by onnxruntime: the same input and the same answers as `TrainedModel`, without torch.

An exported folder holds `model.onnx` and `preprocessing.json`, which says what the graph takes and how to use it, and
`out_of_distribution.safetensors` where the run had it.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from PIL import Image

from hub_models.hub_client.model_files import SOUND, TaskName, check_types, damaged, read_json, refuse_foreign
from hub_models.imaging.gray import to_gray
from hub_models.imaging.lung_crop import Region
from hub_models.imaging.resizing import Fit
from hub_models.imaging.source import Source
from hub_models.models.answers import ANSWERS, FORWARD_SIZES, check_answer, pixels_of
from hub_models.models.out_of_distribution import OutOfDistribution
from hub_models.models.settings import Settings, check_normalization

GRAPH_NAME, PREPROCESSING_NAME = "model.onnx", "preprocessing.json"
FORMAT = 1  # of preprocessing.json; raise when a reader of the format before would misread it


class Preprocessing(TypedDict):
    """Values of `preprocessing.json`: what the graph takes, how to use it, and where it comes from."""

    format: int
    name: str
    digest: str  # of the run's model
    graph: str  # SHA-256 of model.onnx
    segmenter: str | None  # digest of the run that found the lungs
    synthetic: bool  # whether it was trained on phantoms
    precision: str
    version: str
    task: TaskName
    image_size: int
    fit: Fit
    region: Region
    temperature: float
    threshold: float | None
    views: int
    two_lungs: bool
    resample: str
    image_mean: list[float]
    image_std: list[float]
    labels: list[str]
    measured: NotRequired[dict[str, Any]]  # against the run
    threshold_source: NotRequired[str | None]  # where the threshold comes from, as a sentence


def is_exported(folder: Path) -> bool:
    """Return whether a folder holds an exported model."""
    return (folder / PREPROCESSING_NAME).is_file()


def digest_of_graph(folder: Path) -> str:
    """Return the SHA-256 of an exported folder's graph."""
    with (folder / GRAPH_NAME).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Return the values of an exported folder's `preprocessing.json`, see `Preprocessing`.

    Raises:
        FileNotFoundError: the folder lacks it, or the graph.
        ValueError: it is damaged, of another format or of another graph.
    """
    refuse_foreign(folder)
    if missing := [name for name in (GRAPH_NAME, PREPROCESSING_NAME) if not (folder / name).is_file()]:
        raise FileNotFoundError(f"no {', '.join(missing)} in {folder}: pass a folder that cxm export made")
    path = folder / PREPROCESSING_NAME
    values = read_json(path)
    if (known := values.get("format", FORMAT)) != FORMAT:
        raise ValueError(f"{path} has format {known}, and this version reads {FORMAT}: export the model again")
    check_types(values, Preprocessing, path)
    check_normalization(values, str(path))
    if values["resample"].upper() not in Image.Resampling.__members__:
        raise damaged(path, f"resample {values['resample']}")
    if values["graph"] != digest_of_graph(folder):
        raise ValueError(f"{folder / GRAPH_NAME} is not the graph that {PREPROCESSING_NAME} is of: {SOUND}")
    return values


class OnnxModel:
    """A model of an exported folder on a CPU; call it with an X-ray, as `TrainedModel`.

    Attributes:
        settings: how it is to be used.
        resample: how X-rays are resized for it.
        out_of_distribution: of its run, None where that has none.
    """

    def __init__(self, folder: str | Path, task: str | None = None) -> None:
        """Load the model of an exported folder; `task`, where given, must be its task.

        Raises:
            FileNotFoundError: the folder lacks a file.
            ImportError: onnxruntime is not installed.
            ValueError: a file is damaged, or the model is for another task.
        """
        self.folder = Path(folder)
        values = read_preprocessing(self.folder)
        if task not in (None, values["task"]):
            raise ValueError(f"{folder} holds a model for {values['task']}, not for {task}: pass another folder")
        named = ("task", "image_size", "fit", "region", "temperature", "views", "two_lungs")
        threshold = {} if values["threshold"] is None else {"threshold": values["threshold"]}
        try:
            self.settings = Settings(**{name: values[name] for name in named}, **threshold)
        except ValueError as error:
            raise damaged(self.folder / PREPROCESSING_NAME, error) from error
        self.mean, self.std = (
            np.array(values[name], np.float32)[:, None, None] for name in ("image_mean", "image_std")
        )  # (3, 1, 1)
        self.resample = Image.Resampling[values["resample"].upper()]
        self.out_of_distribution = OutOfDistribution.load(self.folder)
        first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # of nested levels, as torch reads it
        self._session = self._start(int(first) if first.isdecimal() else 0)
        check_answer(self, self.folder)

    def _start(self, threads: int) -> Any:
        """Return a session of so many threads, 0 for one of each core."""
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            needed = "an exported model needs onnxruntime: pip install 'chest-xray-masks[read]'"
            raise ImportError(needed) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        path = self.folder / GRAPH_NAME
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # it raises several kinds, which have no name of their own in common
            raise ValueError(f"{path} is damaged ({error}): export the model again") from error

    def __call__(self, source: Source, mask: np.ndarray | None = None) -> Any:
        """Return the model's output for an X-ray, as `TrainedModel` does; raise as it does."""
        gray = to_gray(source)
        logits, _ = self.forward([self.to_pixels(gray, mask)])
        return self.predict(logits[0], gray.height, gray.width)

    def to_pixels(self, gray: Image.Image, mask: np.ndarray | None) -> np.ndarray:
        """Return `pixels_of` a gray image, (S, S) uint8."""
        return pixels_of(gray, mask, self.settings, self.resample)

    def forward(
        self, pixels: Sequence[np.ndarray], with_features: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return logits (B, ...) of X-rays (S, S) uint8 and, if wanted, their features (B, D); float32.

        Every forward pass has as many images, as those of `forward_views`.
        """
        size, names = FORWARD_SIZES["cpu"], ["logits", "features"] if with_features else ["logits"]
        found = []
        for start in range(0, len(pixels), size):
            part = np.stack(pixels[start : start + size]).astype(np.float32)[:, None] / 255  # (B, 1, S, S)
            full = np.pad((part - self.mean) / self.std, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
            found.append([values[: len(part)] for values in self._session.run(names, {"pixel_values": full})])
        logits, *features = (np.concatenate(values) for values in zip(*found, strict=True))
        return logits, features[0] if features else None

    def predict(self, logits: np.ndarray, height: int, width: int) -> Any:
        """Return what the logits of one X-ray of `height` x `width` pixels say; see `TrainedModel.__call__`."""
        return ANSWERS[self.settings.task](logits, height, width, self.settings)

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Keep each forward pass to the thread that calls it within a block."""
        before, self._session = self._session, self._start(1)
        try:
            yield
        finally:
            self._session = before
