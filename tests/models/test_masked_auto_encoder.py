import math

import pytest
import torch
from transformers import ViTMAEForPreTraining

from hub_models.models.masked_auto_encoder import MaskedAutoEncoder, encoder_of, masked_auto_encoder


@pytest.fixture(scope="module")
def model() -> MaskedAutoEncoder:
    torch.manual_seed(0)
    return masked_auto_encoder("vit-light", 32, 0.75).eval()  # 16 patches, of which 4 are seen


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1)


def test_positions_and_tokens_are_set_which_transformers_leaves_at_zero(model) -> None:
    plain = ViTMAEForPreTraining(model.config)
    for name in ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"):
        assert not plain.get_parameter(name).any(), "transformers sets them now: drop our own"
        table = model.get_parameter(name)
        assert not table.requires_grad and not table[0, 0].any()
        quarter = table.shape[-1] // 4
        for axis, position in ((0, 2), (1, 3)):  # of the patch in column 2 of row 3
            found = table[0, 1 + 3 * 4 + 2].unflatten(0, (2, 2, quarter))[axis]
            angles = [position / 10_000 ** (index / quarter) for index in range(quarter)]
            expected = [[math.sin(one) for one in angles], [math.cos(one) for one in angles]]
            torch.testing.assert_close(found, torch.tensor(expected))
    for name in ("vit.embeddings.cls_token", "decoder.mask_token"):
        assert model.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.3)


def test_mean_of_the_losses_is_that_of_transformers(model, images) -> None:
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        losses = model(images, noise).logits
        expected = ViTMAEForPreTraining.forward(model, images, noise).loss
    assert losses.shape == (3,)
    torch.testing.assert_close(losses.mean(), expected)


def test_encoder_out_of_it_is_the_same_vit(model, images) -> None:
    all_seen = MaskedAutoEncoder(type(model.config)(**model.config.to_dict() | {"mask_ratio": 0.0})).eval()
    all_seen.load_state_dict(model.state_dict())
    in_order = torch.arange(16.0).expand(3, -1)
    with torch.no_grad():
        expected = all_seen.vit(images, noise=in_order).last_hidden_state
        found = encoder_of(model).eval()(images).last_hidden_state
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "size", "fraction", "said"),
    [
        ("facebook/deit-tiny-patch16-224", 64, 0.75, "deit-tiny-patch16-224 is a deit model: pre-training takes"),
        ("resnet-light", 64, 0.75, "resnet-light is a resnet model"),
        ("vit-light", 32, 0.99, "mask_ratio 0.99 leaves 0 of 16"),
        ("vit-light", 32, 0.0, "mask_ratio 0.0 leaves 16 of 16"),
        ("vit-light", 84, 0.75, "a multiple of 8 pixels, got image_size 84"),
    ],
)
def test_what_cannot_be_pre_trained_is_named(name: str, size: int, fraction: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        masked_auto_encoder(name, size, fraction)
