"""The names that users import, with their parameters: a change here breaks somebody's code."""

import importlib
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MASKS = "predictions=None, references=None"
PAIR = "prediction=None, reference=None, " + MASKS
SIGNATURES = {
    "hub_models.predict.ChestXrayReader": "segmenter=None, classifier=None, revision=None, backend=None",
    "hub_models.predict.ChestXrayReader.read": "self, images",
    "hub_models.hub.push_model": "run_folder, repo_id, *, license=None, private=True, revision=None, version=None, "
    "also=(), segmenter=None, dataset=None, replace=False, dry_run=False, token=None",
    "hub_models.hub.pull_model": "repo_id, revision=None, token=None, cache_dir=None",
    "hub_models.metrics.LungOverlap": "*, spacing=None, **options",
    "hub_models.metrics.LungOverlap.add": f"self, *, {PAIR}",
    "hub_models.metrics.LungOverlap.add_batch": f"self, *, {MASKS}",
    "hub_models.metrics.LungOverlap.compute": f"self, *, {MASKS}",
    "hub_models.metrics.Screening.add": f"self, *, {PAIR}",
    "hub_models.metrics.Screening.add_batch": f"self, *, {MASKS}",
    "hub_models.metrics.Screening.compute": f"self, *, {MASKS}, threshold=0.5",
    "hub_models.metrics.Overlap": "both, predicted_only, reference_only",
    "hub_models.metrics.count_overlap": "predicted, reference",
    "hub_models.metrics.dice": "counts",
    "hub_models.metrics.iou": "counts",
    "hub_models.metrics.surface_distances": "predicted, reference, spacing=(1.0, 1.0)",
    "hub_models.metrics.lung_figures": "columns, weights",
    "hub_models.metrics.screening_figures": "columns, weights, threshold",
    "hub_models.metrics.saliency_figures": "columns, weights",
    "hub_models.metrics.threshold_for_sensitivity": "labels, probabilities, sensitivity=0.9",
    "hub_models.metrics.fit_temperature": "logits, labels",
    "chest_xray_masks.split_of": "patient_id",
}
PREDICTION = ("name", "height", "width", "spacing_mm", "mask", "probability", "threshold", "distance", "limit")
CONFIG = (
    "data_dir output_dir task protocol fold config_name test_data table columns positive data_revision model "
    "from_scratch freeze lora image_size fit region segmenter epochs batch_size accumulation learning_rate "
    "layer_decay weight_decay warmup_fraction gradient_norm dropout label_smoothing ema balance augment keep patience "
    "checkpoint_steps checkpoints tracker seed mixup"
)
COLUMNS = "id patient_id site image mask label sex age_years findings reading"
SCRIPTS = "app audit_dataset benchmark build_dataset check_hub evaluate predict push show_dataset train write_phantoms"


def find(name: str) -> object:
    """Import what a dotted name stands for."""
    splits = name.split(".")
    for count in range(len(splits), 0, -1):
        try:
            found = importlib.import_module(".".join(splits[:count]))
        except ModuleNotFoundError:
            continue
        for part in splits[count:]:
            found = getattr(found, part)
        return found
    raise ImportError(name)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    signature = inspect.signature(find(name))
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[name]})"


def test_a_prediction_holds_these_values() -> None:
    from hub_models.predict import Prediction

    assert tuple(one.name for one in fields(Prediction))[: len(PREDICTION)] == PREDICTION
    for name in ("lungs", "flags", "is_mirrored", "is_suspected", "decision"):
        assert hasattr(Prediction, name)


def test_a_config_takes_these_options() -> None:
    from hub_models import TrainConfig

    assert [one.name for one in fields(TrainConfig)] == CONFIG.split()


def test_rows_and_configs_of_the_builder() -> None:
    import chest_xray_masks as cxm

    assert list(cxm.FEATURES) == COLUMNS.split()
    assert set(cxm.ChestXrayMasks.builder_configs) == {"all", "MC", "Shenzhen"}


@pytest.mark.parametrize("package", ["hub_models", "hub_models.predict"])
def test_missing_library_names_the_extra(package: str) -> None:
    code = f"import sys; sys.modules['torch'] = None\nfrom {package} import ChestXrayReader as Reader; Reader('tests')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("needs torch: pip install 'chest-xray-masks[models]'")


def test_scripts_keep_their_names() -> None:
    assert sorted(path.stem for path in (ROOT / "scripts").glob("*.py")) == SCRIPTS.split()
