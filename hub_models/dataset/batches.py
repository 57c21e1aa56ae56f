"""Serve prepared rows as batches of tensors, in a repeatable order, with the random numbers of their augmentation."""

import zlib
from collections.abc import Iterator

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hub_models.dataset.augmentation import Ranges, draw


def example_seed(id: str) -> int:
    """Return the number in [0, 2**32) that stands for an X-ray, so that its augmentation can be repeated."""
    return zlib.crc32(id.encode())


class Arrays(Dataset):
    """Prepared rows as batches of tensors, read from the memory map a batch at a time.

    `ranges` (None: no augmentation), `seed` and `epoch` are of the draws; set `epoch` before each pass.
    """

    def __init__(
        self,
        prepared: datasets.Dataset,
        image_size: int,
        ranges: Ranges | None = None,
        seed: int = 0,
        mixup: float = 0,
    ) -> None:
        """Wrap `prepared` as made by `prepare(rows, image_size)`; `mixup` is A of Beta(A, A)."""
        self.prepared, self.image_size, self.mixup = prepared, image_size, mixup
        self.ranges, self.seed, self.epoch = ranges, seed, 0

    def __len__(self) -> int:
        """Return the number of X-rays."""
        return len(self.prepared)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Return `pixels` (B, S, S) uint8, `index`, `label` (B,), `mask` (B, S, S) uint8 and `drawn` (B, K) float32.

        A label is -1 where there is none. `mask` is left out where an X-ray of the batch has none, `drawn` without
        ranges, and `own` without mixup: the fraction (B,) float32 of an X-ray that stays when it is mixed. `drawn`
        (see `augmentation.draw`) and `own` are pure functions of X-ray, seed and epoch, whatever else is in the batch.
        """
        rows = self.prepared[indices]
        labels = [-1 if label is None else label for label in rows["label"]]
        batch = {"index": torch.tensor(indices), "label": torch.tensor(labels)}
        batch["pixels"] = self._stack(rows["pixels"])
        if None not in rows["mask"]:
            batch["mask"] = self._stack(rows["mask"])
        if self.ranges is not None:
            batch["drawn"] = draw([example_seed(id) for id in rows["id"]], self.seed, self.epoch, self.ranges)
        if self.mixup:
            drawn = [one.beta(self.mixup, self.mixup) for one in self._generators(rows["id"], 1)]
            batch["own"] = torch.tensor(drawn, dtype=torch.float32)
        return batch

    def _generators(self, ids: list[str], use: int) -> list[np.random.Generator]:
        """Return a generator for each X-ray: a function of it, the seed, the epoch and what it is used for."""
        return [np.random.default_rng([self.seed, self.epoch, example_seed(id), use]) for id in ids]

    def _stack(self, images: list[bytes]) -> torch.Tensor:
        side = self.image_size
        return torch.frombuffer(bytearray(b"".join(images)), dtype=torch.uint8).view(len(images), side, side)


class MaskedArrays(Arrays):
    """Prepared rows with the random numbers that choose which patches of an X-ray are hidden."""

    def __init__(
        self, prepared: datasets.Dataset, image_size: int, ranges: Ranges | None, seed: int, patches: int
    ) -> None:
        """Wrap `prepared` for a model that sees each X-ray as so many patches."""
        super().__init__(prepared, image_size, ranges, seed)
        self.patches, self.ids = patches, list(prepared["id"])

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Return what `Arrays` does, and `noise` (B, N) float32, one number in [0, 1) for each patch.

        It is a pure function of X-ray, seed and epoch.
        """
        generators = self._generators([self.ids[index] for index in indices], self.patches)
        noise = np.stack([one.random(self.patches, np.float32) for one in generators])
        return super().__getitems__(indices) | {"noise": torch.from_numpy(noise)}


class EpochOrder(Sampler[int]):
    """Order of the X-rays in an epoch: a pure function of the seed and the epoch, the same on every process."""

    def __init__(self, length: int, seed: int, groups: list[int] | None = None) -> None:
        """Shuffle `length` X-rays; Accelerate calls `set_epoch`.

        `groups`, one number for each X-ray, makes every group equally frequent in an epoch (by one more or less where
        `length` does not divide): a small group is repeated, a large one sampled without replacement.

        Raises:
            ValueError: not one group for each X-ray.
        """
        if groups is not None and len(groups) != length:
            raise ValueError(f"{length} X-rays to shuffle, but groups of {len(groups)}: pass one group for each")
        self.length, self.seed, self.epoch = length, seed, 0
        self.groups = None if groups is None else np.asarray(groups)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of X-rays in an epoch."""
        return self.length

    def __iter__(self) -> Iterator[int]:
        """Yield the indices in the order of the epoch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        indices = np.arange(self.length)
        if self.groups is not None and self.length:
            names, drawn = np.unique(self.groups), []
            places = rng.permutation(len(names))  # a group's place decides whether it gets one of the remainder
            for name, place in zip(names, places, strict=True):
                members = np.flatnonzero(self.groups == name)
                wanted = self.length // len(names) + int(place < self.length % len(names))
                shuffles = [rng.permutation(members) for _ in range(-(-wanted // len(members)))]
                drawn.append(np.concatenate(shuffles)[:wanted])
            indices = np.concatenate(drawn)
        yield from rng.permutation(indices).tolist()


def training_loader(arrays: Arrays, batch_size: int, seed: int, balanced: bool = False) -> DataLoader:
    """Return shuffled batches of `arrays`; an incomplete last one is left out unless it is the only one.

    `balanced` makes every label equally frequent. No worker processes: a batch is one read from a memory map.
    """
    return DataLoader(
        arrays,
        batch_size,
        sampler=EpochOrder(len(arrays), seed, list(arrays.prepared["label"]) if balanced else None),
        drop_last=len(arrays) >= batch_size,
        collate_fn=dict,  # __getitems__ has made the batch
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: a resumed epoch must not draw from the global one a second time
    )
