"""What every test needs: no network, a cache of its own, the real X-rays where CHEST_XRAY_DATA says they are."""

import atexit
import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read when the libraries are imported, so set before any import of them.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "TOKENIZERS_PARALLELISM": "false"}
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_home_")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of a thousand programs would compile this project again

import pytest  # noqa: E402

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub
    from playwright.sync_api import Browser

LONGEST = [
    "test_docs.py",
    "test_demo.py",
    "test_figures.py",
    "test_space.py",
    "test_page.py",
    "test_backends.py",
    "test_train.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, so that in the end no worker is left alone with one of them."""
    items.sort(key=lambda item: [*LONGEST, item.path.name].index(item.path.name))


def pytest_collection_finish() -> None:
    """Keep what libraries made from every later collection of garbage, which takes a tenth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Return the folder of the real X-rays; skip the test, saying so, where CHEST_XRAY_DATA does not name it."""
    if not (named := os.environ.get("CHEST_XRAY_DATA")):
        pytest.skip("no real X-rays: CHEST_XRAY_DATA is not set to their folder")
    return Path(named).resolve(strict=True)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 60 small synthetic X-rays."""
    from hub_models.dataset.phantoms import write_phantoms  # the legacy environment lacks scipy

    return write_phantoms(tmp_path_factory.mktemp("set") / "phantoms", 24, 36, image_size=80, seed=1)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 54 X-rays of noise, both sites in all three splits; its first ids lack a mask, a reading, an age."""
    import tiny

    import chest_xray_masks as cxm

    ids = []
    for form in ("MCUCXR_{:04d}_0", "CHNCXR_{:04d}_1"):
        some = [form.format(number) for number in range(1, 101)]
        for split, count in {"train": 18, "validation": 4, "test": 5}.items():
            ids += [id for id in some if cxm.split_of(id[:-2]) == split][:count]
    first, second, third, *_ = sorted(ids)
    files = tiny.kaggle(tuple(ids), top="")
    del files[f"masks/{tiny.mask_name(first)}"], files[f"ClinicalReadings/{second}.txt"]
    files[f"ClinicalReadings/{third}.txt"] = b"male\nnormal"
    return tiny.write_tree(files, tmp_path_factory.mktemp("tiny") / "set")


@pytest.fixture(scope="session")
def tiny_segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the config of a SegFormer small enough for tests, to be trained from scratch."""
    from transformers import SegformerConfig

    folder = tmp_path_factory.mktemp("tiny_segformer")
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32}
    SegformerConfig(**sizes, num_attention_heads=[1, 1, 2, 4]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the config of a ResNet small enough for tests, to be trained from scratch."""
    from transformers import ResNetConfig

    folder = tmp_path_factory.mktemp("tiny_resnet")
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the config of a ViT small enough for tests, to be trained from scratch."""
    from transformers import ViTConfig

    folder = tmp_path_factory.mktemp("tiny_vit")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    ViTConfig(**sizes, image_size=32, patch_size=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """What makes a run folder as training leaves it, its weights random: (config, seed, ids of each split) to it."""
    import torch

    from hub_models.files import write_json
    from hub_models.models.architectures import build
    from hub_models.models.image_processors import image_processor_for
    from hub_models.models.settings import Settings
    from hub_models.models.tasks import TASKS
    from hub_models.models.trained_model import save_model
    from hub_models.runs.config import TrainConfig

    def make(config: TrainConfig, seed: int = 3, **ids: Any) -> Path:
        folder, task = Path(config.output_dir), TASKS[config.task]
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        model = build(task.kind, config.model, True, task.labels, config.image_size)
        Settings(config.task, config.image_size, config.fit, config.region).store(model)
        save_model(model, folder)
        image_processor_for(task.kind, config.model, True, config.image_size).save_pretrained(folder)
        config.save(folder)
        data = {"fingerprint": "", "train": [], "validation": [], "test": [], "earlier": []}
        write_json(data | ids, folder / "data.json")
        return folder

    return make


@pytest.fixture(scope="session")
def finish() -> Callable[..., Path]:
    """What makes of a run of `make_run` a finished one: tested on its X-rays, as training ends."""
    from accelerate import Accelerator

    from hub_models.evaluation.evaluate import Evaluated, write_report
    from hub_models.evaluation.measure import measure
    from hub_models.files import write_json
    from hub_models.models.trained_model import TrainedModel
    from hub_models.runs.config import TrainConfig
    from hub_models.runs.data import describe, load_run_splits
    from hub_models.runs.run_folder import DATA_NAME

    def finish(folder: Path) -> Path:
        config, accelerator, trained = TrainConfig.load(folder), Accelerator(), TrainedModel.from_run(folder)
        splits = load_run_splits(config, accelerator)
        rows = {name: split.rows for name, split in splits.items()}
        write_json(describe(config, rows), folder / DATA_NAME)
        per_image = measure(trained, splits["test"], accelerator)
        evaluated = Evaluated(config, "test", per_image, rows["test"], lambda id: trained)
        write_report(folder, evaluated, accelerator, {"splits": {name: len(one) for name, one in rows.items()}})
        return folder

    return finish


@pytest.fixture(scope="session")
def finished_run(
    make_run: Callable[..., Path],
    finish: Callable[..., Path],
    phantoms: Path,
    tiny_resnet: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Folder of a finished run of a TB model on phantoms, its weights random; copy it to change it."""
    from hub_models.runs.config import TrainConfig

    folder = tmp_path_factory.mktemp("trainers_machine") / "tb"
    options = {"model": str(tiny_resnet), "from_scratch": True, "image_size": 32, "keep": "last"}
    return finish(make_run(TrainConfig(str(phantoms), str(folder), "tb_classification", **options)))


@pytest.fixture(scope="session")
def real_runs(real_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a lung and a TB model that see whole X-rays, trained for some epochs on the real ones: minutes."""
    from hub_models.runs.config import TrainConfig
    from hub_models.training.train import train

    folder, data = tmp_path_factory.mktemp("real"), str(real_data_dir)
    options = {"from_scratch": True, "tracker": "none", "epochs": 5, "ema": 0.9}
    lungs = {"model": "segformer-light", "image_size": 64, "batch_size": 4, "learning_rate": 1.5e-3}
    tb = {"model": "resnet-light", "image_size": 96, "batch_size": 16, "learning_rate": 2e-3}
    train(TrainConfig(data, str(folder / "lungs"), **options, **lungs))
    train(TrainConfig(data, str(folder / "tb"), "tb_classification", **options, **tb))
    return folder / "lungs", folder / "tb"


@pytest.fixture
def hub() -> "Iterator[LoopbackHub]":
    """A Hub on the loopback address, empty, that serves until the test ends."""
    from loopback_hub import LoopbackHub

    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def gone_hub() -> "Iterator[LoopbackHub]":
    """A Hub that does not answer; its port stays taken, so that no other hub of these tests is met there."""
    from loopback_hub import LoopbackHub

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))

        class Gone(LoopbackHub):
            port = held.getsockname()[1]

        yield Gone()


@pytest.fixture
def as_user(
    hub: "LoopbackHub", tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[Path]]:
    """What makes the real clients of this process use `hub`: `with as_user("alice") as home:`.

    Arguments: the user's name, None for one who is not logged in; `role`, "write" or "read"; `xet`, False for plain
    LFS; `short_sleeps`, False to wait between retries as users do; `home`, else a fresh folder for all caches and the
    value of the `with`. Inside it, huggingface_hub, datasets, transformers and hf_xet go to the hub, although
    HF_HUB_OFFLINE is set for all other tests; what is changed, and put back at the end, is told in
    `loopback_hub.clients_of`. A subprocess takes `hub.environment(hub.add_user("alice"), home)` instead.
    """
    from loopback_hub import clients_of

    def clients(
        name: str | None = "alice",
        role: str = "write",
        xet: bool = True,
        short_sleeps: bool = True,
        home: Path | None = None,
    ) -> AbstractContextManager[Path]:
        token = hub.add_user(name, role) if name else None
        return clients_of(hub, token, home or tmp_path_factory.mktemp("home"), xet, short_sleeps)

    return clients


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Debian's Chromium, without a window; the test is skipped, saying so, where it is not installed."""
    from pages import start_browser
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = start_browser(playwright)
        yield running
        running.close()


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of somebody who is logged in as `you` to a Hub, that of the tests."""
    from loopback_hub import LoopbackHub

    with LoopbackHub() as hub:
        yield hub.environment(hub.add_user("you"), tmp_path_factory.mktemp("home"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's files, with this environment as its `.venv`, for the commands of its Makefile."""
    from launch import ROOT

    root = tmp_path / "project"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    environment = root / ".venv"
    environment.symlink_to(sys.prefix)
    if not (environment / ".installed").exists():
        pytest.skip("not in the environment that `make install` makes")
    for name in ("constraints.txt", "pyproject.toml"):
        os.utime(root / name, (0, 0))  # older than .installed: nothing to install
    return root
