"""Split patients into five folds: a pure function of the patient id, with the standard library only."""

import hashlib

FOLDS = 5
# Chosen among 55 million so that, on the full 800, each group of site x label x has-mask has 20 % in every fold within
# 3.7 points, and X-rays that look like one patient's though no reading says so (see SPLIT_SALT) stand in one tenth.
FOLD_SALT = 32031020


def tenth_of(patient_id: str) -> int:
    """Return the tenth, 0 to 9, of a patient; all are equally likely."""
    digest = hashlib.sha256(f"{FOLD_SALT}:{patient_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * 10 >> 64


def fold_split(patient_id: str, fold: int) -> str:
    """Return the split of a patient in `fold`, 0 to 4: test (two tenths of all), validation (one) or train (seven)."""
    after = (tenth_of(patient_id) - 2 * fold) % 10
    return "test" if after < 2 else "validation" if after == 2 else "train"
