"""What is odd in a copy of the set: counts, pairs, labels, masks, repeats. The copy itself is left as it is."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

import chest_xray_masks as cxm
from hub_models.files import write_json
from hub_models.inspection import Film, Look, Mask, hash_distances, inspect_tree

PUBLISHED = {  # doi 10.3978/j.issn.2223-4292.2014.11.20; the Shenzhen masks: arXiv 1803.01199
    "MC": {"images": 138, "normal": 80, "tuberculosis": 58, "masks": 138, "readings": 138},
    "Shenzhen": {"images": 662, "normal": 326, "tuberculosis": 336, "masks": 566, "readings": 662},
}
LABELS = cxm.FEATURES["label"].names
KINDS = {  # what a finding can be -> whether it makes the copy off; the others are information
    "count not as published": True,
    "unreadable file": True,
    "too many pixels": True,
    "blank image": True,
    "image without reading": True,
    "reading without image": True,
    "mask without image": True,
    "one lung of two": True,
    "mask of another size": True,
    "mask of gray values": True,
    "mask not of two lungs": True,
    "label against reading": True,
    "two labels": True,
    "same pixels": True,
    "near-duplicate": True,
    "copies differ": True,
    "test/ copy of no image": True,
    "test/ copy of another image": True,
    "site absent": False,
    "image without mask": False,
    "lung of odd area": False,
    "specks in mask": False,
    "reading lacks a value": False,
    "may be one patient": False,
}
# Among 525 real films no two come nearer than 46 of 256 bits; a copy that is scaled, blurred, turned by 1 degree, or
# brightened by a gamma of 1.5 stays within 30. (Of 64 bits: 4 between two films, 8 to a brightened copy.)
NEAR_BITS = 30
LUNG_AREA = (0.03, 0.23)  # share of the image; in 3 of 449 real masks a lung is outside: 1 sick, 2 drawn over the gut
LUNG_RATIO = 0.3  # the smaller lung to the larger; 2 of 449 real masks are below
GRAY_SHARE = 0.05  # of a mask's pixels; soft edges take at most 0.004 of a real one
SIMILAR_FINDINGS = 0.5  # difflib's ratio: 0.6 and 1.0 between real follow-ups that are worded alike


class Finding(NamedTuple):
    """One odd thing: a key of `KINDS`, the ids (config, path) that it is about, and what was seen."""

    kind: str
    ids: tuple[str, ...]
    message: str = ""

    @property
    def is_off(self) -> bool:
        """Whether it makes the copy off, and is no mere information."""
        return KINDS[self.kind]


@dataclass
class Audit:
    """What `audit` found; `counts` as in `PUBLISHED`, `modes` and `mask_values` as numbers of files."""

    data_dir: str
    counts: dict[str, dict[str, int]]
    modes: dict[str, int] = field(default_factory=dict)
    mask_values: dict[str, int] = field(default_factory=dict)
    test_copies: int = 0  # those with the pixels of their image
    second_copies: int = 0  # files beyond the first of their role and id
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_off(self) -> bool:
        """Whether any finding is more than information."""
        return any(finding.is_off for finding in self.findings)

    @property
    def is_empty(self) -> bool:
        """Whether the copy holds no image at all."""
        return not any(row["images"] for row in self.counts.values())

    def of_kind(self, kind: str) -> list[Finding]:
        """Findings of one of `KINDS`."""
        return [finding for finding in self.findings if finding.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON types, with the published counts, and `is_off` for the whole and per finding."""
        findings = [found._asdict() | {"ids": list(found.ids), "is_off": found.is_off} for found in self.findings]
        return vars(self) | {"published": PUBLISHED, "is_off": self.is_off, "findings": findings}

    def table(self) -> Table:
        """What people read: the counts, then a row per kind of finding; `to_dict` has the whole lists."""
        verdict = "something is off" if self.is_off else "nothing is off"
        table = Table("", "what", "files", "details", title=Text(f"{verdict}: {self.data_dir}"))
        for config, counts in self.counts.items():
            shares = [f"{what} {count} of {PUBLISHED[config][what]}" for what, count in counts.items()]
            table.add_row("", f"{config}, of the published", "", ", ".join(shares))
        for what, shares in (("modes", self.modes), ("mask values", self.mask_values)):
            details = ", ".join(f"{name}: {count}" for name, count in shares.items())
            table.add_row("", what, str(sum(shares.values())), details)
        table.add_row("", "test/ copies", str(self.test_copies), "the pixels of their image again; not counted")
        table.add_row("", "second copies", str(self.second_copies), "of a file; not counted", end_section=True)
        for kind in KINDS:
            if found := self.of_kind(kind):
                lines = [" ".join(filter(None, (*one.ids, one.message))) for one in found]
                lines[10:] = [f"and {len(lines) - 10} more: see the JSON report"] if len(lines) > 10 else []
                separator = "\n" if any(one.message for one in found) else ", "
                mark = Text("off", "bold red") if KINDS[kind] else Text("info")
                table.add_row(mark, kind, str(len(found)), Text(separator.join(lines)))
        return table


def audit(data_dir: Path, progress: bool = True) -> Audit:
    """What is odd in the set under `data_dir` (folder or zip); each image and mask is decoded, on every core.

    Raises:
        FileNotFoundError: `data_dir` does not exist, or nothing in it is of the set, nor a broken zip.
    """
    tree = cxm.scan(str(data_dir))
    if not tree.files and not tree.problems:
        raise FileNotFoundError(f"no chest X-rays in {data_dir}: looked for these layouts: {cxm.LAYOUTS}")
    looks = inspect_tree(tree, progress)
    facts = {role: {} for role in ("image", "mask", "reading", "test_copy")}
    for look in looks:
        if look.facts is not None:
            facts[look.role].setdefault(look.id, look.facts)
    ids = {role: {file.id for file in tree.files if file.role == role} for role in ("left_mask", "right_mask", *facts)}
    found = Audit(str(data_dir), _counts(ids), second_copies=len(tree.files) - len(tree.chosen()))
    modes = ((id, role, part.mode) for role in ("image", "mask") for id, part in facts[role].items())
    found.modes = dict(sorted(Counter(f"{_config(id)} {role} {mode}" for id, role, mode in modes).items()))
    found.mask_values = dict(sorted(Counter(mask.values for mask in facts["mask"].values()).items()))
    findings = [*_count_findings(found.counts), *_file_findings(tree, looks), *_pair_findings(ids)]
    findings += [*_mask_findings(facts["mask"], facts["image"]), *_reading_findings(facts["reading"])]
    findings += [*_image_findings(facts["image"], facts["reading"])]
    copies = list(_copy_findings(facts["test_copy"], facts["image"]))
    found.test_copies = len(facts["test_copy"]) - len(copies)
    order = list(KINDS)
    found.findings = sorted(findings + copies, key=lambda finding: (order.index(finding.kind), finding[1:]))
    return found


def report(data_dir: Path, json_path: Path | None = None, progress: bool = True) -> Audit:
    """The audit of `data_dir`, written as JSON to `json_path` too, in one step, if one is given.

    Raises:
        FileNotFoundError: as for `audit`, or the folder of `json_path` does not exist (seen before the work starts).
        IsADirectoryError: `json_path` is a folder.
    """
    if json_path and not json_path.absolute().parent.is_dir():
        raise FileNotFoundError(f"no folder {json_path.parent} for the report {json_path}: create it, or name another")
    if json_path and json_path.is_dir():
        raise IsADirectoryError(f"the report {json_path} is a folder: name a file in it")
    found = audit(data_dir, progress)
    if json_path:
        write_json(found.to_dict(), json_path)
    return found


def _config(id: str) -> str:
    """Config of an id: MC or Shenzhen."""
    return next(config for config, site in cxm.SITES.items() if site == cxm.SITE_OF_PREFIX[id[:6]])


def _counts(ids: dict[str, set[str]]) -> dict[str, dict[str, int]]:
    """Images, their labels, masks and readings per config; left and right lung are one mask, half a pair is none."""
    rows = {"images": ids["image"]}
    rows |= {name: {id for id in ids["image"] if id[-1] == str(digit)} for digit, name in enumerate(LABELS)}
    rows |= {"masks": ids["mask"] | (ids["left_mask"] & ids["right_mask"]), "readings": ids["reading"]}
    of_config = {what: Counter(map(_config, row)) for what, row in rows.items()}
    return {config: {what: of_config[what][config] for what in rows} for config in PUBLISHED}


def _count_findings(counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    """Counts that differ; a config without any file is information, as NLM offers the two sets apart."""
    for config, row in counts.items():
        if not any(row.values()):
            yield Finding("site absent", (config,))
            continue
        for what, count in row.items():
            if count != PUBLISHED[config][what]:
                yield Finding("count not as published", (config,), f"{what}: {count} of {PUBLISHED[config][what]}")


def _file_findings(tree: cxm.Tree, looks: list[Look]) -> Iterator[Finding]:
    """Zips and files that cannot be read or are too large, and copies that differ; names are relative to the tree."""

    def short(text: str) -> str:
        """Text without the path of the tree."""
        return text.replace(f"{Path(tree.root).expanduser().resolve()}/", "")

    for name, message in tree.problems:
        yield Finding("unreadable file", (short(name),), message)
    for look in looks:
        for failure in look.failures:
            kind = "too many pixels" if failure.is_too_large else "unreadable file"
            yield Finding(kind, (failure.id,), short(failure.message))
        for message in look.differing:
            yield Finding("copies differ", (look.id,), short(message))


def _pair_findings(ids: dict[str, set[str]]) -> Iterator[Finding]:
    """Files whose partner is missing, and images that stand under both labels."""
    images, readings, sides = ids["image"], ids["reading"], ids["left_mask"] | ids["right_mask"]
    whole = ids["mask"] | (ids["left_mask"] & ids["right_mask"])
    groups = {"image without mask": images - whole, "image without reading": images - readings}
    groups |= {"reading without image": readings - images, "mask without image": (whole | sides) - images}
    groups |= {"one lung of two": sides - whole}
    groups |= {"two labels": {id for id in images if f"{id[:-1]}0" in images and f"{id[:-1]}1" in images}}
    for kind, members in groups.items():
        yield from (Finding(kind, (id,)) for id in members)


def _mask_findings(masks: dict[str, Mask], films: dict[str, Film]) -> Iterator[Finding]:
    """Masks of another size than their image, of gray values, or not of two lungs of likely area."""
    for id, mask in masks.items():
        if id in films and mask.size != films[id].size:
            (width, height), (wide, high) = mask.size, films[id].size
            yield Finding("mask of another size", (id,), f"{width}x{height}, its image {wide}x{high}")
        if mask.gray_share > GRAY_SHARE:
            yield Finding("mask of gray values", (id,), f"{mask.gray_share:.0%} of its pixels are not black or white")
        areas = " and ".join(f"{area:.1%}" for area in mask.lungs)
        if len(mask.lungs) != 2:
            yield Finding("mask not of two lungs", (id,), f"of {len(mask.lungs)} parts: {areas}" if areas else "empty")
        elif not LUNG_AREA[0] <= mask.lungs[1] <= mask.lungs[0] <= LUNG_AREA[1]:
            yield Finding("lung of odd area", (id,), f"{areas} of the image")
        elif mask.lungs[1] < LUNG_RATIO * mask.lungs[0]:
            yield Finding("lung of odd area", (id,), f"{areas} of the image: one is much smaller")
        if mask.specks:
            yield Finding("specks in mask", (id,))


def says_normal(findings: str) -> bool:
    """Whether a reading's findings call the film normal: a line of them begins so ("pt had a normal CXR" does not)."""
    return re.search(r"(?:^|; )\W*normal", findings, re.I) is not None


def _reading_findings(readings: dict[str, str]) -> Iterator[Finding]:
    """Readings against the label in the name, in part unread, or so alike that two films may be of one patient."""
    parsed = {id: cxm.parse_reading(text) for id, text in sorted(readings.items())}
    for id, reading in parsed.items():
        missing = [name for name, value in reading._asdict().items() if value is None]
        if missing:
            said = " ".join(readings[id].split())[:60]
            yield Finding("reading lacks a value", (id,), f"no {', '.join(missing)} in {said!r}")
        if reading.findings and says_normal(reading.findings) != (id[-1] == "0"):
            name = LABELS[int(id[-1])]
            yield Finding("label against reading", (id,), f"named {name}, the reading says {reading.findings[:80]!r}")
    patients = cxm.patients_of(readings)
    for earlier, later in pairwise(id for id in parsed if _config(id) == "MC"):
        one, other = parsed[earlier], parsed[later]
        known = cxm.patient_of(earlier, patients) == cxm.patient_of(later, patients)
        if known or None in one + other or one[:2] != other[:2] or says_normal(one.findings + "; " + other.findings):
            continue
        if SequenceMatcher(None, one.findings, other.findings, autojunk=False).ratio() >= SIMILAR_FINDINGS:
            said = f"{one.sex}, {one.age_years:g} years, {one.findings[:60]!r} and {other.findings[:60]!r}"
            yield Finding("may be one patient", (earlier, later), said)


def _image_findings(films: dict[str, Film], readings: dict[str, str]) -> Iterator[Finding]:
    """Images without contrast, images with the same pixels, and pairs of different patients that look the same."""
    yield from (Finding("blank image", (id,)) for id, film in films.items() if film.phash is None)
    same: dict[str, list[str]] = {}
    for id in sorted(films):
        same.setdefault(films[id].content, []).append(id)
    yield from (Finding("same pixels", tuple(ids)) for ids in same.values() if len(ids) > 1)
    ids = [ids[0] for ids in same.values() if films[ids[0]].phash]
    patients = cxm.patients_of(readings)
    distances = hash_distances(films[id].phash for id in ids)
    for first, second in np.argwhere(np.triu(distances <= NEAR_BITS, 1)).tolist():
        pair = ids[first], ids[second]
        if len({cxm.patient_of(id, patients) for id in pair}) == 2:
            yield Finding("near-duplicate", pair, f"{distances[first, second]} of 256 bits apart")


def _copy_findings(copies: dict[str, Film], films: dict[str, Film]) -> Iterator[Finding]:
    """Files in test/ whose pixels are not those of the image whose name they bear."""
    owners: dict[str, list[str]] = {}
    for id in sorted(films):
        owners.setdefault(films[id].content, []).append(id)
    for id, copy in copies.items():
        if id not in (same := owners.get(copy.content, [])):
            kind = "test/ copy of another image" if same else "test/ copy of no image"
            yield Finding(kind, (id,), f"has the pixels of {', '.join(same)}" if same else "")
