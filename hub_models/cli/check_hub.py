"""Check of a real Hub, which no test reaches: a tiny model and a tiny set are pushed, pulled and deleted."""

import logging
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetsError
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from PIL import Image

from hub_models.dataset.phantoms import write_phantoms
from hub_models.hub.dataset_export import export
from hub_models.hub.export_config import ExportConfig
from hub_models.hub.push import pull_model, push_model
from hub_models.hub_client.repository import Repository, folder_files
from hub_models.hub_client.requests import plain_errors, retried, status_of, whoami_writer
from hub_models.models.trained_model import TrainedModel
from hub_models.runs.config import TrainConfig
from hub_models.training.train import train

logger = logging.getLogger(__name__)


def check_hub(owner: str | None = None) -> None:
    """Check that the Hub does all that pushes and pulls need, under the name of `owner` or the user's own.

    The two repositories are private, have names that nobody uses, and are deleted at the end, also after an error.

    Raises:
        ValueError: the Hub does something else.
        PermissionError, ConnectionError: as `push_model` and `export`.
    """
    owner = whoami_writer(HfApi(), owner)
    name = f"{owner}/chest-xray-masks-check-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        phantoms, run = write_phantoms(folder / "phantoms", 12, 18, 64), folder / "run"
        logger.info("training a tiny model")
        tiny = TrainConfig(str(phantoms), str(run), model="segformer-light", from_scratch=True, tracker="none")
        train(replace(tiny, image_size=32, epochs=1))
        with _deleted(Repository(HfApi(), name)) as repository:
            _check_model(repository, run, folder / "cache")
        with _deleted(Repository(HfApi(), name, "dataset")) as repository:
            _check_data(repository, phantoms, folder / "cache")


@contextmanager
def _deleted(repository: Repository) -> Iterator[Repository]:
    """Delete a repository at the end of a block, which may have made it."""
    try:
        yield repository
    finally:
        with plain_errors("deleting", repository.url):
            retried(repository.api.delete_repo, repository.id, repo_type=repository.type, missing_ok=True)
        logger.info("deleted %s", repository.url)


def _check_model(repository: Repository, run: Path, cache: Path) -> None:
    first, sent = _push(repository, run, "v1")
    _require(_push(repository, run, "v1")[0] == first, "an unchanged run made a second commit")
    pulled = pull_model(repository.id, "v1", cache_dir=cache)
    _require_files(sent, pulled)
    noise = Image.effect_noise((150, 90), 60)
    ours, theirs = (TrainedModel.from_run(one)(noise) for one in (run, pulled))
    _require(np.array_equal(ours, theirs), "the model that came back gives another output")
    _require_private(repository)
    (run / "dice.png").unlink()  # a file that has to go, and with it a line of the card
    _, changed = _push(repository, run, "v2")
    _require_files(changed, pull_model(repository.id, cache_dir=cache))
    _require_files(sent, pull_model(repository.id, "v1", cache_dir=cache))
    _require_refusal(repository, first)


def _check_data(repository: Repository, source: Path, cache: Path) -> None:
    export(ExportConfig(str(source), repo_id=repository.id))
    for name in ("MC", "all"):
        splits = datasets.load_dataset("chest_xray_masks", name, data_dir=str(source), cache_dir=str(cache))
        for split, rows in splits.items():
            for streaming in (False, True):
                loaded = _loaded(repository, name, split, streaming, cache)
                _require(loaded == _rows(rows), f"other rows of {name}, {split} came back")
            logger.info("%d rows of %s, %s came back, loaded and streamed", len(rows), name, split)
    _require_private(repository)
    repository.gate()
    logger.info("it can be gated")


def _loaded(repository: Repository, name: str, split: str, streaming: bool, cache: Path) -> list[dict[str, Any]]:
    """Return the rows of a config as `load_dataset` reads them from the Hub."""
    try:
        with plain_errors("loading", f"dataset {repository.id}"):
            rows = datasets.load_dataset(repository.id, name, split=split, streaming=streaming, cache_dir=str(cache))
            return _rows(rows)
    except DatasetsError as error:  # none of the Hub's clients' own
        raise ValueError(f"the Hub is not as expected: {name} cannot be read ({error.__cause__ or error})") from error


def _rows(rows: datasets.Dataset | datasets.IterableDataset) -> list[dict[str, Any]]:
    """Return rows in their order, images and masks as the bytes of their files."""
    for column in ("image", "mask"):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return list(rows)


def _push(repository: Repository, run: Path, version: str) -> tuple[str | None, dict[str, bytes]]:
    """Return the commit of a push, and the files that it sent."""
    push = push_model(run, repository.id, license="apache-2.0", version=version)
    logger.info("%s", push)
    return push.commit, {name: one if isinstance(one, bytes) else one.read_bytes() for name, one in push.files.items()}


def _require(kept: bool, fault: str) -> None:
    if not kept:
        raise ValueError(f"the Hub is not as expected: {fault}")


def _require_files(sent: dict[str, bytes], pulled: Path) -> None:
    came = {name: path.read_bytes() for name, path in folder_files(pulled).items()}
    _require(came == sent, f"of {len(sent)} files, {sum(came.get(name) == sent[name] for name in sent)} came back")
    logger.info("%d files came back", len(came))


def _require_private(repository: Repository) -> None:
    try:
        retried(HfApi(token=False).repo_info, repository.id, repo_type=repository.type)
    except RepositoryNotFoundError:
        logger.info("nobody else sees it")
    else:
        _require(False, f"everyone sees {repository.url}, which is to be private")


def _require_refusal(repository: Repository, stale: str | None) -> None:
    """Raise ValueError if the Hub takes a commit on top of an older one than the head."""
    change = CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n")
    try:
        retried(repository.api.create_commit, repository.id, [change], commit_message="Late", parent_commit=stale)
    except HfHubHTTPError as error:
        _require(status_of(error) in (409, 412), f"it refuses a late commit with {status_of(error)}")
        logger.info("a late commit is refused (%d)", status_of(error))
    else:
        _require(False, "it takes a commit on top of an old one")
