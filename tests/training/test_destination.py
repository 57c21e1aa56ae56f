"""A training that ends with a push: refused before it begins where the Hub would refuse it after."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hub_runs import AsUser, content, said_by
from launch import accelerate, config_of
from loopback_hub import LoopbackHub

from hub_models.cli.commands import COMMANDS
from hub_models.hub.push import push_model
from hub_models.hub_client.bundled import BUNDLED_LICENSE
from hub_models.runs.config import TrainConfig
from hub_models.runs.run_folder import RunFolder
from hub_models.training import destination as module
from hub_models.training.destination import Destination, train_and_push


@pytest.fixture
def config(phantoms: Path, tiny_segformer: Path, tmp_path: Path) -> TrainConfig:
    settings = {"image_size": 32, "epochs": 1, "from_scratch": True, "tracker": "none"}
    return TrainConfig(str(phantoms), str(tmp_path / "run"), model=str(tiny_segformer), **settings)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is a failure of the test."""
    monkeypatch.setattr(module, "train", lambda _: pytest.fail("the run was trained"))


def test_run_is_trained_and_pushed_and_the_same_call_pushes_nothing_new(
    hub: LoopbackHub, as_user: AsUser, config: TrainConfig
) -> None:
    with as_user():
        first = train_and_push(config, Destination("m", "mit"))
        again = train_and_push(config, Destination("alice/m", "mit"))
        assert hub.repo("alice/m").private and hub.repo("alice/m").files() == content(Path(config.output_dir))
    assert (first.is_new, again.is_new, again.commit) == (True, False, first.commit)


def test_what_the_hub_would_refuse_is_refused_before_the_training(
    hub: LoopbackHub, as_user: AsUser, config: TrainConfig, untrained: None
) -> None:
    hub.add_user("bob")
    other = b'{"architectures": ["X"], "chest_xray_masks": {"task": "lung_segmentation"}}'
    hub.create("alice/public", {}, private=False)
    hub.create("alice/other", {"config.json": other}, private=True)
    hub.create("alice/notes", {"notes.txt": b"1"}, private=True)
    for user, repo_id, license, kind, said in (
        ({"name": None}, "alice/m", "mit", PermissionError, "needs a login"),
        ({"role": "read"}, "alice/m", "mit", PermissionError, "is for reading"),
        ({}, "bob/m", "mit", PermissionError, "alice may not write to bob"),
        ({}, "alice/m", "my-own", ValueError, "my-own"),
        ({}, "alice/m n", "mit", ValueError, "alice/m n"),
        ({}, "alice/public", "mit", ValueError, "alice/public is not private"),
        ({}, "alice/other", "mit", ValueError, "(lung_segmentation by X, not lung_segmentation by Segformer"),
        ({}, "alice/notes", "mit", ValueError, "holds notes.txt"),
    ):
        before, push = set(hub.repos), partial(train_and_push, config, Destination(repo_id, license))
        with as_user(**user):
            assert said in said_by(kind, push, hub)
        assert set(hub.repos) == before and not Path(config.output_dir).exists()


def test_options_that_cannot_be_pushed_are_refused_without_the_hub(config: TrainConfig, untrained: None) -> None:
    tb = {"task": "tb_classification", "region": "lungs", "segmenter": "runs/lungs"}
    for options, segmenter, said in (
        ({"protocol": "folds"}, None, "pass --fold"),
        (tb, None, "pass --push_segmenter"),
        ({}, "alice/lungs", "push_segmenter alice/lungs is only for region lungs"),
    ):
        with pytest.raises(ValueError, match=said):
            train_and_push(dataclasses.replace(config, **options), Destination("a/m", "mit", segmenter=segmenter))
    heir = dataclasses.replace(config, task="tb_classification", model="bundled:tb", image_size=96, from_scratch=False)
    with pytest.raises(ValueError, match=f"pass --license {BUNDLED_LICENSE}"):
        train_and_push(heir, Destination("a/m", "mit"))


def test_lung_model_on_the_hub_must_be_that_of_the_training(
    hub, as_user, config, make_run, finish, phantoms, tiny_segformer, tiny_resnet, tmp_path, untrained
) -> None:
    def lungs(name: str, seed: int) -> Path:
        place = str(tmp_path / name)
        return finish(make_run(dataclasses.replace(config, output_dir=place, keep="last"), seed))

    ours, others = lungs("ours", 1), lungs("others", 2)
    options = {"task": "tb_classification", "region": "lungs", "segmenter": str(ours), "model": str(tiny_resnet)}
    tb = dataclasses.replace(config, **options)
    with as_user():
        push_model(others, "alice/others", license="mit")
        destination = Destination("alice/tb", "mit", segmenter="alice/others")
        said = said_by(ValueError, lambda: train_and_push(tb, destination), hub)
        assert RunFolder.read(ours).digest[:16] in said and "which is not alice/others" in said
        assert ("model", "alice/tb") not in hub.repos


def test_push_that_fails_after_the_training_says_how_to_push_the_run(
    hub: LoopbackHub, as_user: AsUser, config: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    train = module.train

    def train_while_somebody_takes_the_name(config: TrainConfig) -> None:
        train(config)
        hub.create("alice/m", {}, private=False)

    monkeypatch.setattr(module, "train", train_while_somebody_takes_the_name)
    with as_user(), pytest.raises(ValueError, match="is not private"):
        train_and_push(config, Destination("alice/m", "mit"))
    command = f"cxm push --model {config.output_dir} --repo_id alice/m --license mit"
    assert caplog.messages[-1].endswith(f"push it with: {command}")
    assert (Path(config.output_dir) / "results.json").is_file()


def test_command_line_is_checked_before_anything_is_loaded() -> None:
    command = COMMANDS["train"]
    line = ["--data", "d", "--output", "o"]
    for words, said in (
        (["--push", "a/m"], "a push to a/m needs a licence"),
        (["--license", "mit"], "--license is only for a push"),
        (["--public"], "--public is only for a push"),
        (["--push_segmenter", "a/l"], "--push_segmenter is only for a push"),
    ):
        with pytest.raises(ValueError, match=said):
            command.plan(command.parser("train").parse([*line, *words]))
    pushed = ["--push", "a/m", "--license", "mit", "--public"]
    assert config_of([*line, *pushed]) == config_of(line)  # a run's config says nothing of where it goes


@pytest.mark.slow
def test_one_command_trains_and_pushes(hub: LoopbackHub, as_user: Callable, config: TrainConfig) -> None:
    words = ["--data", config.data_dir, "--output", config.output_dir, "--model", config.model, "--from_scratch"]
    words += ["--image_size", 32, "--epochs", 1, "--tracker", "none", "--license", "mit"]
    hub.create("alice/public", {}, private=False)
    with as_user():
        refused = accelerate("-m", "hub_models.training", *words, "--push", "public", processes=2, check=False)
        assert refused.returncode and "alice/public is not private" in refused.stderr
        assert not Path(config.output_dir).exists()
        done = accelerate("-m", "hub_models.training", *words, "--push", "m", processes=2)
        commit = hub.repo("alice/m").branches["main"][:7]
        shown = f"pushed to {hub.endpoint}/alice/m (private), branch main, commit {commit}"
        assert [line for line in done.stdout.splitlines() if line.startswith("pushed to")] == [shown]
        assert hub.repo("alice/m").files() == content(Path(config.output_dir))
    assert len(hub.repo("alice/m").commits) == 2
