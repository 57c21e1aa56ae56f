"""What is missing and odd in a copy of the set: pairs, labels, masks, repeats. The copy itself is left as it is."""

import re
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from textwrap import shorten

import numpy as np

import chest_xray_masks as cxm
from hub_models.dataset.audit_report import KINDS, PUBLISHED, Audit, Finding
from hub_models.dataset.inspection import ImageFacts, Look, Mask, hash_distances, inspect_tree
from hub_models.dataset.published import published_ids
from hub_models.files import write_json

LABELS = cxm.FEATURES["label"].names
# Among 525 real films no two come nearer than 46 of 256 bits; a copy that is scaled, blurred, turned by 1 degree, or
# brightened by a gamma of 1.5 stays within 30. (Of 64 bits: 4 between two films, 8 to a brightened copy.)
NEAR_BITS = 30
LUNG_AREA = (0.03, 0.23)  # share of the image; in 3 of 449 real masks a lung is outside: 1 sick, 2 drawn over the gut
LUNG_RATIO = 0.3  # the smaller lung to the larger; 2 of 449 real masks are below
GRAY_SHARE = 0.05  # of a mask's pixels; soft edges take at most 0.004 of a real one
SIMILAR_FINDINGS = 0.5  # difflib's ratio: 0.6 and 1.0 between real follow-ups that are worded alike


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
    found.synthetic = sum(xray.is_synthetic for xray in facts["image"].values())
    if found.synthetic < len(ids["image"]) or not ids["image"]:  # phantoms are not to be the published X-rays
        found.missing = _missing(ids, found.counts)
    findings = [*_count_findings(found, ids["image"]), *_file_findings(tree, looks)]
    findings += _pair_findings(ids, set(found.missing.get("masks", ())))
    findings += [Finding("synthetic X-ray", (id,)) for id, xray in facts["image"].items() if xray.is_synthetic]
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


def _missing(ids: dict[str, set[str]], counts: dict[str, dict[str, int]]) -> dict[str, list[str]]:
    """Published ids without an image, a mask, a reading, in order; those of a site without any file are left out."""
    sites = {config for config, row in counts.items() if any(row.values())}
    masks = ids["mask"] | (ids["left_mask"] & ids["right_mask"])
    lacking = {
        "images": published_ids() - ids["image"],
        "masks": published_ids(with_mask=True) - masks,
        "readings": published_ids() - ids["reading"],
    }
    return {what: sorted(id for id in absent if _config(id) in sites) for what, absent in lacking.items()}


def _count_findings(found: Audit, images: set[str]) -> Iterator[Finding]:
    """X-rays that lack or are none of the published; a config without any file is information."""
    for config, row in found.counts.items():
        if not any(row.values()):
            yield Finding("site absent", (config,))
    if found.missing:
        yield from (Finding("X-ray missing", (id,)) for id in found.missing["images"])
        yield from (Finding("not of the published set", (id,)) for id in images - published_ids())


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


def _pair_findings(ids: dict[str, set[str]], masks_missing: set[str]) -> Iterator[Finding]:
    """Files whose partner is missing, and images that stand under both labels."""
    images, readings, sides = ids["image"], ids["reading"], ids["left_mask"] | ids["right_mask"]
    whole = ids["mask"] | (ids["left_mask"] & ids["right_mask"])
    bare = images - whole
    groups = {"image without mask": bare - masks_missing, "mask missing": bare & masks_missing}
    groups |= {"image without reading": images - readings}
    groups |= {"reading without image": readings - images, "mask without image": (whole | sides) - images}
    groups |= {"one lung of two": sides - whole}
    groups |= {"two labels": {id for id in images if f"{id[:-1]}0" in images and f"{id[:-1]}1" in images}}
    for kind, members in groups.items():
        yield from (Finding(kind, (id,)) for id in members)


def _mask_findings(masks: dict[str, Mask], xrays: dict[str, ImageFacts]) -> Iterator[Finding]:
    """Masks of another size than their image, of gray values, or not of two lungs of likely area."""
    for id, mask in masks.items():
        if id in xrays and mask.size != xrays[id].size:
            (width, height), (wide, high) = mask.size, xrays[id].size
            yield Finding("mask of another size", (id,), f"{width}x{height}, its image {wide}x{high}")
        if mask.gray_fraction > GRAY_SHARE:
            yield Finding(
                "mask of gray values", (id,), f"{mask.gray_fraction:.0%} of its pixels are not black or white"
            )
        areas = " and ".join(f"{area:.1%}" for area in mask.lungs)
        if not mask.lungs:
            yield Finding("empty mask", (id,))
        elif len(mask.lungs) == 1:
            yield Finding("mask of one part", (id,), areas)
        elif len(mask.lungs) > 2:
            yield Finding("mask of more than two parts", (id,), f"{len(mask.lungs)}: {areas}")
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
            said = shorten(readings[id], 60)
            yield Finding("reading lacks a value", (id,), f"no {', '.join(missing)} in {said!r}")
        if reading.findings and says_normal(reading.findings) != (id[-1] == "0"):
            name = LABELS[int(id[-1])]
            yield Finding(
                "label against reading", (id,), f"named {name}, the reading says {shorten(reading.findings, 80)!r}"
            )
    patients = cxm.patients_of(readings)
    for earlier, later in pairwise(id for id in parsed if _config(id) == "MC"):
        one, other = parsed[earlier], parsed[later]
        known = cxm.patient_of(earlier, patients) == cxm.patient_of(later, patients)
        if known or None in one + other or one[:2] != other[:2] or says_normal(one.findings + "; " + other.findings):
            continue
        if SequenceMatcher(None, one.findings, other.findings, autojunk=False).ratio() >= SIMILAR_FINDINGS:
            splits = {cxm.split_of(cxm.patient_of(id, patients)): None for id in (earlier, later)}
            said = f"{one.sex}, {one.age_years:g} years, {shorten(one.findings, 60)!r} and "
            said += f"{shorten(other.findings, 60)!r}: in {' and '.join(splits)}"
            yield Finding("may be one patient", (earlier, later), said)


def _image_findings(xrays: dict[str, ImageFacts], readings: dict[str, str]) -> Iterator[Finding]:
    """Images without contrast, images with the same pixels, and pairs of different patients that look the same."""
    yield from (Finding("blank image", (id,)) for id, xray in xrays.items() if xray.phash is None)
    same: dict[str, list[str]] = {}
    for id in sorted(xrays):
        same.setdefault(xrays[id].content, []).append(id)
    yield from (Finding("same pixels", tuple(ids)) for ids in same.values() if len(ids) > 1)
    ids = [ids[0] for ids in same.values() if xrays[ids[0]].phash]
    patients = cxm.patients_of(readings)
    distances = hash_distances(xrays[id].phash for id in ids)
    for first, second in np.argwhere(np.triu(distances <= NEAR_BITS, 1)).tolist():
        pair = ids[first], ids[second]
        if len({cxm.patient_of(id, patients) for id in pair}) == 2:
            yield Finding("near-duplicate", pair, f"{distances[first, second]} of 256 bits apart")


def _copy_findings(copies: dict[str, ImageFacts], xrays: dict[str, ImageFacts]) -> Iterator[Finding]:
    """Files in test/ whose pixels are not those of the image whose name they bear."""
    owners: dict[str, list[str]] = {}
    for id in sorted(xrays):
        owners.setdefault(xrays[id].content, []).append(id)
    for id, copy in copies.items():
        if id not in (same := owners.get(copy.content, [])):
            kind = "test/ copy of another image" if same else "test/ copy of no image"
            yield Finding(kind, (id,), f"has the pixels of {', '.join(same)}" if same else "")
