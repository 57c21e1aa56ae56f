"""The page with models of random weights, served by the test's own process."""

import socket
from collections.abc import Iterator
from threading import Event

import pytest
from playwright.sync_api import Browser, Page
from visitors import WAIT, Held, Served, visit

from hub_models.app import page as app
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs.config import TrainConfig


@pytest.fixture(scope="module")
def folders(make_run, tiny_segformer, tiny_resnet, phantoms, tmp_path_factory) -> tuple[str, str]:
    """A lung model whose masks take about half of an X-ray, and a TB model of the lungs, both with random weights."""
    root = tmp_path_factory.mktemp("runs")
    lungs = make_run(TrainConfig("data", str(root / "lungs"), model=str(tiny_segformer), image_size=64))
    trained = TrainedModel.from_run(lungs)
    model, xray = trained.model, next(phantoms.rglob("CXR_png/*.png"))
    low, high = -10.0, 10.0
    for _ in range(20):  # bias of "lung" at which half of the X-ray is
        model.decode_head.classifier.bias.data[1] = (low + high) / 2
        low, high = (low, (low + high) / 2) if trained(xray).mean() > 0.5 else ((low + high) / 2, high)
    model.save_pretrained(lungs)
    options = {"model": str(tiny_resnet), "image_size": 64, "region": "lungs"}
    return str(lungs), str(make_run(TrainConfig("data", str(root / "tb"), "tb_classification", **options)))


@pytest.fixture(scope="module")
def served(folders: tuple[str, str]) -> Iterator[Served]:
    """The page, served by this process, whose connections to anywhere are noted."""
    called: set[str] = set()

    def connect(self: socket.socket, address: tuple) -> None:
        called.add(str(address[0]))
        return connects(self, address)

    connects = socket.socket.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "EXAMPLE_SIZE", (96, 84))  # quick to draw
        patch.setattr(socket.socket, "connect", connect)
        page = app.Page.of(*folders)
        with app.serving(page) as (url, folder):
            yield Served(url, folder, page, called, ChestXrayReader(*folders))


@pytest.fixture
def page(served: Served, browser: Browser) -> Iterator[Page]:
    """A visitor's tab, which may ask this server only and must be left without errors."""
    with visit(browser, served) as tab:
        yield tab


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """What holds the reading of X-rays until it is let go, and notes their names."""
    read, one = app.Page.read, Held(Event(), Event(), [])

    def wait(page: app.Page, data: bytes, name: str) -> app.view.Report:
        one.names.append(name)
        one.is_busy.set()
        assert one.may_go.wait(WAIT / 1000)
        return read(page, data, name)

    monkeypatch.setattr(app.Page, "read", wait)
    yield one
    one.may_go.set()
