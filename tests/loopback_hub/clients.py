"""The real clients, as this process has imported them, pointed at a hub and back."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopback_hub.hub import LoopbackHub

PACKAGES = ("huggingface_hub", "datasets", "transformers")
SLEEPERS = {"huggingface_hub.utils._http", "huggingface_hub.file_download", "hub_models.hub_client.requests"}
PATIENCE = 0.01  # seconds of a retry's sleep where they are to be short


def _settings(hub: "LoopbackHub", home: Path, xet: bool) -> dict[str, Any]:
    """Module globals by name: those of huggingface_hub.constants and datasets.config that say where things are."""
    caches = home / "datasets"
    return {
        "ENDPOINT": hub.endpoint,
        "HF_ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HUB_DATASETS_URL": hub.endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_URL_HOSTS": frozenset({"127.0.0.1"}),
        "HF_HUB_OFFLINE": False,
        "HF_DATASETS_OFFLINE": False,
        "HF_HUB_DISABLE_XET": not xet,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HOME": str(home),
        "HF_CACHE_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HUGGINGFACE_ASSETS_CACHE": str(home / "assets"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
        "HF_DATASETS_CACHE": caches,
        "DOWNLOADED_DATASETS_PATH": caches / "downloads",
        "EXTRACTED_DATASETS_PATH": caches / "downloads" / "extracted",
        "HF_MODULES_CACHE": home / "modules",
    }


@contextlib.contextmanager
def clients_of(
    hub: "LoopbackHub", token: str | None, home: Path, xet: bool = True, short_sleeps: bool = True
) -> Iterator[Path]:
    """`home`, while huggingface_hub, datasets and transformers use `hub` with their caches there, as user of `token`.

    These libraries read their settings when they are imported; here each module global of such a setting is set, in
    whichever of their modules holds a copy, and put back at the end. So are HF_TOKEN and the rest of the environment,
    the clients with a fixed address (`huggingface_hub.hf_api.api`, transformers' own), the open connections, the file
    systems that fsspec keeps, and the Xet session. `token` None is a user who is not logged in; with `short_sleeps` a
    retry waits hundredths of a second. An HfApi or HfFileSystem made before keeps the address it was made with.
    """
    import datasets  # noqa: F401 - imported before its globals are looked up, else it would read the patched ones
    import huggingface_hub.utils._cache_manager  # noqa: F401
    from huggingface_hub import hf_api, hf_file_system

    settings = _settings(hub, home, xet)
    with contextlib.ExitStack() as stack:
        stack.callback(_forget)
        stack.enter_context(_environment(hub.environment(token, home, xet) | _patience(short_sleeps)))
        for module in _modules():
            for name in settings.keys() & vars(module).keys():
                stack.enter_context(_attribute(module, name, settings[name]))
        for client in (hf_api.api, hf_file_system.hffs, hf_file_system.hffs._api):
            stack.enter_context(_attribute(client, "endpoint", hub.endpoint))
        if short_sleeps:
            quick = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: time.sleep(min(seconds, PATIENCE))})
            for name in SLEEPERS & sys.modules.keys():
                stack.enter_context(_attribute(sys.modules[name], "time", quick))
        _forget()
        yield home


def _modules() -> list[ModuleType]:
    """The imported modules of the clients."""
    return [
        module
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] in PACKAGES and isinstance(module, ModuleType)
    ]


def _patience(short: bool) -> dict[str, str]:
    return {"HF_XET_CLIENT_RETRY_BASE_DELAY": "20ms"} if short else {}


@contextlib.contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value`, and then what it was."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """The environment is `values`, and then what it was."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _forget() -> None:
    """Let the clients drop what they keep of a hub."""
    import huggingface_hub
    from huggingface_hub.utils import _xet

    huggingface_hub.close_session()
    huggingface_hub.HfFileSystem.clear_instance_cache()
    _xet._GLOBAL_XET_HOLDER._session = None
    if hub_of_transformers := sys.modules.get("transformers.utils.hub"):
        hub_of_transformers._hf_api = None
