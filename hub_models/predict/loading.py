"""Load one model of the reader: a run folder or Hub id with torch, or an exported folder without it."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from PIL import Image

from hub_models.hub_client.bundled import DEFAULT_MODELS
from hub_models.hub_client.downloads import RUN_FILES, local_run
from hub_models.lazy import without_collection
from hub_models.models.onnx_model import OnnxModel, is_exported, read_preprocessing
from hub_models.models.out_of_distribution import OutOfDistribution
from hub_models.models.settings import Settings, digest_of_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

Backend = Literal["torch", "onnx"]
BACKENDS = ("torch", "onnx")
DEFAULT_BACKEND: Backend = "torch"  # of a run folder that holds an export; `cxm benchmark backend` measures the ratio
EXPORT_FOLDER = "onnx"  # in a run folder: where `cxm export` puts the exported model by default


class XrayModel(Protocol):
    """What the reader needs of a model: that of `TrainedModel` and `OnnxModel`."""

    @property
    def settings(self) -> Settings: ...  # noqa: D102
    @property
    def out_of_distribution(self) -> OutOfDistribution | None: ...  # noqa: D102
    def to_pixels(self, gray: Image.Image, mask: np.ndarray | None) -> np.ndarray: ...  # noqa: D102
    def forward(  # noqa: D102
        self, pixels: "Sequence[np.ndarray]", with_features: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]: ...
    def predict(self, logits: np.ndarray, height: int, width: int) -> Any: ...  # noqa: D102
    def one_thread(self) -> "AbstractContextManager[None]": ...  # noqa: D102


class ModelFolder(NamedTuple):
    """Where a model lies, found and not yet loaded.

    Attributes:
        path: a run folder, or an exported folder.
        digest: of the run's model, whichever backend reads it.
        segmenter: digest of the run that found the lungs of a TB model's training; None where it saw whole X-rays.
        precision: of an exported model's weights; None of a run folder.
    """

    path: Path
    digest: str
    segmenter: str | None = None
    precision: str | None = None

    def __str__(self) -> str:
        """Return the path, by which an error names the model."""
        return str(self.path)

    @property
    def identity(self) -> str:
        """Return what tells its answers from those of others: the digest, and the precision if exported."""
        return self.digest if self.precision is None else f"{self.digest} onnx {self.precision}"


def find_model(
    source: str | Path | ModelFolder, revision: str | None = None, backend: Backend | None = None
) -> ModelFolder:
    """Return where the model of `source` lies: a run folder, an exported folder or a Hub id at a `revision`.

    A run folder is read with torch, or with onnxruntime from the export in its folder `onnx`: where the backend says
    so, or torch is not installed. An exported folder is read with onnxruntime.

    Raises:
        FileNotFoundError: nothing there, or a run that has not ended.
        ImportError: the model is a run folder without an export, and torch is not installed.
        ValueError: the model cannot be read with this backend, or the export in a run folder is of other weights.
    """
    if isinstance(source, ModelFolder):
        return source
    if backend not in (None, *BACKENDS):
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    path = local_run(source, revision)
    if is_exported(path):
        if backend == "torch":
            raise ValueError(f"{source} is an exported model, which onnxruntime reads: leave the backend out")
        return _exported(path)
    inside = path / EXPORT_FOLDER
    default = DEFAULT_BACKEND if has_torch() else "onnx"
    if backend == "onnx" or (backend is None and default == "onnx" and is_exported(inside)):
        if not is_exported(inside):
            raise ValueError(f"{source} holds no exported model: cxm export --model {source} --format onnx")
        found = _exported(inside)
        if found.digest != digest_of_model(path):
            raise ValueError(f"{inside} was exported from other weights: cxm export --model {source} --format onnx")
        return found
    return _run(path)


def has_torch() -> bool:
    """Return whether torch is installed."""
    return find_spec("torch") is not None


def find_models(
    segmenter: str | Path | ModelFolder | None,
    classifier: str | Path | ModelFolder | None,
    revision: str | None = None,
    backend: Backend | None = None,
) -> tuple[ModelFolder | None, ModelFolder | None]:
    """Return where a lung and a TB model lie, as `find_model`; the bundled two where neither is named."""
    if segmenter is None and classifier is None:
        segmenter, classifier = DEFAULT_MODELS
    named = (segmenter, classifier)
    lungs, tb = (None if source is None else find_model(source, revision, backend) for source in named)
    return lungs, tb


def _exported(path: Path) -> ModelFolder:
    values = read_preprocessing(path)
    return ModelFolder(path, values["digest"], values["segmenter"], values["precision"])


@contextmanager
def import_for(source: object) -> Iterator[None]:
    """Import in a block what only a run folder needs, such as torch; raise ImportError for `source` without it."""
    try:
        with without_collection():
            yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hub_models"):
            raise
        needed = f"{source} is not an exported model, and needs {error.name}: pip install 'chest-xray-masks[models]'"
        raise ImportError(needed) from error


def _run(path: Path) -> ModelFolder:
    with import_for(path):
        from hub_models.runs.run_folder import RunFolder  # late: an exported model needs no torch
    run = RunFolder.read(path)
    run.require(*RUN_FILES)
    return ModelFolder(path, run.digest, run.data.get("segmenter"))


def load_model(found: ModelFolder, task: str) -> XrayModel:
    """Return the model of a folder for a task, ready to read; a run's on the accelerator where there is one.

    Raises:
        FileNotFoundError, ImportError: a file or a library is missing.
        ValueError: a model of another task, damaged files, or weights that are not finite.
    """
    if found.precision is not None:
        return OnnxModel(found.path, task)
    with without_collection():  # transformers imports a model's module when its weights are loaded
        from hub_models.models.trained_model import TrainedModel  # as above

        return TrainedModel.from_run(found.path, task).on_accelerator()
