"""Report what is missing or odd in a copy of the set: pairs, labels, masks, repeats. The copy itself is left as is."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from textwrap import shorten

import numpy as np

import chest_xray_masks as cxm
from hub_models.dataset.audit_report import KINDS, PUBLISHED, Audit, Finding
from hub_models.dataset.inspection import ImageFacts, Inspected, MaskFacts, hash_distances, inspect_tree
from hub_models.dataset.published import published_ids
from hub_models.dataset.sources import DataRequest, as_request
from hub_models.files import write_json

LABELS = cxm.FEATURES["label"].names
# Among 525 real X-rays no two come nearer than 46 of 256 bits; a copy that is scaled, blurred, turned by 1 degree, or
# brightened by a gamma of 1.5 stays within 30. (Of 64 bits: 4 between two X-rays, 8 to a brightened copy.)
NEAR_BITS = 30
LUNG_AREA = (0.03, 0.23)  # of the image; in 3 of 449 real masks a lung is outside: 1 sick, 2 drawn over the gut
LUNG_RATIO = 0.3  # the smaller lung to the larger; 2 of 449 real masks are below
GRAY_FRACTION = 0.05  # of a mask's pixels; soft edges take at most 0.004 of a real one
SIMILAR_FINDINGS = 0.5  # difflib's ratio: 0.6 and 1.0 between real follow-ups that are worded alike
Ids = dict[str, set[str]]  # by role; `mask` holds the complete pairs of left and right lung, too


def audit(data_dir: Path, progress: bool = True) -> Audit:
    """Return what is odd in the set under `data_dir` (folder or zip); each image and mask is decoded, on every core.

    Raises:
        FileNotFoundError: `data_dir` does not exist, or holds neither a file of the set nor a broken zip.
    """
    tree = cxm.scan(str(data_dir))
    if not tree.files and not tree.problems:
        raise FileNotFoundError(f"no chest X-rays in {cxm.nothing_in(tree)}")
    inspected = inspect_tree(tree, progress)
    xrays = {one.id: one.facts for one in inspected if one.role == "image" and isinstance(one.facts, ImageFacts)}
    copies = {one.id: one.facts for one in inspected if one.role == "test_copy" and isinstance(one.facts, ImageFacts)}
    masks = {one.id: one.facts for one in inspected if isinstance(one.facts, MaskFacts)}
    readings = {one.id: one.facts for one in inspected if isinstance(one.facts, str)}
    with cxm.Reader() as reader:
        tabled = cxm.read_tables(tree, reader)
    ids: Ids = defaultdict(set)
    for file in tree.files:
        ids[file.role].add(file.id)
    ids["mask"] |= ids["left_mask"] & ids["right_mask"]
    ids["reading"] |= set(tabled) & ids["image"]
    found = Audit(str(data_dir), _counts(ids), second_copies=len(tree.files) - len(tree.chosen()))
    modes = [f"{_config(id)} image {xray.mode}" for id, xray in xrays.items()]
    modes += [f"{_config(id)} mask {mask.mode}" for id, mask in masks.items()]
    found.modes = dict(sorted(Counter(modes).items()))
    found.mask_values = dict(sorted(Counter(mask.values for mask in masks.values()).items()))
    found.synthetic = sum(xray.is_synthetic for xray in xrays.values())
    found.reported = _reported(readings)
    found.test_copies = sum(id in xrays and xrays[id].content == copy.content for id, copy in copies.items())
    if found.synthetic < len(ids["image"]) or not ids["image"]:  # phantoms are not to be the published X-rays
        found.missing = _missing(ids, found.counts)
    findings = [*_count_findings(found, ids["image"]), *_file_findings(tree, inspected)]
    findings += _pair_findings(ids, set(found.missing.get("masks", ())))
    findings += [*mask_findings(masks, xrays), *_table_findings(tabled, readings)]
    texts = {id: one.facts.findings or "" for id, one in tabled.items() if id in ids["image"]} | readings
    findings += _reading_findings(texts, {id: one.facts for id, one in tabled.items() if id not in readings})
    patients = cxm.patients_of(texts)
    findings += image_findings(xrays, copies, lambda id: cxm.patient_of(id, patients))
    order = list(KINDS)
    found.findings = sorted(findings, key=lambda finding: (order.index(finding.kind), finding[1:]))
    return found


def report(data: DataRequest | str | Path, json_path: Path | None = None, progress: bool = True) -> Audit:
    """Return the audit of a source, and write it as JSON to `json_path`, in one step, if one is given.

    Raises:
        FileNotFoundError: as for `audit` and `DataRequest.check`, or the folder of `json_path` does not exist (seen
            before the work starts).
        IsADirectoryError: `json_path` is a folder.
        ValueError: as `DataRequest.check_meaning`.
    """
    if json_path and not json_path.absolute().parent.is_dir():
        raise FileNotFoundError(f"no folder {json_path.parent} for the report {json_path}: create it, or name another")
    if json_path and json_path.is_dir():
        raise IsADirectoryError(f"the report {json_path} is a folder: name a file in it")
    request = as_request(data)
    request.check_meaning()
    request.check()
    if request.is_set:
        found = audit(Path(request.data), progress)
    else:
        from hub_models.dataset.source_audit import audit_source  # it uses this module

        found = audit_source(request, progress)
    if json_path:
        write_json(found.to_dict(), json_path)
    return found


def _config(id: str) -> str:
    return next(config for config, site in cxm.SITES.items() if site == cxm.SITE_OF_PREFIX[id[:6]])


def _counts(ids: Ids) -> dict[str, dict[str, int]]:
    """Return the numbers of images, of their labels, of masks and readings per config."""
    rows = {"images": ids["image"]}
    rows |= {name: {id for id in ids["image"] if id[-1] == str(digit)} for digit, name in enumerate(LABELS)}
    rows |= {"masks": ids["mask"], "readings": ids["reading"]}
    of_config = {what: Counter(map(_config, row)) for what, row in rows.items()}
    return {config: {what: of_config[what][config] for what in rows} for config in PUBLISHED}


def _reported(readings: dict[str, str]) -> dict[str, dict[str, int]]:
    """Return how many readings say each finding (present, or "? X" for uncertain) and activity, per config."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for id, text in sorted(readings.items()):
        found = cxm.parse_findings(cxm.parse_reading(text).findings)
        doubtful = [f"? {name}" for name in cxm.FINDING_NAMES if getattr(found, name) == "uncertain"]
        activity = [f"activity {found.activity}"] if found.activity else []
        counts[_config(id)].update([*found.present, *doubtful, *activity])
    words = [word for name in cxm.FINDING_NAMES for word in (name, f"? {name}")]
    words += [f"activity {name}" for name in cxm.ACTIVITIES]
    return {config: {word: counts[config][word] for word in words if counts[config][word]} for config in counts}


def _missing(ids: Ids, counts: dict[str, dict[str, int]]) -> dict[str, list[str]]:
    """Return the published ids without an image, a mask, a reading, in order, of sites with any file."""
    sites = {config for config, row in counts.items() if any(row.values())}
    lacking = {"images": published_ids() - ids["image"], "masks": published_ids(with_mask=True) - ids["mask"]}
    lacking |= {"readings": published_ids() - ids["reading"]}
    return {what: sorted(id for id in absent if _config(id) in sites) for what, absent in lacking.items()}


def _count_findings(found: Audit, images: set[str]) -> Iterator[Finding]:
    """Yield published X-rays that are missing, X-rays that were not published, and configs without any file."""
    yield from (Finding("site absent", (config,)) for config, row in found.counts.items() if not any(row.values()))
    if found.missing:
        yield from (Finding("X-ray missing", (id,)) for id in found.missing["images"])
        yield from (Finding("not of the published set", (id,)) for id in images - published_ids())


def _file_findings(tree: cxm.Tree, inspected: list[Inspected]) -> Iterator[Finding]:
    """Yield zips and files that cannot be read or are too large, and copies that differ, by names within the tree."""
    root = f"{Path(tree.root).expanduser().resolve()}/"
    damaged = [Finding("unreadable file", (name.replace(root, ""),), message) for name, message in tree.problems]
    kinds = {"other": "file not used", "copy": "copy not used"}
    left = [Finding(kinds[one.kind], (one.folder,), one.message) for one in cxm.unused(tree) if one.kind in kinds]
    for finding in [*damaged, *left, *(finding for one in inspected for finding in one.findings)]:
        yield finding._replace(message=finding.message.replace(root, ""))


def _pair_findings(ids: Ids, masks_missing: set[str]) -> Iterator[Finding]:
    """Yield files whose partner is missing, and images that stand under both labels."""
    images, readings, masks, sides = ids["image"], ids["reading"], ids["mask"], ids["left_mask"] | ids["right_mask"]
    groups = {
        "image without mask": images - masks - masks_missing,
        "mask missing": (images - masks) & masks_missing,
        "image without reading": images - readings,
        "reading without image": readings - images,
        "mask without image": (masks | sides) - images,
        "one lung of two": sides - masks,
        "two labels": {id for id in images if {f"{id[:-1]}0", f"{id[:-1]}1"} <= images},
    }
    for kind, members in groups.items():
        yield from (Finding(kind, (id,)) for id in members)


def mask_findings(masks: dict[str, MaskFacts], xrays: dict[str, ImageFacts]) -> Iterator[Finding]:
    """Yield masks of another size than their image, of gray values, or not of two lungs of likely area."""
    for id, mask in masks.items():
        if id in xrays and mask.size != xrays[id].size:
            (width, height), (wide, high) = mask.size, xrays[id].size
            yield Finding("mask of another size", (id,), f"{width}x{height}, its image {wide}x{high}")
        if mask.gray_fraction > GRAY_FRACTION:
            gray = f"{mask.gray_fraction:.0%} of its pixels are not black or white"
            yield Finding("mask of gray values", (id,), gray)
        areas = " and ".join(f"{area:.1%}" for area in mask.lungs)
        if not mask.lungs:
            yield Finding("empty mask", (id,))
        elif mask.doubt:
            yield Finding("mask of no lungs", (id,), mask.doubt)
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
    """Return whether findings call the X-ray normal: a line begins with it ("pt had a normal CXR" does not)."""
    return re.search(r"(?:^|; )\W*normal", findings, re.I) is not None


def _table_findings(tabled: dict[str, cxm.Tabled], readings: dict[str, str]) -> Iterator[Finding]:
    """Yield sex and age that a table says wrong, as is known, or by the reading, which goes before it."""
    for id, one in tabled.items():
        if id not in readings:
            if one.doubt:
                yield Finding("table known to be wrong", (id,), one.doubt)
            continue
        said = zip(("sex", "age"), one.facts, cxm.parse_reading(readings[id]), strict=False)
        if other := [f"{what} {mine}: {own}" for what, mine, own in said if None not in (mine, own) and mine != own]:
            yield Finding("table against reading", (id,), ", ".join(other))


def _reading_findings(readings: dict[str, str], tabled: dict[str, cxm.Reading]) -> Iterator[Finding]:
    """Yield readings against the label in the name, without a value, or so alike that one patient may have both."""
    parsed = {id: tabled.get(id) or cxm.parse_reading(text) for id, text in sorted(readings.items())}
    for id, reading in parsed.items():
        if missing := [name for name, value in reading._asdict().items() if value is None]:
            yield Finding("reading lacks a value", (id,), f"no {', '.join(missing)} in {shorten(readings[id], 60)!r}")
        if reading.findings and says_normal(reading.findings) != (id[-1] == "0"):
            said = f"named {LABELS[int(id[-1])]}, the reading says {shorten(reading.findings, 80)!r}"
            yield Finding("label against reading", (id,), said)
    patients = cxm.patients_of(readings)
    for earlier, later in pairwise(id for id in parsed if _config(id) == "MC"):
        (sex, years, one), (other_sex, other_years, other) = parsed[earlier], parsed[later]
        patient_ids = [cxm.patient_of(id, patients) for id in (earlier, later)]
        if None in (sex, years) or (sex, years) != (other_sex, other_years) or one is None or other is None:
            continue
        if patient_ids[0] == patient_ids[1] or says_normal(f"{one}; {other}"):
            continue
        if SequenceMatcher(None, one, other, autojunk=False).ratio() >= SIMILAR_FINDINGS:
            splits = " and ".join(dict.fromkeys(map(cxm.split_of, patient_ids)))
            said = f"{sex}, {years:g} years, {shorten(one, 60)!r} and {shorten(other, 60)!r}: in {splits}"
            yield Finding("may be one patient", (earlier, later), said)


def image_findings(
    xrays: dict[str, ImageFacts], copies: dict[str, ImageFacts], patient: Callable[[str], str]
) -> Iterator[Finding]:
    """Yield synthetic, blank, repeated and near-duplicate images, masks, and test/ copies of no image or another."""
    yield from (Finding("synthetic X-ray", (id,)) for id, xray in xrays.items() if xray.is_synthetic)
    yield from (Finding("blank image", (id,)) for id, xray in xrays.items() if xray.phash is None)
    yield from (Finding("X-ray of two gray values", (id,)) for id, xray in xrays.items() if xray.is_two_valued)
    same: dict[str, list[str]] = defaultdict(list)
    for id in sorted(xrays):
        same[xrays[id].content].append(id)
    yield from (Finding("same pixels", tuple(ids)) for ids in same.values() if len(ids) > 1)
    hashes = {ids[0]: phash for ids in same.values() if (phash := xrays[ids[0]].phash)}
    ids, distances = list(hashes), hash_distances(hashes.values())
    for first, second in np.argwhere(np.triu(distances <= NEAR_BITS, 1)).tolist():
        pair = ids[first], ids[second]
        if len(set(map(patient, pair))) == 2:
            yield Finding("near-duplicate", pair, f"{distances[first, second]} of 256 bits apart")
    for id, copy in copies.items():
        if copy.content not in same:
            yield Finding("test/ copy of no image", (id,))
        elif id not in same[copy.content]:
            yield Finding("test/ copy of another image", (id,), f"has the pixels of {', '.join(same[copy.content])}")
