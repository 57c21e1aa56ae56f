"""What the commands do beyond one call: configs that options make, what is printed, exit statuses."""

import shutil
import sys
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_models.cli.config_file import made
from hub_models.cli.options import Call, Options, Work
from hub_models.evaluation.calibration_config import CalibrationConfig
from hub_models.files import new_folder
from hub_models.hub.export_config import ExportConfig
from hub_models.lazy import without_collection
from hub_models.runs.config import TrainConfig
from hub_models.runs.pretrain_config import PretrainConfig

PUSH_OPTIONS = ("push", "license", "private", "push_segmenter")  # of `cxm train`; no values of a run

if TYPE_CHECKING:
    from datasets import DatasetDict

    from hub_models.dataset.sources import DataRequest

HOST, PORT = "127.0.0.1", 7860  # of the served page


def train_config(options: Options) -> TrainConfig:
    """Return the config that the options of `cxm train` make, over those of its file."""
    given = {name: value for name, value in vars(options).items() if name not in PUSH_OPTIONS}
    source = given.pop("config")
    return made(TrainConfig, given, source)


def plan_train(options: Options) -> Work:
    """Return the work of `cxm train`, which ends with a push where one is wanted.

    Raises:
        ValueError: a value that cannot be, an option of a push without one, or a push without a licence.
    """
    config = train_config(options)
    of_push = {
        "--license": options.license,
        "--public": not options.private,
        "--push_segmenter": options.push_segmenter,
    }
    if options.push is None and (given := [name for name, value in of_push.items() if value]):
        raise ValueError(f"{given[0]} is only for a push: pass --push OWNER/NAME too, or leave it out")
    if options.push is not None and not options.license:
        raise ValueError(f"a push to {options.push} needs a licence: pass --license, such as apache-2.0")

    def work() -> None:
        if options.push is None:
            with without_collection():
                from hub_models.training.train import train

            train(config)
            return
        with without_collection():
            from hub_models.training.destination import Destination, train_and_push

        destination = Destination(options.push, options.license, options.private, options.push_segmenter)
        if pushed := train_and_push(config, destination):
            print(pushed)

    return work


def plan_pretrain(options: Options) -> Work:
    """Return the work of `cxm pretrain`; raise ValueError for a value that cannot be."""
    given = vars(options).copy()
    if places := given.pop("data_dir", None):
        given |= {"data_dir": places[0], "more_data": places[1:]}
    config = made(PretrainConfig, given)
    return Call("hub_models.training.pretrain", "pretrain", arguments=lambda _: {"config": config})(options)


def plan_calibrate(options: Options) -> Work:
    """Return the work of `cxm calibrate`; raise ValueError for options that do not go together."""
    config = made(CalibrationConfig, vars(options))
    return Call("hub_models.training.calibrate", "calibrate", arguments=lambda _: {"config": config})(options)


def plan_app(options: Options) -> Work:
    """Return the work of `cxm app`: serve the page, or with --static build one that reads in the browser.

    Raises:
        ValueError: options of the other of the two.
    """
    given = vars(options).copy()
    output = given.pop("static")
    if output is None:
        return Call("hub_models.app.page", "serve", arguments=lambda _: given)(options)
    if (given.pop("host"), given.pop("port"), given.pop("hosts")) != (HOST, PORT, ()):
        raise ValueError("--host, --port and --hosts are only for the served page: leave them out with --static")
    return Call("hub_models.app.static_page", "build_static", print, lambda _: given | {"output": output})(options)


def plan_push(options: Options) -> Work:
    """Return the work of `cxm push`; raise ValueError where --static goes with options of another push."""
    given = vars(options).copy()
    if not given.pop("static"):
        return Call("hub_models.hub.space", "push", print, lambda _: given)(options)
    taken = ("repo_id", "segmenter", "classifier", "license", "private", "dry_run")
    if not given.pop("space"):
        raise ValueError("--static is only for the page: pass --space too")
    if other := [name for name, value in given.items() if value and name not in taken]:
        raise ValueError(f"--{other[0]} is only for the push of a model: leave it out with --static")
    values = {name: given[name] for name in taken}
    return Call("hub_models.app.static_page", "push_static", print, lambda _: values)(options)


def data_request(options: Options) -> "DataRequest":
    """Return the X-rays that the options of a command name."""
    from hub_models.dataset.sources import DataRequest

    given = {name: joined_columns(options)[name] for name in ("table", "columns", "positive")}
    return DataRequest(str(options.data_dir), revision=options.data_revision, **given)


def joined_columns(options: Options) -> Mapping[str, Any]:
    """Return the options with the words of `--columns` as one text."""
    return vars(options) | {"columns": " ".join(options.columns) if options.columns else None}


def shown_data(options: Options) -> Mapping[str, Any]:
    """Return the X-rays to show, for `load_splits`."""
    from dataclasses import replace

    return {"request": replace(data_request(options), config_name=options.config)}


def plan_audit(options: Options) -> Work:
    """Return the work of `cxm audit`: it prints a report and ends with the status that the report asks for."""

    def work() -> None:
        from rich.console import Console

        from hub_models.dataset.audit import report

        try:
            found = report(data_request(options), options.json)
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from error
        print(found.headline())
        Console().print(found.table())
        if found.is_empty or (options.strict and found.is_off):
            raise SystemExit(2 if found.is_empty else 1)

    return work


def launch_configs() -> dict[str, Traversable]:
    """Return the file of each launch config of Accelerate by its name, in order."""
    found = {one.name: one for one in files("hub_models.training").joinpath("launch").iterdir()}
    return {name.removesuffix(".yaml"): found[name] for name in sorted(found) if name.endswith(".yaml")}


def plan_launch_config(options: Options) -> Work:
    """Return the work of `cxm launch-config`; raise ValueError for an unknown name."""
    configs = launch_configs()
    if options.NAME not in configs:
        problem = f"no launch config {options.NAME}" if options.NAME else "no launch config is named"
        raise ValueError(f"{problem}: pass one of {', '.join(configs)}")
    return lambda: print(configs[options.NAME].read_text(), end="")


def plan_export(options: Options) -> Work:
    """Return the work of `cxm export`, of X-rays or of a model; raise ValueError for options of both."""
    given = vars(options)
    of_model = {name: given.pop(name) for name in ("model", "format", "precision", "revision")}
    named = [f"--{name}" for name, value in of_model.items() if value is not None]
    if of_model["model"] is None:
        if named:
            raise ValueError(
                f"{named[0]} is only for the export of a model: pass --model too, or leave {named[0]} out"
            )
        return Call("hub_models.hub.dataset_export", "export", print, lambda _: {"config": made(ExportConfig, given)})(
            options
        )
    if others := [f"--{name}" for name in given if name not in ("data_dir", "output")]:
        raise ValueError(f"{others[0]} is only for the export of X-rays: leave it out, or leave --model out")
    arguments = {"model": of_model["model"], "revision": of_model["revision"], "images": given.get("data_dir")}
    arguments |= {"output": given.get("output"), "precision": of_model["precision"] or "fp32"}
    return Call("hub_models.predict.export", "export_model", print, lambda _: arguments)(options)


def plan_pull(options: Options) -> Work:
    """Return the work of `cxm pull`, whose folder is whole or absent; raise ValueError where it exists."""
    output: Path | None = options.output
    if output and output.exists():
        raise ValueError(f"{output} is there already: pass another --output")
    from hub_models.hub_client.bundled import known_place

    if (place := Path(known_place(options.model))).is_dir():
        raise ValueError(f"{options.model} is on this machine already, in {place}: pass a Hub id")

    def work() -> None:
        from hub_models.hub.push import pull_model

        run = pull_model(options.model, options.revision)
        if output:
            with new_folder(output) as new:
                shutil.copytree(run, new, dirs_exist_ok=True)
        print(output or run)

    return work


def end_unread(folder: Path) -> None:
    """Raise ValueError where no X-ray of a prediction job could be read."""
    from hub_models.predict.job import TABLE_NAME, has_readings

    if not has_readings(folder):
        raise ValueError(f"no X-ray could be read: {folder / TABLE_NAME}.csv says why of each")


def print_rows(splits: "DatasetDict") -> None:
    """Print the counts of each split and the first row."""
    print(splits)
    print(next((row for split in splits.values() for row in split), None))


def print_ratios(ratios: Mapping[str, float]) -> None:
    """Print a line for each ratio of a benchmark."""
    for name, ratio in ratios.items():
        print(f"{name} {ratio:.2f}")
