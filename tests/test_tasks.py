import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import SegformerConfig

from hub_models.tasks import SEGFORMER_SIZES, TASKS

LUNGS = TASKS["lung_segmentation"]


def test_only_rows_with_a_mask_are_usable() -> None:
    features = datasets.Features({"id": datasets.Value("string"), "mask": datasets.Image()})
    masks = [Image.new("L", (4, 4), 255), None, Image.new("L", (4, 4))]
    rows = datasets.Dataset.from_dict({"id": list("abc"), "mask": masks}, features=features)
    assert LUNGS.usable(rows)["id"] == ["a", "c"]
    assert LUNGS.usable(rows.select([1]))["id"] == []
    assert LUNGS.usable(rows.select([2, 1, 0]))["id"] == ["c", "a"]  # also behind an index


@pytest.mark.parametrize(("name", "millions"), [("nvidia/mit-b0", 3.7), ("nvidia/mit-b1", 13.7)])
def test_from_scratch_has_the_published_size(name: str, millions: float) -> None:
    # Xie et al. 2021, table 1: SegFormer-B0 3.8 and B1 13.7 million parameters with 150 classes
    model = LUNGS.build(name, True, LUNGS.labels)
    assert sum(weight.numel() for weight in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert model.config.id2label == {0: "background", 1: "lung"}
    assert model.config.label2id == {"background": 0, "lung": 1}


def test_b0_is_the_default_of_transformers() -> None:
    widths, depths, decoder = SEGFORMER_SIZES["nvidia/mit-b0"]
    config = SegformerConfig()
    assert (tuple(config.hidden_sizes), tuple(config.depths)) == (widths, depths)
    assert config.decoder_hidden_size == decoder


def test_from_scratch_takes_the_architecture_of_a_folder(tiny_segformer) -> None:
    model = LUNGS.build(str(tiny_segformer), True, LUNGS.labels)
    assert list(model.config.hidden_sizes) == [8, 16, 24, 32]
    with pytest.raises(ValueError, match="architectures nvidia/mit-b0, .* and folders, got nvidia/mit-b9"):
        LUNGS.build("nvidia/mit-b9", True, LUNGS.labels)


def test_checkpoint_weights_are_kept_and_a_head_for_other_classes_is_not(tiny_segformer, tmp_path) -> None:
    other = LUNGS.build(str(tiny_segformer), True, ("a", "b", "c"))
    other.save_pretrained(tmp_path)
    model = LUNGS.build(str(tmp_path), False, LUNGS.labels)
    kept, lost = "decode_head.linear_fuse.weight", "decode_head.classifier.weight"
    assert torch.equal(model.state_dict()[kept], other.state_dict()[kept])
    assert model.state_dict()[lost].shape[0] == 2


def test_loss_by_hand() -> None:
    # one image of two pixels, logits at the mask's size: softmax 1/2 and 1/2 everywhere, one lung pixel in the mask:
    # cross-entropy log 2; soft Dice = 2 * 0.5 / (0.5 + 0.5 + 1) = 0.5, so Dice loss 0.5
    logits, mask = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
    assert LUNGS.loss(logits, {"mask": mask}).item() == pytest.approx(np.log(2) + 0.5, abs=1e-4)


def test_loss_is_the_mean_over_images_and_upsamples_logits() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(3, 2, 8, 8, generator=rng), torch.rand(3, 32, 32, generator=rng) > 0.5
    each = [LUNGS.loss(logits[index : index + 1], {"mask": masks[index : index + 1]}) for index in range(3)]
    torch.testing.assert_close(LUNGS.loss(logits, {"mask": masks}), torch.stack(each).mean())
    confident = torch.stack([-20.0 * masks, 20.0 * masks - 10], 1).float()
    assert LUNGS.loss(confident, {"mask": masks}) < 1e-3
    large = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear")
    assert (
        LUNGS.loss(logits, {"mask": masks}) > cross_entropy(large, masks.long()) - 1e-6
    )  # the Dice part is not negative


def test_prediction_is_on_the_original_grid() -> None:
    logits = torch.zeros(2, 4, 4)
    logits[1, :, :2], logits[0, :, 2:] = 1, 1  # left half lung
    predicted = LUNGS.predict(logits, 6, 20)
    assert predicted.shape == (6, 20) and predicted.dtype == bool
    assert predicted[:, :8].all() and not predicted[:, 12:].any()


def test_figures_and_reference() -> None:
    reference = LUNGS.reference({"mask": Image.fromarray(np.array([[255, 255, 0, 0]], np.uint8))})
    predicted = np.array([[True, False, True, False]])
    assert LUNGS.figures(predicted, reference) == {"dice": 0.5, "iou": pytest.approx(1 / 3)}
    assert LUNGS.main_figure in LUNGS.figures(predicted, reference)
