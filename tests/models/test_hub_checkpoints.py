"""Checkpoints to start from that lie on the Hub: open, gated, private, misspelt, and without network."""

from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import huggingface_hub
import pytest
from checkpoints import write_checkpoint
from loopback_hub import clients_of

from hub_models.models.architectures import build, outline_at
from hub_models.models.image_processors import image_processor_for
from hub_models.models.tasks import TASKS

TB = TASKS["tb_classification"].labels
NAME = "alice/encoder"


def offline(is_offline: bool = True) -> AbstractContextManager[object]:
    """What sets HF_HUB_OFFLINE for a block; `monkeypatch` would put it back only after `as_user` has."""
    return mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", is_offline)


@pytest.fixture
def there(hub, tmp_path: Path):
    """The repository of a small ViT, its image processor named as in 2022."""
    write_checkpoint("vit", tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    named = b'{"image_processor_type": "ViTFeatureExtractor", "image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]}'
    return hub.create(NAME, files | {"preprocessor_config.json": named})


def said_of(kind: type[Exception], name: str = NAME) -> str:
    with pytest.raises(kind) as error:
        outline_at("classification", name, False, 64)
    assert f"no model at '{name}'" in str(error.value) and "--model" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_open_checkpoint_is_started_from_online_and_from_the_cache(there, as_user) -> None:
    with as_user(None):
        for is_offline in (False, True):
            with offline(is_offline):
                model = build("classification", NAME, False, TB, 64)
                assert model.config.id2label == dict(enumerate(TB))
                assert list(image_processor_for("classification", NAME, False, 64).image_mean) == [0.5] * 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", b'{"base_model_name_or_path": "mallory/other"}'),
        ("config.json", b'{"model_type": "vit", "quantization_config": {"quant_method": "x"}}'),
        ("config.json", b'{"model_type": "vit", "encoder": [{"_attn_implementation": "mallory/kernel"}]}'),
        ("config.json", b"[" * 100_000),
        ("preprocessor_config.json", b'{"auto_map": {"AutoImageProcessor": "x.Y"}}'),
        ("preprocessor_config.json", b'{"image_std": [0, 0, 0]}'),
    ],
)
def test_checkpoint_that_would_load_code_or_is_damaged(hub, tmp_path, as_user, name, content) -> None:
    write_checkpoint("vit", tmp_path)
    hub.create(NAME, {path.name: path.read_bytes() for path in tmp_path.iterdir()} | {name: content})
    with as_user(None), pytest.raises(ValueError, match=f"{name}.*{NAME}|{NAME}.*{name}") as error:
        build("classification", NAME, False, TB, 64)
        image_processor_for("classification", NAME, False, 64)
    assert "\n" not in str(error.value)


def test_checkpoint_without_image_processor_serves_offline_too(hub, tmp_path, as_user) -> None:
    write_checkpoint("vit", tmp_path)
    hub.create(NAME, {path.name: path.read_bytes() for path in tmp_path.iterdir()})
    with as_user(None):
        means = []
        for is_offline in (False, True):
            with offline(is_offline):
                means.append(list(image_processor_for("classification", NAME, False, 64).image_mean))
    assert means[0] == means[1] == [0.485, 0.456, 0.406]


def test_each_reason_has_its_own_sentence(there, as_user) -> None:
    with as_user("bob"):
        typo = said_of(FileNotFoundError, "alice/encodr")
        there.gated = "auto"
        gated = said_of(PermissionError)
    with as_user(None):
        there.gated, there.private = False, True
        no_login = said_of(FileNotFoundError)
        with offline():
            no_network = said_of(ConnectionError)
    assert "check the name" in typo
    assert "is gated: ask for access on its page" in gated
    assert "not logged in" in no_login and "hf auth login" in no_login
    assert "needs the network" in no_network
    assert len({one.replace("encodr", "encoder") for one in (typo, gated, no_login, no_network)}) == 4


def test_hub_that_is_gone(gone_hub, as_user) -> None:
    with as_user(None) as home, clients_of(gone_hub, None, home):
        assert "run the same command again" in said_of(ConnectionError)
