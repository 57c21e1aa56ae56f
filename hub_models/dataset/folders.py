"""Find the X-rays of any folder or zip, the masks that belong to them, and the tables beside them."""

import logging
import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import chest_xray_masks as cxm
from hub_models.dataset.columns import SHOWN_VALUES, SPLIT_OF_WORD, Labels, plain, warn_of_unmatched
from hub_models.dataset.tables import TABLE_SUFFIXES
from hub_models.imaging.file_kinds import ARCHIVES, DIRECTORY, HIDDEN, IMAGE_SUFFIXES, OTHERS, is_image, is_written

logger = logging.getLogger(__name__)

_MASKS = r"(lungs?)?(left|right)?(manual|seg|segmentation)?(mask(s|en)?|segs?|segmentations?)(left|right)?(png)?"
_MASK_FOLDER = re.compile(
    rf"{_MASKS}|(left|right)(lungs?)?|gts?|groundtruths?|annotations?|labels?(tr|ts)?|targets?|rois?"
)
_MASK_NAME = re.compile(
    r"^(mask|seg)[\s_.-]+|[\s_.-]+(lungs?[\s_.-]*)?((mask|seg|segmentation)s?|gt|groundtruth)$", re.I
)
_SIDE = re.compile(r"(?:^|[\s_.-])(left|right)(?=$|[\s_.-])", re.I)
_SIDE_FOLDER = re.compile(r"\b(?:lungs?|masks?|manual)?(left|right)(?:lungs?|masks?)?\b")
_IMAGE_FOLDER = re.compile(r"(cxr)?(png|images?|imgs?|xrays?|data|dicom)?s?")


@dataclass
class Listing:
    """Files of a folder or zip, by their path within it.

    Attributes:
        root: the folder or zip.
        xrays: image files, without masks.
        masks: image files that are masks by their folder or name.
        tables: files that may be tables.
        others: count of other files by suffix.
    """

    root: Path
    xrays: dict[str, cxm.SetFile] = field(default_factory=dict)
    masks: dict[str, cxm.SetFile] = field(default_factory=dict)
    tables: dict[str, cxm.SetFile] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def all(self) -> dict[str, cxm.SetFile]:
        """Return X-rays and masks."""
        return self.xrays | self.masks


def list_folder(root: Path) -> Listing:
    """Return the files of a folder or zip, at any depth; nothing is opened but files without a suffix.

    Folders in it that a command of this project wrote are left out, which the log says.

    Raises:
        FileNotFoundError: `root` does not exist.
        PermissionError: a folder may not be read.
        ValueError: `root` is neither a folder nor a whole zip.
    """
    found, images = Listing(root), dict[str, cxm.SetFile]()
    files = _of_folder(root) if root.is_dir() else _of_zip(root)
    for name, file in sorted(files, key=lambda one: one[0]):
        suffix = PurePosixPath(name).suffix.lower()
        if HIDDEN.search(name) or DIRECTORY.search(name):
            continue
        if suffix in TABLE_SUFFIXES:
            found.tables[name] = file
        elif suffix in IMAGE_SUFFIXES or (suffix not in OTHERS | ARCHIVES and _is_image(file)):
            images[name] = file
        else:
            found.others[suffix or "no suffix"] += 1
    # a folder around all images, such as "Lung Segmentation", tells nothing of any of them
    around = len(os.path.commonpath([str(PurePosixPath("/", name).parent) for name in images])) if images else 0
    for name, file in images.items():
        (found.masks if is_mask(f"/{name}"[around:].lstrip("/")) else found.xrays)[name] = file
    return found


def _of_folder(root: Path) -> Iterator[tuple[str, cxm.SetFile]]:
    def fail(error: OSError) -> None:
        raise PermissionError(f"{error.filename} cannot be read ({error.strerror}): allow it to be read")

    seen: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=fail, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        if Path(folder) != root and is_written(names):
            logger.warning("warning: %s is left out: a command of this project wrote it", folder)
            folders.clear()
            continue
        for name in names:
            path = Path(folder, name)
            facts = path.stat() if path.exists() else path.lstat()
            yield (
                path.relative_to(root).as_posix(),
                cxm.SetFile("", "", str(path), "", facts.st_size, facts.st_mtime_ns),
            )


def _of_zip(path: Path) -> Iterator[tuple[str, cxm.SetFile]]:
    cxm.regular_size(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [one for one in cxm.zip_members(archive) if not one.is_dir()]
    except cxm.ZIP_ERRORS as error:
        raise ValueError(f"{path} is neither a folder nor a whole zip ({error}): pass one of X-rays") from error
    for one in members:
        yield one.filename.replace("\\", "/"), cxm.SetFile("", "", str(path), one.filename, one.file_size, one.CRC)


def _is_image(file: cxm.SetFile) -> bool:
    """Return whether a file of an unknown suffix is an image by its first bytes, one that is not read, too."""
    try:
        if file.member:
            with zipfile.ZipFile(file.path) as archive:
                return is_image(cxm.read_member(archive, file.member, file.name, count=cxm.HEAD_BYTES))
        cxm.regular_size(file.path)
        with Path(file.path).open("rb") as opened:
            return is_image(opened.read(cxm.HEAD_BYTES))
    except (OSError, ValueError):
        return False


def _squeezed(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name.casefold())


def is_mask(name: str) -> bool:
    """Return whether a path is that of a mask, by a folder such as masks/ or seg/, or by its name."""
    path = PurePosixPath(name)
    return any(map(_MASK_FOLDER.fullmatch, map(_squeezed, path.parts[:-1]))) or bool(_MASK_NAME.search(path.stem))


def key_of(name: str, of_mask: bool) -> tuple[tuple[str, ...], str]:
    """Return what the paths of an X-ray and of its masks have in common: folders, and the name without its suffix."""
    path = PurePosixPath(name)
    folders = [_squeezed(part) for part in path.parts[:-1]]
    kept = tuple(one for one in folders if not _MASK_FOLDER.fullmatch(one) and not _IMAGE_FOLDER.fullmatch(one))
    stem = _SIDE.sub("", _MASK_NAME.sub("", path.stem)) if of_mask else path.stem
    return kept, stem.casefold()


def side_of(name: str) -> str:
    """Return left or right of a mask of one lung, by its path; "" of one of both."""
    squeezed = " ".join(map(_squeezed, PurePosixPath(name).parts[:-1]))
    found = _SIDE.search(PurePosixPath(name).stem) or _SIDE_FOLDER.search(squeezed)
    return found[1].lower() if found else ""


def pair_masks(listing: Listing) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the masks of each X-ray, one or a left and a right one, and those left out; all by their paths.

    Raises:
        ValueError: two masks of one X-ray that are not its left and right lung.
    """
    by_key, by_stem = defaultdict(list), defaultdict(list)
    for name in listing.xrays:
        key = key_of(name, False)
        by_key[key].append(name)
        by_stem[key[1]].append(name)
    found: dict[str, list[str]] = defaultdict(list)
    alone = []
    for name in listing.masks:
        folders, stem = key = key_of(name, True)
        near = by_key[key] or [one for one in by_stem[stem] if not folders or not key_of(one, False)[0]]
        if len(near) == 1:
            found[near[0]].append(name)
        else:
            alone.append(name)
    for xray, masks in list(found.items()):
        sides = sorted(map(side_of, masks))
        if len(masks) == 1 and sides != [""]:  # a lung of two
            alone += found.pop(xray)
        elif len(masks) > 1 and sides != ["left", "right"]:
            raise ValueError(f"{listing.root} holds two masks of {xray}, {masks[0]} and {masks[1]}: keep one")
    return {xray: tuple(masks) for xray, masks in found.items()}, alone


class PathFinder:
    """Finds the file that a cell of a table names, among files by their path in a folder.

    A cell holds a path from the table's own folder or from the root. Of any other path, the last folder and the name
    count. A name without a folder may lack its suffix. It must name one file only.
    """

    def __init__(self, paths: Iterable[str], folder: str = "") -> None:
        """Know the `paths`; `folder` is that of the table among them."""
        self.folder = PurePosixPath(folder)
        self.paths = {normalize("NFC", path): path for path in paths}
        self.tails: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for plain_path, path in self.paths.items():
            parts = PurePosixPath(plain_path).parts
            for name in {parts[-1], PurePosixPath(parts[-1]).stem}:
                for tail in {(name,), (*parts[-2:-1], name)}:
                    self.tails[tail].append(path)

    def find(self, cell: str, preferred: Container[str] = ()) -> str:
        """Return the path of the file, "" for none; of several, the one that is `preferred`."""
        text = normalize("NFC", cell.replace("\\", "/"))
        if not text:
            return ""
        for candidate in (os.path.normpath(self.folder / text), os.path.normpath(text)):
            if candidate in self.paths:
                return self.paths[candidate]
        parts = PurePosixPath(text).parts
        near = self.tails.get(parts[-2:], [])
        if len(parts) > 1 and not near:  # a file at the root of what the path led to
            near = [path for path in self.tails.get(parts[-1:], []) if "/" not in path]
        near = [path for path in near if path in preferred] or near
        return near[0] if len(near) == 1 else ""


def split_of_path(name: str) -> str | None:
    """Return the split that a folder of a path names."""
    words = map(plain, PurePosixPath(name).parts[:-1])
    return next((SPLIT_OF_WORD[word] for word in words if word in SPLIT_OF_WORD), None)


def class_folders(name: str) -> list[str]:
    """Return the folders of a path that may name a class: neither splits nor those of images and masks."""
    folders = [part for part in PurePosixPath(name).parts[:-1] if plain(part) not in SPLIT_OF_WORD]
    return [one for one in folders if not _IMAGE_FOLDER.fullmatch(_squeezed(one))]


def labels_of_folders(names: list[str], labels: Labels, place: str) -> list[int | None]:
    """Return the label that a folder of each path names, None where none does.

    With named positives, any other class is normal: the uppermost of its folders that may be one.

    Raises:
        ValueError: no folder has a named positive, or a path is of both classes.
    """
    found: list[int | None] = []
    depths: Counter[int] = Counter()
    unknown: list[list[str]] = []
    for name in names:
        folders = class_folders(name)
        known = [depth for depth, one in enumerate(folders) if labels.knows(one)]
        kinds = {1 if plain(folders[depth]) in labels.positive else 0 for depth in known}
        if len(kinds) == 2:
            raise ValueError(f"{place} holds {name}, in folders of both classes: leave one")
        depths.update(known)
        if not kinds and folders:
            unknown.append(folders)
        found.append(kinds.pop() if kinds else 0 if labels.negative is None and folders else None)
    depth = max(depths, key=lambda one: depths[one], default=0)  # of folders that name classes
    others = Counter(folders[min(depth, len(folders) - 1)] for folders in unknown)
    shown = ", ".join(f"{folder} ({count})" for folder, count in others.most_common(SHOWN_VALUES))
    if labels.negative is None and 1 not in found:
        raise ValueError(f"no folder of {place} is one of --positive: it holds {shown or 'none'}")
    if labels.negative is None:
        warn_of_unmatched(labels, (one for name in names for one in class_folders(name)), f"the folders of {place}")
    elif others:
        way = "if one is of tuberculosis, name it with --positive"
        logger.warning("warning: folders of no known class, whose X-rays have no label: %s; %s", shown, way)
    return found
