"""The table of all commands: what each says, takes and calls."""

from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

from hub_models.cli import plans
from hub_models.cli.options import Call, Command, Option, options_of, plain
from hub_models.evaluation.calibration_config import CalibrationConfig
from hub_models.hub.export_config import ExportConfig
from hub_models.runs.config import COLUMNS_HELP, DATA_HELP, POSITIVE_HELP, REVISION_HELP, TABLE_HELP, TrainConfig
from hub_models.runs.pretrain_config import PretrainConfig

CHOICES = {name: get_args(hint) for name, hint in get_type_hints(TrainConfig).items()}
SPACE_HARDWARE = ("cpu-basic", "zero-a10g")
METRICS = ("lung_overlap", "screening")
SPLIT_NAMES = ("train", "validation", "test", "all")
TRAIN_GROUPS = {
    "data": (
        *("data_dir", "test_data", "table", "columns", "positive", "data_revision"),
        *("config_name", "protocol", "fold"),
    ),
    "model": ("task", "model", "from_scratch", "freeze", "lora", "image_size", "fit", "region", "segmenter"),
    "training": ("epochs", "batch_size", "accumulation", "augment", "balance", "keep", "patience", "seed"),
    "optimization": (
        *("learning_rate", "layer_decay", "weight_decay", "warmup_fraction"),
        *("gradient_norm", "dropout", "label_smoothing", "mixup", "ema"),
    ),
    "run folder": ("output_dir", "checkpoint_steps", "checkpoints", "tracker"),
}
PRETRAIN_GROUPS = {
    "data": ("whole", "columns", "positive", "data_revision", "config_name", "protocol", "fold"),
    "model": ("model", "image_size", "fit", "mask_ratio"),
    "training": ("epochs", "batch_size", "accumulation", "augment", "keep", "patience", "seed"),
    "optimization": ("learning_rate", "weight_decay", "warmup_fraction", "gradient_norm", "ema"),
    "run folder": TRAIN_GROUPS["run folder"],
}
EXPORT_GROUPS = {
    "X-rays": ("data_dir", "table", "columns", "positive", "data_revision"),
    "folder": ("output", "max_shard_size", "num_shards"),
    "Hub": ("repo_id", "license", "version", "public", "i_accept_the_terms", "dry_run"),
}
CALIBRATE_GROUPS = {
    "a TB model and local X-rays": ("model", "data", "split", "table", "data_revision", "segmenter", "revision"),
    "or scores and truth, without a model": ("predictions", "truth"),
    "columns of either": ("columns", "positive"),
    "operating point": ("sensitivity", "specificity", "tests_per_case", "prevalence", "groups"),
    "output": ("output", "name", "write"),
}
DATA = Option("data", DATA_HELP, "DATA", required=True, dest="data_dir", old="data_dir")
UNDERSTOOD = (
    Option("table", TABLE_HELP, "FILE"),
    Option("columns", COLUMNS_HELP, "FIELD=COLUMN", nargs="+", kind=str),
    Option("positive", POSITIVE_HELP, "VALUES"),
    Option("data_revision", REVISION_HELP, "REV"),
)
XRAYS = Option(
    "data", "file, folder, zip, glob, list, Parquet, URL, or a dataset", "XRAYS", dest="images", old="images"
)
SEGMENTER = Option("segmenter", "lung model: a run folder, a Hub id, or bundled:lungs", "RUN")
CLASSIFIER = Option("classifier", "TB model: a run folder, a Hub id, or bundled:tb", "RUN")
PUBLIC = Option("public", "let everyone see it (default: private)", kind=bool, default=True, dest="private")
REVISION = Option("revision", "branch, tag or commit of models that come from the Hub (default: main)", "REV")


COMMANDS = {
    "phantoms": Command(
        "Write synthetic chest X-rays with lungs, lesions and readings, in the layout of the Kaggle set.",
        ("cxm phantoms --output phantoms", "cxm phantoms --output few --montgomery 8 --shenzhen 8 --image_size 128"),
        {
            "": [Option("output", "folder to make", "FOLDER", Path, required=True, dest="root")],
            "X-rays": [
                Option("montgomery", "count of Montgomery-like X-rays", "N", int, 100),
                Option("shenzhen", "count of Shenzhen-like X-rays", "N", int, 200),
                Option("image_size", "approximate length of the longer side, in pixels", "N", int, 256),
                Option("seed", "another seed draws other patients", "N", int, 0),
            ],
        },
        Call("hub_models.dataset.phantoms", "write_phantoms", lambda root: print(f"wrote {root}")),
    ),
    "audit": Command(
        "Check a copy of the chest X-rays against the published counts, and list what is odd in it.",
        ("cxm audit --data DATA", "cxm audit --data DATA --json report.json --strict"),
        plain(
            DATA,
            *UNDERSTOOD,
            Option("json", "file to write the whole report to", "FILE", Path),
            Option("strict", "exit with 1 if something is off", kind=bool),
        ),
        plans.plan_audit,
    ),
    "show": Command(
        "Load the X-rays and show the counts of each split and the first row.",
        ("cxm show --data DATA", "cxm show --data DATA --config_name MC"),
        plain(
            DATA,
            *UNDERSTOOD,
            Option(
                "config_name",
                "sites to read",
                default="all",
                choices=CHOICES["config_name"],
                dest="config",
                old="config",
            ),
        ),
        Call("hub_models.dataset.sources", "load_splits", plans.print_rows, plans.shown_data),
        extra="",
    ),
    "launch-config": Command(
        "Print a config for `accelerate launch --config_file`.",
        ("cxm launch-config many_gpus > many_gpus.yaml", "cxm launch-config cpu > cpu.yaml"),
        plain(Option("NAME", f"one of {', '.join(plans.launch_configs())}")),
        plans.plan_launch_config,
        extra="",
    ),
    "train": Command(
        "Train a model on the chest X-rays, for lung masks or tuberculosis, to a run folder.",
        (
            "cxm train --data DATA --output runs/lungs --model segformer-light --from_scratch",
            "accelerate launch --num_processes 2 -m hub_models.training --config run.yaml --epochs 10",
        ),
        {
            "": [
                Option(
                    "config", "YAML or JSON file, or run folder, with values for options that are not given", "FILE"
                )
            ],
            **options_of(TrainConfig, TRAIN_GROUPS),
            "Hub": [
                Option("push", "OWNER/NAME or NAME of a repository to push the trained run to (default: none)", "ID"),
                Option("license", "for --push: the Hub's name of a licence, such as apache-2.0", "NAME"),
                replace(PUBLIC, help="for --push: let everyone see it (default: private)"),
                Option("push_segmenter", "for --push: Hub id of the lung model, for region lungs", "ID"),
            ],
        },
        plans.plan_train,
        epilog="Device, processes and precision are set by accelerate launch (such as --mixed_precision bf16).",
    ),
    "pretrain": Command(
        "Pre-train the encoder of a ViT on X-rays without labels, for `cxm train --model` to fine-tune.",
        (
            "cxm pretrain --data DATA OTHER --output runs/encoder",
            "cxm pretrain --data DATA --whole UNLABELLED --output runs/encoder --protocol folds --fold 0",
        ),
        {
            "": [replace(DATA, help=f"{DATA_HELP}; one or more, whose test splits are left out", nargs="+")],
            **options_of(PretrainConfig, PRETRAIN_GROUPS),
        },
        plans.plan_pretrain,
        epilog="Pass the protocol of the later training, so that its test X-rays are not seen. For several processes: "
        "accelerate launch -m hub_models pretrain.",
    ),
    "evaluate": Command(
        "Test a model with intervals, per site, sex and age: results.json, per_image.parquet and pictures.",
        (
            "cxm evaluate --model runs/lungs --data DATA --split validation",
            "cxm evaluate --model OWNER/chest-xray-lungs --data DATA --output evaluation --compare runs/lungs2",
        ),
        {
            "models": [
                Option("model", "run folder or Hub id of the model to test", "RUN", required=True),
                Option("segmenter", "lung model, for a TB model of the lung region", "RUN"),
                Option("compare", "second model to compare with, a run folder or Hub id", "RUN", dest="compared"),
                REVISION,
                Option(
                    "views", "slightly moved views of an X-ray (default: the model's)", "N", int, choices=range(1, 6)
                ),
                Option("two_lungs", "keep the two largest regions of a lung mask", kind=bool),
            ],
            "data": [
                DATA,
                *UNDERSTOOD,
                Option("split", "split to test on", default="test", choices=SPLIT_NAMES),
                Option("protocol", "division of the X-rays (default: the run's own)", choices=CHOICES["protocol"]),
                Option("fold", "fold of protocol folds (default: the run's own)", "N", int),
            ],
            "": [Option("output", "folder to write to (default: evaluation/PROTOCOL-SPLIT of the run)", "FOLDER")],
        },
        Call("hub_models.evaluation.evaluate", "evaluate_run", arguments=plans.joined_columns),
    ),
    "calibrate": Command(
        "Choose temperature and threshold of a TB model, or of any scores, on local X-rays, and report what they do.",
        (
            "cxm calibrate --model runs/tb --data LOCAL --sensitivity 0.9 --output calibration --write runs/tb-local",
            "cxm calibrate --predictions predictions.csv --truth truth.csv --prevalence 0.02 --output calibration",
        ),
        options_of(CalibrationConfig, CALIBRATE_GROUPS),
        plans.plan_calibrate,
        epilog="Without a rule, the threshold has the largest sum of sensitivity and specificity (Youden).",
    ),
    "predict": Command(
        "Read any number of X-rays: lung masks, and a table with areas, probability, decision and flags.",
        (
            "cxm predict --data XRAYS --output OUT",
            "cxm predict --data DATA --split test --output OUT --classifier runs/tb",
        ),
        {
            "X-rays": [
                replace(XRAYS, required=True),
                Option("data_dir", "folder or zip on this machine from which a dataset is built", "DATA"),
                Option("config_name", "config of a dataset", "NAME", dest="config", old="config"),
                Option("split", "split of a dataset or of the set (default: all)"),
                Option(
                    "image_column", "column to read the X-rays from, if a table has several", "NAME", dest="column"
                ),
                Option(
                    "id_column", "column with the ids of the X-rays in a table (default: id, else the row)", "NAME"
                ),
                Option(
                    "allow_paths", "open paths and URLs in rows of Parquet, datasets and lists at a URL", kind=bool
                ),
            ],
            "models (default: both that are bundled)": [
                SEGMENTER,
                CLASSIFIER,
                REVISION,
                Option(
                    "backend",
                    "torch, or onnx for a run folder that cxm export was run on (default: onnx for exported models)",
                    choices=("torch", "onnx"),
                ),
                Option("batch_size", "X-rays that are read together (default: 16, on a CPU 4)", "N", int),
            ],
            "output": [
                Option("output", "folder to write to", "FOLDER", required=True),
                Option("overlays", "pictures of the lungs, too", kind=bool),
                Option("saliency", "pictures of what raises the model's TB probability, too", kind=bool),
                Option("dicom_seg", "lungs of DICOM X-rays as DICOM-SEG, too", kind=bool),
                Option("dicom_sr", "results of DICOM X-rays as DICOM SR, with the lungs as DICOM-SEG", kind=bool),
            ],
        },
        Call("hub_models.predict.job", "read_all", plans.end_unread),
        extra="read",
    ),
    "app": Command(
        "Serve a page that reads X-rays: drop one, see its lungs, the probability of tuberculosis, flags and limits.",
        (
            "cxm app",
            "cxm app --static page --segmenter OWNER/chest-xray-lungs --classifier OWNER/chest-xray-tb",
        ),
        plain(
            SEGMENTER,
            CLASSIFIER,
            REVISION,
            Option("host", "address to listen at", default=plans.HOST),
            Option("port", "port to listen at", "N", int, plans.PORT),
            Option(
                "hosts",
                "other host names by which the page is reached, such as a proxy's",
                "NAME",
                default=(),
                nargs="+",
            ),
            Option(
                "static",
                "folder to write a page to that reads in the visitor's browser; any web server can serve it",
                "FOLDER",
                Path,
            ),
        ),
        plans.plan_app,
        extra="app",
    ),
    "push": Command(
        "Push a finished run to the Hub, or the page that reads X-rays; private unless told.",
        (
            "cxm push --model runs/lungs --repo_id OWNER/chest-xray-lungs --license apache-2.0 --dry_run",
            "cxm push --space --repo_id OWNER/chest-xray-reader --segmenter OWNER/chest-xray-lungs",
        ),
        {
            "what to push, one of the two": [
                Option("model", "run folder of a training", "RUN", Path, dest="run", old="run"),
                Option("space", "page that reads X-rays, as a Space", kind=bool),
                Option(
                    "hardware", "with --space: hardware of a new Space (default: cpu-basic)", choices=SPACE_HARDWARE
                ),
                Option("metric", "with --space: push a metric of `evaluate` instead of the page", choices=METRICS),
                Option("static", "with --space: a page that reads in the visitor's browser", kind=bool),
            ],
            "where to": [
                Option("repo_id", "OWNER/NAME on the Hub, or NAME for one of your own", "ID", required=True),
                PUBLIC,
                Option("version", "tag to set, such as v1 (default: none)", "TAG"),
                Option("revision", "branch to push to (default: main)", "BRANCH"),
                Option("replace", "replace another model or other files that are there", kind=bool),
                Option("dry_run", "say what would go, and send nothing", kind=bool),
            ],
            "card": [
                Option("license", "the Hub's name of a licence, such as apache-2.0; a model needs one", "NAME"),
                Option("also", "evaluations and runs for the card's table", "RUN", Path, (), nargs="+"),
                Option("dataset", "Hub id of the exported set that the model was trained and tested on", "ID"),
                Option("segmenter", "Hub id of the lung model, for a TB model's card or the page", "ID"),
                Option("classifier", "Hub id of the TB model, for the page", "ID"),
            ],
        },
        plans.plan_push,
    ),
    "pull": Command(
        "Fetch a model of this project from the Hub, every byte checked, and print its run folder.",
        ("cxm pull --model OWNER/chest-xray-lungs", "cxm pull --model OWNER/chest-xray-lungs --output runs/lungs"),
        plain(
            Option("model", "OWNER/NAME on the Hub", "ID", required=True),
            REVISION,
            Option("output", "folder to make (default: the Hub's cache)", "FOLDER", Path),
        ),
        plans.plan_pull,
    ),
    "export": Command(
        "Write X-rays as Parquet with a card, and push them to the Hub; or with --model, write a model as ONNX.",
        ("cxm export --data DATA --output chest-xrays", "cxm export --model runs/lungs --format onnx --output lungs"),
        {
            **options_of(ExportConfig, EXPORT_GROUPS),
            "model, in place of X-rays": [
                Option("model", "run folder or Hub id; --data then names X-rays to measure its export on", "RUN"),
                Option(
                    "format",
                    "format of the exported model: model.onnx and preprocessing.json (default: onnx)",
                    choices=("onnx",),
                ),
                Option("precision", "precision of its weights (default: fp32)", choices=("fp32", "fp16", "int8")),
                Option("revision", "branch, tag or commit of a model from the Hub (default: main)", "REV"),
            ],
        },
        plans.plan_export,
    ),
    "check-hub": Command(
        "Check the Hub itself: a tiny model and a tiny set go there, come back and are deleted.",
        ("cxm check-hub", "HF_HUB_DISABLE_XET=1 cxm check-hub --owner ORGANIZATION"),
        plain(Option("owner", "user or organization to make repositories of (default: you)", "NAME")),
        Call("hub_models.cli.check_hub", "check_hub", lambda _: print("all is well")),
    ),
    "benchmark dataset": Command(
        'Measure the dataset builder against `load_dataset("imagefolder")` on the same files.',
        ("cxm benchmark dataset --data DATA", "cxm benchmark dataset"),
        plain(replace(DATA, required=False, default="demo/phantoms")),
        Call("hub_models.benchmarks.dataset", "dataset_ratios", plans.print_ratios),
    ),
    "benchmark train": Command(
        "Measure the training loop against bare compute and the loop of transformers' examples, in some minutes.",
        ("cxm benchmark train", "cxm benchmark train --data DATA --task tb_classification --precision bf16"),
        plain(
            replace(DATA, help="folder that holds the X-rays (default: large phantoms)", required=False),
            Option("images", "count of such phantoms", "N", int, 24),
            Option("task", "what to learn", default=CHOICES["task"][0], choices=CHOICES["task"]),
            Option("model", "architecture, or folder with a config.json (default: that of make demo)", "NAME"),
            Option("image_size", "side in pixels (default: 256 for lungs, 224 for TB)", "N", int),
            Option("batch_size", "images in a step", "N", int, 8),
            Option("steps", "steps of an epoch (default: 2 for each core, 4 or more)", "N", int),
            Option("precision", "mixed precision", default="no", choices=("no", "bf16")),
        ),
        Call("hub_models.benchmarks.training", "training_ratios", plans.print_ratios),
    ),
    "benchmark adapt": Command(
        "Measure epochs with a frozen encoder and with LoRA against those that train all weights.",
        ("cxm benchmark adapt", "cxm benchmark adapt --task tb_classification --model google/vit-base-patch16-224"),
        plain(
            replace(DATA, help="folder that holds the X-rays (default: phantoms)", required=False),
            Option("task", "what to learn", default=CHOICES["task"][0], choices=CHOICES["task"]),
            Option("model", "architecture or folder (default: segformer-light for lungs, deit-tiny for TB)", "NAME"),
            Option("image_size", "side in pixels (default: 256 for lungs, 224 for TB)", "N", int),
            Option("batch_size", "images in a step", "N", int, 8),
            Option("steps", "steps of an epoch", "N", int, 8),
            Option("rank", "rank of LoRA", "N", int, 8),
        ),
        Call("hub_models.benchmarks.adaptation", "adaptation_ratios", plans.print_ratios),
    ),
    "benchmark predict": Command(
        "Measure reading X-rays against decoding, the models and transformers' pipeline, each alone.",
        ("cxm benchmark predict --segmenter runs/lungs --classifier runs/tb", "cxm benchmark predict --xrays 8"),
        plain(
            replace(SEGMENTER, default="demo/runs-phantoms/lungs"),
            replace(CLASSIFIER, default="demo/runs-phantoms/tb"),
            Option("xrays", "phantoms of native size", "N", int, 16, old="films"),
            Option("images", "small phantoms", "N", int, 10_000),
        ),
        Call("hub_models.benchmarks.prediction", "prediction_ratios", plans.print_ratios),
    ),
    "benchmark backend": Command(
        "Measure reading the same phantoms with onnxruntime against torch, on the CPU, in one process.",
        ("cxm benchmark backend --segmenter runs/lungs --classifier runs/tb", "cxm benchmark backend --xrays 8"),
        plain(
            replace(SEGMENTER, default="demo/runs-phantoms/lungs"),
            replace(CLASSIFIER, default="demo/runs-phantoms/tb"),
            Option("xrays", "phantoms of native size", "N", int, 16),
        ),
        Call("hub_models.benchmarks.backend", "backend_ratios", plans.print_ratios),
        extra="models",
    ),
    "benchmark scale": Command(
        "Measure what a prediction job of many X-rays takes besides reading them, with made-up rows.",
        ("cxm benchmark scale", "cxm benchmark scale --rows 10000000"),
        plain(Option("rows", "X-rays of the job", "N", int, 1_000_000)),
        Call("hub_models.benchmarks.scale", "scale_ratios", plans.print_ratios),
    ),
    "benchmark gpu": Command(
        "Measure what a GPU does in some minutes: training, memory, launches, reading, equality with the CPU.",
        ("cxm benchmark gpu", "cxm benchmark gpu --segmenter runs/lungs --classifier runs/tb --xrays 48"),
        plain(
            replace(SEGMENTER, default="bundled:lungs"),
            replace(CLASSIFIER, default="bundled:tb"),
            Option("xrays", "phantoms of native size", "N", int, 16),
            Option("steps", "steps of a training's epoch", "N", int, 16),
        ),
        Call("hub_models.benchmarks.gpu", "gpu_ratios", plans.print_ratios),
    ),
    "benchmark start": Command(
        "Measure the start of commands, reader and page against that of torch and transformers.",
        ("cxm benchmark start", "OMP_NUM_THREADS=1 cxm benchmark start"),
        {},
        Call("hub_models.benchmarks.start", "start_ratios", plans.print_ratios),
    ),
}
