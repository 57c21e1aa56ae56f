"""A push and a pull of a tiny model and set, made for it, on whatever Hub the clients use: what no test can say."""

import logging
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetsError
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from PIL import Image

from hub_models.dataset.phantoms import write_phantoms
from hub_models.hub.dataset_export import ExportConfig, export
from hub_models.hub.push import pull_model, push_model
from hub_models.hub_client.repository import Repository, folder_files
from hub_models.hub_client.requests import plain_errors, retried, status_of, whoami_writer
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import TrainConfig
from hub_models.training.train import train

logger = logging.getLogger(__name__)

TINY = {"model": "segformer-light", "from_scratch": True, "image_size": 32, "epochs": 1, "tracker": "none"}


def check_hub(owner: str | None = None) -> None:
    """Nothing, if the Hub does all that pushes and pulls rely on, under the name of `owner` or the user's own.

    The repositories, of a model and of a data set, are private, have a name that nobody uses, and are deleted at the
    end, come what may.

    Raises:
        ValueError: the Hub does something else.
        PermissionError, ConnectionError: as `push_model` and `export`.
    """
    owner = whoami_writer(HfApi(), owner)
    name = f"{owner}/chest-xray-masks-check-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        phantoms = write_phantoms(folder / "phantoms", 12, 18, 64)
        logger.info("training a tiny model")
        train(TrainConfig(str(phantoms), str(folder / "run"), **TINY))
        with _deleted(Repository(HfApi(), name)) as repository:
            _rehearse_model(repository, folder / "run", folder / "cache")
        with _deleted(Repository(HfApi(), name, "dataset")) as repository:
            _rehearse_data(repository, phantoms, folder / "cache")


@contextmanager
def _deleted(repository: Repository) -> Iterator[Repository]:
    """A repository that is gone at the end of the block, which need not make it."""
    try:
        yield repository
    finally:
        with plain_errors("deleting", repository.url):
            retried(repository.api.delete_repo, repository.id, repo_type=repository.type, missing_ok=True)
        logger.info("deleted %s", repository.url)


def _rehearse_model(repository: Repository, run: Path, cache: Path) -> None:
    first, sent = _push(repository, run, "v1")
    _require(_push(repository, run, "v1")[0] == first, "an unchanged run made a second commit")
    pulled = pull_model(repository.id, "v1", cache_dir=cache)
    _require_files(sent, pulled)
    noise = Image.effect_noise((150, 90), 60)
    here, there = (TrainedModel.from_run(one)(noise) for one in (run, pulled))
    _require(np.array_equal(here, there), "the model that came back says something else")
    _require_private(repository)
    (run / "dice.png").unlink()  # a file that has to go, and with it a line of the card
    _, changed = _push(repository, run, "v2")
    _require_files(changed, pull_model(repository.id, cache_dir=cache))
    _require_files(sent, pull_model(repository.id, "v1", cache_dir=cache))
    _require_refusal(repository, first)


def _rehearse_data(repository: Repository, source: Path, cache: Path) -> None:
    export(ExportConfig(source, repo_id=repository.id))
    for name in ("MC", "all"):
        splits = datasets.load_dataset("chest_xray_masks", name, data_dir=str(source), cache_dir=str(cache))
        for split, rows in splits.items():
            expected = _rows(rows)
            for streaming in (False, True):
                options = {"split": split, "streaming": streaming, "cache_dir": str(cache)}
                _require(_loaded(repository, name, **options) == expected, f"other rows of {name}, {split} came back")
            logger.info("%d rows of %s, %s came back, loaded and streamed", len(expected), name, split)
    _require_private(repository)


def _loaded(repository: Repository, name: str, **options: Any) -> list[dict[str, Any]]:
    """Rows of a config as `load_dataset` has them from the Hub, into whose cache they go."""
    try:
        with plain_errors("loading", f"dataset {repository.id}"):
            return _rows(datasets.load_dataset(repository.id, name, **options))
    except DatasetsError as error:  # none of the Hub's clients' own
        raise ValueError(f"the Hub is not as expected: {name} cannot be read ({error.__cause__ or error})") from error


def _rows(rows: datasets.Dataset | datasets.IterableDataset) -> list[dict[str, Any]]:
    """Rows in their order, images and masks as the bytes of their files."""
    for column in ("image", "mask"):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return list(rows)


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
        retried(HfApi(token=False).repo_info, repository.id, repo_type=repository.type)
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
