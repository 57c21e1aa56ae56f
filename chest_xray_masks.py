"""The Montgomery County and Shenzhen tuberculosis chest X-rays with lung masks and readings, as a `datasets` builder.

    import chest_xray_masks  # makes the name below known to datasets 4 and 5
    from datasets import load_dataset

    rows = load_dataset("chest_xray_masks", "MC", data_dir="<the set: a folder or a zip>", split="train")

The file is complete on its own (standard library, datasets, numpy, PIL; pydicom for DICOM only), so it can be copied.
"""

import hashlib
import importlib
import io
import re
import threading
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image

HOMEPAGE = "https://www.kaggle.com/datasets/nikhilpandey360/chest-xray-masks-and-labels"
DOWNLOAD_URL = "https://www.kaggle.com/api/v1/datasets/download/nikhilpandey360/chest-xray-masks-and-labels"
LAYOUTS = (
    "Lung Segmentation/{CXR_png,masks,test,ClinicalReadings} (Kaggle chest-xray-masks-and-labels), "
    "Montgomery/MontgomerySet and ChinaSet_AllFiles (Kaggle pulmonary-chest-xray-abnormalities), "
    "MontgomerySet and ChinaSet_AllFiles (NLM; masks in mask/), MontgomerySet with .dcm (NLM DICOM); folder or zip"
)
SITES = {"MC": "Montgomery", "Shenzhen": "Shenzhen"}  # config -> site
SITE_OF_PREFIX = {"MCUCXR": "Montgomery", "CHNCXR": "Shenzhen"}
PARTS = ("train", "validation", "test")
# Chosen among 10 million so that, on the full 800, every group of site x label x has-mask keeps its 70/10/20 shares.
SPLIT_SALT = 8310705
# What the readings of the full set say ("same pt as ..."): kept here too, so that a copy without them splits alike.
SAME_PATIENT = {"MCUCXR_0117": "MCUCXR_0113", "MCUCXR_0166": "MCUCXR_0162", "MCUCXR_0170": "MCUCXR_0162"}
MAX_PIXELS = 100_000_000  # the largest original holds 19.7 million

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
    """What a radiologist's text says: `sex` female, male or other; `age_years` > 0; `findings`. None where unsaid."""

    sex: str | None = None
    age_years: float | None = None
    findings: str | None = None


_SEX_WORDS = {"f": "female", "woman": "female", "girl": "female", "m": "male", "man": "male", "boy": "male"} | {
    word: "other" for word in ("o", "other", "others")
}
_DAYS = {"y": 365.25, "m": 365.25 / 12, "w": 7.0, "d": 1.0}
# Spelt-out units may touch the next word ("45yrsnormal"); letters and misspellings must end where the word ends.
_SPELT = r"years?(?:[ -]?olds?)?|yrs?|months?|mths?|weeks?|wks?|days?"
_UNIT = rf"(?:{_SPELT}|(?:y[ears]{{0,5}}|y/?o|mo?n?t?h?s?|w|d)\b|(?<=\d)y)"
_SPAN = rf"\d{{1,3}}(?:[.,]\d+)?\s*{_UNIT}"
_AGE = rf"{_SPAN}(?:[ \t]*(?:and[ \t]*)?{_SPAN})*"
_LABEL = r"(?:patient\W{0,2}s?\W{0,2})?"
_LABELLED_SEX = re.compile(rf"{_LABEL}\b(?:sex|gender)[ \t]*[:=][ \t]*(?P<value>[a-z]*?)(?=patient|[^a-z]|$)", re.I)
_LABELLED_AGE = re.compile(rf"{_LABEL}\bage[ \t]*[:=][ \t]*(?P<value>{_AGE}|\d+|unknown\b|n/?a\b|\?|)", re.I)
_PLAIN_SEX = re.compile(r"(?P<value>[a-z]+)(?P<alone>(?=[\W_]*(?:\d|$)))?", re.I | re.M)
_PLAIN_AGE = re.compile(rf"(?P<value>{_AGE}|\d{{1,3}}(?=\.?(?:[\s,;]|$)))", re.I)
_GAP, _GAP_IN_LINE = re.compile(r"[\s,;:.|/\-]*"), re.compile(r"[^\S\n]*[,;:]?[^\S\n]*")


def parse_reading(text: str | None) -> Reading:
    """Sex, age and findings of a Montgomery or Shenzhen reading; the parts it cannot read are None, it never raises.

    Reads both sites' forms ("Patient's Sex: F / Patient's Age: 031Y / ..." and "male 46yrs / ...") and their family:
    any line ends, order, capitals and spacing, misspelt sexes ("femal"), months, weeks and days as fractions of a
    year (64 days is 0.175), an age without unit as years. An age of 0 (DICOM's unknown) or over 120 is None.
    `findings` is the rest with white space tidied and lines joined by "; ", spelling as written.
    """
    text = (text or "").replace("\r\n", "\n").replace("\r", "\n").strip("\ufeff")
    values: dict[str, str] = {}
    behind_sex = -1

    def take(match: re.Match[str], name: str) -> str:
        values.setdefault(name, match["value"])
        return " "

    text = _LABELLED_SEX.sub(lambda match: take(match, "sex"), text)
    text = _LABELLED_AGE.sub(lambda match: take(match, "age"), text)
    start = _GAP.match(text).end()
    while True:  # "male 46yrs" or "46yrs, male" at the head of the text
        sex, age = _PLAIN_SEX.match(text, start), _PLAIN_AGE.match(text, start)
        if sex and "sex" not in values and _sex_of(sex["value"], fuzzy=sex["alone"] is not None):
            values["sex"], end = sex["value"], sex.end("value")
            behind_sex = _GAP_IN_LINE.match(text, end).end()
        # a bare number is an age only right behind the sex, on its line: "2.small tuberculoma" is none
        elif age and "age" not in values and (start == behind_sex or not age["value"].isdigit()):
            values["age"], end = age["value"], age.end()
        else:
            break
        start = _GAP.match(text, end).end()
    lines = (" ".join(line.split()) for line in text[start:].splitlines())
    findings = "; ".join(line for line in lines if line) or None
    return Reading(_sex_of(values.get("sex", ""), fuzzy=True), _years(values.get("age", "")), findings)


def _sex_of(word: str, fuzzy: bool) -> str | None:
    """Sex a word names; with `fuzzy` also by one letter, or misspelt but with three quarters of the letters."""
    word = word.lower()
    if not fuzzy:
        return word if word in ("female", "male") else None
    if word in _SEX_WORDS:
        return _SEX_WORDS[word]
    closeness, sex = max((SequenceMatcher(None, word, sex).ratio(), sex) for sex in ("female", "male"))
    return sex if closeness >= 0.75 else None


def _years(age: str) -> float | None:
    """Years in "16month", "1yr 2 months", "45"; None where there is no number, or none in (0, 120]."""
    spans = re.findall(r"(\d+(?:[.,]\d+)?)\s*([a-z]?)", age.lower())
    days = sum(float(number.replace(",", ".")) * _DAYS[unit or "y"] for number, unit in spans)
    return days / _DAYS["y"] if 0 < days <= 120 * _DAYS["y"] else None


def split_of(patient_id: str) -> str:
    """Part of a patient: train (70 %), validation (10 %) or test (20 %), a pure function of `patient_id`."""
    digest = hashlib.sha256(f"{SPLIT_SALT}:{patient_id}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return PARTS[(share >= 0.7) + (share >= 0.8)]


class SetFile(NamedTuple):
    """One file of the set: its role, its image's id, and where it stands (a path, or a member of the zip `path`)."""

    role: str  # image, mask, left_mask, right_mask, reading, test_copy
    id: str
    path: str
    member: str  # empty outside a zip
    size: int  # bytes
    stamp: int  # modification time in ns; in a zip the member's CRC-32

    @property
    def name(self) -> str:
        """Path to show to people: `folder/file.png` or `archive.zip/folder/file.png`."""
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def is_png(self) -> bool:
        """False for a DICOM image."""
        return self.name.lower().endswith(".png")


@dataclass
class Tree:
    """Every file of the set under `root`, best copy first, and what could not be read as (name, message)."""

    root: str
    files: list[SetFile] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def chosen(self) -> dict[tuple[str, str], SetFile]:
        """One file per (role, id): no file counts twice, however many copies the tree holds."""
        return {(file.role, file.id): file for file in reversed(self.files)}

    def fingerprint(self, site: str | None) -> str:
        """Hash of this code and of names, sizes and times of the files used for `site` (None: all): the cache key."""
        used = sorted(row for row in self.chosen().values() if row.role != "test_copy" and _is_at(row.id, site))
        facts = [(file.role, file.id, PurePosixPath(file.member or file.path).name, *file[4:]) for file in used]
        return hashlib.sha256(repr((_CODE_HASH, facts)).encode()).hexdigest()[:16]


class Row(NamedTuple):
    """One image and the files that belong to it; the unit of sharding."""

    id: str
    patient_id: str
    image: SetFile
    masks: tuple[SetFile, ...]  # none, one, or left and right
    reading: str | None


_FILE_NAME = re.compile(r"(?P<id>(?:MCU|CHN)CXR_\d+_[01])(?P<mask>_mask)?\.(?P<kind>png|txt|dcm|dicom)", re.I)
_ROLE_OF_FOLDER = {"cxr_png": "image", "mask": "mask", "masks": "mask"} | {
    f"{side}mask": f"{side}_mask" for side in ("left", "right")
}


def _role_of(path: PurePosixPath) -> tuple[str, str] | None:
    """(role, id) a path has in any of the known layouts, None for a file that is not of the set."""
    match = _FILE_NAME.fullmatch(path.name)
    folders = [part.lower() for part in path.parts[:-1]]
    if not match or {"__macosx", ".ipynb_checkpoints"} & set(folders):
        return None
    kind, folder = match["kind"].lower(), folders[-1] if folders else ""
    if kind == "txt":
        role = None if match["mask"] else "reading"
    elif folder == "test":  # copies of images that stand in CXR_png too
        role = None if match["mask"] else "test_copy"
    elif match["mask"]:
        role = "mask"
    else:
        role = _ROLE_OF_FOLDER.get(folder, "image" if kind != "png" else None)
    return (role, match["id"].upper()) if role else None


def scan(source: str) -> Tree:
    """Every file of the set in a folder (zips in it too), a zip, or a zip's URL; only names and sizes are read.

    Raises:
        FileNotFoundError: `source` does not exist, or is neither a folder nor a zip.
    """
    tree = Tree(str(source))
    if "://" in str(source):
        _scan_zip(tree, str(source), PurePosixPath("."))
        return tree
    root = Path(source).expanduser().resolve()
    if root.is_dir():
        _scan_folder(tree, root, PurePosixPath(root.name), set())
    elif root.is_file():
        _scan_zip(tree, str(root), PurePosixPath(root.stem))
    else:
        raise FileNotFoundError(f"data_dir {source} does not exist: pass the folder or the zip that holds the set")
    # prefer PNG to DICOM, unzipped to zipped, shallow to deep
    tree.files.sort(key=lambda f: (f.role, f.id, not f.is_png, bool(f.member), len(f.name), f.name))
    return tree


def _scan_folder(tree: Tree, folder: Path, inside: PurePosixPath, seen: set[Path]) -> None:
    """Add a folder's files to `tree`; `seen` stops links that lead in a circle."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            _scan_folder(tree, entry, inside / entry.name, seen)
        elif entry.suffix.lower() == ".zip" and not entry.name.startswith("._"):
            _scan_zip(tree, str(entry), inside / entry.stem)
        elif found := _role_of(inside / entry.name):
            state = entry.stat()
            tree.files.append(SetFile(*found, str(entry), "", state.st_size, state.st_mtime_ns))


def _scan_zip(tree: Tree, path: str, inside: PurePosixPath) -> None:
    """Add a zip's members to `tree`; a broken zip or an unsafe member name becomes a problem."""
    try:
        with _open_zip(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        tree.problems.append((path, f"is no whole zip ({error}): download it again, or pass the unzipped folder"))
        return
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or re.match(r"[a-z]:", str(name), re.I):
            tree.problems.append((f"{path}/{member.filename}", "has an unsafe path in the zip: get the zip anew"))
        elif found := _role_of(inside / name):
            tree.files.append(SetFile(*found, path, member.filename, member.file_size, member.CRC))


def _open_zip(path: str) -> zipfile.ZipFile:
    """A zip on disk or, where `datasets` has made `open` read URLs, behind a URL."""
    return zipfile.ZipFile(open(path, "rb") if "://" in path else path)  # noqa: PTH123, SIM115  Path reads no URL


def rows_of(tree: Tree, site: str | None = None) -> list[Row]:
    """One row per image of `site` (None: both), sorted by id, each with its patient, masks and reading.

    Raises:
        ValueError: the tree holds a cut zip, or a member with an unsafe path.
        FileNotFoundError: it holds no image of the site.
    """
    for name, message in tree.problems:
        raise ValueError(f"{name} {message}")
    chosen = {key: file for key, file in tree.chosen().items() if _is_at(file.id, site)}
    ids = sorted(id for role, id in chosen if role == "image")
    if not ids:
        wanted = site or "Montgomery or Shenzhen"
        looked_for = "CXR_png/{MCUCXR,CHNCXR}_<number>_<0 or 1>.png at any depth, in one of these layouts"
        raise FileNotFoundError(f"no {wanted} chest X-rays in {tree.root}: looked for {looked_for}: {LAYOUTS}")
    with Reader() as reader:
        readings = {id: decode_text(reader(file)) for (role, id), file in chosen.items() if role == "reading"}
    patients = patients_of(readings)
    rows = []
    for id in ids:
        masks = [chosen[role, id] for role in ("mask", "left_mask", "right_mask") if (role, id) in chosen]
        if masks and masks[0].role == "mask":
            masks = masks[:1]
        elif len(masks) == 1:
            datasets.logging.get_logger(__name__).warning("%s is one lung of two: %s has no mask", masks[0].name, id)
            masks = []
        rows.append(Row(id, patients.get(id[:-2], id[:-2]), chosen["image", id], tuple(masks), readings.get(id)))
    return rows


def patients_of(readings: dict[str, str]) -> dict[str, str]:
    """Patient id of each image that shares its patient with another, from "same pt as ..." in readings by image id."""
    links = dict(SAME_PATIENT)

    def first(patient: str) -> str:
        while patient in links:
            patient = links[patient]
        return patient

    for id, text in readings.items():
        for said in re.findall(r"same\s+(?:pt|patient)\b\W*as\b([^)\n]*)", text, re.I):
            for other in re.findall(r"(?:MCU|CHN)CXR_\d+", said.upper()):
                earlier, later = sorted((first(id[:-2]), first(other)))
                if earlier != later:
                    links[later] = earlier
    return {patient: first(patient) for patient in links}


def decode_text(data: bytes) -> str:
    """Text of a reading: UTF-8 with or without mark, UTF-16 with mark, else Latin-1, which reads any byte."""
    for encoding in ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            break
    return data.decode("latin-1")


def _is_at(id: str, site: str | None) -> bool:
    return site is None or SITE_OF_PREFIX[id[:6]] == site


class Reader:
    """Reads `SetFile`s, each zip opened once; one per generator, as an open zip must not cross a fork."""

    def __init__(self) -> None:
        """Start with nothing open."""
        self.archives: dict[str, zipfile.ZipFile] = {}
        self.lock = threading.Lock()

    def __enter__(self) -> "Reader":
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the zips."""
        for archive in self.archives.values():
            archive.close()

    def __call__(self, file: SetFile) -> bytes:
        """Bytes of a file.

        Raises:
            ValueError: the zip's member is damaged or encrypted.
        """
        if not file.member:
            return Path(file.path).read_bytes()
        with self.lock:
            if file.path not in self.archives:
                self.archives[file.path] = _open_zip(file.path)
        try:
            return self.archives[file.path].read(file.member)
        except (zipfile.BadZipFile, zipfile.zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"{file.name} cannot be read from its zip ({error}): get the zip anew") from error


def check_image(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) of an image file whose header and checksums are sound; its pixels are not unpacked.

    Raises:
        ValueError: it is no image, is cut off or damaged, or holds more than `MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            image.verify()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be decoded as an image ({error}): replace it by a sound copy") from error
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{name} has {size[0]}x{size[1]} pixels, more than {MAX_PIXELS}: scale it down")
    return size


def binarize(mask: Image.Image) -> np.ndarray:
    """(H, W) bool of any mask image: above half of white (re-saved masks have soft edges), or of 1 if 1 is its top."""
    if mask.mode not in ("L", "I", "F") and not mask.mode.startswith("I;16"):
        mask = mask.convert("L")
    values = np.asarray(mask)
    top = values.max(initial=0)
    return values > (0.5 if top <= 1 else 127 if top <= 255 else 32767)


def mask_png(files: Iterable[tuple[str, bytes]], size: tuple[int, int]) -> bytes:
    """PNG bytes (mode L, 0 and 255) of the union of mask files (name, bytes), on the image's (width, height).

    Raises:
        ValueError: a file cannot be decoded, or is not as large as the image.
    """
    union = np.zeros(size[::-1], bool)
    for name, data in files:
        if (mask_size := check_image(data, name)) != size:
            shapes = f"{mask_size[0]}x{mask_size[1]} pixels, its image {size[0]}x{size[1]}"
            raise ValueError(f"{name} is a mask of {shapes}: make them one size (nearest neighbour for the mask)")
        try:
            with Image.open(io.BytesIO(data)) as mask:
                union |= binarize(mask)
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{name} cannot be decoded as a mask ({error}): replace it by a sound copy") from error
    buffer = io.BytesIO()
    Image.fromarray(union.astype(np.uint8) * 255).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def dicom_png(data: bytes, name: str) -> bytes:
    """PNG bytes (16-bit gray, the stored values, MONOCHROME1 inverted within the stored bits) of a DICOM X-ray.

    Raises:
        ImportError: pydicom is missing.
        ValueError: it is no DICOM file with one gray frame of at most 16 bits.
    """
    try:  # by name: datasets 3 would demand an `import` in a script as a requirement of all users
        pydicom = importlib.import_module("pydicom")
    except ImportError as error:
        raise ImportError(f"{name} is DICOM, which needs pydicom: pip install 'chest-xray-masks[dicom]'") from error
    try:
        header = pydicom.dcmread(io.BytesIO(data))
        pixels, bits = header.pixel_array, int(header.BitsStored)
        if pixels.ndim != 2 or bits > 16 or not str(header.PhotometricInterpretation).startswith("MONOCHROME"):
            raise ValueError(f"{header.PhotometricInterpretation}, shape {pixels.shape}, {bits} bits")
    except Exception as error:  # pydicom raises whatever its many decoders raise
        raise ValueError(f"{name} cannot be read as a gray DICOM X-ray ({error}): get a sound copy") from error
    if header.PixelRepresentation:  # signed: shift up to start at 0
        pixels = pixels.astype(np.int32) + 2 ** (bits - 1)
    if header.PhotometricInterpretation == "MONOCHROME1":  # 0 is white
        pixels = 2**bits - 1 - pixels.astype(np.int32)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint16)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def read_row(row: Row, read: Reader) -> dict[str, Any]:
    """The example of a row, its files read and checked; see `FEATURES`.

    Raises:
        ValueError: an image or a mask is damaged, too large, or they differ in size.
        ImportError: a DICOM image without pydicom.
    """
    image = read(row.image)
    if not row.image.is_png:
        image = dicom_png(image, row.image.name)
    size = check_image(image, row.image.name)
    mask = mask_png(((file.name, read(file)) for file in row.masks), size) if row.masks else None
    sex, age_years, findings = parse_reading(row.reading)
    return {
        "id": row.id,
        "patient_id": row.patient_id,
        "site": SITE_OF_PREFIX[row.id[:6]],
        "image": {"path": f"{row.id}.png", "bytes": image},
        "mask": {"path": f"{row.id}_mask.png", "bytes": mask} if mask else None,
        "label": int(row.id[-1]),
        "sex": sex,
        "age_years": age_years,
        "findings": findings,
        "reading": row.reading,
    }


@dataclass
class ChestXrayMasksConfig(datasets.BuilderConfig):
    """`data_dir`: the set as a folder or zip; without it, the zip at `url` is downloaded."""

    version: datasets.Version = datasets.Version("1.0.0")
    url: str = DOWNLOAD_URL

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Key of the cache: the files used under `data_dir`; not `data_files`, which `load_dataset` fills by guess."""
        kept = {key: value for key, value in config_kwargs.items() if key not in ("data_dir", "data_files")}
        if self.data_dir:
            kept["tree"] = scan(self.data_dir).fingerprint(SITES.get(self.name))
        return super().create_config_id(kept, custom_features)


class ChestXrayMasks(datasets.GeneratorBasedBuilder):
    """Builder of the configs MC, Shenzhen and all, each with the splits train, validation and test by patient."""

    BUILDER_CONFIG_CLASS = ChestXrayMasksConfig
    BUILDER_CONFIGS = [ChestXrayMasksConfig(name=name) for name in (*SITES, "all")]
    DEFAULT_CONFIG_NAME = "all"
    DEFAULT_WRITER_BATCH_SIZE = 16  # originals take up to 10 MB each: keeps memory flat

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=DESCRIPTION, features=FEATURES, homepage=HOMEPAGE, license=LICENSE, citation=CITATION
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        source = self.config.data_dir or self._download(dl_manager)
        rows = rows_of(scan(source), SITES.get(self.config.name))
        # streaming reads a row when asked for it; building keeps both cores of a small machine busy
        ahead = 0 if dl_manager.is_streaming else 4
        shares = {part: [row for row in rows if split_of(row.patient_id) == part] for part in PARTS}
        return [datasets.SplitGenerator(part, {"rows": share, "ahead": ahead}) for part, share in shares.items()]

    def _download(self, dl_manager: datasets.DownloadManager) -> str:
        url = self.config.url
        way_out = f"download it by hand from {HOMEPAGE} and pass data_dir=<the zip, or the folder it unpacks to>"
        try:
            path = dl_manager.download(url)
        except Exception as error:  # each transport has its own
            raise ConnectionError(f"the download of {url} failed ({error!r}): try again, or {way_out}") from error
        if not dl_manager.is_streaming and not zipfile.is_zipfile(path):
            size = Path(path).stat().st_size
            Path(path).unlink()  # else the next try would take it for the set
            raise ConnectionError(f"the download of {url} is no whole zip ({size} bytes): try again, or {way_out}")
        return path

    def _generate_examples(self, rows: list[Row], ahead: int) -> Iterator[tuple[str, dict[str, Any]]]:
        with Reader() as reader, ThreadPoolExecutor(max(1, ahead // 2)) as pool:
            waiting = deque()
            for row in rows:
                waiting.append((row.id, pool.submit(read_row, row, reader)))
                while len(waiting) > ahead:
                    id, example = waiting.popleft()
                    yield id, example.result()
            for id, example in waiting:
                yield id, example.result()


_CODE_HASH = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _register(name: str) -> None:
    """Let `load_dataset(name)` find this module on datasets 4 and 5, which run no scripts.

    Their factory for known names globs `data_dir`, or the current folder, for files to load and fails where it
    recognises none (a zip, an empty folder); this builder looks for itself, so for `name` the globbing is left out.
    """
    factory = datasets.load.PackagedDatasetModuleFactory
    look_for_files = factory.get_module

    def get_module(self: Any) -> datasets.load.DatasetModule:
        if self.name != name:
            return look_for_files(self)
        kwargs = {"data_files": datasets.data_files.DataFilesDict(), "dataset_name": name}
        return datasets.load.DatasetModule(name, _CODE_HASH, kwargs)

    datasets.packaged_modules._PACKAGED_DATASETS_MODULES[name] = (name, _CODE_HASH)
    factory.get_module = get_module


if __name__ == "chest_xray_masks":  # under another name it is a copy that datasets 3 runs as a script
    _register(__name__)
