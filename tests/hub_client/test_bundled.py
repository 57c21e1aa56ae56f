"""The models that come with the package: whole, small, without an X-ray, and refused where a file was changed."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_models import ChestXrayReader
from hub_models.app.examples import EXAMPLE_PHANTOMS, example_png
from hub_models.hub.model_card import PICTURES_SHOWN
from hub_models.hub.push import push_model
from hub_models.hub_client import bundled
from hub_models.hub_client.bundled import BUNDLED, BUNDLED_LICENSE
from hub_models.hub_client.downloads import RUN_FILES, local_run
from hub_models.metrics.segmentation import count_overlap, dice
from hub_models.predict.job import read_all
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import resolve
from hub_models.runs.run_folder import RunFolder

MOST_BYTES = 12e6


def test_each_file_is_listed_and_all_are_small() -> None:
    files = {path for path in bundled.WEIGHTS.rglob("*") if path.is_file()}
    listed = dict(line.split("  ")[::-1] for line in (bundled.WEIGHTS / bundled.SUMS_NAME).read_text().splitlines())
    names = {str(path.relative_to(bundled.WEIGHTS)) for path in files}
    assert names == {*listed, "LICENSE", "SHA256SUMS"} and sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert all(hashlib.sha256((bundled.WEIGHTS / name).read_bytes()).hexdigest() == listed[name] for name in listed)
    assert {path.name for path in files if path.suffix == ".png"} <= {*PICTURES_SHOWN}  # no X-ray on them


@pytest.mark.parametrize("name", bundled.BUNDLED)
def test_cards_and_licence_are_those_of_a_pushed_model(name: str) -> None:
    folder = local_run(name)
    run = RunFolder.read(folder)
    run.require(*RUN_FILES)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n") and "license: cc-by-nc-sa-4.0" in card and "not a medical device" in card
    assert run.results["split"] == "test" and "synthetic" not in run.data
    assert "by-nc-sa/4.0" in (bundled.WEIGHTS / "LICENSE").read_text()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the bundled models, in their place."""
    folder = shutil.copytree(bundled.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(bundled, "WEIGHTS", folder)
    monkeypatch.setattr(bundled, "BUNDLED", {name: folder / path.name for name, path in bundled.BUNDLED.items()})
    bundled.bundled_run.cache_clear()
    yield folder
    bundled.bundled_run.cache_clear()


def test_changed_or_missing_files_are_refused(copy: Path) -> None:
    assert local_run("bundled:lungs") == copy / "lungs"
    with (copy / "tb" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(ValueError, match="model.safetensors is not as it was published: install the package again"):
        local_run("bundled:tb")
    (copy / "tb" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="install the package again"):
        local_run("bundled:tb")
    with pytest.raises(FileNotFoundError, match="pass bundled:lungs or bundled:tb"):
        local_run("bundled:other")


def test_they_read_where_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "xrays").mkdir()
    phantom = example_png(min(EXAMPLE_PHANTOMS), (400, 350))
    (tmp_path / "xrays" / "phantom.png").write_bytes(phantom)
    (found,) = ChestXrayReader().read(tmp_path / "xrays" / "phantom.png")
    assert found.mask is not None and found.mask.any() and 0 < found.probability < 1
    read_all(str(tmp_path / "xrays"), tmp_path / "out")
    assert (tmp_path / "out" / "predictions.csv").exists() and [*(tmp_path / "out" / "masks").iterdir()]
    (exported,) = ChestXrayReader(backend="onnx").read(tmp_path / "xrays" / "phantom.png")
    assert exported.probability == pytest.approx(found.probability, abs=1e-5)
    assert dice(count_overlap(exported.mask, found.mask)) > 0.9999
    only_lungs = ChestXrayReader("bundled:lungs").read(tmp_path / "xrays" / "phantom.png")[0]
    assert only_lungs.probability is None and (only_lungs.mask == found.mask).all()


def test_a_run_starts_from_them_and_they_are_pushed_by_their_names(phantoms: Path, tmp_path: Path) -> None:
    models = {"model": "bundled:tb", "segmenter": "bundled:lungs"}
    config = resolve(TrainConfig(str(phantoms), str(tmp_path), "tb_classification", region="lungs", **models))
    assert (config.model, config.segmenter) == tuple(str(BUNDLED[name]) for name in ("bundled:tb", "bundled:lungs"))
    assert RunFolder.read("bundled:tb").path == BUNDLED["bundled:tb"]
    pushed = push_model("bundled:tb", "alice/m", license=BUNDLED_LICENSE, dry_run=True)
    assert pushed.files["model.safetensors"] == BUNDLED["bundled:tb"] / "model.safetensors"
