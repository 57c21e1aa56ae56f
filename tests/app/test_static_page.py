"""The static page in a real Chromium: the numbers of the Python reader, without a request once it is loaded."""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import SpaceCard
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from tiny import dicom, png

from hub_models.app.npm import NPM_PACKAGES, fetched
from hub_models.app.static_page import build_static, push_static
from hub_models.dataset.phantoms import render_phantom
from hub_models.imaging.flags import Flag
from hub_models.metrics import count_overlap, dice
from hub_models.models.onnx_model import digest_of_graph
from hub_models.models.out_of_distribution import OutOfDistribution
from hub_models.predict.export import export_model
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs.config import TrainConfig

WAIT = 120_000  # milliseconds on a busy machine
UNTOLD = {Flag.ONE_LUNG}  # flags that the page does not raise


class Served(NamedTuple):
    """The page under test: its address, folder and server, the paths asked for, and the reader of the same models."""

    url: str
    folder: Path
    server: ThreadingHTTPServer
    paths: list[str]
    reader: ChestXrayReader


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Callable[[Path], Path]:
    """What exports a run; the test is skipped where npm's packages are neither in the cache nor to be fetched."""
    try:
        for package in NPM_PACKAGES:
            fetched(package)
    except ConnectionError as error:
        pytest.skip(str(error))
    return lambda run: export_model(run, tmp_path_factory.mktemp("exported") / run.name)


@pytest.fixture(scope="module")
def runs(make_run, tiny_segformer, tiny_resnet, tmp_path_factory) -> tuple[Path, Path]:
    """A lung model that knows features by a distribution, and a TB model of the lungs, both with random weights."""
    root = tmp_path_factory.mktemp("runs")
    lungs = make_run(TrainConfig("data", str(root / "lungs"), model=str(tiny_segformer), image_size=64), seed=2)
    OutOfDistribution(np.zeros(56), np.eye(56), 0.5, 30).save(lungs)  # 24 + 32 channels of the last two stages
    options = {"model": str(tiny_resnet), "image_size": 64, "region": "lungs"}
    return lungs, make_run(TrainConfig("data", str(root / "tb"), "tb_classification", **options))


class serving:
    """A folder on the loopback address; the paths asked for are noted."""

    def __init__(self, folder: Path) -> None:
        self.paths: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            def log_request(handler, *_: object) -> None:
                self.paths.append(handler.path)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def served(runs, export, tmp_path_factory) -> Iterator[Served]:
    folder = build_static(tmp_path_factory.mktemp("built") / "page", *map(export, runs))
    site = serving(folder)
    yield Served(site.url, folder, site.server, site.paths, ChestXrayReader(*runs))
    site.stop()


@pytest.fixture
def page(served: Served, browser: Browser) -> Iterator[Page]:
    """A visitor's tab, ready to read, that must be left without errors."""
    with visit(browser, served.url) as tab:
        yield tab


class visit:
    """A new visitor's tab."""

    def __init__(self, browser: Browser, url: str, **options: object) -> None:
        self.context, self.url, self.errors = browser.new_context(**options), url, []

    def __enter__(self) -> Page:
        tab = self.context.new_page()
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.set_default_timeout(WAIT)
        tab.goto(self.url)
        tab.wait_for_selector("body[data-state=ready]")
        return tab

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.context.close()
        assert kind is not None or not self.errors


def drop(tab: Page, name: str, data: bytes) -> None:
    tab.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": data})
    expect(tab.locator("#result .name, #result .problem p")).to_contain_text(name, timeout=WAIT)


def probability(tab: Page) -> float:
    return float(tab.get_attribute("#result .reading", "data-probability"))


def downloaded(tab: Page, title: str) -> bytes:
    with tab.expect_download() as download:
        tab.click(f"#files a:text-is('{title}')")
    return Path(download.value.path()).read_bytes()


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def turned_png(gray: np.ndarray, orientation: int) -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(gray).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def forms(count: int, height: int = 331, width: int = 297) -> dict[str, bytes]:
    """Phantoms by name, each in the next of the forms that X-rays come in."""
    found = {}
    for number in range(count):
        site = ("Shenzhen", "Montgomery")[number % 2]
        gray = render_phantom(number, site, number % 3 == 0, (height, width)).image
        every = forms_of(gray if gray.ndim == 2 else gray[..., 0])
        name = list(every)[number % len(every)]
        found[f"{number}-{name}"] = every[name]
    return found


def forms_of(gray: np.ndarray) -> dict[str, bytes]:
    """An X-ray (H, W) uint8 as a file of each form, some with a flag."""
    rng = np.random.default_rng(0)
    deep = (gray.astype(np.uint16) << 4) + rng.integers(0, 16, gray.shape, np.uint16)  # 12 bits
    colours = np.stack([gray, gray, np.minimum(gray, 200)], -1)
    turned = Image.Exif()
    turned[0x0112] = 6
    window = {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 2, "RescaleIntercept": 9}
    padded = np.where(gray < 60, 4095, deep).astype(np.uint16)
    return {
        "gray.png": png(gray),
        "palette.png": png(gray, "P"),
        "rgb.png": png(gray, "RGB"),
        "deep.png": png(deep),
        "16-bit.png": png(deep * 16),
        "gray.jpg": jpeg(Image.fromarray(gray)),
        "colour.jpg": jpeg(Image.fromarray(colours)),
        "deep.dcm": dicom(deep, Modality="DX"),
        "monochrome1.dcm": dicom(4095 - deep, photometric="MONOCHROME1", Modality="CR"),
        "window.dcm": dicom(deep, **window),
        "signed.dcm": dicom(deep.astype(np.int16) - 2048, signed=True, PatientOrientation=["R", "F"]),
        "padding.dcm": dicom(padded, PixelPaddingValue=4095),
        "turned.jpg": jpeg(Image.fromarray(gray), exif=turned),
        "alpha.png": png(np.dstack([gray, gray, gray, 255 - gray])),
        "noise.png": png(rng.integers(0, 256, gray.shape, np.uint8)),
        "blank.png": png(np.full_like(gray, 90)),
        "inverted.png": png(255 - gray),
        "byte.dcm": dicom(gray, bits=8, BodyPartExamined="SKULL", BurnedInAnnotation="YES"),
        "1-bit.png": png(gray > 128),
        "colour.png": png(colours),
        "narrow.dcm": dicom(deep, WindowCenter=128, WindowWidth=256),
        "inverse.dcm": dicom(deep, PresentationLUTShape="INVERSE"),
        "turned.png": turned_png(gray, 8),
        "mirrored.png": turned_png(gray, 5),
        "windows.dcm": dicom(deep, WindowCenter=[9, 2000], WindowWidth=[2, 3000]),
    }


@pytest.mark.slow
def test_numbers_are_those_of_the_reader(page: Page, served: Served) -> None:
    """Masks, probabilities and flags of 25 phantoms in 25 forms; prints the page's time over the reader's."""
    ratios = []
    for name, data in forms(25).items():
        started = time.perf_counter()
        xray = served.reader.decode(data, name)
        (found,) = served.reader.read_decoded([xray])
        seconds = time.perf_counter() - started
        drop(page, name, data)
        mask = np.asarray(Image.open(io.BytesIO(downloaded(page, "Mask (PNG)"))))
        assert mask.shape == found.mask.shape and mask.dtype == bool, name
        assert dice(count_overlap(mask, found.mask)) >= 0.99 or not (mask.any() or found.mask.any()), name
        assert probability(page) == pytest.approx(found.probability, abs=0.01), name
        told = (page.get_attribute("#result [data-flags]", "data-flags") or "").split()
        assert told == [str(code) for code in found.flag_codes if code not in UNTOLD], name
        ratios.append(float(page.get_attribute("#result", "data-milliseconds")) / 1000 / seconds)
    print(f"\npage over reader, median of {len(ratios)}: {np.median(ratios):.1f}")


@pytest.mark.slow
def test_x_ray_of_native_size_is_read_alike(page: Page, served: Served) -> None:
    """Of 20 megapixels; prints the page's time over the reader's."""
    small = Image.fromarray(render_phantom(1, "Montgomery", True, (1005, 1223)).image).convert("L")
    data = png(np.asarray(small.resize((4892, 4020))))
    started = time.perf_counter()
    (found,) = served.reader.read(data)
    seconds = time.perf_counter() - started
    drop(page, "native.png", data)
    mask = np.asarray(Image.open(io.BytesIO(downloaded(page, "Mask (PNG)"))))
    assert mask.shape == (4020, 4892) and dice(count_overlap(mask, found.mask)) >= 0.99
    assert probability(page) == pytest.approx(found.probability, abs=0.01)
    taken = float(page.get_attribute("#result", "data-milliseconds")) / 1000
    print(f"\npage over reader, 20 megapixels: {taken / seconds:.1f}")


@pytest.mark.slow
def test_flags_have_the_messages_of_the_reader(page: Page, served: Served) -> None:
    data = forms(15)["14-noise.png"]
    (found,) = served.reader.read(data)
    drop(page, "noise.png", data)
    said = [flag.message for flag in found.flags if flag.code not in UNTOLD]
    shown = page.locator("#result .flags li").all_inner_texts()
    assert len(said) == len(shown) > 1
    assert [one[1:-1] for one in shown] == [one[1:] for one in said]  # as sentences


@pytest.mark.slow
def test_nothing_is_sent_once_the_page_is_loaded(served: Served, browser: Browser, tmp_path: Path) -> None:
    with visit(browser, served.url) as tab:
        asked = []
        tab.context.on("request", lambda request: asked.append(request.url))
        before = len(served.paths)
        for name, data in list(forms(9).items())[::4]:
            drop(tab, name, data)
            downloaded(tab, "Report (HTML), printable")
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == []
        assert len(served.paths) == before
        site = serving(tmp_path)  # another origin, to which the page's policy lets nothing go
        for attempt in (
            f"fetch('{site.url}')",
            f"navigator.sendBeacon('{site.url}', 'x') ? 1 : Promise.reject()",
            f"new Promise((done, fail) => {{ Object.assign(new Image(), {{ src: '{site.url}', onerror: fail }}); }})",
            f"import('{site.url}x.js')",
        ):
            tab.evaluate(f"Promise.resolve().then(() => {attempt}).then(() => 'sent', () => 'refused')")
        time.sleep(0.5)
        site.stop()
        assert site.paths == []


@pytest.mark.slow
def test_loaded_page_reads_without_its_server(runs, export, browser: Browser, tmp_path: Path) -> None:
    site = serving(build_static(tmp_path / "page", export(runs[0])))  # lungs alone
    with visit(browser, site.url) as tab:
        site.stop()
        tab.context.set_offline(True)
        tab.reload()
        tab.wait_for_selector("body[data-state=ready]")
        drop(tab, "x.png", forms(1)["0-gray.png"])
        assert tab.get_attribute("#result .reading", "data-probability") == ""
        assert downloaded(tab, "Mask (PNG)")[:4] == b"\x89PNG"
        tab.click(".example >> nth=1")
        expect(tab.locator("#result .name")).to_contain_text("Normal 2", timeout=WAIT)


@pytest.mark.slow
def test_what_cannot_be_read_is_refused_in_words(page: Page) -> None:
    sound = forms(8)
    for name, data, said in (
        ("notes.png", b"not an image", "This is not an image that the page reads"),
        ("cut.png", sound["0-gray.png"][:-400], "damaged"),
        ("cut.jpg", sound["5-gray.jpg"][:300], "damaged"),
        ("cut.dcm", sound["7-deep.dcm"][:-400], "cut off"),
        ("dot.png", png(np.zeros((4, 4), np.uint8)), "4x4 pixels, too few"),
        ("ct.dcm", dicom(np.zeros((64, 64), np.uint16), Modality="CT"), "another modality"),
        ("<b>x</b>.png", b"not an image", "<b>x</b>.png could not be read"),
    ):
        drop(page, name, data)
        problem = page.locator("#result [role=alert]")
        expect(problem).to_contain_text(said)
        assert page.locator("#files a, #result b").count() == 0
    drop(page, "again.png", sound["0-gray.png"])  # and the page still reads
    assert 0 < probability(page) < 1


@pytest.mark.slow
def test_report_needs_no_other_file(page: Page, served: Served) -> None:
    drop(page, "<i>.png", forms(1)["0-gray.png"])
    report = downloaded(page, "Report (HTML), printable").decode()
    assert "&#60;i&#62;.png" in report and "<i>.png" not in report and "not a medical device" in report
    assert report.count('src="data:image/jpeg') == 2 and "<script" not in report
    assert not re.search(r'(src|href)="(?!data:)', report)
    digest = json.loads((served.folder / "page.json").read_text())["models"]["lungs"]["digest"]
    assert digest[:16] in report


@pytest.mark.slow
def test_page_fits_a_phone_and_obeys_the_keyboard(served: Served, browser: Browser) -> None:
    with visit(browser, served.url, viewport={"width": 360, "height": 780}) as tab:
        opened = []
        tab.on("filechooser", lambda dialog: opened.append(dialog))
        names = []
        for _ in range(6):
            tab.keyboard.press("Tab")
            names.append(tab.evaluate("document.activeElement.id || document.activeElement.innerText.trim()"))
        assert names[:3] == ["file", "Normal 1", "Normal 2"]
        tab.focus("#file")
        tab.keyboard.press("Enter")
        tab.focus(".example >> nth=2")
        tab.keyboard.press("Enter")
        expect(tab.locator("#result .name")).to_contain_text("Tuberculosis 1", timeout=WAIT)
        assert tab.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        expect(tab.locator("#result .verdict")).to_be_in_viewport()
        tab.focus(".views input:checked")
        tab.keyboard.press("ArrowRight")
        assert tab.locator(".view-2 img").is_visible() and not tab.locator(".view-1 img").is_visible()
        assert opened
        for role, name in (("button", "Normal 1"), ("radio", "Lungs"), ("img", "Probability")):  # as a screen reader
            assert tab.get_by_role(role, name=name).count() >= 1
        assert tab.get_by_label("Chest X-ray: PNG, JPEG or uncompressed DICOM").count() == 1
        assert "not a medical device" in tab.inner_text("#head") and tab.locator("#limits li").count() > 5
        assert tab.get_attribute("#result", "aria-live") == "polite"


@pytest.mark.slow
def test_static_space_is_pushed_to_the_hub(runs, export, hub, as_user, browser: Browser, tmp_path: Path) -> None:
    models = [str(export(run)) for run in runs]
    with as_user("alice"):
        said = push_static("alice/page", *models, license="apache-2.0", dry_run=True)
        assert said.startswith("would go to the Space alice/page (private):") and "index.html" in said
        assert push_static("alice/page", *models, license="apache-2.0").endswith("/spaces/alice/page")
        info = huggingface_hub.HfApi().repo_info("alice/page", repo_type="space")
        assert info.private
        push_static("alice/page", *models, license="apache-2.0")  # nothing new
        assert huggingface_hub.HfApi().repo_info("alice/page", repo_type="space").sha == info.sha
        pulled = Path(huggingface_hub.snapshot_download("alice/page", repo_type="space"))
        hub.create("alice/game", {"game.py": b"x"}, "space", private=True)
        with pytest.raises(ValueError, match="holds game.py and not this static page"):
            push_static("alice/game", *models, license="apache-2.0")
    data = SpaceCard.load(pulled / "README.md").data
    assert (data.sdk, data.app_file, data.license) == ("static", "index.html", "apache-2.0")
    site = serving(pulled)
    with visit(browser, site.url) as tab:
        drop(tab, "x.png", forms(1)["0-gray.png"])
        assert 0 < probability(tab) < 1
    site.stop()


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_every_kind_of_model_is_read_alike(
    fit: str, export, make_run, tiny_segformer, tiny_resnet, browser: Browser, tmp_path: Path
) -> None:
    shape = {"image_size": 64, "fit": fit}
    lungs = make_run(TrainConfig("data", str(tmp_path / "lungs"), model=str(tiny_segformer), **shape), seed=2)
    options = {"model": str(tiny_resnet), **shape}
    of_tb = TrainConfig("data", str(tmp_path / "tb"), "tb_classification", **options)
    tb = make_run(of_tb, synthetic=int(fit == "pad"))
    config = json.loads((lungs / "config.json").read_text())
    config["chest_xray_masks"]["two_lungs"] = True
    (lungs / "config.json").write_text(json.dumps(config))
    reader, site = ChestXrayReader(lungs, tb), serving(build_static(tmp_path / "page", export(lungs), export(tb)))
    with visit(browser, site.url) as tab:
        told = "Tuberculosis model: trained on synthetic X-rays" in tab.locator("body").inner_text()
        assert told == (fit == "pad")
        for name, data in list(forms(8, 201, 333).items())[::3]:
            (found,) = reader.read(data)
            drop(tab, name, data)
            mask = np.asarray(Image.open(io.BytesIO(downloaded(tab, "Mask (PNG)"))))
            assert dice(count_overlap(mask, found.mask)) >= 0.99 or not (mask.any() or found.mask.any())
            assert probability(tab) == pytest.approx(found.probability, abs=0.01)
    site.stop()


def test_page_is_written_again_and_other_files_are_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("hub_models.app.static_page.vendor", lambda folder: folder.mkdir())
    first = build_static(tmp_path / "page")
    held = {path.relative_to(first) for path in first.rglob("*")}
    (first / "index.html").write_text("older")
    assert {path.relative_to(first) for path in build_static(first).rglob("*")} == held
    assert (first / "index.html").read_text() != "older"
    (first / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds notes.txt, which belongs to no static page"):
        build_static(first)


def test_what_the_page_cannot_read_with_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tb"
    folder.mkdir()
    (folder / "model.onnx").touch()
    values = {"format": 1, "task": "tb_classification", "resample": "box", "views": 1, "region": "lungs", "name": "tb"}
    values |= {"digest": "", "graph": digest_of_graph(folder), "segmenter": None, "synthetic": False, "version": ""}
    values |= {"precision": "fp32", "image_size": 64, "fit": "pad", "temperature": 1.0, "threshold": 0.5, "labels": []}
    values |= {"two_lungs": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}

    def refused(said: str, **changed: object) -> None:
        (folder / "preprocessing.json").write_text(json.dumps(values | changed))
        with pytest.raises(ValueError, match=said):
            build_static(tmp_path / "page", classifier=folder)

    refused("sees lungs only: pass a segmenter")
    refused("has views 5, the static page reads 1 there", views=5)
    refused("has task lung_segmentation, .* reads tb_classification", task="lung_segmentation")
    refused("has resample lanczos, .* reads bilinear or box", resample="lanczos")
    refused("has format 2, ", format=2)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_static(tmp_path / "page", tmp_path / "nowhere")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "own.txt").touch()
    with pytest.raises(FileExistsError, match="own.txt, which belongs to no static page"):
        build_static(tmp_path / "page", classifier=folder)
