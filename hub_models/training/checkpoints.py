"""The state of a training on disk, whole or absent, and how a run is stopped without losing it."""

import hashlib
import json
import logging
import re
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
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file

from hub_models.files import ASIDE, NEW_NAME, DiskFullError, new_file, new_folder, sync, write_json
from hub_models.hub_client.model_files import read_json
from hub_models.runs.launch import launch_of

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
NAME = re.compile(r"epoch-[0-9]{5}-step-[0-9]{6}")
DIGESTS_NAME = "digests.json"
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


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first; anything else in it is passed over."""
    return sorted(path for path in folder.glob("epoch-*") if NAME.fullmatch(path.name) and path.is_dir())


@contextmanager
def said_what_stands(run_folder: Path) -> Iterator[None]:
    """Run a block that trains a run; say in the error of a full disk what stands of it."""
    try:
        yield
    except DiskFullError as error:
        newest = next(reversed(checkpoints_in(run_folder / CHECKPOINTS)), None)
        stands = f"the checkpoint {newest} is kept" if newest else "no checkpoint was made before"
        if any(run_folder.glob("model*.safetensors")):
            stands = f"what was trained is kept in {run_folder}"
        raise DiskFullError(error.folder, error.number, stands) from error


def save_checkpoint(folder: Path, progress: Progress, keep: int, accelerator: Accelerator) -> None:
    """Save the state of all processes and the weights to keep, whole or not at all, with a digest of each file.

    All but the newest `keep` are dropped then, with those after this one, which a resumed run had passed over.
    """
    aside = folder / ASIDE
    whole = folder / f"epoch-{progress.epoch:05d}-step-{progress.step:06d}"  # exists if a run stops twice at a step
    with new_folder(whole, aside) if accelerator.is_main_process else nullcontext(aside / NEW_NAME) as new:
        accelerator.wait_for_everyone()
        accelerator.save_state(str(new))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            if (folder / KEPT_NAME).exists():
                shutil.copyfile(folder / KEPT_NAME, new / KEPT_NAME)
            write_json(asdict(progress) | {"launch": launch_of(accelerator)}, new / PROGRESS_NAME)
            write_json(_digests(new), new / DIGESTS_NAME)
            sync(new)  # older ones are deleted
    if accelerator.is_main_process:
        made = checkpoints_in(folder)
        before = made[: made.index(whole) + 1]
        for path in [*before[:-keep], *made[len(before) :]]:
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def _digests(checkpoint: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a checkpoint by its relative path, but of those digests themselves."""
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != DIGESTS_NAME:
            with path.open("rb") as file:
                digests[path.relative_to(checkpoint).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _damage(checkpoint: Path) -> str | None:
    """Return which file of a checkpoint is not as it was written; None for a whole one."""
    if not (checkpoint / DIGESTS_NAME).is_file():
        return f"{DIGESTS_NAME} is missing, as in those of version 0.2"
    try:
        written, found = read_json(checkpoint / DIGESTS_NAME), _digests(checkpoint)
    except ValueError:
        return f"{DIGESTS_NAME} is damaged"
    wrong = sorted(name for name in written if found.get(name) != written[name])
    return f"{wrong[0]} is {'damaged' if wrong[0] in found else 'missing'}" if wrong else None


def _newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint whose files are as they were written, None for a new training.

    Raises:
        ValueError: there are some, and none is whole.
    """
    passed = []
    for checkpoint in reversed(checkpoints_in(folder)):
        if (damage := _damage(checkpoint)) is None:
            return checkpoint
        logger.warning("%s is passed over: %s", checkpoint, damage)
        passed.append(f"{checkpoint.name}: {damage}")
    if passed:
        raise ValueError(f"no checkpoint in {folder} is whole ({'; '.join(passed)}): delete {folder} to start again")
    return None


def load_checkpoint(folder: Path, accelerator: Accelerator) -> Progress:
    """Load the state of the newest whole checkpoint and return its progress; that of a new training without one.

    Raises:
        ValueError: none is whole, or the newest was made by another number of processes, or in another precision.
    """
    chosen: list[Path | ValueError | None] = [None]
    if accelerator.is_main_process:
        try:
            chosen = [_newest_whole(folder)]
        except ValueError as error:
            chosen = [error]
    (newest,) = broadcast_object_list(chosen)  # all load the same
    if isinstance(newest, ValueError):
        raise newest
    if newest is None:
        return Progress()
    values = json.loads((newest / PROGRESS_NAME).read_text())
    now, then = launch_of(accelerator), values.pop("launch")
    if changed := [f"{name}: {now[name]!r}, not {then[name]!r}" for name in now if now[name] != then[name]]:
        way = "launch as before, or pass another output folder"
        raise ValueError(f"{newest} was made by another launch ({'; '.join(changed)}): {way}")
    accelerator.load_state(str(newest))
    if accelerator.is_main_process and (newest / KEPT_NAME).exists():  # as they were then
        with new_file(folder / KEPT_NAME) as aside:
            shutil.copyfile(newest / KEPT_NAME, aside)
    accelerator.wait_for_everyone()
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
            raise KeyboardInterrupt("stopped at once: the last checkpoint is kept")
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
