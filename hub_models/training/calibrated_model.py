"""Write a calibrated model as a new run folder: weights, config and card with the new operating point."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hub_models.evaluation.calibration import CrossFitted, Scores
from hub_models.evaluation.charts import draw_probabilities, draw_reliability, draw_roc
from hub_models.evaluation.measure import metrics_of, who_triage_minimum, write_per_image
from hub_models.files import new_folder, write_json
from hub_models.hub_client.downloads import RUN_FILES
from hub_models.models.settings import HISTORY_KEY, OperatingPoint, Settings
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel, save_model
from hub_models.runs.config import CONFIG_NAME
from hub_models.runs.leaks import calibrated_pixels
from hub_models.runs.notes import NOTES_NAME
from hub_models.runs.run_folder import DATA_NAME, EMISSIONS_NAME, PER_IMAGE_NAME, RESULTS_NAME, RunFolder, short_digest
from hub_models.training.optimization import divide_logits
from hub_models.training.train import write_card

KEPT_FILES = (CONFIG_NAME, "preprocessor_config.json", NOTES_NAME, EMISSIONS_NAME)
LOG_ODDS_MARGIN = 1e-5  # log odds: the X-ray that set the threshold stays above it after rounding to float32
OF_THRESHOLD = (
    *("sensitivity", "specificity", "sensitivity_at_half", "specificity_at_half"),
    *("brier", "ece"),
)
REDRAWN = {"roc.png": draw_roc, "reliability.png": draw_reliability, "probabilities.png": draw_probabilities}
NOBODY = float(np.nextafter(1, 2))  # threshold at which no probability is positive
UNKNOWN = {"value": None, "low": None, "high": None}


def lowered(threshold: float) -> float:
    """Return a threshold of probabilities in (0, 1) lowered by `LOG_ODDS_MARGIN`."""
    return float(1 / (1 + np.exp(LOG_ODDS_MARGIN - np.log(threshold / (1 - threshold)))))


def write_calibrated(
    run: RunFolder, folder: Path, values: Mapping[str, Any], scores: Scores, crossed: CrossFitted
) -> None:
    """Write the model of `run` with the operating point in `values` to a new `folder`, whole or not at all.

    Metrics of its test X-rays are computed again from the rows of `run`. An X-ray of a patient who took part in the
    calibration counts as its fold called it there. Without the rows, as in a model of the Hub, the metrics that need a
    threshold are undefined. `run` is not touched.
    """
    run.require(*RUN_FILES, RESULTS_NAME)
    settings, trained = run.settings, TrainedModel.from_run(run.path)
    temperature, threshold = values["temperature"], lowered(values["threshold"])
    calibrated = replace(settings, temperature=settings.temperature * temperature, threshold=threshold)
    point = OperatingPoint(
        date=values["date"],
        data=values["data"],
        images=values["images"],
        patients=values["patients"],
        positives=values["positives"],
        synthetic=values["synthetic"],
        rule=values["rule"]["name"] + (f" {value:g}" if (value := values["rule"]["value"]) is not None else ""),
        prevalence=values["prevalence"],
        temperature=calibrated.temperature,
        threshold=threshold,
        sensitivity=values["after"]["sensitivity"],
        specificity=values["after"]["specificity"],
        temperature_before=settings.temperature,
        threshold_before=settings.threshold,
    )
    model = trained.model
    divide_logits(model, temperature)
    calibrated.store(model)
    setattr(model.config, HISTORY_KEY, [*run.history, point])
    patients = {short_digest(patient) for patient in scores.patients} | set(run.data.get("calibrated", ()))
    with new_folder(folder) as new:
        save_model(model, new)
        for name in KEPT_FILES:
            if (run.path / name).is_file():
                shutil.copyfile(run.path / name, new / name)
        pixels = run.data.get("pixels", {}) | {"calibrated": sorted(scores.pixels | calibrated_pixels(run.data))}
        write_json(dict(run.data) | {"calibrated": sorted(patients), "pixels": pixels}, new / DATA_NAME)
        _write_results(run, new, calibrated, temperature, scores, crossed)
        write_card(new, folder.absolute().name)


def _write_results(
    run: RunFolder, folder: Path, settings: Settings, temperature: float, scores: Scores, crossed: CrossFitted
) -> None:
    """Write the results of the test X-rays at the new operating point, with rows and pictures where there are rows."""
    if not (run.path / PER_IMAGE_NAME).is_file():
        write_json(run.results | _without_threshold(run.results), folder / RESULTS_NAME)
        return
    index_of = {patient: index for index, patient in enumerate(scores.patients)}
    rows = []
    for row in run.per_image:
        index = index_of.get(row["patient_id"])
        divisor = temperature if index is None else float(crossed.temperatures[index])
        limit = settings.threshold if index is None else min(float(crossed.thresholds[index]), NOBODY)
        log_odds = row["log_odds"] / divisor
        probability = float(1 / (1 + np.exp(-log_odds)))
        rows.append(row | {"log_odds": log_odds, "probability": probability, "threshold": limit})
    write_per_image(rows, folder)
    task = TASKS[settings.task]
    write_json(run.results | metrics_of(rows, task), folder / RESULTS_NAME)
    for name, draw in REDRAWN.items():
        draw(rows, folder / name)


def _without_threshold(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what takes the place of metrics at the old operating point."""
    metrics = {
        key: group | {name: UNKNOWN for name in OF_THRESHOLD if name in group}
        for key, group in results["metrics"].items()
    }
    return {"metrics": metrics, "worst": []} | who_triage_minimum(metrics)
