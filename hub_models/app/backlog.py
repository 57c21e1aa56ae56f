"""Bound the uploads that a page holds: those that arrive, lie on its disk, or wait in memory for their turn."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

LARGEST = 100 * 2**20  # bytes of an upload; an X-ray of 4892 x 4020 pixels takes 40 MB in DICOM
MOST_BYTES, MOST_FILES = 4 * LARGEST, 100  # of all visitors at once
MOST_OF_ONE = 10  # files of one visitor, who may hold LARGEST bytes
TRY_AGAIN = 60  # seconds
LISTENS_WITHIN = 60  # seconds, in which a slow line may still bring the reading before
FULL = "This page has as many X-rays to read as it can hold: wait a minute, then drop yours again."
ENOUGH_OF_ONE = "The X-rays that you dropped before are still to be read: wait for them, then drop this one again."


@dataclass
class Backlog:
    """Uploads that are not read yet.

    Attributes:
        folder: that they lie in until their turn is asked for; None counts none.
        arriving: bytes to come, by request.
        files, sizes: how many each visitor's session has in memory, and how many bytes they take.
        unread: returns how many messages a session has not fetched.
    """

    folder: Path | None = None
    arriving: Counter[object] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    unread: Callable[[str], int] = lambda session: 0

    def is_full(self, size: int = 0) -> bool:
        """Return whether `size` bytes more would be too many, or there are too many files."""
        held = self.arriving.total() + self._on_disk() + self.sizes.total()
        return held + size > MOST_BYTES or self.files.total() + len(self.arriving) >= MOST_FILES

    def objection(self, session: str, size: int) -> str:
        """Return why a session may hold no file of `size` bytes more; empty where it may."""
        is_first = not self.files[session]
        if not is_first and (self.files[session] >= MOST_OF_ONE or self.sizes[session] + size > LARGEST):
            return ENOUGH_OF_ONE
        return FULL if self.is_full(size) else ""

    @contextmanager
    def holding(self, session: str, size: int) -> Iterator[None]:
        """Count a session's file of `size` bytes while a block runs."""
        self.files[session] += 1
        self.sizes[session] += size
        try:
            yield
        finally:
            self.files[session] -= 1
            self.sizes[session] -= size
            if not self.files[session]:
                del self.files[session], self.sizes[session]

    async def is_listening(self, session: str) -> bool:
        """Return whether a session fetches its messages: else its reading would stay in memory."""
        for _ in range(10 * LISTENS_WITHIN):
            if not self.unread(session):
                return True
            await asyncio.sleep(0.1)
        return False

    def _on_disk(self) -> int:
        """Return the bytes of uploads, whole or broken off, that lie in the folder."""
        total = 0
        for path in () if self.folder is None else self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # taken or deleted meanwhile
                total += path.stat().st_size if path.is_file() else 0
        return total
