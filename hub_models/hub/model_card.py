"""A run's model card, with its metrics in the head; the card's text is model_card.md."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from jinja2 import UndefinedError

from chest_xray_masks import SITES
from hub_models.hub.benchmark import PROTOCOL, SPLIT, Benchmark, task_id
from hub_models.hub.card_facts import PROTOCOL_TEXTS, training_facts
from hub_models.hub.card_tables import METRIC_COLUMNS, main_column, tables
from hub_models.hub.limits import limits_of, only_synthetic
from hub_models.hub.templates import CODE_URL, HUB_URL, INSTALL, card_template
from hub_models.hub_client.model_files import damaged
from hub_models.metrics import TEMPERATURES
from hub_models.models.tasks import TASKS
from hub_models.runs.run_folder import DATA_NAME, RESULTS_NAME, RunFolder, site_of

MODEL_TEMPLATE = card_template("model_card.md")
PICTURES_SHOWN = ("dice.png", "outlines.png", "roc.png", "reliability.png", "probabilities.png")  # no X-ray on them
OF_PHANTOMS = ("overlays.png", "saliency.png")  # shown where the X-rays on them are synthetic
TASK_TAGS = {"lung_segmentation": ["lung-segmentation"], "tb_classification": ["tuberculosis"]}
DATASETS = {
    False: ("chest_xray_masks", "Montgomery and Shenzhen"),
    True: ("synthetic_chest_xrays", "Synthetic X-rays"),
}
RESULTS_PATH = ".eval_results/chest_xray_masks.yaml"
UNNAMED = "LUNGS"  # stands for a lung model whose Hub id is not given
PLAIN = {"region": "image", "fit": "squash", "views": 1, "two_lungs": False}  # settings that a pipeline follows


def model_card(
    run: RunFolder,
    repo_id: str,
    license: str | None,
    also: Sequence[Path] = (),
    segmenter: str | None = None,
    dataset: str | None = None,
) -> ModelCard:
    """Return the card of a run for the Hub repository `repo_id`, without the user's notes.

    Args:
        run: finished run.
        repo_id: for the lines of use.
        license: the Hub's name of it.
        also: folders of other evaluations of the model, or of runs of the same kind, for the table across sites.
        segmenter: Hub id of the lung model that a model of the lung region needs; a placeholder stands for None.
        dataset: Hub id of the set that it was trained and tested on, for the card's head.

    Raises:
        FileNotFoundError: a folder is not that of a finished run or evaluation.
        ValueError: the run's `results.json` lacks what a card tells, one of `also` is of another task or model, or a
            segmenter is named for a model that needs none.
    """
    if segmenter and run.settings.region == "image":
        raise ValueError(f"the model in {run.path} sees whole X-rays, got segmenter {segmenter}: leave it out")
    try:
        facts = _names(run, repo_id, segmenter) | {"run": run, "pictures": card_pictures(run)}
        facts["tables"] = tables(run, also)
        facts |= training_facts(run, main_column(run).heading)
        facts |= {"limits": limits_of(TASKS[run.config.task].kind, run.data)}
        facts |= {"card_data": _metadata(run, repo_id, license, dataset).to_yaml()}
        text = MODEL_TEMPLATE.render(facts)
    except (LookupError, TypeError, AttributeError, StopIteration, UndefinedError) as error:
        where = f"{RESULTS_NAME} or {DATA_NAME} of {run.path}"
        raise damaged(where, f"{type(error).__name__} {error} in what the card tells") from error
    return ModelCard(re.sub(r"\n{3,}", "\n\n", text))


def _names(run: RunFolder, repo_id: str, segmenter: str | None) -> dict[str, object]:
    """Return what the template says of the model and its X-rays, beside what it reads off the run itself."""
    owner, _, name = repo_id.rpartition("/")
    task, data, tested = TASKS[run.config.task], run.data, run.results["metrics"]["all"]
    source = data.get("source")
    learned = data["earlier"] + (data["train"] + data["validation"] if task.learns_masks else [])
    return {
        "name": name,
        "code_url": CODE_URL,
        "install": INSTALL,
        "repo_id": repo_id,
        "lungs_id": segmenter or f"{owner}/{UNNAMED}".lstrip("/"),
        "lungs_named": segmenter is not None,
        "kind": task.kind,
        "plain": _is_plain(run),
        "is_flat": run.settings.temperature > 0.9 * TEMPERATURES[1],
        "images": sum(map(len, run.ids.values())),
        "synthetic": data.get("synthetic", 0),
        "only_synthetic": only_synthetic(data),
        "source": source,
        "test_source": data.get("test_source"),
        "of_set": source is None or any(map(site_of, (*data["earlier"], *data["train"]))),
        "shenzhen_masks": len({id for id in learned if site_of(id) == SITES["Shenzhen"]}),
        "protocol": PROTOCOL_TEXTS[run.config.protocol].format(fold=run.config.fold),
        "tested": f"{tested['n']} X-rays of {tested['patients']} patients",
    }


def card_pictures(run: RunFolder) -> list[str]:
    """Return the names of a run's pictures that its card shows: those without X-rays, and those of phantoms."""
    phantoms = run.results.get("synthetic") == run.results["images"]
    names = PICTURES_SHOWN + OF_PHANTOMS if phantoms else PICTURES_SHOWN
    return [name for name in names if (run.path / name).is_file()]


def _metadata(run: RunFolder, repo_id: str, license: str | None, dataset: str | None) -> ModelCardData:
    synthetic = ["synthetic"] if "synthetic" in run.data else []
    carbon = {"emissions": 1000 * run.emissions["emissions"], "source": "CodeCarbon"} if run.emissions else None
    return ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag=f"image-{TASKS[run.config.task].kind}",
        tags=["chest-x-ray", "medical-imaging", *TASK_TAGS[run.config.task], run.model["model_type"], *synthetic],
        base_model=run.base_model,
        datasets=[dataset] if dataset else None,
        metrics=[column.hub_name for column in METRIC_COLUMNS[run.config.task]["results"]],
        model_name=repo_id.split("/")[-1],
        eval_results=list(_results(run)),
        co2_eq_emissions=carbon,
        inference=None if _is_plain(run) else False,  # a widget would run the pipeline
    )


def _is_plain(run: RunFolder) -> bool:
    """Return whether a pipeline alone does what was tested."""
    return all(getattr(run.settings, name) == value for name, value in PLAIN.items())


def _results(run: RunFolder) -> Iterator[EvalResult]:
    """Yield each metric that is defined, rounded, for the head of the card."""
    columns, configs = METRIC_COLUMNS[run.config.task], {f"site: {site}": config for config, site in SITES.items()}
    shown = [column for table in ("results", "operating", "calibration") for column in columns.get(table, ())]
    dataset, title = DATASETS["synthetic" in run.data]
    if own := run.data.get("test_source") or run.data.get("source"):
        dataset, title = "own", f"{own}, synthetic X-rays" if "synthetic" in run.data else own
    for key in run.groups:
        group = run.results["metrics"][key]
        for column in shown:
            value, low, high = (group[column.metric][name] for name in ("value", "low", "high"))
            if value is None or (column.metric == "hd95_mm" and key == "all" and len(run.groups) > 1):
                continue  # distances in mm are of Montgomery alone, and stated there
            digits = column.digits
            interval = "" if low is None else f"95 % interval {low:.{digits}f} to {high:.{digits}f}, "
            yield EvalResult(
                task_type=f"image-{TASKS[run.config.task].kind}",
                dataset_type=dataset,
                dataset_name=f"{title}, protocol {run.config.protocol}",
                dataset_config=configs.get(key, "all"),
                dataset_split=run.results["split"],
                metric_type=column.hub_name,
                metric_name=f"{column.heading} ({interval}n {group['n']})",
                metric_value=round(value, digits),
            )


def eval_results(run: RunFolder, repo_id: str, benchmark: Benchmark) -> dict[str, str]:
    """Return the main metric in the format that the Hub ranks by: path in the repository to YAML; empty without any.

    An entry stands for a task of the benchmark that the run was tested on: the test split of the set's own protocol.
    """
    if (run.config.protocol, run.results["split"]) != (PROTOCOL, SPLIT):
        return {}
    column, configs = main_column(run), {f"site: {site}": config for config, site in SITES.items()}
    date, made_up = run.results.get("date"), ", synthetic X-rays" if "synthetic" in run.data else ""
    source, entries = f"{HUB_URL}/{repo_id}/blob/main/{RESULTS_NAME}", []
    for key in run.groups:
        group, id = run.results["metrics"][key], task_id(run.config.task, configs.get(key, "all"))
        if id in benchmark.tasks and (value := group[column.metric]["value"]) is not None:
            notes = f"{column.heading} of {group['n']} X-rays{made_up}"
            entries.append(
                EvalResultEntry(
                    dataset_id=benchmark.id,
                    task_id=id,
                    value=round(value, column.digits),
                    dataset_revision=benchmark.revision,
                    date=date,
                    source_url=source,
                    source_name=RESULTS_NAME,
                    notes=notes,
                )
            )
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=200)
    return {RESULTS_PATH: text} if entries else {}
