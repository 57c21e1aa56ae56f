"""Values of a config dataclass from options and from a YAML or JSON file, each converted to the type of its field."""

import dataclasses
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from hub_models.runs.config import CONFIG_NAME, NAMES_BEFORE, OPTION_OF_FIELD, RECORDED, renamed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OLD_KEYS = {option: field for field, option in OPTION_OF_FIELD.items()} | NAMES_BEFORE
SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
ConfigT = TypeVar("ConfigT", bound="DataclassInstance")


def nearest(name: str, known: Iterable[str], mark: str = "") -> str:
    """Return `: did you mean X?` for the name of `known` next to `name`, each after `mark`; else an empty text."""
    found = get_close_matches(name, list(known), 1, 0.6)
    return f": did you mean {mark}{found[0]}?" if found else ""


def types_of(kind: type) -> dict[str, Any]:
    """Return the type of each field of a dataclass without its `| None`."""
    hints = get_type_hints(kind)
    optional = {name: NoneType in get_args(hint) for name, hint in hints.items()}
    return {name: get_args(hint)[0] if optional[name] else hint for name, hint in hints.items()}


def made(kind: type[ConfigT], given: Mapping[str, Any], source: str | None = None) -> ConfigT:
    """Return the dataclass `kind` from the options `given`, over the values of the file `source` where one is named.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a value that cannot be, an unknown key of the file, or a missing option.
    """
    values = read_config(Path(source), kind) if source else {}
    values |= _converted(given, kind, "--")
    without = dataclasses.MISSING
    needed = [one.name for one in dataclasses.fields(kind) if one.default is one.default_factory is without]
    if missing := [f"--{OPTION_OF_FIELD.get(name, name)}" for name in needed if name not in values]:
        raise ValueError(f"the following arguments are required: {', '.join(missing)}")
    return kind(**values)


def read_config(path: Path, kind: "type[DataclassInstance]") -> dict[str, Any]:
    """Return values for fields of the dataclass `kind` from a YAML or JSON file, or from a run folder's own.

    Keys are options or fields, with dashes or underscores. What was `RECORDED` of a run is left out, and so is null.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a mapping, or has an unknown key or a value of another type.
    """
    path = path / CONFIG_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no config {path}: pass a YAML or JSON file, or a run folder")
    import yaml  # of datasets, and not needed for help; it reads JSON, too

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no keys with values, such as `epochs: 30`")
    fields = [field.name for field in dataclasses.fields(kind)]
    found = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        name = OLD_KEYS.get(name, name)
        if name not in (*fields, *RECORDED) and value is not None:
            raise ValueError(f"{path}: unknown key {key}{nearest(name, fields)}")
        if name in fields and value is not None:
            found[name] = value
    return _converted(renamed(found), kind, f"{path}: ")


def _converted(values: Mapping[str, Any], kind: type, where: str) -> dict[str, Any]:
    """Return `values` in the types of their fields; YAML reads 1e-3 as text. Raise ValueError for another type."""
    types = types_of(kind)
    return {name: _as(types[name], value, f"{where}{name}") for name, value in values.items()}


def _as(kind: Any, value: Any, name: str) -> Any:
    is_text = kind in (str, Path) or get_origin(kind) is Literal
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    if get_origin(kind) is list:
        return list(value)
    try:
        if kind is bool:
            return SWITCH[str(value).lower()]
        if is_text and isinstance(value, list):  # of an option that takes several words
            value = " ".join(map(str, value))
        if is_text and isinstance(value, str):
            return Path(value) if kind is Path else value
        if not is_text and not isinstance(value, bool):
            return kind(str(value))
    except (KeyError, ValueError):
        pass
    raise ValueError(f"{name} must be {words.get(kind, 'text')}, got {value!r}")
