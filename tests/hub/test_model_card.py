"""Cards of runs that were really trained: every number in them is looked up in the run's files, none is believed."""

import dataclasses
import datetime
import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from card_text import plain_numbers, sections, tables
from hub_runs import edit
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from launch import config_of
from loopback_hub.cards import faults_of
from PIL import Image

from hub_models.evaluation.evaluate import evaluate_run
from hub_models.evaluation.pictures import PICTURES
from hub_models.hub import model_card as cards
from hub_models.hub.benchmark import Benchmark
from hub_models.hub.limits import limits_of
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import TrainConfig
from hub_models.runs.run_folder import RunFolder
from hub_models.training.train import train

REPO = "somebody/some-model"
# Heading of a column to its metric in results.json and its decimals.
METRICS = {
    "Dice": ("dice", 3),
    "median Dice": ("dice_median", 3),
    "IoU": ("iou", 3),
    "HD95, mm": ("hd95_mm", 1),
    "HD95, % of the diagonal": ("hd95_percent", 1),
    "AUROC": ("auroc", 3),
    "average precision": ("average_precision", 3),
    "sensitivity": ("sensitivity", 3),
    "specificity": ("specificity", 3),
    "specificity at the threshold of 90 % sensitivity": ("specificity_at_90_sensitivity", 3),
    "Brier": ("brier", 3),
    "ECE": ("ece", 3),
    "saliency in the lungs": ("saliency_in_lungs", 3),
    "area of the lungs": ("lungs_fraction", 3),
}
NOT_ON_THE_HUB = ("saliency_in_lungs", "lungs_fraction")
ON_THE_HUB = {"auroc": "roc_auc", "brier": "brier_score"}
SITES = ["Montgomery", "Shenzhen"]
SECTIONS = ["Use", "Intended use", "Out of scope", "Data", "Training", "Results", "Across sites"]
SECTIONS += ["Operating point and calibration", "Subgroups", "Limits", "Environment"]


@pytest.fixture(scope="module")
def runs(phantoms, tiny_segformer, tiny_resnet, tmp_path_factory) -> dict[str, Path]:
    """Finished runs by name, trained for ten epochs at the most, and an evaluation of one."""
    root = tmp_path_factory.mktemp("trainers_machine")
    shared = {"data_dir": str(phantoms), "image_size": 32, "from_scratch": True, "tracker": "none", "batch_size": 4}
    lungs = {"model": str(tiny_segformer), "epochs": 10, "learning_rate": 5e-3}
    tb = {"task": "tb_classification", "model": str(tiny_resnet), "epochs": 1, "keep": "last"}
    wanted = {
        "lungs": lungs,
        "more": {"model": str(root / "lungs"), "from_scratch": False, "epochs": 1},
        "sz": lungs | {"protocol": "shenzhen_to_mc", "epochs": 5},
        "tb": tb,
        "found": tb | {"region": "lungs", "segmenter": str(root / "lungs"), "balance": "weights"},
    }
    for name, options in wanted.items():
        train(TrainConfig(output_dir=str(root / name), **shared | options))
    evaluate_run(root / "lungs", phantoms, split="validation", views=2)
    folders = {name: root / name for name in wanted}
    assert read(folders["lungs"])["metrics"]["all"]["dice"]["value"] > 0.5  # metrics worth a card
    return folders | {"again": root / "lungs" / "evaluation" / "default-validation-views-2"}


@pytest.fixture
def copy(runs, tmp_path) -> Callable[[str], Path]:
    """What copies a run, so that a test can change it."""
    return lambda name: Path(shutil.copytree(runs[name], tmp_path / name))


@pytest.fixture
def of_patients(copy) -> Callable[[str], Path]:
    """What copies a run and makes it pass for one of real X-rays: without the mark that phantoms leave."""

    def make(name: str) -> Path:
        folder = copy(name)
        for file in ("data.json", "results.json"):
            edit(folder / file, lambda values: values.pop("synthetic"))
        return folder

    return make


def model_card(folder: Path, *arguments: object, **options: object) -> ModelCard:
    return cards.model_card(RunFolder.read(folder), *arguments, **options)


def card_pictures(folder: Path) -> list[str]:
    return cards.card_pictures(RunFolder.read(folder))


def read(folder: Path, name: str = "results.json") -> dict:
    return json.loads((folder / name).read_text())


def is_metric(text: str, metric: dict, digits: int) -> bool:
    """Whether a cell says a metric and its interval, each within half a unit of its last decimal."""
    if metric["value"] is None:
        return text == "–"
    numbers = re.fullmatch(r"(\S+?)(?: \[(\S+), (\S+)\])?", text).groups()
    known = [metric[name] for name in ("value", "low", "high")]
    return all(
        (said is None) == (true is None)
        and (said is None or (len(said.split(".")[1]) == digits and abs(float(said) - true) <= 0.5001 * 10**-digits))
        for said, true in zip(numbers, known, strict=True)
    )


def key_of(label: str, metrics: dict) -> str:
    names = (label, *(f"{kind}: {label}" for kind in ("site", "sex", "finding")))
    names += tuple(label.replace(f"{kind} ", f"{kind}: ") for kind in ("age", "activity"))
    (key,) = [key for key in metrics if key in names]
    return key


def check_groups(headings: list[str], rows: list[list[str]], results: dict, wanted: set[str]) -> None:
    """Every cell of a table of groups, and that it holds the wanted groups."""
    seen = set()
    for row in rows:
        cells = dict(zip(headings, row, strict=True))
        key = key_of(cells.pop("group" if "group" in cells else "the reading says"), results["metrics"])
        seen.add(key)
        group = results["metrics"][key]
        assert int(cells.pop("X-rays")) == group.get("cases", group["n"])
        assert int(cells.pop("patients", group["patients"])) == group["patients"]
        for heading, how in (("WHO minimum at the stored threshold", "met"), ("at the best one", "reachable")):
            if heading in cells:
                assert cells.pop(heading) == ("yes" if results["who_triage_minimum"]["groups"][key][how] else "no")
        assert cells
        for heading, text in cells.items():
            name, digits = METRICS[heading]
            assert is_metric(text, group[name], digits), (key, heading, text, group[name])
    assert seen == wanted


def check_across(headings: list[str], rows: list[list[str]], folders: list[Path], trained: list[Path]) -> None:
    """Every cell of the table across sites: three rows of each folder that tested two sites, one of one site."""
    left = list(rows)
    for folder, by in zip(folders, trained, strict=True):
        results, ids = read(folder), read(by, "data.json")["train"]
        sites = [site for site in SITES if f"site: {site}" in results["metrics"]]
        for label in sites if len(sites) == 1 else [*sites, "all"]:
            cells = dict(zip(headings, left.pop(0), strict=True))
            group = results["metrics"][key_of(label, results["metrics"])]
            learned = " and ".join(
                site for site, start in zip(SITES, "MC", strict=True) if any(id[0] == start for id in ids)
            )
            assert cells.pop("trained on (X-rays)") == f"{learned} ({len(ids)})"
            assert cells.pop("tested on").split(", ")[0] == label and int(cells.pop("X-rays")) == group["n"]
            assert cells.pop("commit") == commit(results) and cells.pop("model")
            for heading, text in cells.items():
                name, digits = METRICS[heading]
                assert is_metric(text, group[name], digits), (folder, heading, text)
    assert not left


def commit(results: dict) -> str:
    whole, plus = results["commit"].removesuffix("+"), results["commit"].endswith("+")
    return whole[:7] + "+" * plus


def check_data(headings: list[str], rows: list[list[str]], data: dict) -> None:
    assert headings == ["split", "X-rays", "Montgomery", "Shenzhen", "normal", "tuberculosis"]
    assert [row[0] for row in rows] == ["train", "validation", "test"]
    for split, *counts in rows:
        ids = data[split]
        by_site = [len([id for id in ids if id.startswith(start)]) for start in ("MCU", "CHN")]
        by_label = [len([id for id in ids if id.endswith(end)]) for end in ("_0", "_1")]
        assert [int(count) for count in counts] == [len(ids), *by_site, *by_label]


def check_worst(headings: list[str], rows: list[list[str]], results: dict) -> None:
    names = {"X-ray": "id", "Dice": "dice", "label (1 is tuberculosis)": "label", "probability": "probability"}
    assert len(rows) == len(results["worst"]) > 0
    for row, known in zip(rows, results["worst"], strict=True):
        assert {names[heading] for heading in headings} == set(known)
        for heading, text in zip(headings, row, strict=True):
            true = known[names[heading]]
            assert abs(float(text) - true) <= 0.0005001 if isinstance(true, float) else text == str(true)


CASES = [("lungs", ("sz", "again")), ("more", ()), ("sz", ()), ("tb", ()), ("found", ("tb",))]


@pytest.mark.parametrize(("name", "also"), CASES)
def test_every_table_says_what_the_files_say(name: str, also: tuple[str, ...], runs) -> None:
    folder, others = runs[name], [runs[other] for other in also]
    results, splits = read(folder), sections(model_card(folder, REPO, "mit", others))
    sites = {key for key in results["metrics"] if key.startswith("site: ")}
    groups = sites if len(sites) == 1 else sites | {"all"}
    said = {key for key, group in results["metrics"].items() if "cases" in group}
    assert {key.split(":")[0] for key in said} == {"finding", "activity"}
    checks = {
        "Data": [lambda *table: check_data(*table, read(folder, "data.json"))],
        "Results": [lambda *table: check_groups(*table, results, groups)],
        "Subgroups": [
            lambda *table: check_groups(*table, results, set(results["metrics"]) - sites - said - {"all"}),
            lambda *table: check_groups(*table, results, said),
        ],
        "Limits": [lambda *table: check_worst(*table, results)],
        "Environment": [lambda headings, rows: check_environment(rows, results)],
    }
    if results["task"] == "tb_classification":
        checks["Operating point and calibration"] = checks["Results"] * 2
    if "saliency_in_lungs" in results["metrics"]["all"]:
        checks["Limits"] += checks["Results"]
    if also or name == "sz":  # the last is across sites by itself
        by = {"again": runs["lungs"]}
        tested = [folder, *others]
        trained = [folder, *(by.get(other, runs[other]) for other in also)]
        checks["Across sites"] = [lambda *table: check_across(*table, tested, trained)]
    for heading, text in splits.items():  # no table goes unchecked
        found = tables(text)
        assert len(found) == len(checks.get(heading, [])), heading
        for check, table in zip(checks.get(heading, []), found, strict=True):
            check(*table)
    if not also and name != "sz":
        assert splits["Across sites"].strip().startswith("Not stated here")


def check_environment(rows: list[list[str]], results: dict) -> None:
    said = dict(rows)
    assert said.pop("commit of chest-xray-masks") == results["commit"]
    assert {name: said.pop(name.replace("_", " ")) for name in results["launch"]} == {
        name: str(value) for name, value in results["launch"].items()
    }
    assert said == results["versions"]


@pytest.mark.parametrize("name", ["lungs", "tb", "found"])
def test_every_number_in_the_words_is_of_the_files(name: str, runs) -> None:
    folder, card = runs[name], model_card(runs[name], REPO, "mit")
    splits = sections(card)
    results, data, settings = read(folder), read(folder, "data.json"), read(folder, "config.json")["chest_xray_masks"]
    main = {"dice": "Dice", "auroc": "AUROC"}[results["main_metric"]]
    said = re.search(rf"{main} on X-rays .*?: (.*)\. \*\*", splits[""])[1]
    for text, label in zip(re.split(r"(?<=\)), ", said), [*SITES, "all"], strict=True):
        shown, n = re.fullmatch(rf"(.*) on {label} \(n (\d+)\)", text).groups()
        group = results["metrics"][key_of(label, results["metrics"])]
        assert is_metric(shown, group[results["main_metric"]], 3) and int(n) == group["n"]
    everything = results["metrics"]["all"]
    assert f"On the test split, {everything['n']} X-rays of {everything['patients']} patients." in splits["Results"]
    count = sum(len(data[split]) for split in ("train", "validation", "test"))
    assert f"{count} of the {count} X-rays" in splits[""]
    kept, epochs = results["training"]["kept_epoch"], results["training"]["epochs"]
    value = float(re.search(rf"Of {len(epochs)} epochs, epoch {kept} was kept, .*: (\S+)\)", splits["Training"])[1])
    assert value == pytest.approx(epochs[kept - 1][f"validation_{results['main_metric']}"], abs=0.0005001)
    assert "images of 32 x 32 pixels" in splits[""]
    if name != "lungs":
        words = splits["Operating point and calibration"]
        for setting, said in (("threshold", "from a probability of"), ("temperature", "by the temperature")):
            shown = float(re.search(rf"{said} (\d+\.\d+)", words)[1])
            assert shown == pytest.approx(settings[setting], abs=5e-4)
        assert "sensitivity 90 % and specificity 70 %" in words
    groups = [results["metrics"][key_of(label, results["metrics"])] for label in (*SITES, "all")]
    metrics = [group[results["main_metric"]][one] for group in groups for one in ("value", "low", "high")]
    metrics += [value, *(settings[one] for one in ("threshold", "temperature"))]
    known = {f"{one:.3f}" for one in metrics if one is not None}
    known |= {str(one) for group in groups for one in (group["n"], group["patients"])}
    known |= {str(one) for one in (count, kept, len(epochs), settings["image_size"])}
    known |= {"90", "70"} if name != "lungs" else set()
    known |= {"95", "8", "16"}  # % of intervals, and bits
    known |= {".999"} if name == "lungs" else {".01"}  # between a pipeline's backends: tests/models/test_backends.py
    assert plain_numbers(card.text) <= known  # and there is no other


@pytest.mark.parametrize("name", ["lungs", "more", "sz", "tb", "found"])
def test_card_is_whole_and_says_nothing_of_the_trainers_machine(name: str, runs) -> None:
    card = model_card(runs[name], REPO, "cc-by-nc-sa-4.0")
    splits = sections(card)
    is_tb = read(runs[name])["task"] == "tb_classification"
    assert list(splits)[1:] == [one for one in SECTIONS if is_tb or not one.startswith("Operating")]
    assert all(len(text.split()) > 8 for text in splits.values())
    assert "{{" not in str(card) and "{%" not in str(card) and "None" not in card.text and "\n\n\n" not in card.text
    assert not any(place in str(card) for place in ("trainers_machine", str(runs[name].parents[1]), "/tmp"))
    assert splits[""].strip().startswith("# some-model")
    assert "not a medical device" in splits[""]


@pytest.mark.parametrize("name", ["lungs", "tb"])
def test_metadata_and_model_index_come_back_from_the_library(name: str, runs, tmp_path) -> None:
    model_card(runs[name], REPO, "cc-by-nc-sa-4.0").save(tmp_path / "README.md")
    card, results = ModelCard.load(tmp_path / "README.md"), read(runs[name])
    kind = {"lungs": "image-segmentation", "tb": "image-classification"}[name]
    assert (card.data.license, card.data.library_name) == ("cc-by-nc-sa-4.0", "transformers")
    assert (
        card.data.pipeline_tag == kind
        and card.data.language == "en"
        and "chest-x-ray" in card.data.tags
        and card.data.base_model is None
    )
    assert card.data.metrics[0] == {"lungs": "dice", "tb": "roc_auc"}[name]
    index = eval_results_to_model_index("some-model", card.data.eval_results)
    assert index == yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])["model-index"]
    assert model_index_to_eval_results(index) == ("some-model", card.data.eval_results)
    stated = {(one.dataset_config, one.metric_type): one for one in card.data.eval_results}
    assert len(stated) == len(card.data.eval_results)
    wanted = set(results["metrics"]["all"]) - set(NOT_ON_THE_HUB)
    names = {name: digits for name, digits in METRICS.values() if name in wanted}
    for config, label in (("MC", "Montgomery"), ("Shenzhen", "Shenzhen"), ("all", "all")):
        group = results["metrics"][key_of(label, results["metrics"])]
        for metric, digits in names.items():
            one = stated.pop((config, ON_THE_HUB.get(metric, metric)), None)
            if group[metric]["value"] is None or (config, metric) == ("all", "hd95_mm"):  # of Montgomery's only
                assert one is None
                continue
            assert one.metric_value == pytest.approx(group[metric]["value"], abs=0.5001 * 10**-digits)
            low, high, n = re.search(r"95 % interval (\S+) to (\S+), n (\d+)\)$", one.metric_name).groups()
            assert is_metric(f"{one.metric_value:.{digits}f} [{low}, {high}]", group[metric], digits)
            assert int(n) == group["n"]
            assert (one.dataset_type, one.dataset_split, one.task_type) == ("synthetic_chest_xrays", "test", kind)
    assert not stated


TASK = {"lungs": "lung_segmentation", "tb": "tb_classification"}


@pytest.mark.parametrize("name", ["lungs", "tb"])
def test_results_of_a_benchmark_are_its_tasks(name: str, runs) -> None:
    run = RunFolder.read(runs[name])
    tasks = [TASK[name] + suffix for suffix in ("_mc", "_shenzhen", "")]
    benchmark = Benchmark("somebody/xrays", "5" * 40, frozenset(tasks))
    ((path, text),) = cards.eval_results(run, REPO, benchmark).items()
    assert path == ".eval_results/chest_xray_masks.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(text))
    main, metrics = {"lungs": "dice", "tb": "auroc"}[name], run.results["metrics"]
    groups = [metrics[key_of(site, metrics)] for site in ("Montgomery", "Shenzhen", "all")]
    defined = {task: group for task, group in zip(tasks, groups, strict=True) if group[main]["value"] is not None}
    assert [one.task_id for one in entries] == list(defined) and "_" + TASK[name].split("_")[1] in entries[-1].task_id
    for one, group in zip(entries, defined.values(), strict=True):
        assert one.value == pytest.approx(group[main]["value"], abs=0.000501)
        assert (one.dataset_id, one.dataset_revision) == ("somebody/xrays", "5" * 40)
        assert datetime.date.fromisoformat(one.date) == datetime.date.fromisoformat(run.results["date"])
        assert one.source_url == f"https://huggingface.co/{REPO}/blob/main/results.json"
        assert f"of {group['n']} X-rays, synthetic" in one.notes
    only_all = benchmark._replace(tasks=frozenset(tasks[2:]))
    (found,) = cards.eval_results(run, REPO, only_all).values()
    assert [one.task_id for one in parse_eval_result_entries(yaml.safe_load(found))] == tasks[2:]
    assert cards.eval_results(run, REPO, benchmark._replace(tasks=frozenset({"other"}))) == {}
    elsewhere = RunFolder(run.path, dataclasses.replace(run.config, protocol="idiap"))
    assert cards.eval_results(elsewhere, REPO, benchmark) == {}  # its test split is another


def test_card_links_the_set_and_the_code(runs) -> None:
    card = model_card(runs["lungs"], REPO, "mit", dataset="somebody/xrays")
    assert card.data.datasets == ["somebody/xrays"] and faults_of(str(card)) == []
    assert model_card(runs["lungs"], REPO, "mit").data.datasets is None
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    address = project["urls"]["Repository"]
    assert f"[chest-xray-masks]({address})" in card.text
    assert f'pip install "{project["name"]}[models] @ git+{address}"' in card.text


def test_real_x_rays_have_terms_and_citations(of_patients) -> None:
    folder = of_patients("lungs")
    card = model_card(folder, REPO, "mit")
    text, data = str(card), read(folder, "data.json")
    assert "synthetic" not in text.lower() and "Phantom" not in text
    dois = ("10.3978/j.issn.2223-4292.2014.11.20", "10.1109/TMI.2013.2290491", "10.1109/TMI.2013.2284099")
    terms = ("1803.01199", "asks not to share the set outside one's group", "CC0", "CC BY-NC-SA 4.0")
    assert all(needed in text for needed in (*dois, *terms))
    learned = [id for split in ("train", "validation") for id in data[split] if id.startswith("CHN")]
    assert f"this model was trained on {len(learned)} of them" in text
    assert {one.dataset_type for one in card.data.eval_results} == {"chest_xray_masks"}
    tb = str(model_card(of_patients("tb"), REPO, "mit"))
    assert "CC BY-NC-SA" not in tb and "1803.01199" not in tb and "TMI.2013.2284099" in tb  # learned from no mask
    found = str(model_card(of_patients("found"), REPO, "mit"))
    assert f"the lung model that this one needs was trained on {len(learned)} of them" in found


def test_synthetic_x_rays_are_not_taken_for_patients(runs, copy) -> None:
    first = sections(model_card(runs["tb"], REPO, "mit"))
    assert first[""].split("\n\n")[1].startswith("> **Trained on synthetic X-rays: of no use on patients.**")
    assert "Citations" not in first and "CC0" not in str(first) and "Kaggle" not in str(first)
    folder = copy("tb")
    edit(folder / "data.json", lambda data: data.update(synthetic=2))  # among those of patients
    mixed = str(model_card(folder, REPO, "mit"))
    assert "> **Trained on synthetic X-rays" in mixed and "2 of the 60 X-rays" in mixed and "CC0" in mixed


def test_no_picture_of_a_patient_goes_with_a_card(runs, of_patients) -> None:
    assert card_pictures(runs["lungs"]) == ["dice.png", "outlines.png", "overlays.png"]  # of phantoms all
    assert set(card_pictures(runs["tb"])) == set(PICTURES["tb_classification"])
    assert card_pictures(of_patients("tb")) == ["roc.png", "reliability.png", "probabilities.png"]
    folder = of_patients("found")
    edit(folder / "results.json", lambda results: results.update(synthetic=results["images"] - 1))
    assert card_pictures(folder) == ["roc.png", "reliability.png", "probabilities.png"]  # one may be of a patient
    folder = of_patients("lungs")
    assert (folder / "overlays.png").is_file()
    assert card_pictures(folder) == ["dice.png", "outlines.png"]
    assert re.findall(r"!\[.*?\]\((.*?)\)", model_card(folder, REPO, "mit").text) == ["dice.png", "outlines.png"]
    (folder / "outlines.png").unlink()  # as in a run from before there were any
    assert "outlines.png" not in model_card(folder, REPO, "mit").text


def test_older_tb_run_gets_a_card_without_what_it_does_not_say(copy) -> None:
    folder = copy("tb")
    assert "Where it looks" in model_card(folder, REPO, "mit").text

    def forget(results: dict) -> None:
        del results["worst"], results["training"]
        for group in results["metrics"].values():
            del group["saliency_in_lungs"], group["lungs_fraction"]

    edit(folder / "results.json", forget)
    (folder / "saliency.png").unlink()
    card = model_card(folder, REPO, "mit")
    splits = sections(card)
    assert tables(splits["Limits"]) == [] and "Two sites" in splits["Limits"]
    for absent in ("gets wrong", "was kept", "Where it looks", "saliency"):
        assert absent not in card.text


def test_where_a_model_looks_is_told_where_it_was_measured(copy) -> None:
    folder = copy("tb")
    metrics = read(folder)["metrics"]
    for number, group in enumerate(metrics.values()):
        group["saliency_in_lungs"] = {"value": 0.5 + number / 100, "low": 0.25, "high": 0.75}
        group["lungs_fraction"] = {"value": None if number else 0.3, "low": None, "high": None}
    edit(folder / "results.json", lambda results: results.update(metrics=metrics))
    card = model_card(folder, REPO, "mit")
    _, (headings, rows) = tables(sections(card)["Limits"])
    assert headings == ["group", "X-rays", "patients", "saliency in the lungs", "area of the lungs"]
    assert [row[3:] for row in rows] == [
        ["0.510 [0.250, 0.750]", "–"],
        ["0.520 [0.250, 0.750]", "–"],
        ["0.500 [0.250, 0.750]", "0.300"],
    ]


def test_who_minimum_is_told_for_both_thresholds(copy) -> None:
    folder = copy("tb")
    verdicts = {"site: Montgomery": (True, False), "site: Shenzhen": (False, True), "all": (True, True)}

    def judge(results: dict) -> None:
        for key, (met, reachable) in verdicts.items():
            results["who_triage_minimum"]["groups"][key] = {"reachable": reachable, "met": met}

    edit(folder / "results.json", judge)
    (headings, rows), _ = tables(sections(model_card(folder, REPO, "mit"))["Operating point and calibration"])
    assert headings[-2:] == ["WHO minimum at the stored threshold", "at the best one"]
    assert [(row[0], *row[-2:]) for row in rows] == [
        ("Montgomery", "yes", "no"),
        ("Shenzhen", "no", "yes"),
        ("all", "yes", "yes"),
    ]


@pytest.mark.parametrize("name", ["lungs", "more", "sz", "tb", "found"])
def test_commands_ask_for_the_run_again(name: str, runs) -> None:
    block = re.search(r"```bash\n(.*?)```", model_card(runs[name], REPO, "mit").text, re.S)[1]
    commands = block.replace("\\\n", "").strip().splitlines()
    trained = TrainConfig.load(runs[name])
    assert len(commands) == (2 if name == "more" else 1)  # the run that it started from is at hand
    launcher, script, *line = re.split(r"(-m hub_models.training)", commands[-1])
    assert launcher == "accelerate launch --mixed_precision no --num_processes 1 " and script
    repeated = config_of(line[0].split())
    places = {"data_dir": "DATA", "output_dir": "RUN", "segmenter": repeated.segmenter, "model": repeated.model}
    assert repeated == dataclasses.replace(trained, **places)
    assert repeated.model == ("START" if name == "more" else "ARCHITECTURE")
    assert repeated.segmenter == ("LUNGS" if name == "found" else None)
    if name == "more":
        assert "--output START " in commands[0] and "--model ARCHITECTURE" in commands[0]


def test_checkpoint_of_the_hub_is_named(copy) -> None:
    folder = copy("tb")
    change = {"from_scratch": False, "model": "microsoft/resnet-18"}
    edit(folder / "train_config.json", lambda config: config.update(change))
    card = model_card(folder, REPO, "mit")
    assert card.data.base_model == "microsoft/resnet-18" and "Fine-tuned from `microsoft/resnet-18`" in card.text
    assert "--model microsoft/resnet-18" in card.text
    edit(folder / "data.json", lambda data: data.update(model="0" * 64))  # a run folder, of another working folder
    card = model_card(folder, REPO, "mit")
    assert card.data.base_model is None and "Started from another run" in card.text and "--model START" in card.text
    edit(folder / "data.json", lambda data: data.pop("model"))
    edit(folder / "train_config.json", lambda config: config.update(model="/home/somebody/secret"))
    card = model_card(folder, REPO, "mit")
    assert card.data.base_model is None and "secret" not in str(card) and "--model START" in card.text
    edit(folder / "train_config.json", lambda config: config.update(change | {"from_scratch": True}))
    card = model_card(folder, REPO, "mit")
    assert card.data.base_model is None and "random weights in the architecture `microsoft/resnet-18`" in card.text


@pytest.mark.parametrize("name", ["lungs", "tb"])
def test_lines_of_use_run(name: str, runs, phantoms, tmp_path, monkeypatch) -> None:
    folder, xray = runs[name], next(phantoms.rglob("CXR_png/CHN*.png"))
    code, of_16_bits = re.findall(r"```python\n(.*?)```", model_card(folder, REPO, "mit").text, re.S)
    assert "hub_models" not in of_16_bits
    assert len(code.split("\n")) <= 10 and REPO in code and "hub_models" not in code
    shutil.copy(xray, tmp_path / "xray.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.replace(REPO, str(folder)), names)
    trained = TrainedModel.from_run(folder)
    if name == "lungs":
        with Image.open("lungs.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask) > 127, trained(xray))
    else:
        assert names["probability"] == pytest.approx(trained(xray), abs=1e-5)
        assert names["threshold"] == trained.settings.threshold


def test_model_that_a_pipeline_does_not_serve_says_so(runs, copy) -> None:
    use = sections(model_card(runs["found"], REPO, "mit"))["Use"]
    assert "**`transformers` alone refuses this model:**" in use and "from transformers" not in use
    assert f'ChestXrayReader(segmenter="somebody/LUNGS", classifier="{REPO}")' in use
    assert read(runs["found"], "data.json")["segmenter"][:16] in use
    named = sections(model_card(runs["found"], REPO, "mit", segmenter="somebody/lungs"))["Use"]
    assert f'ChestXrayReader(segmenter="somebody/lungs", classifier="{REPO}")' in named and "LUNGS" not in named
    with pytest.raises(ValueError, match="sees whole X-rays, got segmenter somebody/lungs: leave it out"):
        model_card(runs["tb"], REPO, "mit", segmenter="somebody/lungs")
    folder = copy("lungs")
    edit(folder / "config.json", lambda config: config["chest_xray_masks"].update(fit="pad"))
    use = sections(model_card(folder, REPO, "mit"))["Use"]
    assert "padded" in use and "from transformers" not in use and "reading.mask" in use
    assert f'ChestXrayReader(segmenter="{REPO}")' in use
    folder = copy("tb")
    edit(folder / "config.json", lambda config: config["chest_xray_masks"].update(fit="pad"))
    use = sections(model_card(folder, REPO, "mit"))["Use"]
    assert f'ChestXrayReader(classifier="{REPO}")' in use and "reading.probability" in use


def test_carbon_is_told_where_it_was_tracked(copy) -> None:
    folder = copy("lungs")
    assert "Carbon" not in sections(model_card(folder, REPO, "mit"))
    lines = ["timestamp,duration,emissions,energy_consumed", "a,1,0.0012345,0.003", "b,1,0.001,0.001"]
    (folder / "emissions.csv").write_text("\n".join(lines))
    card = model_card(folder, REPO, "mit")
    ((_, rows),) = tables(sections(card)["Carbon"])
    assert rows == [["CO2 equivalent, kg", "0.00223"], ["energy, kWh", "0.004"]]
    said = ModelCard(str(card)).data.co2_eq_emissions
    assert said["emissions"] == pytest.approx(2.2345) and said["source"] == "CodeCarbon"  # the Hub wants grams


def test_folders_that_have_no_card_are_refused(runs, copy, tmp_path) -> None:
    (tmp_path / "folds" / "fold-0").mkdir(parents=True)
    (copy("lungs") / "results.json").unlink()
    lungs = runs["lungs"]
    for folder, also, kind, said in (
        (tmp_path / "folds", (), ValueError, "folds holds all folds and no model of its own: pass one fold's folder"),
        (tmp_path, (), FileNotFoundError, "no train_config.json in .*: pass a folder that cxm train made"),
        (tmp_path / "lungs", (), FileNotFoundError, "no results.json in .*: pass the folder of a finished run"),
        (lungs, [runs["tb"]], ValueError, "is for tb_classification, .* for lung_segmentation: leave it out"),
        (runs["sz"], [runs["again"]], ValueError, "evaluation of another model .*: pass that model's run folder"),
        (lungs, [lungs / "evaluation"], FileNotFoundError, "no results.json in"),
    ):
        with pytest.raises(kind, match=said):
            model_card(folder, REPO, "mit", also)


def test_others_are_told_apart_in_the_table_across_sites(runs) -> None:
    also = [runs["sz"], runs["again"], runs["more"]]
    (headings, rows) = tables(sections(model_card(runs["lungs"], REPO, "mit", also))["Across sites"])[0]
    assert headings[:3] == ["model", "trained on (X-rays)", "tested on"]
    told = [(row[0], row[2]) for row in rows]
    assert told[:3] == [("this one", label) for label in (*SITES, "all")]
    assert told[3] == ("another (differs in epochs)", "Montgomery")
    assert told[4:7] == [("this one", f"{label}, validation, views 2") for label in (*SITES, "all")]
    assert told[7][0] == "another (differs in from_scratch, epochs, learning_rate)"


@pytest.mark.parametrize("name", ["lungs", "tb"])
def test_limits_are_those_that_the_page_shows(name: str, runs) -> None:
    splits, data = sections(model_card(runs[name], REPO, "mit")), read(runs[name], "data.json")
    scope, known = limits_of(TASKS[read(runs[name])["task"]].kind, data)
    for heading, sentences in (("Out of scope", scope), ("Limits", known)):
        assert [line[2:] for line in splits[heading].splitlines() if line[:2] == "* "] == list(sentences)
