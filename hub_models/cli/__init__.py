"""The command `cxm`: one subcommand for each thing to do; `scripts/` call the same.

What a command needs is imported once its options are understood: help and mistakes are answered within a second.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from hub_models.cli import benchmark_commands, data_commands, hub_commands, model_commands
from hub_models.cli.options import Parser, nearest
from hub_models.console import plain_terminal

COMMANDS = data_commands.COMMANDS | model_commands.COMMANDS | hub_commands.COMMANDS | benchmark_commands.COMMANDS
SUMMARY = "Load, check, learn from and read the Montgomery County and Shenzhen tuberculosis chest X-rays."
EXAMPLES = (
    "cxm train --data DATA --output runs/lungs --model segformer-light --from_scratch",
    "cxm predict --data XRAYS --output OUT --segmenter runs/lungs --classifier runs/tb",
)
# One library of each kind that [models] brings; what only some commands use, such as gradio, they name themselves
LIBRARIES = ("torch", "transformers", "accelerate", "monai", "sklearn", "scipy", "matplotlib", "rich")


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
    work = command.prepare(parser, parser.parse(words[len(name.split()) :]))
    with plain_terminal():
        absent = next((one for one in LIBRARIES if find_spec(one) is None), None) if command.reads_models else None
        if absent:
            raise ImportError(f"cxm {name} needs {absent}: pip install 'chest-xray-masks[{command.extra}]'")
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
    parser = Parser(f"cxm {group}".strip(), SUMMARY, EXAMPLES)
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


if __name__ == "__main__":
    main()
