"""Prepare rows as fixed-size uint8 arrays, decoded once and kept on disk."""

from typing import Any

import datasets
import numpy as np
from PIL import Image

from hub_models.dataset.published import pixel_spacing_mm
from hub_models.dataset.schema import with_files
from hub_models.dataset.sources import cache_disk, digest_of_gray, processes_for
from hub_models.imaging.gray import to_gray
from hub_models.imaging.lung_crop import MARGIN, REGIONS, Region, crop_to_lungs, lungs_box
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import BILINEAR, FITS, Fit, resize_gray, resize_mask
from hub_models.lifetime import tied_workers

KEPT = ("id", "patient_id", "site", "label")  # columns that prepared rows keep
ADDED = {"pixels": "binary", "mask": "binary", "height": "int32", "width": "int32"}
ADDED |= {"spacing_row_mm": "float32", "spacing_column_mm": "float32", "digest": "string"}
PREPARED_VERSION = 3  # raise when the output of `prepare` changes; part of its cache's key


def prepare(
    rows: datasets.Dataset,
    image_size: int,
    fit: Fit = "squash",
    region: Region = "image",
    resample: Image.Resampling = BILINEAR,
) -> datasets.Dataset:
    """Return the rows at the training size, one uint8 gray image and one bool mask each, in `datasets`' cache.

    Columns:

    * `id`, `patient_id`, `site`, `label`: as in `rows`.
    * `pixels`: image_size**2 bytes, gray, resized by `resample`.
    * `mask`: image_size**2 bytes of 0 and 1, by nearest neighbour; or None.
    * `height`, `width`: of the original in pixels.
    * `spacing_row_mm`, `spacing_column_mm`: of its pixels, or None (see `published.pixel_spacing_mm`).
    * `digest`: of the original's gray pixels (`sources.digest_of_gray`).

    `fit` squash ignores the aspect; pad keeps it, with black bars (`resizing.content_box`). `region` lungs first cuts
    image and mask to the lungs of the row's mask, MARGIN around them (`lung_crop.crop_to_lungs`).

    The key of the cache is made of the rows, size, rules and PREPARED_VERSION. `datasets` writes aside and renames, so
    the cache is whole or absent, also where several processes prepare the same rows.

    Raises:
        ValueError: an unknown fit or region, or, for region lungs, a row whose mask has no lung.
    """
    if fit not in FITS or region not in REGIONS:
        known = f"fit one of {', '.join(FITS)}, region one of {', '.join(REGIONS)}"
        raise ValueError(f"no rule to prepare by: pass {known}, got {fit!r}, {region!r}")
    kept = {name: rows.features[name] for name in KEPT}
    with cache_disk(), tied_workers():
        return with_files(rows).map(
            _shrink,
            fn_kwargs={
                "image_size": image_size,
                "fit": fit,
                "region": region,
                "resample": resample,
                "version": PREPARED_VERSION,
            },
            remove_columns=[name for name in rows.column_names if name not in KEPT],
            features=datasets.Features(kept | {name: datasets.Value(dtype) for name, dtype in ADDED.items()}),
            num_proc=processes_for(rows),
            desc=f"Scaling to {image_size} pixels",
        )


def _shrink(
    row: dict[str, Any], image_size: int, fit: Fit, region: Region, resample: Image.Resampling, version: int
) -> dict[str, Any]:
    """Return what `prepare` adds; `version` is for the key of the cache, which knows functions by name only."""
    gray = to_gray(row["image"]["bytes"], row["id"])
    mask = None if row["mask"] is None else to_mask(row["mask"]["bytes"])
    height, width, digest = gray.height, gray.width, digest_of_gray(gray)
    if region == "lungs":
        if mask is None or not mask.any():
            raise ValueError(f"{row['id']} has no lung in its mask: pass a segmenter that finds them, or region image")
        top, left, bottom, right = lungs_box(mask, MARGIN)
        gray, mask = crop_to_lungs(gray, mask, MARGIN), mask[top:bottom, left:right]
    spacing = pixel_spacing_mm(row["id"], height, width) or (None, None)
    return {
        "pixels": resize_gray(gray, image_size, fit, resample).tobytes(),
        "mask": None if mask is None else resize_mask(mask, image_size, fit).astype(np.uint8).tobytes(),
        "height": height,
        "width": width,
        "spacing_row_mm": spacing[0],
        "spacing_column_mm": spacing[1],
        "digest": digest,
    }
