"""Markdown tables of a run's card: every figure with its interval, as results.json has it, rounded."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chest_xray_masks import SITE_OF_PREFIX, SPLITS
from hub_models.models.tasks import TASKS
from hub_models.runs.config import CONFIG_NAME, PLACES, renamed
from hub_models.runs.run_folder import RunFolder, read_results, site_of, tested_groups

UNDEFINED = "–"
# what evaluating a model elsewhere, or training another one alike, may change in its config
ELSEWHERE = {"data_dir", "protocol", "fold", "config_name", "segmenter", "image_size"}
SIBLING = {*PLACES, "protocol", "fold", "config_name", "segmenter", "model"}


@dataclass(frozen=True)
class Column:
    """A figure of results.json as a table's column: its heading, its decimals, and its name on the Hub."""

    figure: str
    heading: str
    digits: int = 3
    metric: str = ""


_DICE = (Column("dice", "Dice"), Column("dice_median", "median Dice"))
_PERCENT = Column("hd95_percent", "HD95, % of the diagonal", 1)
_AUROC, _BEST = Column("auroc", "AUROC", metric="roc_auc"), "specificity at the threshold of 90 % sensitivity"
_CALLED = (Column("sensitivity", "sensitivity"), Column("specificity", "specificity"))
# Columns of each table, by task.
COLUMNS: dict[str, dict[str, tuple[Column, ...]]] = {
    "lung_segmentation": {
        "results": (*_DICE, Column("iou", "IoU"), Column("hd95_mm", "HD95, mm", 1), _PERCENT),
        "across": (*_DICE, _PERCENT),
        "subgroups": (*_DICE, _PERCENT),
    },
    "tb_classification": {
        "results": (_AUROC, Column("average_precision", "average precision")),
        "operating": (*_CALLED, Column("specificity_at_90_sensitivity", _BEST)),
        "calibration": (Column("brier", "Brier", metric="brier_score"), Column("ece", "ECE")),
        "saliency": (
            Column("saliency_in_lungs", "saliency in the lungs"),
            Column("lungs_fraction", "area of the lungs"),
        ),
        "across": (_AUROC, *_CALLED),
        "subgroups": (_AUROC, *_CALLED),
    },
}


def cell(figure: dict[str, float | None], digits: int) -> str:
    """A figure with its interval, rounded: "0.970 [0.966, 0.973]"; a dash where it is undefined."""
    if figure["value"] is None:
        return UNDEFINED
    text = f"{figure['value']:.{digits}f}"
    return text if figure["low"] is None else f"{text} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown table; empty without rows."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    ruler = "|" + "---|" * len(headings)
    return "\n".join(["| " + " | ".join(headings) + " |", ruler, *lines]) if lines else ""


def tables(run: RunFolder, also: Sequence[Path]) -> dict[str, str]:
    """Every table of a card by name, those without rows empty."""
    metrics, columns = run.results["metrics"], COLUMNS[run.config.task]
    sites = run.groups
    others = [key for key in metrics if key.startswith(("sex: ", "age: "))]
    made = {name: _of_groups(metrics, sites, columns.get(name, ())) for name in ("results", "calibration", "saliency")}
    made |= {"subgroups": _of_groups(metrics, others, columns["subgroups"]), "operating": _operating(run, sites)}
    worst = run.results.get("worst") or [{}]
    held = [[f"{value:.3f}" if isinstance(value, float) else value for value in row.values()] for row in worst if row]
    names = {"id": "X-ray", "dice": "Dice", "label": "label (1 is tuberculosis)", "probability": "probability"}
    made |= {"worst": table([names[name] for name in worst[0]], held)}
    made |= {"headline": headline(run)}
    return made | {"data": _data(run), "across": _across(run, also), "environment": _environment(run)} | _carbon(run)


def _label(key: str) -> str:
    return key.replace("age: ", "age ").split(": ")[-1]


def _of_groups(metrics: dict[str, Any], keys: list[str], columns: tuple[Column, ...]) -> str:
    known = [column for column in columns if column.figure in metrics["all"]]  # older results lack some
    rows = [
        [_label(key), metrics[key]["n"], metrics[key]["patients"]]
        + [cell(metrics[key][column.figure], column.digits) for column in known]
        for key in keys
    ]
    return table(["group", "X-rays", "patients", *(column.heading for column in known)], rows if known else [])


def _operating(run: RunFolder, keys: list[str]) -> str:
    if "who_triage_minimum" not in run.results:
        return ""
    metrics, reached = run.results["metrics"], run.results["who_triage_minimum"]["groups"]
    columns = COLUMNS[run.config.task]["operating"]
    headings = ["group", "X-rays", *(column.heading for column in columns)]
    rows = [
        [_label(key), metrics[key]["n"], *(cell(metrics[key][column.figure], column.digits) for column in columns)]
        + ["yes" if reached[key][how] else "no" for how in ("met", "reachable")]
        for key in keys
    ]
    return table([*headings, "WHO minimum at the stored threshold", "at the best one"], rows)


def _data(run: RunFolder) -> str:
    labels, rows = TASKS["tb_classification"].labels, []
    for part in SPLITS:
        ids = run.ids[part]
        sites = [sum(site_of(id) == site for id in ids) for site in SITE_OF_PREFIX.values()]
        rows.append([part, len(ids), *sites, *(sum(id.endswith(f"_{label}") for id in ids) for label in (0, 1))])
    return table(["part", "X-rays", *SITE_OF_PREFIX.values(), *labels], rows)


def _across(run: RunFolder, also: Sequence[Path]) -> str:
    """Figures of other evaluations and of other runs; of the run itself beside them, and where it is across sites."""
    columns, rows = COLUMNS[run.config.task]["across"], []
    tested = {_label(key) for key in run.groups} - {"all"}
    own = [(run.results, run, "this one")] if also or not tested <= set(run.train_sites) else []
    for results, trained, model in [*own, *(_other(run, Path(folder)) for folder in also)]:
        for key in tested_groups(results):
            where = [_label(key), *([] if results["split"] == "test" else [results["split"]])]
            where += [f"{name} {value}" for name, value in results.get("use", {}).items()]
            metrics = results["metrics"][key]
            shown = [cell(metrics[column.figure], column.digits) for column in columns]
            on = f"{' and '.join(trained.train_sites)} ({len(trained.data['train'])})"
            rows.append([model, on, ", ".join(where), metrics["n"], *shown, commit_of(results)])
    headings = [
        "model",
        "trained on (X-rays)",
        "tested on",
        "X-rays",
        *(column.heading for column in columns),
        "commit",
    ]
    return table(headings, rows)


def _other(run: RunFolder, folder: Path) -> tuple[dict[str, Any], RunFolder, str]:
    """Results in a folder, the run that made the model, and how that model stands to this one.

    Raises:
        ValueError: they are of another task, or an evaluation of another model.
    """
    results, is_run = read_results(folder), (folder / CONFIG_NAME).is_file()
    if results["task"] != run.config.task:
        raise ValueError(f"{folder} is of {results['task']}, {run.path} of {run.config.task}: leave it out")
    mine, theirs = asdict(run.config), renamed(results["config"])
    allowed = SIBLING if is_run else ELSEWHERE
    differing = [name for name in mine if name not in allowed and mine[name] != theirs.get(name, mine[name])]
    if is_run:
        return (
            results,
            RunFolder.read(folder),
            "another" + (f" (differs in {', '.join(differing)})" if differing else ""),
        )
    if differing:
        raise ValueError(f"{folder} is the evaluation of another model than {run.path}: pass that model's run folder")
    return results, run, "this one"


def commit_of(results: dict[str, Any]) -> str:
    """Short commit of the code that made the results, with a + where files were changed since."""
    commit = results["commit"] or "not known"
    return commit if len(commit) < 40 else f"{commit[:7]}{commit[40:]}"


def _environment(run: RunFolder) -> str:
    launch, versions = run.results["launch"], run.results["versions"]
    rows = [["commit of chest-xray-masks", run.results["commit"] or "not known"], ["processes", launch["processes"]]]
    return table(["of", "value"], [*rows, ["mixed precision", launch["mixed_precision"]], *versions.items()])


def _carbon(run: RunFolder) -> dict[str, str]:
    names = {"emissions": "CO2 equivalent, kg", "energy_consumed": "energy, kWh"}
    return {
        "carbon": table(
            ["of the training", "value"], [[names[name], f"{value:.3g}"] for name, value in run.emissions.items()]
        )
    }


def main_heading(run: RunFolder) -> str:
    """Heading of the figure that the run is judged by."""
    columns = COLUMNS[run.config.task]["results"]
    return next(column.heading for column in columns if column.figure == run.results["main_metric"])


def headline(run: RunFolder) -> str:
    """The main figure with its interval, per site."""
    name, metrics = run.results["main_metric"], run.results["metrics"]
    keys = run.groups
    texts = [f"{cell(metrics[key][name], 3)} on {_label(key)} (n {metrics[key]['n']})" for key in keys]
    return f"{main_heading(run)} on X-rays that it was neither trained nor chosen on: {', '.join(texts)}"
