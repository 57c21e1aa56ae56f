"""Download models from the Hub as run folders: data only, never code, each file checked by its digest."""

import json
import logging
import re
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import httpx2
from huggingface_hub import _CACHED_NO_EXIST, HfApi, RepoFile, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionResolutionError,
)

from hub_models.hub_client.bundled import known_place
from hub_models.hub_client.model_files import CODE_FILES, NESTED, read_json
from hub_models.hub_client.repository import digests_of, folder_files
from hub_models.hub_client.requests import plain_errors, retried

logger = logging.getLogger(__name__)

SETTINGS_KEY = "chest_xray_masks"  # in config.json: how the model is to be used, and that it is of this project
CONFIGS = ("train_config.json", "data.json", "config.json", "preprocessor_config.json")
RUN_FILES = (*CONFIGS, "model.safetensors")
SMALL_FILES = ("*.json", "*.md", "*.yaml", "*.csv", "*.png")
WANTED = (*SMALL_FILES, "*.safetensors")  # no pickle and no program among them
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # <owner>/<name>


def pull_model(
    repo_id: str, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """Download a model from the Hub and return its run folder in the cache; each file has the digest of the Hub.

    `revision` is a branch (main by default), a tag or a commit, resolved once for all files. Without network, or with
    the Hub down, the copy in the cache is checked and used. A cache without links that another program filled may lack
    the digests; without network it is then used unchecked, with a warning.

    Raises:
        FileNotFoundError: no such repository or revision, or it is private.
        PermissionError: the model is gated, or the token is not valid.
        ConnectionError: no answer, and the cache does not hold all files.
        OSError: the disk is full.
        ValueError: the model is not of this project, names code to be run, or has a damaged file. A damaged file is
            removed from the cache, so the next call downloads it again.
    """
    api, subject = HfApi(token=token), f"model {repo_id}"
    with plain_errors("downloading", subject, token):
        commit = retried(_resolved, api, repo_id, revision, cache_dir, secret=token)
        download = partial(api.snapshot_download, repo_id, revision=commit, cache_dir=cache_dir)
        folder = Path(retried(download, allow_patterns=list(SMALL_FILES), secret=token))
        digests = retried(_digests, api, repo_id, folder, secret=token)
    _check(folder, digests, repo_id)
    _refuse(folder, repo_id, [name for name in CONFIGS if name not in digests])
    with plain_errors("downloading", subject, token):
        retried(download, allow_patterns=list(WANTED), secret=token)
        digests = retried(_digests, api, repo_id, folder, secret=token)
    _refuse(folder, repo_id, [name for name in RUN_FILES if name not in digests])
    _check(folder, digests, repo_id)
    return folder


def _resolved(api: HfApi, repo_id: str, revision: str | None, cache_dir: str | Path | None) -> str:
    """Return the commit of a revision, from the Hub or, without network, from its last answer in the cache."""
    try:
        return api.resolve_revision(repo_id, revision=revision, cache_dir=cache_dir).resolved
    except RevisionResolutionError as error:  # of no kind that the callers know, but its cause is
        raise error.__cause__ or error from None


def _digests(api: HfApi, repo_id: str, folder: Path) -> dict[str, str]:
    """Return the Hub's digest, SHA-256 or git's own, of each file of a snapshot; "" where nothing tells it.

    In the cache, links lead to blobs that are named by their digest. Where there are no links, the client's list of
    the commit, kept beside the snapshot, gives the digests, else the Hub. Without network and list they are not known.

    Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    files = {
        name: path for name, path in folder_files(folder).items() if any(fnmatch(path.name, one) for one in WANTED)
    }
    if linked := {name: path.readlink().name for name, path in files.items() if path.is_symlink()}:
        return linked  # any other file there is not the Hub's
    there = _kept_digests(folder)
    if there is None:
        try:
            tree = api.list_repo_tree(repo_id, recursive=True, revision=folder.name)
            there = {one.path: one.lfs.sha256 if one.lfs else one.blob_id for one in tree if isinstance(one, RepoFile)}
        except (OfflineModeIsEnabled, httpx2.ConnectError, httpx2.TimeoutException):
            return dict.fromkeys(files, "")
    return {name: there[name] for name in files if name in there}


def _kept_digests(folder: Path) -> dict[str, str] | None:
    """Return the digests in the list of a commit's files that huggingface_hub keeps; None without a list it can read.

    Source: huggingface_hub/_tree_cache.py
    """
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        listed = json.loads(_kept_list(folder).read_bytes())["files"]
        return {name: str(one.get("lfs_sha256") or one["blob_id"]) for name, one in listed.items()}
    return None


def _kept_list(folder: Path) -> Path:
    return folder.parent.parent / "trees" / f"{folder.name}.json"


def _check(folder: Path, digests: dict[str, str], repo_id: str) -> None:
    """Raise ValueError where files have another digest than the Hub's, and remove all of these from the cache.

    A warning says where digests are not known.
    """
    if "" in digests.values():
        logger.warning("warning: %s in %s is not checked: without network its digests are not known", repo_id, folder)
    wrong = [name for name, digest in digests.items() if digest and digest not in digests_of(folder / name)]
    for name in wrong:
        (folder / name).resolve().unlink(missing_ok=True)  # the blob, if there are links; one of files that are alike
        (folder / name).unlink(missing_ok=True)
    if wrong:
        was, it = ("were", "them") if wrong[1:] else ("was", "it")
        named = ", ".join(wrong)
        raise ValueError(
            f"{named} of {repo_id} arrived damaged and {was} removed: run the same command again to download {it}"
        )


def _refuse(folder: Path, repo_id: str, missing: list[str]) -> None:
    """Raise ValueError where the folder is not a model of this project, or would have code or packages loaded."""
    if missing:
        _kept_list(folder).unlink(missing_ok=True)  # a proxy may have answered with another list, which would stay
        raise ValueError(f"{repo_id} lacks {', '.join(missing)}: pass a model that cxm push sent")
    for name in (NESTED, CODE_FILES[-1]):
        if (folder / name).is_file():
            raise ValueError(f"{name} of {repo_id} would be read in place of {CONFIGS[-1]}: pass another model")
    named = [name for name in (*CONFIGS, "results.json") if name in CONFIGS or (folder / name).is_file()]
    values = {name: read_json(folder / name, f"{name} of {repo_id}") for name in named}
    if SETTINGS_KEY not in values["config.json"]:
        raise ValueError(f"config.json of {repo_id} has no {SETTINGS_KEY}: pass a model that cxm push sent")


def local_run(source: str | Path, revision: str | None = None) -> Path:
    """Return the run folder of a model: an existing folder, a bundled model, or the download of a Hub id.

    Raises:
        FileNotFoundError, ConnectionError: `source` is none of these, or cannot be downloaded.
        PermissionError, OSError, ValueError: as `pull_model` and `bundled_run`.
    """
    if (here := Path(known_place(source))).is_dir():
        return here
    if not HUB_ID.fullmatch(str(source)):
        raise FileNotFoundError(
            f"no folder {source}, and it is not a Hub id: pass a run folder, or <owner>/<name> on the Hub"
        )
    logger.info("no folder %s here: looking for it on the Hub", source)
    try:
        if Path(source).parent.is_dir():  # more likely a typo than a Hub id: one request, without waits
            with plain_errors("looking up", f"model {source}"):
                _resolved(HfApi(), str(source), revision, None)
        return pull_model(str(source), revision)
    except (FileNotFoundError, ConnectionError) as error:
        raise type(error)(f"no folder {source} here, and {error}") from error


def hub_file(repo_id: str, name: str) -> Path | None:
    """Return a file of a model on the Hub, in the cache; None where the model has no such file.

    Raises:
        FileNotFoundError: no such model, or it is private.
        PermissionError: it is gated, or the token is not valid.
        ConnectionError: no answer, and the file is not in the cache.
    """

    def once() -> Path | None:
        try:
            return Path(hf_hub_download(repo_id, name))
        except LocalEntryNotFoundError as error:
            if try_to_load_from_cache(repo_id, name) is _CACHED_NO_EXIST:  # as the Hub said before
                return None
            raise error.__cause__ or OfflineModeIsEnabled(str(error)) from None
        except EntryNotFoundError:
            return None

    with plain_errors("downloading", f"model {repo_id}"):
        return retried(once)
