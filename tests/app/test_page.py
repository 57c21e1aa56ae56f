"""The page in a real Chromium: what a user drops, waits for, reads and takes home, and that nothing of it is kept."""

import asyncio
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import httpx
import numpy as np
import pytest
from pages import free_port
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from scipy.ndimage import binary_dilation
from tiny import dicom, png
from visitors import WAIT, Held, Served, drop, visit, wait_for

from hub_models.app import backlog
from hub_models.app import page as app
from hub_models.imaging.masks import keep_two_lungs
from hub_models.models.saliency import saliency

ROOT = Path(__file__).parents[2]
ORANGE = (255, 160, 20)


def probability(tab: Page) -> float:
    return float(tab.get_attribute("#result .reading", "data-probability"))


def picture(tab: Page, number: int) -> np.ndarray:
    """(h, w, 3) of a picture as it stands on the screen."""
    shot = tab.locator(f".view-{number} img").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def phantom(phantoms: Path, site: str, number: int = 0) -> Path:
    return sorted(phantoms.rglob(f"CXR_png/{site}*.png"))[number]


def kept(folder: Path) -> list[Path]:
    """Files that hold anything."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def test_dropped_x_ray_is_read_and_forgotten(page: Page, served: Served, phantoms: Path) -> None:
    xray = phantom(phantoms, "CHN")
    (found,) = served.reader.read(xray)
    drop(page, xray)
    wait_for(page, xray.name)
    assert probability(page) == pytest.approx(found.probability, abs=1e-6)
    verdict = page.inner_text("#result .verdict")
    assert f"{found.probability:.2f}" in verdict and f"threshold {found.threshold:.2f}" in verdict
    assert not kept(served.folder)  # no byte of it, by now
    # the outline: where the mask ends, in squares of 8 pixels, and nowhere else but in those around
    overlay = picture(page, 1)
    height, width = overlay.shape[:2]
    lungs = np.pad(np.asarray(Image.fromarray(found.mask).resize((width, height), Image.Resampling.NEAREST)), 1)
    rim = np.zeros_like(lungs)
    rim[:, 1:] |= lungs[:, 1:] != lungs[:, :-1]
    rim[1:] |= lungs[1:] != lungs[:-1]
    is_orange = abs(overlay - ORANGE).max(-1) < 60
    ends, drawn = (
        np.asarray(Image.fromarray(np.uint8(one) * 255).reduce(8)) > 0 for one in (rim[1:-1, 1:-1], is_orange)
    )
    assert ends.sum() > 100 and (drawn & ends).sum() > 0.9 * ends.sum()
    assert not (drawn & ~binary_dilation(ends, np.ones((3, 3)), border_value=1)).any()


@pytest.mark.slow
def test_saliency_is_shown_where_it_is(page: Page, served: Served, phantoms: Path) -> None:
    xray = phantom(phantoms, "CHN")
    (found,) = served.reader.read(xray)
    expected = saliency(served.reader.classifier, xray, keep_two_lungs(found.mask))  # (H, W)
    drop(page, xray)
    wait_for(page, xray.name)
    page.check(".views .show-2", force=True)
    heat = picture(page, 2)
    page.check(".views .show-3", force=True)
    plain = picture(page, 3)
    changed = abs(heat - plain).max(-1)
    size = (changed.shape[1], changed.shape[0])
    strong = np.asarray(Image.fromarray(expected).resize(size, Image.Resampling.BILINEAR))
    assert (strong > 0.9).any() and (strong == 0).any()
    assert changed[strong > 0.9].mean() > 40 and changed[strong == 0].mean() < 4  # of 255; JPEG blurs a little


@pytest.mark.slow
def test_text_called_png_is_refused_in_words(page: Page, served: Served, phantoms: Path) -> None:
    drop(page, {"name": "notes.png", "mimeType": "image/png", "buffer": b"not an image"})
    wait_for(page, "notes.png")
    said = page.inner_text("#result [role=alert]")
    assert "notes.png could not be read" in said and app.NO_IMAGE in said
    assert page.locator("#files a").count() == 0 and str(served.folder) not in page.content()
    drop(page, {"name": "dot.png", "mimeType": "image/png", "buffer": png(np.zeros((4, 4), np.uint8))})
    wait_for(page, "dot.png")
    assert "4x4 pixels, too few" in page.inner_text("#result [role=alert]")
    assert not kept(served.folder)
    drop(page, phantom(phantoms, "CHN"))  # and the page still reads
    wait_for(page, "CHN")


@pytest.mark.slow
def test_two_users_at_once_get_their_own(page: Page, served: Served, browser: Browser, phantoms: Path) -> None:
    xrays = [[phantom(phantoms, site, number) for number in range(2)] for site in ("CHN", "MCU")]
    expected = {one.name: one.probability for one in served.reader.read([xray for own in xrays for xray in own])}
    assert len(set(expected.values())) == 4
    with visit(browser, served) as other:
        for number in range(2):
            for tab, own in zip((page, other), xrays, strict=True):
                drop(tab, own[number])
            for tab, own in zip((page, other), xrays, strict=True):
                wait_for(tab, own[number].name)
                assert probability(tab) == pytest.approx(expected[own[number].name], abs=1e-6)


@pytest.mark.slow
def test_same_x_ray_of_two_users_at_once_is_read_for_both(
    page: Page, served: Served, browser: Browser, phantoms: Path
) -> None:
    xray = phantom(phantoms, "CHN")
    with visit(browser, served) as other:
        for tab in (page, other):
            drop(tab, xray)
        for tab in (page, other):
            wait_for(tab, xray.name)
            assert tab.locator("#result .reading").count() == 1
    assert not kept(served.folder)


@pytest.mark.slow
def test_x_rays_in_quick_succession_are_all_read(page: Page, served: Served, phantoms: Path) -> None:
    xrays = phantom(phantoms, "CHN"), phantom(phantoms, "MCU"), phantom(phantoms, "CHN", 1)
    drop(page, xrays[0], xrays[0], xrays[1])
    wait_for(page, xrays[1].name)
    drop(page, xrays[2])
    wait_for(page, xrays[2].name)
    assert not kept(served.folder)


@pytest.mark.slow
def test_drop_area_is_cleared_once_so_that_a_file_dropped_next_stays(
    served: Served, phantoms: Path, tmp_path: Path
) -> None:
    async def ask(source: object) -> list[bool]:
        visitor = SimpleNamespace(session_hash="visitor")
        return [update[0] is None async for update in replace(served.page, turn=asyncio.Lock()).show(source, visitor)]

    def cleared(source: object) -> list[bool]:
        with ThreadPoolExecutor() as threads:  # in this one, Playwright has a loop running
            return threads.submit(asyncio.run, ask(source)).result()

    xray = shutil.copy(phantom(phantoms, "CHN"), tmp_path)
    assert cleared({"path": xray}) == [True, False, False]
    assert cleared({"path": xray}) == [True]  # it is lost, as it was taken
    assert cleared(next(iter(served.page.examples))) == [False, False, False]


@pytest.mark.slow
def test_dicom_and_16_bits_come_as_they_are(page: Page, served: Served, phantoms: Path) -> None:
    rng = np.random.default_rng(0)
    gray = np.asarray(Image.open(phantom(phantoms, "MCU")).convert("L")).astype(np.uint16)
    deep = (gray << 4) + rng.integers(0, 16, gray.shape, np.uint16)  # 12 bits
    patient = {"PatientName": "Mustermann^Erika", "PatientID": "4711-0815", "Modality": "DX"}
    for name, data in (("xray", dicom(deep, **patient)), ("deep.png", png(deep))):  # a DICOM file often has no suffix
        (found,) = served.reader.read(data)
        drop(page, {"name": name, "mimeType": "application/octet-stream", "buffer": data})
        wait_for(page, name)
        assert probability(page) == pytest.approx(found.probability, abs=1e-6)
        content = page.content().lower()  # whole, as "4711" may stand in a picture's base64 by chance
        assert "mustermann" not in content and "4711-0815" not in content
    assert not kept(served.folder)


@pytest.mark.slow
def test_files_to_take_home(page: Page, served: Served, phantoms: Path, tmp_path: Path) -> None:
    xray = phantom(phantoms, "MCU")
    (found,) = served.reader.read(xray)
    drop(page, xray)
    wait_for(page, xray.name)
    for title, name in (("Mask (PNG)", "-lungs.png"), ("Report (HTML), printable", "-report.html")):
        with page.expect_download() as download:
            page.click(f"#files a:text-is('{title}')")
        assert download.value.suggested_filename == xray.stem + name
        download.value.save_as(tmp_path / name)
    with Image.open(tmp_path / "-lungs.png") as mask:
        assert mask.mode == "1"
        np.testing.assert_array_equal(np.asarray(mask), found.mask)
    report = (tmp_path / "-report.html").read_text()
    assert xray.name in report and report.count("<img") == 3 and served.folder.name not in report
    assert not kept(served.folder)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 320, 760, 1000])
def test_page_fits_the_width(width: int, served: Served, browser: Browser, phantoms: Path) -> None:
    with visit(browser, served, viewport={"width": width, "height": 844}) as tab:
        fits = "document.scrollingElement.scrollWidth <= innerWidth"
        assert tab.evaluate(fits)
        for name in ("a_very_long_name_" * 8 + ".png", "CHN.png"):
            data = b"" if name.startswith("a") else phantom(phantoms, "CHN").read_bytes()
            drop(tab, {"name": name, "mimeType": "image/png", "buffer": data or b"no image"})
            wait_for(tab, name)
            assert tab.evaluate(fits)
        image = tab.locator(".view-1 img").bounding_box()
        assert image["x"] >= 0 and image["x"] + image["width"] <= width
        if width < 760:  # the answer comes to the reader
            expect(tab.locator("#result .verdict")).to_be_in_viewport()


@pytest.mark.slow
def test_keyboard_is_enough(page: Page) -> None:
    opened, reached = [], {}
    page.on("filechooser", lambda dialog: opened.append(dialog))
    for _ in range(8):
        page.keyboard.press("Tab")
        name = page.evaluate("(one => one.getAttribute('aria-label') || one.innerText)(document.activeElement)")
        reached[name.strip()] = page.evaluate(
            "(one => [getComputedStyle(one).outlineStyle, getComputedStyle(one).boxShadow])(document.activeElement)"
        )
    assert next(iter(reached)).startswith("Click to upload")
    for name in app.EXAMPLE_PHANTOMS:
        assert reached[name] != ["none", "none"]  # focus is seen
    page.focus("#upload button")
    page.keyboard.press("Enter")
    page.focus("#example-2")
    page.keyboard.press("Enter")
    wait_for(page, "Synthetic X-ray, Tuberculosis 1")
    page.focus(".views input:checked")
    assert page.locator(".view-1 img").is_visible() and not page.locator(".view-2 img").is_visible()
    page.keyboard.press("ArrowRight")
    assert page.locator(".view-2 img").is_visible() and not page.locator(".view-1 img").is_visible()
    page.focus("#files a")
    with page.expect_download():
        page.keyboard.press("Enter")
    assert opened  # the dialog that asks for a file


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_told_from_its_ground(scheme: str, served: Served, browser: Browser, phantoms: Path) -> None:
    with visit(browser, served, color_scheme=scheme) as tab:
        drop(tab, {"name": "notes.png", "mimeType": "image/png", "buffer": b"not an image"})
        wait_for(tab, "notes.png")
        ratios = {
            one: contrast(tab, one) for one in ("#head p", "#head .warning", ".hint", ".problem h2", ".problem p")
        }
        drop(tab, phantom(phantoms, "CHN"))
        wait_for(tab, "CHN")
        read = (".name", ".verdict h2", ".probability", ".labels", ".facts li", ".facts dt", ".small", "#files a")
        ratios |= {one: contrast(tab, one) for one in (*read, "#limits li", ".views input:checked + span")}
        assert min(ratios.values()) >= 4.5, ratios  # WCAG 2.1, AA


def contrast(tab: Page, selector: str) -> float:
    """Contrast of an element's text to the ground it stands on. Source: https://www.w3.org/TR/WCAG21/#contrast-minimum."""
    colors = tab.evaluate(
        """selector => {
            let one = document.querySelector(selector)
            const text = getComputedStyle(one).color
            while (one && getComputedStyle(one).backgroundColor.match(/, 0\\)$/)) one = one.parentElement
            return [text, one ? getComputedStyle(one).backgroundColor : "rgb(255, 255, 255)"]
        }""",
        selector,
    )
    light = []
    for color in colors:
        values = np.array([int(value) / 255 for value in re.findall(r"\d+", color)[:3]])
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ (0.2126, 0.7152, 0.0722)))
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.slow
def test_examples_say_that_they_are_synthetic(page: Page, served: Served) -> None:
    assert "of no patient" in page.inner_text("#input")
    for number, name in enumerate(app.EXAMPLE_PHANTOMS):
        page.click(f"#example-{number}")
        wait_for(page, f"Synthetic X-ray, {name}")
    assert "Limits" in page.inner_text("#limits") and page.locator("#limits li").first.is_visible()
    assert not kept(served.folder)


def upload(url: str) -> Path:
    """Where a file that no event takes lies on the server."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nsecret\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with urlopen(Request(f"{url}gradio_api/upload", body, headers)) as answer:
        (path,) = json.load(answer)
    return Path(path)


def test_upload_is_taken_from_the_disk_once(served: Served) -> None:
    page, path = app.Page(None, {}, {}), upload(served.url)
    assert served.folder in path.parents
    first = page.take(path)
    assert first == app.Upload("a.png", b"secret") and not kept(served.folder)
    assert page.take(path) is first  # of another visitor, whose own upload lay at the same place before it was taken
    assert upload(served.url) == path and page.take(path).data == b"secret" and not kept(served.folder)
    del first
    assert page.take(path) is None


def test_upload_that_nobody_reads_is_deleted(
    page: Page, served: Served, folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(served.folder))  # which the next line changes, as it was afterwards
    monkeypatch.setattr(app, "CLEAN_EVERY", 1)
    monkeypatch.setattr(app, "KEPT_AT_MOST", 1)
    with app.serving(app.Page.of(*folders)) as (url, folder):
        assert upload(url).parents[1] == folder
        until(page, lambda: not kept(folder))


def test_upload_that_breaks_off_is_deleted(page: Page, served: Served) -> None:
    url = urlparse(served.url)
    with socket.create_connection((url.hostname, url.port)) as line:
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 9999999\r\n"
        head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        part = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        line.sendall((head + part).encode() + b"secret" * 100_000)
        until(page, lambda: bool(kept(served.folder)))
    (broken,) = kept(served.folder)
    app.delete_broken_uploads(served.folder, 3600)
    assert broken.exists()
    app.delete_broken_uploads(served.folder, -1)
    assert not kept(served.folder)


def test_page_says_what_the_reader_says(served: Served, phantoms: Path) -> None:
    page = app.Page(served.reader, {}, {})
    for site in ("CHN", "MCU"):
        xray = phantom(phantoms, site)
        (expected,) = served.reader.read(xray)
        found = page.read(xray.read_bytes(), xray.name).found
        np.testing.assert_array_equal(found.mask, expected.mask)
        for name in {one.name for one in fields(expected)} - {"mask"}:
            assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-6), name
        assert found.flags == expected.flags


@pytest.mark.slow
def test_x_ray_that_waits_is_forgotten_when_its_tab_is_closed(
    page: Page, served: Served, browser: Browser, phantoms: Path, held: Held
) -> None:
    first, second = phantom(phantoms, "CHN"), phantom(phantoms, "MCU")
    drop(page, first)
    assert held.is_busy.wait(WAIT / 1000)
    with visit(browser, served) as other:
        drop(other, second)
        until(page, lambda: {one.name for one in served.page.uploads.values()} == {first.name, second.name})
    page.wait_for_timeout(2000)  # for the server to see that the tab is closed
    held.may_go.set()
    wait_for(page, first.name)
    until(page, lambda: not served.page.uploads)
    assert held.names == [first.name]


def test_file_that_is_being_read_is_named_and_the_one_before_is_gone(page: Page, phantoms: Path, held: Held) -> None:
    first, second = phantom(phantoms, "CHN"), phantom(phantoms, "MCU")
    held.may_go.set()
    drop(page, first)
    wait_for(page, first.name)
    held.may_go.clear()
    drop(page, second)
    expect(page.locator("#result .nothing")).to_contain_text(f"{second.name}: reading", timeout=WAIT)
    assert page.locator("#result .reading, #files a").count() == 0 and first.name not in page.inner_text("#result")
    held.may_go.set()
    wait_for(page, second.name)


def test_failure_of_the_program_is_told(page: Page, phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.Page, "read", lambda *_: 1 / 0)
    drop(page, phantom(phantoms, "CHN"))
    wait_for(page, "CHN")
    assert "The program failed" in page.inner_text("#result [role=alert]")


def until(tab: Page, condition: Callable[[], bool]) -> None:
    """Wait for what the server is to do."""
    for _ in range(WAIT // 50):
        if condition():
            return
        tab.wait_for_timeout(50)
    raise AssertionError("it did not come to be")


def test_page_warns_of_models_of_phantoms() -> None:
    sound, synthetic = (app.view.ShownModel("m", "0" * 16, value, ()) for value in (False, True))
    for models, warned in (
        ({"Lung model": sound, "Tuberculosis model": sound}, ""),
        ({"Lung model": sound, "Tuberculosis model": synthetic}, "Tuberculosis model: trained on synthetic"),
        ({"Lung model": synthetic, "Tuberculosis model": synthetic}, "Lung model and Tuberculosis model: trained"),
    ):
        head = app.view.head_html(models)
        assert "not a medical device" in head and warned in head and ("synthetic" in head) == bool(warned)


def script(*arguments: str, **variables: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | variables
    command, pipes = [sys.executable, *arguments], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    # Ctrl-C as a terminal has it: where the tests run in the background, programs are made to ignore it
    fresh = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, preexec_fn=fresh, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_script_serves_until_told_and_leaves_nothing(by: int, folders: tuple[str, str], tmp_path: Path) -> None:
    lungs, tb = folders
    options = ("--segmenter", lungs, "--classifier", tb, "--port", str(free_port()))
    running = script("scripts/app.py", *options, TMPDIR=str(tmp_path))
    for line in running.stdout:
        if match := re.search(r"serving at (http://127\.0\.0\.1:\d+/)", line):
            break
    with urlopen(match[1]) as answer:
        assert b"Chest X-ray reader" in answer.read()
    assert list(tmp_path.glob("chest-xray-page-*"))
    running.send_signal(by)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == (0 if by == signal.SIGTERM else 130) and "Traceback" not in said
    assert not list(tmp_path.glob("chest-xray-page-*"))


def test_models_that_cannot_be_had_are_named(folders: tuple[str, str]) -> None:
    for sources, said in (
        (("nowhere", None), "no folder nowhere"),
        ((None, folders[1]), "sees lungs only: pass a segmenter="),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            app.Page.of(*sources)


@pytest.mark.slow
def test_taken_port_and_missing_gradio_are_one_sentence(folders: tuple[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        output, _ = script("scripts/app.py", "--segmenter", folders[0], "--port", port).communicate(timeout=120)
    assert f"error: port {port} cannot be used, perhaps as another page is there: pass another --port\n" in output
    assert "Traceback" not in output
    output, _ = script("scripts/app.py", "--segmenter", folders[0], "--port", "-5").communicate(timeout=120)
    assert "error: port -5 cannot be used" in output and "Traceback" not in output
    hidden = "import sys, runpy; sys.modules['gradio'] = None; sys.argv = ['scripts/app.py', '--segmenter=x']; "
    output, _ = script("-c", hidden + "runpy.run_path('scripts/app.py', run_name='__main__')").communicate(timeout=120)
    assert output == "error: the page needs gradio: pip install 'chest-xray-masks[app]'\n"


def padded(path: Path, size: int, number: int) -> bytes:
    """A PNG of `size` bytes and of no other's content: what follows its end is passed over."""
    data = path.read_bytes()
    return data + number.to_bytes(4) + b"\0" * (size - len(data) - 4)


def test_visitor_beyond_what_the_page_holds_is_told_to_wait(
    page: Page, served: Served, browser: Browser, phantoms: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MOST_BYTES", 150_000)
    xray, name = phantom(phantoms, "CHN"), "a.png"
    drop(page, {"name": name, "mimeType": "image/png", "buffer": padded(xray, 100_000, 1)})
    assert held.is_busy.wait(WAIT / 1000)
    with visit(browser, served) as other:
        drop(other, {"name": "b.png", "mimeType": "image/png", "buffer": padded(xray, 100_000, 2)})
        expect(other.locator("body")).to_contain_text(backlog.FULL)
        assert upload_status(served.url, 100_000) == (503, "60") and upload_status(served.url, 10_000)[0] == 200
        held.may_go.set()
        wait_for(page, name)
        until(page, lambda: not served.page.backlog.files)
        for path in kept(served.folder):
            path.unlink()
        drop(other, {"name": "b.png", "mimeType": "image/png", "buffer": padded(xray, 100_000, 2)})
        wait_for(other, "b.png")
    assert not served.page.backlog.sizes and not served.page.backlog.arriving


def upload_status(url: str, size: int) -> tuple[int, str | None]:
    answer = httpx.post(f"{url}gradio_api/upload", files={"files": ("c.png", b"c" * size)})
    return answer.status_code, answer.headers.get("retry-after")


def test_one_visitor_is_told_to_wait_for_those_dropped_before(
    page: Page, served: Served, phantoms: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "LARGEST", 50_000)
    xray = phantom(phantoms, "CHN")
    for number, size in enumerate((40_000, 9_000, 20_000)):
        drop(page, {"name": f"{number}.png", "mimeType": "image/png", "buffer": padded(xray, size, number)})
        assert held.is_busy.wait(WAIT / 1000)
        until(page, lambda wanted=number: len(served.page.uploads) + (wanted == 2) > wanted)
    expect(page.locator("#result .problem")).to_contain_text(backlog.ENOUGH_OF_ONE)
    assert served.page.backlog.sizes.total() == 49_000 and not kept(served.folder)
    held.may_go.set()
    until(page, lambda: not served.page.backlog.files)


HOSTILE = (
    "<img src=//evil.example/a> <video poster=//evil.example/b></video> <b style=background:url(//evil.example/c)>",
    "![a](http://evil.example/d) ![[e]](http://evil.example/f) [g](http://evil.example/h) https://evil.example/i",
    "&lt;img src=&quot;//evil.example/j&quot;&gt; <svg onload=alert(1)> <script>alert(2)</script>",
    "${alert(3)} {{value}} {{#each x}} `${1+1}` </style></title></textarea><iframe src=//evil.example/k>",
    "<link rel=stylesheet href=//evil.example/l><meta http-equiv=refresh content=0;url=//evil.example/m>",
)


def test_names_and_limits_of_others_are_plain_text(
    served: Served, browser: Browser, phantoms: Path, held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(served.folder))  # which the page changes, as it was afterwards
    models = {role: app.view.ShownModel(HOSTILE[0], "0" * 16, False, HOSTILE) for role in served.page.models}
    held.may_go.set()
    name = "a <img src=x onerror=alert(4)> ![b](evil) ${alert(5)} {{value}}.png"
    with app.serving(replace(served.page, models=models, backlog=backlog.Backlog())) as (url, folder):
        other = served._replace(url=url, folder=folder)
        with visit(browser, other) as tab:
            said = " ".join(tab.inner_text("#limits").split())
            assert all(text in said for text in HOSTILE) and not tab.locator("#limits :is(img, a, b, svg)").count()
            drop(tab, {"name": name, "mimeType": "image/png", "buffer": phantom(phantoms, "CHN").read_bytes()})
            wait_for(tab, "a img src=x onerror=alert(4)")  # Gradio takes some signs out
            assert tab.locator("#result img").count() == 3
            with tab.expect_download() as download:
                tab.click("#files a:has-text('Report')")
            download.value.save_as(tmp_path / "report.html")
            tab.goto((tmp_path / "report.html").as_uri())
            assert HOSTILE[0] in " ".join(tab.inner_text("body").split()) and tab.locator("img").count() == 3


def test_card_of_others_does_not_stop_the_page(folders: tuple[str, str], tmp_path: Path) -> None:
    run = tmp_path / "<img src=x>![a](b)"
    shutil.copytree(folders[0], run)
    card = f"# x\n\n## Limits\n\n* ![{'![' * 600_000}\n* {HOSTILE[0]}\n"
    (run / "README.md").write_text(card)
    models = app.Page.of(run, None).models
    html = app.view.limits_html(models)
    assert "evil.example" not in html and "&lt;img src=x&gt;![a](b)</h4>" in html and len(html) < 10_000


@pytest.mark.slow
def test_picture_past_pillows_size_is_refused_by_its_name_alone() -> None:
    code = """
import io, sys
from PIL import Image
from hub_models.predict.reader import ChestXrayReader
reader = object.__new__(ChestXrayReader)
buffer = io.BytesIO()
Image.new("1", (int(sys.argv[1]), 9500)).save(buffer, "PNG")
try:
    print(reader.decode(buffer.getvalue(), "x.png").gray.size)
except ValueError as error:
    print(error)
"""
    for width, said in (
        (9500, "(9500, 9500)"),
        (11000, "x.png has 11000x9500 pixels, more than 100000000: scale it down"),
    ):
        done = subprocess.run([sys.executable, "-c", code, str(width)], capture_output=True, text=True, cwd=ROOT)
        assert (done.stdout.strip(), done.stderr) == (said, "")


@pytest.mark.slow
def test_dropped_files_are_named_in_what_is_wrong(page: Page) -> None:
    damaged = {"cut.png": png(np.zeros((90, 90), np.uint8))[:60], "cut.dcm": dicom(np.zeros((9, 9), np.uint16))[:300]}
    for name, data in damaged.items():
        drop(page, {"name": name, "mimeType": "application/octet-stream", "buffer": data})
        wait_for(page, name)
        said = page.inner_text("#result .problem p")
        assert said.startswith((name, f"the header of {name}")) and "bytes" not in said
