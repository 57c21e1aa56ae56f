import copy
import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from launch import accelerate, kill_when
from test_frozen import tiny  # noqa: F401
from test_train import assert_same_run, line
from transformers import AutoModelForImageClassification, AutoModelForSemanticSegmentation

from hub_models.models.architectures import build
from hub_models.models.tasks import TASKS
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import resolve
from hub_models.training import train as module
from hub_models.training.adaptation import adapt, add_lora, attention_layers, plain_model
from hub_models.training.frozen import FrozenEncoder
from hub_models.training.optimization import make_optimizer
from hub_models.training.train import train

SIDE = 32
SIDES = {"lungs": 64}  # of 32 px, SegFormer's last stage sees one place, and query and key change by rounding alone
TB = "tb_classification"
WAYS = {"full": {}, "freeze": {"freeze": "encoder", "augment": "none"}, "lora": {"lora": 2}}
CLASSES = {"lung_segmentation": AutoModelForSemanticSegmentation, TB: AutoModelForImageClassification}


@pytest.mark.parametrize(("name", "layers"), [("lungs", 4), ("segformer", 4), ("vit", 2), ("swin", 2), ("dinov2", 2)])
def test_lora_adapts_query_key_value_and_output_of_each_layer(name: str, layers: int, tiny) -> None:  # noqa: F811
    model = tiny(name)
    names = attention_layers(model)
    assert all(name.startswith(f"{model.base_model_prefix}.") for name in names)
    ends = [name.rpartition(".")[2] for name in names]
    assert sorted(ends) == sorted(layers * ["q_proj", "k_proj", "v_proj", "o_proj"])


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_lora_of_an_encoder_beside_another_trains_its_updates_and_the_head(family: str, tmp_path) -> None:
    write_checkpoint(family, tmp_path)
    model = build("classification", str(tmp_path), False, TASKS[TB].labels, 64)
    adapt(TrainConfig("data", "out", TB, lora=2), model, 64)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {
        name for name, _ in model.named_parameters() if "lora_" in name or name.startswith("classifier")
    }
    assert any("lora_" in name for name in trained)


def test_resnet_has_no_attention_to_adapt(tiny) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="a resnet model has no linear layer of attention.*: leave out lora"):
        attention_layers(tiny("resnet"))


@pytest.mark.parametrize("name", ["lungs", "vit", "swin", "dinov2"])
def test_merged_model_equals_the_adapted_one(name: str, tiny) -> None:  # noqa: F811
    model = tiny(name).eval()
    before, inputs = copy.deepcopy(model.state_dict()), torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        plain = model(pixel_values=inputs).logits
        config = TrainConfig("data", "out", lora=2)
        assert adapt(config, model, SIDE) is model
        assert torch.equal(model.eval()(pixel_values=inputs).logits, plain)  # at the start B is 0
        for key, weight in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(weight, std=0.3)
        adapted = model(pixel_values=inputs).logits
        merged = plain_model(config, model, model.state_dict()).eval()
        torch.testing.assert_close(merged(pixel_values=inputs).logits, adapted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(adapted, plain, atol=1e-4)
    state, after = model.state_dict(), merged.state_dict()
    layers = {f"{one}.weight": one for one in attention_layers(merged)}
    assert set(after) == set(before) and type(merged) is type(model)
    for key, weight in before.items():
        expected = weight
        if key in layers:  # W + B A
            a, b = (state[f"{layers[key]}.lora_{which}.default.weight"] for which in "AB")
            assert a.shape == (2, weight.shape[1]) and b.shape == (weight.shape[0], 2)
            expected = weight + b @ a
        torch.testing.assert_close(after[key], expected)


def test_optimizer_takes_the_trained_weights_alone(tiny) -> None:  # noqa: F811
    for way, word in (("freeze", "classifier"), ("lora", "lora_|classifier")):
        model, config = tiny("vit"), resolve(TrainConfig("data", "out", TB, **WAYS[way]))
        adapt(config, model, SIDE)
        names = {id(weight): name for name, weight in model.named_parameters()}
        groups = make_optimizer(config, model).param_groups
        taken = {names[id(weight)] for group in groups for weight in group["params"]}
        assert taken == {name for name in names.values() if any(part in name for part in word.split("|"))}
        assert {group["lr"] for group in groups} == {1e-3}  # of new weights


def test_layer_decay_holds_for_lora(tiny) -> None:  # noqa: F811
    model, config = tiny("vit"), TrainConfig("data", "out", TB, lora=2, learning_rate=0.8, layer_decay=0.5)
    add_lora(model, 2)
    names = {id(weight): name for name, weight in model.named_parameters()}
    rates = {
        names[id(weight)]: group["lr"]
        for group in make_optimizer(config, model).param_groups
        for weight in group["params"]
    }
    places = {name.split(".")[2] if "lora_" in name else name: rate for name, rate in rates.items()}
    assert places == pytest.approx({"0": 0.2, "1": 0.4, "classifier.weight": 0.8, "classifier.bias": 0.8})


def test_full_fine_tuning_adapts_nothing(tiny) -> None:  # noqa: F811
    model = tiny("vit")
    assert adapt(TrainConfig("data", "out"), model, SIDE) is model
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.fixture(scope="module")
def sources(make_run, phantoms, tiny_segformer, tiny_vit, tiny_resnet, tmp_path_factory) -> dict[str, Path]:
    """Folders of models to start from, by name."""
    folder, made = tmp_path_factory.mktemp("sources"), {}
    tasks = {"lungs": ("lung_segmentation", tiny_segformer), "vit": (TB, tiny_vit), "resnet": (TB, tiny_resnet)}
    for name, (task, model) in tasks.items():
        options = {"model": str(model), "from_scratch": True, "image_size": SIDES.get(name, SIDE)}
        made[name] = make_run(TrainConfig(str(phantoms), str(folder / name), task, **options))
    return made


@pytest.fixture
def config(sources, phantoms, tmp_path):
    """What makes the config of a short run from one of the sources."""

    def make(name: str, way: str, folder: str = "run", **options: object) -> TrainConfig:
        task = "lung_segmentation" if name == "lungs" else TB
        return TrainConfig(
            str(phantoms), str(tmp_path / folder), task, model=str(sources[name]), image_size=SIDES.get(name, SIDE),
            tracker="none", **{"epochs": 3, "batch_size": 4, "learning_rate": 0.01} | WAYS[way] | options,
        )  # fmt: skip

    return make


@pytest.mark.parametrize(
    ("name", "way", "options"),
    [
        ("lungs", "freeze", {}),
        ("lungs", "lora", {"ema": 0.9, "keep": "last"}),
        ("vit", "freeze", {"ema": 0.9, "keep": "last", "balance": "sampling"}),
        ("vit", "lora", {"accumulation": 2}),
        ("resnet", "freeze", {"patience": 1}),
    ],
)
def test_run_folder_is_plain_and_only_what_is_adapted_has_changed(
    name: str, way: str, options: dict, config, sources
) -> None:
    run = config(name, way, **options)
    folder = Path(run.output_dir)
    results = train(run)
    assert len({epoch["loss"] for epoch in results["training"]["epochs"]}) > 1
    assert not (folder / "checkpoints").exists()
    model, info = CLASSES[run.task].from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())  # no weight is missing or too many
    before, after = CLASSES[run.task].from_pretrained(sources[name]).state_dict(), model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    encoder = f"{model.base_model_prefix}."
    adapted = {f"{one}.weight" for one in attention_layers(model)} if way == "lora" else set()
    assert {key for key in changed if key.startswith(encoder)} == adapted
    assert {key for key, weight in model.named_parameters() if not key.startswith(encoder)} <= changed
    assert "peft" not in (folder / "config.json").read_text() and not (folder / "adapter_config.json").exists()
    assert {"freeze": run.freeze, "lora": run.lora}.items() <= json.loads(
        (folder / "train_config.json").read_text()
    ).items()


def test_other_way_for_the_same_folder_names_the_field(config) -> None:
    run = config("vit", "lora", epochs=1)
    train(run)
    with pytest.raises(ValueError, match=r"\(lora: 3, not 2\)"):
        train(dataclasses.replace(run, lora=3))
    with pytest.raises(ValueError, match=r"\(freeze: 'encoder', not 'none'; lora: 0, not 2; augment: "):
        train(dataclasses.replace(run, lora=0, freeze="encoder", augment="none"))


def test_what_cannot_be_adapted_is_refused_before_x_rays_are_scaled(config, monkeypatch) -> None:
    monkeypatch.setattr(module, "load_run_rows", lambda *_: pytest.fail("X-rays were read"))
    run = config("resnet", "lora")
    with pytest.raises(ValueError, match="a resnet model has no linear layer of attention"):
        train(run)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"lora 2 needs peft: pip install 'chest-xray-masks\[lora\]'"):
        train(run)
    assert not Path(run.output_dir).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), [("lungs", "freeze"), ("vit", "lora")])
def test_killed_run_ends_with_the_same_weights(name: str, way: str, config) -> None:
    options = {"epochs": 6, "checkpoint_steps": 3, "ema": 0.9}
    whole = config(name, way, "whole", **options)
    train(whole)
    again = config(name, way, **options)
    folder = Path(again.output_dir)
    kill_when((folder / "checkpoints" / "epoch-00001-step-000003").exists, *line(again))
    assert not (folder / "results.json").exists()
    assert "resuming from epoch" in accelerate(*line(again)).stderr
    assert_same_run(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), [("vit", "freeze"), ("lungs", "lora")])
def test_one_process_and_two_learn_the_same(name: str, way: str, config) -> None:
    # features of a random encoder hardly vary, and the batch norm of a head would blow rounding up
    start = config(name, "full", "start", from_scratch=True)
    train(start)
    one, both = (dataclasses.replace(config(name, way, folder), model=start.output_dir) for folder in ("one", "two"))
    train(one)
    accelerate(*line(both), processes=2)
    found, expected = (json.loads((Path(run.output_dir) / "results.json").read_text()) for run in (both, one))
    assert found["launch"]["processes"] == 2
    metric = f"validation_{TASKS[one.task].main_metric}"
    for two, alone in zip(found["training"]["epochs"], expected["training"]["epochs"], strict=True):
        assert two["loss"] == pytest.approx(alone["loss"], abs=1e-5)
        assert two[metric] == pytest.approx(alone[metric], abs=5e-3)


def test_frozen_model_starts_from_the_weights_it_was_given(tiny, tmp_path) -> None:  # noqa: F811
    model = tiny("lungs")
    given = copy.deepcopy(model.state_dict())
    whole = FrozenEncoder(model, SIDE)
    config = TrainConfig("data", "out", freeze="encoder", augment="none")
    kept = plain_model(config, model, whole.state_dict())
    assert all(torch.equal(weight, given[name]) for name, weight in kept.state_dict().items())
    kept.save_pretrained(tmp_path)
    assert build("segmentation", str(tmp_path), False, ("background", "lung"), SIDE)
