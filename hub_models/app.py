"""The page: drop an X-ray; see lungs, probability, saliency, flags and the models' limits. No upload is kept."""

import io
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from PIL import Image

from hub_models.downloads import local_run
from hub_models.phantom import render_phantom
from hub_models.pixels import synthetic_mark
from hub_models.predict import ChestXrayReader
from hub_models.saliency import METHODS, saliency
from hub_models.sheet import Reading
from hub_models.tasks import keep_two_lungs
from hub_models.view import Model, files_html, jpeg, limits_text, nothing_html, problem_html, reading_html

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("the page needs gradio: pip install 'chest-xray-masks[app]'") from error

log = logging.getLogger(__name__)
LARGEST = "100mb"  # of an upload; a film of 4892 x 4020 pixels takes 40 in DICOM
SWEEP_EVERY, KEPT_AT_MOST = 10, 60  # seconds; what is read is deleted at once, this is for what never is
WAITS_AT_MOST = 600  # seconds in memory until it is read, as others come first
EXAMPLES = {  # phantoms: seed of the patient, site, tuberculosis
    "Normal 1": (11, "Shenzhen", False),
    "Normal 2": (23, "Montgomery", False),
    "Tuberculosis 1": (7, "Shenzhen", True),
    "Tuberculosis 2": (31, "Montgomery", True),
}
EXAMPLE_SIZE, THUMBNAIL = (512, 440), (240, 240)  # height and width in pixels
HINT = """<p class="hint">Read in memory and forgotten: no upload is kept.</p>
<p class="hint">Or a synthetic X-ray, drawn by a program, of no patient:</p>"""
SCROLL = "() => { if (innerWidth <= 760) document.querySelector('#output').scrollIntoView({behavior: 'smooth'}) }"
DRAWING = "<p>The report is being drawn …</p>"
Waiting = dict[tuple[str | None, float], tuple[str, bytes]]  # name and bytes of an X-ray, by session and seconds
Shown = Iterator[tuple[Any, Any]]  # HTML of a reading and of its files, as they come


@dataclass(frozen=True)
class Page:
    """What the page's events call: models to read with, what is said of them by role, examples (PNG) by name."""

    reader: ChestXrayReader
    models: Mapping[str, Model]
    examples: Mapping[str, bytes]
    waiting: Waiting = field(default_factory=dict)  # what was dropped, in that order, until it is read

    @classmethod
    def of(cls, segmenter: str | Path | None, classifier: str | Path | None, revision: str | None = None) -> "Page":
        """Of run folders or Hub ids, one of which may be absent.

        Raises:
            FileNotFoundError, ValueError: as `local_run` and `ChestXrayReader`.
        """
        sources = {"Lung model": segmenter, "Tuberculosis model": classifier}
        folders = {role: local_run(source, revision) for role, source in sources.items() if source is not None}
        reader = ChestXrayReader(*(folders.get(role) for role in sources))
        models = {role: Model.of(sources[role], folder) for role, folder in folders.items()}
        return cls(reader, models, {name: _example(*drawn) for name, drawn in EXAMPLES.items()})

    def look(self, data: bytes, name: str) -> Reading:
        """What the models say of an X-ray, beside it.

        Raises:
            ValueError, ImportError: as `ChestXrayReader.read`.
        """
        reader, film = self.reader, self.reader.decode(data, name)
        (found,) = reader.read_films([film])
        mask, heat = found.mask, None
        if reader.classifier is not None and reader.classifier.model.config.model_type in METHODS:
            heat = saliency(reader.classifier, data, None if mask is None else keep_two_lungs(mask))
        models = (f"{role}: {model.name}, digest {model.digest}." for role, model in self.models.items())
        return Reading(film.gray, found, heat, tuple(models))

    def take(self, path: str, request: gr.Request) -> None:
        """Take an upload from the disk into memory; the drop area is free again.

        Raises:
            gr.Error: it is gone.
        """
        file = Path(path)
        try:
            self.waiting[request.session_hash, time.monotonic()] = file.name, file.read_bytes()
        except FileNotFoundError as error:
            said = f"{file.name} was lost on its way: drop it again"
            raise gr.Error(said, print_exception=False) from error  # a name may be a patient's: not into the log
        file.unlink(missing_ok=True)

    def read(self, request: gr.Request) -> Shown:
        """Show the X-ray of a session that has waited longest.

        Raises:
            gr.Error: it has been forgotten.
        """
        for key in list(self.waiting):
            if key[0] == request.session_hash and (film := self.waiting.pop(key, None)):
                yield from self.show(*film)
                return
        raise gr.Error("The X-ray waited too long and was forgotten: drop it again", print_exception=False)

    def leave(self, request: gr.Request) -> None:
        """Forget what a session has dropped, as its tab is closed."""
        self._drop(lambda session, _: session == request.session_hash)

    def forget(self, older_than: float) -> None:
        """Forget what has waited for more than so many seconds."""
        self._drop(lambda _, since: time.monotonic() - since > older_than)

    def _drop(self, chosen: Callable[[str | None, float], bool]) -> None:
        for key in list(self.waiting):
            if chosen(*key):
                self.waiting.pop(key, None)

    def show(self, name: str, data: bytes) -> Shown:
        """Show an X-ray, and then its files, which take a second to draw; or why it cannot be read."""
        try:
            reading = self.look(data, name)
        except (ValueError, ImportError) as error:
            yield problem_html(name, str(error)), ""
        else:
            yield reading_html(reading), DRAWING
            yield gr.skip(), files_html(reading)

    def show_example(self, name: str) -> Shown:
        """Show an example."""
        yield from self.show(f"Synthetic X-ray, {name}", self.examples[name])


def _example(seed: int, site: str, tuberculosis: bool) -> bytes:
    """PNG of a phantom, which says of itself that it is one."""
    buffer = io.BytesIO()
    phantom = render_phantom(seed, site, tuberculosis, EXAMPLE_SIZE)
    Image.fromarray(phantom.image).save(buffer, "PNG", pnginfo=synthetic_mark())
    return buffer.getvalue()


def build(page: Page) -> gr.Blocks:
    """The page's parts and events."""
    with gr.Blocks(title="Chest X-ray reader", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(_head(page), elem_id="head")
        with gr.Row(elem_id="desk"):
            with gr.Column(elem_id="input"):
                upload = gr.File(label="Chest X-ray: PNG, JPEG, TIFF or DICOM", height=150, elem_id="upload")
                gr.HTML(HINT)
                with gr.Row(elem_id="examples"):
                    buttons = {
                        name: gr.Button(name, elem_id=f"example-{number}", elem_classes="example")
                        for number, name in enumerate(page.examples)
                    }
            with gr.Column(elem_id="output"):
                result = gr.HTML(nothing_html(), elem_id="result")
                files = gr.HTML("", elem_id="files")
            with gr.Column(elem_id="limits"), gr.Accordion("Limits of the models"):
                gr.Markdown(limits_text(page.models), latex_delimiters=[])
        outputs, hidden = [result, files], {"api_visibility": "private"}
        each = {"trigger_mode": "multiple", **hidden}  # else what is dropped while another is read is passed over
        # one X-ray at a time: a forward pass takes all cores
        queued = {"concurrency_id": "reader", "concurrency_limit": 1, "show_progress_on": result}
        taken = upload.upload(page.take, upload, upload, queue=False, **each)
        taken.success(page.read, None, outputs, **queued, **each)
        blocks.unload(page.leave)
        for name, button in buttons.items():
            button.click(partial(page.show_example, name), None, outputs, **queued, **hidden)
        for asked in (upload.upload, *(button.click for button in buttons.values())):
            asked(None, js=SCROLL, **hidden)
    return blocks


async def _upload_apart(request: Any, folder: str, *others: Any, **options: Any) -> Any:
    """What Gradio's own gives, each upload in a folder of its own: else the same file of two users has one place."""
    return await gr.route_utils.upload_fn(request, str(Path(folder) / token_hex(8)), *others, **options)


def _head(page: Page) -> str:
    synthetic = [role for role, model in page.models.items() if model.is_synthetic]
    warning = f"{' and '.join(synthetic)}: trained on synthetic X-rays, of no use on patients." if synthetic else ""
    return f"""<h1>Chest X-ray reader</h1>
<p>Lungs outlined, and the probability of tuberculosis. <span class="warning">Research use, not a medical device.
{warning}</span></p>"""


@contextmanager
def serving(
    segmenter: str | Path | None = None,
    classifier: str | Path | None = None,
    revision: str | None = None,
    host: str | None = "127.0.0.1",
    port: int | None = None,
) -> Iterator[tuple[str, Path, Page]]:
    """Address of the page, the folder that uploads pass through, and what its events call, while a block runs.

    Where host or port is None, Gradio's environment variables and defaults say it.

    Raises:
        FileNotFoundError, ValueError: as `Page.of`.
        OSError: the port is taken.
    """
    page = Page.of(segmenter, classifier, revision)
    with TemporaryDirectory(prefix="chest-xray-page-") as folder:
        # the one way to tell Gradio where uploads go
        os.environ["GRADIO_TEMP_DIR"], gr.routes.upload_fn = folder, _upload_apart
        blocks, url = _launch(page, host, port)
        try:
            yield url, Path(folder), page
        finally:
            blocks.close(verbose=False)


def _launch(page: Page, host: str | None, port: int | None) -> tuple[gr.Blocks, str]:
    """The page as it is being served, and its address."""
    blocks = build(page)
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=LARGEST,
            run_history=False,  # Gradio's own, kept in the browser
            enable_monitoring=False,
            ssr_mode=False,
            footer_links=[],
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=Path(__file__).with_name("app.css").read_text() + _thumbnails(page),
        )
    except (OSError, OverflowError) as error:  # whose own advice is for programs
        at = "the default port" if port is None else f"port {port}"
        raise OSError(f"{at} cannot be used, perhaps as another page is there: pass another --port") from error
    return blocks, url


def _thumbnails(page: Page) -> str:
    """CSS that puts the examples on their buttons, darker below, where the text is."""
    rules = []
    for number, png in enumerate(page.examples.values()):
        with Image.open(io.BytesIO(png)) as picture:
            picture.thumbnail(THUMBNAIL)
            rules.append(
                f"#example-{number} {{ background: linear-gradient(#0000 50%, #000c), url({jpeg(picture)}); }}"
            )
    return "\n".join(rules)


def sweep(folder: Path, older_than: float) -> None:
    """Delete what has lain in `folder` for more than so many seconds, and the empty folders there."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds before the folder
        try:
            if time.time() - path.lstat().st_mtime > older_than:
                path.rmdir() if path.is_dir() else path.unlink()
        except OSError:  # gone meanwhile, or a folder that is not empty
            continue


def serve(segmenter: str | Path | None = None, classifier: str | Path | None = None, **place: Any) -> None:
    """Nothing, once the page that `serving` makes was stopped by Ctrl-C or SIGTERM, and its folder is gone.

    Raises:
        FileNotFoundError, ValueError, OSError: as `serving`.
    """
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with serving(segmenter, classifier, **place) as (url, folder, page):
        log.info("serving at %s; Ctrl-C ends it", url)
        while not stopped.wait(SWEEP_EVERY):
            sweep(folder, KEPT_AT_MOST)
            page.forget(WAITS_AT_MOST)
