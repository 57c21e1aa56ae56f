"""The exported set as a benchmark of the Hub: its eval.yaml, and the ids of tasks that a model's results name."""

from pathlib import Path
from typing import NamedTuple

import yaml
from datasets.info import DatasetInfosDict
from huggingface_hub import HfApi

from chest_xray_masks import SITES
from hub_models.hub_client.repository import Repository
from hub_models.hub_client.requests import plain_errors, retried

EVAL_NAME = "eval.yaml"
FRAMEWORK = "chest-xray-masks"  # which measures, as `cxm evaluate`
SPLIT = "test"
PROTOCOL = "default"  # its splits are those of the set
MEASURED = {
    "lung_segmentation": "lung masks: Dice, as a mean over X-rays, each on its own pixels (0 to 1)",
    "tb_classification": "probability of tuberculosis: AUROC (0 to 1)",
}


class Benchmark(NamedTuple):
    """A set on the Hub, at a commit, and the ids of the tasks that its eval.yaml names."""

    id: str
    revision: str
    tasks: frozenset[str]


def read_benchmark(dataset: str, token: str | None = None) -> Benchmark:
    """Return what the Hub holds of a set: OWNER/NAME of `cxm export --repo_id`.

    Raises:
        PermissionError, ConnectionError: the Hub does not show it.
        ValueError: it is not there, or its eval.yaml is missing or damaged.
    """
    repository = Repository(HfApi(token=token), dataset, "dataset")
    if (head := repository.head()) is None or EVAL_NAME not in head.digests:
        missing = "is not there" if head is None else f"has no {EVAL_NAME}"
        raise ValueError(f"{repository.url} {missing}: push the set with `cxm export --repo_id {dataset}` first")
    with plain_errors("reading", f"dataset {dataset}", token):
        path = retried(_download, repository, head.commit, secret=token)
    try:
        return Benchmark(dataset, head.commit, frozenset(task_ids(path.read_text(encoding="utf-8"))))
    except ValueError as error:
        raise ValueError(f"{repository.url} is not a benchmark: {error}") from error


def _download(repository: Repository, commit: str) -> Path:
    return Path(repository.api.hf_hub_download(repository.id, EVAL_NAME, repo_type="dataset", revision=commit))


def task_id(task: str, config: str) -> str:
    """Return the id of a task on the test split of a config: `all` has the task's own name."""
    return task if config == "all" else f"{task}_{config.lower()}"


def eval_yaml(name: str, infos: DatasetInfosDict, has_masks: bool) -> str | None:
    """Return the text of eval.yaml for a set of this name; None where no X-ray is in the test split.

    A set of one site has no task over all sites. Without masks no lungs are to be found.
    """
    sites = [config for config in infos if config in SITES]
    configs = [config for config in ("all", *sites) if config in sites or len(sites) > 1]
    tasks = [
        {"id": task_id(task, config), "config": config, "split": SPLIT}
        for task in MEASURED
        if has_masks or task != "lung_segmentation"
        for config in configs
        if SPLIT in infos[config].splits
    ]
    if not tasks:
        return None
    named = {str(one["id"]) for one in tasks}
    measured = [f"{task}*, {what}" for task, what in MEASURED.items() if any(id.startswith(task) for id in named)]
    description = f"Frontal chest X-rays, by patient. Tasks {'; '.join(measured)}. A higher value is better."
    values = {"name": name, "description": description, "evaluation_framework": FRAMEWORK, "tasks": tasks}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=119)


def task_ids(text: str) -> set[str]:
    """Return the ids of the tasks in an eval.yaml; raise ValueError where it is none."""
    try:
        return {task["id"] for task in yaml.safe_load(text)["tasks"]}
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"its {EVAL_NAME} names no tasks ({error!r})") from error
