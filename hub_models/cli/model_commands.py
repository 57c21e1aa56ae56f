"""Commands on models: what each takes, and what it calls once it begins."""

from typing import get_args, get_type_hints

from hub_models.cli.data_commands import DATA, REVISION
from hub_models.cli.options import Command, Options, Parser, Work, add_fields, made
from hub_models.runs.config import TrainConfig

SPLITS = ("train", "validation", "test")
PROTOCOLS = get_args(get_type_hints(TrainConfig)["protocol"])
SEGMENTER = "lung model: a run folder or a Hub id"
CLASSIFIER = "TB model: a run folder or a Hub id"
TRAIN_GROUPS = {
    "data": ("data_dir", "config_name", "protocol", "fold"),
    "model": ("task", "model", "from_scratch", "image_size", "fit", "region", "segmenter"),
    "training": ("epochs", "batch_size", "accumulation", "augment", "balance", "keep", "patience", "seed"),
    "optimization": (
        *("learning_rate", "layer_decay", "weight_decay", "warmup_fraction"),
        *("gradient_norm", "dropout", "label_smoothing", "ema"),
    ),
    "run folder": ("output_dir", "checkpoint_steps", "checkpoints", "tracker"),
}


def _add_train(parser: Parser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML or JSON file, or run folder, whose values hold unless an option is given",
    )
    add_fields(parser, TrainConfig, TRAIN_GROUPS)
    parser.epilog = "Device, processes and precision are those of accelerate launch (--mixed_precision bf16)."


def _train(parser: Parser, options: Options) -> Work:
    config = train_config(parser, options)

    def work() -> None:
        from hub_models.training.train import train

        train(config)

    return work


def train_config(parser: Parser, options: Options) -> TrainConfig:
    """Return the config that the options of `cxm train` make, over those of its file."""
    given = {name: value for name, value in vars(options).items() if name != "config"}
    return made(parser, TrainConfig, given, options.config)


def _add_evaluate(parser: Parser) -> None:
    models = parser.add_argument_group("models")
    models.add_argument("--model", required=True, metavar="RUN", help="run folder or Hub id of the model to test")
    models.add_argument("--segmenter", metavar="RUN", help="lung model, for a TB model of the lung region")
    models.add_argument("--compare", metavar="RUN", help="second model to compare with, a run folder or Hub id")
    models.add_argument("--revision", metavar="REV", help=REVISION)
    models.add_argument(
        "--views",
        type=int,
        choices=range(1, 6),
        help="count of slightly moved views of each X-ray (default: the model's)",
    )
    models.add_argument("--two_lungs", action="store_true", help="keep the two largest regions of a lung mask")
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, metavar="DATA", help=DATA)
    data.add_argument("--split", choices=SPLITS, default="test", help="split to test on (default: %(default)s)")
    data.add_argument("--protocol", choices=PROTOCOLS, help="division of the X-rays (default: the run's own)")
    data.add_argument("--fold", type=int, metavar="N", help="fold of protocol folds (default: the run's own)")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder to write to (default: evaluation/PROTOCOL-SPLIT in the run folder)",
    )


def _evaluate(parser: Parser, options: Options) -> Work:
    def work() -> None:
        from hub_models.evaluation.evaluate import evaluate_run

        evaluate_run(
            options.model,
            options.data,
            split=options.split,
            protocol=options.protocol,
            fold=options.fold,
            segmenter=options.segmenter,
            output=options.output,
            compared=options.compare,
            views=options.views,
            two_lungs=options.two_lungs,
            revision=options.revision,
        )

    return work


def _add_predict(parser: Parser) -> None:
    data = parser.add_argument_group("X-rays")
    data.add_argument(
        "--data", required=True, metavar="XRAYS", help="file, folder, zip, glob, list, Parquet, URL, or a dataset"
    )
    data.add_argument("--data_dir", metavar="DATA", help="folder or zip of a dataset that is on this machine")
    data.add_argument("--config_name", metavar="NAME", help="config of a dataset")
    data.add_argument("--split", help="split of a dataset (default: all)")
    data.add_argument(
        "--image_column", metavar="NAME", help="column of the X-rays, of a dataset or Parquet with several of images"
    )
    models = parser.add_argument_group("models, one or both")
    models.add_argument("--segmenter", metavar="RUN", help=SEGMENTER)
    models.add_argument("--classifier", metavar="RUN", help=CLASSIFIER)
    models.add_argument("--revision", metavar="REV", help=REVISION)
    models.add_argument(
        "--batch_size", type=int, metavar="N", help="X-rays in a forward pass (default: 16, on a CPU 4)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output", required=True, metavar="FOLDER", help="folder to write to")
    output.add_argument("--overlays", action="store_true", help="pictures of the lungs, too")
    output.add_argument("--saliency", action="store_true", help="pictures of what speaks for TB to the model, too")
    output.add_argument("--dicom_seg", action="store_true", help="lungs of DICOM X-rays as DICOM-SEG, too")


def _predict(parser: Parser, options: Options) -> Work:
    _need_a_model(parser, options)

    def work() -> None:
        from hub_models.predict.job import read_all

        read_all(
            options.data,
            options.output,
            segmenter=options.segmenter,
            classifier=options.classifier,
            revision=options.revision,
            overlays=options.overlays,
            saliency=options.saliency,
            dicom_seg=options.dicom_seg,
            batch_size=options.batch_size,
            config=options.config_name,
            split=options.split,
            data_dir=options.data_dir,
            column=options.image_column,
        )

    return work


def _add_app(parser: Parser) -> None:
    parser.add_argument("--segmenter", metavar="RUN", help=SEGMENTER)
    parser.add_argument("--classifier", metavar="RUN", help=CLASSIFIER)
    parser.add_argument("--revision", metavar="REV", help=REVISION)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port to listen at (default: %(default)s)")


def _app(parser: Parser, options: Options) -> Work:
    _need_a_model(parser, options)

    def work() -> None:
        from hub_models.app.page import serve

        serve(
            options.segmenter,
            options.classifier,
            revision=options.revision,
            host=options.host,
            port=options.port,
        )

    return work


def _need_a_model(parser: Parser, options: Options) -> None:
    if not (options.segmenter or options.classifier):
        parser.error("nothing to read with: pass --segmenter, --classifier, or both")


COMMANDS = {
    "train": Command(
        "Train a model on the chest X-rays, for lung masks or tuberculosis, to a run folder.",
        (
            "cxm train --data DATA --output runs/lungs --model segformer-light --from_scratch",
            "accelerate launch --num_processes 2 -m hub_models.training --config run.yaml --epochs 10",
        ),
        _add_train,
        _train,
        {"data_dir": "data", "output_dir": "output", "warmup_share": "warmup_fraction"},
    ),
    "evaluate": Command(
        "Test a model with intervals, per site, sex and age: results.json, per_image.parquet and pictures.",
        (
            "cxm evaluate --model runs/lungs --data DATA --split validation",
            "cxm evaluate --model OWNER/chest-xray-lungs --data DATA --output evaluation --compare runs/lungs2",
        ),
        _add_evaluate,
        _evaluate,
        {"data_dir": "data"},
    ),
    "predict": Command(
        "Read any number of X-rays: lung masks, and a table with areas, probability, decision and flags.",
        (
            "cxm predict --data XRAYS --output OUT --segmenter runs/lungs --classifier runs/tb",
            "cxm predict --data chest_xray_masks --data_dir DATA --split test --output OUT --classifier runs/tb",
        ),
        _add_predict,
        _predict,
        {"images": "data", "config": "config_name"},
    ),
    "app": Command(
        "Serve a page that reads X-rays: drop one, see its lungs, the probability of tuberculosis, flags and limits.",
        (
            "cxm app --segmenter runs/lungs --classifier runs/tb",
            "cxm app --segmenter OWNER/chest-xray-lungs --host 0.0.0.0 --port 8080",
        ),
        _add_app,
        _app,
        extra="app",
    ),
}
