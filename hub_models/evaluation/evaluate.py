"""What is kept of an evaluation: `results.json`, `per_image.parquet`, pictures; and evaluate_run(), which makes it."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
from accelerate import Accelerator

from chest_xray_masks import SPLITS
from hub_models.dataset.folds import FOLDS
from hub_models.dataset.sources import DataRequest
from hub_models.evaluation.charts import Rows
from hub_models.evaluation.measure import compare, measure, metrics_of, write_per_image
from hub_models.evaluation.pictures import PICTURES
from hub_models.files import held, write_json
from hub_models.hub_client.downloads import local_run
from hub_models.hub_client.model_files import read_json
from hub_models.metrics.intervals import Interval
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import CONFIG_NAME, TrainConfig
from hub_models.runs.data import count_synthetic, load_run_rows, prepare_splits, request_of
from hub_models.runs.launch import circumstances, make_accelerator
from hub_models.runs.leaks import (
    LEARNED,
    Seen,
    check_leaks,
    check_pixels,
    pixels_of,
    refuse_calibrated,
    seen_in,
    trained_on,
)
from hub_models.runs.run_folder import RESULTS_NAME, RunFolder

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Evaluated:
    """One model, or one per fold, on one split."""

    config: TrainConfig
    split: str
    per_image: Rows
    rows: datasets.Dataset  # the original ones
    trained: Callable[[str], TrainedModel]  # the model that predicts an X-ray, by its id
    pixels: Mapping[str, str] = dataclasses.field(default_factory=dict)  # digest of an X-ray's gray pixels, by its id


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """X-rays to test on, and the settings of a model that differ for it (`use`)."""

    data: DataRequest
    split: str  # all: every X-ray
    protocol: str | None
    fold: int | None
    segmenter: str | None
    use: dict[str, Any]
    unseen: bool = False  # also refuse the train and validation X-rays of a model on those splits


@dataclasses.dataclass(frozen=True)
class Planned:
    """One model and the X-rays to test it on, checked; nothing is decoded yet."""

    run: RunFolder
    request: EvaluationRequest
    config: TrainConfig
    rows: datasets.Dataset  # the original ones
    trained: TrainedModel
    seen: dict[str, Seen]  # X-rays of training, by the model's place; empty where they are tested on

    def measured(self, accelerator: Accelerator) -> Evaluated:
        """Return the model with its metrics."""
        name, trained = self.request.split, self.trained
        split = prepare_splits(self.config, {name: self.rows}, accelerator, trained.resample)[name]
        for source, seen in self.seen.items():
            check_pixels(source, seen.pixels, split)
        pixels = pixels_of(split)
        if not self.request.unseen:
            refuse_calibrated(self.run, self.rows, pixels)
        per_image = measure(trained, split, accelerator)
        return Evaluated(self.config, name, per_image, split.rows, lambda id: trained, pixels)


def write_report(folder: Path, evaluated: Evaluated, accelerator: Accelerator, more: dict[str, Any]) -> dict[str, Any]:
    """Return `results.json` as written into `folder`, after the per-image rows and the pictures.

    `metrics` holds each metric with its 95 % interval, per group; `more` is added at the end.
    """
    config, per_image = evaluated.config, evaluated.per_image
    results: dict[str, Any] = {"task": config.task, "protocol": config.protocol, "fold": config.fold}
    results |= {"split": evaluated.split, "images": len(per_image)} | metrics_of(per_image, TASKS[config.task]) | more
    request = request_of(config)
    if config.test_data or not request.is_set:
        results |= {"source": dataclasses.replace(request, data=config.test_data or config.data_dir).name}
    if synthetic := count_synthetic(evaluated.rows):
        results |= {"synthetic": synthetic}
    results |= circumstances(config, accelerator)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULTS_NAME).unlink(missing_ok=True)  # the old one does not stand for the new rows
        write_per_image(per_image, folder)
        for name, draw in PICTURES[config.task].items():
            draw(per_image, evaluated.rows, evaluated.trained, folder / name)
        write_json(results, folder / RESULTS_NAME)
    accelerator.wait_for_everyone()
    logger.info("%s %s", evaluated.split, shown(results))
    _warn_of_chance(results)
    return results


def _warn_of_chance(results: dict[str, Any]) -> None:
    """Warn where the main metric, or its interval, is not above that of a model that has learned nothing."""
    name, chance = results["main_metric"], TASKS[results["task"]].chance
    found = results["metrics"]["all"][name]
    if chance is None or found["value"] is None:
        return
    if found["value"] <= chance:
        logger.warning("warning: %s %.3f is no better than chance (%g): do not use", name, found["value"], chance)
    elif found["low"] is not None and found["low"] <= chance:
        said = "warning: %s %.3f [%.3f, %.3f] may be chance (%g): test on more X-rays, or train for longer"
        logger.warning(said, name, found["value"], found["low"], found["high"], chance)


def shown(results: dict[str, Any]) -> str:
    """Return one line: the main metric with its interval, for each site and all."""
    name = results["main_metric"]
    groups = {key: group for key, group in results["metrics"].items() if key == "all" or key.startswith("site")}
    texts = [f"{key.removeprefix('site: ')} {_shown(group[name])} (n {group['n']})" for key, group in groups.items()]
    return f"{name}: {', '.join(texts)}"


def _shown(metric: Interval) -> str:
    if metric["value"] is None:
        return "undefined"
    interval = "" if metric["low"] is None else f" [{metric['low']:.3f}, {metric['high']:.3f}]"
    return f"{metric['value']:.4f}{interval}"


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
    table: str | None = None,
    columns: str | None = None,
    positive: str | None = None,
    data_revision: str | None = None,
) -> dict[str, Any]:
    """Return the results of a run's model on X-rays, written to `output` (default: `evaluation/` in the run folder).

    `model`, `segmenter` and `compared` are run folders or Hub ids; `revision` is a branch, tag or commit of the Hub.
    `protocol` and `fold` are those of the run by default; split `all` tests on every X-ray. The rows of a folder of
    all folds are pooled. `compared` is another model, whose differences on the same X-rays are added. `views` is a
    count of slightly moved views of each X-ray (`tasks.VIEWS`). `two_lungs` keeps the two largest regions of a lung
    mask and fills their holes. `table`, `columns`, `positive` and `data_revision` are of the X-rays (see
    `dataset.sources.DataRequest`), and those of the run where it was trained on them.

    Raises:
        FileNotFoundError: a run folder is not whole, or there is no X-ray at `data_dir`.
        PermissionError, ConnectionError: a model cannot be had from the Hub.
        ValueError: the model was trained on patients it would be tested on, or cannot be tested on these X-rays;
            `output` is a run folder, or not given for a model of the Hub.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, all, got {split}")
    data = DataRequest(str(data_dir), "all", table, columns, positive, data_revision)
    data.check()
    accelerator = make_accelerator()
    with accelerator.local_main_process_first():  # downloads what is not in the cache
        run = local_run(model, revision)
        lungs = None if segmenter is None else str(local_run(segmenter, revision))
        other = None if compared is None else local_run(compared, revision)
    if output is None and run != Path(model):
        raise ValueError(f"{model} is not a folder to write into: pass --output, a folder for the results")
    if output is not None and (Path(output) / CONFIG_NAME).exists():
        raise ValueError(f"output {output} is a run folder, whose own results would be lost: pass another")
    use = {name: value for name, value in (("views", views), ("two_lungs", two_lungs)) if value}
    request = EvaluationRequest(data, split, protocol, fold, lungs, use)
    planned, others = plan(run, request, accelerator), list[Planned]()
    config = dataclasses.replace(planned[0].config, fold=None) if len(planned) > 1 else planned[0].config
    if other is not None:
        same = dataclasses.replace(request, protocol=config.protocol, fold=config.fold)
        others = plan(other, same, accelerator)
        if (task := others[0].config.task) != config.task:
            raise ValueError(f"{compared} is a model for {task}, {model} for {config.task}")
    folder = Path(output) if output else run / "evaluation" / _folder_name(config, request, compared)
    _refuse_others(folder, config)
    with held(folder, accelerator.is_main_process):
        if synthetic := planned[0].run.data.get("synthetic", 0):
            logger.warning("warning: %s was trained on synthetic X-rays (%d): of no use on patients", model, synthetic)
        evaluated, more = pool([one.measured(accelerator) for one in planned]), dict[str, Any](use=use)
        more |= {"trained_on_synthetic": synthetic} if synthetic else {}
        if others:
            second = pool([one.measured(accelerator) for one in others])
            differences = compare(evaluated.per_image, second.per_image, TASKS[config.task])
            more |= {"compared_with": str(compared), "differences": differences}
            main = TASKS[config.task].main_metric
            logger.info("%s: %s less %s: %s", main, model, compared, _shown(differences["all"][main]))
        results = write_report(folder, evaluated, accelerator, more)
    logger.info("wrote %s", folder)
    return results


def _folder_name(config: TrainConfig, request: EvaluationRequest, compared: str | Path | None) -> str:
    """Return the name of the folder of an evaluation in the run folder, which says what was evaluated."""
    fold = "" if config.fold is None else f"-fold-{config.fold}"
    use = (f"-{name}" if value is True else f"-{name}-{value}" for name, value in request.use.items())
    against = "" if compared is None else f"-against-{Path(compared).name}"
    return "".join((config.protocol, fold, f"-{request.split}", *use, against))


def _refuse_others(folder: Path, config: TrainConfig) -> None:
    """Raise ValueError where `folder` holds the results of an evaluation on other X-rays than those of `config`."""
    if (folder / RESULTS_NAME).is_file():
        before = read_json(folder / RESULTS_NAME).get("config", {}).get("data_dir")
        if before and Path(before).resolve() != Path(config.data_dir).resolve():
            raise ValueError(
                f"{folder} holds the results on {before}: pass another --output for those on other X-rays"
            )


def plan(folder: Path, request: EvaluationRequest, accelerator: Accelerator) -> list[Planned]:
    """Return the model of a run folder, or those of all folds, each with the requested X-rays, all checked."""
    if (folder / f"fold-{request.fold}").is_dir():
        folder = folder / f"fold-{request.fold}"
    elif (folder / "fold-0").is_dir():
        if request.split == "all":
            raise ValueError(
                f"{folder} holds all folds, each tested on its own X-rays: pass one of its folders fold-K"
            )
        if request.protocol not in (None, "folds"):
            way = "pass one of its folders fold-K"
            raise ValueError(f"{folder} holds all folds, got protocol {request.protocol}: {way}")
        members = [dataclasses.replace(request, fold=fold) for fold in range(FOLDS)]
        return [one for member in members for one in plan(folder / f"fold-{member.fold}", member, accelerator)]
    trained = TrainedModel.from_run(folder)
    if "two_lungs" in request.use and not trained.task.learns_masks:
        raise ValueError(f"two_lungs is only for lung masks, but the model in {folder} makes none: leave it out")
    trained = dataclasses.replace(trained, settings=dataclasses.replace(trained.settings, **request.use))
    run = RunFolder.read(folder)
    config = _test_config(run, request, trained.settings.image_size)
    rows, seen = load_run_rows(config, accelerator, (request.split,))[request.split], dict[str, Seen]()
    if request.split != "train" or request.unseen:
        chosen_on = request.split == "validation" and not request.unseen
        seen[str(folder)] = seen_in(run.data, ("train",) if chosen_on else LEARNED)
        if config.segmenter:
            seen[config.segmenter] = trained_on(Path(config.segmenter))
    for source, known in seen.items():
        check_leaks(source, known, rows, config.protocol)
    if not request.unseen:
        refuse_calibrated(run, rows)
    return [Planned(run, request, config, rows, trained, seen)]


def _test_config(run: RunFolder, request: EvaluationRequest, image_size: int) -> TrainConfig:
    """Return the config of a run with the X-rays of a request in place of its own."""
    own, data, protocol = run.config, request.data, request.protocol or run.config.protocol
    same = Path(own.data_dir).resolve() == Path(data.data).resolve()
    if same and data == DataRequest(data.data):  # the same X-rays mean the same
        data = dataclasses.replace(request_of(own), config_name="all")
    config = dataclasses.replace(
        own,
        data_dir=data.data,
        test_data=None,
        table=data.table,
        columns=data.columns,
        positive=data.positive,
        data_revision=data.revision,
        protocol=protocol,  # type: ignore[arg-type]  # the config itself refuses an unknown one
        fold=own.fold if request.fold is None and protocol == own.protocol else request.fold,
        config_name=own.config_name if request.protocol is None else "all",
        segmenter=own.segmenter if own.region == "image" else request.segmenter or own.segmenter,
        image_size=image_size,
    )
    if config.segmenter and not Path(config.segmenter).is_dir():
        known = f"{run.path} was trained with the lung model {config.segmenter}, which is not here"
        raise FileNotFoundError(f"{known}: pass a segmenter, its run folder or Hub id")
    return config


def pool(folds: list[Evaluated]) -> Evaluated:
    """Return all folds as one: each X-ray with the prediction of the model that was not trained on it."""
    if len(folds) == 1:
        return folds[0]
    trained = {id: one.trained for one in folds for id in one.rows["id"]}
    per_image = sorted((row for one in folds for row in one.per_image), key=lambda row: row["id"])
    rows = datasets.concatenate_datasets([one.rows for one in folds])
    config = dataclasses.replace(folds[0].config, fold=None)
    return Evaluated(config, folds[0].split, per_image, rows, lambda id: trained[id](id))
