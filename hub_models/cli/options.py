"""Commands and their options: any spelling, the nearest name for a typo, and fields of a dataclass as options.

Only the standard library is imported, so that help and mistakes are answered at once.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

OPTION_OF_FIELD = {"data_dir": "data", "output_dir": "output"}  # one name for one thing, in every command
OLD_NAMES = {option: field for field, option in OPTION_OF_FIELD.items()} | {"warmup_share": "warmup_fraction"}
RECORDED = ("version", "device", "duration", "duration_seconds")  # in a saved config, and no option asks for them
SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
T = TypeVar("T")
Options = argparse.Namespace
Work = Callable[[], None]


def nearest(name: str, known: Iterable[str], mark: str = "") -> str:
    """Return `: did you mean X?` for the name of `known` next to `name`, each after `mark`; else an empty text."""
    found = get_close_matches(name, list(known), 1, 0.6)
    return f": did you mean {mark}{found[0]}?" if found else ""


class Parser(argparse.ArgumentParser):
    """Parser of one command, whose options may be spelt with dashes or underscores."""

    def __init__(
        self, prog: str, summary: str, examples: Sequence[str], old_names: Mapping[str, str] | None = None
    ) -> None:
        """Make a parser whose help opens with a sentence and examples; `old_names` are options that it hides."""
        shown = "\n".join(f"  {example}" for example in examples)
        super().__init__(
            prog=prog,
            usage="%(prog)s [options]",
            description=f"{summary}\n\nexamples:\n{shown}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.old_names = dict(old_names or {})

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Return the options in `words`; a mistake ends the program with one line and status 2."""
        return self.parse_args([self._spelt(word) for word in words])

    def _spelt(self, word: str) -> str:
        """Return a word of the command line with its option's own spelling; other words stay."""
        if not re.match(r"--?[A-Za-z]", word) or word == "-h":
            return word
        given, equals, value = word.partition("=")
        name = given.lstrip("-").replace("-", "_")
        name = self.old_names.get(name, name)
        known = [text[2:] for text in self._option_string_actions if text.startswith("--")]
        if name not in known:
            near = nearest(name, known, "--")
            self.error(f"unknown option {given}{near or f': {self.prog} --help lists them'}")
        return f"--{name}{equals}{value}"

    def error(self, message: str) -> NoReturn:
        """End the program with one line and status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: its help, its options and its work.

    Attributes:
        summary: one sentence.
        examples: command lines.
        add: adds the options to a parser.
        prepare: checks the options, and returns the work to do.
        old_names: options that stay, hidden, under today's names.
        reads_models: whether it needs more than the data's own libraries.
        extra: of the package, that brings what it needs.
    """

    summary: str
    examples: Sequence[str]
    add: Callable[[Parser], None]
    prepare: Callable[[Parser, Options], Work]
    old_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reads_models: bool = True
    extra: str = "models"

    def parser(self, name: str) -> Parser:
        """Return the parser of the command, which is called `cxm NAME`."""
        parser = Parser(f"cxm {name}", self.summary, self.examples, self.old_names)
        self.add(parser)
        return parser


def add_fields(parser: Parser, kind: type[Any], groups: Mapping[str, Sequence[str]]) -> None:
    """Add an option for each field of the dataclass `kind`, under the title of its group."""
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for title, names in groups.items():
        group = parser.add_argument_group(title)
        for name in names:
            _add_field(group, fields[name], _plain(hints[name]))


def _add_field(group: argparse._ArgumentGroup, field: "dataclasses.Field[Any]", kind: Any) -> None:
    text = field.metadata["help"]
    if kind is not bool and field.default not in (None, dataclasses.MISSING) and "(default" not in text:
        text += f" (default: {field.default})"
    name, text = f"--{OPTION_OF_FIELD.get(field.name, field.name)}", text.replace("%", "%%")
    if kind is bool:
        group.add_argument(
            name, dest=field.name, default=argparse.SUPPRESS, help=text, nargs="?", const="true", metavar="BOOL"
        )
    elif get_origin(kind) is Literal:
        group.add_argument(name, dest=field.name, default=argparse.SUPPRESS, help=text, choices=get_args(kind))
    else:
        metavar = {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")
        group.add_argument(name, dest=field.name, default=argparse.SUPPRESS, help=text, metavar=metavar)


def made(parser: Parser, kind: type[T], given: Mapping[str, Any], source: str | None = None) -> T:
    """Return the dataclass `kind` from the options `given`, over the values of the file `source` where one is named.

    A value that cannot be, an unknown key of the file or a missing option ends the program as `parser.error` does.
    """
    try:
        values = read_config(Path(source), kind) if source else {}
        values |= _converted(given, kind, "--")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    needed = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    if missing := [f"--{OPTION_OF_FIELD.get(name, name)}" for name in needed if name not in values]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    try:
        return kind(**values)
    except ValueError as error:
        parser.error(str(error))


def read_config(path: Path, kind: type[Any]) -> dict[str, Any]:
    """Return values for fields of the dataclass `kind` from a YAML or JSON file, or from a run folder's own.

    Keys are options or fields, with dashes or underscores. What was `RECORDED` of a run is left out, and so is null.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no mapping, or has an unknown key or a value of another type.
    """
    path = path / "train_config.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no config {path}: pass a YAML or JSON file, or a run folder")
    text = path.read_text()
    try:
        if path.suffix == ".json":
            values = json.loads(text)
        else:
            import yaml  # of datasets, and not needed for help

            values = yaml.safe_load(text)
    except Exception as error:  # of two libraries
        raise ValueError(f"{path} is no {'JSON' if path.suffix == '.json' else 'YAML'}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no keys with values, such as `epochs: 30`")
    fields = [field.name for field in dataclasses.fields(kind)]
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        name = OLD_NAMES.get(name, name)
        if name in RECORDED or value is None:
            continue
        if name not in fields:
            raise ValueError(f"{path}: unknown key {key}{nearest(name, fields)}")
        found[name] = value
    return _converted(found, kind, f"{path}: ")


def _converted(values: Mapping[str, Any], kind: type[Any], where: str) -> dict[str, Any]:
    """Return `values` as the types of the fields ask; YAML reads 1e-3 as text.

    Raises:
        ValueError: a value of another type.
    """
    hints = get_type_hints(kind)
    return {name: _as(_plain(hints[name]), value, f"{where}{name}") for name, value in values.items()}


def _as(kind: Any, value: Any, name: str) -> Any:
    is_text = kind in (str, Path) or get_origin(kind) is Literal
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    try:
        if kind is bool:
            return SWITCH[str(value).lower()]
        if is_text and isinstance(value, str):
            return Path(value) if kind is Path else value
        if not is_text and not isinstance(value, bool):
            return kind(str(value))
    except (KeyError, ValueError):
        pass
    raise ValueError(f"{name} must be {words.get(kind, 'text')}, got {value!r}")


def _plain(hint: Any) -> Any:
    """Return a type without its `| None`."""
    kinds = [one for one in get_args(hint) if one is not NoneType]
    return kinds[0] if NoneType in get_args(hint) else hint
