import pytest

from hub_models.benchmarks.adaptation import adaptation_ratios

NAMES = ["freeze_over_full", "lora_over_full", "freeze_percent", "lora_percent", "features_epochs"]
NAMES += ["features_mb_per_image"]


def test_all_is_measured(phantoms, tiny_vit, monkeypatch) -> None:
    monkeypatch.setattr("hub_models.benchmarks.adaptation.ROUNDS", 1)
    found = adaptation_ratios(phantoms, "tb_classification", str(tiny_vit), 32, 4, steps=2, rank=2)
    assert list(found) == NAMES and all(value > 0 for value in found.values())
    head = 8 * 2 + 2
    # two layers of query, key, value, output and two matrices of the network, biases, two norms; a norm at the end
    layer = 4 * (8 * 8 + 8) + 8 * 16 + 16 + 16 * 8 + 8 + 2 * 16
    whole = 2 * layer + 16 + (3 * 16 * 16 * 8 + 8) + 8 + 5 * 8 + head  # patches, class token, five positions
    assert found["freeze_percent"] == pytest.approx(100 * head / whole)
    added = 2 * 4 * 2 * (8 + 8)
    assert found["lora_percent"] == pytest.approx(100 * (head + added) / (whole + added))
    assert found["features_mb_per_image"] == pytest.approx(8 * 4 / 1e6)


@pytest.mark.parametrize("setting", [{"steps": 0}, {"image_size": 100}], ids=str)
def test_bad_setting_is_named_before_phantoms_are_made(setting: dict[str, int], monkeypatch) -> None:
    monkeypatch.setattr("hub_models.benchmarks.adaptation.write_phantoms", None)
    (name, value), *_ = setting.items()
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
        adaptation_ratios(**setting)


def test_model_without_attention_is_named_before_phantoms_are_made(tiny_resnet, monkeypatch) -> None:
    monkeypatch.setattr("hub_models.benchmarks.adaptation.write_phantoms", None)
    with pytest.raises(ValueError, match="a resnet model has no linear layer of attention"):
        adaptation_ratios(None, "tb_classification", str(tiny_resnet), 32)
