"""Commands on the set itself: what each takes, and what it calls once it begins."""

from importlib.resources import files
from pathlib import Path

from hub_models.cli.options import Command, Options, Parser, Work

SITES = ("all", "MC", "Shenzhen")
DATA = "the set: a folder or a zip"
REVISION = "branch, tag or commit of models that come from the Hub (default: main)"


def _add_phantoms(parser: Parser) -> None:
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder to make")
    counts = parser.add_argument_group("X-rays")
    for site in ("montgomery", "shenzhen"):
        count = {"montgomery": 40, "shenzhen": 80}[site]
        text = f"count of {site.capitalize()}-like X-rays (default: %(default)s)"
        counts.add_argument(f"--{site}", type=int, default=count, metavar="N", help=text)
    counts.add_argument(
        "--image_size", type=int, default=256, metavar="N", help="larger side in pixels, about (default: %(default)s)"
    )
    counts.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed draws other patients (default: %(default)s)"
    )


def _phantoms(parser: Parser, options: Options) -> Work:
    def work() -> None:
        from hub_models.dataset.phantoms import write_phantoms

        counts = options.montgomery, options.shenzhen
        print(f"wrote {write_phantoms(options.output, *counts, options.image_size, options.seed)}")

    return work


def _add_audit(parser: Parser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DATA", help=DATA)
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to write the whole report to")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if something is off")


def _audit(parser: Parser, options: Options) -> Work:
    def work() -> None:
        from rich.console import Console

        from hub_models.dataset.audit import report

        try:
            found = report(options.data, options.json)
        except OSError as error:
            parser.exit(2, f"{error}\n")
        print(found.headline())
        Console().print(found.table())
        if found.is_empty or (options.strict and found.is_off):
            parser.exit(2 if found.is_empty else 1)

    return work


def _add_show(parser: Parser) -> None:
    parser.add_argument("--data", required=True, metavar="DATA", help=DATA)
    parser.add_argument("--config_name", default="all", choices=SITES, help="sites to read (default: %(default)s)")


def _show(parser: Parser, options: Options) -> Work:
    def work() -> None:
        from chest_xray_masks import load

        splits = load(options.config_name, data_dir=options.data)
        print(splits)
        print(next((row for split in splits.values() for row in split), None))

    return work


def _add_launch_config(parser: Parser) -> None:
    names, parser.usage = ", ".join(_launch_configs()), "%(prog)s NAME"
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"one of {names}")


def _launch_configs() -> dict[str, str]:
    """Return the text of each launch config of Accelerate by its name."""
    found = [path for path in files("hub_models.training").joinpath("launch").iterdir() if path.name.endswith(".yaml")]
    return {path.name.removesuffix(".yaml"): path.read_text() for path in sorted(found, key=lambda path: path.name)}


def _launch_config(parser: Parser, options: Options) -> Work:
    configs = _launch_configs()
    if options.name not in configs:
        said = f"no launch config {options.name}" if options.name else "no launch config is named"
        parser.error(f"{said}: pass one of {', '.join(configs)}")
    return lambda: print(configs[options.name], end="")


COMMANDS = {
    "phantoms": Command(
        "Write synthetic chest X-rays with lungs, lesions and readings, in the layout of the Kaggle set.",
        ("cxm phantoms --output phantoms", "cxm phantoms --output few --montgomery 8 --shenzhen 8 --image_size 128"),
        _add_phantoms,
        _phantoms,
    ),
    "audit": Command(
        "Check a copy of the chest X-rays against the published counts, and list what is odd in it.",
        ("cxm audit --data DATA", "cxm audit --data DATA --json report.json --strict"),
        _add_audit,
        _audit,
        {"data_dir": "data"},
    ),
    "show": Command(
        "Load the X-rays and show the counts of each split and the first row.",
        ("cxm show --data DATA", "cxm show --data DATA --config_name MC"),
        _add_show,
        _show,
        {"data_dir": "data", "config": "config_name"},
        reads_models=False,
    ),
    "launch-config": Command(
        "Print a config for `accelerate launch --config_file`.",
        ("cxm launch-config many_gpus > many_gpus.yaml", "cxm launch-config cpu > cpu.yaml"),
        _add_launch_config,
        _launch_config,
        reads_models=False,
    ),
}
