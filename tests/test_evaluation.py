import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from hub_models.data import Arrays, load_splits, prepare
from hub_models.evaluation import evaluate, normalize, summarize_sites
from hub_models.metrics import count_overlap, dice
from hub_models.pixels import resize_gray, to_gray, to_mask
from hub_models.tasks import TASKS

LUNGS = TASKS["lung_segmentation"]


def test_normalize_is_what_the_saved_processor_does() -> None:
    processor = LUNGS.processor("nvidia/mit-b0", 64)
    gray = Image.effect_noise((200, 150), 60)
    theirs = processor(gray.convert("RGB"), return_tensors="pt")["pixel_values"]
    ours = normalize(torch.from_numpy(resize_gray(gray, 64).copy())[None].float() / 255, processor)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_one_row_per_image_on_its_own_grid(phantoms, tiny_segformer) -> None:
    torch.manual_seed(0)
    rows = LUNGS.usable(load_splits(phantoms)["train"])
    arrays = Arrays(prepare(rows, 64), 64)
    model, processor = LUNGS.build(str(tiny_segformer), True, LUNGS.labels).train(), LUNGS.processor("", 64)
    per_image = evaluate(model, processor, LUNGS, rows, arrays, Accelerator())
    assert [row["id"] for row in per_image] == sorted(rows["id"])
    by_id = {row["id"]: row for row in rows}
    for one in per_image[::7]:
        row = by_id[one["id"]]
        pixels = processor(to_gray(row["image"]).convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            logits = model.eval()(**pixels).logits
        (theirs,) = processor.post_process_semantic_segmentation(model(**pixels), [row["image"].size[::-1]])
        predicted = LUNGS.predict(logits[0], row["image"].height, row["image"].width)
        np.testing.assert_array_equal(predicted, theirs.bool())  # as transformers' own pipeline has it
        assert one["dice"] == pytest.approx(dice(count_overlap(predicted, to_mask(row["mask"]))), abs=1e-3)
        assert (one["site"], one["label"], one["sex"]) == (row["site"], row["label"], row["sex"])


def test_sites_are_summarized_apart_and_together() -> None:
    per_image = [{"site": "A", "dice": 0.8}, {"site": "B", "dice": 0.5}, {"site": "A", "dice": 1.0}]
    summary = summarize_sites(per_image, "dice")
    assert {name: (one["n"], one["mean"]) for name, one in summary.items()} == {
        "A": (2, pytest.approx(0.9)),
        "B": (1, 0.5),
        "all": (3, pytest.approx(2.3 / 3)),
    }
