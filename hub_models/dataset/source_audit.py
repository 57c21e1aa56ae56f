"""Report what is odd in X-rays that are not the set: a folder with a table or without, Parquet, a dataset."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets

import chest_xray_masks as cxm
from hub_models.dataset.audit import LABELS, image_findings, mask_findings
from hub_models.dataset.audit_report import KINDS, Audit, Finding
from hub_models.dataset.inspection import ImageFacts, Inspected, Job, MaskFacts, inspect_jobs
from hub_models.dataset.schema import with_files
from hub_models.dataset.sources import DataRequest, folder_xrays, load_splits, warn_of_patients
from hub_models.imaging.source import open_image


def audit_source(request: DataRequest, progress: bool = True) -> Audit:
    """Return what is odd in the X-rays of a source; each image and mask is decoded, on every core.

    Raises:
        FileNotFoundError, ValueError: as `sources.load_splits`, but for damaged files of a folder, which are findings.
    """
    xrays = folder_xrays(request)
    if xrays is None:
        splits = load_splits(request)
        rows = datasets.concatenate_datasets(list(splits.values()))
        sites = rows.features["site"].int2str(list(rows["site"]))
        own = [split for split, part in splits.items() for _ in part]
        columns = rows["id"], sites, rows["label"], rows["patient_id"], own
        known = {id: facts for id, *facts in zip(*columns, strict=True)}
        inspected = _inspect_rows(rows, progress)
    else:
        known = {xray.id: [xray.site, xray.label, xray.patient_id or xray.id, xray.split] for xray in xrays}
        jobs: list[Job] = []
        for xray in xrays:
            jobs.append((xray.image._replace(role="image", id=xray.id),))
            sides = ("left_mask", "right_mask") if len(xray.masks) == 2 else ("mask",)
            if xray.masks:
                files = zip(xray.masks, sides, strict=True)
                jobs.append(tuple(mask._replace(role=side, id=xray.id) for mask, side in files))
        inspected = inspect_jobs(jobs, {}, progress)
        # a DICOM header names the patient where the table does not
        dicom = {one.id for one in inspected if isinstance(one.facts, ImageFacts) and one.facts.mode == "DICOM"}
        if unknown := [xray.id for xray in xrays if not xray.patient_id and xray.id not in dicom]:
            warn_of_patients(request.data, unknown, len(xrays))
    return _report(request, known, inspected)


def _inspect_rows(rows: datasets.Dataset, progress: bool) -> list[Inspected]:
    """Return the facts of the images and masks in the rows of a dataset."""
    held: dict[cxm.SetFile, bytes] = {}
    for row in with_files(rows.select_columns(["id", "image", "mask"])):
        for role in (role for role in ("image", "mask") if row[role] is not None):
            data = row[role]["bytes"]
            suffix = ".png" if open_image(data).format == "PNG" else ""
            held[cxm.SetFile(role, row["id"], f"{row['id']}{suffix}", "", len(data), 0)] = data
    return inspect_jobs([(file,) for file in held], held, progress)


def _report(request: DataRequest, known: dict[str, list[object]], inspected: list[Inspected]) -> Audit:
    xrays = {one.id: one.facts for one in inspected if isinstance(one.facts, ImageFacts)}
    masks = {one.id: one.facts for one in inspected if isinstance(one.facts, MaskFacts)}
    counts: dict[str, dict[str, int]] = {}
    for id, (site, label, *_) in sorted(known.items()):
        of_site = counts.setdefault(str(site), dict.fromkeys(("images", *LABELS, "masks", "readings"), 0))
        of_site["images"] += 1
        of_site["masks"] += id in masks
        if isinstance(label, int):
            of_site[LABELS[label]] += 1
    found = Audit(request.data, counts, is_own=True)
    modes = [f"image {xray.mode}" for xray in xrays.values()] + [f"mask {mask.mode}" for mask in masks.values()]
    found.modes = dict(sorted(Counter(modes).items()))
    found.sizes = dict(Counter(f"{xray.size[0]}x{xray.size[1]}" for xray in xrays.values()).most_common(5))
    found.mask_values = dict(sorted(Counter(mask.values for mask in masks.values()).items()))
    found.synthetic = sum(xray.is_synthetic for xray in xrays.values())
    findings = [finding for one in inspected for finding in one.findings]
    findings += [Finding("image without mask", (id,)) for id in sorted(known.keys() - masks.keys())] if masks else []
    findings += [*mask_findings(masks, xrays), *image_findings(xrays, {}, lambda id: str(known[id][2]))]
    findings = [_with_labels(one, known) for one in findings] + list(_unlabelled(known))
    findings += _in_several_splits(known)
    root = f"{Path(request.data).resolve()}/"
    found.findings = sorted(
        (one._replace(message=one.message.replace(root, "")) for one in findings),
        key=lambda one: (list(KINDS).index(one.kind), one[1:]),
    )
    return found


def _with_labels(finding: Finding, known: dict[str, list[object]]) -> Finding:
    """Return a finding of equal X-rays with their labels, where they differ."""
    labels = {id: known[id][1] for id in finding.ids} if finding.kind == "same pixels" else {}
    if len({label for label in labels.values() if label is not None}) < 2:
        return finding
    said = (LABELS[label] if isinstance(label, int) else "nothing" for label in labels.values())
    return finding._replace(message=f"labelled {' and '.join(said)}")


def _unlabelled(known: dict[str, list[object]]) -> Iterator[Finding]:
    """Yield X-rays without a label where others have one."""
    without = [id for id, (_, label, *_) in known.items() if label is None]
    yield from (Finding("X-ray without label", (id,)) for id in without if len(without) < len(known))


def _in_several_splits(known: dict[str, list[object]]) -> Iterator[Finding]:
    """Yield the X-rays of each patient who is in several splits of the source."""
    of_patient: dict[object, dict[str, object]] = {}
    for id, (*_, patient, split) in sorted(known.items()):
        of_patient.setdefault(patient, {}).update({id: split} if split else {})
    for patient, splits in of_patient.items():
        if len(found := sorted(set(map(str, splits.values())))) > 1:
            yield Finding("patient in several splits", tuple(splits), f"patient {patient}: {', '.join(found)}")
