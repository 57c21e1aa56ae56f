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
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from hub_models.files import NEW_NAME, new_file, new_folder, sync, write_json

CHECKPOINTS = "checkpoints"
KEPT_NAME = "kept.safetensors"
PROGRESS_NAME = "progress.json"


@dataclass
class Progress:
    """How far a training has come; saved with each checkpoint.

    Attributes:
        epoch: epochs that are done.
        step: steps of the next epoch that are done.
        best: highest validation figure so far, None before the first.
        best_epoch: number of done epochs at which it was reached.
        losses: of those steps, means over all processes.
        history: mean loss and validation figure of each done epoch.
        seconds: that training took so far, over all launches.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def save_checkpoint(
    folder: Path, progress: Progress, launch: dict[str, Any], keep: int, accelerator: Accelerator
) -> None:
    """Keep the state of all processes, whole or not at all, and drop all but the newest `keep`."""
    aside = folder / ".writing"
    whole = folder / f"epoch-{progress.epoch:05d}-step-{progress.step:06d}"  # there of a run stopped twice at a step
    with new_folder(whole, aside) if accelerator.is_main_process else nullcontext(aside / NEW_NAME) as new:
        accelerator.wait_for_everyone()
        accelerator.save_state(str(new))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(asdict(progress) | {"launch": launch}, new / PROGRESS_NAME)
            sync(new)  # older ones are deleted
    if accelerator.is_main_process:
        for path in sorted(folder.glob("epoch-*"))[:-keep]:
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def load_checkpoint(folder: Path, launch: dict[str, Any], accelerator: Accelerator) -> Progress:
    """Progress of the newest checkpoint, its state loaded; that of a new training where there is none.

    Raises:
        ValueError: it was made by another number of processes, or in another precision.
    """
    newest = max(folder.glob("epoch-*"), default=None)
    if newest is None:
        return Progress()
    values = json.loads((newest / PROGRESS_NAME).read_text())
    then = values.pop("launch")
    if changed := [f"{name}: {launch[name]!r}, not {then[name]!r}" for name in launch if launch[name] != then[name]]:
        raise ValueError(
            f"{newest} was made by another launch ({'; '.join(changed)}): launch as before, or start anew"
        )
    accelerator.load_state(str(newest))
    return Progress(**values)


def save_kept(folder: Path, weights: dict[str, torch.Tensor], accelerator: Accelerator) -> None:
    """Replace the weights that are to be kept, so far, in one step."""
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder / KEPT_NAME) as aside:
            save_file({name: values.detach().cpu().contiguous() for name, values in weights.items()}, aside)
    accelerator.wait_for_everyone()


def load_kept(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that are to be kept, so far."""
    return load_file(folder / KEPT_NAME)


class Stop:
    """Whether somebody asked the run to end, by Ctrl-C or as batch systems do by SIGTERM."""

    def __init__(self) -> None:
        """Nobody has."""
        self.asked = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped at once: the last checkpoint stands")
        self.asked = True

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked; every process must call it at the same step."""
        if accelerator.num_processes == 1:
            return self.asked
        asked = torch.tensor(float(self.asked), device=accelerator.device)
        return bool(accelerator.reduce(asked, "sum").item())

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Take the two signals within the block, where Python lets a thread do so; a second Ctrl-C ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        former = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
