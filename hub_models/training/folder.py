"""The folder of a run while it is trained: new, or of the same config and X-rays; its files whole or absent."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType

from hub_models.dataset.folds import FOLDS
from hub_models.files import ASIDE, check_output, is_hidden, write_bytes
from hub_models.models.architectures import quiet_weights
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import resolve
from hub_models.runs.notes import refuse_edited
from hub_models.runs.run_folder import DATA_NAME, RESULTS_NAME, RunData, read_data
from hub_models.training.checkpoints import CHECKPOINTS, checkpoints_in

FOLD_FOLDERS = tuple(f"fold-{fold}" for fold in range(FOLDS))
SHARDED_TYPES = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def check_folder(config: TrainConfig, folder: Path, accelerator: Accelerator) -> None:
    """Raise an error unless `folder` is new or holds a run of this config, and all processes can train it."""
    if not (folder / config.FILE).exists():
        check_output(folder, "run", is_hidden)
    elif has_begun(folder) and (differences := config.differences(resolve(type(config).load(folder)))):
        changed = f"holds a run of another config ({'; '.join(differences)})"
        is_longer = "epochs" in differences[0] and type(config) is TrainConfig and (folder / RESULTS_NAME).exists()
        way = f"; to train its model for longer, pass another with --model {folder}" if is_longer else ""
        raise ValueError(f"output folder {folder} {changed}: delete it, or pass another{way}")
    elif not (folder / RESULTS_NAME).exists():
        refuse_edited(folder)  # the card is written at the end
    if accelerator.distributed_type in SHARDED_TYPES:
        for name, value, neutral in (("ema", config.ema, 0), ("freeze", config.freeze, "none")):
            if value != neutral:
                raise ValueError(f"{name} {value} needs whole weights on each process: leave it out with sharded ones")
    if config.batch_size % accelerator.num_processes:
        processes = accelerator.num_processes
        raise ValueError(f"batch_size must be a multiple of the {processes} processes, got {config.batch_size}")


def has_begun(folder: Path) -> bool:
    """Return whether a run in `folder` came to its first checkpoint; without one there is nothing to resume."""
    weights = [*folder.glob("model*.safetensors"), *checkpoints_in(folder / CHECKPOINTS)]
    return bool(weights) or (folder / RESULTS_NAME).exists()


def check_data(config: TrainConfig, folder: Path, data: RunData) -> None:
    """Raise ValueError where the run in `folder` began with other X-rays, or from another model."""
    path = folder / DATA_NAME
    known: Mapping[str, Any] = read_data(folder) if path.exists() and has_begun(folder) else {}
    others = {name for name, value in known.items() if name != "pixels" and data.get(name) != value}
    if others:
        name = next((one for one in ("fingerprint", "model", "segmenter") if one in others), "fingerprint")
        if name == "fingerprint":
            said = f"holds a run of other X-rays ({config.data_dir} is another source, or has changed)"
        else:
            said = f"holds a run from another {name} ({getattr(config, name)} has changed)"
        raise ValueError(f"output folder {folder} {said}: delete it, or pass another")


def write_files(folder: Path, saves: Sequence[Callable[[Path], object]], accelerator: Accelerator) -> None:
    """Put the files that `saves` write to a folder into `folder`, each whole or absent, on the main process."""
    if accelerator.is_main_process:
        aside = folder / f".model{ASIDE}"
        shutil.rmtree(aside, ignore_errors=True)  # of a killed launch
        aside.mkdir()
        try:
            with quiet_weights():
                for save in saves:
                    save(aside)
            for path in sorted(aside.iterdir()):  # as bytes: safetensors' own file would shut out colleagues
                write_bytes(path.read_bytes(), folder / path.name)
        finally:
            shutil.rmtree(aside)
    accelerator.wait_for_everyone()
