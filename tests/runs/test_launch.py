import pytest
import torch

from hub_models.runs.launch import lacks_bf16, launch_of, make_accelerator


def test_accelerator_is_on_what_there_is() -> None:
    accelerator = make_accelerator(gradient_accumulation_steps=2)
    assert accelerator.device.type == "cpu" and accelerator.gradient_accumulation_steps == 2
    assert launch_of(accelerator) == {"processes": 1, "mixed_precision": "no"}


@pytest.mark.parametrize(
    ("known", "lacks"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "arm64", "neon": True, "bf16": True}, False),
    ],
)
def test_cpu_without_bf16_is_known(known: dict[str, object], lacks: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert lacks_bf16() is lacks
