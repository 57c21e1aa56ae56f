"""The exported set as a benchmark of the Hub: which tasks its eval.yaml names."""

import pytest
import yaml
from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo

from hub_models.hub.benchmark import eval_yaml, task_id, task_ids
from hub_models.models.tasks import TASKS


def infos(**splits: str) -> DatasetInfosDict:
    """Infos of configs with the splits that are named."""
    made = DatasetInfosDict()
    for config, names in splits.items():
        held = SplitDict()
        for name in names.split():
            held.add(SplitInfo(name, 1, 1))
        made[config] = DatasetInfo(splits=held)
    return made


def test_ids_are_stable() -> None:
    """They stand in the results of models that are long on the Hub: never rename one."""
    text = eval_yaml("X-rays", infos(MC="train test", Shenzhen="test", all="train test"), has_masks=True)
    assert task_ids(text) == {
        *("lung_segmentation", "lung_segmentation_mc", "lung_segmentation_shenzhen"),
        *("tb_classification", "tb_classification_mc", "tb_classification_shenzhen"),
    }
    values = yaml.safe_load(text)
    assert list(values) == ["name", "description", "evaluation_framework", "tasks"]
    assert values["tasks"][1] == {"id": "lung_segmentation_mc", "config": "MC", "split": "test"}
    assert {task_id(task, "all") for task in TASKS} == set(TASKS)


TWO = {"MC": "train", "Shenzhen": "test", "all": "train test"}


@pytest.mark.parametrize(
    ("splits", "has_masks", "expected"),
    [
        ({"MC": "test", "all": "test"}, True, {"lung_segmentation_mc", "tb_classification_mc"}),
        ({"Shenzhen": "test", "all": "test"}, False, {"tb_classification_shenzhen"}),
        (TWO, False, {"tb_classification", "tb_classification_shenzhen"}),
    ],
)
def test_tasks_are_those_that_can_be_tested(splits, has_masks: bool, expected) -> None:
    assert task_ids(eval_yaml("X-rays", infos(**splits), has_masks)) == expected


def test_set_without_test_x_rays_is_no_benchmark() -> None:
    assert eval_yaml("X-rays", infos(MC="train", all="train"), has_masks=True) is None


@pytest.mark.parametrize("text", ["", "- a", "tasks: 1", "tasks:\n- name: a", "a: [", "tasks: {a: b}"])
def test_other_text_names_no_task(text: str) -> None:
    with pytest.raises(ValueError, match="names no tasks"):
        task_ids(text)
