"""Benchmarks as commands, which print ratios, as seconds differ from machine to machine."""

from typing import get_args, get_type_hints

from hub_models.cli.options import Command, Options, Parser, Work
from hub_models.runs.config import TrainConfig

TASKS = get_args(get_type_hints(TrainConfig)["task"])


def _show(ratios: dict[str, float]) -> None:
    for name, ratio in ratios.items():
        print(f"{name} {ratio:.2f}")


def _add_dataset(parser: Parser) -> None:
    text = "folder that holds the X-rays (default: %(default)s)"
    parser.add_argument("--data", default="demo/phantoms", metavar="DATA", help=text)


def _dataset(parser: Parser, options: Options) -> Work:
    def work() -> None:
        from hub_models.benchmarks.dataset import dataset_ratios

        _show(dataset_ratios(options.data))

    return work


def _add_train(parser: Parser) -> None:
    default = "(default: %(default)s)"
    parser.add_argument("--data", metavar="DATA", help="folder that holds the X-rays (default: large phantoms)")
    parser.add_argument("--images", type=int, default=24, metavar="N", help=f"count of such phantoms {default}")
    parser.add_argument("--task", choices=TASKS, default=TASKS[0], help=f"what to learn {default}")
    parser.add_argument(
        "--model", metavar="NAME", help="architecture, or folder with a config.json (default: that of make demo)"
    )
    parser.add_argument(
        "--image_size", type=int, metavar="N", help="side in pixels (default: 256 for lungs, 224 for TB)"
    )
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help=f"images in a step {default}")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="steps of an epoch (default: 2 for each core, 4 or more)"
    )
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help=f"mixed precision {default}")


def _train(parser: Parser, options: Options) -> Work:
    def work() -> None:
        from hub_models.benchmarks.training import training_ratios

        ratios = training_ratios(
            options.data,
            options.task,
            options.model,
            options.image_size,
            options.batch_size,
            options.steps,
            options.precision,
            options.images,
        )
        _show(ratios)

    return work


def _add_predict(parser: Parser) -> None:
    default = "(default: %(default)s)"
    runs = {"segmenter": "demo/runs-phantoms/lungs", "classifier": "demo/runs-phantoms/tb"}
    for name, folder in runs.items():
        parser.add_argument(f"--{name}", default=folder, metavar="RUN", help=f"run folder of a model {default}")
    parser.add_argument("--xrays", type=int, default=16, metavar="N", help=f"phantoms of native size {default}")
    parser.add_argument("--images", type=int, default=10_000, metavar="N", help=f"small phantoms {default}")


def _predict(parser: Parser, options: Options) -> Work:
    def work() -> None:
        from hub_models.benchmarks.prediction import prediction_ratios

        _show(prediction_ratios(options.segmenter, options.classifier, options.xrays, options.images))

    return work


def _start(parser: Parser, options: Options) -> Work:
    def work() -> None:
        from hub_models.benchmarks.start import start_ratios

        _show(start_ratios())

    return work


COMMANDS = {
    "benchmark dataset": Command(
        'Measure the dataset builder against `load_dataset("imagefolder")` on the same files.',
        ("cxm benchmark dataset --data DATA", "cxm benchmark dataset"),
        _add_dataset,
        _dataset,
        {"data_dir": "data"},
    ),
    "benchmark train": Command(
        "Measure the training loop against bare compute and the loop of transformers' examples, in some minutes.",
        (
            "cxm benchmark train",
            "cxm benchmark train --data DATA --task tb_classification --precision bf16",
        ),
        _add_train,
        _train,
        {"data_dir": "data"},
    ),
    "benchmark predict": Command(
        "Measure reading X-rays against decoding, the models and transformers' pipeline, each alone.",
        ("cxm benchmark predict --segmenter runs/lungs --classifier runs/tb", "cxm benchmark predict --xrays 8"),
        _add_predict,
        _predict,
        {"films": "xrays"},
    ),
    "benchmark start": Command(
        "Measure the import of the reader against that of torch and transformers.",
        ("cxm benchmark start", "OMP_NUM_THREADS=1 cxm benchmark start"),
        lambda parser: None,
        _start,
    ),
}
