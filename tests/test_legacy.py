"""The builder as a script of datasets 3, the last line that runs scripts; in an environment of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not datasets.__version__.startswith("3."),
        reason=f"datasets {datasets.__version__} runs no scripts: make test-legacy tests this with 3.6.0",
    ),
]

SCRIPT = Path(__file__).parents[1] / "chest_xray_masks.py"
IDS = ("CHNCXR_0005_0", "CHNCXR_0006_0", "CHNCXR_0327_1", "MCUCXR_0001_0", "MCUCXR_0022_0", "MCUCXR_0043_0")
EXPECTED = {
    "MC": {"train": ["MCUCXR_0001_0"], "validation": ["MCUCXR_0043_0"], "test": ["MCUCXR_0022_0"]},
    "Shenzhen": {"train": ["CHNCXR_0327_1"], "validation": ["CHNCXR_0005_0"], "test": ["CHNCXR_0006_0"]},
}
EXPECTED["all"] = {name: EXPECTED["Shenzhen"][name] + EXPECTED["MC"][name] for name in ("train", "validation", "test")}
HOW = {"plain": {}, "streaming": {"streaming": True}, "num_proc": {"num_proc": 2}}


@pytest.fixture(params=["folder", "zip"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    files = tiny.kaggle(IDS)
    if request.param == "folder":
        return str(tiny.write_tree(files, tmp_path / "set"))
    return str(tiny.write_zip(files, tmp_path / "set.zip"))


@pytest.fixture
def load(tmp_path: Path) -> Callable:
    options = {"trust_remote_code": True, "cache_dir": str(tmp_path / "cache")}
    return lambda *args, **kwargs: datasets.load_dataset(str(SCRIPT), *args, **options, **kwargs)


@pytest.mark.parametrize("config", EXPECTED)
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_load_dataset(config: str, how: dict, source: str, load: Callable) -> None:
    splits = load(config, data_dir=source, **how)
    assert {name: [row["id"] for row in split] for name, split in splits.items()} == EXPECTED[config]


def test_default_config_is_all(source: str, load: Callable) -> None:
    assert load(data_dir=source)["test"]["id"] == EXPECTED["all"]["test"]


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_row(how: dict, source: str, load: Callable) -> None:
    row = next(iter(load("Shenzhen", data_dir=source, split="train", **how)))
    left, right = tiny.lungs_of("CHNCXR_0327_1")
    image, mask = row.pop("image"), row.pop("mask")
    assert np.array_equal(np.asarray(image.convert("L")), tiny.pixels_of("CHNCXR_0327_1"))
    assert np.array_equal(np.asarray(mask), np.where(left | right, 255, 0))
    assert row == {
        "id": "CHNCXR_0327_1",
        "patient_id": "CHNCXR_0327",
        "site": 1,
        "label": 1,
        "sex": 1,
        "age_years": 46.0,
        "findings": "infiltrate left",
        "reading": "male 46yrs\r\ninfiltrate left",
    }


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_empty_splits(how: dict, tmp_path: Path, load: Callable) -> None:
    tree = tiny.write_tree(tiny.kaggle(("MCUCXR_0001_0",)), tmp_path / "one")
    splits = load(data_dir=str(tree), **how)
    assert {name: [row["id"] for row in split] for name, split in splits.items()} == {
        "train": ["MCUCXR_0001_0"],
        "validation": [],
        "test": [],
    }


def test_current_folder_of_the_same_names_is_not_read(
    tmp_path: Path, load: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tiny.write_tree(tiny.kaggle(IDS), tmp_path / "set")
    monkeypatch.chdir(tree / "Lung Segmentation" / "masks")
    image = load("MC", data_dir=str(tree), split="train")[0]["image"]
    assert np.array_equal(np.asarray(image), tiny.pixels_of("MCUCXR_0001_0"))


def test_changed_tree_is_built_again(tmp_path: Path, load: Callable) -> None:
    tree = tiny.write_tree(tiny.kaggle(IDS), tmp_path / "set")
    first = load("MC", data_dir=str(tree))
    assert load("MC", data_dir=str(tree))["train"].cache_files == first["train"].cache_files
    (tree / "Lung Segmentation/ClinicalReadings/MCUCXR_0001_0.txt").write_bytes(b"male 9yrs")
    assert load("MC", data_dir=str(tree))["train"][0]["age_years"] == 9


def test_copy_of_the_script_stands_alone(tmp_path: Path) -> None:
    """Anywhere, under any name, with nothing of the project beside it."""
    tree = tiny.write_tree(tiny.kaggle(IDS), tmp_path / "set")
    script = Path(shutil.copy(SCRIPT, tmp_path / "my_x_rays.py"))
    options = {"trust_remote_code": True, "cache_dir": str(tmp_path / "cache")}
    splits = datasets.load_dataset(str(script), "MC", data_dir=str(tree), **options)
    assert splits["test"]["id"] == EXPECTED["MC"]["test"]


def test_errors_reach_the_user(tmp_path: Path, load: Callable) -> None:
    with pytest.raises(FileNotFoundError, match="no Montgomery chest X-rays in .*: looked for"):
        load("MC", data_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="data_dir .*nowhere does not exist"):
        load("MC", data_dir=str(tmp_path / "nowhere"))
