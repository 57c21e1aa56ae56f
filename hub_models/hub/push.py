"""A finished run goes to the Hub in one commit, after every check: push_model()."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id

from hub_models.hub.benchmark import read_benchmark
from hub_models.hub.run_files import MAY_BE_SENT, bytes_of, release, required_license
from hub_models.hub_client.downloads import SETTINGS_KEY
from hub_models.hub_client.downloads import pull_model as pull_model
from hub_models.hub_client.repository import HUB_FILE, FileContent, Head, Repository, differences, digests_of
from hub_models.hub_client.requests import check_metadata, plain_errors, retried, whoami_writer
from hub_models.runs.notes import CARD_NAME
from hub_models.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Push:
    """What would go to a repository or, with `commit`, what went; `is_new` unless it was there already."""

    repository: Repository
    files: dict[str, FileContent]
    message: str
    private: bool
    version: str | None = None
    commit: str | None = None
    is_new: bool = False

    def __str__(self) -> str:
        """Return what a terminal shows."""
        repository = self.repository
        where = f"{repository.url} ({'private' if self.private else 'public'}), branch {repository.branch}"
        where += f", version {self.version}" if self.version else ""
        if self.commit is not None:
            done = "pushed to" if self.is_new else "nothing has changed, no commit was made:"
            return f"{done} {where}, commit {self.commit[:7]}"
        sizes = {
            name: len(source) if isinstance(source, bytes) else source.stat().st_size
            for name, source in self.files.items()
        }
        width = max(map(len, sizes))
        head = f"would go to {where}, {sum(sizes.values()) / 1e6:.1f} MB, as {self.message!r}:"
        lines = [f"{name:<{width}} {size / 1000:10,.1f} kB" for name, size in sizes.items()]
        return "\n".join([head, *lines, "the card's metadata were not checked: the Hub does that before a push"])


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
    dataset: str | None = None,
    replace: bool = False,
    dry_run: bool = False,
    token: str | None = None,
) -> Push:
    """Send a finished run to the model repository `repo_id` (without `owner/`: the user's own), and return what went.

    All checks come before anything is sent. Then one commit lets the branch `revision` (main by default; created
    where there is none) hold the run's files and nothing else, and the tag `version`, where given, is set there.
    A call after a failure resumes; an unchanged run makes no commit. `replace` allows to delete another model, or
    other files. `dry_run` sends nothing and does not check the card's metadata. For `license`, `also` and `segmenter`
    see `model_card.model_card`. `dataset` is the set on the Hub, by `cxm export`, that the run was trained and tested
    on: the card links it, and its leaderboard gets the results.

    Raises:
        FileNotFoundError: the run has not ended.
        PermissionError: not logged in, or without the right to write there.
        ConnectionError: no answer, after some tries.
        ValueError: the run's files contradict each other, its README.md was edited, `segmenter` is another lung model
            than the run was trained with, `dataset` is not a set with an eval.yaml, the Hub refuses the card's
            metadata (such as the licence) or a name, the repository holds something else or has the other visibility,
            the version stands for other files, or somebody else pushed meanwhile.
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
    benchmark = read_benchmark(dataset, token) if dataset else None
    files = release(run, repository.id, license, also, segmenter, benchmark)  # a bad run is refused before a login
    push = Push(repository, files, _message(run), private, version)
    if dry_run:
        return push
    whoami_writer(api, owner)
    if segmenter:
        check_lungs(run.data.get("segmenter"), segmenter, run.path, token)
    check_metadata(ModelCard(bytes_of(files[CARD_NAME]).decode()), token)
    return _send(push, replace)


def _message(run: RunFolder) -> str:
    """Return the title of the commit: the task, and the main metric over all of the test split."""
    name, group = run.results["main_metric"], run.results["metrics"]["all"]
    value = group[name]["value"]
    shown = "undefined" if value is None else f"{value:.3f}"
    return f"{run.config.task}, {name} {shown} on {group['n']} X-rays of the {run.results['split']} split"


def check_push(
    repo_id: str,
    kind: str,
    *,
    license: str | None,
    private: bool = True,
    segmenter: str | None = None,
    lungs_digest: str | None = None,
) -> str:
    """Return the whole id of the repository that a run not trained yet may be pushed to; nothing is sent.

    `kind` is `kind_of` the model to come, `lungs_digest` that of the lung model that it will be trained with. The rest
    is as in `push_model`.

    Raises:
        PermissionError, ConnectionError, ValueError: as `push_model`, where it would refuse any such run.
    """
    api = HfApi()
    license = required_license(license)
    owner, _, name = repo_id.rpartition("/")
    validate_repo_id(f"{owner or 'owner'}/{name}")
    repository = Repository(api, f"{whoami_writer(api, owner or None)}/{name}")
    check_metadata(ModelCard(f"---\nlicense: {license}\n---\n"), None)
    if segmenter:
        check_lungs(lungs_digest, segmenter, repository.id, None)
    if (head := repository.head()) is not None:
        _check_head(repository, head, private)
        _check_held(repository, head, kind)
    return repository.id


def check_lungs(digest: str | None, segmenter: str, trained: str | Path, token: str | None) -> None:
    """Raise ValueError where the lung model on the Hub is not that of `digest`, with which `trained` sees lungs."""
    if digest and RunFolder.read(pull_model(segmenter, token=token)).digest != digest:
        known = f"trained and tested with the lungs that model {digest[:16]} finds"
        raise ValueError(f"{trained} was {known}, which is not {segmenter}: push that one there, or name its id")


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
        _check_all(push, known, replace_others)
    head = repository.create(push.private)
    if known is None or head.commit != known.commit:  # somebody else was quicker
        _check_all(push, head, replace_others)
    commit, is_new = repository.commit(push.files, push.message, head)
    if push.version:
        repository.tag(push.version, commit)
    return replace(push, commit=commit, is_new=is_new)


def _check_all(push: Push, head: Head, replace_others: bool) -> None:
    _check_head(push.repository, head, push.private)
    _check_version(push, head)
    if not replace_others:
        _check_held(push.repository, head, _kind(bytes_of(push.files["config.json"])))


def _check_head(repository: Repository, head: Head, private: bool) -> None:
    """Raise ValueError where the visibility differs."""
    if head.private != private:
        wanted, way = ("private", "or pass --public") if private else ("public", "or leave out --public")
        raise ValueError(f"{repository.url} is not {wanted}: make it so on its settings page, {way}")


def _check_version(push: Push, head: Head) -> None:
    """Raise ValueError where the version is taken."""
    repository = push.repository
    if push.version and (there := repository.head(push.version)) is not None:
        ours = {path: digests_of(one) for path, one in push.files.items()}
        if there.commit != head.commit or any(differences(ours, head)):
            raise ValueError(f"{repository.id} has {push.version} for other files: pass another --version")


def _check_held(repository: Repository, head: Head, kind: str) -> None:
    """Raise ValueError where files or a model of another kind would be lost."""
    way = "pass another --repo_id, or --replace to take its place"
    held = {path for path in head.digests if path != HUB_FILE and not path.startswith(".eval_results/")}
    if others := sorted(held - MAY_BE_SENT):
        raise ValueError(f"{repository.url} holds {others[0]}, which no push of a model sent: {way}")
    if "config.json" in held:
        with plain_errors("reading", f"model {repository.id}", repository.api.token):
            path = retried(_download_config, repository, head.commit, secret=repository.api.token)
        if (theirs := _kind(path.read_bytes())) != kind:
            raise ValueError(f"{repository.url} holds another model ({theirs}, not {kind}): {way}")


def _download_config(repository: Repository, commit: str) -> Path:
    return Path(repository.api.hf_hub_download(repository.id, "config.json", revision=commit))


def _kind(text: bytes) -> str:
    """Return task and architecture of a model by its config.json, which may be damaged or another project's."""
    task, architectures = "no task of ours", ["unknown"]
    with suppress(ValueError, RecursionError, LookupError, TypeError):
        config = json.loads(text)
        architectures = [str(one) for one in config["architectures"]]
        task = str(config[SETTINGS_KEY]["task"])
    return kind_of(task, architectures)


def kind_of(task: str, architectures: Sequence[str]) -> str:
    """Return what a model is, by which pushes tell one from another."""
    return f"{task} by {', '.join(architectures)}"
