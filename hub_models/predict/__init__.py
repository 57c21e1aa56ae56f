"""Read X-rays with trained models: one, or a job of many that can be stopped and resumed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub_models.predict.reader import ChestXrayReader as ChestXrayReader
    from hub_models.predict.reader import Prediction as Prediction

_MODULES = {
    "ChestXrayReader": "hub_models.predict.reader",
    "Prediction": "hub_models.predict.reader",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
