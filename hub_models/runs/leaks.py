"""X-rays that a model was trained on, and refusals to test it on them: by patient, by id, by pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import datasets

from hub_models.dataset.schema import with_files
from hub_models.dataset.splits import PATIENT_SHARING, leaks
from hub_models.imaging.gray import is_synthetic
from hub_models.runs.run_folder import RunData, RunFolder, read_data, short_digest

if TYPE_CHECKING:
    from hub_models.runs.data import Split

LEARNED = ("train", "validation")  # splits that a model comes from


@dataclass(frozen=True)
class Seen:
    """X-rays that a model was trained on, and those of its earlier models.

    Attributes:
        ids: of the X-rays, or their `short_digest` in a model that was pushed.
        patients: digests of the patients' ids, where the ids do not tell them.
        pixels: digests of the gray pixels; empty of older runs.
        synthetic: whether all were drawn by a program; None where some were, or it is not known.
    """

    ids: frozenset[str]
    patients: frozenset[str]
    pixels: frozenset[str]
    synthetic: bool | None


def trained_on(run_folder: Path, splits: tuple[str, ...] = LEARNED) -> Seen:
    """Return the X-rays in `splits` of a run, and those that its earlier models were trained on."""
    return seen_in(read_data(run_folder), splits)


def seen_in(data: RunData, splits: tuple[str, ...]) -> Seen:
    """Return the X-rays in `splits` of a run's `data.json`, and those of its earlier models."""
    names = (*splits, "earlier")
    ids = {id for split in names for id in data[split]}  # type: ignore[literal-required]
    patients, pixels = data.get("patients", {}), data.get("pixels", {})
    synthetic, count = data.get("synthetic_learned", 0), len(data["train"]) + len(data["validation"])
    is_told = "pixels" in data and synthetic in (0, count) and not data["earlier"]  # runs of 0.2 lack the number
    of_program = synthetic == count if is_told else None
    told, drawn = (frozenset(one for split in names for one in found.get(split, ())) for found in (patients, pixels))
    return Seen(frozenset(ids), told, drawn, of_program)


def calibrated_ids(run: RunFolder, rows: datasets.Dataset, pixels: Mapping[str, str] | None = None) -> list[str]:
    """Return the ids of the rows that chose the operating point of a model by `cxm calibrate`.

    They are known by their patients, and by their `pixels`, the digest of each by its id, where these are given.
    """
    known = set(run.data.get("calibrated", ()))
    pairs = zip(rows["id"], rows["patient_id"], strict=True)
    by_patient = {id for id, patient in pairs if short_digest(patient) in known}
    return sorted(by_patient.union(_same_pixels(pixels or {}, calibrated_pixels(run.data))))


def calibrated_pixels(data: RunData) -> frozenset[str]:
    """Return the digests of pixels of the X-rays that chose the operating point of a model by `cxm calibrate`."""
    return frozenset(data.get("pixels", {}).get("calibrated", ()))


def refuse_calibrated(run: RunFolder, test: datasets.Dataset, pixels: Mapping[str, str] | None = None) -> None:
    """Raise ValueError where `calibrated_ids` finds any X-ray to test on."""
    if chosen := calibrated_ids(run, test, pixels):
        said = f"the threshold of {run.path} was chosen on {len(chosen)} of the {len(test)} X-rays to test on"
        said += f", or on others of their patients ({chosen[0]}, ...)"
        raise ValueError(f"{said}: pass others, or read the report of that calibration")


def pixels_of(split: "Split") -> dict[str, str]:
    """Return the digest of the gray pixels of each prepared X-ray, by its id."""
    prepared = split.arrays.prepared.select_columns(["id", "digest"])[:]
    return dict(zip(prepared["id"], prepared["digest"], strict=True))


def _same_pixels(pixels: Mapping[str, str], known: frozenset[str]) -> list[str]:
    """Return the ids, sorted, of the `pixels` whose digest is known."""
    return sorted(id for id, digest in pixels.items() if digest in known)


def check_leaks(source: str | Path, seen: Seen, test: datasets.Dataset, protocol: str = "default") -> None:
    """Raise ValueError where `leaked_ids` finds any among those that a model has `seen`."""
    if leaked := leaked_ids(seen, test, protocol):
        raise ValueError(
            f"{source} was trained on patients of {len(leaked)} of the {len(test)} X-rays to test on "
            f"({min(leaked)}, ...): pass a model whose training left them out, as one of the same protocol does, or "
            "other X-rays or another split; give other people other ids"
        )


def leaked_ids(seen: Seen, test: datasets.Dataset, protocol: str) -> set[str]:
    """Return the ids of the rows of `test` whose patient has an X-ray among those `seen`.

    Under a protocol that itself divides the X-rays of a patient, and warns of it, only the X-rays themselves count. A
    phantom is not of the patient whose id it carries.
    """
    ids, patients = list(test["id"]), list(test["patient_id"])
    leaked = {id for id in ids if id in seen.ids or short_digest(id) in seen.ids}
    if protocol not in PATIENT_SHARING:
        leaked |= set(leaks(seen.ids, test))
        leaked |= {id for id, one in zip(ids, patients, strict=True) if short_digest(one) in seen.patients}
    if seen.synthetic is not None and leaked:
        images = with_files(test.select_columns(["id", "image"]), ["image"])
        chosen = images.select([index for index, id in enumerate(ids) if id in leaked])
        leaked = {row["id"] for row in chosen if is_synthetic(row["image"]["bytes"]) == seen.synthetic}
    return leaked


def check_pixels(source: str | Path, seen: frozenset[str], test: "Split") -> None:
    """Raise ValueError where a prepared X-ray to test on has the pixels of one among those `seen` in training."""
    same = _same_pixels(pixels_of(test), seen)
    if same:
        raise ValueError(
            f"{source} was trained on the pixels of {len(same)} of the {len(test.rows)} X-rays to test on, whatever "
            f"their names ({same[0]}, ...): take them away, or put both copies in one split"
        )
