"""The Montgomery County and Shenzhen tuberculosis chest X-rays with lung masks and readings, as a `datasets` builder.

    import chest_xray_masks

    rows = chest_xray_masks.load("MC", data_dir="<the set: a folder or a zip>", split="train")

The import also makes the name known to datasets 4 and 5: `load_dataset("chest_xray_masks", "MC", data_dir=...)`.

The file is complete on its own (standard library, datasets, numpy, PIL; pydicom for DICOM only), so it can be copied.
"""

import hashlib
import importlib
import inspect
import io
import json
import math
import os
import re
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import datasets
import numpy as np
from datasets.utils.file_utils import xopen
from PIL import Image, ImageOps, TiffImagePlugin

__version__ = "0.2.0"  # of the whole project; pyproject.toml and hub_models read it here

HOMEPAGE = "https://www.kaggle.com/datasets/nikhilpandey360/chest-xray-masks-and-labels"
DOWNLOAD_URL = "https://www.kaggle.com/api/v1/datasets/download/nikhilpandey360/chest-xray-masks-and-labels"
LAYOUTS = (
    "Lung Segmentation/{CXR_png,masks,test,ClinicalReadings} (Kaggle chest-xray-masks-and-labels), "
    "Montgomery/MontgomerySet and ChinaSet_AllFiles (Kaggle pulmonary-chest-xray-abnormalities), "
    "MontgomerySet and ChinaSet_AllFiles (NLM; masks in mask/), MontgomerySet with .dcm (NLM DICOM); folder or zip"
)
SITES = {"MC": "Montgomery", "Shenzhen": "Shenzhen"}  # config -> site
SITE_OF_PREFIX = {"MCUCXR": "Montgomery", "CHNCXR": "Shenzhen"}
SPLITS = ("train", "validation", "test")
# Chosen among 65 million: on the full 800, every group of site x label x has-mask is split 70/10/20 within 1.4 points.
# X-rays that resemble one patient's though no reading says so (MCUCXR_0254 and 0255, 0372 and 0375) are in one split.
SPLIT_SALT = 62858640
# Said by the readings of the full set ("same pt as ..."); kept here so that a copy without readings is split alike.
SAME_PATIENT = {"MCUCXR_0117": "MCUCXR_0113", "MCUCXR_0166": "MCUCXR_0162", "MCUCXR_0170": "MCUCXR_0162"}
ROWS_VERSION = 1  # raise when a row comes to hold something else; part of the cache's path
MAX_PIXELS = 100_000_000  # the largest original holds 19.7 million
DECODING_SECONDS = 30  # of a compressed DICOM frame, and two more for each million pixels
HEADER_BYTES = 2**22  # of a DICOM element but the pixels: lookup tables, the longest, take 2**17 each
HEAD_BYTES = 512  # of a file, which tell what it is
MAX_BYTES = 2**29  # of an image file: MAX_PIXELS of 4 bytes and more
MAX_READING = 2**16  # bytes; the longest of the 800 readings takes 600
MAX_RATIO, MIN_BOUND = 100, 2**26  # a zip's member unpacks to 100 times its packed bytes, or to 64 MiB, at the most
# Of X-rays. Pillow reads more formats, but starts other programs for some of them (EPS).
FORMATS = ("PNG", "JPEG", "TIFF", "JPEG2000", "BMP", "GIF", "WEBP", "PPM")
CAMERA_FORMATS = ("JPEG", "MPO")  # a phone's photograph of an X-ray, in MPO beside previews
_TURNED = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")  # in the bytes of a PNG that may be turned
for _kind, _modes in list(TiffImagePlugin.OPEN_INFO.items()):
    if _kind[1] == 1 and _modes[0][0] in "IF":  # Pillow reads deep gray of all kinds where 0 is black
        TiffImagePlugin.OPEN_INFO.setdefault((_kind[0], 0, *_kind[2:]), _modes)

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "patient_id": datasets.Value("string"),
        "site": datasets.ClassLabel(names=list(SITES.values())),
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "label": datasets.ClassLabel(names=["normal", "tuberculosis"]),
        "sex": datasets.ClassLabel(names=["female", "male", "other"]),
        "age_years": datasets.Value("float32"),
        "findings": datasets.Value("string"),
        "reading": datasets.Value("string"),
    }
)
DESCRIPTION = "Chest X-rays of Montgomery County (138) and Shenzhen (662), 704 lung masks, readings and a TB label."
LICENSE = (
    "NLM asks users to cite the papers below, and not to share the Montgomery set outside one's group; Kaggle lists "
    "CC0; the Shenzhen masks (arXiv 1803.01199) are CC BY-NC-SA 4.0. Research use, not a medical device."
)
CITATION = """\
Jaeger et al. 2014, Quant Imaging Med Surg 4(6):475-477, doi 10.3978/j.issn.2223-4292.2014.11.20
Jaeger et al. 2014, IEEE Trans Med Imaging 33(2):233-245, doi 10.1109/TMI.2013.2284099
Candemir et al. 2014, IEEE Trans Med Imaging 33(2):577-590, doi 10.1109/TMI.2013.2290491
Stirenko et al. 2018 (Shenzhen masks), arXiv 1803.01199"""


class Reading(NamedTuple):
    """Sex (female, male or other), age (> 0) and findings in a radiologist's text; each None where it is not said."""

    sex: str | None = None
    age_years: float | None = None
    findings: str | None = None


_WORDS_OF_SEX = {"female": "f fem female woman girl", "male": "m male man boy", "other": "o other others"}
_SEX_WORDS = {word: sex for sex, words in _WORDS_OF_SEX.items() for word in words.split()}
_DAYS = {"y": 365.25, "m": 365.25 / 12, "w": 7.0, "d": 1.0}
_STOP = r"[^\S\n]*(?:[,;)\]]|\.?[^\S\n]*$)"  # where a phrase ends: a comma, a bracket, the line
_SEX_NEXT = rf"[^\w\n]*(?:(?:(?:fe)?male|(?:wo)?man|boy|girl)\b|[fm]\b(?={_STOP}))"
# Letters and misspellings must end where the word ends; spelt-out units may touch the next word ("45yrsnormal").
_MISSPELT = r"[tu]?y[ears]{0,6}|y/?o|m[ounthes]{0,7}(?<!most)(?<!men)|w[eks]{0,4}|d[ayes]{0,4}"
_UNIT = rf"(?:(?:{_MISSPELT})\b|years?|yrs?|months?|weeks?|days?|(?<=[0-9])y)"
_SPAN = rf"[0-9]{{1,3}}(?:[.,][0-9]+)?[^\w\n]{{0,3}}{_UNIT}"
_AGE = rf"{_SPAN}(?:(?:[^\S\n]*(?:and[^\S\n]*)?{_SPAN})+(?={_STOP}))?(?:[ -]?old\b(?={_STOP}|{_SEX_NEXT}))?"
_LABEL = r"(?:p[a-z]{1,7}\W{0,2}s?\W{0,2})?"  # "Patient's ", in any spelling and with any apostrophe
_LABELLED_SEX = re.compile(
    rf"{_LABEL}(?:sex|gender)\b[^\w\n]*(?P<value>[a-z]{{0,12}}?)(?=patient|[^a-z]|$)", re.I | re.M
)
_LABELLED_AGE = re.compile(rf"{_LABEL}aged?\b[^\w\n]*(?P<value>{_AGE}|[0-9]+|unknown\b|n/?a\b|)", re.I | re.M)
_SEX = re.compile(
    rf"(?P<value>fe[ -]male|[a-z]{{1,12}})(?![a-z])(?P<alone>(?=[\W_]*(?:[0-9]|$)|{_STOP}))?", re.I | re.M
)
_AGE_BEHIND_SEX = re.compile(
    rf"(?P<value>{_AGE}(?![a-z]*\s*(?:ago|later|earlier|before)\b)|[0-9]{{1,3}}(?={_STOP})"
    r"|[0-9][0-9](?=[^\S\n]+(?![mc]m\b|x\b)[a-z])|unknown\b|n/?a\b)",
    re.I | re.M,
)
_AGE_BELOW_SEX = re.compile(rf"(?P<value>{_AGE}|[0-9]{{1,3}})(?=[^\w\n]*$)", re.I | re.M)
_AGE_FIRST = re.compile(rf"(?P<value>[0-9]{{1,3}}(?={_SEX_NEXT})|{_AGE}(?={_STOP}|{_SEX_NEXT}))", re.I | re.M)
_GAP = re.compile(r"[\W_]*(?:an?\s+(?=[0-9]))?", re.I)
_END_OF_HEAD = re.compile(r"[\s,;:.|/\-)\]}\uff0c\uff1a\uff1b\u3002]*")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f\ufeff]+")


def parse_reading(text: str | None) -> Reading:
    """Return sex, age and findings of a Montgomery or Shenzhen reading; None for each that cannot be read.

    Reads "Patient's Sex: F / Patient's Age: 031Y / ..." and "male 46yrs / ..." in any order, spacing and capitals,
    misspelt sexes ("femal") too. Months, weeks and days are fractions of a year (64 days is 0.175). An age without
    unit is in years; one of 0 (DICOM's unknown) or over 120 is None. Sex and age are read at the head of the first
    line that has both, else of the first line, so numbers inside the findings are no age. `findings` is the rest as
    written, its white space tidied and its lines joined by "; ".
    """
    tidy = (_BLANK.sub(" ", line).strip() for line in (text or "").splitlines())
    text = "\n".join(line for line in tidy if line)
    starts = (0, *(line.end() for line in re.finditer(r"\n(?=.*\w)", text)))
    heads = [(start, *_head(text, start)) for start in starts]
    start, values, end = next((head for head in heads if len(head[1]) == 2), heads[0])
    lines = (line.strip(" ;") for line in f"{text[:start]}\n{text[end:]}".split("\n"))
    findings = "; ".join(line for line in lines if re.search(r"[^\W_]", line)) or None
    return Reading(_sex_of(values.get("sex", ""), fuzzy=True), _years(values.get("age", "")), findings)


def _head(text: str, start: int) -> tuple[dict[str, str], int]:
    """Return sex and age as written, by name, at `start` of a text, and where the text after them begins."""
    values: dict[str, str] = {}
    end = start
    while len(values) < 2:
        here = _end_of(_GAP, text, end)
        below = "\n" in text[end:here]
        plain_age = _AGE_FIRST if "sex" not in values else _AGE_BELOW_SEX if below else _AGE_BEHIND_SEX
        sex = _LABELLED_SEX.match(text, here) or _SEX.match(text, here)
        age = _LABELLED_AGE.match(text, here) or plain_age.match(text, here)
        if sex and sex.re is not _LABELLED_SEX and not _sex_of(sex["value"], fuzzy=sex["alone"] is not None):
            sex = None
        if sex and "sex" not in values:
            values["sex"], end = sex["value"], sex.end()
        elif age and "age" not in values:
            values["age"], end = age["value"], age.end()
        else:
            break
    return values, _end_of(_END_OF_HEAD, text, end) if values else start


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Return where the match at `start` ends; `start` without one."""
    match = pattern.match(text, start)
    return match.end() if match else start


def _sex_of(word: str, fuzzy: bool) -> str | None:
    """Return the sex a word names; with `fuzzy` also by one letter, or misspelt with three quarters of the letters."""
    word = word.lower()
    if word in _SEX_WORDS and (fuzzy or len(word) > 1):
        return _SEX_WORDS[word]
    closeness, sex = max((SequenceMatcher(None, word, sex).ratio(), sex) for sex in ("female", "male"))
    return sex if fuzzy and closeness >= 0.75 else None


def _years(age: str) -> float | None:
    """Return the years in "16month", "1yr 2 months", "45"; None where there is no number in (0, 120]."""
    spans = re.findall(r"([0-9]+(?:[.,][0-9]+)?)[\W_]*([a-z]?)", age.lower())
    days = sum(float(number.replace(",", ".")) * _DAYS.get(unit, _DAYS["y"]) for number, unit in spans)
    return days / _DAYS["y"] if 0 < days <= 120 * _DAYS["y"] else None


def split_of(patient_id: str) -> str:
    """Return a patient's split: train (70 %), validation (10 %) or test (20 %), a pure function of `patient_id`."""
    digest = hashlib.sha256(f"{SPLIT_SALT}:{patient_id}".encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    return SPLITS[(fraction >= 0.7) + (fraction >= 0.8)]


class SetFile(NamedTuple):
    """One file of the set: its role, its image's id, and where it is (a path, or a member of the zip `path`)."""

    role: str  # image, mask, left_mask, right_mask, reading, test_copy
    id: str
    path: str
    member: str  # empty outside a zip
    size: int  # bytes
    stamp: int  # modification time in ns; in a zip the member's CRC-32

    @property
    def name(self) -> str:
        """Return the path as people see it: `folder/file.png` or `archive.zip/folder/file.png`."""
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def is_png(self) -> bool:
        """Return whether an image is PNG; False for DICOM."""
        return self.name.lower().endswith(".png")


@dataclass
class Tree:
    """Every file of the set under `root`, best copy first, and the files that cannot be read as (name, message)."""

    root: str
    files: list[SetFile] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    jpegs: int = 0  # images of the set that somebody saved as JPEG; none is used

    def chosen(self) -> dict[tuple[str, str], SetFile]:
        """Return one file per (role, id), so that no copy counts twice."""
        return {(file.role, file.id): file for file in reversed(self.files)}

    def fingerprint(self, site: str | None) -> str:
        """Return a hash of the problems and of the names, sizes and times of the files used for `site` (None: all)."""
        used = sorted(row for row in self.chosen().values() if row.role != "test_copy" and _is_at(row.id, site))
        facts = [(file.role, file.id, PurePosixPath(file.member or file.path).name, *file[4:]) for file in used]
        return hashlib.sha256(repr((facts, self.problems)).encode()).hexdigest()[:16]


class Row(NamedTuple):
    """One image and the files that belong to it; the unit of sharding."""

    id: str
    patient_id: str
    image: SetFile
    masks: tuple[SetFile, ...]  # none, one, or left and right
    reading: str | None
    copies: tuple[SetFile, ...] = ()  # of image and masks: files of the same id, role and kind


_FILE_NAME = re.compile(
    r"(?P<id>(?:MCU|CHN)CXR_[0-9]+_[01])(?P<mask>_mask)?\.(?P<kind>png|txt|dcm|dicom)", re.I | re.A
)
_JPEG_NAME = re.compile(r"(?:MCU|CHN)CXR_[0-9]+_[01]\.jpe?g", re.I | re.A)
_LEFT_BEHIND = ("__macosx", ".ipynb_checkpoints")  # folders that systems make
_ROLE_OF_FOLDER = {"cxr_png": "image", "mask": "mask", "masks": "mask"} | {
    f"{side}mask": f"{side}_mask" for side in ("left", "right")
}


def _role_of(folders: tuple[str, ...], name: str) -> tuple[str, str] | None:
    """Return (role, id) of a file in any of the known layouts; None for a file that is not of the set."""
    match = _FILE_NAME.fullmatch(name)
    if not match or any(folder.lower() in _LEFT_BEHIND for folder in folders):
        return None
    kind, folder = match["kind"].lower(), folders[-1].lower() if folders else ""
    if kind == "txt":
        role = None if match["mask"] else "reading"
    elif folder == "test":  # copies of images that stand in CXR_png too
        role = None if match["mask"] else "test_copy"
    elif match["mask"]:
        role = "mask"
    else:
        role = _ROLE_OF_FOLDER.get(folder, "image" if kind != "png" else None)
    return (role, match["id"].upper()) if role else None


def scan(source: str | Path) -> Tree:
    """List every file of the set in a folder (zips in it too), a zip, or a zip's URL; only names and sizes are read.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: it is neither folder nor file, but a FIFO, a socket or a device.
        ConnectionError: the URL cannot be reached.
    """
    tree = Tree(str(source))
    if "://" in tree.root:
        _scan_url(tree)
    elif (root := Path(os.path.realpath(Path(source).expanduser()))).is_dir():
        _scan_folder(tree, root)
    elif os.path.lexists(root):
        regular_size(root)
        _scan_zip(tree, str(root), (root.stem,))
    else:
        raise FileNotFoundError(f"data_dir {source} does not exist: pass the folder or the zip that holds the set")
    # prefer PNG to DICOM, unzipped to zipped, shallow to deep
    tree.files.sort(key=lambda f: (f.role, f.id, not f.is_png, bool(f.member), len(f.name), f.name))
    return tree


def _scan_folder(tree: Tree, root: Path) -> None:
    """Add the files of a folder and of all below it to `tree`.

    Links are followed, but into no folder above, nor a second time into one under the same name, which tells the role.
    """
    waiting: list[tuple[str, tuple[str, ...], tuple[tuple[int, int], ...]]] = [(str(root), (root.name,), ())]
    seen: set[tuple[int, int, str]] = set()
    while waiting:
        folder, inside, above = waiting.pop()
        try:
            state = Path(folder).stat()
            here = state.st_dev, state.st_ino
            if here in above or (*here, inside[-1]) in seen:
                continue
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            tree.problems.append((folder, f"cannot be read ({error.strerror}): give the right to read it"))
            continue
        seen.add((*here, inside[-1]))
        folders = [entry for entry in entries if _scan_entry(tree, entry, inside)]
        waiting += [(entry.path, (*inside, entry.name), (*above, here)) for entry in reversed(folders)]


def _scan_entry(tree: Tree, entry: os.DirEntry[str], inside: tuple[str, ...]) -> bool:
    """Add a file, or the members of a zip, to `tree`; return whether the entry is a folder to look into."""
    stem, _, suffix = entry.name.rpartition(".")
    tree.jpegs += _JPEG_NAME.fullmatch(entry.name) is not None
    found = _role_of(inside, entry.name)
    try:
        if entry.is_dir() and not found:
            return entry.name.lower() not in _LEFT_BEHIND
        if suffix.lower() == "zip" and not stem.startswith("._"):
            _scan_zip(tree, entry.path, (*inside, stem))
        elif found:
            regular_size(entry.path)
            facts = entry.stat()
            tree.files.append(SetFile(*found, entry.path, "", facts.st_size, facts.st_mtime_ns))
        elif "." not in entry.name:  # a link to nowhere may have been one to a folder
            entry.stat()
    except OSError as error:
        tree.problems.append((entry.path, f"cannot be read ({error.strerror}): replace it by a sound copy"))
    except ValueError as error:
        tree.problems.append((entry.path, str(error).removeprefix(f"{entry.path} ")))
    return False


def _scan_zip(tree: Tree, path: str, inside: tuple[str, ...]) -> None:
    """Add a zip's members to `tree`; a broken zip or an unsafe member name becomes a problem."""
    try:
        with _open_zip(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        if "://" in path and not isinstance(error, zipfile.BadZipFile):
            raise
        tree.problems.append((path, f"is no whole zip ({error}): download it again, or pass the unzipped folder"))
        return
    for member in members:
        *folders, name = member.filename.replace("\\", "/").split("/")
        stem, _, suffix = name.rpartition(".")
        tree.jpegs += _JPEG_NAME.fullmatch(name) is not None
        if ".." in folders or (folders and re.fullmatch(r"|[a-z]:", folders[0], re.I)):
            tree.problems.append((f"{path}/{member.filename}", "has an unsafe path in the zip: get the zip again"))
        elif suffix.lower() == "zip" and not stem.startswith("._") and "__MACOSX" not in folders:
            tree.problems.append((f"{path}/{member.filename}", "is a zip in a zip, which is not read: unpack it"))
        elif found := _role_of((*inside, *folders), name):
            tree.files.append(SetFile(*found, path, member.filename, member.file_size, member.CRC))


def _scan_url(tree: Tree) -> None:
    """Add the members of the zip behind the URL `tree.root`, tried once: datasets would try for 100 seconds."""
    config = datasets.config
    tries, config.STREAMING_OPEN_MAX_RETRIES = getattr(config, "STREAMING_OPEN_MAX_RETRIES", 1), 1
    try:
        _scan_zip(tree, tree.root, ())
    except Exception as error:  # each transport has its own
        cause = error.__cause__ or error
        way_out = 'pass a folder or a zip of this machine; a data set on the Hub is load_dataset("<owner>/<name>")'
        raise ConnectionError(f"{tree.root} cannot be reached ({type(cause).__name__}: {cause}): {way_out}") from error
    finally:
        config.STREAMING_OPEN_MAX_RETRIES = tries


def _open_zip(path: str) -> zipfile.ZipFile:
    """Open a zip on disk or behind a URL."""
    if "://" in path:
        return zipfile.ZipFile(xopen(path, "rb"))
    regular_size(path)
    return zipfile.ZipFile(path)


def regular_size(path: str | Path) -> int:
    """Return the size in bytes of a file; of a FIFO, socket or device, which may never end, none is read.

    Raises:
        OSError: there is none, or its folder may not be entered.
        ValueError: it is no regular file.
    """
    facts = Path(path).stat()
    if stat.S_ISDIR(facts.st_mode):
        raise ValueError(f"{path} is a folder: pass the file of one X-ray")
    if not stat.S_ISREG(facts.st_mode):
        kind = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}.get(stat.S_IFMT(facts.st_mode), "a device")
        raise ValueError(f"{path} is {kind}: put a regular file in its place")
    return facts.st_size


def read_file(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `limit`; raises as `regular_size`, and ValueError for more."""
    if (size := regular_size(path)) > limit:
        raise ValueError(f"{path} has {size} bytes, more than {limit}: get a sound copy")
    with Path(path).open("rb") as file:
        return file.read(size)


def read_member(archive: zipfile.ZipFile, member: str, name: str, limit: int = MAX_BYTES, count: int = -1) -> bytes:
    """Return the bytes, or the first `count`, of a zip's member, called `name` in errors, in bounded time and memory.

    Raises:
        ValueError: it is damaged, encrypted, of more than `limit` bytes or `MAX_RATIO`, or packed by another method
            than deflate, which could unpack a few bytes to any number.
    """
    try:
        info = archive.getinfo(member)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"packed by method {info.compress_type}, not by deflate")
        if info.header_offset + info.compress_size > archive.start_dir:
            raise ValueError(f"it claims {info.compress_size} packed bytes, more than the zip holds")
        if count < 0 and info.file_size > min(limit, max(MIN_BOUND, MAX_RATIO * info.compress_size)):
            raise ValueError(f"it would unpack to {info.file_size} bytes, more than it may have")
        with archive.open(info) as file:
            return file.read(count)
    except Exception as error:  # each kind of compression has its own
        raise ValueError(f"{name} cannot be read from its zip ({error}): get the zip again") from error


def rows_of(tree: Tree, site: str | None = None) -> list[Row]:
    """Return one row per image of `site` (None: both), sorted by id, each with its patient, masks and reading.

    Raises:
        ValueError: the tree holds a cut zip, or a member with an unsafe path.
        FileNotFoundError: it holds no image of the site.
    """
    for name, message in tree.problems:
        raise ValueError(f"{name} {message}")
    chosen = {key: file for key, file in tree.chosen().items() if _is_at(file.id, site)}
    copies: dict[SetFile, list[SetFile]] = {}  # of each file in use, itself among them
    for file in tree.files:
        used = chosen.get((file.role, file.id))
        if used and file.is_png == used.is_png:
            copies.setdefault(used, []).append(file)
    ids = sorted(id for role, id in chosen if role == "image")
    if not ids:
        raise FileNotFoundError(_nothing_in(tree, site))
    if all(role in ("image", "test_copy") for role, _ in chosen):
        hint = "%s has X-rays but no mask and no reading: if they are beside it, pass the folder above"
        datasets.logging.get_logger(__name__).warning(hint, tree.root)
    with Reader() as reader:
        texts = {id: file for (role, id), file in chosen.items() if role == "reading"}
        readings = {id: decode_text(reader.checked(file, copies[file])) for id, file in texts.items()}
    patients = patients_of(readings)
    rows = []
    for id in ids:
        masks = [chosen[role, id] for role in ("mask", "left_mask", "right_mask") if (role, id) in chosen]
        if masks and masks[0].role == "mask":
            masks = masks[:1]
        elif len(masks) == 1:
            datasets.logging.get_logger(__name__).warning("%s is one lung of two: %s has no mask", masks[0].name, id)
            masks = []
        image = chosen["image", id]
        same = tuple(one for file in (image, *masks) if len(copies[file]) > 1 for one in copies[file])
        rows.append(Row(id, patient_of(id, patients), image, tuple(masks), readings.get(id), same))
    return rows


def _nothing_in(tree: Tree, site: str | None) -> str:
    """Return the error for a tree without images of `site`: what was looked for, and what was found instead."""
    said = f"no {site or 'Montgomery or Shenzhen'} chest X-rays in {tree.root}: "
    if tree.jpegs:
        return f"{said}{tree.jpegs} of them are .jpg copies, which lose detail: pass the original .png or .dcm files"
    root = Path(tree.root)
    if root.is_dir() and any(chain(root.rglob("*.parquet"), root.glob("dataset_*.json"))):
        load_with = "load_from_disk" if any(root.glob("dataset_*.json")) else "load_dataset"
        return f'{said}it is a data set that was built already: call datasets.{load_with}("{tree.root}")'
    names = "CXR_png/{MCUCXR,CHNCXR}_<number>_<0 or 1>.png"
    return f"{said}looked for {names} at any depth, in one of these layouts: {LAYOUTS}"


def patients_of(readings: dict[str, str]) -> dict[str, str]:
    """Return the patient of each id that shares one with another, by "same pt as ..." in readings by image id."""
    links = dict(SAME_PATIENT)

    def first(patient: str) -> str:
        while patient in links:
            patient = links[patient]
        return patient

    for id, text in readings.items():
        for said in re.findall(r"same\s+(?:pt|patient)\b\W*as\b([^)\n]*)", text, re.I):
            for other in re.findall(r"(?:MCU|CHN)CXR_[0-9]+", said.upper()):
                earlier, later = sorted((first(id[:-2]), first(other)))
                if earlier != later:
                    links[later] = earlier
    return {patient: first(patient) for patient in links}


def patient_of(id: str, patients: dict[str, str]) -> str:
    """Return the patient of an image: the one in `patients_of`, else the id without its label."""
    return patients.get(id[:-2], id[:-2])


def decode_text(data: bytes) -> str:
    """Return the text of a reading: UTF-8 or UTF-16, each with or without mark, else Latin-1, which reads any byte."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:2]:
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _is_at(id: str, site: str | None) -> bool:
    return site is None or SITE_OF_PREFIX[id[:6]] == site


class Reader(ExitStack):
    """Reads `SetFile`s, each zip opened once; one per generator, since an open zip must not cross a fork."""

    def __init__(self) -> None:
        """Start with nothing open."""
        super().__init__()
        self.archives: dict[str, zipfile.ZipFile] = {}
        self.lock = threading.Lock()

    def __call__(self, file: SetFile) -> bytes:
        """Return the bytes of a file.

        Raises:
            ValueError: it is no regular file or too large, or the zip's member is as `read_member` says.
        """
        limit = MAX_READING if file.role == "reading" else MAX_BYTES
        if not file.member:
            return read_file(file.path, limit)
        with self.lock:
            if file.path not in self.archives:
                self.archives[file.path] = self.enter_context(_open_zip(file.path))
        return read_member(self.archives[file.path], file.member, file.name, limit)

    def checked(self, file: SetFile, copies: Iterable[SetFile]) -> bytes:
        """Return the bytes of a file of which each of its `copies` holds the same bytes, pixels or words.

        Raises:
            ValueError: as for a call, or one of them holds something else, so that a mask could be another image's.
        """
        data = self(file)
        for copy in copies:
            # a zip's own checksum saves the reading, and tells two members of one name apart
            is_same = (copy.size, copy.stamp) == (len(data), zlib.crc32(data)) if copy.member else copy == file
            if is_same or copy.role != file.role:
                continue
            if copy.name == file.name or (
                (theirs := self(copy)) != data and _content(copy, theirs) != _content(file, data)
            ):
                raise ValueError(f"{copy.name} and {file.name} are copies of {file.id} that differ: keep one")
        return data


class TooManyPixelsError(ValueError):
    """An image holds more than `MAX_PIXELS`, and is not decoded."""


def reason(error: Exception) -> str:
    """Return the message of an error, without the address in memory that PIL puts into its own."""
    return re.sub(r" <_io\.[^>]*>", "", str(error)) or type(error).__name__


_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def check_image(data: bytes, name: str) -> tuple[int, int]:
    """Return (width, height), upright, of an image file whose header and checksums are sound.

    A PNG's pixels are not unpacked, which takes ten times as long, unless it may be turned. Its checksums show any cut
    or change. Other formats have no checksums, so they are unpacked.

    Raises:
        ValueError: it is no image, or is cut off or damaged.
        TooManyPixelsError: it holds more than `MAX_PIXELS`.
    """
    with open_image_file(io.BytesIO(data), name) as image:
        try:
            if image.format == "PNG":
                if data.rfind(_PNG_END) < 0:
                    raise ValueError("its last bytes are missing")
                if not any(map(data.__contains__, _TURNED)):
                    image.verify()
                    return image.size
            return as_shown(image).size
        except Exception as error:  # PIL raises whatever its many decoders raise
            raise ValueError(f"{name} cannot be decoded as an image ({reason(error)}): get a sound copy") from error


def open_image_file(file: BinaryIO, name: str) -> Image.Image:
    """Return the image of an open file, called `name` in errors, of `FORMATS`; its pixels are not decoded yet.

    Raises:
        ValueError: it is no image of these, or holds several pictures.
        TooManyPixelsError: it holds more than `MAX_PIXELS`.
    """
    try:
        image = Image.open(file, formats=FORMATS)
        is_several = image.format not in CAMERA_FORMATS and getattr(image, "is_animated", False)
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"{name} has more than {MAX_PIXELS} pixels: scale it down") from error
    except Exception as error:  # as above
        ways = "pass a sound PNG, JPEG, TIFF or DICOM file"
        raise ValueError(f"{name} cannot be decoded as an image ({reason(error)}): {ways}") from error
    if is_several:
        raise ValueError(f"{name} is a {image.format} of several pictures: save the one to be read on its own")
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise TooManyPixelsError(f"{name} has {size} pixels, more than {MAX_PIXELS}: scale it down")
    return image


def as_shown(image: Image.Image) -> Image.Image:
    """Return an opened image file decoded, upright by its EXIF in any format, as `datasets` does, and black as 0."""
    image.load()
    with suppress(Exception):  # unreadable EXIF turns nothing
        ImageOps.exif_transpose(image, in_place=True)
    return black_as_zero(image)


def black_as_zero(image: Image.Image) -> Image.Image:
    """Return an image decoded; a deep TIFF in which 0 is white, which Pillow leaves as stored, is inverted.

    Its white is the largest value of the fewest of 8, 10, 12, 14 or 16 bits that hold its values; of deeper or
    negative ones the sum of the least and the largest.
    """
    image.load()
    is_inverse = getattr(image, "tag_v2", {}).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    if not is_inverse or image.mode[0] not in "IF":
        return image
    values = np.asarray(image).astype(np.float32 if image.mode == "F" else np.int64)
    low, high = values.min(), values.max()
    tops = (2**bits - 1 for bits in (8, 10, 12, 14, 16) if image.mode != "F" and low >= 0 and high < 2**bits)
    if top := next(tops, 0):
        return Image.fromarray((top - values).astype(np.uint16))
    return Image.fromarray((low + high - values).astype(np.float32))


def binarize(mask: Image.Image) -> np.ndarray:
    """Return (H, W) bool of any mask image.

    True above 127 where the maximum is 128 to 255 (re-saved masks have soft edges), above 0 where it is at most 3
    (labels), else above half of the maximum.
    """
    if mask.mode not in ("L", "I", "F") and not mask.mode.startswith("I;16"):
        mask = mask.convert("L")
    values = np.asarray(mask)
    top = values.max(initial=0)
    return values > (0.5 if top <= 3 else 127 if 127 < top <= 255 else top / 2)


def mask_png(files: Iterable[tuple[str, bytes]], size: tuple[int, int]) -> bytes:
    """Return PNG bytes (mode L, 0 and 255) of the union of mask files (name, bytes) at the image's (width, height).

    Raises:
        ValueError: a file cannot be decoded, or is not as large as the image.
    """
    union = np.zeros(size[::-1], bool)
    for name, data in files:
        if (mask_size := check_image(data, name)) != size:
            shapes = f"{mask_size[0]}x{mask_size[1]} pixels, its image {size[0]}x{size[1]}"
            raise ValueError(f"{name} is a mask of {shapes}: make them one size (nearest neighbour for the mask)")
        try:
            with open_image_file(io.BytesIO(data), name) as mask:
                union |= binarize(as_shown(mask))
        except Exception as error:  # as above
            raise ValueError(f"{name} cannot be decoded as a mask ({reason(error)}): get a sound copy") from error
    return _gray_png(union * np.uint8(255))


def _content(file: SetFile, data: bytes) -> object:
    """Return what makes two copies of a file the same: pixels, the lungs of a mask, the words of a reading."""
    if file.role == "reading":
        return decode_text(data).split()
    with open_image_file(io.BytesIO(data if file.is_png else dicom_png(data, file.name)), file.name) as opened:
        image = as_shown(opened)
        if file.role != "image":
            values = binarize(image)
        else:
            values = np.asarray(image if image.mode[0] in "IF" else image.convert("RGB"))
    return values.shape, values.tobytes()


def _gray_png(pixels: np.ndarray) -> bytes:
    """Return the PNG of (H, W) uint8 or uint16; a third of the time of PIL, which tries five filters on every row."""
    rows = np.pad(pixels.astype(f">u{pixels.itemsize}").view(np.uint8), ((0, 0), (1, 0)))  # each behind its filter, 0
    pack = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return png_of(pixels.shape, 8 * pixels.itemsize, pack.compress(rows.data) + pack.flush())


def png_of(shape: tuple[int, ...], bits: int, packed: bytes) -> bytes:
    """Return the gray PNG of (H, W) pixels of some bits from its compressed rows."""
    header = struct.pack(">IIBBBBB", shape[1], shape[0], bits, 0, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + packed, b"IEND")
    sealed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(sealed)


def dicom_png(data: bytes, name: str) -> bytes:
    """Return PNG bytes (16-bit gray: the stored values, MONOCHROME1 inverted in the stored bits) of a DICOM X-ray.

    Raises:
        ImportError: pydicom is missing.
        ValueError: it is no DICOM file with one gray frame of at most 16 bits.
        TooManyPixelsError: it holds more than `MAX_PIXELS`.
    """
    try:  # by name: datasets 3 would demand an `import` in a script as a requirement of all users
        pydicom = importlib.import_module("pydicom")
    except ImportError as error:
        raise ImportError(f"{name} is DICOM, which needs pydicom: pip install pydicom") from error
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # its warnings would quote the header
    what, way_out = "its header", "get a sound copy"
    try:
        header = read_dicom_file(DicomFile(data), stop_before_pixels=True)
        bits, rows, columns = (int(header[keyword].value) for keyword in ("BitsStored", "Rows", "Columns"))
        if not header.get("PhotometricInterpretation"):
            what, way_out = "whether 0 is black or white is not said", "set its Photometric Interpretation"
            raise ValueError
        is_gray = header.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2") and header.SamplesPerPixel == 1
        if not is_gray or int(header.get("NumberOfFrames") or 1) != 1 or not 0 < bits <= 16:
            what = "not one gray frame of at most 16 bits"
            raise ValueError
        what = "its pixels"
        if is_small := rows * columns <= MAX_PIXELS:
            pixels = decode_dicom(read_dicom_file(DicomFile(data, longest_pixels(header))))
    except Exception as error:  # of any kind: pydicom has many parsers, and their messages may quote the header
        what += f": {error}" if isinstance(error, (ChildProcessError, TimeoutError)) else ""
        raise ValueError(f"{name} cannot be read as a gray DICOM X-ray ({what}): {way_out}") from None
    if not is_small:
        raise TooManyPixelsError(f"{name} has more than {MAX_PIXELS} pixels ({columns}x{rows}): scale it down")
    if header.PixelRepresentation:  # signed: shift up to start at 0
        pixels = pixels.astype(np.int32) + 2 ** (bits - 1)
    if header.PhotometricInterpretation == "MONOCHROME1":  # 0 is white
        pixels = 2**bits - 1 - pixels.astype(np.int32)
    return _gray_png(pixels.astype(np.uint16))


class DicomFile(io.BufferedReader):
    """A DICOM file, or its bytes, of which no more can be read than an X-ray has, whatever lengths it claims."""

    name = "a DICOM file"  # for pydicom; bytes have none

    def __init__(self, source: bytes | str | Path, longest: int = HEADER_BYTES) -> None:
        """Open `source`; `longest` is the number of bytes that can be read at a time."""
        super().__init__(io.BytesIO(source) if isinstance(source, bytes) else io.FileIO(str(source)))
        self.longest, self.left = longest, longest + 2**25

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes.

        Raises:
            ValueError: the header is too long, or has too many elements.
        """
        size = -1 if size is None else size
        self.left -= max(size, 256)  # an element takes more memory than bytes of the file
        if not 0 <= size <= self.longest or self.left < 0:
            raise ValueError("a DICOM file claims more bytes than an X-ray has")
        return super().read(size)

    def inflated(self) -> bytes:
        """Return the deflated rest of the file, unpacked to no more than an X-ray and its header have."""
        unpacked, inflate = bytearray(), zlib.decompressobj(-zlib.MAX_WBITS).decompress
        while (left := self.longest + HEADER_BYTES - len(unpacked)) and (packed := super().read(2**20)):
            unpacked += inflate(packed, left)
        return bytes(unpacked)


def is_bare_dicom(head: bytes) -> bool:
    """Return whether a file's first bytes, 132 or more, are those of DICOM elements without preamble and `DICM`.

    The first is of group 2 (meta header) or 8; it is short, and the next one is of the same group or of one behind it.
    """
    for order, group in (("<", b"\x02\0"), ("<", b"\x08\0"), (">", b"\0\x08")):
        if head[:2] == group and head[4:6].isalpha():  # with a value representation
            is_long = head[4:6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
            length = struct.unpack_from(f"{order}{'I' if is_long else 'H'}", head.ljust(12), 8 if is_long else 6)[0]
            start = length + (12 if is_long else 8)
        elif head[:2] == group and order == "<":
            start = struct.unpack_from("<I", head.ljust(8), 4)[0] + 8
        else:
            continue
        if start + 4 > len(head):
            return False
        first, second = (struct.unpack_from(f"{order}HH", head, at) for at in (0, start))
        return first < second and (second[0] == first[0] or 8 <= second[0] <= 0x10)
    return False


def read_dicom_file(file: "DicomFile", **options: Any) -> Any:
    """Return the header of a DICOM file as pydicom's `dcmread`; without meta header or its transfer syntax, too.

    What the file does not say is found by its first element: implicit or explicit, little or big endian. No more of a
    deflated file is unpacked than the file may be read.

    Raises:
        Exception: of any kind, where the file is no DICOM, or is cut off.
    """
    pydicom = importlib.import_module("pydicom")
    is_bare = is_bare_dicom(file.peek(HEAD_BYTES)[:HEAD_BYTES])
    pydicom.filereader.read_preamble(file, force=is_bare)
    meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, size: tag.group != 2)
    if is_deflated := meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
        file = DicomFile(file.inflated(), file.longest)
    if not file.peek(1):
        raise ValueError("cut off in the meta header")
    file.seek(0)
    header = pydicom.dcmread(file, force=is_bare or is_deflated, **options)
    if is_deflated:
        header.file_meta = pydicom.dataset.FileMetaDataset(meta)
    if is_deflated or not header.file_meta.get("TransferSyntaxUID"):
        is_implicit, is_little = header.original_encoding
        explicit = "ExplicitVRLittleEndian" if is_little else "ExplicitVRBigEndian"
        syntax = getattr(pydicom.uid, "ImplicitVRLittleEndian" if is_implicit else explicit)
        header.file_meta.TransferSyntaxUID = syntax
    return header


def longest_pixels(header: Any) -> int:
    """Return the most bytes that the pixels of a DICOM file can take, by its header: compression may add some."""
    samples = int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel") or 1)
    return HEADER_BYTES + 2 * samples * int(header.BitsAllocated) // 8


def decode_dicom(header: Any) -> np.ndarray:
    """Return the one frame of a DICOM file as pydicom does: (H, W) integers, or (H, W, 3) red, green, blue.

    A compressed one is decoded in another process: damage of a single bit can end it, and nothing catches that.

    Raises:
        ChildProcessError: the decoder's process ended.
        TimeoutError: it took too long.
        Exception: of any other kind, where the frame is damaged, or no plug-in of pydicom decodes it.
    """
    pixels, uid = importlib.import_module("pydicom.pixels"), importlib.import_module("pydicom.uid")
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        decoded: np.ndarray = pixels.pixel_array(header, index=0)
        return decoded
    size, data = (header.Rows, header.Columns), header.PixelData
    if syntax != uid.RLELossless:  # decoders allocate what the frame asks for; RLE says nothing
        get_frame = importlib.import_module("pydicom.encaps").get_frame
        if _claimed_sizes(get_frame(data, 0, number_of_frames=1)) != {size}:
            raise ValueError("the compressed frame is of another size than its header says")
    options = importlib.import_module("pydicom.pixels.utils").as_pixel_options(header, number_of_frames=1)
    options.pop("extended_offsets", None)
    seconds = DECODING_SECONDS + 2e-6 * math.prod(size)
    depth = 1 if header.SamplesPerPixel == 1 else header.SamplesPerPixel
    kind = f"<{'i' if header.PixelRepresentation else 'u'}{header.BitsAllocated // 8}"
    decoded = np.empty(size if depth == 1 else (*size, depth), kind)
    options |= {"syntax": syntax, "length": len(data), "size": decoded.nbytes, "seconds": seconds}
    if not _DECODERS.decode(json.dumps(options).encode() + b"\n" + data, decoded, seconds):
        raise ValueError("no plug-in decodes the frame")
    return decoded


# Markers of a JPEG or JPEG-LS frame's header, behind which its precision, height and width stand.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def _claimed_sizes(frame: bytes) -> set[tuple[int, int]]:
    """Return the (height, width) that a frame of JPEG, JPEG-LS or JPEG 2000 claims; several where it is ambiguous.

    Source: ISO/IEC 10918-1 B.2.2 (frame header), 14495-1 C.2.2 (the same in JPEG-LS), 15444-1 A.5.1 (SIZ).
    """
    if frame[:2] != b"\xff\xd8":
        found = (struct.unpack(">4I", match[1]) for match in re.finditer(rb"\xff\x4f\xff\x51....(.{16})", frame, re.S))
        return {(bottom - top, right - left) for right, bottom, left, top in found}
    at = 2
    while frame[at] == 0xFF:
        if frame[at + 1] in _FRAME_MARKERS:
            return {struct.unpack(">HH", frame[at + 5 : at + 9])}
        at += 1 if frame[at + 1] == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return set()


def _decode_frames() -> None:
    """Decode DICOM frames from stdin to stdout until stdin closes: the whole program of a decoder's process.

    A request is a line of JSON and the frame; the answer is a byte, 1 and the pixels or 0 for a frame that none of the
    plug-ins decodes. They are tried in the order of how seldom damaged frames end them.
    """
    import faulthandler
    import importlib
    import json
    import os
    import signal
    import sys

    answers, requests = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # what libraries print
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: meant for the process that asks
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # would hold the X-ray
        most, allowed = 2**32, resource.getrlimit(resource.RLIMIT_AS)[1]  # the largest X-rays take a quarter of it
        resource.setrlimit(resource.RLIMIT_AS, (most if allowed < 0 else min(most, allowed), allowed))
    except (ImportError, ValueError, OSError):  # Windows has none, macOS not this one
        pass
    get_decoder = importlib.import_module("pydicom.pixels").get_decoder
    order = "pillow pylibjpeg pyjpegls pydicom gdcm"
    while line := requests.readline():
        options = json.loads(line)
        frame = requests.read(options.pop("length"))
        # ends this process even where it hangs, and the one that asks is gone
        faulthandler.dump_traceback_later(options.pop("seconds"), exit=True)
        syntax, size, pixels = options.pop("syntax"), options.pop("size"), b""
        tries = [(syntax, name) for name in sorted(get_decoder(syntax).available_plugins, key=order.find)]
        if syntax == "1.2.840.10008.1.2.4.51":  # pydicom calls GDCM for its 12 bits by the name of another JPEG only
            tries.append(("1.2.840.10008.1.2.4.57", "gdcm"))
        for uid, name in tries:
            try:
                pixels = get_decoder(uid).as_array(frame, index=0, decoding_plugin=name, **options)[0].tobytes()
                break
            except Exception:  # of any kind; the next may do better
                continue
        faulthandler.cancel_dump_traceback_later()
        answers.write(b"\1" + pixels if len(pixels) == size else b"\0")
        answers.flush()


class _Decoders:
    """Processes that decode DICOM frames for any number of threads, at most one a core at a time.

    They end when their stdin closes, so also when the process that asks is killed.
    """

    def __init__(self) -> None:
        """Start none yet."""
        self.all: set[subprocess.Popen[bytes]] = set()
        self.forget()

    def forget(self) -> None:
        """Leave the processes to the parent, in a fork of it."""
        for process in self.all:
            _close(process)
        self.all, self.turns = set(), threading.BoundedSemaphore(os.cpu_count() or 1)
        self.idle: deque[subprocess.Popen[bytes]] = deque()

    def decode(self, request: bytes, pixels: np.ndarray, seconds: float) -> bool:
        """Fill `pixels` with the answer to a request; return whether there was one.

        Raises:
            ChildProcessError: the process ended, and so did a new one: the first may have been harmed, or killed.
            TimeoutError: it took longer than `seconds`.
        """
        with self.turns:
            for is_last in (False, True):
                process, end = self._start() if is_last else self._idle(), time.monotonic() + seconds
                timer = threading.Timer(seconds, process.kill)
                timer.daemon = True
                timer.start()
                try:
                    return _exchange(process, request, pixels)
                except BaseException as error:  # an interrupt, too: the answer is still to come
                    process.kill()
                    code = process.wait()
                    if not isinstance(error, OSError):
                        raise
                finally:
                    timer.cancel()
                    self._put(process)
                if time.monotonic() >= end:
                    raise TimeoutError(f"its decoder took more than {seconds:.0f} s")
            raise ChildProcessError(f"its decoder ended with code {code}")

    def _idle(self) -> "subprocess.Popen[bytes]":
        try:
            return self.idle.pop()
        except IndexError:
            return self._start()

    def _put(self, process: "subprocess.Popen[bytes]") -> None:
        if process.returncode is None:
            self.idle.append(process)
        else:
            self.all.discard(process)
            _close(process)

    def _start(self) -> "subprocess.Popen[bytes]":
        code = f"import sys; sys.path[:] = {list(map(str, sys.path))}\n{inspect.getsource(_decode_frames)}"
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", f"{code}\n_decode_frames()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # numpy's own threads take time and memory to start
            )
        except OSError as error:
            raise ChildProcessError(f"its decoder could not be started, {error}") from error
        self.all.add(process)
        return process


def _close(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def _exchange(process: "subprocess.Popen[bytes]", request: bytes, pixels: np.ndarray) -> bool:
    """Send a request, and fill `pixels` with the answer; return whether there was one.

    Raises:
        OSError: the process ended.
    """
    assert process.stdin and process.stdout
    _move(memoryview(request), process.stdin.write)
    found = bytearray(1)
    _move(memoryview(found), process.stdout.readinto)  # type: ignore[attr-defined]
    if found[0]:
        _move(pixels.data.cast("B"), process.stdout.readinto)  # type: ignore[attr-defined]
    return bool(found[0])


def _move(view: memoryview, move: Callable[[memoryview], int | None]) -> None:
    """Write or fill a buffer, which may take several calls."""
    while view:
        done = move(view)
        if not done:
            raise BrokenPipeError
        view = view[done:]


_DECODERS = _Decoders()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_DECODERS.forget)


def read_row(row: Row, read: Reader) -> dict[str, Any]:
    """Return the example of a row (see `FEATURES`), its files read and checked; raises as the functions it calls."""
    image = read.checked(row.image, row.copies)
    if not row.image.is_png:
        image = dicom_png(image, row.image.name)
    size = check_image(image, row.image.name)
    masks = ((file.name, read.checked(file, row.copies)) for file in row.masks)
    mask = mask_png(masks, size) if row.masks else None
    sex, age_years, findings = parse_reading(row.reading)
    return {
        "id": row.id,
        "patient_id": row.patient_id,
        "site": SITE_OF_PREFIX[row.id[:6]],
        # no path: where the current folder holds a file of that name, datasets would take it for the image
        "image": {"path": None, "bytes": image},
        "mask": {"path": None, "bytes": mask} if mask else None,
        "label": int(row.id[-1]),
        "sex": sex,
        "age_years": age_years,
        "findings": findings,
        "reading": row.reading,
    }


@dataclass
class ChestXrayMasksConfig(datasets.BuilderConfig):
    """Where the set is: `data_dir`, a folder or a zip; without it, the zip at `url` is downloaded."""

    version: datasets.Version = datasets.Version("1.0.0")
    url: str = DOWNLOAD_URL

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Return the cache's key: config, and the files used or the URL; not `data_files`, which datasets guesses."""
        kept = {key: value for key, value in config_kwargs.items() if key not in ("data_dir", "data_files")}
        found = {"tree": scan(self.data_dir).fingerprint(SITES.get(self.name))} if self.data_dir else {"url": self.url}
        return super().create_config_id(kept | found, custom_features)


class ChestXrayMasks(datasets.GeneratorBasedBuilder):
    """Builder of the configs MC, Shenzhen and all, each with the splits train, validation and test by patient."""

    BUILDER_CONFIG_CLASS = ChestXrayMasksConfig
    BUILDER_CONFIGS = [ChestXrayMasksConfig(name=name) for name in (*SITES, "all")]
    DEFAULT_CONFIG_NAME = "all"
    DEFAULT_WRITER_BATCH_SIZE = 16  # originals take up to 10 MB each: keeps memory flat

    def __init__(self, *args: Any, hash: str | None = None, **kwargs: Any) -> None:
        """Start as any builder; made by hand it shares the cache of `load_dataset`, which passes the same hash."""
        super().__init__(*args, hash=hash or _HASH, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(DESCRIPTION, CITATION, HOMEPAGE, LICENSE, FEATURES)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        source = self.config.data_dir or self._download(dl_manager)
        rows = rows_of(scan(source), SITES.get(self.config.name))
        # streaming reads a row on demand; building reads ahead, on as many cores as memory bears
        ahead = 0 if dl_manager.is_streaming else 2 * min(os.cpu_count() or 1, 4)
        return [datasets.SplitGenerator(name, {"shards": _shards(rows, name), "ahead": ahead}) for name in SPLITS]

    def _download(self, dl_manager: datasets.DownloadManager) -> str:
        url = self.config.url
        way_out = f"download it by hand from {HOMEPAGE} and pass data_dir=<the zip, or the folder it unpacks to>"
        try:
            path = dl_manager.download(url)
        except Exception as error:  # each transport has its own; fsspec calls any status a FileNotFoundError
            cause = error.__cause__ or error
            said = f"{type(cause).__name__}: {cause}"
            raise ConnectionError(f"the download of {url} failed ({said}): try again, or {way_out}") from error
        if not dl_manager.is_streaming and not zipfile.is_zipfile(path):
            size = Path(path).stat().st_size
            Path(path).unlink()  # else the next try would take it for the set
            raise ConnectionError(f"the download of {url} is no whole zip ({size} bytes): try again, or {way_out}")
        return path

    def _as_dataset(self, split: Any = datasets.Split.TRAIN, in_memory: bool = False) -> datasets.Dataset:
        if split in self.info.splits and not self.info.splits[split].num_examples:  # of a few images: datasets raises
            return datasets.Dataset.from_dict({name: [] for name in FEATURES}, info=self.info.copy(), split=split)
        return super()._as_dataset(split, in_memory)

    def _generate_examples(self, shards: list[list[Row]], ahead: int) -> Iterator[tuple[str, dict[str, Any]]]:
        with Reader() as reader, ThreadPoolExecutor(max(1, ahead // 2)) as pool:
            waiting: deque[tuple[str, Future[dict[str, Any]]]] = deque()
            for row in chain.from_iterable(shards):
                waiting.append((row.id, pool.submit(read_row, row, reader)))
                while len(waiting) > ahead:
                    id, example = waiting.popleft()
                    yield id, example.result()
            for id, example in waiting:
                yield id, example.result()


def _shards(rows: list[Row], split: str) -> list[list[Row]]:
    """Return the rows of a split in up to 64 shards for workers; a stream opens its zip again for each."""
    rows = [row for row in rows if split_of(row.patient_id) == split]
    length = math.ceil(len(rows) / 64) or 1
    return [rows[start : start + length] for start in range(0, len(rows), length)]


_HASH = f"rows-{ROWS_VERSION}"  # in the cache's path, where datasets puts a digest of a script's text


def _register(name: str) -> None:
    """Let `load_dataset(name)` find this module on datasets 4 and 5, which run no scripts.

    Their factory for known names globs `data_dir`, or the current folder, for files to load and fails where it
    recognises none (a zip, an empty folder). This builder lists its files itself, so `name` skips the globbing.
    """
    factory = datasets.load.PackagedDatasetModuleFactory
    look_for_files = factory.get_module

    def get_module(self: Any) -> datasets.load.DatasetModule:
        if self.name != name:
            return look_for_files(self)
        if self.data_files:
            raise ValueError(f"{name} takes no data_files, got {self.data_files}: pass data_dir, a folder or a zip")
        kwargs = {"data_files": datasets.data_files.DataFilesDict(), "dataset_name": name}
        return datasets.load.DatasetModule(name, _HASH, kwargs)

    datasets.packaged_modules._PACKAGED_DATASETS_MODULES[name] = (name, _HASH)
    factory.get_module = get_module


def load(
    config: str = "all", data_dir: str | Path | None = None, split: str | None = None, **options: Any
) -> datasets.DatasetDict | datasets.Dataset | datasets.IterableDatasetDict | datasets.IterableDataset:
    """Return the X-rays of `config` (all, MC or Shenzhen): a split, or without `split` a dict of all three.

    `data_dir` is the set as a folder or a zip, or None to download it from Kaggle; `options`, such as
    `streaming=True`, are those of `datasets.load_dataset`, which this calls.

    Raises:
        FileNotFoundError: nothing of the set under `data_dir`.
        ValueError: an unknown config or split, or a damaged or mismatched file.
    """
    folder = None if data_dir is None else str(data_dir)
    return datasets.load_dataset("chest_xray_masks", config, data_dir=folder, split=split, **options)


if __name__ == "chest_xray_masks":  # under another name it is a copy that datasets 3 runs as a script
    _register(__name__)
