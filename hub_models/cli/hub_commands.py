"""Commands that go to the Hub and come from it: what each takes, and what it calls once it begins."""

import shutil
from pathlib import Path

from hub_models.cli.data_commands import REVISION
from hub_models.cli.options import Command, Options, Parser, Work, add_fields, made
from hub_models.hub.export_config import ExportConfig

EXPORT_GROUPS = {
    "set": ("data_dir", "output", "max_shard_size"),
    "Hub": ("repo_id", "version", "public", "i_accept_the_terms", "dry_run"),
}


def _add_push(parser: Parser) -> None:
    what = parser.add_argument_group("what to push, one of the two")
    what.add_argument("--model", type=Path, metavar="RUN", help="run folder of a training")
    what.add_argument("--space", action="store_true", help="page that reads X-rays, as a Space")
    where = parser.add_argument_group("where to")
    where.add_argument("--repo_id", required=True, metavar="ID", help="OWNER/NAME on the Hub, or NAME to be your own")
    where.add_argument("--public", action="store_true", help="let everyone see it (default: private)")
    where.add_argument("--version", metavar="TAG", help="tag to set, such as v1 (default: none)")
    where.add_argument("--revision", metavar="BRANCH", help="branch to push to (default: main)")
    where.add_argument("--replace", action="store_true", help="let another model or other files there go")
    where.add_argument("--dry_run", action="store_true", help="say what would go, and send nothing")
    card = parser.add_argument_group("card")
    card.add_argument(
        "--license", metavar="NAME", help="the Hub's name of a licence (default: the one in the run's README.md)"
    )
    card.add_argument(
        "--also", nargs="+", type=Path, default=(), metavar="RUN", help="evaluations and runs for the card's table"
    )
    card.add_argument("--segmenter", metavar="ID", help="Hub id of the lung model, for a TB model's card or the page")
    card.add_argument("--classifier", metavar="ID", help="Hub id of the TB model, for the page")


def _push(parser: Parser, options: Options) -> Work:
    def work() -> None:
        from hub_models.hub.space import push

        sent = push(
            options.model,
            options.repo_id,
            options.space,
            options.classifier,
            license=options.license,
            private=not options.public,
            version=options.version,
            revision=options.revision,
            also=options.also,
            segmenter=options.segmenter,
            replace=options.replace,
            dry_run=options.dry_run,
        )
        print(sent)

    return work


def _add_pull(parser: Parser) -> None:
    parser.add_argument("--model", required=True, metavar="ID", help="OWNER/NAME on the Hub")
    parser.add_argument("--revision", metavar="REV", help=REVISION)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder to make (default: the Hub's cache)")


def _pull(parser: Parser, options: Options) -> Work:
    output: Path | None = options.output
    if output and output.exists():
        parser.error(f"{output} is there already: pass another --output")

    def work() -> None:
        from hub_models.hub.push import pull_model

        run = pull_model(options.model, options.revision)
        if output:
            aside = output.with_name(f".{output.name}.pulling")
            shutil.rmtree(aside, ignore_errors=True)  # what a killed pull left
            run = shutil.copytree(run, aside).rename(output)
        print(run)

    return work


def _add_export(parser: Parser) -> None:
    add_fields(parser, ExportConfig, EXPORT_GROUPS)


def _export(parser: Parser, options: Options) -> Work:
    config = made(parser, ExportConfig, vars(options))

    def work() -> None:
        from hub_models.hub.dataset_export import export

        print(export(config))

    return work


def _add_check_hub(parser: Parser) -> None:
    parser.add_argument("--owner", metavar="NAME", help="user or organization to make repositories of (default: you)")


def _check_hub(parser: Parser, options: Options) -> Work:
    def work() -> None:
        from hub_models.cli.check_hub import check_hub

        check_hub(options.owner)
        print("all is well")

    return work


COMMANDS = {
    "push": Command(
        "Push a finished run to the Hub, or the page that reads X-rays; private unless told.",
        (
            "cxm push --model runs/lungs --repo_id OWNER/chest-xray-lungs --license apache-2.0 --dry_run",
            "cxm push --space --repo_id OWNER/chest-xray-reader --segmenter OWNER/chest-xray-lungs",
        ),
        _add_push,
        _push,
        {"run": "model"},
    ),
    "pull": Command(
        "Fetch a model of this project from the Hub, every byte checked, and print its run folder.",
        ("cxm pull --model OWNER/chest-xray-lungs", "cxm pull --model OWNER/chest-xray-lungs --output runs/lungs"),
        _add_pull,
        _pull,
    ),
    "export": Command(
        "Build the set as Parquet with its card, as a folder that `load_dataset` reads, and push it to the Hub.",
        ("cxm export --data DATA --output chest-xrays", "cxm export --data DATA --repo_id USER/chest-xrays --dry_run"),
        _add_export,
        _export,
        {"data_dir": "data"},
    ),
    "check-hub": Command(
        "Check the Hub itself: a tiny model and a tiny set go there, come back and are deleted.",
        ("cxm check-hub", "HF_HUB_DISABLE_XET=1 cxm check-hub --owner ORGANIZATION"),
        _add_check_hub,
        _check_hub,
    ),
}
