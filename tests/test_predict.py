import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from hub_models.config import TrainConfig
from hub_models.pixels import to_gray
from hub_models.predict import Predictor
from hub_models.tasks import TASKS


@pytest.fixture(scope="module")
def run_folder(tiny_segformer, tmp_path_factory):
    """A run folder as training leaves it, its weights random."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(3)
    task = TASKS["lung_segmentation"]
    task.build(str(tiny_segformer), True, task.labels).save_pretrained(folder)
    task.processor("", 64).save_pretrained(folder)
    TrainConfig("data", str(folder)).save(folder)
    return folder


def test_mask_is_on_the_original_pixels_and_as_transformers_has_it(run_folder) -> None:
    predictor = Predictor.from_run(run_folder)
    image = Image.effect_noise((150, 90), 60)
    mask = predictor(image)
    assert mask.shape == (90, 150) and mask.dtype == bool
    inputs = predictor.processor(image.convert("RGB"), return_tensors="pt")
    with torch.no_grad():
        outputs = predictor.model(**inputs)
    (theirs,) = predictor.processor.post_process_semantic_segmentation(outputs, [(90, 150)])
    assert 0 < mask.mean() < 1
    np.testing.assert_array_equal(mask, theirs.bool())


def test_the_same_picture_in_any_mode_gives_the_same_mask(run_folder, tmp_path) -> None:
    predictor = Predictor.from_run(run_folder)
    image = Image.effect_noise((64, 64), 60)
    expected = predictor(image)
    values = np.asarray(image)
    palette = Image.frombytes("P", image.size, (255 - values).tobytes())
    palette.putpalette([255 - index for index in range(256) for _ in "rgb"])
    deep = Image.fromarray(values.astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    assert to_gray(deep).mode == "F"
    for source in (palette, image.convert("RGB"), deep, tmp_path / "deep.png", (tmp_path / "deep.png").read_bytes()):
        np.testing.assert_array_equal(predictor(source), expected)


def test_folder_that_is_no_finished_run_is_refused(run_folder, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no train_config.json"):
        Predictor.from_run(tmp_path)
    TrainConfig("data", "out").save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in .*: let scripts/train.py finish"):
        Predictor.from_run(tmp_path)
    assert dataclasses.is_dataclass(Predictor.from_run(run_folder))
