"""Link a folder of NIH chest X-rays, a folder for each finding, to a folder whose table names their patients.

    PYTHONPATH=tests python -m figures.nih_table NIH OUTPUT

An encoder learns from all of them, without labels; a TB model that did not is tested on all. None has tuberculosis as
a label. File names begin with the patient's number.
"""

import csv
import sys
from pathlib import Path

from hub_models.files import new_folder


def link_with_table(source: Path, output: Path) -> None:
    """Write links and metadata.csv to `output`; raise FileNotFoundError where `source` has no FINDING/X-RAY.png."""
    found = sorted(source.resolve().glob("*/*.png"))
    if not found:
        raise FileNotFoundError(f"no FINDING/X-RAY.png in {source}: pass the folder of the NIH X-rays")
    rows = [["file_name", "patient_id", "split", "label", "site"]]
    with new_folder(output) as folder:
        for path in found:
            (folder / path.name).symlink_to(path)
            site = f"NIH, {path.parent.name.replace('_', ' ')}"
            rows.append([path.name, path.name[:8], "train", "normal", site])
        with (folder / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    link_with_table(Path(sys.argv[1]), Path(sys.argv[2]))
