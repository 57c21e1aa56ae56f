"""Calibrate a TB model, or scores of any origin, on local X-rays with confirmed status: calibrate()."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chest_xray_masks import __version__
from hub_models.evaluation.age_bands import age_band
from hub_models.evaluation.calibration import CrossFitted, Scores, calibrate_scores
from hub_models.evaluation.calibration_config import CalibrationConfig
from hub_models.evaluation.calibration_report import CALIBRATION_FILES, JSON_NAME, shown_interval, write_calibration
from hub_models.evaluation.calibration_warnings import CalibrationWarning
from hub_models.evaluation.score_tables import read_scores
from hub_models.evaluation.thresholds import Rule
from hub_models.files import check_output, held, is_hidden
from hub_models.hub_client.model_files import read_json

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hub_models.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)


def calibrate(config: CalibrationConfig) -> dict[str, Any]:
    """Return the values of `calibration.json`, written to `config.output` with a table, pictures and a report.

    Temperature and threshold are fitted to all X-rays. Every metric of the operating point is cross-fitted: of X-rays
    that fitted neither. With `config.write`, a new model folder gets both; the old one is not touched. Scores and
    truth alone need no torch.

    Raises:
        FileNotFoundError: no such model, data or table.
        FileExistsError: `output` holds other files, or `write` is there already.
        PermissionError, ConnectionError: a model cannot be had from the Hub.
        ValueError: the model was trained on a patient of the X-rays, one class is absent, a table cannot be read or
            matched, or no threshold reaches the rule.
    """
    check_output(config.output, "calibration", lambda name: is_hidden(name) or name in CALIBRATION_FILES)
    if config.write is not None and config.write.exists():
        raise FileExistsError(f"{config.write} is there already: pass another --write, a folder to make")
    if config.write is not None:
        write, output = config.write.resolve(), config.output.resolve()
        if write == output or write in output.parents or output in write.parents:
            raise ValueError(
                f"--write {config.write} and --output {config.output} must lie side by side: pass another"
            )
    _refuse_others(config)
    if config.model is None:
        scores = read_scores(str(config.predictions), str(config.truth), config.columns, config.positive)
        values, crossed = _calibrated(config, scores, {})
        with held(config.output):
            write_calibration(config.output, values, scores, crossed)
        return _told(config, values)
    from hub_models.runs.launch import make_accelerator  # late, as all that needs torch

    accelerator = make_accelerator()
    run, scores, about = _measured(config, accelerator)
    values, crossed = _calibrated(config, scores, about)
    with held(config.output, accelerator.is_main_process):
        if accelerator.is_main_process:
            write_calibration(config.output, values, scores, crossed)
            if config.write is not None:
                from hub_models.training.calibrated_model import write_calibrated

                write_calibrated(run, config.write, values, scores, crossed)
        accelerator.wait_for_everyone()
    return _told(config, values)


def _refuse_others(config: CalibrationConfig) -> None:
    """Raise ValueError where `config.output` holds a calibration by another rule, or on other X-rays."""
    if not (config.output / JSON_NAME).is_file():
        return
    before = read_json(config.output / JSON_NAME)
    now = {"data": config.source_name, "split": config.split, "rule": Rule.of(config).as_values()}
    if others := [name for name, value in now.items() if before.get(name) != value]:
        raise ValueError(f"{config.output} holds a calibration of other {', '.join(others)}: pass another --output")


def _calibrated(
    config: CalibrationConfig, scores: Scores, about: dict[str, Any]
) -> tuple[dict[str, Any], CrossFitted]:
    rule = Rule.of(config)
    values, crossed = calibrate_scores(scores, rule, config.prevalence, config.group_names)
    head = {"data": config.source_name, "split": config.split, "date": datetime.now(UTC).date().isoformat()}
    return head | {"version": __version__, "model": None, "synthetic": 0} | about | values, crossed


def _told(config: CalibrationConfig, values: dict[str, Any]) -> dict[str, Any]:
    for one in values["warnings"]:
        logger.warning("warning: %s", one["message"])
    rates = (f"{name} {shown_interval(values['after'][name], name)}" for name in ("sensitivity", "specificity"))
    scale = "calibrated probability" if "ece" in values["after"] else "score"
    logger.info(
        "threshold %.3g of the %s (%.3g as it came), rule %s, on %d X-rays, %d with TB; cross-fitted: %s",
        *(values["threshold"], scale, values["threshold_before_temperature"], Rule.of(config)),
        *(values["images"], values["positives"], ", ".join(rates)),
    )
    logger.info("wrote %s", " and ".join(str(one) for one in (config.output, config.write) if one is not None))
    return values


def _measured(config: CalibrationConfig, accelerator: "Accelerator") -> "tuple[RunFolder, Scores, dict[str, Any]]":
    """Return the model's run, its scores of the local X-rays, and what is said of both."""
    from dataclasses import replace

    from hub_models.dataset.sources import DataRequest
    from hub_models.evaluation.evaluate import EvaluationRequest, plan
    from hub_models.hub_client.downloads import local_run
    from hub_models.models.tasks import TASKS
    from hub_models.runs.data import count_synthetic
    from hub_models.runs.leaks import calibrated_ids
    from hub_models.runs.run_folder import RESULTS_NAME, RunFolder

    with accelerator.local_main_process_first():  # downloads what is not in the cache
        folder = local_run(str(config.model), config.revision)
        lungs = None if config.segmenter is None else str(local_run(config.segmenter, config.revision))
    run = RunFolder.read(folder)
    if TASKS[run.config.task].learns_masks:
        raise ValueError(f"{config.model} finds lungs, and has no threshold to calibrate: pass a TB model")
    if config.write is not None:
        run.require(RESULTS_NAME)
    data = DataRequest(str(config.data), "all", config.table, config.columns, config.positive, config.data_revision)
    request = EvaluationRequest(data, config.split or "all", None, None, lungs, {}, unseen=True)
    (planned,) = plan(folder, request, accelerator)
    task = replace(planned.trained.task, explained=False)  # its saliency is not needed
    evaluated = replace(planned, trained=replace(planned.trained, task=task)).measured(accelerator)
    per_image, before = evaluated.per_image, calibrated_ids(run, planned.rows, evaluated.pixels)
    synthetic = count_synthetic(planned.rows)
    warnings = (
        (synthetic, CalibrationWarning.SYNTHETIC.raised(synthetic=synthetic, all=len(per_image))),
        (run.data.get("synthetic"), CalibrationWarning.SYNTHETIC_MODEL.raised()),
        (before, CalibrationWarning.CALIBRATED_BEFORE.raised(before)),
    )
    scores = Scores(
        [row["id"] for row in per_image],
        [row["patient_id"] for row in per_image],
        np.array([row["label"] for row in per_image]),
        np.array([row["probability"] for row in per_image], float),
        run.settings.threshold,
        {name: [_group_of(row, name) for row in per_image] for name in ("sex", "age", "site")},
        tuple(warning for holds, warning in warnings if holds),
        frozenset(evaluated.pixels.values()),
    )
    name = folder.resolve().name if Path(str(config.model)).is_dir() else str(config.model)
    return run, scores, {"model": {"name": name, "digest": run.digest}, "synthetic": synthetic}


def _group_of(row: dict[str, Any], name: str) -> str:
    return age_band(row["age_years"]) if name == "age" else str(row[name] or "unknown")
