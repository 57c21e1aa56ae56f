"""Names that are imported when they are first used: help and mistakes are answered at once, a package loads fast."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def without_collection() -> Iterator[None]:
    """Collect no garbage in a block that imports libraries.

    They make a million objects that stay, and to search them takes an eighth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def imported(module: str, name: str) -> Any:
    """Import a name of a module."""
    with without_collection():
        return getattr(import_module(module), name)


def loader(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` (PEP 562) of a package whose public names lie in `modules`, by name."""

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return imported(modules[name], name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "hub_models":
                raise
            needed = f"{package}.{name} needs {error.name}: pip install 'chest-xray-masks[models]'"
            raise ImportError(needed) from error

    return load
