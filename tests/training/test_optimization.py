import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import DeiTConfig, PreTrainedModel, SegformerConfig, SwinConfig

from hub_models.models.architectures import build
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import resolve
from hub_models.training.optimization import (
    SynchronizedBatchNorm2d,
    divide_logits,
    layer_depths,
    make_optimizer,
    make_schedule,
    running_mean,
    synchronize_batch_norms,
)

ROOT = Path(__file__).parents[2]
LABELS = ("normal", "tuberculosis")


def config(**options: object) -> TrainConfig:
    return resolve(TrainConfig("data", "out", **options))


def classifier(folder: Path) -> PreTrainedModel:
    return build("classification", str(folder), True, LABELS, 32)


def names_by_id(model: torch.nn.Module) -> dict[int, str]:
    return {id(weight): name for name, weight in model.named_parameters()}


def test_norms_and_biases_are_not_decayed(tiny_segformer) -> None:
    model = build("segmentation", str(tiny_segformer), True, ("background", "lung"), 32)
    names = names_by_id(model)
    decays = {
        names[id(weight)]: group["weight_decay"]
        for group in make_optimizer(config(weight_decay=0.03), model).param_groups
        for weight in group["params"]
    }
    assert set(decays) == set(names.values())
    assert {name for name, decay in decays.items() if decay == 0} == {
        name for name in names.values() if name.endswith("bias") or "norm" in name
    }
    assert set(decays.values()) == {0, 0.03}


@pytest.mark.parametrize(
    ("options", "rate"), [({}, 2e-4), ({"from_scratch": True}, 1e-3), ({"learning_rate": 0.5}, 0.5)]
)
def test_learning_rate_without_layer_decay(options: dict, rate: float, tiny_resnet) -> None:
    assert {group["lr"] for group in make_optimizer(config(**options), classifier(tiny_resnet)).param_groups} == {rate}


def depth_of(depths: dict[str, int], *parts: str) -> int:
    """The one depth of all weights whose names hold `parts`."""
    (depth,) = {depth for name, depth in depths.items() if all(part in name for part in parts)}
    return depth


def test_depths_of_a_vit(tiny_vit, tmp_path) -> None:
    DeiTConfig.from_pretrained(tiny_vit).save_pretrained(tmp_path)
    for folder in (tiny_vit, tmp_path):
        depths = layer_depths(classifier(folder))
        assert depth_of(depths, ".embeddings.") == 0
        assert [depth_of(depths, f".layers.{layer}.") for layer in (0, 1)] == [1, 2]
        assert depth_of(depths, "classifier") == 3
        assert depth_of({name: depth for name, depth in depths.items() if ".layers." not in name}, ".layernorm.") == 3


def test_depths_of_a_swin(tmp_path) -> None:
    SwinConfig(embed_dim=8, depths=[1, 2], num_heads=[1, 1], image_size=32, window_size=4).save_pretrained(tmp_path)
    depths = layer_depths(classifier(tmp_path))
    assert depth_of(depths, ".embeddings.") == 0
    places = ("layers.0.blocks.0.", "layers.0.downsample", "layers.1.blocks.0.", "layers.1.blocks.1.", "classifier")
    assert [depth_of(depths, place) for place in places] == [1, 1, 2, 3, 4]
    assert depths["swin.layernorm.weight"] == 4


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_depths_of_a_segformer(kind: str, tiny_segformer, tmp_path) -> None:
    SegformerConfig.from_pretrained(tiny_segformer, depths=[1, 2, 1, 1]).save_pretrained(tmp_path)
    depths = layer_depths(build(kind, str(tmp_path), True, LABELS, 32))
    assert depth_of(depths, "stages.1.patch_embeddings") == 2  # with the first layer of their stage
    places = ("stages.0.", "stages.1.blocks.0.", "stages.1.blocks.1.", "stages.2.", "stages.3.")
    assert [depth_of(depths, place) for place in places] == [1, 2, 3, 4, 5]
    heads = {depth for name, depth in depths.items() if not name.startswith("segformer.")}
    assert heads == {6}


def test_depths_of_a_resnet(tiny_resnet) -> None:
    depths = layer_depths(classifier(tiny_resnet))
    places = (".embedder.", "stages.0.", "stages.1.", "classifier")
    assert [depth_of(depths, place) for place in places] == [0, 1, 2, 3]
    assert set(depths) == set(dict(classifier(tiny_resnet).named_parameters()))


def test_layer_decay_by_hand(tiny_vit) -> None:
    model = classifier(tiny_vit)
    names = names_by_id(model)
    groups = make_optimizer(config(learning_rate=0.8, layer_decay=0.5, weight_decay=0.1), model).param_groups
    rates = {names[id(weight)]: group["lr"] for group in groups for weight in group["params"]}
    assert set(rates) == set(names.values())
    assert depth_of(rates, "classifier") == 0.8
    assert [depth_of(rates, f".layers.{layer}.") for layer in (1, 0)] == pytest.approx([0.4, 0.2])
    assert depth_of(rates, ".embeddings.") == pytest.approx(0.1)
    assert groups[-1]["lr"] == 0.8  # the last is the one that is shown and tracked
    decays = {names[id(weight)]: group["weight_decay"] for group in groups for weight in group["params"]}
    assert decays["vit.layers.0.mlp.fc1.weight"] == decays["classifier.weight"] == 0.1
    assert decays["vit.layers.0.mlp.fc1.bias"] == decays["vit.layernorm.weight"] == 0


def test_schedule_counts_updates_not_steps(tiny_resnet) -> None:
    # 5 steps of which 2 make an update, the last alone: 3 updates in each of 4 epochs, 12; a quarter of them climbs
    options = config(learning_rate=1.0, epochs=4, accumulation=2, warmup_fraction=0.25)
    optimizer = make_optimizer(options, classifier(tiny_resnet))
    schedule, rates = make_schedule(options, optimizer, 5), []
    for _ in range(12):
        rates.append(schedule.get_last_lr()[-1])
        optimizer.step()
        schedule.step()
    half_cosine = [(1 + math.cos(math.pi * done / 9)) / 2 for done in range(9)]
    assert rates == pytest.approx([0, 1 / 3, 2 / 3, *half_cosine])
    assert schedule.get_last_lr()[-1] == pytest.approx(0)


def test_running_mean_by_hand() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm2d(1))
    mean = running_mean(model, 0.26)
    seen = []
    for value in (1.0, 2.0, 3.0, 4.0):
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[1].running_mean.fill_(10 * value)
            model[1].num_batches_tracked.fill_(int(value))
        mean.update_parameters(model)
        seen.append(mean.module[0].weight.item())
    # The first update copies. Weights of the old mean: (1 + 1) / (10 + 1), then 3/12; 4/13 is above 0.26.
    second = 2 / 11 * 1 + 9 / 11 * 2
    third = 3 / 12 * second + 9 / 12 * 3
    assert seen == pytest.approx([1, second, third, 0.26 * third + 0.74 * 4])
    assert mean.module[1].running_mean.item() == pytest.approx(10 * seen[-1])
    assert mean.module[1].num_batches_tracked.item() == 4  # a count is not averaged
    before = copy.deepcopy(mean.state_dict())
    with torch.no_grad():
        model[0].weight.fill_(99)
        model[1].running_mean.fill_(99)
    assert all(torch.equal(values, before[name]) for name, values in mean.state_dict().items())


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_resnet", "tiny_segformer"])
def test_divided_logits_are_calibrated_however_they_are_used(name: str, request, tmp_path) -> None:
    torch.manual_seed(0)
    model = classifier(request.getfixturevalue(name)).eval()
    inputs = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.nn.init.normal_([one for one in model.modules() if isinstance(one, torch.nn.Linear)][-1].bias)
        before = model(inputs).logits
        divide_logits(model, 2.5)
        model.save_pretrained(tmp_path)
        after = build("classification", str(tmp_path), False, LABELS, 32).eval()(inputs).logits
    torch.testing.assert_close(after, before / 2.5)
    calibrated = torch.sigmoid((before[:, 1] - before[:, 0]) / 2.5)
    torch.testing.assert_close(after.softmax(1)[:, 1], calibrated)


def test_weightd_norms_keep_weights_and_names(tiny_resnet) -> None:
    model = classifier(tiny_resnet)
    before = copy.deepcopy(model.state_dict())
    synchronize_batch_norms(model)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and all(type(module) is SynchronizedBatchNorm2d for module in norms)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert set(model.state_dict()) == set(before)
    inputs = torch.randn(2, 3, 32, 32)
    plain = classifier(tiny_resnet)
    plain.load_state_dict(before)
    torch.testing.assert_close(model.eval()(inputs).logits, plain.eval()(inputs).logits)  # in one process, too


TWO_PROCESSES = """
import os
import sys
import tempfile
import torch
from hub_models.training.optimization import synchronize_batch_norms

torch.set_num_threads(1)
store = tempfile.mktemp()
rank = 1 if os.fork() == 0 else 0
torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)

for momentum, shift in ((0.1, 0.0), (None, 3.0)):
    torch.manual_seed(0)
    values, wanted = torch.randn(2, 4, 3, 5, 6) + shift, torch.randn(2, 4, 3, 5, 6)  # two steps of (4, 3, 5, 6)
    plain = torch.nn.BatchNorm2d(3, momentum=momentum)
    torch.nn.init.normal_(plain.weight)
    torch.nn.init.normal_(plain.bias)
    weightd = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=momentum))
    weightd[0].load_state_dict(plain.state_dict())
    synchronize_batch_norms(weightd)
    mine = slice(2 * rank, 2 * rank + 2)
    for step in range(2):
        whole = values[step].clone().requires_grad_()
        half = values[step, mine].clone().requires_grad_()
        expected, found = plain(whole), weightd(half)
        torch.testing.assert_close(found, expected[mine])
        (expected * wanted[step]).square().sum().backward()
        (found * wanted[step, mine]).square().sum().backward()
        torch.testing.assert_close(half.grad, whole.grad[mine], rtol=1e-4, atol=1e-4)
        for one, other in zip(weightd.parameters(), plain.parameters()):
            torch.distributed.all_reduce(one.grad)
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
            one.grad = other.grad = None
        for name, buffer in plain.named_buffers():
            torch.testing.assert_close(weightd[0].get_buffer(name), buffer)
    torch.testing.assert_close(weightd.eval()(values[0]), plain.eval()(values[0]))

constant = torch.nn.Sequential(torch.nn.BatchNorm2d(64))  # of a constant, rounding may leave a variance below 0
synchronize_batch_norms(constant)
assert constant(torch.linspace(1, 1000, 64)[None, :, None, None].expand(2, 64, 9, 9)).isfinite().all()

torch.distributed.destroy_process_group()
if rank:
    os._exit(0)
_, status = os.wait()
os.unlink(store) if os.path.exists(store) else None
sys.exit(status)
"""


def test_two_processes_norm_as_one() -> None:
    command = [sys.executable, "-W", "error::FutureWarning", "-c", TWO_PROCESSES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
