import re
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from hub_models.metrics import screening_metrics
from hub_models.metrics.lung_overlap.lung_overlap import LungOverlap
from hub_models.metrics.screening.screening import Screening

ROOT = Path(__file__).parents[2]
FULL = np.ones((4, 4), bool)
HALF = FULL & (np.arange(4) < 2)
WIDE = np.pad(HALF, ((0, 0), (0, 3)))  # another size
PROBABILITIES, LABELS = [0.9, 0.6, 0.2, 0.4, 0.1], [1, 1, 1, 0, 0]
LUNGS = "hub_models/metrics/lung_overlap"

# Two images, (HALF, FULL) and (WIDE, WIDE). dice: 2*8 / (8 + 16) = 2/3 and 1; iou 8/16 and 1; pooled: 16 pixels in
# both and 8 in the reference only, so 32/40 and 16/24. Sample sd of 2/3 and 1: (1/3) / sqrt(2).
OVERLAP = {"dice": 5 / 6, "dice_sd": 2**-0.5 / 3, "dice_median": 5 / 6, "iou": 0.75}
OVERLAP |= {"dice_pooled": 0.8, "iou_pooled": 2 / 3}


@pytest.mark.parametrize("path", [LUNGS, f"{LUNGS}/lung_overlap.py"])
def test_lung_overlap_loads_by_path_without_network(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"network: {args}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.chdir(ROOT)
    metric = evaluate.load(path)
    assert metric.compute(predictions=[HALF, WIDE], references=[FULL, WIDE]) == pytest.approx(OVERLAP)
    assert evaluate.load(path, spacing=(1.0, 1.0)).compute(predictions=[FULL], references=[FULL])["assd"] == 0


@pytest.mark.parametrize("path", ["hub_models/metrics/screening", "hub_models/metrics/screening/screening.py"])
def test_screening_loads_by_path(path: str) -> None:
    metrics = evaluate.load(str(ROOT / path)).compute(predictions=PROBABILITIES, references=LABELS)
    assert metrics["auroc"] == pytest.approx(5 / 6)  # of 6 pairs, .2 against .4 is lost


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64])
def test_masks_of_any_whole_numbers_in_any_batches(kind: type) -> None:
    metric = LungOverlap()
    half, full, wide = (mask.astype(kind) * kind(200) for mask in (HALF, FULL, WIDE))
    metric.add_batch(predictions=[half, wide], references=[full, wide])
    assert len(metric) == 2
    assert metric.compute() == pytest.approx(OVERLAP)
    metric.add(prediction=half, reference=full)
    metric.add(predictions=wide, references=wide)
    assert metric.compute() == pytest.approx(OVERLAP)
    metric.add_batch(predictions=np.stack([half, half]), references=torch.from_numpy(np.stack([full, full])))
    assert metric.compute()["dice"] == pytest.approx(2 / 3)
    assert metric.compute(predictions=[half.tolist()], references=[full.tolist()])["dice"] == pytest.approx(2 / 3)


def test_compute_adds_what_it_is_given_and_forgets_all() -> None:
    metric = LungOverlap()
    metric.add(prediction=HALF, reference=FULL)
    assert metric.compute(predictions=[WIDE], references=[WIDE]) == pytest.approx(OVERLAP)
    assert len(metric) == 0
    alone = metric.compute(predictions=[WIDE], references=[WIDE])
    assert np.isnan(alone.pop("dice_sd"))  # of one image
    assert set(alone.values()) == {1.0}
    with pytest.raises(ValueError, match="no image was added"):
        metric.compute()


def test_distances_in_the_unit_of_the_spacing() -> None:
    predicted, reference = np.zeros((2, 20, 30), bool)
    predicted[5, 4:8] = reference[8, 4:8] = True  # two lines of 4 pixels, 3 rows apart
    empty = np.zeros_like(predicted)
    pairs = {"predictions": [predicted, empty], "references": [reference, reference]}  # the second is left out
    metrics = LungOverlap(spacing=(0.5, 2.0)).compute(**pairs)
    assert list(metrics) == [*OVERLAP, "hd95", "assd"]
    assert (metrics["hd95"], metrics["assd"]) == (1.5, 1.5)
    assert list(LungOverlap().compute(**pairs)) == list(OVERLAP)
    with pytest.raises(ValueError, match="spacing must be two positive numbers"):
        LungOverlap(spacing=(0.0, 1.0)).compute(**pairs)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([HALF], [WIDE], r"image 0: prediction (4, 4) and reference (4, 7) differ in size"),
        ([FULL, HALF], [FULL, HALF[None]], r"reference 1 must be one mask (H, W), got shape (1, 4, 4)"),
        (HALF, HALF, r"prediction 0 must be one mask (H, W), got shape (4,): pass a list of masks"),
        ([HALF.astype(float)], [HALF], r"prediction 0 must hold ints or bools, got float64: apply a threshold first"),
        ([HALF, HALF], [HALF], r"got 2 predictions for 1 references"),
        ([HALF], None, r"no references"),
        ([], [], r"no image was added"),
    ],
)
def test_lung_overlap_says_what_is_wrong(predictions: object, references: object, message: str) -> None:
    metric = LungOverlap()
    with pytest.raises(ValueError, match=re.escape(message)):
        metric.compute(predictions=predictions, references=references)
    assert len(metric) == 0  # nothing of a wrong batch stays
    with pytest.raises(ValueError, match="in one process, got 2"):
        LungOverlap(num_process=2, process_id=0)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images() -> None:
    code = """
import tracemalloc  # what the system calls a process' peak is also that of the one which started it
import numpy as np
from hub_models.metrics.lung_overlap.lung_overlap import LungOverlap
metric = LungOverlap()
tracemalloc.start()
for index in range(200):
    mask = np.zeros((3000, 3000), np.uint8)
    mask[index : index + 2000, 500:2500] = 1
    metric.add_batch(predictions=[mask], references=[mask])
assert metric.compute()["dice"] == 1
print(tracemalloc.get_traced_memory()[1])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 3e8  # bytes; the masks are 200 * 2 * 9 MB = 3.6 GB


def test_screening_agrees_with_the_metrics() -> None:
    metric = Screening()
    metric.add_batch(predictions=PROBABILITIES[:3], references=torch.tensor(LABELS[:3]))
    metric.add(prediction=PROBABILITIES[3], reference=LABELS[3])
    metric.add(predictions=PROBABILITIES[4], references=False)
    assert len(metric) == 5
    metrics = metric.compute(threshold=0.2)
    columns = {"label": np.array(LABELS), "probability": np.array(PROBABILITIES)}
    expected = {name: value[0] for name, value in screening_metrics(columns, np.ones((1, 5)), 0.2).items()}
    assert list(metrics) == list(expected)
    assert metrics == pytest.approx(expected)
    # From .2 up: all positives, and one of two negatives. From .5 up: two of three, and none.
    assert (metrics["sensitivity"], metrics["specificity"]) == (1.0, 0.5)
    assert (metrics["sensitivity_at_half"], metrics["specificity_at_half"]) == (pytest.approx(2 / 3), 1.0)
    assert len(metric) == 0
    alone = metric.compute(predictions=[0.9, 0.2], references=[1, 1])  # of one class
    assert np.isnan([alone["auroc"], alone["average_precision"], alone["specificity"]]).all()
    assert alone["sensitivity"] == 0.5


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0.5, 1.5], [0, 1], "predictions must be probabilities in [0, 1], got 1.5"),
        ([-0.5, 0.5], [0, 1], "got -0.5: apply sigmoid or softmax first"),
        ([0.5, float("nan")], [0, 1], "got nan"),
        ([0.5, 0.5], [0, 2], "references must be 0 or 1, got 2"),
        ([0.5, 0.5], [0], "predictions (2,) and references (1,) must both be (n,)"),
        ([[0.5, 0.5]], [1], "predictions (1, 2) and references (1,) must both be (n,)"),
        (None, [1], "no predictions"),
        ([], [], "nothing was added"),
    ],
)
def test_screening_says_what_is_wrong(predictions: object, references: object, message: str) -> None:
    metric = Screening()
    with pytest.raises(ValueError, match=re.escape(message)):
        metric.compute(predictions=predictions, references=references)
    assert len(metric) == 0


def test_a_wrong_threshold_loses_nothing() -> None:
    metric = Screening()
    metric.add_batch(predictions=PROBABILITIES, references=LABELS)
    with pytest.raises(ValueError, match=re.escape("threshold must be in [0, 1], got 50")):
        metric.compute(threshold=50)
    assert metric.compute()["auroc"] == pytest.approx(5 / 6)


def test_modules_work_in_a_combination() -> None:
    both = evaluate.combine([LungOverlap(), LungOverlap(spacing=(1.0, 1.0))])
    both.add_batch(predictions=[HALF], references=[FULL])
    assert both.compute()["hd95"] > 0
