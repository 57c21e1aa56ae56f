"""Small random checkpoints as the Hub holds them: the encoder of each family, without a head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

_WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_TEXT = _WIDTHS | {"vocab_size": 8, "max_position_embeddings": 4, "bos_token_id": 0, "eos_token_id": 1}
_VIT = _WIDTHS | {"image_size": 64, "patch_size": 16}
_DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 14}
_TOWERS = {"text_config": _TEXT, "vision_config": _VIT}


@dataclass(frozen=True)
class Checkpoint:
    """A class of transformers, its config and a size of images that it takes."""

    model: type[PreTrainedModel]
    config: dict[str, Any]
    image_size: int = 64


CHECKPOINTS = {
    "vit": Checkpoint(transformers.ViTModel, _VIT),
    "deit": Checkpoint(transformers.DeiTModel, _VIT),
    "beit": Checkpoint(transformers.BeitModel, _VIT),
    "dinov2": Checkpoint(transformers.Dinov2Model, _DINO | {"image_size": 70}, 112),
    "dinov2_with_registers": Checkpoint(
        transformers.Dinov2WithRegistersModel, _DINO | {"image_size": 70, "num_register_tokens": 2}, 112
    ),
    "siglip": Checkpoint(transformers.SiglipModel, _TOWERS),
    "clip": Checkpoint(transformers.CLIPModel, _TOWERS | {"projection_dim": 8}),
    "swin": Checkpoint(
        transformers.SwinModel, {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 4}
    ),
    "resnet": Checkpoint(transformers.ResNetModel, {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    "convnext": Checkpoint(transformers.ConvNextModel, {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
}


def write_checkpoint(family: str, folder: Path) -> None:
    """Save the encoder of a family with random weights in `folder`."""
    torch.manual_seed(4)
    one = CHECKPOINTS[family]
    one.model(one.model.config_class(**one.config)).save_pretrained(folder)
