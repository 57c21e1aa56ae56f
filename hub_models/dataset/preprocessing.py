"""Rows to splits, and rows to fixed-size uint8 arrays that are decoded once, kept on disk and memory-mapped."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch

import chest_xray_masks
from hub_models.dataset.augmentation import Ranges, draw
from hub_models.dataset.published import pixel_spacing_mm
from hub_models.imaging.gray import to_gray
from hub_models.imaging.lung_crop import MARGIN, crop_to_lungs, lungs_box
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import FITS, Fit, resize_gray, resize_mask

Region = Literal["image", "lungs"]
REGIONS = ("image", "lungs")  # what of an X-ray a model sees
ROWS_PER_PROCESS = 64  # fewer are decoded faster than a process starts
KEPT = ("id", "patient_id", "site", "label")  # columns of the rows that prepared rows have, too
PREPARED_VERSION = 1  # raise when the output of `prepare` changes; part of its cache's key


def load_splits(data_dir: str | Path, config_name: str = "all") -> datasets.DatasetDict:
    """Rows of the X-rays as train, validation and test; built once, then read from the cache.

    Raises:
        FileNotFoundError: nothing of the set under `data_dir`.
        ValueError: a damaged or mismatched file, or an unknown config.
    """
    try:
        return datasets.load_dataset(chest_xray_masks.__name__, config_name, data_dir=str(data_dir))
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None  # the cause names the file


def prepare(
    rows: datasets.Dataset, image_size: int, fit: Fit = "squash", region: Region = "image"
) -> datasets.Dataset:
    """Rows scaled to the training size, one uint8 gray image and one bool mask each, in `datasets`' cache.

    Columns: `id`, `patient_id`, `site`, `label`, `pixels` (image_size**2 bytes, gray by area average), `mask`
    (image_size**2 bytes of 0 and 1, by nearest neighbour) or None, `height` and `width` of the original in pixels,
    `spacing_row_mm` and `spacing_column_mm` of its pixels or None (see `published.pixel_spacing_mm`).

    `fit` squash fills the square whatever the aspect; pad keeps the aspect, centred between black bars
    (`resizing.content_box`). `region` lungs cuts image and mask to the lungs of the row's mask with MARGIN around
    them and evens out what is left (`lung_crop.crop_to_lungs`) before that.

    The cache's key is made of the rows, size, rule and PREPARED_VERSION. `datasets` writes aside and renames, so the
    cache is whole or absent, whoever else prepares the same at that time.

    Raises:
        ValueError: an unknown fit or region, or, for region lungs, a row whose mask has no lung.
    """
    if fit not in FITS or region not in REGIONS:
        known = f"fit one of {', '.join(FITS)}, region one of {', '.join(REGIONS)}"
        raise ValueError(f"no rule to prepare by: pass {known}, got {fit!r}, {region!r}")
    processes = min(os.cpu_count() or 1, len(rows) // ROWS_PER_PROCESS)
    spacing = {"spacing_row_mm": datasets.Value("float32"), "spacing_column_mm": datasets.Value("float32")}
    return rows.map(
        _shrink,
        fn_kwargs={"image_size": image_size, "fit": fit, "region": region, "version": PREPARED_VERSION},
        remove_columns=[name for name in rows.column_names if name not in KEPT],
        features=datasets.Features(
            {name: rows.features[name] for name in KEPT}
            | {"pixels": datasets.Value("binary"), "mask": datasets.Value("binary")}
            | {"height": datasets.Value("int32"), "width": datasets.Value("int32")}
            | spacing
        ),
        num_proc=processes if processes > 1 else None,
        desc=f"Scaling to {image_size} pixels",
    )


def _shrink(row: dict[str, Any], image_size: int, fit: Fit, region: Region, version: int) -> dict[str, Any]:
    """Return a prepared row, cut to its lungs for region lungs.

    `version` is here for the key of the cache, which knows functions by name only.
    """
    gray = to_gray(row["image"])
    mask = None if row["mask"] is None else to_mask(row["mask"])
    height, width = gray.height, gray.width
    if region == "lungs":
        if mask is None or not mask.any():
            raise ValueError(f"{row['id']} has no lung in its mask: pass a segmenter that finds them, or region image")
        top, left, bottom, right = lungs_box(mask, MARGIN)
        gray, mask = crop_to_lungs(gray, mask, MARGIN), mask[top:bottom, left:right]
    spacing = pixel_spacing_mm(row["id"], height, width) or (None, None)
    return {
        "pixels": resize_gray(gray, image_size, fit).tobytes(),
        "mask": None if mask is None else resize_mask(mask, image_size, fit).astype(np.uint8).tobytes(),
        "height": height,
        "width": width,
        "spacing_row_mm": spacing[0],
        "spacing_column_mm": spacing[1],
    }


def example_seed(id: str) -> int:
    """Number in [0, 2**32) that stands for an X-ray wherever it is drawn, so that its augmentation can be repeated."""
    return zlib.crc32(id.encode())


class Arrays(torch.utils.data.Dataset):
    """Prepared rows as batches of tensors, read from the memory map a batch at a time.

    Attributes:
        ranges: what augmentation draws from, or None where nothing is drawn.
        seed: of the draws.
        epoch: of the draws; set it before each pass.
    """

    def __init__(
        self, prepared: datasets.Dataset, image_size: int, ranges: Ranges | None = None, seed: int = 0
    ) -> None:
        """Wrap `prepared` as made by `prepare(rows, image_size)`."""
        self.prepared, self.image_size = prepared, image_size
        self.ranges, self.seed, self.epoch = ranges, seed, 0

    def __len__(self) -> int:
        """Count of the X-rays."""
        return len(self.prepared)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Batch of `indices`: `pixels` (B, S, S) uint8, `index`, `label` (B,), `mask` (B, S, S) uint8, `drawn` (B, K).

        `mask` is left out where an X-ray of the batch has none, `drawn` (see `augment.draw`) without ranges. What is
        drawn is a pure function of the X-ray, the seed and the epoch, whatever else is in the batch.
        """
        rows = self.prepared[indices]
        batch = {
            "index": torch.tensor(indices),
            "label": torch.tensor(rows["label"]),
            "pixels": self._stack(rows["pixels"]),
        }
        if None not in rows["mask"]:
            batch["mask"] = self._stack(rows["mask"])
        if self.ranges is not None:
            seeds = [example_seed(id) for id in rows["id"]]
            batch["drawn"] = draw(seeds, self.seed, self.epoch, self.ranges)  # (B, K)
        return batch

    def _stack(self, images: list[bytes]) -> torch.Tensor:
        side = self.image_size
        return torch.frombuffer(bytearray(b"".join(images)), dtype=torch.uint8).view(len(images), side, side)


class EpochOrder(torch.utils.data.Sampler):
    """Order of the X-rays in an epoch: a pure function of the seed and the epoch, the same on every process."""

    def __init__(self, length: int, seed: int, groups: list[int] | None = None) -> None:
        """Shuffle `length` X-rays; Accelerate calls `set_epoch`.

        With `groups`, one number for each X-ray, an epoch holds every group equally often (by one more or less where
        `length` does not divide): shuffles of a small group one behind the other, part of a shuffle of a large one.

        Raises:
            ValueError: not one group for each X-ray.
        """
        if groups is not None and len(groups) != length:
            raise ValueError(f"{length} X-rays to shuffle, but groups of {len(groups)}: pass one group for each")
        self.length, self.seed, self.epoch = length, seed, 0
        self.members = None
        if groups is not None:
            numbers = np.asarray(groups)
            self.members = [np.flatnonzero(numbers == group) for group in np.unique(numbers)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count of the X-rays."""
        return self.length

    def __iter__(self) -> Iterator[int]:
        """Indices in their order."""
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.members is None:
            yield from rng.permutation(self.length).tolist()
        elif self.members:
            yield from rng.permutation(np.concatenate(self._shares(rng))).tolist()

    def _shares(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Each group's indices in this epoch; which groups get one more is drawn, too."""
        count = len(self.members)
        places = rng.permutation(count)  # a group's place decides whether it gets one of the remainder
        shares = []
        for members, place in zip(self.members, places, strict=True):
            share = self.length // count + (place < self.length % count)
            shuffles = [rng.permutation(members) for _ in range(-(-share // len(members)))]
            shares.append(np.concatenate(shuffles)[:share])
        return shares


def training_loader(arrays: Arrays, batch_size: int, seed: int, balanced: bool = False) -> torch.utils.data.DataLoader:
    """Shuffled batches of `arrays`, the incomplete last one left out unless it is the only one.

    `balanced`: every label equally often in an epoch. No worker processes: a batch is one read from a memory map.
    """
    order = EpochOrder(len(arrays), seed, list(arrays.prepared["label"]) if balanced else None)
    return torch.utils.data.DataLoader(
        arrays,
        batch_size,
        sampler=order,
        drop_last=len(arrays) >= batch_size,
        collate_fn=_as_is,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: a resumed epoch must not draw from the global one a second time
    )


def _as_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch
