"""Read what others published about each X-ray: its split in three protocols, and the size of Montgomery originals.

`published.csv`, beside this file, holds all 800 ids. Its columns, empty where a protocol leaves the X-ray out:
    width, height: pixels of the original, Montgomery only (Shenzhen's spacing is unknown).
    idiap_segmentation: both sites, 704 X-rays with a lung mask. Source: Idiap's bob/deepdraw, its default splits.
    idiap_classification: both sites, all 800. Source: Idiap's bob.med.tb, its default splits.
    ark_shenzhen: Shenzhen's 662. Source: Ark, JLiangLab, arXiv 2310.09507.
"""

import csv
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_suffix(".csv")
PUBLISHED_SPLITS = ("idiap_segmentation", "idiap_classification", "ark_shenzhen")
DETECTOR_SPACING_MM = 0.0875  # of the original Montgomery pixels, each way; source: NLM's readme of the set


@cache
def _table() -> dict[str, dict[str, str]]:
    with TABLE.open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def published_ids(with_mask: bool = False) -> frozenset[str]:
    """Return the ids of all 800 X-rays, or of the 704 that were published `with_mask`."""
    return frozenset(id for id, row in _table().items() if row["idiap_segmentation"] or not with_mask)


def published_split(id: str, protocol: str) -> str | None:
    """Return the split of an X-ray in one of `PUBLISHED_SPLITS`, None for one left out; another name raises."""
    if protocol not in PUBLISHED_SPLITS:
        raise ValueError(f"no published split {protocol!r}: choose one of {', '.join(PUBLISHED_SPLITS)}")
    return _table().get(id, {}).get(protocol) or None


def pixel_spacing_mm(id: str, height: int, width: int) -> tuple[float, float] | None:
    """Return the (row, column) spacing in mm of a whole Montgomery X-ray in a copy of `height` x `width` pixels.

    A side of the original is its pixels times 0.0875 mm. The copy may be scaled, also with another aspect, but neither
    cut nor turned. None for Shenzhen, whose spacing is unknown, and for unknown ids.

    Raises:
        ValueError: a side below 1 pixel.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a copy of {id} cannot have {height}x{width} pixels: pass its height and width")
    row = _table().get(id)
    if row is None or not row["height"]:
        return None
    return int(row["height"]) * DETECTOR_SPACING_MM / height, int(row["width"]) * DETECTOR_SPACING_MM / width
