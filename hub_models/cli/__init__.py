"""The command `cxm`, which `scripts/` call too; libraries are imported after the options are parsed."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from hub_models.cli.commands import COMMANDS
from hub_models.cli.config_file import nearest
from hub_models.cli.options import Parser
from hub_models.console import plain_terminal

CXM_SUMMARY = "Load, check, train on and read the Montgomery County and Shenzhen tuberculosis chest X-rays."
CXM_EXAMPLES = (
    "cxm train --data DATA --output runs/lungs --model segformer-light --from_scratch",
    "cxm predict --data XRAYS --output OUT",
)
# One library of each kind that [models] brings; commands themselves name those that only some use, such as gradio
MODEL_LIBRARIES = ("torch", "transformers", "accelerate", "monai", "sklearn", "scipy", "matplotlib", "rich")
LIBRARIES = {"": (), "read": ("scipy", "safetensors"), "models": MODEL_LIBRARIES, "app": MODEL_LIBRARIES}  # by extra


def main(line: Sequence[str] | None = None) -> None:
    """Run the command of `line`, by default that of the program's own arguments.

    Raises:
        SystemExit: 0 for help, 2 for a mistake in the line, 1 with one sentence where the work could not be done.
    """
    words = list(sys.argv[1:] if line is None else line)
    if words[:1] == ["--version"]:
        from chest_xray_masks import __version__

        print(f"cxm {__version__}")
        return
    name = _name(words)
    command = COMMANDS[name]
    parser = command.parser(name)
    with plain_terminal():
        work = command.prepare(parser, parser.parse(words[len(name.split()) :]))
        for library in LIBRARIES[command.extra]:
            if find_spec(library) is None:
                raise ImportError(f"cxm {name} needs {library}: pip install 'chest-xray-masks[{command.extra}]'")
        work()


def _name(words: Sequence[str]) -> str:
    """Return the command that a line begins with; help or a mistake ends the program."""
    group = ""
    for word in words:
        name = f"{group} {word}".strip()
        if name in COMMANDS:
            return name
        below = [one for one in COMMANDS if one.startswith(f"{name} ")]
        if not below:
            break
        group = name
    parser = Parser(f"cxm {group}".strip(), CXM_SUMMARY, CXM_EXAMPLES)
    known = {one.removeprefix(group).split()[0] for one in COMMANDS if one.startswith(group)}
    rest = words[len(group.split()) :]
    if rest and rest[0] not in ("-h", "--help"):
        parser.error(f"unknown command {rest[0]}{nearest(rest[0], known) or f': {parser.prog} --help lists them'}")
    parser.usage = f"{parser.prog} COMMAND [options]"
    parser.epilog = "commands (each has its own --help):\n" + "\n".join(
        f"  {one:<18} {command.summary}" for one, command in COMMANDS.items() if one.startswith(group)
    )
    parser.print_help()
    parser.exit(0 if rest else 2)
