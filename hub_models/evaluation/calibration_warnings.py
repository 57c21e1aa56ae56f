"""Codes of what a calibration says beside its numbers, each with the message that people see."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

IDS_NAMED = 3  # ids in a message


class CalibrationWarning(StrEnum):
    """A stable code of what a calibration says beside its numbers, with the `message` that people read."""

    message: str

    def __new__(cls, code: str, message: str) -> Self:
        """Make a member whose value is the code alone."""
        warning = str.__new__(cls, code)
        warning._value_, warning.message = code, message
        return warning

    def raised(self, ids: Sequence[str] = (), **values: object) -> "RaisedWarning":
        """Return the warning with the values, the count of `ids` and the first of them in its message."""
        named = ", ".join(ids[:IDS_NAMED]) + (", ..." if len(ids) > IDS_NAMED else "")
        return RaisedWarning(self, self.message.format(count=len(ids), named=named, **values), tuple(ids))

    NO_PATIENT_ID = "no_patient_id", "no patient_id: each X-ray counts as a patient, and intervals may be too narrow"
    NO_TRUTH = "no_truth", "{count} predictions have no truth and are left out: {named}"
    NO_PREDICTION = "no_prediction", "{count} ids of the truth have no prediction and are left out: {named}"
    NO_LABEL = "no_label", "{count} X-rays have an empty label and are left out: {named}"
    NO_SCORE = "no_score", "{count} predictions have an empty score and are left out: {named}"
    REPEATED = "repeated", "{count} ids are in {table} more than once, with the same values, and count once: {named}"
    MATCHED_BY_NAME = (
        "matched_by_name",
        "the ids of the tables match only by file name, without folder and suffix",
    )
    COUNTED_NEGATIVE = "counted_negative", "labels other than the positive ones are counted as negative: {values}"
    UNREADABLE_AGE = "unreadable_age", "{count} X-rays have an age that is not a number, and count as unknown: {named}"
    NO_PROBABILITIES = (
        "no_probabilities",
        "scores lie outside 0 to 1 ({low:g} to {high:g}): a threshold is chosen, and no temperature is fitted",
    )
    FLAT = "flat", "the temperature is {temperature:.3g}, a limit of the values tried: the scores tell next to nothing"
    SEPARATED = "separated", "no positive has a score below that of a negative: with few X-rays, this may be chance"
    REVERSED = "reversed", "higher scores go with the negatives: are scores or labels reversed?"
    UNREACHED = (
        "unreached",
        "in {folds} of {all} folds no threshold reaches the rule and nobody is positive: sensitivity is too low",
    )
    NO_PATIENT = "no_patient", "{count} X-rays have an empty patient_id, and count as patients of their own: {named}"
    FEW = "few", "{held} {kind} for {rate}: an interval of +-5 points needs about {wanted}"
    SMALL_GROUP = (
        "small_group",
        "{group}: {positives} positives and {negatives} negatives, below {least} of each: its threshold is a guess",
    )
    NO_GROUP_THRESHOLD = "no_group_threshold", "{group}: {reason}: it has no threshold of its own"
    CALIBRATED_BEFORE = (
        "calibrated_before",
        "the stored operating point was chosen on {count} of these X-rays: its numbers here are too good",
    )
    SYNTHETIC = "synthetic", "{synthetic} of the {all} X-rays are synthetic: their numbers say nothing about patients"
    SYNTHETIC_MODEL = "synthetic_model", "the model was trained on synthetic X-rays: it is of no use on patients"


@dataclass(frozen=True)
class RaisedWarning:
    """A warning with its message, and the ids of the X-rays that it is about."""

    code: CalibrationWarning
    message: str
    ids: tuple[str, ...] = ()
