"""One run of everything, held against what it gave before: phantoms, two trainings, evaluation, prediction, push.

`data/golden.json` holds the expected outcome. After an intended change write it again and read its diff:
    python tests/test_golden_run.py
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from launch import accelerate, python
from PIL import Image
from transformers import ResNetConfig, SegformerConfig

GOLDEN = Path(__file__).parent / "data" / "golden.json"
# What processors may differ by. The TB model has hardly learned, so its probabilities lie close together
CLOSE = {"dice": 0.004, "lungs": 0.004, "evaluated": 0.0005, "probability": 0.0005}
SEGFORMER = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 4]}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def run(folder: Path) -> dict[str, Any]:
    """Run everything inside `folder` as users do, and return what is compared."""
    data, lungs, tb, out = (folder / name for name in ("phantoms", "lungs", "tb", "predictions"))
    SegformerConfig(decoder_hidden_size=32, **SEGFORMER).save_pretrained(folder / "segformer")
    ResNetConfig(**RESNET).save_pretrained(folder / "resnet")
    sizes = ("--montgomery", 24, "--shenzhen", 36, "--image_size", 80, "--seed", 1)
    python("scripts/write_phantoms.py", "--output", data, *sizes)
    train = ("scripts/train.py", "--data_dir", data, "--from_scratch", "--image_size", 64, "--tracker", "none")
    quick = ("--learning_rate", 2e-3, "--ema", 0.9)
    accelerate(*train, "--output_dir", lungs, "--model", folder / "segformer", "--epochs", 8, *quick)
    screening = ("--task", "tb_classification", "--region", "lungs", "--segmenter", lungs, "--epochs", 2)
    accelerate(*train, "--output_dir", tb, "--model", folder / "resnet", *screening, "--learning_rate", 1e-4)
    evaluation = folder / "evaluation"
    python("scripts/evaluate.py", "--model", tb, "--data_dir", data, "--output", evaluation, "--views", 2)
    models = ("--segmenter", lungs, "--classifier", tb)
    python(
        "scripts/predict.py",
        "--images",
        next(data.rglob("CXR_png")),
        "--output",
        out,
        *models,
        "--overlays",
        "--saliency",
    )
    push = ("--repo_id", "someone/tb", "--license", "apache-2.0", "--segmenter", "someone/lungs", "--dry_run")
    pushed = python("scripts/push.py", "--run", tb, *push).stdout
    table = pyarrow.parquet.read_table(out / "predictions.parquet")
    return {
        "exact": {
            "reference masks": _digest(next(data.rglob("masks"))),
            "run folders": {one.name: _files(one) for one in (lungs, tb, evaluation)},
            "results": {one.name: _keys(one) for one in (lungs, tb, evaluation)},
            "per image": {one.name: _columns(one / "per_image.parquet") for one in (lungs, tb, evaluation)},
            "predictions": _columns(out / "predictions.parquet"),
            "prediction files": {path.name: len(_files(path)) for path in sorted(out.iterdir()) if path.is_dir()},
            "pushed": sorted(line.split()[0] for line in pushed.splitlines() if line.endswith("kB")),
        },
        "close": {
            "dice": json.loads((lungs / "results.json").read_text())["metrics"]["all"]["dice"]["value"],
            "evaluated": pyarrow.parquet.read_table(evaluation / "per_image.parquet")["probability"].to_pylist(),
            "lungs": [_fraction(out / name) for name in table["mask"].to_pylist()],
            "probability": table["probability"].to_pylist(),
        },
    }


def _digest(folder: Path) -> str:
    pixels = b"".join(np.asarray(Image.open(path)).tobytes() for path in sorted(folder.iterdir()))
    return hashlib.sha256(pixels).hexdigest()


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file())


def _keys(folder: Path) -> list[str]:
    results = json.loads((folder / "results.json").read_text())
    return [*results, *(f"metrics: {name}" for name in results["metrics"]["all"])]


def _columns(path: Path) -> list[str]:
    return [f"{field.name}: {field.type}" for field in pyarrow.parquet.read_schema(path)]


def _fraction(path: Path) -> float:
    return float((np.asarray(Image.open(path)) > 0).mean())


@pytest.mark.slow
def test_everything_gives_what_it_gave_before(tmp_path: Path) -> None:
    expected, found = json.loads(GOLDEN.read_text()), run(tmp_path)
    assert found["exact"] == expected["exact"]
    for name, values in expected["close"].items():  # another processor rounds in another way
        assert found["close"][name] == pytest.approx(values, abs=CLOSE[name]), name


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        GOLDEN.write_text(json.dumps(run(Path(scratch)), indent=1) + "\n")
