"""A run's model card, and its figures in both of the Hub's formats; the card's text is model_card.md."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from chest_xray_masks import SITES
from hub_models.hub.card_facts import PROTOCOL_TEXTS, training_facts
from hub_models.hub.card_tables import COLUMNS, Column, main_heading, tables
from hub_models.hub.limits import limits_of, only_synthetic
from hub_models.metrics import TEMPERATURES
from hub_models.models.tasks import TASKS
from hub_models.runs.run_folder import RunFolder, site_of

TEMPLATE = Path(__file__).with_name("model_card.md")
PICTURES_SHOWN = ("dice.png", "outlines.png", "roc.png", "reliability.png", "probabilities.png")  # no X-ray on them
OF_PHANTOMS = ("overlays.png", "saliency.png")  # shown where the X-rays on them are synthetic
TAGS = {"lung_segmentation": ["lung-segmentation"], "tb_classification": ["tuberculosis"]}
DATASETS = {
    False: ("chest_xray_masks", "Montgomery and Shenzhen"),
    True: ("synthetic_chest_xrays", "Synthetic X-rays"),
}
UNNAMED = "LUNGS"  # stands for a lung model of the owner's that is not named
PLAIN = {"region": "image", "fit": "squash", "views": 1, "two_lungs": False}  # settings as a pipeline uses a model


def model_card(
    run: RunFolder, repo_id: str, license: str | None, also: Sequence[Path] = (), segmenter: str | None = None
) -> ModelCard:
    """Return the card of a run, to stand in the Hub repository `repo_id`; the user's notes are not in it yet.

    `also` are folders of further evaluations of the model, or of other runs (of other protocols, trained alike), whose
    figures stand in the table across sites. `segmenter` is the Hub id of the lung model that a model of the lung
    region needs, for the lines of use; a placeholder stands for one that is not named.

    Raises:
        FileNotFoundError: a folder is not that of a finished run or evaluation.
        ValueError: one of `also` is of another task or model, or a segmenter is named for a model that needs none.
    """
    if segmenter and run.settings.region == "image":
        raise ValueError(f"the model in {run.path} sees whole X-rays, got segmenter {segmenter}: leave it out")
    # a line that holds a tag only leaves no line behind
    template = re.sub(r"^({%.*%})\n", r"\1", TEMPLATE.read_text(), flags=re.M)
    facts = _names(run, repo_id, segmenter) | _data(run) | _minimum(run) | {"pictures": card_pictures(run)}
    heading, shown = main_heading(run), tables(run, also)
    facts |= {"tables": shown} | training_facts(run, heading)
    facts["limits"] = limits_of(TASKS[run.config.task].kind, run.data)
    card = ModelCard.from_template(_metadata(run, repo_id, license), template_str=template, **facts)
    card.text = re.sub(r"\n{3,}", "\n\n", card.text)
    return card


def _names(run: RunFolder, repo_id: str, segmenter: str | None) -> dict[str, Any]:
    """What the template says of the model and of its use."""
    settings = run.settings
    owner, _, name = repo_id.rpartition("/")
    return {
        "name": name,
        "repo_id": repo_id,
        "lungs_id": segmenter or f"{owner}/{UNNAMED}".lstrip("/"),
        "lungs_named": segmenter is not None,
        "kind": TASKS[run.config.task].kind,
        "architecture": run.model["architectures"][0],
        "size": settings.image_size,
        "region": settings.region,
        # whether a pipeline does all that was done here
        "plain": _is_plain(run),
        "segmenter": run.data.get("segmenter", "")[:16],
        "threshold": f"{settings.threshold:.3f}",
        "temperature": f"{settings.temperature:.3f}",
        "is_flat": settings.temperature > 0.9 * TEMPERATURES[1],
    }


def _data(run: RunFolder) -> dict[str, Any]:
    """What the template says of the X-rays."""
    data, tested = run.data, run.results["metrics"]["all"]
    images, synthetic = sum(map(len, run.ids.values())), data.get("synthetic", 0)
    learned = data["train"] + data["validation"] if TASKS[run.config.task].learns_masks else []
    return {
        "images": images,
        "synthetic": synthetic,
        "only_synthetic": only_synthetic(data),
        "shenzhen_masks": len({id for id in learned + data["earlier"] if site_of(id) == SITES["Shenzhen"]}),
        "protocol": PROTOCOL_TEXTS[run.config.protocol].format(fold=run.config.fold),
        "split": run.results["split"],
        "tested": f"{tested['n']} X-rays of {tested['patients']} patients",
    }


def _minimum(run: RunFolder) -> dict[str, str]:
    """What the template says of the sensitivity and specificity of the WHO's minimum for a triage test."""
    minimum = run.results.get("who_triage_minimum", {})
    return {f"who_{name}": f"{100 * minimum[name]:.0f} %" for name in ("sensitivity", "specificity") if minimum}


def card_pictures(run: RunFolder) -> list[str]:
    """Return the names of a run's pictures that its card shows: those without X-rays, and those of phantoms."""
    phantoms = run.results.get("synthetic") == run.results["images"]
    names = PICTURES_SHOWN + OF_PHANTOMS if phantoms else PICTURES_SHOWN
    return [name for name in names if (run.path / name).is_file()]


def _metadata(run: RunFolder, repo_id: str, license: str | None) -> ModelCardData:
    columns = COLUMNS[run.config.task]
    tracked, synthetic = run.emissions, ["synthetic"] if "synthetic" in run.data else []
    carbon = (
        {"co2_eq_emissions": {"emissions": 1000 * tracked["emissions"], "source": "CodeCarbon"}} if tracked else {}
    )
    inference = {} if _is_plain(run) else {"inference": False}  # a widget would run the pipeline
    return ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag=f"image-{TASKS[run.config.task].kind}",
        tags=["chest-x-ray", "medical-imaging", *TAGS[run.config.task], run.model["model_type"], *synthetic],
        base_model=run.base_model,
        metrics=[column.metric or column.figure for column in columns["results"]],
        model_name=repo_id.split("/")[-1],
        eval_results=[
            EvalResult(
                task_type=f"image-{TASKS[run.config.task].kind}",
                dataset_type=_dataset(run)[0],
                dataset_name=f"{_dataset(run)[1]}, protocol {run.config.protocol}",
                dataset_config=config,
                dataset_split=run.results["split"],
                metric_type=column.metric or column.figure,
                metric_name=f"{column.heading} ({_reliability(run, key, column)})",
                metric_value=value,
            )
            for key, config, column, value in _stated(run)
        ],
        **carbon,
        **inference,
    )


def _is_plain(run: RunFolder) -> bool:
    """Whether a pipeline alone does what was tested."""
    return all(getattr(run.settings, name) == value for name, value in PLAIN.items())


def _dataset(run: RunFolder) -> tuple[str, str]:
    return DATASETS["synthetic" in run.data]


def _stated(run: RunFolder) -> Iterator[tuple[str, str, Column, float]]:
    """Each defined figure of the results: key of its group, config of the data, column, rounded value."""
    columns, configs = COLUMNS[run.config.task], {site: config for config, site in SITES.items()}
    keys = run.groups
    for key in keys:
        for name in ("results", "operating", "calibration"):
            for column in columns.get(name, ()):
                if column.figure == "hd95_mm" and key == "all" and len(keys) > 1:
                    continue  # it is of Montgomery's X-rays only, and stated of them
                value = run.results["metrics"][key][column.figure]["value"]
                if value is not None:
                    yield key, configs.get(key.removeprefix("site: "), "all"), column, round(value, column.digits)


def _reliability(run: RunFolder, key: str, column: Column) -> str:
    group = run.results["metrics"][key]
    low, high = group[column.figure]["low"], group[column.figure]["high"]
    interval = "" if low is None else f"95 % interval {low:.{column.digits}f} to {high:.{column.digits}f}, "
    return f"{interval}n {group['n']}"


def eval_results(run: RunFolder, repo_id: str) -> dict[str, str]:
    """Return the same figures in the Hub's newer format: path in the repository, `.eval_results/<name>.yaml`, to YAML.

    Their dataset is taken to stand beside the model, in the repository `<owner>/chest_xray_masks`.
    """
    (name, _), place = _dataset(run), DATASETS[False][0]
    owner = repo_id.rpartition("/")[0]
    made_up = ", synthetic X-rays" if "synthetic" in run.data else ""
    part = f"{run.config.protocol}_{run.results['split']}"
    entries = [
        EvalResultEntry(
            dataset_id=f"{owner}/{place}".lstrip("/"),
            task_id=f"{run.config.task}_{part}_{config}_{column.metric or column.figure}".lower(),
            value=value,
            notes=f"{column.heading}, {_reliability(run, key, column)}, protocol {run.config.protocol}{made_up}",
        )
        for key, config, column, value in _stated(run)
    ]
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=200)
    return {f".eval_results/{name}.yaml": text}
