"""The command `cxm`: its help and its mistakes at once, one name for one thing, its config files, its install."""

import dataclasses
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml
from installs import OUTSIDE, build_wheel
from launch import ROOT, config_of, python

import chest_xray_masks
import hub_models
from hub_models.cli import main
from hub_models.cli.commands import (
    CHOICES,
    COMMANDS,
    EXPORT_GROUPS,
    METRICS,
    SPACE_HARDWARE,
    SPLIT_NAMES,
    TRAIN_GROUPS,
)
from hub_models.cli.config_file import read_config
from hub_models.cli.options import Call
from hub_models.hub.export_config import ExportConfig
from hub_models.hub.metric_space import METRIC_EXAMPLES
from hub_models.hub.space import HARDWARE
from hub_models.models import tasks
from hub_models.models.architectures import ARCHITECTURES, FAMILIES
from hub_models.runs.config import TrainConfig

HEAVY = ("torch", "transformers", "datasets", "matplotlib", "numpy", "huggingface_hub", "accelerate")
TRAINING_ONLY = (
    "monai",
    "sklearn",
    "matplotlib",
    "rich",
    "hub_models.training.train",
    "hub_models.evaluation.evaluate",
)
PLACES = ["--data", "d", "--output", "o"]
SCRIPTS = {
    path.stem: re.search(r'main\(\["([\w-]+)"', path.read_text())[1] for path in (ROOT / "scripts").glob("*.py")
}


def ended(capsys: pytest.CaptureFixture[str], *line: object) -> tuple[object, str, str]:
    """Exit status, output and errors of `cxm LINE`, run within this process."""
    code: object = 0
    try:
        main([str(word) for word in line])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_no_help_and_no_mistake_loads_a_library() -> None:
    """In one fresh process for all commands, whose options are added and whose lines are parsed."""
    lines = [[*name.split(), word] for name in COMMANDS for word in ("--help", "--wrong")]
    code = f"""
import contextlib, io, sys
from hub_models.cli import main
for line in {[["--help"], ["benchmark"], ["trian"], *lines]}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(line)
        except SystemExit:
            pass
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert python("-c", code).stdout == "[]\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_opens_with_a_sentence_and_two_examples(name: str, capsys) -> None:
    code, out, _ = ended(capsys, *name.split(), "--help")
    usage, _, summary, _, head, *rest = out.splitlines()
    assert code == 0 and usage.startswith(f"usage: cxm {name} ")
    assert summary.endswith(".") and ". " not in summary and head == "examples:"
    examples = [line for line in rest[: rest.index("")] if line]
    assert len(examples) == 2 and all("cxm " in one or "hub_models.training" in one for one in examples)
    for example in examples:
        words = re.split(r"cxm |-m hub_models\.", example.replace("training", "train", 1))[-1].split(" > ")[0].split()
        options, plan = COMMANDS[name].parser(name).parse(words[len(name.split()) :]), COMMANDS[name].plan
        if isinstance(plan, Call) and "--config" not in words:  # the function takes what the options give
            function = getattr(importlib.import_module(plan.module), plan.function)
            inspect.signature(function).bind(**plan.arguments(options))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_call_their_command(script: str) -> None:
    name = {"benchmark": "benchmark train"}.get(script, SCRIPTS[script])
    done = python(f"scripts/{script}.py", *name.split()[1:], "--wrong", check=False)
    assert (done.returncode, done.stdout) == (2, "") and "unknown option --wrong" in done.stderr
    assert done.stderr.startswith(f"cxm {name}: error: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --epoch 1", "cxm train: error: unknown option --epoch: did you mean --epochs?"),
        ("train --learning-rat=1", "cxm train: error: unknown option --learning-rat: did you mean --learning_rate?"),
        ("train -epochs 1", "cxm train: error: the following arguments are required: --data, --output"),
        ("train --zzz", "cxm train: error: unknown option --zzz: cxm train --help lists them"),
        ("train --epochs many", "cxm train: error: --epochs must be a whole number, got 'many'"),
        ("train --from_scratch perhaps", "--from_scratch must be true or false, got 'perhaps'"),
        (
            "train --data d --output o --image_size 300",
            "must be a multiple of 32 or 14, 2048 at most, got 300",
        ),
        ("train --config nowhere.yaml", "no config nowhere.yaml: pass a YAML or JSON file, or a run folder"),
        ("trian", "cxm: error: unknown command trian: did you mean train?"),
        ("benchmark strat", "cxm benchmark: error: unknown command strat: did you mean start?"),
        ("pull --model a/b --output .", "cxm pull: error: . is there already"),
        ("export --data x --output y --dry-run", "--dry_run is only for a push: pass --repo_id too"),
        ("launch-config one", "no launch config one: pass one of cpu, cpu_2_processes, fsdp, many_gpus, one_gpu"),
        ("launch-config", "no launch config is named: pass one of cpu, "),
    ],
)
def test_mistake_is_one_line_that_names_the_way_out(line: str, message: str, capsys) -> None:
    code, out, err = ended(capsys, *line.split())
    assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("train", "--data_dir d --output-dir o", "--data d --output o"),
        ("train", "--data d --output o --image-size 64 --learning-rate=1e-3", "--data=d --output=o --image_size=64"),
        ("audit", "--data_dir d", "--data d"),
        ("show", "--data-dir d --config MC", "--data d --config_name MC"),
        ("evaluate", "--model m --data_dir d", "--model m --data d"),
        ("predict", "--images x --output o --config c", "--data x --output o --config-name c"),
        ("push", "--run r --repo_id a/b", "--model r --repo-id a/b"),
        ("export", "--data_dir d --output o", "--data d --output o"),
        ("benchmark dataset", "--data_dir d", "--data d"),
    ],
)
def test_spellings_of_one_thing(name: str, old: str, new: str, capsys) -> None:
    parser = COMMANDS[name].parser(name)
    before, after = (vars(parser.parse(line.split())) for line in (old, new))
    assert {key: before[key] for key in after} == after
    hidden = {word.partition("=")[0].replace("-", "_")[2:] for word in old.split() if word.startswith("--")}
    for option in hidden & set(parser.old_names):
        assert f"--{option} " not in parser.format_help()


def test_push_is_private_unless_public() -> None:
    words = ["--model", "r", "--repo_id", "a/b"]
    options = [COMMANDS["push"].parser("push").parse([*words, *more]) for more in ([], ["--public"])]
    assert [one.private for one in options] == [True, False] and "public" not in vars(options[0])


def test_pull_fills_a_folder_of_its_own(tmp_path: Path, monkeypatch, capsys) -> None:
    cached, output = tmp_path / "cached", tmp_path / "deep" / "run"
    cached.mkdir()
    (cached / "config.json").symlink_to(Path(__file__))  # as in the Hub's cache
    monkeypatch.setattr("hub_models.hub.push.pull_model", lambda *_: cached)
    assert ended(capsys, "pull", "--model", "a/b", "--output", output)[1] == f"{output}\n"
    assert [(path.name, path.is_symlink()) for path in output.rglob("*")] == [("config.json", False)]
    assert list(output.parent.iterdir()) == [output]


def test_pull_of_what_is_here_names_its_folder(tmp_path: Path, capsys) -> None:
    for model, place in ((str(tmp_path), str(tmp_path)), ("bundled:lungs", "weights/lungs")):
        status, _, said = ended(capsys, "pull", "--model", model)
        assert status == 2 and f"{model} is on this machine already, in " in said and place in said


def test_every_field_is_an_option_with_help_and_its_true_default(capsys) -> None:
    for kind, groups in ((TrainConfig, TRAIN_GROUPS), (ExportConfig, EXPORT_GROUPS)):
        names = sorted(name for group in groups.values() for name in group)
        assert names == sorted(field.name for field in dataclasses.fields(kind))
    out = " ".join(ended(capsys, "train", "--help")[1].split())
    assert "None" not in out and "(default: 256 for lungs, 224 for TB)" in out and "(default: 30)" in out
    for title in TRAIN_GROUPS:
        assert f" {title}: " in out
    for task in tasks.TASKS.values():  # as the help says
        assert f"{task.image_size} for {'lungs' if task.learns_masks else 'TB'}" in out
        assert f"{task.model} for {'lungs' if task.learns_masks else 'TB'}" in _help("model")
    names = _help("model")
    lungs, tb = names.split("for lungs: ")[1].split("; for TB: ")
    for name, (family, _) in ARCHITECTURES.items():
        known = lungs if family in FAMILIES["segmentation"] else tb
        assert name in known or re.fullmatch(r"nvidia/mit-b[0-5]", name)


def _help(name: str) -> str:
    return next(field.metadata["help"] for field in dataclasses.fields(TrainConfig) if field.name == name)


def test_choices_are_those_of_the_data() -> None:
    assert CHOICES["config_name"] == ("all", *chest_xray_masks.SITES)
    assert (*chest_xray_masks.SPLITS, "all") == SPLIT_NAMES


def test_options_read_every_kind_of_field() -> None:
    line = "--from_scratch --augment none --learning_rate 0.001 --model m --protocol folds --fold 3"
    wanted = {"from_scratch": True, "augment": "none", "learning_rate": 1e-3, "model": "m", "fold": 3}
    assert config_of([*PLACES, *line.split()]) == TrainConfig("d", "o", protocol="folds", **wanted)
    assert config_of([*PLACES, "--from_scratch", "False"]) == TrainConfig("d", "o")


@pytest.mark.parametrize("form", ["json", "yaml", "run folder"])
def test_config_file_gives_values_that_options_override(form: str, tmp_path: Path) -> None:
    trained = TrainConfig("d", "o", epochs=3, learning_rate=1e-5, from_scratch=True, protocol="folds", fold=2)
    values = dataclasses.asdict(trained) | {"device": "cuda", "duration_seconds": 12.5}  # as a run records them
    path = tmp_path / {"json": "c.json", "yaml": "c.yaml", "run folder": "train_config.json"}[form]
    path.write_text(yaml.safe_dump(values) if form == "yaml" else json.dumps(values))
    source = str(tmp_path if form == "run folder" else path)
    assert config_of(["--config", source]) == trained
    given = ["--config", source, "--output", "other", "--epochs", "5", "--from_scratch", "false"]
    assert config_of(given) == dataclasses.replace(trained, output_dir="other", epochs=5, from_scratch=False)


def test_config_file_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: d\noutput: o\nlearning-rate: 1e-3\nimage_size: 64\naugment: none\nmodel: null\n")
    expected = TrainConfig("d", "o", image_size=64, learning_rate=1e-3, augment="none")
    assert config_of(["--config", str(path)]) == expected


def test_config_file_of_an_old_run_is_read_by_its_old_names(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "data_dir: d\noutput_dir: o\nwarmup_share: 0.2\nregion: found_lungs\nsegmenter: s\ntask: tb_classification\n"
    )
    expected = TrainConfig("d", "o", "tb_classification", warmup_fraction=0.2, region="lungs", segmenter="s")
    assert config_of(["--config", str(path)]) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch: 3", "unknown key epoch: did you mean epochs?"),
        ("zzz: 3", "unknown key zzz$"),
        ("epochs: 3.5", "epochs must be a whole number, got 3.5"),
        ("epochs: yes", "epochs must be a whole number, got True"),
        ("model: 3", "model must be text, got 3"),
        ("[3]", "holds no keys with values"),
        ("a: b: c", "is not YAML"),
    ],
)
def test_config_file_names_key_and_value(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{said}"):
        read_config(path, TrainConfig)


@pytest.mark.parametrize("path", sorted((ROOT / "scripts" / "accelerate").iterdir()), ids=lambda path: path.stem)
def test_launch_config_prints_the_file_that_a_clone_uses(path: Path, capsys) -> None:
    code, out, _ = ended(capsys, "launch-config", path.stem)
    assert code == 0 and out == path.read_text() and yaml.safe_load(out)["num_processes"] >= 1
    assert path.is_symlink() and not path.readlink().is_absolute()


def test_versions_are_one(capsys) -> None:
    version = chest_xray_masks.__version__
    assert hub_models.__version__ == version and ended(capsys, "--version")[1] == f"cxm {version}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    for module in ("hub_models", "hub_models.cli"):  # as accelerate launch -m starts them
        assert python("-m", module, "--version").stdout == f"cxm {version}\n"


def test_public_names_load_on_first_use() -> None:
    assert all(getattr(hub_models, name) is not None for name in hub_models.__all__)
    assert hub_models.TrainConfig is TrainConfig
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        hub_models.nothing  # noqa: B018


def test_reader_loads_nothing_of_training() -> None:
    code = f"import sys, hub_models.predict.reader; print([name for name in {TRAINING_ONLY} if name in sys.modules])"
    assert python("-c", code).stdout == "[]\n"


DATA_ONLY = """
import sys
for name in ("torch", "transformers", "accelerate", "monai", "sklearn", "scipy", "matplotlib", "rich", "evaluate"):
    sys.modules[name] = None
from hub_models.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (["--help"], 0, "usage: cxm COMMAND"),
        (["train", "--help"], 0, "usage: cxm train"),
        (["launch-config", "cpu"], 0, "use_cpu: true"),
        (["show", "--config_name", "MC"], 0, "'patient_id'"),
        (["audit"], 1, "error: cxm audit needs torch: pip install 'chest-xray-masks[models]'"),
        (["predict", "--segmenter", "x", "--output", "o", "--data", "d"], 1, "error: cxm predict needs scipy: "),
        (["app", "--segmenter", "x"], 1, "error: cxm app needs torch: pip install 'chest-xray-masks[app]'"),
    ],
)
def test_install_for_the_data_only(line: list[str], status: int, said: str, phantoms: Path) -> None:
    data = ["--data", str(phantoms)] if line[0] in ("show", "audit") and "--help" not in line else []
    done = python("-c", DATA_ONLY, *line, *data, check=False)
    assert done.returncode == status and said in done.stdout + done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with this project's wheel; other packages are this environment's."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    venv.create(folder / "venv", with_pip=False)
    program = folder / "venv" / "bin"
    install = ["--python", str(program / "python"), "install", "--no-deps", str(build_wheel(folder))]
    subprocess.run([*pip, *install], check=True, cwd=folder, env=os.environ | OUTSIDE)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"])  # behind the wheel's own files
    return program


@pytest.mark.slow
def test_wheel_does_all_outside_the_clone(installed: Path, phantoms: Path, finished_run: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": "", "PATH": f"{installed}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def run(*command: object) -> str:
        line = [str(word) for word in command]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("cxm", "--help").startswith("usage: cxm") and run("cxm", "--version").startswith("cxm ")
    code = f"""
import chest_xray_masks, hub_models, evaluate
from datasets import load_dataset
from hub_models.metrics import evaluate_module
assert "site-packages" in hub_models.__file__ and {str(installed.parent)!r} in chest_xray_masks.__file__
rows = load_dataset("chest_xray_masks", "MC", data_dir={str(phantoms)!r}, split="train")
print(len(rows), len(chest_xray_masks.load("MC", data_dir={str(phantoms)!r}, split="train")))
(found,) = hub_models.ChestXrayReader(classifier={str(finished_run)!r}).read(rows[0]["image"])
print(0 < found.probability < 1)
print(evaluate.load(evaluate_module("lung_overlap")).compute(predictions=[[[1]]], references=[[[1]]])["dice"])
print(evaluate.load(evaluate_module("screening")).compute(predictions=[0.9, 0.1], references=[1, 0])["auroc"])
"""
    counts, *rest = run(installed / "python", "-c", code).split("\n", 1)
    assert len(set(counts.split())) == 1 and rest == ["True\n1.0\n1.0\n"]
    (tmp_path / "cpu.yaml").write_text(run("cxm", "launch-config", "cpu"))
    launch = (installed / "python", "-m", "accelerate.commands.launch", "--config_file", "cpu.yaml")
    config = {"model": "segformer-light", "from_scratch": True, "image_size": 32, "epochs": 1, "tracker": "none"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    run(*launch, "-m", "hub_models.training", "--data", phantoms, "--output", "run", "--config", "run.yaml")
    assert (tmp_path / "run" / "results.json").is_file()


def test_choices_are_those_of_the_work() -> None:
    assert SPACE_HARDWARE == HARDWARE and tuple(METRIC_EXAMPLES) == METRICS


def test_export_is_of_the_set_or_of_a_model(capsys) -> None:
    for line, named in (
        (("--data", "d", "--output", "o", "--precision", "int8"), "--precision"),
        (("--model", "m", "--public"), "--public"),
        (("--model", "m", "--repo_id", "you/x"), "--repo_id"),
        (("--model", "m", "--precision", "fp64"), "fp64"),
        ((), "--data"),
    ):
        code, out, said = ended(capsys, "export", *line)
        assert code == 2 and named in said and not out
    parser = COMMANDS["export"].parser("export")
    options = parser.parse(["--model", "nowhere", "--format", "onnx", "--output", "o"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        COMMANDS["export"].prepare(parser, options)()
