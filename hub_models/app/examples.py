"""Synthetic X-rays that a page offers to visitors who have none at hand."""

import io

from PIL import Image

from hub_models.dataset.phantoms import Site, render_phantom
from hub_models.imaging.gray import synthetic_mark

EXAMPLE_PHANTOMS: dict[str, tuple[int, Site, bool]] = {  # seed of the patient, site, tuberculosis
    "Normal 1": (11, "Shenzhen", False),
    "Normal 2": (23, "Montgomery", False),
    "Tuberculosis 1": (7, "Shenzhen", True),
    "Tuberculosis 2": (31, "Montgomery", True),
}
EXAMPLE_SIZE = (512, 440)  # height and width in pixels


def example_png(name: str, size: tuple[int, int]) -> bytes:
    """Return the phantom of a name, (height, width) pixels, as PNG whose metadata say that it is synthetic."""
    buffer = io.BytesIO()
    phantom = render_phantom(*EXAMPLE_PHANTOMS[name], size)
    Image.fromarray(phantom.image).save(buffer, "PNG", pnginfo=synthetic_mark())
    return buffer.getvalue()
