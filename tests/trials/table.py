"""The table of trials, and what they share: phantoms, small models and a Hub."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

from loopback_hub import LoopbackHub

from hub_models.dataset.phantoms import write_phantoms
from trials import disk, files, hub, kills, soak
from trials.jobs import ROOT, Job, digests, of_predictions, of_run

TRAIN = "train --data {data} --output {{output}} --model segformer-light --from_scratch --image_size 32 --epochs 3"
TRAIN += " --batch_size 4 --checkpoint_steps 2 --tracker none"
TWO = "-m accelerate.commands.launch --config_file {root}/hub_models/training/launch/cpu_2_processes.yaml"
TWO += " --main_process_port 0 -m hub_models.cli"


class Workshop:
    """What trials share, made when it is first asked for.

    Attributes:
        folder: for all files.
        seed: of all random numbers.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self._open = folder, seed, ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def data(self) -> Path:
        """A set of phantoms."""
        return write_phantoms(self.folder / "phantoms", 12, 24, 128)

    @cached_property
    def xrays(self) -> list[Path]:
        """Its X-rays."""
        return sorted(self.data.rglob("CXR_png/*.png"))

    @cached_property
    def run(self) -> Path:
        """A finished run of a lung model."""
        job = Job(tuple(TRAIN.format(data=self.data).split()), of_run)
        job.reference(self.folder)
        return self.folder / "reference" / "train"

    @cached_property
    def hub(self) -> LoopbackHub:
        """A Hub."""
        return self._open.enter_context(LoopbackHub())

    def job(self, line: str, result: Callable = digests, launch: str = "") -> Job:
        """The job of a command, which uses the Hub as `alice`."""
        environment = self.hub.variables(self.hub.add_user("alice"), self.folder / "home")
        words = line.format(data=self.data, run=self.run).split()
        start = (sys.executable, *launch.format(root=ROOT).split()) if launch else ()
        return Job(tuple(words), result, environment, start)

    def kills(self, name: str, n: int, line: str, result: Callable = digests, launch: str = "") -> Iterator[str]:
        """The kills of a command."""
        return kills.kills(self.job(line, result, launch), n, self.seed, self.new(name))

    def new(self, name: str) -> Path:
        """A new folder."""
        folder = self.folder / name
        folder.mkdir()
        return folder

    def pushed(self, output: Path) -> dict[str, str]:
        """What the repository of an output's name holds."""
        entries = self.hub.repo(f"alice/{output.parent.name}").at("main").entries
        return {path: file.sha256 for path, file in entries.items() if path != "README.md"}


class Trial(NamedTuple):
    """A trial: name, how often it is done, and what yields "" for each time that was survived, else what happened."""

    name: str
    n: int
    run: Callable[[Workshop, int], Iterator[str]]


def _pull(shop: Workshop, n: int) -> Iterator[str]:
    from loopback_hub import clients_of

    from hub_models.hub.push import push_model

    with clients_of(shop.hub, shop.hub.add_user("alice"), shop.folder / "own"):
        push_model(shop.run, "alice/whole", license="mit")
    return shop.kills("pull", n, "pull --model alice/whole --output {{output}}")


PREDICT = "predict --data {data} --output {{output}} --segmenter {run} --overlays"
EXPORT = "export --data {data} --output {{output}}"
FORMATS = tuple(files.sound_files())
TRIALS = (
    Trial("kill of train", 24, lambda shop, n: shop.kills("train", n, TRAIN, of_run)),
    Trial("kill of train, two processes", 20, lambda shop, n: shop.kills("two", n, TRAIN, of_run, TWO)),
    Trial("kill of predict", 24, lambda shop, n: shop.kills("predict", n, PREDICT, of_predictions)),
    Trial("kill of export", 16, lambda shop, n: shop.kills("export", n, EXPORT)),
    Trial(
        "kill of push",
        16,
        lambda shop, n: shop.kills(
            "push", n, "push --model {run} --repo_id alice/{{name}} --license mit", shop.pushed
        ),
    ),
    Trial("kill of pull", 16, _pull),
    Trial(
        "full disk, train",
        10,
        lambda shop, n: disk.full_disks(shop.job(TRAIN, of_run), n, shop.seed, shop.new("disk-train")),
    ),
    Trial(
        "full disk, predict",
        6,
        lambda shop, n: disk.full_disks(shop.job(PREDICT, of_predictions), n, shop.seed, shop.new("disk-predict")),
    ),
    Trial(
        "full disk, export",
        6,
        lambda shop, n: disk.full_disks(shop.job(EXPORT), n, shop.seed, shop.new("disk-export")),
    ),
    Trial("fault of the Hub", 400, lambda shop, n: hub.faults(n, shop.seed, shop.run, shop.new("hub"))),
    *(Trial(f"damaged {one}", 2000, lambda shop, n, one=one: files.mutations(one, n, shop.seed)) for one in FORMATS),
    Trial(
        "soak of predict",
        5000,
        lambda shop, n: soak.predictions(n, shop.xrays, ["--segmenter", str(shop.run)], shop.folder / "soak"),
    ),
    Trial(
        "soak of the page",
        200,
        lambda shop, n: soak.page_reads(n, shop.xrays, ["--segmenter", str(shop.run)], shop.folder / "page"),
    ),
)
