"""What the tests of pictures draw from, and how they look at what was drawn."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin


def pixels_of(path: Path) -> np.ndarray:
    """(H, W, 3) int of a PNG that is whole, and alone in its folder."""
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def camera_tiff() -> bytes:
    """A TIFF with DNGVersion, as a camera writes it."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[50706], tags.tagtype[50706] = b"\1\4\0\0", 1
    Image.new("L", (64, 64)).save(buffer := io.BytesIO(), "TIFF", tiffinfo=tags)
    return buffer.getvalue()


def of_tb(labels: list[int], probabilities: list[float], site: str = "A") -> list[dict]:
    """Per-image rows of a site, named by their number."""
    return [
        {"id": f"{site}{number}", "site": site, "label": label, "probability": probability, "threshold": 0.5}
        for number, (label, probability) in enumerate(zip(labels, probabilities, strict=True))
    ]
