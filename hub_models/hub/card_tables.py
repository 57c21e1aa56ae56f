"""The tables of a run's card: every metric of results.json with its interval, rounded."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from chest_xray_masks import SITE_OF_PREFIX, SPLITS
from hub_models.hub.templates import markdown_table
from hub_models.models.tasks import TASKS
from hub_models.runs.config import CONFIG_NAME, PLACES, renamed
from hub_models.runs.run_folder import RunFolder, read_results, site_of, tested_groups

UNDEFINED = "–"
# fields of the config that may differ: in another evaluation of the model, and in another run of the same kind
ELSEWHERE = {"data_dir", "protocol", "fold", "config_name", "segmenter", "image_size"}
SIBLING = {*PLACES, "protocol", "fold", "config_name", "segmenter", "model"}


class Column(NamedTuple):
    """A metric of results.json as a column of a table; `other_name` is the Hub's name for it, where that differs."""

    metric: str
    heading: str
    digits: int = 3
    other_name: str = ""

    @property
    def hub_name(self) -> str:
        """Return the Hub's name of the metric."""
        return self.other_name or self.metric

    def cell(self, group: dict[str, Any]) -> str:
        """Return the metric of a group with its interval, as "0.970 [0.966, 0.973]"; a dash where it is undefined."""
        value, low, high = (group[self.metric][name] for name in ("value", "low", "high"))
        if value is None:
            return UNDEFINED
        interval = "" if low is None else f" [{low:.{self.digits}f}, {high:.{self.digits}f}]"
        return f"{value:.{self.digits}f}{interval}"


_DICE = (Column("dice", "Dice"), Column("dice_median", "median Dice"))
_PERCENT = Column("hd95_percent", "HD95, % of the diagonal", 1)
_AUROC = Column("auroc", "AUROC", other_name="roc_auc")
_CALLED = (Column("sensitivity", "sensitivity"), Column("specificity", "specificity"))
_BEST = Column("specificity_at_90_sensitivity", "specificity at the threshold of 90 % sensitivity")
# by task and table
METRIC_COLUMNS: dict[str, dict[str, tuple[Column, ...]]] = {
    "lung_segmentation": {
        "results": (*_DICE, Column("iou", "IoU"), Column("hd95_mm", "HD95, mm", 1), _PERCENT),
        "across": (*_DICE, _PERCENT),
        "subgroups": (*_DICE, _PERCENT),
    },
    "tb_classification": {
        "results": (_AUROC, Column("average_precision", "average precision")),
        "operating": (*_CALLED, _BEST),
        "calibration": (Column("brier", "Brier", other_name="brier_score"), Column("ece", "ECE")),
        "saliency": (
            Column("saliency_in_lungs", "saliency in the lungs"),
            Column("lungs_fraction", "area of the lungs"),
        ),
        "across": (_AUROC, *_CALLED),
        "subgroups": (_AUROC, *_CALLED),
    },
}


def tables(run: RunFolder, also: Sequence[Path]) -> dict[str, str]:
    """Return every table of a card by name, empty without rows, and the headline."""
    metrics, columns, worst = run.results["metrics"], METRIC_COLUMNS[run.config.task], run.public[1].get("worst") or []
    names = {"id": "X-ray", "dice": "Dice", "label": "label (1 is tuberculosis)", "probability": "probability"}
    tracked = {"emissions": "CO2 equivalent, kg", "energy_consumed": "energy, kWh"}
    by_site = ("results", "calibration", "saliency")
    return {name: _groups(metrics, run.groups, columns.get(name, ())) for name in by_site} | {
        "subgroups": _groups(metrics, [key for key in metrics if key[:5] in ("sex: ", "age: ")], columns["subgroups"]),
        "findings": _of_findings(run),
        "operating": _operating(run),
        "history": _history(run),
        "worst": markdown_table(
            [names[name] for row in worst[:1] for name in row],
            [[f"{value:.3f}" if isinstance(value, float) else value for value in row.values()] for row in worst],
        ),
        "headline": _headline(run),
        "data": _data(run),
        "across": _across(run, also),
        "environment": _environment(run),
        "carbon": markdown_table(
            ["of the training", "value"], [(tracked[name], f"{value:.3g}") for name, value in run.emissions.items()]
        ),
    }


def _label(key: str) -> str:
    return key.replace("age: ", "age ").replace("activity: ", "activity ").split(": ")[-1]


def _groups(metrics: dict[str, Any], keys: list[str], columns: tuple[Column, ...]) -> str:
    known = [column for column in columns if column.metric in metrics["all"]]  # older results lack some
    rows = [
        [_label(key), metrics[key]["n"], metrics[key]["patients"], *(column.cell(metrics[key]) for column in known)]
        for key in keys
    ]
    return markdown_table(["group", "X-rays", "patients", *(one.heading for one in known)], rows if known else [])


def _of_findings(run: RunFolder) -> str:
    """Return a row for each finding and activity that readings of test X-rays say; empty for older results."""
    columns, groups = METRIC_COLUMNS[run.config.task]["subgroups"], run.results["metrics"]
    rows = [
        [_label(key), group["cases"], *(column.cell(group) for column in columns)]
        for key, group in groups.items()
        if "cases" in group
    ]
    return markdown_table(["the reading says", "X-rays", *(column.heading for column in columns)], rows)


def _operating(run: RunFolder) -> str:
    if "who_triage_minimum" not in run.results:
        return ""
    reached, columns = run.results["who_triage_minimum"]["groups"], METRIC_COLUMNS[run.config.task]["operating"]
    rows = [
        [_label(key), group["n"], *(column.cell(group) for column in columns)]
        + ["yes" if reached[key][how] else "no" for how in ("met", "reachable")]
        for key, group in ((key, run.results["metrics"][key]) for key in run.groups)
    ]
    headings = ["group", "X-rays", *(column.heading for column in columns)]
    return markdown_table([*headings, "WHO minimum at the stored threshold", "at the best one"], rows)


def _history(run: RunFolder) -> str:
    """Return the calibrations on local X-rays, the newest last."""
    columns = [Column(name, name) for name in ("sensitivity", "specificity")]
    rows = [
        [one["date"], one["data"], one["images"], one["positives"], one["synthetic"], one["rule"]]
        + [f"{one[name]:.3f}" for name in ("temperature_before", "threshold_before", "temperature", "threshold")]
        + [column.cell({**one}) for column in columns]
        for one in run.history
    ]
    headings = ["date", "X-rays", "n", "positive", "synthetic", "rule", "temperature before", "threshold before"]
    return markdown_table([*headings, "temperature", "threshold", "sensitivity", "specificity"], rows)


def _data(run: RunFolder) -> str:
    if counts := run.data.get("counts"):
        names = list(dict.fromkeys(name for split in SPLITS for name in counts[split]))
        cells = [[split, len(run.ids[split]), *(counts[split].get(name, 0) for name in names)] for split in SPLITS]
        return markdown_table(["split", "X-rays", *map(_label, names)], cells)
    rows = []
    for split in SPLITS:
        ids = run.ids[split]
        sites = [sum(site_of(id) == site for id in ids) for site in SITE_OF_PREFIX.values()]
        rows.append([split, len(ids), *sites, *(sum(id.endswith(f"_{label}") for id in ids) for label in (0, 1))])
    return markdown_table(["split", "X-rays", *SITE_OF_PREFIX.values(), *TASKS["tb_classification"].labels], rows)


def _across(run: RunFolder, also: Sequence[Path]) -> str:
    """Return metrics of other evaluations and runs, and the run's own beside others or on an unseen site."""
    columns, rows = METRIC_COLUMNS[run.config.task]["across"], []
    unseen = {_label(key) for key in run.groups} - {"all", *run.train_sites}
    own = [(run.results, run, "this one")] if also or unseen else []
    for results, trained, model in [*own, *(_other(run, Path(folder)) for folder in also)]:
        learned = f"{' and '.join(trained.train_sites)} ({len(trained.data['train'])})"
        use = [f"{name} {value}" for name, value in results.get("use", {}).items()]
        split = [] if results["split"] == "test" else [results["split"]]
        for key in tested_groups(results):
            group, tested = results["metrics"][key], ", ".join([_label(key), *split, *use])
            shown = [column.cell(group) for column in columns]
            rows.append([model, learned, tested, group["n"], *shown, _short_commit(results)])
    headings = ["model", "trained on (X-rays)", "tested on", "X-rays", *(column.heading for column in columns)]
    return markdown_table([*headings, "commit"], rows)


def _other(run: RunFolder, folder: Path) -> tuple[dict[str, Any], RunFolder, str]:
    """Return the results in a folder, the run that made the model, and how that model relates to this one.

    Raises:
        ValueError: the folder is of another task, or an evaluation of another model.
    """
    results, is_run = read_results(folder), (folder / CONFIG_NAME).is_file()
    if results["task"] != run.config.task:
        raise ValueError(f"{folder} is for {results['task']}, but {run.path} for {run.config.task}: leave it out")
    mine, theirs = asdict(run.config), renamed(results["config"])
    allowed = SIBLING if is_run else ELSEWHERE
    differing = [name for name in mine if name not in allowed and mine[name] != theirs.get(name, mine[name])]
    if is_run:
        difference = f" (differs in {', '.join(differing)})" if differing else ""
        return results, RunFolder.read(folder), f"another{difference}"
    if differing:
        raise ValueError(f"{folder} is the evaluation of another model than {run.path}: pass that model's run folder")
    return results, run, "this one"


def _short_commit(results: dict[str, Any]) -> str:
    """Return the first 7 digits of the code's commit, with a + where files had changed since."""
    commit = results["commit"] or "not known"
    return commit if len(commit) < 40 else f"{commit[:7]}{commit[40:]}"


def _environment(run: RunFolder) -> str:
    launch, commit = run.results["launch"], run.results["commit"] or "not known"
    rows = [("commit of chest-xray-masks", commit), ("processes", launch["processes"])]
    rows += [("mixed precision", launch["mixed_precision"]), *run.results["versions"].items()]
    return markdown_table(["of", "value"], rows)


def main_column(run: RunFolder) -> Column:
    """Return the column of the run's main metric."""
    columns = METRIC_COLUMNS[run.config.task]["results"]
    return next(column for column in columns if column.metric == run.results["main_metric"])


def _headline(run: RunFolder) -> str:
    column, metrics = main_column(run), run.results["metrics"]
    texts = [f"{column.cell(metrics[key])} on {_label(key)} (n {metrics[key]['n']})" for key in run.groups]
    return f"{column.heading} on X-rays that it was neither trained nor chosen on: {', '.join(texts)}"
