"""Train a run and push it: what the Hub would refuse is refused before the training."""

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import broadcast_object_list

from hub_models.hub.push import Push, check_push, kind_of, push_model
from hub_models.hub.run_files import required_license
from hub_models.models.architectures import outline_at
from hub_models.models.tasks import TASKS
from hub_models.runs.config import TrainConfig, resolved
from hub_models.runs.data import resolve
from hub_models.runs.earlier_models import inherited_license
from hub_models.runs.launch import make_accelerator
from hub_models.runs.run_folder import RunFolder
from hub_models.training.train import train

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """Where a run goes once it is trained.

    Attributes:
        repo_id: OWNER/NAME on the Hub, or NAME to be the user's own.
        license: the Hub's name of a licence.
        private: whether only the owner sees the repository.
        segmenter: Hub id of the lung model, for a TB model of the lungs.
    """

    repo_id: str
    license: str
    private: bool = True
    segmenter: str | None = None

    def check_config(self, config: TrainConfig) -> None:
        """Raise ValueError where the config's run cannot be pushed as one model, with or without a segmenter."""
        if config.protocol == "folds" and config.fold is None:
            raise ValueError(f"push {self.repo_id} sends one model, but protocol folds trains five: pass --fold")
        if config.region == "lungs" and self.segmenter is None:
            raise ValueError("region lungs needs its lung model on the Hub: pass --push_segmenter <its Hub id>")
        if config.region == "image" and self.segmenter is not None:
            raise ValueError(
                f"push_segmenter {self.segmenter} is only for region lungs: leave it out, or change the region"
            )

    def command(self, run_folder: str | Path) -> str:
        """Return the command that pushes a finished run there."""
        words = ["cxm", "push", "--model", str(run_folder), "--repo_id", self.repo_id, "--license", self.license]
        words += ["--segmenter", self.segmenter] if self.segmenter else []
        return shlex.join(words + ([] if self.private else ["--public"]))


def train_and_push(config: TrainConfig, destination: Destination) -> Push | None:
    """Train the run of a config as `train` does, push it, and return what went; None off the main process.

    The main process first asks the Hub: login, name, visibility, licence, lung model, and what is there already.
    If the push fails after the training, the log says how to push the finished run.

    Raises:
        ValueError, OSError: as `train`, `check_push` and `push_model`.
        SystemExit: off the main process, where that one was refused.
    """
    destination.check_config(config)
    accelerator = make_accelerator()
    refusal: list[Exception | None] = [None]
    if accelerator.is_main_process:
        try:
            _check(resolve(config), destination)
        except (ValueError, OSError) as error:
            refusal = [error]
    if (refused := broadcast_object_list(refusal)[0]) is not None:
        raise refused if accelerator.is_main_process else SystemExit(1)
    train(config)
    if not accelerator.is_main_process:
        return None
    try:
        return push_model(
            config.output_dir,
            destination.repo_id,
            license=destination.license,
            private=destination.private,
            segmenter=destination.segmenter,
        )
    except BaseException:
        logger.error(
            "the run in %s is finished; push it with: %s", config.output_dir, destination.command(config.output_dir)
        )
        raise


def _check(config: TrainConfig, destination: Destination) -> None:
    """Raise the error with which a push of the resolved config's run would be refused."""
    required_license(destination.license, inherited_license(config), config.output_dir)
    kind = TASKS[config.task].kind
    name, size = resolved(config.model, "model"), resolved(config.image_size, "image_size")
    architecture = type(outline_at(kind, name, config.from_scratch, size)).__name__
    check_push(
        destination.repo_id,
        kind_of(config.task, [architecture]),
        license=destination.license,
        private=destination.private,
        segmenter=destination.segmenter,
        lungs_digest=RunFolder.read(config.segmenter).digest if config.segmenter else None,
    )
