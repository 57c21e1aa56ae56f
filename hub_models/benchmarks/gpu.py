"""What a GPU is worth: speeds and memory, launches, a resumed training, and answers against those of the CPU."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from hub_models.benchmarks.prediction import reading_ratios
from hub_models.benchmarks.training import training_ratios
from hub_models.dataset.phantoms import write_phantoms
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.export import compare
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs.run_folder import RESULTS_NAME
from hub_models.training.checkpoints import CHECKPOINTS, checkpoints_in

SECONDS = 240  # that a launch may take
RATIOS = ("predict_over_slower", "predict_over_both", "decode_over_pillow", "predict_lungs_over_pipeline")


class Training(NamedTuple):
    """A training that is measured, from random weights, in bf16."""

    task: Literal["lung_segmentation", "tb_classification"]
    model: str
    image_size: int
    batch_size: int


TRAININGS = {
    "segformer_b0_256": Training("lung_segmentation", "nvidia/mit-b0", 256, 32),
    "segformer_b0_512": Training("lung_segmentation", "nvidia/mit-b0", 512, 16),
    "vit_b_224": Training("tb_classification", "google/vit-base-patch16-224", 224, 64),
}
LAUNCHES = {"one_gpu": (), "fsdp": ("--num_processes", "1")}  # config of `accelerate launch`, and what it is given


def gpu_ratios(
    segmenter: str | Path = "bundled:lungs", classifier: str | Path = "bundled:tb", xrays: int = 16, steps: int = 16
) -> dict[str, float]:
    """Return what this machine's GPU does, in some minutes, on phantoms.

    * `<training>_loop_over_compute`, `<training>_images_per_second`: as `training_ratios`, in bf16, of TRAININGS;
    * `<training>_peak_mb`: the most memory of the GPU that such a training holds, launched with `one_gpu`;
    * `fsdp_loss_over_one_gpu`: the loss after an epoch in one process of FSDP, over that without;
    * `resumed_dice_difference`: of validation, between a training that was killed and resumed, and one that was not;
    * RATIOS: as `prediction_ratios`, of both models on `xrays` phantoms of native size;
    * `least_dice`, `largest_difference`: of masks and probabilities, between the GPU and the CPU.

    Raises:
        RuntimeError: no GPU, or a launch that failed, with the last lines that it said.
        FileNotFoundError, ValueError: as `ChestXrayReader`.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("no GPU of CUDA is found: see torch.cuda.is_available()")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantoms = write_phantoms(folder / "phantoms", 40, 120, image_size=600)
        for key, one in TRAININGS.items():
            ratios = training_ratios(
                phantoms, one.task, one.model, one.image_size, one.batch_size, steps, precision="bf16"
            )
            found[f"{key}_loop_over_compute"] = ratios["loop_over_compute"]
            found[f"{key}_images_per_second"] = ratios["loop_images_per_second"]
            trained = launched("one_gpu", phantoms, folder / key, one)["training"]
            found[f"{key}_peak_mb"] = trained["peak_memory_bytes"] / 1e6
        found |= launch_ratios(phantoms, folder / "launches", next(iter(TRAININGS.values())))
        reader, lung_reader = ChestXrayReader(segmenter, classifier), ChestXrayReader(segmenter)
        ratios = reading_ratios(reader, lung_reader, folder / "large", xrays)
        found |= {key: ratios[key] for key in RATIOS}
        return found | differences(reader, sorted(phantoms.rglob("CXR_png/*.png")))


def launch_ratios(phantoms: Path, folder: Path, training: Training) -> dict[str, float]:
    """Return the ratios of `gpu_ratios` that tell whether each of LAUNCHES and a resumed training end as one does."""
    alone, other = LAUNCHES
    whole = launched(alone, phantoms, folder / "whole", training)
    sharded = launched(other, phantoms, folder / "sharded", training)
    killed = folder / "resumed"
    launched(alone, phantoms, killed, training, kill=True)
    resumed = launched(alone, phantoms, killed, training)
    losses = [one["training"]["epochs"][-1]["loss"] for one in (sharded, whole)]
    dices = [one["training"]["epochs"][-1]["validation_dice"] for one in (resumed, whole)]
    return {f"{other}_loss_over_{alone}": losses[0] / losses[1], "resumed_dice_difference": abs(dices[0] - dices[1])}


def launched(launch: str, phantoms: Path, output: Path, training: Training, kill: bool = False) -> dict[str, Any]:
    """Return the results of a training of two epochs by `accelerate launch`; none of one to `kill` after its first.

    Raises:
        RuntimeError: it failed, or took more than SECONDS.
    """
    options = dict(zip(("task", "model", "image_size", "batch_size"), map(str, training), strict=True))
    options |= {"data": str(phantoms), "output": str(output), "epochs": "2", "tracker": "none"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    output.parent.mkdir(parents=True, exist_ok=True)
    log = Path(f"{output}.log")
    with as_file(files("hub_models.training") / "launch" / f"{launch}.yaml") as config, log.open("w") as said:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        command += [*LAUNCHES[launch], "-m", "hub_models.training", "--from_scratch", *words]
        with subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True) as running:
            end = time.monotonic() + SECONDS
            while running.poll() is None and time.monotonic() < end:
                if kill and checkpoints_in(output / CHECKPOINTS):
                    os.killpg(running.pid, signal.SIGKILL)
                    return {}
                time.sleep(0.05)
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
    if running.returncode:
        raise RuntimeError(f"the launch {launch} failed: {' '.join(log.read_text().split()[-60:])}")
    results: dict[str, Any] = json.loads((output / RESULTS_NAME).read_text())
    shutil.rmtree(output)
    return results


def differences(reader: ChestXrayReader, paths: list[Path]) -> dict[str, float]:
    """Return how far the masks and probabilities of X-rays are from those that the models give on the CPU."""
    found: dict[str, float] = {}
    for model in (reader.segmenter, reader.classifier):
        if isinstance(model, TrainedModel):
            here = copy.deepcopy(model)
            here.model.cpu()
            found |= compare(here, model, [partial(Path, path) for path in paths])
    return {"least_dice": found["least_dice"], "largest_difference": found["largest_probability_difference"]}
