"""What is kept of an evaluation: `results.json`, `per_image.parquet`, pictures; and evaluate_run(), which makes it."""

import dataclasses
import logging
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from hub_models.dataset.folds import FOLDS
from hub_models.evaluation.charts import WORST, confidently_wrong
from hub_models.evaluation.measure import compare, measure, summarize, write_per_image
from hub_models.evaluation.pictures import PICTURES
from hub_models.files import held, write_json
from hub_models.hub_client.downloads import local_run
from hub_models.models.tasks import SENSITIVITY, TASKS
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import CONFIG_NAME, TrainConfig
from hub_models.runs.data import count_synthetic, load_run_splits, refuse_leaks, trained_ids
from hub_models.runs.run_folder import RESULTS_NAME, RunFolder

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "datasets", "accelerate")
WHO_SPECIFICITY = 0.7  # Source: WHO 2014, target product profile of a TB triage test, at sensitivity 0.9


@dataclasses.dataclass
class Evaluated:
    """One model on one part: figures of each image, the original rows, and by its id what predicts a row."""

    config: TrainConfig
    part: str
    per_image: list[dict[str, Any]]
    rows: datasets.Dataset
    trained: Callable[[str], TrainedModel]


@dataclasses.dataclass(frozen=True)
class Asked:
    """X-rays to test on, and what of a model's settings to change for it."""

    data_dir: str
    split: str
    protocol: str | None
    fold: int | None
    segmenter: str | None
    use: dict[str, Any]


def make_accelerator(**options: Any) -> Accelerator:
    """Accelerator on the GPUs that there are, else on the CPU; only its main process logs from then on."""
    # a launcher of several processes takes them to have GPUs unless told
    waiting = InitProcessGroupKwargs(timeout=timedelta(hours=6))  # the others wait while one decodes the set
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), kwargs_handlers=[waiting], **options)
    if not accelerator.is_main_process:
        logging.getLogger("hub_models").setLevel(logging.ERROR)
    return accelerator


def write_report(folder: Path, evaluated: Evaluated, accelerator: Accelerator, more: dict[str, Any]) -> dict[str, Any]:
    """`results.json` as written into `folder` after per-image rows and pictures, so that it stands for all of them.

    `figures` holds, per group, each figure with its 95 % interval; `more` is added at the end.
    """
    config, per_image = evaluated.config, evaluated.per_image
    task = TASKS[config.task]
    results = {"task": config.task, "protocol": config.protocol, "fold": config.fold, "split": evaluated.part}
    results |= {"images": len(per_image), "main_metric": task.main_metric, "metrics": summarize(per_image, task)}
    results |= _worst(per_image, task.main_metric) | _against_who(results["metrics"]) | more
    if synthetic := count_synthetic(evaluated.rows):
        results |= {"synthetic": synthetic}
    results |= {"config": dataclasses.asdict(config), "commit": _commit()}
    results |= {"launch": launch_of(accelerator), "versions": {name: version(name) for name in LIBRARIES}}
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULTS_NAME).unlink(missing_ok=True)  # the old one does not stand for the new rows
        write_per_image(per_image, folder)
        for name, draw in PICTURES[config.task].items():
            draw(per_image, evaluated.rows, evaluated.trained, folder / name)
        write_json(results, folder / RESULTS_NAME)
    accelerator.wait_for_everyone()
    logger.info("%s %s", evaluated.part, shown(results))
    return results


def launch_of(accelerator: Accelerator) -> dict[str, Any]:
    """How the processes were launched, as far as it changes figures."""
    return {"processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision}


def shown(results: dict[str, Any]) -> str:
    """One line of the main figure with its interval, for each site and all."""
    name = results["main_metric"]
    groups = {key: group for key, group in results["metrics"].items() if key == "all" or key.startswith("site")}
    texts = [
        f"{key.removeprefix('site: ')} {_interval(group[name])} (n {group['n']})" for key, group in groups.items()
    ]
    return f"{name}: {', '.join(texts)}"


def _interval(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "undefined"
    interval = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['value']:.4f}{interval}"


def _worst(per_image: list[dict[str, Any]], figure: str) -> dict[str, Any]:
    """The images with the lowest figure where it is one of images, else the most confidently wrong."""
    if figure in per_image[0]:
        names, ranked = ("id", figure), sorted(per_image, key=lambda row: (row[figure], row["id"]))[:WORST]
    else:
        names, ranked = ("id", "label", "probability"), confidently_wrong(per_image)
    return {"worst": [{name: row[name] for name in names} for row in ranked]}


def _against_who(metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Whether the model reaches the WHO's minimum of a triage test, where the task has such figures.

    `reachable`: at the threshold that gives the sensitivity on these images; `met`: at the stored one.
    """

    def at_least(group: dict[str, Any], name: str, least: float) -> bool:
        """Whether a group's figure is known and no less."""
        return group[name]["value"] is not None and group[name]["value"] >= least

    name = "specificity_at_90_sensitivity"
    if name not in metrics["all"]:
        return {}
    groups = {
        key: {
            "reachable": at_least(group, name, WHO_SPECIFICITY),
            "met": at_least(group, "sensitivity", SENSITIVITY) and at_least(group, "specificity", WHO_SPECIFICITY),
        }
        for key, group in metrics.items()
    }
    return {"who_triage_minimum": {"sensitivity": SENSITIVITY, "specificity": WHO_SPECIFICITY, "groups": groups}}


def _commit() -> str | None:
    """Commit of this code, with a + where files were changed since; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def evaluate_run(
    model: str | Path,
    data_dir: str | Path,
    split: str = "test",
    protocol: str | None = None,
    fold: int | None = None,
    segmenter: str | None = None,
    output: str | Path | None = None,
    compared: str | Path | None = None,
    views: int | None = None,
    two_lungs: bool = False,
    revision: str | None = None,
) -> dict[str, Any]:
    """Results of a run's model on X-rays, also written to `output` (by default `evaluation/` in the run folder).

    `model`, `segmenter` and `compared` are run folders or Hub ids; of the latter `revision` is a branch, tag or
    commit. `protocol` and `fold` are the run's own unless given. A folder of all folds is tested fold by fold, and
    the rows are pooled. With `compared`, another model, the differences between the two on the same X-rays are added.
    `views` looks at each X-ray so many times, turned and scaled a little (`tasks.VIEWS`); `two_lungs` keeps the two
    largest regions of a lung mask and fills their holes.

    Raises:
        FileNotFoundError: a run folder is not whole, or nothing of the set is under `data_dir`.
        PermissionError, ConnectionError: a model cannot be had from the Hub.
        ValueError: the model was trained on patients it would be tested on, or cannot be tested on these X-rays;
            `output` is a run folder, or not given for a model of the Hub.
    """
    accelerator = make_accelerator()
    with accelerator.local_main_process_first():  # downloads what is not in the cache
        named = (model, compared, segmenter)
        run, other, lungs = (None if one is None else local_run(one, revision) for one in named)
    if output is None and run != Path(model):
        raise ValueError(f"{model} comes from the Hub: pass an output, the folder to write to")
    if output is not None and (Path(output) / CONFIG_NAME).exists():
        raise ValueError(f"output {output} is a run folder, whose own results would be lost: pass another")
    use = {name: value for name, value in (("views", views), ("two_lungs", two_lungs)) if value}
    asked = Asked(str(data_dir), split, protocol, fold, None if lungs is None else str(lungs), use)
    evaluated = _evaluate(run, asked, accelerator)
    config, more = evaluated.config, {"use": use}
    if other is not None:
        same = dataclasses.replace(asked, protocol=config.protocol, fold=config.fold)
        second = _evaluate(other, same, accelerator)
        if second.config.task != config.task:
            raise ValueError(f"{compared} is a model for {second.config.task}, {model} for {config.task}")
        differences = compare(evaluated.per_image, second.per_image, TASKS[config.task])
        more |= {"compared_with": str(compared), "differences": differences}
        name = TASKS[config.task].main_metric
        logger.info("%s: %s less %s: %s", name, model, compared, _interval(differences["all"][name]))
    fold = "" if config.fold is None else f"-fold-{config.fold}"
    ways = "".join(f"-{name}" if value is True else f"-{name}-{value}" for name, value in use.items())
    ways += "" if compared is None else f"-against-{Path(compared).name}"
    folder = Path(output) if output else run / "evaluation" / f"{config.protocol}{fold}-{split}{ways}"
    with held(folder) if accelerator.is_main_process else nullcontext():
        return write_report(folder, evaluated, accelerator, more)


def _evaluate(folder: Path, asked: Asked, accelerator: Accelerator) -> Evaluated:
    if (folder / f"fold-{asked.fold}").is_dir():
        folder = folder / f"fold-{asked.fold}"
    elif (folder / "fold-0").is_dir():
        if asked.protocol not in (None, "folds"):
            raise ValueError(
                f"{folder} holds all folds, got protocol {asked.protocol}: pass one of its folders fold-K"
            )
        members = (dataclasses.replace(asked, fold=fold) for fold in range(FOLDS))
        return pool([_evaluate(folder / f"fold-{one.fold}", one, accelerator) for one in members])
    run = RunFolder.read(folder)
    trained = TrainedModel.from_run(run.path)
    if "two_lungs" in asked.use and not trained.task.learns_masks:
        raise ValueError(f"two_lungs is of lung masks, and the model in {folder} makes none: leave it out")
    trained = dataclasses.replace(trained, settings=dataclasses.replace(trained.settings, **asked.use))
    own = run.config
    protocol = asked.protocol or own.protocol
    config = dataclasses.replace(
        own,
        data_dir=asked.data_dir,
        protocol=protocol,
        fold=own.fold if asked.fold is None and protocol == own.protocol else asked.fold,
        config_name=own.config_name if asked.protocol is None else "all",
        segmenter=own.segmenter if own.region == "image" else asked.segmenter or own.segmenter,
        image_size=trained.settings.image_size,
    )
    if config.segmenter and not Path(config.segmenter).is_dir():
        known = f"{folder} was trained with the lung model {config.segmenter}, which is not here"
        raise FileNotFoundError(f"{known}: pass a segmenter, its run folder or Hub id")
    part = load_run_splits(config, accelerator, (asked.split,))[asked.split]
    for source in (folder, config.segmenter):
        if source and asked.split != "train":
            chosen_on = asked.split == "validation" and source == folder
            seen = trained_ids(Path(source), ("train",) if chosen_on else ("train", "validation"))
            refuse_leaks(source, seen, part.rows, protocol)
    per_image = measure(trained, part, accelerator)
    return Evaluated(config, asked.split, per_image, part.rows, lambda id: trained)


def pool(folds: list[Evaluated]) -> Evaluated:
    """All folds as one: each X-ray with what the model that did not see it says."""
    predictors = {id: one.trained for one in folds for id in one.rows["id"]}
    per_image = sorted((row for one in folds for row in one.per_image), key=lambda row: row["id"])
    rows = datasets.concatenate_datasets([one.rows for one in folds])
    config = dataclasses.replace(folds[0].config, fold=None)
    return Evaluated(config, folds[0].part, per_image, rows, lambda id: predictors[id](id))
