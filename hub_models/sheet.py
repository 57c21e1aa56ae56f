"""The report of one X-ray as a page of PNG or PDF: lungs outlined, probability on its scale, flags, models, limits."""

import textwrap
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from io import BytesIO
from typing import Literal, get_args

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import distance_transform_edt

from hub_models.figures import PREDICTED
from hub_models.predict import Prediction
from hub_models.predictor import PREDICTION_VERSION

A4 = (8.27, 11.69)  # inches
DPI = 150
SHOWN = 1024  # pixels of a picture's longer side
LINE = 4.0  # pixels of the outline's width there
HEAT, HEAT_STRENGTH = "inferno", 0.7  # colours of the saliency, and their opacity where it is 1
LEFT, RIGHT = 0.08, 0.92  # margins, in shares of the page's width
SUSPECTED, NOT_SUSPECTED, INK, FAINT = "#b3261e", "#1b6ca8", "#1c1c1e", "#5f6368"
NO_DEVICE = "Research use, not a medical device. No decision about a patient may rest on this page."
LOOKS = "What speaks for tuberculosis to the model"
MEANING = (
    "The probability is that a radiologist labels the X-ray tuberculosis. The model knows normal X-rays and "
    "tuberculosis only: any other disease gets a probability of tuberculosis all the same."
)
Kind = Literal["png", "pdf"]


@dataclass(frozen=True)
class Reading:
    """One X-ray with what was found on it.

    Attributes:
        gray: as `to_gray` gives it; nothing else of a file's header is shown.
        found: what the models say.
        saliency: (H, W) float in [0, 1], where the TB model looks; None where it was not asked.
        models: a line for each model, with its name and digest.
    """

    gray: Image.Image
    found: Prediction
    saliency: np.ndarray | None = None
    models: tuple[str, ...] = ()


def shown(gray: Image.Image) -> Image.Image:
    """A gray X-ray (mode L, or F in [0, 255]) as mode L with SHOWN pixels along its longer side."""
    size = _size(gray)
    resample = Image.Resampling.BOX if max(gray.size) > SHOWN else Image.Resampling.BICUBIC
    return Image.fromarray(np.asarray(gray.resize(size, resample), np.float32).round().clip(0, 255).astype(np.uint8))


def _size(gray: Image.Image) -> tuple[int, int]:
    return tuple(max(1, round(side * SHOWN / max(gray.size))) for side in gray.size)


def outlined(gray: Image.Image, mask: np.ndarray) -> Image.Image:
    """RGB of `shown` with the rim of an (H, W) bool mask as a smooth line, closed where lungs meet the border."""
    small = Image.fromarray(np.uint8(mask) * 255).resize(_size(gray), Image.Resampling.BICUBIC)
    lungs = np.pad(np.asarray(small) > 127, 1)  # (h + 2, w + 2)
    inside, outside = distance_transform_edt(lungs), distance_transform_edt(~lungs)  # one of them 0 at each pixel
    ink = np.clip(LINE / 2 + 1 - inside - outside, 0, 1)[1:-1, 1:-1]  # (h, w)
    return _blend(shown(gray), np.broadcast_to(PREDICTED, (*ink.shape, 3)), ink if lungs.any() else 0 * ink)


def heated(gray: Image.Image, saliency: np.ndarray) -> Image.Image:
    """RGB of `shown` under its (H, W) saliency in [0, 1]: the stronger, the brighter and the more opaque."""
    heat = np.asarray(Image.fromarray(saliency.astype(np.float32)).resize(_size(gray), Image.Resampling.BILINEAR))
    return _blend(shown(gray), 255 * matplotlib.colormaps[HEAT](heat)[..., :3], HEAT_STRENGTH * heat.clip(0, 1))


def _blend(gray: Image.Image, colors: np.ndarray, opacity: np.ndarray) -> Image.Image:
    picture = np.asarray(gray.convert("RGB"), np.float32)  # (h, w, 3)
    return Image.fromarray((picture + opacity[..., None] * (colors - picture)).round().astype(np.uint8))


def facts_of(found: Prediction) -> dict[str, str]:
    """What there is to say of an X-ray and its lungs, by name; sides are the patient's."""
    facts = {"X-ray": f"{found.width} x {found.height} pixels"}
    if lungs := found.lungs:
        for side in ("right", "left"):
            share, area = getattr(lungs, f"{side}_share"), getattr(lungs, f"{side}_mm2")
            on_film = "" if area is None else f", {area / 100:.0f} cm² on the film"
            facts[f"{side.capitalize()} lung"] = f"{share:.1%} of the image{on_film}"
    return facts


def remarks_on(found: Prediction) -> tuple[str, ...]:
    """The flags as sentences, or one that says that there are none; empty where no lungs were looked for either."""
    flags = tuple(f"{flag.message[0].upper()}{flag.message[1:]}." for flag in found.flags)
    return flags or (() if found.mask is None else ("Nothing odd about the lungs was found.",))


def meaning_of(found: Prediction) -> tuple[str, ...]:
    """What a probability is, and what it is not; empty where there is none."""
    return () if found.probability is None else (MEANING,)


def draw_sheet(reading: Reading, day: date | None = None) -> dict[Kind, bytes]:
    """The report as the bytes of a file of each kind, of the same page; `day` is today unless given."""
    figure, made = _sheet(reading, day or date.today()), {}
    for kind in get_args(Kind):
        buffer = BytesIO()
        figure.savefig(buffer, format=kind, dpi=DPI)
        made[kind] = buffer.getvalue()
    return made


def _sheet(reading: Reading, day: date) -> Figure:
    figure, found = Figure(figsize=A4), reading.found
    top = _write(figure, 0.955, "Chest X-ray, read by a program", size=19, weight="bold", color=INK)
    figure.text(RIGHT, 0.95, day.isoformat(), size=10, color=FAINT, ha="right", va="top")
    top = _write(figure, top, found.name, size=11, color=FAINT)
    top = _write(figure, top - 0.006, NO_DEVICE, size=10, weight="bold", color=SUSPECTED)
    if found.probability is not None:
        top = _verdict(figure, top - 0.014, found)
    top = _pictures(figure, top - 0.02, reading) - 0.02
    for name, value in facts_of(found).items():
        figure.text(LEFT + 0.14, top, value, size=9.5, color=INK, va="top", linespacing=1.3)
        top = _write(figure, top, name, size=9.5, color=FAINT)
    for remark in remarks_on(found):
        top = _write(figure, top - 0.002, remark, size=9.5, color=SUSPECTED if found.flags else INK)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    program = f"Read with chest-xray-masks (version {PREDICTION_VERSION} of its predictions), {libraries}."
    top = 0.115
    for line in (*meaning_of(found), *reading.models, program):
        top = _write(figure, top, line, size=7.5, color=FAINT)
    return figure


def _write(figure: Figure, top: float, text: str, size: float, **style: object) -> float:
    """Write a text, wrapped, at the left margin below `top`; returns where it ends, in shares of the page's height."""
    wide = int((RIGHT - LEFT) * A4[0] * 72 / (0.55 * size))  # letters are about half as wide as high
    lines = textwrap.wrap(text, wide) or [""]
    figure.text(LEFT, top, "\n".join(lines), size=size, va="top", linespacing=1.3, parse_math=False, **style)
    return top - len(lines) * 1.45 * size / 72 / A4[1]


def _verdict(figure: Figure, top: float, found: Prediction) -> float:
    """Write probability and decision and draw the scale below them; returns where it ends."""
    color = SUSPECTED if found.is_suspected else NOT_SUSPECTED
    headline = f"{found.verdict.capitalize()}: probability {found.probability:.2f}"
    top = _write(figure, top, headline, size=15, weight="bold", color=color)
    top = _write(figure, top, found.advice.capitalize() + ".", size=9.5, color=INK)
    axis = figure.add_axes((LEFT, top - 0.042, RIGHT - LEFT, 0.012))
    axis.axvspan(0, found.threshold, color=NOT_SUSPECTED, alpha=0.25, linewidth=0)
    axis.axvspan(found.threshold, 1, color=SUSPECTED, alpha=0.25, linewidth=0)
    axis.axvline(found.threshold, color=INK, linewidth=1.5, ymin=0, ymax=1.8, clip_on=False)
    axis.plot(found.probability, 0.5, "o", markersize=12, color=color, markeredgecolor="white", clip_on=False)
    near = "left" if found.threshold < 0.2 else "right" if found.threshold > 0.8 else "center"
    axis.text(found.threshold, 2.0, f"threshold {found.threshold:.2f}", size=8.5, ha=near, va="bottom", color=INK)
    axis.set(xlim=(0, 1), ylim=(0, 1), yticks=[], xticks=np.linspace(0, 1, 6))
    axis.tick_params(labelsize=8, colors=FAINT, length=2)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return top - 0.065


def _pictures(figure: Figure, top: float, reading: Reading) -> float:
    """Put the X-ray with its lungs, and beside it where the TB model looks, below `top`; returns where they end."""
    pictures = {"X-ray": shown(reading.gray).convert("RGB")}
    if reading.found.mask is not None:
        pictures = {"Lungs as the model finds them": outlined(reading.gray, reading.found.mask)}
    if reading.saliency is not None:
        pictures[LOOKS] = heated(reading.gray, reading.saliency)
    wide = (RIGHT - LEFT - 0.02 * (len(pictures) - 1)) / len(pictures)
    high = wide * A4[0] / A4[1] * reading.found.height / reading.found.width
    below = max(0.27, top - 0.02 - high)
    for number, (title, picture) in enumerate(pictures.items()):
        axis = figure.add_axes((LEFT + number * (wide + 0.02), below, wide, top - 0.02 - below), anchor="N")
        axis.imshow(picture)
        axis.set_title(title, size=9, color=FAINT, loc="left")
        axis.axis("off")
    return below
