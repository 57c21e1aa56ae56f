"""Decode every file of a copy of the set, on every core, and keep facts: sizes, modes, hashes, lung areas."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import label

import chest_xray_masks as cxm
from hub_models.dataset.audit_report import Finding
from hub_models.imaging.file_kinds import is_dicom
from hub_models.imaging.gray import is_synthetic, to_gray
from hub_models.imaging.resizing import BOX
from hub_models.imaging.source import check_xray, open_image
from hub_models.lifetime import tied_workers

BLANK_SPREAD = 1.0  # standard deviation in gray levels of 255, at 64x64 pixels; the flattest of 525 X-rays has 40
SPECK_AREA = 0.002  # fraction of the image: lungs of 449 real masks take 0.018 to 0.258, specks at most 0.00025
MASK_FRACTION = (
    0.9  # of a mask's pixels that are black or white, even where it was resized; 1,016 X-rays have 0.63 at most
)
CHUNK_JOBS = 8  # jobs of a worker with one `Reader`: enough to open a zip seldom, few enough to keep every core busy

Job = tuple[cxm.SetFile, ...]  # all copies, best first, of an id's image, mask (one, or left and right), reading, ...


class Chunk(NamedTuple):
    """Jobs of one worker, and the bytes of files that are held in memory."""

    jobs: Sequence[Job]
    held: dict[cxm.SetFile, bytes]


class ImageFacts(NamedTuple):
    """An image: its PNG mode ("P 8-bit"), (width, height), hashes of its gray pixels, whether a program drew it.

    `is_two_valued` is whether two values make up `MASK_FRACTION` of its gray pixels, as of those of a mask.
    """

    mode: str
    size: tuple[int, int]
    content: str
    phash: bytes | None
    is_synthetic: bool
    is_two_valued: bool


class MaskFacts(NamedTuple):
    """A mask, the left and right lung of a pair joined; areas are fractions of the image in (0, 1].

    `values` is "0/255", "soft edges", "labels", "0/1" or "all 0"; `gray_fraction` the fraction of pixels that are
    neither black nor white nor a label; `lungs` the areas of the components above `SPECK_AREA`, largest first;
    `specks` counts the others; `doubt` says why it can hardly be of lungs.
    """

    mode: str
    size: tuple[int, int]
    values: str
    gray_fraction: float
    lungs: tuple[float, ...]
    specks: int
    doubt: str = ""


class Inspected(NamedTuple):
    """The result of one job; `facts` (a reading's are its text) is None for no readable file, or one lung of two.

    `role` is image, mask, reading or test_copy. `findings` are damaged files and copies with other content.
    """

    role: str
    id: str
    facts: ImageFacts | MaskFacts | str | None
    findings: tuple[Finding, ...]


class _Decoded(NamedTuple):
    """One file; `lungs` is the (H, W) bool of a mask."""

    name: str
    content: str
    facts: ImageFacts | MaskFacts | str
    lungs: np.ndarray | None = None


def inspect_tree(tree: cxm.Tree, progress: bool = True) -> list[Inspected]:
    """Return one `Inspected` per image, mask, reading and test copy, each file fully decoded; damage never raises."""
    files = sorted(tree.files, key=_job_key)  # stable: the copy that the builder uses stays first
    jobs = [tuple(copies) for _, copies in groupby(files, key=_job_key)]
    return inspect_jobs(jobs, {}, progress)


def inspect_jobs(jobs: list[Job], held: dict[cxm.SetFile, bytes], progress: bool = True) -> list[Inspected]:
    """Return one `Inspected` per job, in order; bytes of files that are `held` in memory are not read again."""
    from rich.console import Console  # the reader takes a constant from this module, and does without rich
    from rich.progress import track

    parts = [jobs[start : start + CHUNK_JOBS] for start in range(0, len(jobs), CHUNK_JOBS)]
    chunks = [Chunk(part, {file: held[file] for job in part for file in job if file in held}) for part in parts]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    console = Console(stderr=True)

    def gather(done: Iterable[list[Inspected]]) -> list[Inspected]:
        hidden = not (progress and console.is_terminal)
        bar = track(done, "audit", total=len(chunks), console=console, disable=hidden)
        return [inspected for chunk in bar for inspected in chunk]

    if min(cores, len(chunks)) <= 1:
        return gather(map(_inspect_chunk, chunks))
    with tied_workers(), ProcessPoolExecutor(min(cores, len(chunks))) as pool:
        # map() starts the workers before track() starts its thread: no fork with a thread of ours running
        return gather(pool.map(_inspect_chunk, chunks))


def _job_key(file: cxm.SetFile) -> tuple[str, str]:
    return file.id, "sides" if file.role in ("left_mask", "right_mask") else file.role


def _inspect_chunk(chunk: Chunk) -> list[Inspected]:
    with cxm.Reader() as reader:

        def read(file: cxm.SetFile) -> bytes:
            return chunk.held[file] if file in chunk.held else reader(file)

        return [_inspect(job, read) for job in chunk.jobs]


def _inspect(job: Job, read: Callable[[cxm.SetFile], bytes]) -> Inspected:
    """Return the facts of one job; every copy is read, those with the same bytes are decoded once."""
    first: dict[tuple[str, int], _Decoded] = {}  # by role and rank: only files of one kind are compared, or masks
    findings, seen = [], set()
    for file in job:
        try:
            data = read(file)
            digest = (file.role, file.rank, hashlib.sha256(data).digest())
            if digest in seen:
                continue
            seen.add(digest)
            decoded = _decode(file, data)
        except Exception as error:  # a damaged file is a row of the report, whatever its decoder raises
            findings.append(_failure(file, error))
            continue
        used = first.setdefault((file.role, 0 if file.role.endswith("mask") else file.rank), decoded)
        if used.content != decoded.content and not _are_alike(used, decoded):
            findings.append(Finding("copies differ", (file.id,), f"{file.name} is not {used.name}"))
    role, id, facts = job[0].role, job[0].id, next((decoded.facts for decoded in first.values()), None)
    if role.endswith("mask"):
        try:
            facts = _join(list(first.values()), role)
        except ValueError as error:
            facts = None
            findings.append(_failure(job[0], error))
        role = "mask"
    return Inspected(role, id, facts, tuple(findings))


def _are_alike(one: _Decoded, other: _Decoded) -> bool:
    """Return whether two masks differ as little as two formats may."""
    if one.lungs is None or other.lungs is None or Path(one.name).suffix == Path(other.name).suffix:
        return False
    return not cxm.differ(one.lungs, other.lungs, is_soft=True)


def _failure(file: cxm.SetFile, error: Exception) -> Finding:
    message = cxm.reason(error)
    kind = "too many pixels" if isinstance(error, cxm.TooManyPixelsError) else "unreadable file"
    return Finding(kind, (file.id,), message if file.name in message else f"{file.name}: {message}")


def _decode(file: cxm.SetFile, data: bytes) -> _Decoded:
    """Return one file's facts, from a full decode; it may raise anything that decoders raise."""
    if file.role == "reading":
        text = cxm.decode_text(data)
        return _Decoded(file.name, " ".join(text.split()), text)
    is_mask = file.role.endswith("mask")
    from_dicom = not is_mask and is_dicom(data[: cxm.HEAD_BYTES], file.name)  # no layout has DICOM masks
    png = cxm.dicom_png(data, file.name) if from_dicom else data
    size, image = check_xray(png, file.name), open_image(png)
    mode = f"{image.mode} {png[24]}-bit" if image.format == "PNG" else f"{image.format} {image.mode}"
    mode = "DICOM" if from_dicom else mode
    if not is_mask:
        gray = to_gray(image)
        content = _hash(np.asarray(gray))
        counts = sorted(gray.histogram())
        is_two_valued = counts[-2] > 0 and sum(counts[-2:]) >= MASK_FRACTION * sum(counts)
        seen = ImageFacts(mode, size, content, perceptual_hash(gray), is_synthetic(png), is_two_valued)
        return _Decoded(file.name, content, seen)
    lungs, values = cxm.binarize(image), cxm.mask_values(image)
    counts = Image.fromarray(values).histogram()
    labels = {label for label in cxm.mask_labels(values) if 1 < label < 240}
    gray_fraction = 1 - sum(counts[value] for value in {0, 1, 255} | labels) / lungs.size
    said = "soft edges" if gray_fraction else "0/255" if counts[255] else "0/1" if counts[1] else "all 0"
    facts = MaskFacts(mode, size, "labels" if labels else said, gray_fraction, (), 0)
    return _Decoded(file.name, _hash(lungs), facts, lungs)


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def _join(decoded: list[_Decoded], role: str) -> MaskFacts | None:
    """Return the facts of a mask in one file or two (left, right); None for fewer readable files.

    Raises:
        ValueError: left and right are not of one size.
    """
    masks = [one.facts for one in decoded if isinstance(one.facts, MaskFacts)]
    if len(masks) < (1 if role == "mask" else 2):
        return None
    if len(sizes := {mask.size: None for mask in masks}) > 1:
        raise ValueError(f"left and right lung have {' and '.join(map(str, sizes))} pixels: make them the same size")
    union = np.logical_or.reduce([one.lungs for one in decoded if one.lungs is not None])
    areas = component_areas(union)
    lungs = tuple(area for area in areas if area >= SPECK_AREA)
    mode = " and ".join(sorted({mask.mode for mask in masks}))
    grayest = max(masks, key=lambda mask: mask.gray_fraction)
    specks = len(areas) - len(lungs)
    return grayest._replace(mode=mode, lungs=lungs, specks=specks, doubt=cxm.doubt_of(union))


def component_areas(foreground: np.ndarray) -> list[float]:
    """Return the fractions in (0, 1] of the (H, W) bool in each connected component (8 neighbours), largest first."""
    components, _ = label(foreground, np.ones((3, 3)))
    return sorted((np.bincount(components[foreground])[1:] / foreground.size).tolist(), reverse=True)


def perceptual_hash(gray: Image.Image) -> bytes | None:
    """Return 256 bits (32 bytes): which of the 16x16 lowest frequencies exceed their median; None for a blank image.

    Source: pHash (Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions), 16x16 for its 8x8.
    """
    small = np.asarray(gray.resize((64, 64), BOX), np.float32)
    if small.std() < BLANK_SPREAD:
        return None
    low = dctn(small, norm="ortho")[:16, :16]
    return np.packbits(low > np.median(low)).tobytes()


def hash_distances(hashes: Iterable[bytes]) -> np.ndarray:
    """Return (N, N) int32: the number of bits in which each two of N hashes differ."""
    bits = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8)).reshape(-1, 256)
    signs = 2 * bits.astype(np.float32) - 1
    return ((256 - signs @ signs.T) / 2).astype(np.int32)
