"""What moves the weights: groups of them, schedule, running mean, and norms that see the batch of every process."""

import math
import re
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from hub_models.runs.config import LEARNING_RATES, TrainConfig

# Biases before a batch norm have no gradient but rounding noise of 1e-9, which Adam's own 1e-8 would blow up to steps:
# two processes, whose noise differs, would part.
EPSILON = 1e-6


UNDECAYED = ("bias", "token", "position_embedding")  # whatever their shape


def make_optimizer(config: TrainConfig, model: PreTrainedModel) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels but no norm and no bias, and moves lower layers of the backbone less."""
    peak = config.learning_rate or LEARNING_RATES[config.from_scratch]
    depths = layer_depths(model)
    top = max(depths.values())
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        decayed = weight.ndim > 1 and not any(word in name for word in UNDECAYED)
        groups.setdefault((depths[name], decayed), []).append(weight)
    return torch.optim.AdamW(
        [
            {
                "params": weights,
                "lr": peak * config.layer_decay ** (top - depth),
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (depth, decayed), weights in sorted(groups.items(), key=lambda group: group[0])
        ],
        eps=EPSILON,
        fused=True,  # one pass over the weights, which counts where the model is small
    )


def layer_depths(model: PreTrainedModel) -> dict[str, int]:
    """Depth of each weight by name: 0 for the embeddings, then one more per layer of the backbone, the head the most.

    Layers are told by the numbers in their weights' names, as in `vit.layers.3.` or `segformer.stages.1.blocks.0.`;
    what stands in a stage beside its layers counts with the first of them.
    """
    backbone = f"{model.base_model_prefix}."
    places = {name: _place(name) if name.startswith(backbone) else None for name, _ in model.named_parameters()}
    layers = sorted({place for place in places.values() if place})
    rank = {layer: index + 1 for index, layer in enumerate(layers)}
    # neither numbered nor embeddings: the head, or the backbone's last norm
    return {
        name: rank[place] if place else 0 if ".embed" in name or ".patch_embed" in name else len(layers) + 1
        for name, place in places.items()
    }


def _place(name: str) -> tuple[int, ...]:
    numbers = re.findall(r"\b(?:stages|layers|layer|blocks|block)\.(\d+)\.", name)
    nested = bool(re.search(r"\.stages\.|\.layers\.\d+\.(?:blocks|downsample)", name))
    return tuple(int(number) for number in (numbers + ["0"])[:2]) if nested else tuple(map(int, numbers[:1]))


def make_schedule(config: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LRScheduler:
    """Linear climb to the peak, then half a cosine down to 0, one value per update of the weights."""
    updates = config.epochs * math.ceil(steps_per_epoch / config.accumulation)
    return get_cosine_schedule_with_warmup(optimizer, round(config.warmup_fraction * updates), updates)


def running_mean(model: torch.nn.Module, decay: float) -> AveragedModel:
    """Exponential running mean of a model's weights and statistics; call `update_parameters` after each update.

    The decay climbs to `decay` as (1 + n) / (10 + n), so that the random start is forgotten.
    """

    @torch.no_grad()
    def mix(means: list[torch.Tensor], news: list[torch.Tensor], count: torch.Tensor | int) -> None:
        """Move the means towards the new weights."""
        if not means[0].is_floating_point():  # a count of batches
            torch._foreach_copy_(means, news)
            return
        share = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(means, news, 1 - share)

    return AveragedModel(model, multi_avg_fn=mix, use_buffers=True)


class _Sum(torch.autograd.Function):
    """Sum of a tensor over all processes, through which gradients flow back to each of them.

    torch's own is deprecated, and its successor passes no gradient in the oldest torch that this project takes.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        """Return the sum, the same on each process."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the sum of what each process makes of the sum."""
        return _Sum.forward(ctx, gradient.contiguous())


class SynchronizedBatchNorm2d(torch.nn.BatchNorm2d):
    """Batch norm whose mean and variance are those of the batch of all processes, on any device.

    torch's SyncBatchNorm does the same but not on a CPU. Weights and statistics keep their names.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalized (B, C, H, W); each process must hold as many images."""
        if not self.training:
            return super().forward(values)
        moments = torch.stack([values.float().mean((0, 2, 3)), values.float().square().mean((0, 2, 3))])  # (2, C)
        mean, square = _Sum.apply(moments) / torch.distributed.get_world_size()
        variance = (square - mean.square()).clamp(min=0)  # of a constant, rounding may leave less
        count = values.numel() / values.shape[1] * torch.distributed.get_world_size()
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), share)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shifted = (values - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return shifted.to(values.dtype)


def synchronize_batch_norms(model: torch.nn.Module) -> None:
    """Let every batch norm of `model` see the whole batch, in place."""
    for module in model.modules():
        if type(module) is torch.nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d


def divide_logits(model: PreTrainedModel, temperature: float) -> None:
    """Divide a classifier's logits by `temperature`, in place, in the weights of its last layers.

    Every way to use the weights then gives calibrated probabilities.

    Raises:
        ValueError: the model has no such layer.
    """
    backbone, labels = f"{model.base_model_prefix}.", model.config.num_labels
    heads = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == labels and not name.startswith(backbone)
    ]
    if not heads:
        raise ValueError(f"{type(model).__name__} has no linear layer of {labels} outputs: pass another --model")
    with torch.no_grad():
        for head in heads:
            head.weight /= temperature
            if head.bias is not None:
                head.bias /= temperature
