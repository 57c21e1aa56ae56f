"""The processes of a launch: Accelerate's, or one alone where no model needs torch."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hub_models.models.onnx_model import is_exported
from hub_models.predict.loading import has_torch, import_for

if TYPE_CHECKING:
    from accelerate import Accelerator


class OneProcess:
    """What a job uses of an `Accelerator`, in a launch of one process on a CPU."""

    process_index, num_processes, is_main_process, device = 0, 1, True, None

    def wait_for_everyone(self) -> None:
        """Return at once."""

    def local_main_process_first(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()


def processes_for(*sources: str | Path | None, backend: str | None = None) -> "Accelerator | OneProcess":
    """Return what joins the processes of this launch; no torch is imported for one process with exported models."""
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    needs_none = all(backend == "onnx" or is_exported(Path(source)) for source in sources if source is not None)
    if is_alone and (needs_none or not has_torch()):  # `find_model` says where a model needs torch
        return OneProcess()
    with import_for(next(filter(None, sources), None)):
        from hub_models.runs.launch import make_accelerator  # late: it needs torch
    return make_accelerator()
