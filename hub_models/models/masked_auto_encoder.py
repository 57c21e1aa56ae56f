"""A masked auto-encoder around a plain ViT, and the ViT out of it. Source: He 2021, arXiv 2111.06377."""

import math
from typing import Any

import torch
from transformers import PreTrainedModel, ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput

from hub_models.imaging.resizing import BILINEAR
from hub_models.metrics.weighted import mean
from hub_models.models.architectures import outline_at
from hub_models.models.image_processors import IMAGE_PROCESSORS
from hub_models.models.tasks import Objective

# Of the decoder, which is thrown away: one layer or eight, 128 wide or 512, fine-tune alike (He 2021, table 1)
DECODER = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
# What a ViT and the auto-encoder around it have in common
SHARED = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "qkv_bias"),
    *("layer_norm_eps", "initializer_range", "image_size", "patch_size", "num_channels"),
)
LARGEST_PERIOD = 10_000  # of the position embeddings, in patches. Source: Vaswani 2017, arXiv 1706.03762


class MaskedAutoEncoder(ViTMAEForPreTraining):
    """A ViT that sees some patches of an image, and a decoder that reconstructs the others."""

    def __init__(self, config: ViTMAEConfig) -> None:
        """Make random weights, and set the embeddings that transformers leaves at 0, with which nothing is learned."""
        super().__init__(config)
        tables = (self.vit.embeddings.position_embeddings, self.decoder.decoder_pos_embed)
        side = math.isqrt(self.vit.embeddings.patch_embeddings.num_patches)
        with torch.no_grad():
            for table in tables:
                table.zero_()[0, 1:] = sine_cosine(side, table.shape[-1])
            for token in (self.vit.embeddings.cls_token, self.decoder.mask_token):
                token.normal_(std=config.initializer_range)

    def forward(self, pixel_values: torch.Tensor, noise: torch.Tensor) -> ImageClassifierOutput:  # type: ignore[override]
        """Return as `logits` (B,) the reconstruction loss of each image (B, 3, S, S).

        It is the mean square error of hidden patches, each normalized to mean 0 and variance 1. The patches of
        smallest `noise` (B, N) are seen.
        """
        seen = self.vit(pixel_values, noise=noise)
        decoded = self.decoder(seen.last_hidden_state, seen.ids_restore).logits.float()  # (B, N, P)
        target = self.patchify(pixel_values).float()  # (B, N, P)
        variance, center = torch.var_mean(target, -1, keepdim=True)
        errors = (decoded - (target - center) / (variance + 1e-6).sqrt()).square().mean(-1)  # (B, N)
        return ImageClassifierOutput(logits=(errors * seen.mask).sum(1) / seen.mask.sum(1))


def sine_cosine(side: int, width: int) -> torch.Tensor:
    """Return position embeddings (side * side, width) of a square of patches, row by row: of x, then of y."""
    frequencies = LARGEST_PERIOD ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies  # (side, width / 4)
    one_axis = torch.cat([angles.sin(), angles.cos()], 1).float()  # (side, width / 2)
    return torch.cat([one_axis.repeat(side, 1), one_axis.repeat_interleave(side, 0)], 1)


def masked_auto_encoder(name: str, image_size: int, mask_ratio: float) -> MaskedAutoEncoder:
    """Return an auto-encoder, with random weights, around the plain ViT of an architecture or a folder's config.json.

    Raises:
        ValueError: another model, an image size that it does not take, or a fraction that hides no patch, or all.
    """
    vit = outline_at("classification", name, True, image_size).config
    if vit.model_type != "vit" or vit.hidden_size % 4:
        raise ValueError(f"{name} is a {vit.model_type} model: pre-training takes a plain ViT, such as vit-light")
    patches = (image_size // vit.patch_size) ** 2
    if not 0 < (seen := int(patches * (1 - mask_ratio))) < patches:
        raise ValueError(f"mask_ratio {mask_ratio} leaves {seen} of {patches} patches to see: pass another")
    shared: dict[str, Any] = {name: getattr(vit, name) for name in SHARED}
    decoder: dict[str, Any] = {f"decoder_{name}": size for name, size in DECODER.items()}
    return MaskedAutoEncoder(ViTMAEConfig(**shared, **decoder, mask_ratio=mask_ratio, norm_pix_loss=True))


def encoder_of(model: PreTrainedModel) -> ViTModel:
    """Return the encoder of an auto-encoder as a plain ViT without a head."""
    shared: dict[str, Any] = {name: getattr(model.config, name) for name in SHARED}
    encoder = ViTModel(ViTConfig(**shared), add_pooling_layer=False)
    encoder.load_state_dict(model.base_model.state_dict())
    return encoder


def gray_processor(image_size: int) -> BaseImageProcessor:
    """Return the image processor to save with an encoder: [-1, 1] in each channel.

    Channels of other means, as ImageNet's, would differ in a normalized patch by what no X-ray holds.
    """
    size = {"height": image_size, "width": image_size}
    half = [0.5] * 3
    return IMAGE_PROCESSORS["classification"](size=size, resample=BILINEAR, image_mean=half, image_std=half)


# r2: fraction of the variance in hidden patches that is reconstructed, 1 less the loss; mean over images
RECONSTRUCTION = Objective(
    learns_masks=False,
    loss=lambda logits, batch, label_smoothing: logits.mean(),
    validate=lambda logits, batch: {"r2": (1 - logits).tolist()},
    metrics=lambda columns, weights: {"r2": mean(columns["r2"], weights)},
    main_metric="r2",
)
