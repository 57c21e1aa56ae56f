"""Public names of a package that are loaded when they are first used (PEP 562): importing the package stays cheap."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def loader(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose public names lie in `modules`, by name."""

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(modules[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "hub_models":
                raise
            needed = f"{package}.{name} needs {error.name}: pip install 'chest-xray-masks[models]'"
            raise ImportError(needed) from error

    return load
