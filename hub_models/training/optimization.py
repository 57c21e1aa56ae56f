"""How the weights are updated: optimizer, schedule, running mean, and batch norms over all processes."""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from hub_models.models.weights import backbone_of, output_layers
from hub_models.runs.config import TrainConfig, resolved

# Biases before a batch norm have only rounding noise of 1e-9 as gradient. Adam's own 1e-8 would blow it up to steps,
# which differ between processes.
EPSILON = 1e-6
UNDECAYED = ("bias", "token", "position_embedding")  # whatever their shape


def make_optimizer(config: TrainConfig, model: PreTrainedModel) -> torch.optim.AdamW:
    """Return AdamW over the weights that need a gradient.

    It decays matrices and kernels but no norm and no bias, and moves lower layers less.
    """
    peak = resolved(config.learning_rate, "learning_rate")
    depths = layer_depths(model)
    top = max(depths.values())
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
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
    """Return the depth of each weight by name: 0 for embeddings, one more per layer, most for the head.

    Layers are told by the numbers in names such as `vit.layers.3.` or `segformer.stages.1.blocks.0.`. The other
    weights of a stage count with its first layer.
    """
    backbone = backbone_of(model)
    places = {name: _place(name) if name.startswith(backbone) else None for name, _ in model.named_parameters()}
    layers = sorted({place for place in places.values() if place})
    rank = {layer: index + 1 for index, layer in enumerate(layers)}
    # neither numbered nor embeddings: the head, or the backbone's last norm
    return {
        name: rank[place] if place else 0 if ".embed" in name or ".patch_embed" in name else len(layers) + 1
        for name, place in places.items()
    }


def _place(name: str) -> tuple[int, ...]:
    numbers = re.findall(r"\b(?:stages|layers|layer|blocks|block)\.([0-9]+)\.", name)
    nested = bool(re.search(r"\.stages\.|\.layers\.[0-9]+\.(?:blocks|downsample)", name))
    return tuple(int(number) for number in (numbers + ["0"])[:2]) if nested else tuple(map(int, numbers[:1]))


def make_schedule(config: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LRScheduler:
    """Return a linear climb to the peak, then half a cosine down to 0, one value per update of the weights."""
    updates = config.epochs * math.ceil(steps_per_epoch / config.accumulation)
    return get_cosine_schedule_with_warmup(optimizer, round(config.warmup_fraction * updates), updates)


def running_mean(model: torch.nn.Module, decay: float) -> AveragedModel:
    """Return an exponential running mean of weights and statistics; call `update_parameters` after each update.

    The decay climbs to `decay` as (1 + n) / (10 + n), so that the random start is forgotten.
    """

    @torch.no_grad()
    def mix(means: Sequence[torch.Tensor], news: Sequence[torch.Tensor], count: torch.Tensor | int) -> None:
        means, news = list(means), list(news)
        if not means[0].is_floating_point():  # a count of batches
            torch._foreach_copy_(means, news)
        else:
            torch._foreach_lerp_(means, news, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return AveragedModel(model, multi_avg_fn=mix, use_buffers=True)


class _Sum(torch.autograd.Function):
    """Sum of a tensor over all processes, with gradients back to each of them.

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
        """Return the gradient, summed over all processes."""
        return _Sum.forward(ctx, gradient.contiguous())


class SynchronizedBatchNorm2d(torch.nn.BatchNorm2d):
    """Batch norm over the batch of all processes, on any device; weights and statistics keep their names.

    torch's SyncBatchNorm does the same but not on a CPU.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return (B, C, H, W) normalized; each process must hold as many images."""
        if not self.training:
            return super().forward(values)
        processes = torch.distributed.get_world_size()
        moments = torch.stack([values.float().mean((0, 2, 3)), values.float().square().mean((0, 2, 3))])  # (2, C)
        mean, square = _Sum.apply(moments) / processes
        variance = (square - mean.square()).clamp(min=0)  # of a constant, rounding may leave less
        count = values.numel() / values.shape[1] * processes
        with torch.no_grad():
            self.num_batches_tracked += 1
            weight = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), weight)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shifted = (values - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return shifted.to(values.dtype)


def synchronize_batch_norms(model: torch.nn.Module) -> None:
    """Replace every batch norm of a model, in place, by one over the batch of all processes."""
    for module in model.modules():
        if type(module) is torch.nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d


def divide_logits(model: PreTrainedModel, temperature: float) -> None:
    """Divide the logits of a classifier by `temperature`, in place: in the weights of its last layers.

    Raises:
        ValueError: the model has no such layer.
    """
    heads, labels = output_layers(model), model.config.num_labels
    if not heads:
        raise ValueError(f"{type(model).__name__} has no linear layer of {labels} outputs: pass another --model")
    with torch.no_grad():
        for head in heads:
            for weights in head.parameters():
                weights.div_(temperature)
