"""Write the tables of docs/results.md from the runs that `make figures` made, between the comments that name them.

    PYTHONPATH=tests python -m figures.tables --figures demo/figures --page docs/results.md --keep tests/figures/runs

`--keep` copies what the tables need of each run to a folder, and makes them from all that is there: so the runs may be
made one after another. A page that is not there is made of the tables alone. A table has no row for a run that is not
there, and is left as it is without any.
"""

import argparse
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from sklearn.metrics import roc_auc_score

from hub_models.evaluation.calibration import Scores, calibrated, fit
from hub_models.evaluation.thresholds import Rule, RuleName
from hub_models.files import write_bytes, write_json
from hub_models.hub_client.model_files import read_json
from hub_models.imaging.flags import Flag
from hub_models.metrics import screening_metrics
from hub_models.runs.run_folder import PER_IMAGE_NAME, RESULTS_NAME

Results = Mapping[str, Any]  # of results.json
PROTOCOLS = ("default", "mc_to_shenzhen", "shenzhen_to_mc")
SITES = ("Montgomery", "Shenzhen")
POOR_DICE = 0.9  # below it a mask is called wrong
LOCAL_COUNTS, DRAWS = (50, 100), 200  # local X-rays to calibrate with, and how often they are drawn anew
TB_MODELS = {
    "tb-resnet": "`resnet-light`",
    "tb-lungs": "`resnet-light`, of the lungs",
    "tb-vit": "`vit-light`, pre-trained",
}
LUNG_STAGES = {"lungs-first": "128 px", "lungs-then": "then 256 px", "lungs": "then 384 px"}
UNLEARNED = {"tb-vit-unlearned": "`vit-light`, from random weights"}
PREDICTIONS_NAME = "predictions.parquet"
KEPT = (*TB_MODELS, *UNLEARNED, *LUNG_STAGES)  # runs of which the tables tell
RESULTS_KEPT = ("commit", "date", "launch", "metrics", "split", "splits", "versions")
PER_IMAGE_KEPT = ("id", "patient_id", "label", "probability", "threshold", "dice")
PREDICTIONS_KEPT = ("name", "distance", "flags")


def number(value: float | None) -> str:
    """Return a fraction with three digits, as .970; a dash where it is undefined."""
    return "–" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def interval(metric: Mapping[str, float | None], show: Callable[[float | None], str] = number) -> str:
    """Return a value with its interval."""
    return f"{show(metric['value'])} [{show(metric['low'])}, {show(metric['high'])}]"


def one_digit(value: float | None) -> str:
    """Return a distance with one digit."""
    return "–" if value is None else f"{value:.1f}"


def sites_of(results: Results, with_all: bool = True) -> Iterable[tuple[str, Results]]:
    """Yield the name and the metrics of all X-rays, where there are several sites, and of each site."""
    groups = [name for name in results["metrics"] if name.startswith("site: ")]
    if with_all and len(groups) > 1:
        yield "all", results["metrics"]["all"]
    for name in groups:
        yield name.removeprefix("site: "), results["metrics"][name]


def commit_of(results: Results) -> str:
    """Return the first characters of a run's commit, marked where files were changed since."""
    commit = results["commit"] or "–"
    return commit[:7] + ("+" if commit.endswith("+") else "")


def results_of(figures: Path, place: str) -> Results | None:
    """Return the results of a run; None where it is not there."""
    path = figures / place / RESULTS_NAME
    return read_json(path) if path.exists() else None


def lungs(figures: Path) -> list[list[str]]:
    """Return the table of the lung models, after each stage of their training."""
    head = ["protocol", "X-rays of training and validation", "trained at", "tested on", "n", "Dice", "median", "HD95"]
    rows = [[*head, "commit"]]
    for protocol, (stage, sizes) in itertools.product(PROTOCOLS, LUNG_STAGES.items()):
        if (results := results_of(figures, f"{stage}/{protocol}")) is None:
            continue
        learned = "{train} and {validation}".format(**results["splits"])
        for site, found in sites_of(results, with_all=False):
            in_mm = found["hd95_mm"]["value"] is not None
            distance = interval(found["hd95_mm" if in_mm else "hd95_percent"], one_digit)
            distance += " mm" if in_mm else " % of the diagonal"
            shown = [interval(found["dice"]), number(found["dice_median"]["value"]), distance]
            rows.append([f"`{protocol}`", learned, sizes, site, str(found["n"]), *shown, commit_of(results)])
    return rows


def tuberculosis(figures: Path) -> list[list[str]]:
    """Return the table of the TB models, by protocol and site."""
    head = ["model", "protocol", "tested on", "n", "AUROC", "specificity at 90 % sensitivity"]
    rows = [[*head, "sensitivity", "specificity", "ECE", "commit"]]
    for model, text in TB_MODELS.items():
        for protocol in (*PROTOCOLS, "folds"):
            if (results := results_of(figures, f"{model}/{protocol}")) is None:
                continue
            for site, found in sites_of(results):
                names = ("auroc", "specificity_at_90_sensitivity", "sensitivity", "specificity")
                shown = [interval(found[name]) for name in names] + [number(found["ece"]["value"])]
                rows.append([text, f"`{protocol}`", site, str(found["n"]), *shown, commit_of(results)])
    return rows


def models(figures: Path) -> list[list[str]]:
    """Return the table of TB models that differ in architecture or start, on the default test split."""
    rows = [["model", *(f"AUROC, {site}" for site in ("all", *SITES)), "commit"]]
    for name, text in (TB_MODELS | UNLEARNED).items():
        if (results := results_of(figures, f"{name}/default")) is None:
            continue
        shown = [interval(found["auroc"]) for _, found in sites_of(results)]
        rows.append([text, *shown, commit_of(results)])
    return rows


def groups(figures: Path) -> list[list[str]]:
    """Return the table of AUROC by sex, age and finding, out of fold."""
    rows = [["model", "group", "n", "AUROC", "sensitivity", "specificity"]]
    for model, text in TB_MODELS.items():
        if (results := results_of(figures, f"{model}/folds")) is None:
            continue
        for name, found in results["metrics"].items():
            if not name.startswith("site: ") and name != "all":
                shown = [interval(found[metric]) for metric in ("auroc", "sensitivity", "specificity")]
                rows.append([text, name, str(found["n"]), *shown])
    return rows


def nih(figures: Path) -> list[list[str]]:
    """Return the table of NIH X-rays that are called tuberculosis at the stored threshold.

    The ViT is not in it: its encoder has learned from these X-rays.
    """
    rows = [["model", "X-rays", "n", "patients", "called tuberculosis", "commit"]]
    if (results := results_of(figures, "tb-resnet/nih")) is None:
        return rows
    for site, found in sites_of(results):
        rate = {"value": "value", "low": "high", "high": "low"}
        called = {name: 1 - found["specificity"][other] for name, other in rate.items()}
        shown = [site, str(found["n"]), str(found["patients"]), interval(called)]
        rows.append([TB_MODELS["tb-resnet"], *shown, commit_of(results)])
    return rows


def calibration(figures: Path) -> list[list[str]]:
    """Return the table of thresholds from another site, before and after a calibration on some X-rays of this one.

    Each draw calibrates on other X-rays, and is measured on those left; brackets hold 95 % of the draws.
    """
    rows = [["model", "protocol", "threshold", "sensitivity", "specificity", "ECE"]]
    for model, protocol in itertools.product(TB_MODELS, PROTOCOLS[1:]):
        if results_of(figures, f"{model}/{protocol}") is None:
            continue
        scores = scores_of(figures / model / protocol / PER_IMAGE_NAME)
        all_of_them = np.arange(len(scores.labels))
        found = measured(scores, all_of_them, threshold_of(scores), 1.0)
        rows.append([TB_MODELS[model], f"`{protocol}`", "stored, from the training site", *map(number, found)])
        for count in LOCAL_COUNTS:
            if min(np.bincount(scores.labels, minlength=2)) <= count // 2:
                continue  # none would be left of a class
            draws = []
            for draw in range(DRAWS):
                local = drawn(scores, count, draw)
                temperature, threshold = fit(scores.chosen(local), Rule(RuleName.SENSITIVITY, 0.9), None)
                rest = np.setdiff1d(all_of_them, local)
                draws.append(measured(scores, rest, np.inf if threshold is None else threshold, temperature))
            ends = np.percentile(np.array(draws), [2.5, 97.5], axis=0)  # (2, 3)
            shown = [
                interval({"value": middle, "low": low, "high": high})
                for middle, low, high in zip(np.mean(draws, 0), *ends, strict=True)
            ]
            rows.append(["", "", f"from {count} local X-rays", *shown])
    return rows


def scores_of(path: Path) -> Scores:
    """Return the rows per image of a TB model."""
    table = parquet.read_table(path, columns=["id", "patient_id", "label", "probability", "threshold"]).to_pydict()
    labels, values = np.array(table["label"]), np.array(table["probability"])
    return Scores(table["id"], table["patient_id"], labels, values, table["threshold"][0])


def threshold_of(scores: Scores) -> float:
    """Return the threshold that is stored with scores, .5 where none is."""
    return 0.5 if scores.stored is None else scores.stored


def drawn(scores: Scores, count: int, draw: int) -> np.ndarray:
    """Return the indices of `count` X-rays, half of them positive: another choice for each `draw`, by their ids."""
    keys = [hashlib.sha256(f"{draw} {id}".encode()).digest() for id in scores.ids]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    of_class = [[index for index in order if scores.labels[index] == label] for label in (0, 1)]
    return np.array([index for indices in of_class for index in indices[: count // 2]])


def measured(scores: Scores, indices: np.ndarray, threshold: float, temperature: float) -> list[float]:
    """Return sensitivity, specificity and expected calibration error of some X-rays."""
    columns = {"label": scores.labels[indices], "probability": calibrated(scores, temperature)[indices]}
    found = screening_metrics(columns, np.ones((1, len(indices))), threshold)
    return [float(found[name][0]) for name in ("sensitivity", "specificity", "ece")]


def distances(figures: Path) -> list[list[str]]:
    """Return the table of how well the distance of an X-ray tells wrong masks and readings from right ones."""
    head = ["lung model", "X-rays", "n", "wrong are", "wrong", "beyond the limit: wrong, right"]
    rows = [[*head, "AUROC of the distance"]]
    for protocol in PROTOCOLS[1:]:
        if not (figures / "read" / protocol / PREDICTIONS_NAME).exists():
            continue
        table = parquet.read_table(figures / "lungs" / protocol / PER_IMAGE_NAME, columns=["id", "dice"])
        poor, what = {row["id"]: row["dice"] < POOR_DICE for row in table.to_pylist()}, f"Dice below {POOR_DICE:.2f}"
        rows.append(_told(figures, protocol, "test split", poor, what))
    if results_of(figures, "tb-resnet/nih") is None or not (figures / "read" / "nih" / PREDICTIONS_NAME).exists():
        return rows
    scores = scores_of(figures / "tb-resnet" / "nih" / PER_IMAGE_NAME)
    called = dict(zip(scores.ids, scores.values >= threshold_of(scores), strict=True))
    return [*rows, _told(figures, "nih", "NIH", called, "called tuberculosis by `resnet-light`")]


def _told(figures: Path, read: str, xrays: str, is_wrong: Mapping[str, bool], what: str) -> list[str]:
    """Return a row of `distances` for the X-rays whose ids `is_wrong` holds, as `cxm predict` read them."""
    table = parquet.read_table(figures / "read" / read / PREDICTIONS_NAME, columns=["name", "distance", "flags"])
    found = {Path(row["name"]).stem: row for row in table.to_pylist()}
    truth = np.array(list(is_wrong.values()))
    far = np.array([Flag.OUT_OF_DISTRIBUTION in found[id]["flags"].split("|") for id in is_wrong])
    auroc = roc_auc_score(truth, [found[id]["distance"] for id in is_wrong]) if 0 < truth.sum() < len(truth) else None
    shares = [far[truth == kind].mean() if (truth == kind).any() else None for kind in (True, False)]
    model = f"`{'default' if read == 'nih' else read}`"
    counts = [str(len(truth)), what, str(truth.sum())]
    return [model, xrays, *counts, ", ".join(map(number, shares)), number(auroc)]


FROM_SCRATCH = "from scratch; pre-trained on X-rays"
# Published figures: run and site of ours that is beside it, the metric, theirs, and how their protocol differs
PUBLISHED = (
    ("lungs/default", "Montgomery", "dice", ".982", "U-Net of 26 million weights, fixed split of Idiap"),
    ("lungs/default", "Shenzhen", "dice", ".955", "M2U-Net, fixed split of Idiap"),
    ("lungs/mc_to_shenzhen", "Shenzhen", "dice", ".942 or .963", "Idiap; direction not said"),
    ("lungs/shenzhen_to_mc", "Montgomery", "dice", ".963 or .942", "Idiap; direction not said"),
    ("{tb}/folds", "Montgomery", "auroc", ".87; .984", f"ten folds: {FROM_SCRATCH}"),
    ("{tb}/folds", "Shenzhen", "auroc", ".89; .979", f"ten folds: {FROM_SCRATCH}"),
    ("{tb}/mc_to_shenzhen", "Shenzhen", "auroc", ".58 to .61; .917", FROM_SCRATCH),
    ("{tb}/shenzhen_to_mc", "Montgomery", "auroc", ".79", "two independent works"),
)
MEASURED = {"dice": "lungs, Dice", "auroc": "TB, AUROC"}


def published(figures: Path) -> list[list[str]]:
    """Return the table of our figures beside published ones."""
    rows = [["figure", "protocol", "tested on", "n", "ours", "published", "whose protocol is"]]
    for run, site, metric, theirs, how in PUBLISHED:
        for model in TB_MODELS if "{tb}" in run else [""]:
            place = run.format(tb=model)
            results = results_of(figures, place)
            if results is None or (found := results["metrics"].get(f"site: {site}")) is None:
                continue
            ours = f"{interval(found[metric])}{f', {TB_MODELS[model]}' if model else ''}"
            rows.append([MEASURED[metric], f"`{Path(place).name}`", site, str(found["n"]), ours, theirs, how])
    return rows


TABLES = {
    "lungs": lungs,
    "tuberculosis": tuberculosis,
    "models": models,
    "groups": groups,
    "nih": nih,
    "calibration": calibration,
    "distances": distances,
    "published": published,
}


def markdown(rows: list[list[str]]) -> str:
    """Return a table whose first row is its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def keep(figures: Path, kept: Path) -> None:
    """Copy what the tables need of finished runs; nothing of it names a folder or holds an image."""
    for path in sorted(figures.glob(f"*/*/{RESULTS_NAME}")):
        if path.parts[-3] not in KEPT:
            continue
        place, results = kept / path.parent.relative_to(figures), read_json(path)
        place.mkdir(parents=True, exist_ok=True)
        write_json({name: results[name] for name in RESULTS_KEPT if name in results}, place / RESULTS_NAME)
        table = parquet.read_table(path.with_name(PER_IMAGE_NAME))
        columns = [name for name in PER_IMAGE_KEPT if name in table.column_names]
        parquet.write_table(table.select(columns), place / PER_IMAGE_NAME)
    for path in sorted(figures.glob(f"read/*/{PREDICTIONS_NAME}")):
        place = kept / path.parent.relative_to(figures)
        place.mkdir(parents=True, exist_ok=True)
        parquet.write_table(parquet.read_table(path, columns=[*PREDICTIONS_KEPT]), place / PREDICTIONS_NAME)


def with_tables(page: str, figures: Path) -> str:
    """Return a page with its tables written anew."""
    for name, rows in TABLES.items():
        if len(made := rows(figures)) == 1:
            print(f"table {name} is left as it is: {figures} holds none of its runs")
            continue
        table = f"<!-- table {name} -->\n{markdown(made)}<!-- end -->"
        place = re.search(rf"<!-- table {name} -->\n.*?<!-- end -->", page, re.S)
        page = page.replace(place[0], table) if place else f"{page}\n{table}\n"
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--figures", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--page", type=Path, required=True, help="page to write the tables to")
    parser.add_argument("--keep", type=Path, help="folder to copy what the tables need to, and to make them from")
    options = parser.parse_args()
    if options.keep:
        keep(options.figures, options.keep)
    before = options.page.read_text() if options.page.exists() else "# Results\n"
    write_bytes(with_tables(before, options.keep or options.figures).encode(), options.page)
