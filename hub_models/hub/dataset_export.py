"""The set as a folder that `load_dataset` reads, whole or absent (Parquet, card, pictures), and its way to the Hub."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import DatasetCard, HfApi

import chest_xray_masks as cxm
from hub_models.dataset.audit import audit
from hub_models.files import check_output, new_folder, write_bytes, write_json
from hub_models.hub.dataset_card import PICTURES, TAG, TERMS_NAME, write_card
from hub_models.hub.export_config import SHARD_SIZE, ExportConfig
from hub_models.hub.parquet import write_parquet
from hub_models.hub_client.repository import HUB_FILE, Head, Repository, differences, digests_of, folder_files
from hub_models.hub_client.requests import check_metadata, plain_errors, retried, whoami_writer
from hub_models.runs.notes import CARD_NAME, NOTES_NAME, finished, read_notes, refuse_edited

RECORD_NAME = ".build.json"  # what a folder was made from; it stays on this machine
EXPORT_VERSION = 1  # raise when the folder that is built changes: Parquet, card, pictures
SHARD = re.compile(rf"({'|'.join(cxm.SITES)})/({'|'.join(cxm.SPLITS)})-\d{{5}}-of-\d{{5}}\.parquet")
OWN = {HUB_FILE, CARD_NAME, NOTES_NAME, TERMS_NAME, *PICTURES}  # files of a set on the Hub, its shards aside
logger = logging.getLogger(__name__)


def export(config: ExportConfig) -> str:
    """Where the set is then: the address of its page, or its folder.

    Raises:
        As `build` and `push`.
    """
    repository = None
    if config.repo_id and not config.dry_run:
        api, (owner, _, name) = HfApi(), config.repo_id.rpartition("/")
        repository = Repository(api, f"{whoami_writer(api, owner or None)}/{name}", "dataset")
        _check_place(repository, repository.head(), config.public)  # before the long work
    repo_id = repository.id if repository else config.repo_id
    with _folder(config.output) as output:
        terms = build(config.data_dir, output, repo_id, config.max_shard_size)
        if repo_id is None:
            return str(output)
        files = {path: file for path, file in folder_files(output).items() if path in OWN or SHARD.fullmatch(path)}
        logger.info("The terms of these X-rays:\n%s", terms)
        for path, file in files.items():
            logger.info("%12d bytes  %s", file.stat().st_size, path)
        if repository is None:
            shown = "public" if config.public else "private"
            return f"nothing was sent, the card's metadata were not checked; this would go to {repo_id}, {shown}"
        return push(repository, files, config.public, config.version or str(cxm.ChestXrayMasksConfig.version))


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    if output:
        yield output
    else:
        with TemporaryDirectory(prefix="chest_xray_masks_") as scratch:
            yield Path(scratch, "set")


def build(data_dir: Path, output: Path, repo_id: str | None = None, max_shard_size: str = SHARD_SIZE) -> str:
    """Make the folder `output` of the set under `data_dir` (folder or zip), as `load_dataset(output, "MC")` reads it.

    It is written beside itself and renamed, so it is whole or absent. Of the same files and versions it is left as it
    is; else it is replaced. A NOTES.md there stays, and stands in the card. `repo_id` is where the set is to stand on
    the Hub, for the card's lines of use. Return the terms of the X-rays, in Markdown.

    Raises:
        FileNotFoundError: nothing of the set under `data_dir`.
        FileExistsError: `output` holds something else.
        ValueError: a damaged or mismatched file, no size, another launch is building the same, or README.md was
            edited.
    """
    output = output.absolute()
    record = {"made_from": _fingerprint(data_dir), "repo_id": repo_id, "max_shard_size": max_shard_size}
    built = (output / RECORD_NAME).is_file()
    own = OWN | {RECORD_NAME} if built else {NOTES_NAME}
    check_output(output, "set built here", lambda name: name in own or bool(built and SHARD.fullmatch(name)))
    refuse_edited(output)
    known = json.loads((output / RECORD_NAME).read_text()) if built else {}
    if _is_built(output, record, known):
        _write_readme(output, known["card"])
        logger.info("%s is there already, made from the same files", output)
        return str(known["terms"])
    with new_folder(output) as new:
        infos = write_parquet(data_dir, new, max_shard_size)
        terms = write_card(new, infos, audit(data_dir), repo_id or output.name)
        made = {"files": _sizes(new), "card": (new / CARD_NAME).read_text(), "terms": terms}
        write_json(record | made, new / RECORD_NAME)
        if (output / NOTES_NAME).is_file():
            shutil.copy2(output / NOTES_NAME, new)
        _write_readme(new, made["card"])
    return terms


def _fingerprint(data_dir: Path) -> str:
    """Digest of the files a set is made from (names, sizes, times), and of the versions of what makes it."""
    tree = cxm.scan(data_dir)
    versions = [cxm.ROWS_VERSION, EXPORT_VERSION, *map(version, ("datasets", "pyarrow", "matplotlib"))]
    return hashlib.sha256(repr((tree.files, tree.problems, versions)).encode()).hexdigest()


def _is_built(output: Path, record: dict[str, str | None], known: dict[str, Any]) -> bool:
    """Whether a folder whose record is `known` is what `record` asks for, README.md and pictures aside."""
    return "terms" in known and known["files"] == _sizes(output) and known | record == known


def _write_readme(folder: Path, card: str) -> None:
    """Write README.md of a set's `card` and the folder's notes, unless it is there."""
    text, path = finished(card, read_notes(folder)).encode(), folder / CARD_NAME
    if not path.is_file() or path.read_bytes() != text:
        write_bytes(text, path)


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each Parquet file."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.glob("*/*.parquet"))}


def push(repository: Repository, files: dict[str, Path], public: bool, version: str) -> str:
    """Address of the page, once main holds `files` and nothing else, in one commit or none, with the tag `version`.

    Raises:
        PermissionError: not logged in, or without the right.
        ValueError: the repository holds something else than such a set or is of the other visibility, `version` stands
            at other files, or somebody else pushed meanwhile.
        ConnectionError: no answer, or none but that something is wrong there.
    """
    check_metadata(DatasetCard.load(files[CARD_NAME]), repository.api.token)
    head = repository.create(not public)  # one that exists stays as it is
    _check_place(repository, head, public)  # somebody else may have been quicker
    tagged = repository.head(version)
    if tagged and any(differences({path: digests_of(file) for path, file in files.items()}, tagged)):
        raise ValueError(f"{repository.id} has a version {version} of other files: pass another --version")
    commit, is_new = repository.commit(files, f"{TAG} {version}", head)
    if not tagged:
        repository.tag(version, commit)
    logger.info("%s, version %s", "pushed" if is_new else "nothing has changed, no commit was made", version)
    return repository.url


def _check_place(repository: Repository, head: Head | None, public: bool) -> None:
    """Raise ValueError where the repository is of the other visibility, or holds something else than a set."""
    if head is None:
        return
    if head.private == public:
        wanted, way = ("public", "leave out --public") if public else ("private", "pass --public")
        raise ValueError(f"{repository.url} is not {wanted}: make it so on its settings page, or {way}")
    other = [path for path in head.digests if path not in OWN and not SHARD.fullmatch(path)]
    if not other and CARD_NAME in head.digests:
        options = {"repo_type": "dataset", "revision": head.commit, "secret": repository.api.token}
        with plain_errors("reading", f"dataset {repository.id}", repository.api.token):
            card = DatasetCard.load(retried(repository.api.hf_hub_download, repository.id, CARD_NAME, **options))
        other = [] if TAG in (card.data.get("tags") or []) else [CARD_NAME]
    if other:
        raise ValueError(f"{repository.url} holds {other[0]}, which is of no set built here: pass another --repo_id")
