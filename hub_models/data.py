"""Rows to splits, and rows to fixed-size uint8 arrays that are decoded once, kept on disk and memory-mapped."""

import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

import chest_xray_masks
from hub_models import pixels
from hub_models.pixels import resize_gray, resize_mask, to_gray, to_mask

ROWS_PER_PROCESS = 64  # fewer are decoded faster than a process starts
CODE_HASH = hashlib.sha256(Path(__file__).read_bytes() + Path(pixels.__file__).read_bytes()).hexdigest()[:16]


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


def prepare(rows: datasets.Dataset, image_size: int) -> datasets.Dataset:
    """Rows scaled to the training size, one uint8 gray image and one bool mask each, in `datasets`' cache.

    Columns: `id`, `pixels` (image_size**2 bytes, gray by area average), `mask` (image_size**2 bytes of 0 and 1, by
    nearest neighbour) or None, `label`, `site`, `height` and `width` of the original in pixels. The cache's key is
    made of the rows, the size and this code; `datasets` writes aside and renames, so it is whole or absent.
    """
    processes = min(os.cpu_count() or 1, len(rows) // ROWS_PER_PROCESS)
    return rows.map(
        _shrink,
        fn_kwargs={"image_size": image_size, "code": CODE_HASH},
        remove_columns=[name for name in rows.column_names if name not in ("id", "label", "site")],
        features=datasets.Features(
            {name: rows.features[name] for name in ("id", "label", "site")}
            | {"pixels": datasets.Value("binary"), "mask": datasets.Value("binary")}
            | {"height": datasets.Value("int32"), "width": datasets.Value("int32")}
        ),
        num_proc=processes if processes > 1 else None,
        desc=f"Scaling to {image_size} pixels",
    )


def _shrink(row: dict[str, Any], image_size: int, code: str) -> dict[str, Any]:
    """A prepared row; `code` is here for the key of the cache, which knows functions by name only."""
    gray = to_gray(row["image"])
    mask = None if row["mask"] is None else resize_mask(to_mask(row["mask"]), image_size)
    return {
        "pixels": resize_gray(gray, image_size).tobytes(),
        "mask": None if mask is None else mask.astype(np.uint8).tobytes(),
        "height": gray.height,
        "width": gray.width,
    }


def example_seed(id: str) -> int:
    """Number in [0, 2**32) that stands for an X-ray wherever it is drawn, so that its augmentation can be repeated."""
    return zlib.crc32(id.encode())


class Arrays(torch.utils.data.Dataset):
    """Prepared rows as batches of tensors, read from the memory map a batch at a time."""

    def __init__(self, prepared: datasets.Dataset, image_size: int) -> None:
        """Wrap `prepared` as made by `prepare(rows, image_size)`."""
        self.prepared, self.image_size = prepared, image_size

    def __len__(self) -> int:
        """Count of the X-rays."""
        return len(self.prepared)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Batch of `indices`: `pixels` (B, S, S) uint8, `index`, `seed`, `label` (B,), and `mask` (B, S, S) uint8.

        `mask` is left out where an X-ray of the batch has none.
        """
        rows = self.prepared[indices]
        batch = {
            "index": torch.tensor(indices),
            "seed": torch.tensor([example_seed(id) for id in rows["id"]]),
            "label": torch.tensor(rows["label"]),
            "pixels": self._stack(rows["pixels"]),
        }
        return batch if None in rows["mask"] else batch | {"mask": self._stack(rows["mask"])}

    def _stack(self, images: list[bytes]) -> torch.Tensor:
        side = self.image_size
        return torch.frombuffer(bytearray(b"".join(images)), dtype=torch.uint8).view(len(images), side, side)


class EpochOrder(torch.utils.data.Sampler):
    """Order of the X-rays in an epoch: a pure function of the seed and the epoch, the same on every process."""

    def __init__(self, length: int, seed: int) -> None:
        """Shuffle `length` X-rays; Accelerate calls `set_epoch`."""
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count of the X-rays."""
        return self.length

    def __iter__(self) -> Iterator[int]:
        """Indices in their order."""
        yield from np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist()


def training_loader(arrays: Arrays, batch_size: int, seed: int) -> torch.utils.data.DataLoader:
    """Shuffled batches of `arrays`, the incomplete last one left out unless it is the only one.

    No worker processes: a batch is one read from a memory map.
    """
    order = EpochOrder(len(arrays), seed)
    return torch.utils.data.DataLoader(
        arrays, batch_size, sampler=order, drop_last=len(arrays) >= batch_size, collate_fn=_as_is
    )


def _as_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch
