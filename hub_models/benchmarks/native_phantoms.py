"""Phantoms as large as the published X-rays."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from chest_xray_masks import SITE_OF_PREFIX
from hub_models.dataset.phantoms import write_phantoms

NATIVE = {"Montgomery": 4892, "Shenzhen": 3000}  # longest side of the originals in pixels
DRAWN = 1223  # longest side at which phantoms are drawn: a quarter of 4892, and 1005 of 4020
GRAIN = {"Montgomery": 0.4, "Shenzhen": 2.0}  # sd in gray levels: smooth pictures would be decoded faster than X-rays


def native_phantoms(root: Path, images: int = 24, longest: dict[str, int] | None = None, drawn: int = DRAWN) -> Path:
    """Write phantoms of both sites, in the counts' true ratio, with the originals' sizes and PNG modes; return root.

    Montgomery is 8-bit gray, Shenzhen palette or (one in 25) RGB; masks are as large. Phantoms are drawn `drawn`
    pixels long, enlarged to `longest` by site, and get a fine grain.

    Raises:
        ValueError: counts or sizes that no set can have.
        FileExistsError: root holds other things.
    """
    montgomery = round(images * 138 / 800)
    write_phantoms(root, montgomery, images - montgomery, image_size=drawn)
    (root / "phantoms.json").unlink()  # no longer true
    shutil.rmtree(root / "Lung Segmentation" / "test")  # copies
    files = sorted(root.rglob("*.png"))
    with ThreadPoolExecutor() as pool:
        enlarged = pool.map(partial(_enlarge, longest or NATIVE), files)
        list(tqdm(enlarged, desc="Phantoms at native size", total=len(files), disable=None))
    return root


def _enlarge(longest: dict[str, int], path: Path) -> None:
    with Image.open(path) as image:
        site, mode, longer = SITE_OF_PREFIX[path.name.split("_")[0]], image.mode, max(image.size)
        width, height = (round(side * longest[site] / longer) for side in image.size)
        if path.parent.name == "masks":
            return image.resize((width, height), Image.Resampling.NEAREST).save(path)
        gray = np.asarray(image.convert("L").resize((width, height), Image.Resampling.BICUBIC))  # (H, W)
    grain = np.random.default_rng(gray.shape).standard_normal(gray.shape, np.float32) * np.float32(GRAIN[site])
    values = (gray + grain).round().clip(0, 255).astype(np.uint8)
    Image.fromarray(values).convert(mode).save(path)
