"""Serve the page: drop an X-ray; see lungs, probability, saliency, flags and limits. No upload is kept."""

import asyncio
import io
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any
from weakref import WeakValueDictionary

from PIL import Image, UnidentifiedImageError

from hub_models.app import view
from hub_models.app.backlog import LARGEST, MOST_FILES, Backlog
from hub_models.app.examples import EXAMPLE_PHANTOMS, EXAMPLE_SIZE, example_png
from hub_models.hub_client.bundled import DEFAULT_MODELS
from hub_models.hub_client.downloads import local_run
from hub_models.imaging.masks import keep_two_lungs
from hub_models.models.saliency import METHODS, saliency_of_gray
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.reader import ChestXrayReader

try:
    import gradio as gr

    from hub_models.app.gate import Gate, check_port, unusable
except ImportError as error:
    raise ImportError("the page needs gradio: pip install 'chest-xray-masks[app]'") from error

log = logging.getLogger(__name__)
# Seconds: the handler deletes an upload as it reads it; this is for one that no handler is called for, or breaks off
CLEAN_EVERY, KEPT_AT_MOST = 10, 60
STYLES = ("reading.css", "app.css")
THUMBNAIL = (240, 240)  # height and width in pixels
HINT = """<p class="hint">Read in memory and forgotten: no upload is kept.</p>
<p class="hint">Or a synthetic X-ray, drawn by a program, of no patient:</p>"""
LOST = "It was lost on its way: drop it again."
NO_IMAGE = "This is not an image: drop a PNG, JPEG, TIFF or DICOM file."
SCROLL = "() => { if (innerWidth <= 760) document.querySelector('#output').scrollIntoView({behavior: 'smooth'}) }"
Read = Callable[[bytes, str], view.Report]  # of a file's content and name
DropArea = dict[str, str] | None  # None clears it; `gr.skip()` leaves it as it is
Updates = AsyncIterator[tuple[DropArea, str, str]]  # beside it HTML of a reading and of its files, as they come


@dataclass(frozen=True)
class Upload:
    """A file in memory."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Page:
    """What the page's events call.

    Attributes:
        reader: the models to read with.
        models: what is said of them, by role.
        examples: X-rays by name.
        wrapped: what is called in place of `read`, such as what spaces.GPU of a Space on ZeroGPU makes of it.
        turn: one X-ray is read at a time, in the order in which they came: a forward pass takes all cores.
        uploads: those that are read or wait for their turn, by the path where they lay.
        backlog: how many and how large these may be.
    """

    reader: ChestXrayReader
    models: Mapping[str, view.ShownModel]
    examples: Mapping[str, Upload]
    wrapped: Read | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    uploads: MutableMapping[Path, Upload] = field(default_factory=WeakValueDictionary)
    backlog: Backlog = field(default_factory=Backlog)

    @classmethod
    def of(cls, segmenter: str | Path | None, classifier: str | Path | None, revision: str | None = None) -> "Page":
        """Return the page of run folders or Hub ids, one of which may be absent; without both, the bundled models.

        Raises:
            FileNotFoundError, ValueError: as `local_run` and `ChestXrayReader`.
        """
        if segmenter is None and classifier is None:
            segmenter, classifier = DEFAULT_MODELS
        named = {"Lung model": segmenter, "Tuberculosis model": classifier}
        sources = {role: source for role, source in named.items() if source is not None}
        folders = {role: local_run(source, revision) for role, source in sources.items()}
        reader = ChestXrayReader(folders.get("Lung model"), folders.get("Tuberculosis model"))
        models = {role: view.ShownModel.of(sources[role], folder) for role, folder in folders.items()}
        return cls(reader, models, {name: _example(name) for name in EXAMPLE_PHANTOMS})

    def read(self, data: bytes, name: str) -> view.Report:
        """Return what the models say of an X-ray, beside it.

        Raises:
            ValueError, ImportError: as `ChestXrayReader.read`.
        """
        reader, xray = self.reader, self.reader.decode(data, name)
        (found,) = reader.read_decoded([xray])
        mask, heat = found.mask, None
        classifier = reader.classifier
        if isinstance(classifier, TrainedModel) and classifier.model.config.model_type in METHODS:
            heat = saliency_of_gray(classifier, xray.gray, None if mask is None else keep_two_lungs(mask))
        models = (
            f"{role}: {model.name}, digest {model.digest}. {model.threshold}".rstrip()
            for role, model in self.models.items()
        )
        return view.Report(xray.gray, found, heat, tuple(models))

    def take(self, path: Path) -> Upload | None:
        """Return an upload and delete its file; None where there is none.

        Gradio names a file by its content, so the same file from two visitors has one path. If both come at once, the
        second finds no file and gets the first one's upload.
        """
        try:
            upload = Upload(path.name, path.read_bytes())
        except FileNotFoundError:
            return self.uploads.get(path)
        path.unlink(missing_ok=True)
        self.uploads[path] = upload
        return upload

    async def show(self, source: str | Mapping[str, Any], request: gr.Request) -> Updates:
        """Show that an example or a dropped file is read, and then what was found, or why it cannot be read."""
        session, is_example = str(request.session_hash), isinstance(source, str)
        upload = self.examples.get(source) if isinstance(source, str) else self.take(Path(source["path"]))
        size = 0 if upload is None or is_example else len(upload.data)
        objection = LOST if upload is None else self.backlog.objection(session, size)
        kept = gr.skip()  # the field is cleared once, at once: later it may hold the file that is dropped next
        cleared = kept if is_example else None
        if upload is None or objection:
            name = source if isinstance(source, str) else Path(source["path"]).name
            yield cleared, view.problem_html(name, objection), ""
            return
        waiting = view.waiting_html(f"{upload.name}: reading …"), ""
        with self.backlog.holding(session, size):
            yield cleared, *waiting
            if not await self.backlog.is_listening(session):
                yield kept, view.problem_html(upload.name, LOST), ""
                return
            async with self.turn:
                yield kept, *waiting  # over the one before; and here Gradio leaves off if the tab was closed meanwhile
                yield kept, *await asyncio.to_thread(self._found, upload)

    def _found(self, upload: Upload) -> tuple[str, str]:
        """Return HTML of what was found and of its files."""
        try:
            reading = (self.wrapped or self.read)(upload.data, upload.name)
        except (ValueError, ImportError) as error:
            is_image = not isinstance(error.__cause__, UnidentifiedImageError)
            return view.problem_html(upload.name, str(error) if is_image else NO_IMAGE), ""
        except Exception:
            log.exception("an X-ray could not be read")
            return view.problem_html(upload.name, "The program failed; its log says at what."), ""
        return view.reading_html(reading), view.files_html(reading)


def _example(name: str) -> Upload:
    return Upload(f"Synthetic X-ray, {name}", example_png(name, EXAMPLE_SIZE))


def build(page: Page) -> gr.Blocks:
    """Return the page's components and events."""
    with gr.Blocks(
        title="Chest X-ray reader",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(CLEAN_EVERY, KEPT_AT_MOST),
    ) as blocks:
        gr.HTML(view.head_html(page.models), elem_id="head")
        with gr.Row(elem_id="layout"):
            with gr.Column(elem_id="input"):
                upload = gr.File(label="Chest X-ray: PNG, JPEG, TIFF or DICOM", height=150, elem_id="upload")
                gr.HTML(HINT)
                with gr.Row(elem_id="examples"):
                    buttons = [
                        gr.Button(name, elem_id=f"example-{number}", elem_classes="example")
                        for number, name in enumerate(page.examples)
                    ]
            with gr.Column(elem_id="output"):
                result = gr.HTML(view.waiting_html(), elem_id="result")
                files = gr.HTML("", elem_id="files")
            with gr.Column(elem_id="limits"), gr.Accordion("Limits of the models"):
                gr.HTML(view.limits_html(page.models))

        def on(event: Callable[..., object], source: gr.File | gr.Button) -> None:
            event(None, js=SCROLL, api_visibility="private")
            event(
                page.show,
                source,  # a file, or a button with the name of its example
                [upload, result, files],
                show_progress="hidden",
                trigger_mode="multiple",  # else what is dropped while another is read is passed over
                concurrency_limit=None,  # each begins at once, takes its upload off the disk, and waits for its turn
                preprocess=False,  # which would copy the upload
                api_visibility="private",
            )

        on(upload.upload, upload)
        for button in buttons:
            on(button.click, button)
    return blocks


@contextmanager
def serving(
    page: Page, host: str | None = "127.0.0.1", port: int | None = None, hosts: Sequence[str] = ()
) -> Iterator[tuple[str, Path]]:
    """Serve the page while a block runs; give its address and the folder that uploads pass through.

    A host or port of None is what Gradio's environment variables and defaults say. `hosts` as `hosts_of` takes them.

    Raises:
        OSError: the port is taken.
    """
    with TemporaryDirectory(prefix="chest-xray-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # the one way to tell Gradio where uploads go
        blocks = build(page)
        try:
            app, url, _ = blocks.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                max_file_size=LARGEST,
                max_threads=2 * MOST_FILES,  # so that one too many is told so at once
                state_session_capacity=1,  # Gradio's memory of what each visitor was shown: the X-ray, too
                run_history=False,  # Gradio's own, kept in the browser
                enable_monitoring=False,
                ssr_mode=False,
                footer_links=[],
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
                css="\n".join([*(Path(__file__).with_name(name).read_text() for name in STYLES), _thumbnails(page)]),
            )
        except (OSError, OverflowError) as error:  # whose own advice is for programs
            raise unusable(port) from error
        try:
            messages = blocks._queue.pending_messages_per_session
            page.backlog.unread = lambda session: messages[session].qsize() if session in messages else 0
            page.backlog.folder = Path(app.uploaded_file_dir)
            inner = app.middleware_stack or app.build_middleware_stack()
            app.middleware_stack = Gate(inner, host, hosts, blocks.config, page.backlog)
            yield url, Path(folder)
        finally:
            blocks.close(verbose=False)


def _thumbnails(page: Page) -> str:
    """Return CSS that puts the examples on their buttons, darker below, where the text is."""
    rules = []
    for number, example in enumerate(page.examples.values()):
        with Image.open(io.BytesIO(example.data)) as picture:
            picture.thumbnail(THUMBNAIL)
            background = f"linear-gradient(#0000 50%, #000c), url({view.jpeg(picture)})"
        rules.append(f"#example-{number} {{ background: {background}; }}")
    return "\n".join(rules)


def delete_broken_uploads(folder: Path, older_than: float) -> None:
    """Delete what uploads left that broke off more than `older_than` seconds ago; Gradio keeps it."""
    for path in folder.glob("tmp*"):  # whole ones lie deeper, and Gradio deletes them
        if time.time() - path.stat().st_mtime > older_than:
            path.unlink()


def serve(
    segmenter: str | Path | None = None,
    classifier: str | Path | None = None,
    revision: str | None = None,
    host: str | None = "127.0.0.1",
    port: int | None = None,
    wrap: Callable[[Read], Read] | None = None,
    hosts: Sequence[str] = (),
) -> None:
    """Serve the page of run folders or Hub ids as `serving` does, until Ctrl-C or SIGTERM; `wrap` makes its `wrapped`.

    Raises:
        FileNotFoundError, ValueError, OSError: as `Page.of` and `serving`.
    """
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    if port is not None:
        check_port(host, port)  # before the models are loaded
    page = Page.of(segmenter, classifier, revision)
    if wrap is not None:  # ZeroGPU looks for it before the page is up
        page = replace(page, wrapped=wrap(page.read))
    with serving(page, host, port, hosts) as (url, folder):
        log.info("serving at %s; Ctrl-C ends it", url)
        while not stopped.wait(CLEAN_EVERY):
            delete_broken_uploads(folder, KEPT_AT_MOST)
