"""Tell which files of a folder or zip are X-rays, by their names and first bytes, and count what is passed over."""

import csv
import io
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from hub_models.files import write_bytes
from hub_models.imaging.file_kinds import (
    ARCHIVES,
    DIRECTORY,
    HIDDEN,
    IMAGE_SUFFIXES,
    OTHERS,
    RAW_SUFFIXES,
    UNREAD_BY_NAME,
    is_image,
)
from hub_models.predict.places import printable

PASSED_OVER_NAME = "passed_over.csv"
# rows whatever they hold; those that are not read say why
ROWS = IMAGE_SUFFIXES | RAW_SUFFIXES | UNREAD_BY_NAME.keys()
NO_FILE = -1  # bytes of what is not a regular file, and is not named as an image


class PassedOver(dict[str, tuple[int, str]]):
    """How many files are passed over, and the first of them, by the reason."""

    def add(self, reason: str, name: str) -> None:
        """Count a file."""
        count, first = self.get(reason, (0, name))
        self[reason] = count + 1, first

    def __str__(self) -> str:
        """Return the counts in words, such as `3 files passed over (2 hidden, 1 .txt)`."""
        total = sum(count for count, _ in self.values())
        reasons = ", ".join(f"{count} {reason}" for reason, (count, _) in sorted(self.items()))
        return f"{total} files passed over ({reasons})" if total != 1 else f"1 file passed over ({reasons[2:]})"

    def write(self, folder: Path) -> None:
        """Write the counts to a CSV in `folder`, unless there are none."""
        table = io.StringIO()
        rows = csv.writer(table)
        rows.writerow(("reason", "files", "first"))
        rows.writerows((reason, count, printable(first)) for reason, (count, first) in sorted(self.items()))
        if self:
            write_bytes(table.getvalue().encode(), folder / PASSED_OVER_NAME)


def why_passed_over(key: str, size: int | None, head: Callable[[], bytes]) -> str | None:
    """Return why a file is not an X-ray, by its name or else its first `HEAD_BYTES`; None for one that is to be a row.

    What has no size, or cannot be read, is a row: opened, it raises why it cannot be.
    """
    suffix = PurePosixPath(key).suffix.lower()
    if HIDDEN.search(key):
        return "hidden"
    if DIRECTORY.search(key):
        return "DICOMDIR"
    if suffix in ROWS or size is None:
        return None
    if size == NO_FILE:
        return "dead link or no regular file"
    if suffix in ARCHIVES:
        return f"{suffix} to be unpacked"
    if suffix in OTHERS:
        return suffix
    try:
        return None if is_image(head()) else "no image by its first bytes"
    except Exception:  # of zips and file systems
        return None
