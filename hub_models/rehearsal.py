"""A push and a pull of a tiny model, made for it, on whatever Hub the clients use: what no other test can say."""

import logging
import secrets
import tempfile
from pathlib import Path

import numpy as np
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from PIL import Image

from hub_models.config import TrainConfig
from hub_models.hub import pull_model, push_model
from hub_models.phantom import write_phantoms
from hub_models.predictor import Predictor
from hub_models.remote import plain_errors, retried, status_of, whoami_writer
from hub_models.repository import Repository, folder_files
from hub_models.train import fit

logger = logging.getLogger(__name__)

TINY = {"model": "segformer-light", "from_scratch": True, "image_size": 32, "epochs": 1, "tracker": "none"}


def rehearse(owner: str | None = None) -> None:
    """Nothing, if the Hub does all that pushes and pulls rely on, under the name of `owner` or the user's own.

    The repository is private, has a name that nobody uses, and is deleted at the end, come what may.

    Raises:
        ValueError: the Hub does something else.
        PermissionError, ConnectionError: as `push_model`.
    """
    owner = whoami_writer(HfApi(), owner)
    repository = Repository(HfApi(), f"{owner}/chest-xray-masks-check-{secrets.token_hex(4)}")
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        logger.info("training a tiny model")
        fit(TrainConfig(str(write_phantoms(folder / "phantoms", 12, 18, 64)), str(folder / "run"), **TINY))
        try:
            _rehearse(repository, folder / "run", folder / "cache")
        finally:
            with plain_errors("deleting", repository.url):
                retried(repository.api.delete_repo, repository.id, missing_ok=True)
            logger.info("deleted %s", repository.url)


def _rehearse(repository: Repository, run: Path, cache: Path) -> None:
    first, sent = _push(repository, run, "v1")
    _require(_push(repository, run, "v1")[0] == first, "an unchanged run made a second commit")
    pulled = pull_model(repository.id, "v1", cache_dir=cache)
    _require_files(sent, pulled)
    noise = Image.effect_noise((150, 90), 60)
    here, there = (Predictor.from_run(one)(noise) for one in (run, pulled))
    _require(np.array_equal(here, there), "the model that came back says something else")
    _require_private(repository)
    (run / "dice.png").unlink()  # a file that has to go, and with it a line of the card
    _, changed = _push(repository, run, "v2")
    _require_files(changed, pull_model(repository.id, cache_dir=cache))
    _require_files(sent, pull_model(repository.id, "v1", cache_dir=cache))
    _require_refusal(repository, first)


def _push(repository: Repository, run: Path, version: str) -> tuple[str, dict[str, bytes]]:
    """Commit of a push, and what went."""
    push = push_model(run, repository.id, license="apache-2.0", version=version)
    logger.info("%s", push)
    return push.commit, {name: one if isinstance(one, bytes) else one.read_bytes() for name, one in push.files.items()}


def _require(kept: bool, fault: str) -> None:
    if not kept:
        raise ValueError(f"the Hub is not as expected: {fault}")


def _require_files(sent: dict[str, bytes], pulled: Path) -> None:
    """Raise ValueError unless what was pulled is what was sent, to the byte."""
    came = {name: path.read_bytes() for name, path in folder_files(pulled).items()}
    _require(came == sent, f"of {len(sent)} files, {sum(came.get(name) == sent[name] for name in sent)} came back")
    logger.info("%d files came back", len(came))


def _require_private(repository: Repository) -> None:
    """Raise ValueError if somebody without a token sees the repository."""
    try:
        retried(HfApi(token=False).repo_info, repository.id)
    except RepositoryNotFoundError:
        logger.info("nobody else sees it")
    else:
        raise ValueError(f"the Hub is not as expected: everyone sees {repository.url}, which is to be private")


def _require_refusal(repository: Repository, stale: str) -> None:
    """Raise ValueError if the Hub takes a commit on top of one that is no longer the head."""
    try:
        change = CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n")
        retried(repository.api.create_commit, repository.id, [change], commit_message="Late", parent_commit=stale)
    except HfHubHTTPError as error:
        _require(status_of(error) in (409, 412), f"it refuses a late commit with {status_of(error)}")
        logger.info("a late commit is refused (%d)", status_of(error))
    else:
        raise ValueError("the Hub is not as expected: it takes a commit on top of an old one")
