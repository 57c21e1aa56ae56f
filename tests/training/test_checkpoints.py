import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from small_disk import largest_file

from hub_models.files import DiskFullError
from hub_models.training import checkpoints
from hub_models.training.checkpoints import (
    Progress,
    Stop,
    checkpoints_in,
    load_checkpoint,
    load_kept,
    save_checkpoint,
    save_kept,
)

LAUNCH = {"processes": 1, "mixed_precision": "no"}


def training(value: float) -> tuple[Accelerator, torch.nn.Module]:
    """An accelerator that holds a model whose weight is `value`, and its optimizer."""
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    model, _ = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    return accelerator, model


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_state_and_progress_come_back(tmp_path) -> None:
    accelerator, model = training(3.0)
    history = [{"loss": 0.9, "validation_dice": 0.75}, {"loss": 0.8, "validation_dice": 0.7}]
    progress = Progress(epoch=2, step=5, best=0.75, best_epoch=1, losses=[0.5, 0.25], history=history)
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "new", progress, 2, accelerator)
    assert names(tmp_path / "new") == ["epoch-00002-step-000005"]
    values = json.loads((tmp_path / "new" / "epoch-00002-step-000005" / "progress.json").read_text())
    assert values.pop("launch") == LAUNCH and Progress(**values) == progress
    drawn = torch.rand(3)
    torch.nn.init.zeros_(model.weight)
    assert load_checkpoint(tmp_path / "new", accelerator) == progress
    assert model.weight.item() == 3.0
    assert torch.equal(torch.rand(3), drawn)  # the same random numbers follow


def test_a_new_training_has_no_checkpoint(tmp_path) -> None:
    accelerator, model = training(3.0)
    for folder in (tmp_path, tmp_path / "absent"):
        assert load_checkpoint(folder, accelerator) == Progress(0, 0, None, 0)
    assert model.weight.item() == 3.0


def test_the_newest_are_kept(tmp_path) -> None:
    accelerator, model = training(0.0)
    for value, (epoch, step) in enumerate([(0, 9), (0, 10), (1, 0), (9, 900), (10, 0)]):
        torch.nn.init.constant_(model.weight, value)
        save_checkpoint(tmp_path, Progress(epoch, step), 2, accelerator)
    assert names(tmp_path) == ["epoch-00009-step-000900", "epoch-00010-step-000000"]
    assert load_checkpoint(tmp_path, accelerator) == Progress(10, 0)
    assert model.weight.item() == 4
    save_checkpoint(tmp_path, Progress(10, 0, 0.5), 1, accelerator)  # stopped twice at one step
    assert names(tmp_path) == ["epoch-00010-step-000000"]
    assert load_checkpoint(tmp_path, accelerator).best == 0.5


@pytest.mark.parametrize("place", ["state", "progress"])
def test_a_checkpoint_is_whole_or_absent(place: str, tmp_path, monkeypatch) -> None:
    accelerator, model = training(1.0)
    save_checkpoint(tmp_path, Progress(1), 2, accelerator)

    def fail(*args: object) -> None:
        if place == "state":
            (Path(args[0]) / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        if place == "state":
            patch.setattr(accelerator, "save_state", fail)
        else:
            patch.setattr(checkpoints, "write_json", fail)
        torch.nn.init.constant_(model.weight, 2.0)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(tmp_path, Progress(2), 2, accelerator)
    assert load_checkpoint(tmp_path, accelerator) == Progress(1)
    assert model.weight.item() == 1.0
    save_checkpoint(tmp_path, Progress(3), 2, accelerator)  # what was left does not matter
    assert names(tmp_path) == ["epoch-00001-step-000000", "epoch-00003-step-000000"]


STATE = (
    "model.safetensors",
    "optimizer.bin",
    "random_states_0.pkl",
    "progress.json",
    "digests.json",
    "kept.safetensors",
)
DAMAGES = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "deleted": lambda path: path.unlink(),
    "flipped": lambda path: path.write_bytes(flipped(path.read_bytes())),
}


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def make_two(folder: Path) -> tuple[Accelerator, torch.nn.Module]:
    """Two checkpoints, of weights 1 and 2, in whose epochs they were the ones to keep."""
    accelerator, model = training(0.0)
    for epoch in (1, 2):
        torch.nn.init.constant_(model.weight, float(epoch))
        save_kept(folder, model.state_dict(), accelerator)
        save_checkpoint(folder, Progress(epoch), 2, accelerator)
    torch.nn.init.zeros_(model.weight)
    return accelerator, model


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", STATE)
def test_damaged_checkpoint_is_passed_over_for_the_one_before(name: str, damage: str, tmp_path, caplog) -> None:
    accelerator, model = make_two(tmp_path)
    newest = tmp_path / "epoch-00002-step-000000"
    DAMAGES[damage](newest / name)
    for other in ("epoch-zzz", "epoch-99999-step-000000"):  # files, not checkpoints
        (tmp_path / other).touch()
    assert load_checkpoint(tmp_path, accelerator) == Progress(1)
    assert model.weight.item() == 1 and load_kept(tmp_path)["weight"].item() == 1
    said = f"{newest} is passed over: "
    assert (said if (name, damage) == ("digests.json", "flipped") else f"{said}{name} is ") in caplog.text
    save_checkpoint(tmp_path, Progress(1, 3), 2, accelerator)  # in whose place this one counts
    assert [path.name for path in checkpoints_in(tmp_path)] == ["epoch-00001-step-000000", "epoch-00001-step-000003"]


def test_no_whole_checkpoint_is_an_error_that_names_the_folder(tmp_path) -> None:
    accelerator, model = make_two(tmp_path)
    (tmp_path / "epoch-00001-step-000000" / "scheduler.bin").touch()  # not of this training
    assert load_checkpoint(tmp_path, accelerator) == Progress(2)
    (tmp_path / "epoch-00001-step-000000" / "digests.json").unlink()  # as those of version 0.2
    DAMAGES["flipped"](tmp_path / "epoch-00002-step-000000" / "optimizer.bin")
    torch.nn.init.zeros_(model.weight)
    with pytest.raises(ValueError, match="no checkpoint .* is whole") as caught:
        load_checkpoint(tmp_path, accelerator)
    assert all(name in str(caught.value) for name in ("optimizer.bin", "digests.json", f"delete {tmp_path}"))
    assert model.weight.item() == 0  # nothing was loaded


@pytest.mark.parametrize("size", [100, 1_100, 2_500])
def test_full_disk_leaves_the_checkpoint_before(size: int, tmp_path) -> None:
    accelerator, model = make_two(tmp_path)
    torch.nn.init.constant_(model.weight, 3.0)
    with largest_file(size), pytest.raises(DiskFullError, match=f"the disk of {tmp_path} is full"):
        save_checkpoint(tmp_path, Progress(3), 2, accelerator)
    assert names(tmp_path) == ["epoch-00001-step-000000", "epoch-00002-step-000000", "kept.safetensors"]
    assert load_checkpoint(tmp_path, accelerator) == Progress(2) and model.weight.item() == 2


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"processes": 2}, r"\(processes: 2, not 1\)"),
        ({"mixed_precision": "bf16"}, r"\(mixed_precision: 'bf16', not 'no'\)"),
        ({"processes": 2, "mixed_precision": "fp16"}, "processes: 2, not 1; mixed_precision: 'fp16', not 'no'"),
    ],
)
def test_another_launch_is_refused(other: dict, said: str, tmp_path, monkeypatch) -> None:
    accelerator, _ = training(1.0)
    save_checkpoint(tmp_path, Progress(1), 2, accelerator)
    monkeypatch.setattr(checkpoints, "launch_of", lambda accelerator: LAUNCH | other)
    with pytest.raises(ValueError, match=f"made by another launch .*{said}"):
        load_checkpoint(tmp_path, accelerator)


def test_best_is_replaced_in_one_step(tmp_path, monkeypatch) -> None:
    accelerator, _ = training(1.0)
    save_kept(tmp_path / "new", {"a": torch.ones(2), "b": torch.arange(6).view(2, 3).T}, accelerator)

    def fail(weights: dict, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", fail)
        with pytest.raises(OSError, match="disk full"):
            save_kept(tmp_path / "new", {"a": torch.zeros(2)}, accelerator)
    best = load_kept(tmp_path / "new")
    assert best["a"].tolist() == [1, 1] and best["b"].tolist() == [[0, 3], [1, 4], [2, 5]]
    save_kept(tmp_path / "new", {"a": torch.zeros(2, requires_grad=True)}, accelerator)
    assert load_kept(tmp_path / "new")["a"].tolist() == [0, 0]
    assert names(tmp_path / "new") == ["kept.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_and_the_former_handlers_come_back(number: signal.Signals) -> None:
    accelerator, former = Accelerator(cpu=True), signal.getsignal(number)
    with Stop().listening() as stop:
        assert not stop.requested and not stop.agreed(accelerator)
        os.kill(os.getpid(), number)
        assert stop.requested and stop.agreed(accelerator)
    assert signal.getsignal(number) is former


def test_a_second_interrupt_ends_at_once() -> None:
    former = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background
    with Stop().listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # batch systems repeat it: no reason to lose the checkpoint
        with pytest.raises(KeyboardInterrupt, match="stopped at once: the last checkpoint is kept"):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is former


def test_handlers_come_back_after_an_error() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="bad"), Stop().listening():
        raise ValueError("bad")
    assert signal.getsignal(signal.SIGTERM) is former


def test_a_thread_takes_no_signals() -> None:
    seen = []

    def work() -> None:
        with Stop().listening() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    former = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, former)]
