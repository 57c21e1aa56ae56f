"""PNG of every kind are decoded to what Pillow makes of them, whichever library does it."""

import io
import struct
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFile
from tiny import png

import chest_xray_masks

DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # bits by colour type
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
RARELY, SOMETIMES = 0.05, 0.15


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def random_png(rng: np.random.Generator, damage: float = 0) -> bytes:
    """A PNG of a random size, kind, filters and chunks beside; with `damage`, a bit of it flipped or its end cut."""
    height, width = rng.integers(1, 40, 2)
    colour = int(rng.choice(list(DEPTHS)))
    bits = int(rng.choice(DEPTHS[colour]))
    rows = rng.integers(0, 256, (height, (width * CHANNELS[colour] * bits + 7) // 8), np.uint8)
    filters = rng.integers(0, 5, (height, 1)) if rng.random() < 0.6 else np.full((height, 1), rng.integers(0, 6))
    packed = zlib.compress(np.concatenate([filters.astype(np.uint8), rows], 1).tobytes(), int(rng.integers(0, 10)))
    is_interlaced = rng.random() < RARELY
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, is_interlaced))]
    if colour == 3:
        parts.append(chunk(b"PLTE", rng.integers(0, 256, 3 * rng.integers(1, 2**bits + 1), np.uint8).tobytes()))
    if rng.random() < SOMETIMES and colour < 4:
        parts.append(chunk(b"tRNS", rng.integers(0, 256, {0: 2, 2: 6, 3: 1}[colour], np.uint8).tobytes()))
    if rng.random() < SOMETIMES:
        exif = Image.Exif()
        exif[0x112] = int(rng.integers(1, 9))  # orientation
        parts.append(chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    cuts = np.linspace(0, len(packed), int(rng.integers(2, 5))).astype(int)
    parts += [chunk(b"IDAT", packed[start:stop]) for start, stop in zip(cuts, cuts[1:], strict=False)]
    if rng.random() < SOMETIMES:
        parts.append(chunk(b"tEXt", b"Comment\0behind the pixels"))
    data = bytearray(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    if rng.random() < damage:
        data[rng.integers(8, len(data))] ^= 1 << rng.integers(0, 8)
        data = data[: rng.integers(8, len(data))] if rng.random() < SOMETIMES else data
    return bytes(data)


def shown(data: bytes) -> tuple[object, ...]:
    """Mode, size, notes, values and colours of a file as it is shown; the kind of error where it cannot be."""
    try:
        image = chest_xray_masks.as_shown(chest_xray_masks.open_image_file(io.BytesIO(data), "x.png"))
    except Exception as error:
        return (type(error),)
    colours = b"" if image.mode[0] in "IF" else image.convert("RGBA").tobytes()
    return image.mode, image.size, sorted(image.info), image.tobytes(), colours


@pytest.fixture
def by_pillow(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], tuple[object, ...]]:
    """As `shown`, of Pillow alone."""

    def shown_by_pillow(data: bytes) -> tuple[object, ...]:
        with monkeypatch.context() as patch:
            patch.setattr(chest_xray_masks, "_library", lambda name: None)
            return shown(data)

    return shown_by_pillow


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("damage", [0, 0.9])
def test_random_png_is_what_pillow_makes_of_it(damage: float, by_pillow: Callable, monkeypatch) -> None:
    rng, kinds = np.random.default_rng(int(10 * damage)), Counter()
    decode = chest_xray_masks._pixels_of
    monkeypatch.setattr(chest_xray_masks, "_pixels_of", lambda *of: kinds.update([of[1]]) or decode(*of))
    for _ in range(2000):
        data = random_png(rng, damage)
        assert shown(data) == by_pillow(data), data
    assert min(kinds[kind] for kind in ("L", "I;16", "RGB", "P")) > 50


def test_libraries_decode_what_they_are_there_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
    indexed = Image.fromarray(gray)
    indexed.putpalette(gray.ravel()[:768])
    indexed.save(plain := io.BytesIO(), "PNG")
    files = {"L": png(gray), "I;16": png(gray.astype(np.uint16) << 8), "RGB": png(np.stack([gray] * 3, -1))}
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # Pillow decodes none of them
    for kind, data in (files | {"P": plain.getvalue()}).items():
        found = chest_xray_masks._unpacked_png(chest_xray_masks.open_image_file(io.BytesIO(data), "x.png"))
        assert found is not None and found.mode == kind
