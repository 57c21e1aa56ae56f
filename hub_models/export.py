"""The set as a folder that `load_dataset` reads, whole or absent (Parquet, card, pictures), and its way to the Hub."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import DatasetCard, HfApi
from yaml import YAMLError

import chest_xray_masks as cxm
from hub_models.audit import audit
from hub_models.card_text import check_text
from hub_models.dataset_card import CARD_NAME, PICTURES, TAG, TERMS_NAME, terms, write_card
from hub_models.export_config import SHARD_SIZE, ExportConfig
from hub_models.files import check_output, new_folder, write_json
from hub_models.parquet import write_parquet
from hub_models.remote import plain_errors, retried, whoami_writer
from hub_models.repository import KEPT, Head, Repository, differences, digests_of, folder_files

RECORD_NAME = ".build.json"  # what a folder was made from; it stays on this machine
EXPORT_VERSION = 1  # raise when the folder that is built changes: Parquet, card, pictures
WORDS = ("language", "pretty_name", "tags", "task_categories")  # of a card's metadata, free to be changed
ANEW = "delete it to have it written anew"
SHARD = re.compile(rf"({'|'.join(cxm.SITES)})/({'|'.join(cxm.PARTS)})-\d{{5}}-of-\d{{5}}\.parquet")
OWN = {KEPT, CARD_NAME, TERMS_NAME, *PICTURES}  # files of a set on the Hub, its shards aside
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
        build(config.data_dir, output, repo_id, config.max_shard_size)
        if repo_id is None:
            return str(output)
        files = {path: file for path, file in folder_files(output).items() if path in OWN or SHARD.fullmatch(path)}
        logger.info("The terms of these X-rays:\n%s", terms(DatasetCard.load(output / CARD_NAME)))
        for path, file in files.items():
            logger.info("%12d bytes  %s", file.stat().st_size, path)
        if repository is None:
            return f"nothing was sent; this would go to {repo_id}, {'public' if config.public else 'private'}"
        return push(repository, files, config.public, config.version or str(cxm.ChestXrayMasksConfig.version))


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    if output:
        yield output
    else:
        with TemporaryDirectory(prefix="chest_xray_masks_") as scratch:
            yield Path(scratch, "set")


def build(data_dir: Path, output: Path, repo_id: str | None = None, max_shard_size: str = SHARD_SIZE) -> None:
    """Make the folder `output` of the set under `data_dir` (folder or zip), as `load_dataset(output, "MC")` reads it.

    It is written beside itself and renamed, so it is whole or absent. Of the same files and versions it is left as it
    is; else it is replaced. `repo_id` is where it is to stand on the Hub, for the card's lines of use.

    Raises:
        FileNotFoundError: nothing of the set under `data_dir`.
        FileExistsError: `output` holds something else.
        ValueError: a damaged or mismatched file, no size, another launch is building the same, or the card was
            changed to say something else, or would be lost.
    """
    output = output.absolute()
    record = {"made_from": _fingerprint(data_dir), "repo_id": repo_id, "max_shard_size": max_shard_size}
    built = (output / RECORD_NAME).is_file()
    own = OWN | {RECORD_NAME}
    check_output(output, "set built here", lambda name: built and bool(name in own or SHARD.fullmatch(name)))
    known = json.loads((output / RECORD_NAME).read_text()) if built else {}
    if _is_built(output, record, known):
        _check_card(output / CARD_NAME, known["card"])
        logger.info("%s is there already, made from the same files", output)
        return
    _keep_edited(output / CARD_NAME, known.get("card"))
    with new_folder(output) as new:
        infos = write_parquet(data_dir, new, max_shard_size)
        write_card(new, infos, audit(data_dir), repo_id or output.name)
        made = {"files": _sizes(new), "card": (new / CARD_NAME).read_text()}
        write_json(record | made, new / RECORD_NAME)


def _fingerprint(data_dir: Path) -> str:
    """Digest of the files a set is made from (names, sizes, times), and of the versions of what makes it."""
    tree = cxm.scan(data_dir)
    versions = [cxm.ROWS_VERSION, EXPORT_VERSION, *map(version, ("datasets", "pyarrow", "matplotlib"))]
    return hashlib.sha256(repr((tree.files, tree.problems, versions)).encode()).hexdigest()


def _is_built(output: Path, record: dict[str, str | None], known: dict[str, Any]) -> bool:
    """Whether a folder whose record is `known` is what `record` asks for, card and pictures perhaps edited since."""
    if "card" not in known or not (output / CARD_NAME).is_file():
        return False
    return known["files"] == _sizes(output) and known | record == known


def _keep_edited(path: Path, text: str | None) -> None:
    """Raise ValueError where the card of a set that is to be replaced is no longer the `text` that was made."""
    if text is not None and path.is_file() and path.read_text() != text:
        raise ValueError(f"{path} was edited, and the set is to be made anew: move it elsewhere, or delete it")


def _check_card(path: Path, text: str) -> None:
    """Raise ValueError where a set's card has other figures, sections or metadata than the `text` that was made."""
    made = DatasetCard(text)
    try:
        card = DatasetCard(path.read_text())
    except (ValueError, YAMLError) as error:
        raise ValueError(f"the metadata of {path} are invalid ({error}): {ANEW}") from error
    stated, known = card.data.to_dict(), made.data.to_dict()
    for name in known:
        if name not in WORDS and stated.get(name) != known[name]:
            raise ValueError(f"the metadata of {path} have another {name}: {ANEW}")
    if untagged := [tag for tag in made.data.tags if tag not in (card.data.tags or [])]:
        raise ValueError(f"the metadata of {path} lack the tag {untagged[0]}: put it back, or {ANEW}")
    try:
        check_text(card.text, made.text, "the set's files")
    except ValueError as error:
        raise ValueError(f"{error} ({path}; {ANEW})") from error


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
