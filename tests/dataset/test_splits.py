import csv
import logging
from collections import Counter, defaultdict
from pathlib import Path

import datasets
import pytest

from chest_xray_masks import FEATURES, SITE_OF_PREFIX, SPLITS, patient_of, patients_of, split_of
from hub_models.dataset.folds import FOLDS, fold_split, tenth_of
from hub_models.dataset.splits import PROTOCOLS, divide, leaks, shared_patients

TASKS = ("lung_segmentation", "tb_classification")
NO_IMAGE = {"path": None, "bytes": b"no image: to decode it raises"}


def table() -> list[dict[str, str]]:
    """id and has_mask of the full set, 800 images."""
    with (Path(__file__).parents[1] / "data" / "ids.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def patient(id: str) -> str:
    return patient_of(id, patients_of({}))


def split_rows(ids: list[str], **other: list) -> datasets.Dataset:
    absent = dict.fromkeys(FEATURES, [None] * len(ids))
    known = {
        "id": ids,
        "patient_id": [patient(id) for id in ids],
        "site": [SITE_OF_PREFIX[id[:6]] for id in ids],
        "image": [NO_IMAGE] * len(ids),
        "label": [int(id[-1]) for id in ids],
    }
    return datasets.Dataset.from_dict(absent | known | other, features=FEATURES)


def build(ids: list[str]) -> datasets.DatasetDict:
    """The rows as the builder splits them, images that cannot be decoded."""
    return datasets.DatasetDict(
        {split: split_rows([id for id in ids if split_of(patient(id)) == split]) for split in SPLITS}
    )


@pytest.fixture(scope="module")
def full() -> datasets.DatasetDict:
    return build([row["id"] for row in table()])


def counts(splits: dict[str, datasets.Dataset]) -> dict[str, tuple[int, int]]:
    """Montgomery's and Shenzhen's X-rays by split."""
    return {
        split: tuple(sum(id.startswith(prefix) for id in rows["id"]) for prefix in ("MCU", "CHN"))
        for split, rows in splits.items()
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("task", TASKS)
def test_splits_are_disjoint_sorted_and_keep_their_columns(full, protocol: str, task: str) -> None:
    splits = divide(full, protocol, task, 2 if protocol == "folds" else None)
    assert tuple(splits) == SPLITS
    ids = [id for rows in splits.values() for id in rows["id"]]
    assert len(ids) == len(set(ids))
    for rows in splits.values():
        assert rows.column_names == list(FEATURES) and rows.features == full["train"].features
        assert list(rows["id"]) == sorted(rows["id"])
        assert [patient(id) for id in rows["id"]] == list(rows["patient_id"])


def test_default_is_the_builders(full) -> None:
    splits = divide(full, "default", "lung_segmentation")
    expected = {split: sorted(rows["id"]) for split, rows in full.items()}
    assert {split: list(rows["id"]) for split, rows in splits.items()} == expected


@pytest.mark.parametrize(
    ("protocol", "task", "expected"),
    [  # the published counts: train, validation, test of Montgomery and Shenzhen
        ("idiap", "lung_segmentation", {"train": (96, 396), "validation": (14, 56), "test": (28, 114)}),
        ("idiap", "tb_classification", {"train": (88, 422), "validation": (22, 107), "test": (28, 133)}),
        ("ark", "lung_segmentation", {"train": (0, 463), "validation": (0, 65), "test": (0, 134)}),
        ("ark", "tb_classification", {"train": (0, 463), "validation": (0, 65), "test": (0, 134)}),
    ],
)
def test_published_splits_have_their_counts(full, protocol: str, task: str, expected: dict) -> None:
    assert counts(divide(full, protocol, task)) == expected


def test_across_sites_tests_on_all_of_the_other(full) -> None:
    own = counts(full)
    there = counts(divide(full, "mc_to_shenzhen", "tb_classification"))
    assert there == {"train": (own["train"][0], 0), "validation": (own["validation"][0], 0), "test": (0, 662)}
    back = counts(divide(full, "shenzhen_to_mc", "tb_classification"))
    assert back == {"train": (0, own["train"][1]), "validation": (0, own["validation"][1]), "test": (138, 0)}


def test_patients_in_several_splits_are_logged(full, caplog) -> None:
    with caplog.at_level(logging.WARNING, "hub_models.dataset.splits"):
        divide(full, "idiap", "lung_segmentation")
    (record,) = caplog.records
    assert "MCUCXR_0162_1 in train, MCUCXR_0166_1 in test, MCUCXR_0170_1 in train" in record.getMessage()
    caplog.clear()
    divide(build([row["id"] for row in table() if row["id"] != "MCUCXR_0166_1"]), "idiap", "lung_segmentation")
    assert "0162" not in caplog.text


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "idiap"])
def test_other_protocols_keep_a_patient_in_one_split(full, protocol: str, caplog) -> None:
    for fold in range(FOLDS) if protocol == "folds" else [None]:
        assert not shared_patients(divide(full, protocol, "lung_segmentation", fold))
    assert not caplog.records


def test_unpublished_ids_are_left_out(full) -> None:
    more = datasets.DatasetDict(full)
    more["train"] = datasets.concatenate_datasets([full["train"], split_rows(["CHNCXR_9999_1"])])
    assert "CHNCXR_9999_1" in divide(more, "default", "tb_classification")["train"]["id"]
    assert sum(map(len, divide(more, "idiap", "tb_classification").values())) == 800


def test_tenths_by_hand() -> None:
    # test, test, validation, then seven of train, from tenth 2 * fold on and around
    assert {tenth_of(f"CHNCXR_{number}") for number in range(200)} == set(range(10))
    for fold in range(FOLDS):
        splits = {tenth_of(name): fold_split(name, fold) for name in map("CHNCXR_{}".format, range(200))}
        around = [splits[(2 * fold + step) % 10] for step in range(10)]
        assert around == ["test", "test", "validation", *["train"] * 7]


def test_every_x_ray_is_tested_in_one_fold(full) -> None:
    tested = [id for fold in range(FOLDS) for id in divide(full, "folds", "tb_classification", fold)["test"]["id"]]
    assert sorted(tested) == sorted(row["id"] for row in table())


def test_folds_are_even() -> None:
    groups: dict[tuple, Counter] = defaultdict(Counter)
    for row in table():
        groups[row["id"][:3], row["id"][-1], row["has_mask"]][tenth_of(patient(row["id"])) // 2] += 1
    assert len(groups) == 6  # site x label x has-mask; Montgomery has all its masks
    worst = max(abs(100 * group[fold] / group.total() - 20) for group in groups.values() for fold in range(FOLDS))
    assert worst == pytest.approx(3.69, abs=0.005)  # 68 of Shenzhen's 287 TB with a mask are 23.69 %


@pytest.mark.parametrize("alike", [("MCUCXR_0254", "MCUCXR_0255"), ("MCUCXR_0372", "MCUCXR_0375")])
def test_xrays_that_may_be_one_patients_are_in_one_split(alike: tuple[str, str]) -> None:
    for fold in range(FOLDS):
        assert len({fold_split(name, fold) for name in alike}) == 1


def test_a_copy_folds_as_the_whole(full) -> None:
    some = build([row["id"] for row in table()][::3])
    for split, rows in divide(some, "folds", "tb_classification", 3).items():
        assert set(rows["id"]) <= set(divide(full, "folds", "tb_classification", 3)[split]["id"])


def test_division_has_the_same_cache_key_every_time(full) -> None:
    keys = [divide(full, "folds", "tb_classification", 1)["train"]._fingerprint for _ in range(2)]
    assert keys[0] == keys[1] != divide(full, "folds", "tb_classification", 2)["train"]._fingerprint


@pytest.mark.parametrize(
    ("protocol", "task", "fold", "said"),
    [
        ("bob", "lung_segmentation", None, "'bob'.*default, idiap, ark"),
        ("idiap", "age", None, "'age'.*lung_segmentation"),
        ("folds", "lung_segmentation", None, "0 to 4, got None"),
        ("folds", "lung_segmentation", -1, "0 to 4, got -1"),
        ("folds", "lung_segmentation", 5, "0 to 4, got 5"),
        ("idiap", "lung_segmentation", 0, "no folds, got fold 0"),
    ],
)
def test_impossible_divisions_are_refused(full, protocol: str, task: str, fold: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        divide(full, protocol, task, fold)


@pytest.mark.parametrize(
    ("prefix", "protocol", "fold", "said"),
    [
        ("MCU", "ark", None, "ark leaves no train X-ray: the data hold 138 Montgomery and 0 Shenzhen"),
        ("MCU", "mc_to_shenzhen", None, "mc_to_shenzhen leaves no test X-ray"),
        ("MCUCXR_0001_0", "folds", 4, r"folds \(fold 4\) leaves no \w+ X-ray: the data hold 1 Mont"),
    ],
)
def test_empty_split_is_named_with_what_the_data_hold(prefix: str, protocol: str, fold: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        divide(build([row["id"] for row in table() if row["id"].startswith(prefix)]), protocol, TASKS[1], fold)


def test_leaks_are_the_xrays_of_trained_patients() -> None:
    test = split_rows(["CHNCXR_0001_0", "MCUCXR_0117_1", "MCUCXR_0166_1", "MCUCXR_0170_1"])
    assert leaks([], test) == []
    assert leaks(["CHNCXR_0002_0", "MCUCXR_0001_0"], test) == []
    assert leaks(["MCUCXR_0162_1"], test) == ["MCUCXR_0166_1", "MCUCXR_0170_1"]  # one patient, in training
    assert leaks(["MCUCXR_0113_1", "CHNCXR_0001_0"], test) == ["CHNCXR_0001_0", "MCUCXR_0117_1"]  # the X-ray itself


def test_leaks_know_what_readings_say() -> None:
    # patient_id as the builder gives it: the reading of 0399 says that it is 0393's patient
    test = split_rows(
        ["MCUCXR_0399_1", "MCUCXR_0400_1"],
        reading=["Patient's Sex: M\nPatient's Age: 031Y\nsame pt as MCUCXR_0393\n", None],
        patient_id=["MCUCXR_0393", "MCUCXR_0400"],
    )
    assert leaks(["MCUCXR_0393_1"], test) == ["MCUCXR_0399_1"]
    assert leaks(["MCUCXR_0393_1"], test.remove_columns("reading")) == ["MCUCXR_0399_1"]
    # a later film of the patient in training: known from the reading alone
    earlier = split_rows(["MCUCXR_0393_1"], reading=["same pt as MCUCXR_0399"])
    assert leaks(["MCUCXR_0399_1"], earlier) == ["MCUCXR_0393_1"]
