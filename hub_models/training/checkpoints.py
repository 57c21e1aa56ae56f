"""The state of a training on disk, whole or absent, and how a run is stopped without losing it."""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from hub_models.evaluation.evaluate import launch_of
from hub_models.files import NEW_NAME, new_file, new_folder, sync, write_json

CHECKPOINTS = "checkpoints"
KEPT_NAME = "kept.safetensors"
PROGRESS_NAME = "progress.json"


@dataclass
class Progress:
    """How far a training has come; saved with each checkpoint."""

    epoch: int = 0  # epochs that are done
    step: int = 0  # steps of the next epoch that are done
    best: float | None = None  # highest validation metric so far
    best_epoch: int = 0  # count of done epochs at which it was reached
    losses: list[float] = field(default_factory=list)  # of the steps of the next epoch, means over all processes
    history: list[dict[str, float]] = field(default_factory=list)  # mean loss and validation metric of each epoch
    seconds: float = 0.0  # of training so far, over all launches


def save_checkpoint(folder: Path, progress: Progress, keep: int, accelerator: Accelerator) -> None:
    """Save the state of all processes, whole or not at all, and drop all but the newest `keep`."""
    aside = folder / ".writing"
    whole = folder / f"epoch-{progress.epoch:05d}-step-{progress.step:06d}"  # exists if a run stops twice at a step
    with new_folder(whole, aside) if accelerator.is_main_process else nullcontext(aside / NEW_NAME) as new:
        accelerator.wait_for_everyone()
        accelerator.save_state(str(new))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(asdict(progress) | {"launch": launch_of(accelerator)}, new / PROGRESS_NAME)
            sync(new)  # older ones are deleted
    if accelerator.is_main_process:
        for path in sorted(folder.glob("epoch-*"))[:-keep]:
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def load_checkpoint(folder: Path, accelerator: Accelerator) -> Progress:
    """Load the state of the newest checkpoint and return its progress; that of a new training without one.

    Raises:
        ValueError: it was made by another number of processes, or in another precision.
    """
    newest = max(folder.glob("epoch-*"), default=None)
    if newest is None:
        return Progress()
    values = json.loads((newest / PROGRESS_NAME).read_text())
    now, then = launch_of(accelerator), values.pop("launch")
    if changed := [f"{name}: {now[name]!r}, not {then[name]!r}" for name in now if now[name] != then[name]]:
        raise ValueError(
            f"{newest} was made by another launch ({'; '.join(changed)}): launch as before, or pass another output_dir"
        )
    accelerator.load_state(str(newest))
    return Progress(**values)


def save_kept(folder: Path, weights: dict[str, torch.Tensor], accelerator: Accelerator) -> None:
    """Replace the weights to keep, in one step."""
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder / KEPT_NAME) as aside:
            save_file({name: values.detach().cpu().contiguous() for name, values in weights.items()}, aside)
    accelerator.wait_for_everyone()


def load_kept(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights to keep, so far."""
    return load_file(folder / KEPT_NAME)


class Stop:
    """Whether the run is to end, by Ctrl-C or by the SIGTERM of a batch system."""

    def __init__(self) -> None:
        """Start without a request to end."""
        self.requested = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped at once: the last checkpoint stands")
        self.requested = True

    def agreed(self, accelerator: Accelerator) -> bool:
        """Return whether any process is to end; every process must call it at the same step."""
        if accelerator.num_processes == 1:
            return self.requested
        requested = torch.tensor(float(self.requested), device=accelerator.device)
        return bool(accelerator.reduce(requested, "sum").item())

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Take the two signals within the block, in the main thread only; a second Ctrl-C ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        former = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
