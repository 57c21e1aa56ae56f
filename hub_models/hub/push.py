"""push_model(): a finished run to the Hub in one commit, checked before anything goes out; and its way back."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id

from hub_models.hub.run_files import NAMES, release
from hub_models.hub_client.downloads import local_run, pull_model
from hub_models.hub_client.repository import HUB_FILE, FileContent, Head, Repository, differences, digests_of
from hub_models.hub_client.requests import check_metadata, plain_errors, retried, whoami_writer
from hub_models.models.tasks import SETTINGS_KEY
from hub_models.runs.notes import CARD_NAME
from hub_models.runs.run_folder import RunFolder

__all__ = ["Push", "local_run", "pull_model", "push_model"]


@dataclass(frozen=True)
class Push:
    """What goes to a repository; with `commit`, what went, `is_new` if it was not there already."""

    repository: Repository
    files: dict[str, FileContent]
    message: str
    private: bool
    version: str | None = None
    commit: str | None = None
    is_new: bool = False

    def __str__(self) -> str:
        """For the terminal."""
        repository, sizes = self.repository, {name: _size(source) for name, source in self.files.items()}
        width = max(map(len, sizes))
        lines = [f"{name:<{width}} {size / 1000:10,.1f} kB" for name, size in sizes.items()]
        where = f"{repository.url} ({'private' if self.private else 'public'}), branch {repository.branch}"
        tag = f", version {self.version}" if self.version else ""
        if self.commit is None:
            head = f"would go to {where}{tag}, {sum(sizes.values()) / 1e6:.1f} MB, as {self.message!r}:"
            return "\n".join([head, *lines, "the card's metadata were not checked: the Hub does that before a push"])
        done = f"pushed to {where}{tag}" if self.is_new else f"nothing has changed, no commit was made: {where}{tag}"
        return f"{done}, commit {self.commit[:7]}"


def _size(source: FileContent) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def push_model(
    run_folder: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool = True,
    revision: str | None = None,
    version: str | None = None,
    also: Sequence[Path] = (),
    segmenter: str | None = None,
    replace: bool = False,
    dry_run: bool = False,
    token: str | None = None,
) -> Push:
    """What went to the model repository `repo_id` (without `owner/`, the user's own) from a finished run.

    All checks come before anything goes out. Then the branch `revision` (main by default), made where there is none,
    holds the run's files and nothing else, by one commit, and the tag `version`, where given, stands there. Called
    again after a failure it goes on; an unchanged run makes no commit. `replace` lets another model, or other files,
    in the repository go. With `dry_run` nothing goes out, and the card's metadata are
    not checked. For `license`, `also` and `segmenter` see `release.release`.

    Raises:
        FileNotFoundError: the run has not ended.
        PermissionError: not logged in, or without the right to write there.
        ConnectionError: no answer, after some tries.
        ValueError: the run's files contradict each other, its README.md was edited, `segmenter` is another lung model
            than the run was trained with, the Hub does not take the card's metadata (such as the licence), a name is
            none that the Hub takes, the repository holds something else or is of the other visibility, the version
            stands for other files, or somebody else pushed meanwhile.
    """
    api = HfApi(token=token)
    owner, _, name = repo_id.rpartition("/")
    if dry_run and not owner:
        with plain_errors("looking up", "your name", token):
            owner = retried(api.whoami, secret=token)["name"]
    run = RunFolder.read(run_folder)
    if not owner:
        owner = whoami_writer(api)
    repository = Repository(api, f"{owner}/{name}", branch=revision or "main")
    validate_repo_id(repository.id)
    _check_name(version, repository)
    files = release(run, repository.id, license, also, segmenter)  # what is wrong here, before a login
    if not dry_run:
        whoami_writer(api, owner)
    push = Push(repository, files, _message(run), private, version)
    if dry_run:
        return push
    if segmenter:
        _check_lungs(run, segmenter, token)
    check_metadata(ModelCard(files[CARD_NAME].decode()), token)
    return _send(push, replace)


def _message(run: RunFolder) -> str:
    """Title of the commit: what the model does, and how well, over all of its test part."""
    name, group = run.results["main_metric"], run.results["metrics"]["all"]
    value = group[name]["value"]
    figure = "undefined" if value is None else f"{value:.3f}"
    return f"{run.config.task}, {name} {figure} on {group['n']} X-rays of the {run.results['split']} part"


def _check_lungs(run: RunFolder, segmenter: str, token: str | None) -> None:
    """Raise ValueError where the lung model on the Hub is not the one that the run was trained with."""
    digest = run.data.get("segmenter")
    if digest and RunFolder.read(pull_model(segmenter, token=token)).digest != digest:
        known = f"trained and tested with the lungs that model {digest[:16]} finds"
        raise ValueError(f"{run.path} was {known}, which is not {segmenter}: push that one there, or name its id")


def _check_name(version: str | None, repository: Repository) -> None:
    """Raise ValueError where git would not take `version` as a tag, or the branch has that name."""
    if version is None:
        return
    if version == repository.branch or not re.fullmatch(r"(?!.*(\.\.|\.lock$|/$|\.$))\w[\w./-]*", version):
        raise ValueError(f"{version!r} cannot be a version: pass a name such as v1.0, which no branch has")


def _send(push: Push, replace_others: bool) -> Push:
    repository = push.repository
    known = repository.head() or repository.head("main")
    if known is not None:
        _check_head(push, known, replace_others)
    head = repository.create(push.private)
    if known is None or head.commit != known.commit:  # somebody else was quicker
        _check_head(push, head, replace_others)
    commit, is_new = repository.commit(push.files, push.message, head)
    if push.version:
        repository.tag(push.version, commit)
    return replace(push, commit=commit, is_new=is_new)


def _check_head(push: Push, head: Head, replace_others: bool) -> None:
    """Raise ValueError where visibility or version are of others, or a repository holds what is not to be lost."""
    repository = push.repository
    if head.private != push.private:
        wanted, way = ("private", "or pass --public") if push.private else ("public", "or leave out --public")
        raise ValueError(f"{repository.url} is not {wanted}: make it so on its settings page, {way}")
    if push.version:
        _check_version(push, head)
    if replace_others:
        return
    way = "pass another --repo_id, or --replace to take its place"
    held = {path for path in head.digests if path != HUB_FILE and not path.startswith(".eval_results/")}
    if others := sorted(held - NAMES):
        raise ValueError(f"{repository.url} holds {others[0]}, which no push of a model sent: {way}")
    if "config.json" in held:
        theirs = _kind(_config_at(repository, head))
        if theirs != (ours := _kind(json.loads(Path(push.files["config.json"]).read_text()))):
            raise ValueError(f"{repository.url} holds another model ({theirs}, not {ours}): {way}")


def _config_at(repository: Repository, head: Head) -> dict[str, object]:
    """Values of its config.json; empty where that is no JSON object, as that of a model is."""
    with plain_errors("reading", f"model {repository.id}", repository.api.token):
        options = {"revision": head.commit, "secret": repository.api.token}
        path = retried(repository.api.hf_hub_download, repository.id, "config.json", **options)
    try:
        config = json.loads(Path(path).read_bytes())
    except ValueError:
        config = None
    return config if isinstance(config, dict) else {}


def _kind(config: dict[str, object]) -> str:
    settings = config.get(SETTINGS_KEY) or {}
    return f"{settings.get('task', 'no task of ours')} by {', '.join(config.get('architectures') or ['unknown'])}"


def _check_version(push: Push, head: Head) -> None:
    """Raise ValueError where the version stands for other files than those that go now."""
    there, ours = push.repository.head(push.version), {path: digests_of(one) for path, one in push.files.items()}
    if there is not None and (there.commit != head.commit or any(differences(ours, head))):
        raise ValueError(f"{push.repository.id} has {push.version} for other files: pass another --version")
