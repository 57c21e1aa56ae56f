"""Whether an image and its lung mask can be a chest X-ray's: areas of both lungs, and flags on what cannot be."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, label

from hub_models.dataset.inspection import BLANK_SPREAD
from hub_models.imaging.flags import Flag, RaisedFlag
from hub_models.imaging.masks import runs_of
from hub_models.imaging.resizing import BOX

SMALL = 512  # pixels of the longer side at which regions are told apart; areas are counted on the X-ray's own pixels
BACKGROUND, RIGHT, LEFT = 0, 1, 2
SECOND_LUNG = 0.1  # a region below this share of the largest one is a speck, not the other lung
LEAST_RATIO = 0.3  # of the smaller lung to the larger; 2 of 449 reference masks are below
AREA_FRACTIONS = (0.06, 0.46)  # of the image that both lungs take: 0.10 to 0.43 in 449 reference masks
# Of a border's length that lungs may touch: 1 of 449 reference masks and 6 of 525 masks of a model touch more, 14 of
# those more than 0.02; of masks cut by a fifth at the top or a side, 92 % and more do.
BORDER_FRACTION = 0.1
COLOUR = 3.0  # `pixels.chroma`: 0.0 of 40 X-rays saved as colour JPEG; 4.1 and more of 143 colour photographs
# Gray levels that the middle is darker; at 6 and at 12, 0 of 525 X-rays and 99 and 98 % of 175 inverted ones are.
INVERTED = 8.0


@dataclass(frozen=True)
class Lungs:
    """Areas of a lung mask; right and left are the patient's: the right lung is at the image's left, unless mirrored.

    Attributes:
        right_fraction, left_fraction: of the image's pixels, in [0, 1].
        right_mm2, left_mm2: area on the film in mm²; None where the pixels' spacing is not known.
        borders: names of the image's borders that the lungs touch along more than BORDER_SHARE of them.
    """

    right_fraction: float
    left_fraction: float
    right_mm2: float | None
    left_mm2: float | None
    borders: tuple[str, ...]


def lungs_of(mask: np.ndarray, spacing_mm: tuple[float, float] | None = None, is_mirrored: bool = False) -> Lungs:
    """Areas of an (H, W) bool mask, whose pixels are (row, column) `spacing_mm` apart; sides as of `sides_of`."""
    right, left = reversed(_counts(mask)) if is_mirrored else _counts(mask)
    area = None if spacing_mm is None else spacing_mm[0] * spacing_mm[1]
    in_mm2 = (None, None) if area is None else (right * area, left * area)
    rims = {"top": mask[0], "bottom": mask[-1], "left": mask[:, 0], "right": mask[:, -1]}
    borders = tuple(name for name, rim in rims.items() if rim.mean() > BORDER_FRACTION)
    return Lungs(right / mask.size, left / mask.size, *in_mm2, borders)


def _counts(mask: np.ndarray) -> list[int]:
    """Pixels of an (H, W) bool mask that are RIGHT and LEFT by `_small_sides`, counted run by run."""
    sides, (rows, columns) = _small_sides(mask)  # (h, w), (H,), (W,)
    widths = np.bincount(columns, minlength=sides.shape[1])  # (w,) pixels of a line that are in each column
    later = widths.cumsum()[columns] - np.arange(len(columns))  # (W,) of them, each pixel and those right of it
    starts, lengths, values = runs_of(mask)
    line, first = np.divmod(starts[values], mask.shape[1])
    line, last = rows[line], first + lengths[values] - 1
    counts = []
    for side in (RIGHT, LEFT):
        is_side = sides == side
        whole = (is_side * widths).cumsum(1)  # (h, w) up to the end of each column
        ends = whole[line, columns[last]] - is_side[line, columns[last]] * (later[last] - 1)
        befores = whole[line, columns[first]] - is_side[line, columns[first]] * later[first]
        counts.append(int((ends - befores).sum()))
    return counts


def sides_of(mask: np.ndarray, is_mirrored: bool = False) -> np.ndarray:
    """(H, W) uint8: RIGHT or LEFT, the patient's, at each pixel, that of the nearest lung; BACKGROUND without any.

    The two largest regions are a lung each. A single region is cut in two at its narrowest column where it has a
    waist, as lungs that touch have; else it is the lung of the half that it lies in. All other regions are of the side
    that they lie on of the column midway between the lungs, the waist, or the image's middle. The right lung is at the
    left of the image; at its right where the X-ray is mirrored.
    """
    sides, places = _small_sides(mask)
    if is_mirrored:
        sides = np.uint8([BACKGROUND, LEFT, RIGHT])[sides]
    return sides[np.ix_(*places)]


def _small_sides(mask: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """`sides_of` (h, w) at no more than SMALL pixels a side, and the row (H,) and column (W,) there of each pixel.

    The X-ray is taken for one that is not mirrored.
    """
    height, width = mask.shape
    factor = min(1.0, SMALL / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))  # (h, w)
    places = tuple(_nearest(*sides) for sides in ((height, size[1]), (width, size[0])))
    regions, count = label(small)
    if not count:
        return np.zeros(small.shape, np.uint8), places
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    columns = np.bincount(regions.ravel(), np.tile(np.arange(size[0]), size[1]))[1:] / sizes  # of their centres
    first, *others = np.argsort(-sizes, kind="stable").tolist()
    waist = None
    if others and sizes[others[0]] >= SECOND_LUNG * sizes[first]:
        middle = columns[[first, others[0]]].mean()
    else:
        waist = waist_of(regions == first + 1)
        middle = size[0] / 2 if waist is None else waist
    seeds = np.array([BACKGROUND, *np.where(columns < middle, RIGHT, LEFT)])[regions]  # (h, w)
    if waist is not None:
        at = np.where(np.arange(size[0]) < waist, RIGHT, LEFT)
        seeds = np.where(regions == first + 1, at, seeds)
    nearest = distance_transform_edt(seeds == BACKGROUND, return_distances=False, return_indices=True)
    return seeds[tuple(nearest)].astype(np.uint8), places


def _nearest(count: int, small: int) -> np.ndarray:
    """(count,) int32: of `small` pixels the nearest to each of so many on the same length, as PIL finds it."""
    line = Image.fromarray(np.arange(small, dtype=np.int32)[None])
    return np.asarray(line.resize((count, 1), Image.Resampling.NEAREST))[0]


def waist_of(region: np.ndarray) -> int | None:
    """Column at which an (H, W) bool region is narrowest between two wider parts; None where it has no waist.

    A waist lies in the middle half of the region's columns, and is less than half as high as both parts at their
    highest; of several columns as narrow, the one in their middle.
    """
    heights = region.sum(0)  # (W,)
    held = np.flatnonzero(heights)
    low, high = np.quantile(held, (0.25, 0.75)).astype(int)
    narrowest = low + np.flatnonzero(heights[low : high + 1] == heights[low : high + 1].min())
    middle = int(narrowest[len(narrowest) // 2])
    splits = heights[:middle].max(initial=0), heights[middle + 1 :].max(initial=0)
    return middle if heights[middle] < min(splits) / 2 else None


def flags_of(lungs: Lungs) -> tuple[RaisedFlag, ...]:
    """Return what is odd in lungs, the worst first; empty where nothing is."""
    smaller, larger = sorted((lungs.right_fraction, lungs.left_fraction))
    total = smaller + larger
    if not total:
        return (Flag.NO_LUNGS.raised(),)
    flags = []
    if smaller < LEAST_RATIO * larger:
        side = "right" if lungs.right_fraction < lungs.left_fraction else "left"
        flags.append(Flag.ONE_LUNG.raised(side=side, ratio=f"{smaller / larger:.0%}"))
    if not AREA_FRACTIONS[0] <= total <= AREA_FRACTIONS[1]:
        low, high = (f"{share:.0%}" for share in AREA_FRACTIONS)
        flags.append(Flag.IMPLAUSIBLE_SIZE.raised(fraction=f"{total:.0%}", low=low, high=high))
    if lungs.borders:
        flags.append(Flag.TOUCHES_BORDER.raised(borders=", ".join(lungs.borders)))
    return tuple(flags)


def image_flags(gray: Image.Image, chroma: float) -> tuple[RaisedFlag, ...]:
    """Return what is odd in a gray image and its `pixels.chroma` before any model sees it; empty where nothing is."""
    small = np.asarray(gray.resize((64, 64), BOX), np.float32)  # (64, 64)
    if small.std() < BLANK_SPREAD:
        return (Flag.BLANK.raised(),)
    flags = []
    if chroma > COLOUR:
        flags.append(Flag.COLOUR.raised())
    lungs_high = small[12:44]
    left, middle, right = (lungs_high[:, start:end].mean() for start, end in ((12, 26), (29, 35), (38, 52)))
    if min(left, right) - middle > INVERTED:
        flags.append(Flag.INVERTED.raised())
    return tuple(flags)
