"""Link a folder of NIH chest X-rays, a folder for each finding, to a folder whose table halves them by patient.

    PYTHONPATH=tests python -m figures.nih_halves NIH OUTPUT

Pre-training learns from one half, without labels; tests see the other. The names tell the patients.
"""

import csv
import hashlib
import sys
from pathlib import Path

from hub_models.files import new_folder


def link_halves(source: Path, output: Path) -> None:
    """Write links and metadata.csv to `output`; raise FileNotFoundError where `source` has no FINDING/X-RAY.png."""
    found = sorted(source.resolve().glob("*/*.png"))
    if not found:
        raise FileNotFoundError(f"no FINDING/X-RAY.png in {source}: pass the folder of the NIH X-rays")
    rows = [["file_name", "patient_id", "split", "label", "site"]]
    with new_folder(output) as folder:
        for path in found:
            patient = path.name[:8]
            half = ("train", "test")[hashlib.sha256(patient.encode()).digest()[-1] % 2]
            (folder / path.name).symlink_to(path)
            rows.append([path.name, patient, half, "normal", f"NIH, {path.parent.name.replace('_', ' ')}"])
        with (folder / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    link_halves(Path(sys.argv[1]), Path(sys.argv[2]))
