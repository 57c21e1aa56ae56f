"""Write two finished runs as the models that come with the package, to hub_models/weights, as they would be pushed.

    PYTHONPATH=tests python -m figures.bundle --lungs RUN --tb RUN

The weights are stored in half precision, which halves the package; they are read in single precision. An export of
each, in single precision, lies beside them for installations without torch.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from hub_models.files import new_folder, write_bytes
from hub_models.hub.run_files import bytes_of, release
from hub_models.hub_client.bundled import BUNDLED, BUNDLED_LICENSE, SUMS_NAME, WEIGHTS
from hub_models.predict.export import export_model
from hub_models.predict.loading import EXPORT_FOLDER
from hub_models.runs.run_folder import DATA_NAME, RunFolder

WEIGHTS_NAME = "model.safetensors"


def bundle(run: Path, name: str) -> None:
    """Write what a push of a run would send to the folder of the bundled model `name`, with its weights in float16."""
    folder = BUNDLED[name]
    files = release(RunFolder.read(run), f"hub_models/weights/{folder.name}", BUNDLED_LICENSE)
    tensors = {
        key: one.half() if one.is_floating_point() else one for key, one in load_file(run / WEIGHTS_NAME).items()
    }
    if not all(bool(one.isfinite().all()) for one in tensors.values() if one.dtype == torch.float16):
        raise ValueError(f"{run} has weights beyond the range of float16: it cannot be bundled")
    files[WEIGHTS_NAME] = save(tensors, {"format": "pt"})
    data = json.loads(bytes_of(files[DATA_NAME])) | {"license": BUNDLED_LICENSE}  # so that its heirs know it
    files[DATA_NAME] = (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
    with new_folder(folder) as made:
        for path, source in files.items():
            (made / path).write_bytes(bytes_of(source))


def write_sums() -> None:
    """Write the digests of all files of the bundled models."""
    files = sorted(path for folder in BUNDLED.values() for path in folder.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(WEIGHTS)}\n" for path in files]
    write_bytes("".join(lines).encode(), WEIGHTS / SUMS_NAME)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, folder in BUNDLED.items():
        parser.add_argument(f"--{folder.name}", type=Path, required=True, metavar="RUN", help=f"run of {name}")
    options = parser.parse_args()
    for name, folder in BUNDLED.items():
        bundle(getattr(options, folder.name), name)
    write_sums()  # without which no bundled model is read
    for name, folder in BUNDLED.items():
        export_model(name, folder / EXPORT_FOLDER)
    write_sums()
