"""Training from encoders of other families, through the command; what is saved is read, here and plainly."""

import json
from pathlib import Path

import pytest
import torch
from checkpoints import CHECKPOINTS, write_checkpoint
from launch import accelerate, python
from PIL import Image
from transformers import AutoModelForImageClassification

from hub_models.models.image_processors import normalize
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.reader import ChestXrayReader

RAD_DINO = {"image_mean": [0.53, 0.53, 0.53], "image_std": [0.26, 0.26, 0.26]}  # about; of X-rays, not photographs


def options(family: str, phantoms: Path, start: Path, run: Path) -> list[object]:
    write_checkpoint(family, start)
    values = RAD_DINO | {"image_processor_type": "ViTFeatureExtractor"}
    (start / "preprocessor_config.json").write_text(json.dumps(values))
    given = {"task": "tb_classification", "data_dir": phantoms, "output_dir": run, "model": start, "epochs": 2}
    given |= {"image_size": CHECKPOINTS[family].image_size, "layer_decay": 0.75, "tracker": "none"}
    return [text for name, value in given.items() for text in (f"--{name}", value)]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dinov2", "siglip", "clip"])
def test_encoder_is_fine_tuned_saved_and_read(family: str, phantoms: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = python("scripts/train.py", *options(family, phantoms, tmp_path / "start", run))
    assert "starts from random weights" in done.stderr + done.stdout
    image = Image.effect_noise((80, 80), 60)
    (prediction,) = ChestXrayReader(classifier=run).read([image])
    trained = TrainedModel.from_run(run)
    assert list(trained.image_processor.image_mean) == RAD_DINO["image_mean"]
    plain = AutoModelForImageClassification.from_pretrained(run).eval()
    with torch.no_grad():
        pixels = torch.from_numpy(trained.to_pixels(image, None))[None].float() / 255
        inputs = normalize(pixels, trained.image_processor)
        probability = plain(pixel_values=inputs).logits.softmax(1)[0, 1]
    assert prediction.probability == pytest.approx(float(probability), abs=1e-6)
    assert plain.config.id2label == {0: "normal", 1: "tuberculosis"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dinov2", "siglip"])
def test_two_processes_wait_for_no_weight_that_is_not_used(family: str, phantoms: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    accelerate("scripts/train.py", *options(family, phantoms, tmp_path / "start", run), processes=2)
    assert (run / "results.json").is_file()
