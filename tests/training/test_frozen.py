from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import Dinov2Config, MobileNetV2Config, PreTrainedModel, SwinConfig

from hub_models.dataset.batches import Arrays
from hub_models.models.architectures import build
from hub_models.models.image_processors import image_processor_for, normalize
from hub_models.models.tasks import TASKS
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import Split, load_run_splits
from hub_models.training import frozen
from hub_models.training.frozen import Features, FrozenEncoder, head_of, learned_from, write_features

LABELS = ("normal", "tuberculosis")
SIDE = 32
TINY = {
    "swin": SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 1], image_size=SIDE, window_size=4),
    "dinov2": Dinov2Config(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIDE, patch_size=16
    ),
}


@pytest.fixture
def tiny(request, tmp_path, tiny_segformer, tiny_resnet, tiny_vit):
    """What builds a tiny model of a family by name, with random weights: "lungs" is a SegFormer that finds them."""
    folders = {"lungs": tiny_segformer, "segformer": tiny_segformer, "resnet": tiny_resnet, "vit": tiny_vit}

    def make(name: str) -> PreTrainedModel:
        if name in TINY:
            TINY[name].save_pretrained(tmp_path)
        torch.manual_seed(0)
        kind = "segmentation" if name == "lungs" else "classification"
        model = build(kind, str(folders.get(name, tmp_path)), True, LABELS, SIDE)
        for weight in model.parameters():  # biases and norms too
            torch.nn.init.normal_(weight, std=0.1)
        return model

    return make


@pytest.mark.parametrize(
    ("name", "width"),
    # stages of 8 to 32 channels on 8x8 to 1x1; channels of the last stage; the class token and the mean of the others
    [("lungs", 8 * 64 + 16 * 16 + 24 * 4 + 32), ("segformer", 32), ("resnet", 16), ("vit", 8), ("swin", 16)]
    + [("dinov2", 16)],
)
def test_head_makes_of_features_what_the_model_makes_of_images(name: str, width: int, tiny) -> None:
    model = tiny(name)
    inputs = torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = model.eval()(pixel_values=inputs).logits
    whole = FrozenEncoder(model, SIDE)
    features = whole.encode(inputs)
    assert features.shape == (3, width) and features.dtype == torch.float32 and not features.requires_grad
    assert torch.equal(whole(features=features).logits, expected)


@pytest.mark.parametrize("name", ["lungs", "resnet", "vit"])
def test_gradients_reach_the_head_alone(name: str, tiny) -> None:
    whole = FrozenEncoder(tiny(name), SIDE)
    whole.train()(features=torch.randn(2, whole.width)).logits.square().sum().backward()
    encoder = f"model.{whole.model.base_model_prefix}."
    reached = {name for name, weight in whole.named_parameters() if weight.grad is not None}
    assert reached == {name for name, _ in whole.named_parameters() if not name.startswith(encoder)} != set()


def test_model_with_dropout_before_its_head_is_refused(tmp_path) -> None:
    MobileNetV2Config(image_size=SIDE, depth_multiplier=0.25).save_pretrained(tmp_path)
    model = build("classification", str(tmp_path), True, LABELS, SIDE)
    with pytest.raises(ValueError, match="MobileNetV2ForImageClassification has 2 modules beside its encoder"):
        head_of(model)


@pytest.fixture(scope="module")
def splits(phantoms) -> dict[str, Split]:
    config = TrainConfig(str(phantoms), "out", image_size=SIDE, augment="none")
    return load_run_splits(config, Accelerator())


def written(splits: dict[str, Split], folder: Path, model: PreTrainedModel, size: int) -> dict[str, Split]:
    """The splits with the features of a frozen model, `size` X-rays in a forward pass."""
    learned = learned_from(TrainConfig("data", "out", freeze="encoder", augment="none"), splits)
    processor = image_processor_for("segmentation", "segformer-light", True, SIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "EVALUATION_BATCH", size)
        write_features(learned, folder, FrozenEncoder(model, SIDE), processor, Accelerator())
    return learned


def test_each_x_ray_has_the_features_of_its_own_pixels(splits, tiny, tmp_path) -> None:
    model = tiny("lungs")
    learned = written(splits, tmp_path, model, 16)
    assert set(learned) == {"train", "validation"}  # the finished model is tested on pixels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features-train.npy", "features-validation.npy"]
    arrays, plain = learned["train"].arrays, splits["train"].arrays
    assert isinstance(arrays, Features) and isinstance(arrays.features, np.memmap)
    batch, expected = arrays.__getitems__([17, 3]), plain.__getitems__([17, 3])
    assert "drawn" not in batch and torch.equal(batch["mask"], expected["mask"])
    processor = image_processor_for("segmentation", "segformer-light", True, SIDE)
    encoded = FrozenEncoder(model, SIDE).encode(normalize(expected["pixels"].float() / 255, processor))
    torch.testing.assert_close(batch["features"], encoded)
    logits = FrozenEncoder(model, SIDE).eval()(features=batch["features"]).logits
    assert logits.shape == (2, 2, SIDE // 4, SIDE // 4)
    assert TASKS["lung_segmentation"].loss(logits, batch, 0.0).isfinite()


def test_half_written_features_are_not_left(splits, tiny, tmp_path, monkeypatch) -> None:
    def fail(self: Features, size: int) -> None:
        yield torch.zeros(2, SIDE, SIDE)
        raise OSError("disk full")

    monkeypatch.setattr(Features, "images", fail)
    with pytest.raises(OSError, match="disk full"):
        written(splits, tmp_path, tiny("lungs"), 16)
    assert list(tmp_path.iterdir()) == []


def test_nothing_changes_where_nothing_is_frozen(splits, tmp_path) -> None:
    learned = learned_from(TrainConfig("data", "out"), splits)
    assert learned is splits and type(learned["train"].arrays) is Arrays
    write_features(learned, tmp_path, torch.nn.Identity(), None, Accelerator())
    assert list(tmp_path.iterdir()) == []
