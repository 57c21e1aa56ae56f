"""How a run is launched: its Accelerator, and what results say of device, processes, commit and versions."""

import dataclasses
import logging
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from hub_models.runs.config import TrainConfig

BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # instructions of x86 and ARM, as torch names them
VERSIONED = ("torch", "transformers", "datasets", "accelerate")


def make_accelerator(**options: Any) -> Accelerator:
    """Return an Accelerator on the GPUs, else on the CPU; from then on only its main process logs."""
    # a launcher of several processes takes them to have GPUs unless told
    waiting = InitProcessGroupKwargs(timeout=timedelta(hours=6))  # the others wait while one decodes the set
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[waiting], **options)
    if not accelerator.is_main_process:
        logging.getLogger("hub_models").setLevel(logging.ERROR)
    return accelerator


def device_name(accelerator: Accelerator) -> str:
    """Return what a process computes on: "cpu", or the kind of accelerator with its model's name."""
    device = accelerator.device
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def lacks_bf16() -> bool:
    """Return whether this CPU has no instructions for bf16, which makes bf16 slow; False where it is not known."""
    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
        return False
    known = torch.cpu.get_capabilities()
    return not any(known.get(name) for name in BF16)


def circumstances(config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    """Return how results came to be: config, commit, date, launch and versions."""
    found = {"config": dataclasses.asdict(config), "commit": _commit(), "date": datetime.now(UTC).date().isoformat()}
    return found | {"launch": launch_of(accelerator), "versions": {name: version(name) for name in VERSIONED}}


def launch_of(accelerator: Accelerator) -> dict[str, int | str]:
    """Return how the processes were launched, as far as it changes metrics."""
    return {"processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision}


def _commit() -> str | None:
    """Return the commit of this code, with a + where files were changed since; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
