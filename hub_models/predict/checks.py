"""Check whether an image and its lung mask can be those of a chest X-ray: areas of both lungs, and flags."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from hub_models.imaging.flags import Flag, RaisedFlag
from hub_models.imaging.masks import runs_of
from hub_models.imaging.resizing import BOX, nearest

SIDES_SIZE = 512  # pixels of the longer side at which regions are found; areas are counted on the X-ray's own pixels
BACKGROUND, RIGHT, LEFT = 0, 1, 2
SECOND_LUNG = 0.1  # a region below this fraction of the largest one is a speck, not the other lung
LEAST_RATIO = 0.3  # of the smaller lung to the larger; 2 of 449 reference masks are below
AREA_FRACTIONS = (0.06, 0.46)  # of the image that both lungs take: 0.10 to 0.43 in 449 reference masks
# Of a border's length that lungs may touch: 1 of 449 reference masks and 6 of 525 masks of a model touch more, 14 of
# those more than 0.02; of masks cut by a fifth at the top or a side, 92 % and more do.
BORDER_FRACTION = 0.1
COLOUR = 3.0  # `read_xray`'s chroma: 0.0 of 40 X-rays saved as colour JPEG; 4.1 and more of 143 colour photographs
# Gray levels that the middle is darker; at 6 and at 12, 0 of 525 X-rays and 99 and 98 % of 175 inverted ones are.
INVERTED = 8.0
SAMPLED = 512  # rows and columns, about, that an image's flags are found on


@dataclass(frozen=True)
class Lungs:
    """Areas of the patient's right lung, at the left of an X-ray that is not mirrored, and left lung.

    Attributes:
        right_fraction, left_fraction: of the image's pixels, in [0, 1].
        right_mm2, left_mm2: area on the detector in mm²; None where the pixel spacing is not known.
        borders: names of the image's borders that the lungs touch along more than BORDER_FRACTION of their length.
    """

    right_fraction: float
    left_fraction: float
    right_mm2: float | None
    left_mm2: float | None
    borders: tuple[str, ...]


def lungs_of(mask: np.ndarray, spacing_mm: tuple[float, float] | None = None, is_mirrored: bool = False) -> Lungs:
    """Return the areas of an (H, W) bool mask with (row, column) `spacing_mm`; sides are those of `sides_of`."""
    right, left = reversed(_counts(mask)) if is_mirrored else _counts(mask)
    area = None if spacing_mm is None else spacing_mm[0] * spacing_mm[1]
    right_mm2, left_mm2 = (None if area is None else count * area for count in (right, left))
    rims = {"top": mask[0], "bottom": mask[-1], "left": mask[:, 0], "right": mask[:, -1]}
    borders = tuple(name for name, rim in rims.items() if rim.mean() > BORDER_FRACTION)
    return Lungs(right / mask.size, left / mask.size, right_mm2, left_mm2, borders)


def _counts(mask: np.ndarray) -> tuple[int, int]:
    """Return how many pixels of an (H, W) bool mask are RIGHT and LEFT by `sides_of`, counted run by run."""
    starts, lengths, values = runs_of(mask)
    starts, lengths = starts[values], lengths[values]
    if not len(starts):
        return 0, 0
    small, rows, columns = _shrunk(mask)  # (h, w), (H,), (W,)
    row, first = np.divmod(starts, mask.shape[1])
    last = first + lengths - 1
    rows = rows[row]
    # all that is needed of the sides lies in the lungs' box, which takes half of the time
    top, bottom = rows[0], rows[-1] + 1
    left, right = columns[first.min()], columns[last.max()] + 1
    sides = _sides(small, (top, bottom, left, right))
    if not sides.any():  # the few pixels lie between the rows and columns of the small mask
        return 0, 0
    is_right = sides == RIGHT
    columns, rows = columns - left, rows - top
    widths = np.bincount(columns[(columns >= 0) & (columns < right - left)])  # (w,) pixels of a row in each column
    ends = widths.cumsum() + np.searchsorted(columns, 0)  # (w,) the first pixel behind each column
    whole = (is_right * widths).cumsum(1)  # (h, w) pixels up to the end of each column

    def up_to(pixels: np.ndarray) -> np.ndarray:
        """Return how many right pixels of its row lie before each of `pixels`, and it among them."""
        place = columns[pixels]
        return whole[rows, place] - is_right[rows, place] * (ends[place] - 1 - pixels)

    first_column = columns[first]
    befores = up_to(first) - is_right[rows, first_column]
    right_count = int((up_to(last) - befores).sum())
    return right_count, int(lengths.sum()) - right_count


def sides_of(mask: np.ndarray, is_mirrored: bool = False) -> np.ndarray:
    """Return (H, W) uint8: RIGHT or LEFT, the patient's, of the lung nearest to each pixel; BACKGROUND without lungs.

    The two largest regions are a lung each. A single region with a waist is two lungs that touch, and is cut at its
    narrowest column. A single region without one is the lung of the half that it lies in. Specks belong to the side of
    the column midway between the lungs, the waist, or the image's middle. The right lung is at the left of the image;
    at its right where the X-ray is mirrored.
    """
    small, rows, columns = _shrunk(mask)
    sides = _sides(small, (0, small.shape[0], 0, small.shape[1]))
    if is_mirrored:
        sides = np.array([BACKGROUND, LEFT, RIGHT], np.uint8)[sides]
    return sides[np.ix_(rows, columns)]


def _shrunk(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a mask at SIDES_SIZE or less, (h, w), and each pixel's row (H,) and column (W,) there."""
    height, width = mask.shape
    factor = min(1.0, SIDES_SIZE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = mask[np.ix_(nearest(size[1], height), nearest(size[0], width))]
    return small, nearest(height, size[1]), nearest(width, size[0])


def _sides(small: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Return `sides_of` a small (h, w) mask, not mirrored, in the box (top, bottom, left, right) around its lungs."""
    from scipy.ndimage import distance_transform_edt, label

    top, bottom, left, right = box
    width, small = small.shape[1], small[top:bottom, left:right]
    regions, count = label(small)
    if not count:
        return np.zeros(small.shape, np.uint8)
    lungs = np.flatnonzero(small)
    of_lungs = regions.ravel()[lungs]
    sizes = np.bincount(of_lungs, minlength=count + 1)[1:]
    columns = np.bincount(of_lungs, lungs % small.shape[1])[1:] / sizes  # of their centres
    first, *others = np.argsort(-sizes, kind="stable").tolist()
    waist = None
    if others and sizes[others[0]] >= SECOND_LUNG * sizes[first]:
        middle = columns[[first, others[0]]].mean()
    else:
        waist = waist_of(regions == first + 1)
        middle = width / 2 - left if waist is None else waist
    seeds = np.array([BACKGROUND, *np.where(columns < middle, RIGHT, LEFT)], np.uint8)[regions]  # (h, w)
    if waist is not None:
        halves = np.where(np.arange(small.shape[1]) < waist, np.uint8(RIGHT), np.uint8(LEFT))  # (w,)
        seeds = np.where(regions == first + 1, halves, seeds)
    row, column = distance_transform_edt(seeds == BACKGROUND, return_distances=False, return_indices=True)
    return np.take(seeds, row * small.shape[1] + column)  # the seed nearest to each


def waist_of(region: np.ndarray) -> int | None:
    """Return the column at which an (H, W) bool region has its waist; None where it has none.

    A waist lies in the middle half of the region's columns, and is less than half as high as the region at its highest
    on either side. Of several columns as narrow it is the middle one.
    """
    heights = region.sum(0)  # (W,)
    low, high = np.quantile(np.flatnonzero(heights), (0.25, 0.75)).astype(int)
    narrowest = low + np.flatnonzero(heights[low : high + 1] == heights[low : high + 1].min())
    middle = int(narrowest[len(narrowest) // 2])
    highest = min(heights[:middle].max(initial=0), heights[middle + 1 :].max(initial=0))
    return middle if heights[middle] < highest / 2 else None


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
    low, high = AREA_FRACTIONS
    if not low <= total <= high:
        flags.append(Flag.IMPLAUSIBLE_SIZE.raised(fraction=f"{total:.0%}", low=f"{low:.0%}", high=f"{high:.0%}"))
    if lungs.borders:
        flags.append(Flag.TOUCHES_BORDER.raised(borders=", ".join(lungs.borders)))
    return tuple(flags)


def image_flags(gray: Image.Image, chroma: float) -> tuple[RaisedFlag, ...]:
    """Return what is odd in a gray image with the `chroma` of its file, before any model sees it; empty if nothing."""
    from hub_models.dataset.inspection import BLANK_SPREAD  # loads `datasets`, which importing the reader must not

    step = max(1, min(gray.size) // SAMPLED)
    few = gray.resize((gray.width // step, gray.height // step), Image.Resampling.NEAREST)
    small = np.asarray(few.resize((64, 64), BOX), np.float32)  # (64, 64)
    if small.std() < BLANK_SPREAD:
        return (Flag.BLANK.raised(),)
    flags = [Flag.COLOUR.raised()] if chroma > COLOUR else []
    left, middle, right = (small[12:44, start:end].mean() for start, end in ((12, 26), (29, 35), (38, 52)))
    if min(left, right) - middle > INVERTED:
        flags.append(Flag.INVERTED.raised())
    return tuple(flags)
