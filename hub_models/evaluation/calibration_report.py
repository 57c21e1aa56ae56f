"""What is kept of a calibration: `calibration.json`, `thresholds.csv`, pictures, and a report to read and print."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from hub_models.evaluation.calibration import CrossFitted, Scores
from hub_models.evaluation.calibration_pictures import draw_reliabilities, draw_scores, draw_thresholds
from hub_models.evaluation.thresholds import RATES
from hub_models.files import data_url, write_bytes, write_json

# the template escapes what a file's name or an id says
TEMPLATE = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
JSON_NAME, CSV_NAME, HTML_NAME = "calibration.json", "thresholds.csv", "calibration.html"
PICTURE_TEXTS = {
    "thresholds.png": "Sensitivity, specificity and the fraction referred at each threshold; bands are 95 % intervals",
    "reliability.png": "Fraction with TB against the probability, before and after the temperature",
    "scores.png": "The scores as they came, of each class",
}
CALIBRATION_FILES = (JSON_NAME, CSV_NAME, HTML_NAME, *PICTURE_TEXTS)
COUNTS = ("true_positives", "false_negatives", "false_positives", "true_negatives")
HEADINGS = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "referred": "Referred, of these",
    "referred_at_prevalence": "Referred, at the prevalence",
    "ppv": "PPV",
    "npv": "NPV",
    "tests_per_case": "Tests for a case found",
    "missed_per_1000": "Cases missed of 1,000 people",
    "auroc": "AUROC",
    "brier": "Brier score",
    "ece": "Expected calibration error",
}
ROWS_SHOWN = 20  # of the table, about


def write_calibration(folder: Path, values: Mapping[str, Any], scores: Scores, crossed: CrossFitted) -> None:
    """Write the files of a calibration into `folder`; `calibration.json` comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON_NAME).unlink(missing_ok=True)
    for name in PICTURE_TEXTS:
        (folder / name).unlink(missing_ok=True)
    draw_thresholds(values, folder / "thresholds.png")
    draw_scores(scores, values, folder / "scores.png")
    if scores.are_probabilities:
        draw_reliabilities(scores, crossed, folder / "reliability.png")
    write_bytes(table_csv(values["table"]).encode(), folder / CSV_NAME)
    write_bytes(calibration_html(folder, values).encode(), folder / HTML_NAME)
    write_json(values, folder / JSON_NAME)


def table_csv(table: list[dict[str, Any]]) -> str:
    """Return the table over thresholds as CSV: a value and its interval in three columns, empty where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{name}{end}" for name in RATES for end in ("", "_low", "_high")]
    writer.writerow(["threshold", "threshold_before_temperature", *COUNTS, *ends])
    for row in table:
        metrics = [row[name][key] for name in RATES for key in ("value", "low", "high")]
        writer.writerow(
            [row["threshold"], row["threshold_before_temperature"], *(row[name] for name in COUNTS), *metrics]
        )
    return text.getvalue()


def calibration_html(folder: Path, values: Mapping[str, Any]) -> str:
    """Return the report as an HTML document that needs no other file; it shows the pictures in `folder`."""
    pictures = [
        (data_url((folder / name).read_bytes(), "image/png"), text)
        for name, text in PICTURE_TEXTS.items()
        if (folder / name).is_file()
    ]
    table = values["table"]
    step = max(1, round(len(table) / ROWS_SHOWN))
    before, after = values["before"], values["after"]
    names = [name for name in HEADINGS if name in after]
    shown = {
        "values": values,
        "pictures": pictures,
        "table": [_cells(row) for row in table[::step]],
        "columns": [HEADINGS[name] for name in RATES],
        "metrics": [
            (HEADINGS[name], shown_interval(before.get(name), name), shown_interval(after[name], name))
            for name in names
        ],
        "groups": {name: _group_cells(group) for name, group in values["groups"].items()},
        "number": shown_number,
        "rule": RULE_TEXTS[values["rule"]["name"]].format(value=values["rule"]["value"]),
    }
    return re.sub(r"\n\s*\n+", "\n", TEMPLATE.get_template("calibration.html").render(shown))


RULE_TEXTS = {
    "youden": "the largest sum of sensitivity and specificity (Youden)",
    "sensitivity": "the highest threshold with a sensitivity of at least {value:g}",
    "specificity": "the lowest threshold with a specificity of at least {value:g}",
    "tests_per_case": "the largest sensitivity with at most {value:g} tests for a case found",
}


def _cells(row: Mapping[str, Any]) -> list[str]:
    thresholds = [shown_number(row[name]) for name in ("threshold", "threshold_before_temperature")]
    return [*thresholds, *(shown_interval(row[name], name) for name in RATES)]


def _group_cells(group: Mapping[str, Any]) -> list[str]:
    own = group.get("own", {})
    threshold = "" if group["threshold"] is None else shown_number(group["threshold"])
    metrics = [shown_interval(group["common"][name], name) for name in RATES[:2]]
    return [str(group["positives"]), str(group["negatives"]), *metrics, threshold] + [
        shown_interval(own.get(name), name) for name in RATES[:2]
    ]


def shown_number(value: float) -> str:
    """Return a threshold with three digits that count."""
    return f"{value:.3g}"


def shown_interval(metric: Mapping[str, float | None] | None, name: str) -> str:
    """Return a metric with its interval; a dash where it is undefined."""
    if metric is None or metric["value"] is None:
        return "–"
    digits = 1 if name in ("tests_per_case", "missed_per_1000") else 3
    interval = "" if metric["low"] is None else f" [{metric['low']:.{digits}f}, {metric['high']:.{digits}f}]"
    return f"{metric['value']:.{digits}f}{interval}"
