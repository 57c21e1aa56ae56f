"""Write the set, or any X-rays, as a folder that `load_dataset` reads (Parquet, card), and push it to the Hub."""

import hashlib
import json
import logging
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

import pyarrow.parquet
from huggingface_hub import DatasetCard, HfApi

import chest_xray_masks as cxm
from hub_models.console import counted
from hub_models.dataset.audit import audit
from hub_models.dataset.sources import DataRequest, as_request
from hub_models.files import check_output, check_outside, new_folder, write_bytes, write_json
from hub_models.hub.benchmark import EVAL_NAME
from hub_models.hub.croissant import CROISSANT_NAME
from hub_models.hub.dataset_card import PROJECT_TAG, SET_PICTURES, TERMS_NAME, write_card
from hub_models.hub.export_config import SHARD_SIZE, ExportConfig
from hub_models.hub.own_export import OwnXrays, load_own, write_own
from hub_models.hub.parquet import OWN_FOLDER, write_parquet
from hub_models.hub_client.repository import HUB_FILE, Head, Repository, differences, digests_of, folder_files
from hub_models.hub_client.requests import check_metadata, plain_errors, retried, whoami_writer
from hub_models.runs.notes import CARD_NAME, NOTES_NAME, finished, read_notes, refuse_edited

RECORD_NAME = ".build.json"  # a `BuildRecord`; it stays on this machine
EXPORT_VERSION = 3  # raise when the folder that is built changes: Parquet, card, pictures
_NUMBERED = rf"({'|'.join(cxm.SPLITS)})-[0-9]{{5}}-of-[0-9]{{5}}\.parquet"
SHARD = re.compile(rf"({'|'.join(cxm.SITES)})/{_NUMBERED}")  # of the set
OWN_SHARD = re.compile(rf"{OWN_FOLDER}/{_NUMBERED}")  # of other X-rays
# files of a set on the Hub beside its shards
OWN = {HUB_FILE, CARD_NAME, NOTES_NAME, TERMS_NAME, EVAL_NAME, CROISSANT_NAME, *SET_PICTURES}
logger = logging.getLogger(__name__)


class BuildRecord(TypedDict, total=False):
    """What a folder was made from, and what it was then."""

    made_from: str  # digest of files and versions
    repo_id: str | None
    max_shard_size: str
    num_shards: int
    files: dict[str, int]  # bytes of each Parquet file
    card: str
    terms: str


def export(config: ExportConfig) -> str:
    """Build the set, or other X-rays, and, with a repo_id, push it; return its folder or the address of its page.

    Raises:
        ValueError: a push of other X-rays without a licence, or a licence for the set.
        As `build` and `push`, too.
    """
    request = _request_of(config)
    shard, repository = _shard_of(request), None
    if config.repo_id and not config.dry_run:
        api, (owner, _, name) = HfApi(), config.repo_id.rpartition("/")
        repository = Repository(api, f"{whoami_writer(api, owner or None)}/{name}", "dataset")
        _check_place(repository, repository.head(), config.public, shard)  # before the long work
    repo_id = repository.id if repository else config.repo_id
    with TemporaryDirectory(prefix="chest_xray_masks_") as scratch:
        output = config.output or Path(scratch, "set")
        terms = build(request, output, repo_id, config.max_shard_size, config.num_shards, config.license)
        if repo_id is None:
            return str(output)
        files = {path: file for path, file in folder_files(output).items() if path in OWN or shard.fullmatch(path)}
        logger.info("The terms of these X-rays:\n%s", terms)
        for path, file in files.items():
            logger.info("%12d bytes  %s", file.stat().st_size, path)
        if repository is None:
            shown = "public" if config.public else "private"
            return f"nothing was sent, the card's metadata were not checked; this would go to {repo_id}, {shown}"
        version = config.version or str(cxm.ChestXrayMasksConfig.version)
        return push(repository, files, config.public, version, shard)


def _request_of(config: ExportConfig) -> DataRequest:
    """Return the X-rays to export; raise ValueError where a licence is missing, or named for the set."""
    meaning = config.table, config.columns, config.positive, config.data_revision
    request = DataRequest(str(config.data_dir), "all", *meaning)
    request.check()
    if request.is_set and config.license:
        raise ValueError(f"{request.name} is the set, whose terms its card states: leave --license out")
    if config.repo_id and not (request.is_set or config.license):
        known = f"only you know the terms of {request.name}, which is not the Montgomery and Shenzhen set"
        raise ValueError(f"{known}: pass --license, the Hub's name of a licence, such as cc-by-4.0, or other")
    return request


def _shard_of(request: DataRequest) -> re.Pattern[str]:
    return SHARD if request.is_set else OWN_SHARD


def build(
    data: DataRequest | Path,
    output: Path,
    repo_id: str | None = None,
    max_shard_size: str = SHARD_SIZE,
    num_shards: int = 1,
    license: str | None = None,
) -> str:
    """Write the set (folder or zip), for `load_dataset(output, "MC")`, or other X-rays to the folder `output`.

    The folder is whole or absent, and stays as it is where files and versions are the same. A NOTES.md there is kept,
    and goes into the card. `repo_id` is for the card's lines of use; for the sizes see `write_parquet`; `license`
    is of other X-rays than the set. Return the terms of the X-rays, in Markdown.

    Raises:
        FileNotFoundError: no X-ray there.
        FileExistsError: `output` holds something else.
        ValueError: a damaged or mismatched file, no size, another launch is building the same, README.md was edited,
            or `output` lies in the folder of the X-rays.
    """
    request, output = as_request(data), output.absolute()
    check_outside(output, request.data)
    shard = _shard_of(request)
    known: BuildRecord = {}
    if is_built := (output / RECORD_NAME).is_file():
        known = json.loads((output / RECORD_NAME).read_text())
    own = OWN | {RECORD_NAME} if is_built else {NOTES_NAME}
    check_output(output, "set built here", lambda name: name in own or bool(is_built and shard.fullmatch(name)))
    refuse_edited(output)
    xrays = None if request.is_set else load_own(request, license)
    record: BuildRecord = {"made_from": _fingerprint(request.data, xrays), "repo_id": repo_id}
    record |= {"max_shard_size": max_shard_size, "num_shards": num_shards}
    if "terms" in known and known["files"] == _sizes(output) and known | record == known:
        _write_readme(output, known["card"])
        logger.info("%s is there already, made from the same files", output)
        return known["terms"]
    with new_folder(output) as new:
        how = output.name, repo_id, max_shard_size, num_shards
        terms = write_own(xrays, new, *how) if xrays else _write_set(Path(request.data), new, *how)
        record |= {"files": _sizes(new), "card": (new / CARD_NAME).read_text(), "terms": terms}
        write_json(record, new / RECORD_NAME)
        if (output / NOTES_NAME).is_file():
            shutil.copy2(output / NOTES_NAME, new)
        _write_readme(new, record["card"])
    count = sum(pyarrow.parquet.read_metadata(path).num_rows for path in output.glob("*/*.parquet"))
    logger.info("wrote %s and their card", counted(count, "X-ray"))
    return terms


def _write_set(
    data_dir: Path, folder: Path, name: str, repo_id: str | None, max_shard_size: str, num_shards: int
) -> str:
    """Write the set and its card to `folder`, which is to become `name`; return the terms."""
    infos = write_parquet(data_dir, folder, max_shard_size, num_shards)
    return write_card(folder, infos, audit(data_dir), name, repo_id)


def _fingerprint(data: str, xrays: OwnXrays | None) -> str:
    """Return a digest of what is exported (of the set names, sizes, times), and of the versions of what makes it."""
    if xrays is None:
        tree = cxm.scan(data)
        made_from: tuple[object, ...] = tree.files, tree.tables, tree.problems
    else:
        made_from = xrays.made_from
    versions = [cxm.ROWS_VERSION, EXPORT_VERSION, *map(version, ("datasets", "pyarrow", "matplotlib"))]
    return hashlib.sha256(repr((*made_from, versions)).encode()).hexdigest()


def _write_readme(folder: Path, card: str) -> None:
    """Write README.md from the card and the folder's notes, unless it is there."""
    text, path = finished(card, read_notes(folder)).encode(), folder / CARD_NAME
    if not path.is_file() or path.read_bytes() != text:
        write_bytes(text, path)


def _sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.glob("*/*.parquet"))}


def push(repository: Repository, files: dict[str, Path], public: bool, version: str, shard: re.Pattern[str]) -> str:
    """Let main hold just `files`, by one commit or none, with the tag `version`; return the page's address.

    A repository is made private. One with X-rays of patients that is to be public is gated before it holds a file, and
    becomes public last: after a failure it is private, or gated.

    Raises:
        PermissionError: not logged in, or without the right.
        ValueError: the repository holds something else, is public without `public`, or cannot be gated; `version`
            stands for other files, or somebody else pushed meanwhile.
        ConnectionError: no answer, or an error of the Hub.
    """
    card = DatasetCard.load(files[CARD_NAME])
    check_metadata(card, repository.api.token)
    head = repository.create()
    _check_place(repository, head, public, shard)  # somebody else may have been quicker
    tagged = repository.head(version)
    if tagged and any(differences({path: digests_of(file) for path, file in files.items()}, tagged)):
        raise ValueError(f"{repository.id} has a version {version} of other files: pass another --version")
    if public and card.data.get("extra_gated_heading"):
        repository.gate()
    commit, is_new = repository.commit(files, f"{PROJECT_TAG} {version}", head)
    if not tagged:
        repository.tag(version, commit)
    if public:
        repository.make_public()
    logger.info("%s, version %s", "pushed" if is_new else "nothing has changed, no commit was made", version)
    return repository.url


def _check_place(repository: Repository, head: Head | None, public: bool, shard: re.Pattern[str]) -> None:
    """Raise ValueError where the repository is public against the request, or holds something else than a set."""
    if head is None:
        return
    if not (head.private or public):
        raise ValueError(f"{repository.url} is not private: make it so on its settings page, or pass --public")
    other = [path for path in head.digests if path not in OWN and not shard.fullmatch(path)]
    if not other and CARD_NAME in head.digests:
        with plain_errors("reading", f"dataset {repository.id}", repository.api.token):
            card = retried(_download_card, repository, head.commit, secret=repository.api.token)
        other = [] if PROJECT_TAG in (card.data.get("tags") or []) else [CARD_NAME]
    if other:
        raise ValueError(
            f"{repository.url} holds {other[0]}, which belongs to no set built here: pass another --repo_id"
        )


def _download_card(repository: Repository, commit: str) -> DatasetCard:
    path = repository.api.hf_hub_download(repository.id, CARD_NAME, repo_type="dataset", revision=commit)
    return DatasetCard.load(Path(path))
