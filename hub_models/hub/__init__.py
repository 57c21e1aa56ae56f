"""Put models, data and the page on the Hub: cards, files, one commit."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub_models.hub.push import Push as Push
    from hub_models.hub.push import push_model as push_model
    from hub_models.hub_client.downloads import pull_model as pull_model

_MODULES = {
    "Push": "hub_models.hub.push",
    "push_model": "hub_models.hub.push",
    "pull_model": "hub_models.hub_client.downloads",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
