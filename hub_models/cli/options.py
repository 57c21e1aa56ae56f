"""Commands and their options: any spelling, the nearest name for a typo, and fields of a dataclass as options.

Only the standard library is imported, so that help and mistakes are answered at once.
"""

import argparse
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from hub_models.cli.config_file import nearest, types_of
from hub_models.lazy import imported
from hub_models.runs.config import OPTION_OF_FIELD, SEVERAL_WORDS

Options = argparse.Namespace
Work = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a command, or with a name in capitals a word that follows it.

    Attributes:
        name: without dashes; the help shows its default.
        kind: makes the value from text; bool is a switch that turns `default` over.
        dest: parameter that takes the value, by default `name`.
        old: hidden spelling of an earlier version.
    """

    name: str
    help: str
    metavar: str | None = None
    kind: Callable[[str], Any] = str
    default: Any = None
    required: bool = False
    choices: Iterable[Any] | None = None
    nargs: str | None = None
    dest: str = ""
    old: str = ""

    def add_to(self, group: argparse._ActionsContainer) -> None:
        """Add the option to a parser or a group of one."""
        text, name, dest = self.help.replace("%", "%%"), f"--{self.name}", self.dest or self.name
        if self.name.isupper():
            group.add_argument(self.name, nargs="?", help=text)
        elif self.kind is bool:
            value = bool(self.default)
            group.add_argument(name, dest=dest, action="store_const", const=not value, default=value, help=text)
        else:
            if self.default not in (None, (), argparse.SUPPRESS):
                text += " (default: %(default)s)"
            group.add_argument(
                name,
                dest=dest,
                type=self.kind,
                default=self.default,
                required=self.required,
                choices=self.choices,
                nargs=self.nargs,
                const="true" if self.nargs == "?" else None,
                metavar=self.metavar,
                help=text,
            )


def plain(*options: Option) -> dict[str, Sequence[Option]]:
    """Return options without a group."""
    return {"": options}


def options_of(kind: type, groups: Mapping[str, Sequence[str]]) -> dict[str, Sequence[Option]]:
    """Return an option for each field of a dataclass, by group; given values are text, which `made` converts."""
    fields, types = {field.name: field for field in dataclasses.fields(kind)}, types_of(kind)
    return {title: [_option_of(fields[name], types[name]) for name in names] for title, names in groups.items()}


def _option_of(field: "dataclasses.Field[Any]", kind: Any) -> Option:
    text, is_switch, is_choice = field.metadata["help"], kind is bool, get_origin(kind) is Literal
    if not is_switch and field.default not in (None, dataclasses.MISSING) and "(default" not in text:
        text += f" (default: {field.default})"
    name = OPTION_OF_FIELD.get(field.name, field.name)
    old = "" if name == field.name else field.name
    option = Option(
        name, text, {int: "N", float: "X"}.get(kind, "TEXT"), str, argparse.SUPPRESS, dest=field.name, old=old
    )
    if is_switch:
        return dataclasses.replace(option, metavar="BOOL", nargs="?")
    if field.name in SEVERAL_WORDS:
        return dataclasses.replace(option, nargs="+")
    return dataclasses.replace(option, metavar=None, choices=get_args(kind)) if is_choice else option


class Parser(argparse.ArgumentParser):
    """Parser of one command, whose options may be spelt with dashes or underscores."""

    def __init__(self, prog: str, summary: str, examples: Sequence[str]) -> None:
        """Make a parser whose help opens with a sentence and examples."""
        shown = "\n".join(f"  {example}" for example in examples)
        super().__init__(
            prog=prog,
            usage="%(prog)s [options]",
            description=f"{summary}\n\nexamples:\n{shown}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.old_names: dict[str, str] = {}

    def parse(self, words: Sequence[str]) -> Options:
        """Return the options in `words`; a mistake ends the program with one line and status 2."""
        return self.parse_args([self._spelt(word) for word in words])

    def _spelt(self, word: str) -> str:
        """Return a word of the command line with its option's own spelling; other words stay."""
        if not re.match(r"--?[A-Za-z]", word) or word == "-h":
            return word
        given, equals, value = word.partition("=")
        name = given.lstrip("-").replace("-", "_")
        known = [text[2:] for text in self._option_string_actions if text.startswith("--")]
        name = name if name in known else self.old_names.get(name, name)
        if name not in known:
            near = nearest(name, known, "--")
            self.error(f"unknown option {given}{near or f': {self.prog} --help lists them'}")
        return f"--{name}{equals}{value}"

    def error(self, message: str) -> NoReturn:
        """End the program with one line and status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


@dataclasses.dataclass(frozen=True)
class Call:
    """A function that gets the options by name; its module is imported when the work begins.

    Attributes:
        module, function: where it is.
        show: takes its result.
        arguments: makes what it gets; raises ValueError for options that do not go together.
    """

    module: str
    function: str
    show: Callable[[Any], object] = lambda result: None
    arguments: Callable[[Options], Mapping[str, Any]] = vars

    def __call__(self, options: Options) -> Work:
        """Return the work."""
        given = self.arguments(options)
        return lambda: self.show(imported(self.module, self.function)(**given))


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: its help, its options and its work.

    Attributes:
        summary: one sentence.
        examples: two command lines.
        options: by the title of their group; an empty title is none.
        plan: returns the work to do, or raises ValueError for options that cannot be.
        extra: of the package, that brings what it needs; empty where the data's own libraries do.
        epilog: last line of the help.
    """

    summary: str
    examples: Sequence[str]
    options: Mapping[str, Sequence[Option]]
    plan: Callable[[Options], Work]
    extra: str = "models"
    epilog: str = ""

    def parser(self, name: str) -> Parser:
        """Return the parser of the command, which is called `cxm NAME`."""
        parser = Parser(f"cxm {name}", self.summary, self.examples)
        parser.epilog = self.epilog
        if words := [one.name for options in self.options.values() for one in options if one.name.isupper()]:
            parser.usage = f"%(prog)s {' '.join(words)}"
        for title, options in self.options.items():
            group = parser.add_argument_group(title) if title else parser
            for option in options:
                option.add_to(group)
                parser.old_names |= {option.old: option.name} if option.old else {}
        return parser

    def prepare(self, parser: Parser, options: Options) -> Work:
        """Return the work to do; options that cannot be end the program as `parser.error` does."""
        try:
            return self.plan(options)
        except (ValueError, OSError) as error:
            parser.error(str(error))
