"""What each file of a copy of the set says of itself once decoded, on every core, as hashes and figures."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import label

import chest_xray_masks as cxm
from hub_models.imaging.gray import is_synthetic, to_gray
from hub_models.imaging.resizing import BOX
from hub_models.imaging.source import open_image

BLANK_SPREAD = 1.0  # standard deviation in gray levels of 255, at 64x64 pixels; the flattest of 525 films has 40
SPECK_AREA = 0.002  # share of the image: lungs of 449 real masks take 0.018 to 0.258, specks at most 0.00025
CHUNK = 8  # jobs that a worker does with one `Reader`: large enough to open a zip seldom, small enough to share out

Job = tuple[cxm.SetFile, ...]  # all copies, best first, of an id's image, mask (one, or left and right), reading, ...


class Failure(NamedTuple):
    """A file that could not be decoded, or was not tried as it has more than `MAX_PIXELS`."""

    id: str
    message: str
    is_too_large: bool


class ImageFacts(NamedTuple):
    """An image: its PNG `mode` ("P 8-bit"), (width, height), hash of its gray pixels, `perceptual_hash`.

    `is_synthetic`: it says of itself that a program drew it.
    """

    mode: str
    size: tuple[int, int]
    content: str
    phash: bytes | None
    is_synthetic: bool = False


class Mask(NamedTuple):
    """A mask, the left and right lung of a pair joined; areas are shares of the image in (0, 1].

    `values` is "0/255", "soft edges", "0/1" or "all 0"; `gray_fraction` the share of pixels between black and white;
    `lungs` the components above `SPECK_AREA`, largest first; `specks` counts the others.
    """

    mode: str
    size: tuple[int, int]
    values: str
    gray_fraction: float
    lungs: tuple[float, ...]
    specks: int


class Look(NamedTuple):
    """What one job found: `facts` (a reading's are its text) is None where nothing was readable or a lung is missing.

    `differing` names the copies whose pixels (of a reading: words) are not those of the copy that is used.
    """

    role: str  # image, mask, reading, test_copy
    id: str
    facts: ImageFacts | Mask | str | None
    failures: tuple[Failure, ...]
    differing: tuple[str, ...]


class _Part(NamedTuple):
    """One decoded file; `lungs` is the (H, W) bool of a mask."""

    name: str
    kind: tuple[str, bool]  # role, is_png: only files of one kind are compared
    content: str
    facts: ImageFacts | Mask | str
    lungs: np.ndarray | None = None


def inspect_tree(tree: cxm.Tree, progress: bool = True) -> list[Look]:
    """One `Look` per image, mask, reading and test copy, each file fully decoded; damage never raises."""
    from rich.console import Console  # of no use to the reader, which uses a constant from here
    from rich.progress import track

    files = sorted(tree.files, key=_job_key)  # stable: the copy that the builder uses stays first
    jobs = [tuple(copies) for _, copies in groupby(files, key=_job_key)]
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    console = Console(stderr=True)
    bar = {"total": len(chunks), "console": console, "disable": not (progress and console.is_terminal)}
    if min(cores, len(chunks)) <= 1:
        return [look for looks in track(map(_inspect_chunk, chunks), "audit", **bar) for look in looks]
    with ProcessPoolExecutor(min(cores, len(chunks))) as pool:
        # map() starts the workers before track() starts its thread: no fork with a thread of ours running
        return [look for looks in track(pool.map(_inspect_chunk, chunks), "audit", **bar) for look in looks]


def _job_key(file: cxm.SetFile) -> tuple[str, str]:
    return file.id, "sides" if file.role in ("left_mask", "right_mask") else file.role


def _inspect_chunk(jobs: list[Job]) -> list[Look]:
    with cxm.Reader() as read:
        return [_inspect(job, read) for job in jobs]


def _inspect(job: Job, read: cxm.Reader) -> Look:
    """The look at one job; every copy is read, those with the same bytes are decoded once."""
    splits: dict[tuple[str, bool], _Part] = {}  # the first of each kind
    failures, differing, seen = [], [], set()
    for file in job:
        try:
            data = read(file)
            digest = (file.role, file.is_png, hashlib.sha256(data).digest())
            if digest in seen:
                continue
            seen.add(digest)
            part = _decode(file, data)
        except Exception as error:  # a damaged file is a row of the report, whatever its decoder raises
            failures.append(_failure(file, error))
            continue
        if splits.setdefault(part.kind, part).content != part.content:
            differing.append(f"{part.name} is not {splits[part.kind].name}")
    role, facts = job[0].role, None
    if not role.endswith("mask"):
        facts = next((part.facts for part in splits.values()), None)
    else:
        try:
            facts = _join(list(splits.values()), needed=1 if role == "mask" else 2)
        except ValueError as error:
            failures.append(_failure(job[0], error))
        role = "mask"
    return Look(role, job[0].id, facts, tuple(failures), tuple(differing))


def _failure(file: cxm.SetFile, error: Exception) -> Failure:
    message = cxm.reason(error)
    message = message if file.name in message else f"{file.name}: {message}"
    return Failure(file.id, message, isinstance(error, cxm.TooManyPixelsError))


def _decode(file: cxm.SetFile, data: bytes) -> _Part:
    """One file's facts, from a full decode; it may raise anything that decoders raise."""
    kind = (file.role, file.is_png)
    if file.role == "reading":
        text = cxm.decode_text(data)
        return _Part(file.name, kind, " ".join(text.split()), text)
    is_mask = file.role.endswith("mask")
    png = data if file.is_png or is_mask else cxm.dicom_png(data, file.name)  # no layout has DICOM masks
    size = cxm.check_image(png, file.name)
    image = open_image(png)
    mode = f"{image.mode} {png[24]}-bit" if image.format == "PNG" else f"{image.format} {image.mode}"
    mode = mode if file.is_png else "DICOM"
    gray = to_gray(image)
    if not is_mask:
        content = _hash(np.asarray(gray))
        return _Part(
            file.name, kind, content, ImageFacts(mode, size, content, perceptual_hash(gray), is_synthetic(png))
        )
    lungs = cxm.binarize(image)
    counts = gray.convert("L").histogram()
    black_or_white = counts[0] + counts[1] + counts[255]
    gray_fraction = 1 - black_or_white / lungs.size
    values = "soft edges" if gray_fraction else "0/255" if counts[255] else "0/1" if counts[1] else "all 0"
    return _Part(file.name, kind, _hash(lungs), Mask(mode, size, values, gray_fraction, (), 0), lungs)


def _hash(pixels: np.ndarray) -> str:
    digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels))
    return digest.hexdigest()


def _join(splits: list[_Part], needed: int) -> Mask | None:
    """Facts of a mask of one file, or of a left and a right one; None if fewer files than `needed` could be read.

    Raises:
        ValueError: left and right are not of one size.
    """
    if len(splits) < needed:
        return None
    if len(sizes := [part.facts.size for part in splits]) != sizes.count(sizes[0]):
        raise ValueError(f"left and right lung are of {sizes[0]} and {sizes[1]} pixels: make them one size")
    facts = max((part.facts for part in splits), key=lambda facts: facts.gray_fraction)
    areas = component_areas(np.logical_or.reduce([part.lungs for part in splits]))
    lungs = tuple(area for area in areas if area >= SPECK_AREA)
    mode = " and ".join(sorted({part.facts.mode for part in splits}))
    return facts._replace(mode=mode, lungs=lungs, specks=len(areas) - len(lungs))


def component_areas(foreground: np.ndarray) -> list[float]:
    """Shares in (0, 1] of the (H, W) bool that its connected parts (8 neighbours) take, largest first."""
    components, _ = label(foreground, np.ones((3, 3)))
    return sorted((np.bincount(components[foreground])[1:] / foreground.size).tolist(), reverse=True)


def perceptual_hash(gray: Image.Image) -> bytes | None:
    """256 bits (32 bytes): which of the 16x16 lowest frequencies are above their median; None for a blank image.

    Source: pHash (Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions), 16x16 for its 8x8.
    """
    small = np.asarray(gray.resize((64, 64), BOX), np.float32)
    if small.std() < BLANK_SPREAD:
        return None
    low = dctn(small, norm="ortho")[:16, :16]
    return np.packbits(low > np.median(low)).tobytes()


def hash_distances(hashes: Iterable[bytes]) -> np.ndarray:
    """(N, N) int32: the number of bits in which each two of N hashes differ."""
    bits = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8)).reshape(-1, 256)
    signs = 2 * bits.astype(np.float32) - 1
    return ((256 - signs @ signs.T) / 2).astype(np.int32)
