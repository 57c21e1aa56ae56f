"""The rooms of the project and who may call whom, as the README draws them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = {f"hub_models.{path.stem}": path for path in (ROOT / "hub_models").glob("*.py") if path.stem != "__init__"}
PACKAGE |= {f"hub_models.metrics.{path.stem}": path for path in (ROOT / "hub_models/metrics").glob("[!_]*.py")}
PACKAGE |= {"hub_models.metrics": ROOT / "hub_models/metrics/__init__.py"}
ROOMS = {"chest_xray_masks": ROOT / "chest_xray_masks.py"} | PACKAGE
# Each room may import the rooms before it in this list, never one behind it.
ORDER = [
    "chest_xray_masks",
    "wording",
    "files",
    "console",
    "flags",
    "options",
    "folds",
    "display",
    "decoding",
    "dicom",
    "dicom_seg",
    "images",
    "remote",
    "repository",
    "downloads",
    "notes",
    "masks",
    "overlays",
    "resizing",
    "gray",
    "lung_crop",
    "phantom",
    "metrics.weighted",
    "metrics.classification",
    "metrics.segmentation",
    "metrics",
    "intervals",
    "inspection",
    "published",
    "audit_report",
    "audit",
    "protocols",
    "config",
    "augment",
    "data",
    "architectures",
    "tracing",
    "tasks",
    "limits",
    "run_folder",
    "quality",
    "familiarity",
    "predictor",
    "predict",
    "saliency",
    "cohort",
    "evaluation",
    "charts",
    "figures",
    "report",
    "rows",
    "sources",
    "ledger",
    "pipeline",
    "batch",
    "facts",
    "tables",
    "card",
    "release",
    "hub",
    "export_config",
    "parquet",
    "dataset_figures",
    "dataset_card",
    "export",
    "view",
    "app",
    "space",
    "optimization",
    "checkpoints",
    "loop",
    "train",
    "rehearsal",
    "benchmark",
    "training_benchmark",
    "prediction_benchmark",
    "start_benchmark",
    "data_commands",
    "model_commands",
    "hub_commands",
    "benchmark_commands",
    "cli",
]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_every_room_is_in_the_order() -> None:
    assert {name.removeprefix("hub_models.") for name in ROOMS} == set(ORDER)


@pytest.mark.parametrize("name", ROOMS)
def test_imports_run_downward(name: str) -> None:
    place = ORDER.index(name.removeprefix("hub_models."))
    rooms = {room.removeprefix("hub_models.") for room in imported(ROOMS[name]) & set(ROOMS)}
    assert rooms <= set(ORDER[:place])


def test_builder_is_complete_on_its_own() -> None:
    import sys

    tops = {name.split(".")[0] for name in imported(ROOMS["chest_xray_masks"])}
    assert tops <= set(sys.stdlib_module_names) | {"datasets", "numpy", "PIL"}


def test_scripts_hold_no_logic() -> None:
    for path in (ROOT / "scripts").glob("*.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)], path
