"""What of a run would go to the Hub: all that a user needs, nothing of the trainer's machine, nothing at odds."""

import dataclasses
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hub_runs import edit
from PIL import Image
from safetensors.torch import load_file, save_file

from hub_models.hub import run_files as releases
from hub_models.hub.run_files import MAY_BE_SENT
from hub_models.hub_client.repository import FileContent
from hub_models.models.out_of_distribution import NAME_BEFORE, OUT_OF_DISTRIBUTION_NAME, OutOfDistribution
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import TrainConfig
from hub_models.runs.notes import CARD_NAME, NOTES_NAME
from hub_models.runs.run_folder import RunFolder

REPO = "alice/tb"


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run that a test can change."""
    return Path(shutil.copytree(finished_run, tmp_path / "tb"))


def release(folder: Path, *arguments: object, **options: object) -> dict[str, FileContent]:
    return releases.release(RunFolder.read(folder), *arguments, **options)


def written(files: dict, folder: Path) -> Path:
    """`folder`, filled as the repository would be."""
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(releases.bytes_of(source))
    return folder


def test_what_goes_is_a_whole_run(run: Path, tmp_path: Path) -> None:
    for name in ("optimizer.bin", "runs/events.out.tfevents.1", "checkpoints/step-1/random_states_0.pkl", "notes.txt"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(pickle.dumps({"a": 1}))
    files = release(run, REPO, "MIT")
    pictures = {"roc.png", "reliability.png", "probabilities.png", "saliency.png"}  # the last of phantoms only
    configs = {"config.json", "preprocessor_config.json", "train_config.json", "data.json", "results.json"}
    assert set(files) == {CARD_NAME, "model.safetensors"} | pictures | configs <= MAY_BE_SENT
    there = written(files, tmp_path / "there")
    card = (there / CARD_NAME).read_text()
    assert "license: mit\n" in card and f'"{REPO}"' in card and "## Notes" not in card
    image = Image.effect_noise((150, 90), 60)
    assert TrainedModel.from_run(there)(image) == TrainedModel.from_run(run)(image)
    mine, theirs = RunFolder.read(run), RunFolder.read(there)
    assert (theirs.data, theirs.model, theirs.base_model) == (mine.data, mine.model, None)
    assert theirs.results | {"config": 0} == mine.results | {"config": 0}
    assert release(there, REPO, "mit").keys() == files.keys()  # what was pulled can be pushed again
    again = written(release(there, REPO, "mit"), tmp_path / "again")
    assert all((again / name).read_bytes() == (there / name).read_bytes() for name in files)


def test_places_of_the_machine_stay_there(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(run / "train_config.json", lambda values: values.update(region="lungs", segmenter=str(tmp_path / "lungs")))
    edit(
        run / "results.json", lambda values: values["config"].update(region="lungs", segmenter=str(tmp_path / "lungs"))
    )
    edit(run / "config.json", lambda values: values["chest_xray_masks"].update(region="lungs"))
    there = written(release(run, REPO, "mit"), tmp_path / "there")
    assert "the card does not name the lung model that this model needs: pass --segmenter" in caplog.text
    caplog.clear()
    release(run, REPO, "mit", segmenter="alice/lungs")
    assert not caplog.text
    for path in there.rglob("*"):
        assert not path.is_file() or str(run.parent).encode() not in path.read_bytes(), path
    config, trained = TrainConfig.load(there), TrainConfig.load(run)
    named = {"data_dir": "DATA", "output_dir": "RUN", "segmenter": "LUNGS", "model": "ARCHITECTURE"}
    assert config == dataclasses.replace(trained, **named)
    assert json.loads((there / "results.json").read_text())["config"] == dataclasses.asdict(config)


def test_emissions_go_without_the_machine(run: Path, tmp_path: Path) -> None:
    lines = "timestamp,emissions,energy_consumed,longitude,cpu_model\n2026,0.25,1.5,13.4,Big\n2026,0.25,0.5,13.4,Big\n"
    (run / "emissions.csv").write_text(lines)
    files = release(run, REPO, "mit")
    assert files["emissions.csv"] == b"emissions,energy_consumed\n0.5,2.0\n"
    assert release(written(files, tmp_path / "there"), REPO, "mit")[CARD_NAME] == files[CARD_NAME]


@pytest.mark.slow
def test_pictures_of_xrays_of_patients_stay(make_run, finish, phantoms, tiny_segformer, tmp_path) -> None:
    options = {"model": str(tiny_segformer), "from_scratch": True, "image_size": 32}
    run = finish(make_run(TrainConfig(str(phantoms), str(tmp_path / "lungs"), **options)))
    assert {"overlays.png", "outlines.png", "dice.png"} <= release(run, "alice/lungs", "mit").keys()
    for name in ("data.json", "results.json"):
        edit(run / name, lambda values: values.pop("synthetic"))
    assert "overlays.png" not in release(run, "alice/lungs", "mit")
    there = written(release(run, "alice/lungs", "mit"), tmp_path / "there")
    image = Image.effect_noise((150, 90), 60)
    np.testing.assert_array_equal(TrainedModel.from_run(there)(image), TrainedModel.from_run(run)(image))


def test_notes_stand_in_a_card_that_is_made_again_for_each_push(run: Path, tmp_path: Path) -> None:
    plain = release(run, REPO, "mit")[CARD_NAME].decode()
    notes = "Read by *two* people.\n\n\n## Limits\n\n| AUROC |\n|---|\n| 0.999 |"  # as they stand
    (run / NOTES_NAME).write_text(f"\n{notes}\n")
    files = release(run, REPO, "mit")
    card = files[CARD_NAME].decode()
    body = plain[: plain.rindex("<!--")]
    assert card.startswith(f"{body}## Notes\n\n{notes}\n\n<!-- ") and files[NOTES_NAME] == run / NOTES_NAME
    there = written(files, tmp_path / "there")
    assert release(there, REPO, "mit")[CARD_NAME].decode() == card  # pulled and pushed again
    (there / CARD_NAME).write_bytes(card.replace("\n", "\r\n").encode())  # as some editors and clones have it
    other = release(there, "bob/tb", "cc-by-4.0")[CARD_NAME].decode()
    assert "license: cc-by-4.0\n" in other and '"bob/tb"' in other and REPO not in other and notes in other
    (there / NOTES_NAME).unlink()
    assert release(there, REPO, "mit")[CARD_NAME].decode() == plain
    (run / NOTES_NAME).write_text(f"See {run / 'more'}.")
    with pytest.raises(ValueError, match=f"of {run} would tell of {run} on this machine"):
        release(run, REPO, "mit")


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"## Limits\n", "## Limits\n\nRead by us.\n"),
        (r"^license: mit", "license: gpl"),
        (r"\Z", "Thanks.\n"),
        (r"<!--.*\n", ""),
    ],
)
def test_edited_card_is_not_lost(run: Path, pattern: str, replacement: str) -> None:
    card = release(run, REPO, "mit")[CARD_NAME].decode()
    edited, count = re.subn(pattern, replacement, card, count=1, flags=re.M)
    assert count == 1 and edited != card
    (run / CARD_NAME).write_text(edited)
    with pytest.raises(ValueError, match=f"{run / CARD_NAME} was edited.* {NOTES_NAME} beside it"):
        release(run, REPO, "mit")
    assert (run / CARD_NAME).read_text() == edited


def test_licence_must_be_chosen(run: Path) -> None:
    for name in (None, ""):
        with pytest.raises(ValueError, match="pass --license, such as apache-2.0, mit"):
            release(run, REPO, name)


def test_licence_of_a_bundled_model_is_that_of_its_heirs(run: Path) -> None:
    data = json.loads((run / "data.json").read_text()) | {"license": "cc-by-nc-sa-4.0"}
    (run / "data.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="pass --license cc-by-nc-sa-4.0"):
        release(run, REPO, "mit")
    assert "license: cc-by-nc-sa-4.0" in release(run, REPO, "CC-BY-NC-SA-4.0")[CARD_NAME].decode()


def test_weights_are_read_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    once = transformers.PreTrainedModel.from_pretrained.__func__

    def count(cls: type, *arguments: object, **options: object) -> object:
        loaded.append(cls)
        return once(cls, *arguments, **options)

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(count))
    release(run, REPO, "mit")
    assert len(loaded) == 1


@pytest.mark.parametrize("name", [OUT_OF_DISTRIBUTION_NAME, NAME_BEFORE])
def test_out_of_distribution_score_goes_too(run: Path, name: str) -> None:
    OutOfDistribution(np.zeros(2), np.eye(2), 1.0, 9).save(run)
    (run / OUT_OF_DISTRIBUTION_NAME).rename(run / name)
    assert release(run, REPO, "mit")[name] == run / name and name in MAY_BE_SENT


@pytest.mark.parametrize("name", ["results.json", "model.safetensors", "preprocessor_config.json", "data.json"])
def test_unfinished_run_is_refused(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name} in {run}"):
        release(run, REPO, "mit")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", lambda v: v["chest_xray_masks"].update(task="lung_segmentation"), "is of task lung"),
        ("results.json", lambda v: v.update(task="lung_segmentation"), "results.json is of task lung_segmentation"),
        ("config.json", lambda v: v["chest_xray_masks"].update(fit="pad"), "config.json has fit pad"),
        ("config.json", lambda v: v["chest_xray_masks"].update(region="lungs"), "config.json has region lungs"),
        ("config.json", lambda v: v.pop("chest_xray_masks"), "has no chest_xray_masks"),
        ("config.json", lambda v: v["id2label"].update({"1": "TB"}), "the labels in config.json are"),
        ("config.json", lambda v: v["label2id"].update(normal=1), "the labels in config.json are"),
        ("preprocessor_config.json", lambda v: v["size"].update(height=64), "preprocessor_config.json scales to"),
        ("config.json", lambda v: v["chest_xray_masks"].update(image_size=64), "the model takes 64"),
        ("preprocessor_config.json", lambda v: v.update(do_normalize=False, resample=0), "has other do_norm"),
        ("preprocessor_config.json", lambda v: v.update(resample=4), "other resample than this training writes"),
        ("preprocessor_config.json", lambda v: v.update(do_center_crop=True, crop_size=8), "has other do_center_crop"),
        ("preprocessor_config.json", lambda v: v.update(image_std=[9, 9, 9]), "has other image_std"),
    ],
)  # fmt: skip
def test_files_at_odds_are_refused(run: Path, name: str, change: Callable[[dict], object], said: str) -> None:
    edit(run / name, change)
    with pytest.raises(ValueError, match=said):
        release(run, REPO, "mit")


def test_image_processor_of_another_version_of_the_library_goes(run: Path) -> None:
    more = {"transformers_version": "9.9", "do_center_crop": False, "default_to_square": True}
    edit(run / "preprocessor_config.json", lambda values: values.update(more))
    release(run, REPO, "mit")


def test_weights_that_do_not_fit_are_refused(run: Path) -> None:
    path = run / "model.safetensors"
    weights = load_file(path)
    name = min(name for name in weights if name.endswith("weight"))
    for changed, said in (
        ({key: value for key, value in weights.items() if key != name}, f"does not fit config.json.*{name}"),
        (weights | {"more": torch.zeros(1)}, "does not fit config.json.*more"),
        (weights | {name: torch.zeros(1, 2, 3, 3)}, f"does not fit config.json.*{name}"),
        (weights | {name: weights[name] * float("nan")}, f"weights that are not finite \\({name}"),
    ):
        save_file(changed, path, {"format": "pt"})
        with pytest.raises(ValueError, match=said):
            release(run, REPO, "mit")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors in .* is damaged"):
        release(run, REPO, "mit")


def test_folder_of_all_folds_is_refused(run: Path) -> None:
    (run / "fold-0").mkdir()
    with pytest.raises(ValueError, match="pass one fold's folder"):
        release(run, REPO, "mit")
