import dataclasses
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import logging as transformers_logging

from hub_models.dataset.augmentation import shift_scale_turn
from hub_models.dataset.sources import load_splits
from hub_models.imaging.gray import to_gray
from hub_models.imaging.lung_crop import MARGIN, crop_to_lungs
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import BOX, resize_gray
from hub_models.models.architectures import build
from hub_models.models.image_processors import image_processor_for, normalize
from hub_models.models.trained_model import RUN_FILES, VIEWS, TrainedModel, forward_views
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import find_lungs


def as_in_version_0_2(folder: Path) -> None:
    """Let a run's image processor take area averages, as those of older runs do."""
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": int(BOX)}))


@pytest.fixture(scope="module")
def run_folder(make_run, tiny_segformer, tmp_path_factory) -> Path:
    """A run folder of lung segmentation."""
    folder = str(tmp_path_factory.mktemp("lungs"))
    return make_run(TrainConfig("data", folder, model=str(tiny_segformer), image_size=64))


@pytest.fixture(scope="module")
def tb_folder(make_run, tiny_resnet, tmp_path_factory) -> Path:
    """A run folder of TB classification that sees the lungs only."""
    folder = str(tmp_path_factory.mktemp("tb"))
    options = {"task": "tb_classification", "region": "lungs", "fit": "pad"}
    return make_run(TrainConfig("data", folder, model=str(tiny_resnet), image_size=64, **options))


@pytest.mark.parametrize("folder", ["run_folder", "tb_folder"])
def test_logits_do_not_depend_on_the_batch(folder: str, request) -> None:
    trained = TrainedModel.from_run(request.getfixturevalue(folder))
    side = trained.settings.image_size
    pixels = list(np.random.default_rng(0).integers(0, 256, (9, side, side), np.uint8))
    together, _ = trained.forward(pixels)
    for size in (1, 2, 4, 7):
        logits = [trained.forward(pixels[start : start + size])[0] for start in range(0, len(pixels), size)]
        np.testing.assert_array_equal(np.concatenate(logits), together)


def test_mask_is_that_of_transformers_on_the_original_pixels(run_folder) -> None:
    trained = TrainedModel.from_run(run_folder, "lung_segmentation")
    image = Image.effect_noise((150, 90), 60)
    mask = trained(image)
    assert mask.shape == (90, 150) and mask.dtype == bool
    inputs = trained.image_processor(image.convert("RGB"), return_tensors="pt")
    with torch.no_grad():
        outputs = trained.model(**inputs)
    (theirs,) = trained.image_processor.post_process_semantic_segmentation(outputs, [(90, 150)])
    assert 0 < mask.mean() < 1
    np.testing.assert_array_equal(mask, theirs.bool())


def test_older_model_sees_area_averages(run_folder, tmp_path) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    as_in_version_0_2(folder)
    image = Image.fromarray(np.array([[0, 70, 140, 0]] * 4, np.uint8).repeat(32, 0).repeat(32, 1))  # 128 x 128
    seen = TrainedModel.from_run(folder).to_pixels(image, None)
    np.testing.assert_array_equal(seen, np.array([0, 70, 140, 0]).repeat(16)[None].repeat(64, 0))  # sharp edges
    blurred = TrainedModel.from_run(run_folder).to_pixels(image, None)
    np.testing.assert_array_equal(blurred[0, 14:18], [0, 9, 61, 70])  # an eighth of 70 over the edge


def test_the_same_picture_in_any_mode_gives_the_same_mask(run_folder, tmp_path) -> None:
    trained = TrainedModel.from_run(run_folder)
    image = Image.effect_noise((64, 64), 60)
    expected = trained(image)
    values = np.asarray(image)
    palette = Image.frombytes("P", image.size, (255 - values).tobytes())
    palette.putpalette([255 - index for index in range(256) for _ in "rgb"])
    deep = Image.fromarray(values.astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    assert to_gray(deep).mode == "F"
    for source in (palette, image.convert("RGB"), deep, tmp_path / "deep.png", (tmp_path / "deep.png").read_bytes()):
        np.testing.assert_array_equal(trained(source), expected)


def test_bars_of_weights_are_shown_on_request_only(run_folder, capsys) -> None:
    before = transformers_logging.get_verbosity()
    transformers_logging.enable_progress_bar()
    try:
        for verbosity, is_shown in ((logging.ERROR, False), (logging.INFO, True)):
            transformers_logging.set_verbosity(verbosity)
            TrainedModel.from_run(run_folder)
            assert ("Loading weights" in capsys.readouterr().err) == is_shown
            assert transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity(before)


def test_code_in_a_run_folder_is_not_run(run_folder, tmp_path) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    config = '{"image_processor_type": "Mine", "auto_map": {"AutoImageProcessor": "mine.Mine"}}'
    (folder / "preprocessor_config.json").write_text(config)
    for said in (f"{folder / 'mine.py'} holds code", r"preprocessor_config.json.* \(auto_map\)"):
        with pytest.raises(ValueError, match=said):
            TrainedModel.from_run(folder)
        (folder / "mine.py").unlink(missing_ok=True)
    assert not (tmp_path / "ran").exists()


def test_padded_model_sees_the_aspect_kept(make_run, tiny_segformer, tmp_path) -> None:
    folder = make_run(TrainConfig("data", str(tmp_path), model=str(tiny_segformer), image_size=64, fit="pad"))
    as_in_version_0_2(folder)  # area averages do not blur over the bars
    trained = TrainedModel.from_run(folder)
    image = Image.effect_noise((96, 48), 60)
    square = Image.new("L", (96, 96))
    square.paste(image, (0, 24))  # what pad does, at the X-ray's own size
    np.testing.assert_array_equal(trained(image), trained(square)[24:72])


def test_lung_region_is_as_cropped_by_hand(tb_folder) -> None:
    trained = TrainedModel.from_run(tb_folder, "tb_classification")
    image = Image.effect_noise((120, 90), 60)
    mask = np.zeros((90, 120), bool)
    mask[20:70, 30:50] = mask[20:70, 65:95] = True
    small = resize_gray(crop_to_lungs(image, mask, MARGIN), 64, "pad")
    with torch.no_grad():
        pixels = normalize(torch.from_numpy(small.copy())[None].float() / 255, trained.image_processor)
        expected = trained.model(pixel_values=pixels).logits.softmax(1)[0, 1].item()
    assert trained(image, mask) == pytest.approx(expected)
    assert 0 < expected < 1 and trained(image, np.ones_like(mask)) != pytest.approx(expected)
    for wrong, said in ((None, "sees the lungs only: pass their mask"), (mask.T, "on the X-ray's own pixels")):
        with pytest.raises(ValueError, match=said):
            trained(image, wrong)


def test_mask_that_changes_nothing(make_run, tiny_resnet, tb_folder, tmp_path) -> None:
    image, empty = Image.effect_noise((120, 90), 60), np.zeros((90, 120), bool)
    config = TrainConfig("data", str(tmp_path), "tb_classification", model=str(tiny_resnet), image_size=64)
    whole, of_lungs = TrainedModel.from_run(make_run(config)), TrainedModel.from_run(tb_folder)
    assert whole(image) == whole(image, empty)
    assert of_lungs(image, empty) == of_lungs(image, ~empty)  # without lungs an X-ray is taken whole


def test_views_of_a_classifier_by_hand(tiny_resnet) -> None:
    torch.manual_seed(0)
    model = build("classification", str(tiny_resnet), True, ("a", "b"), 32).eval()
    image_processor, images = image_processor_for("classification", "", True, 32), torch.rand(2, 32, 32)
    with torch.no_grad():
        moved = [shift_scale_turn(images[:, None], angle, scale, (0, 0))[:, 0] for angle, scale in VIEWS]
        each = torch.stack([model(pixel_values=normalize(one, image_processor)).logits for one in moved])
        plain = model(pixel_values=normalize(images, image_processor)).logits
        torch.testing.assert_close(forward_views(model, image_processor, images)[0], plain)
        for views in (1, 3, 5):
            mean, features = forward_views(model, image_processor, images, views)
            torch.testing.assert_close(mean, each[:views].mean(0))
            assert features is None
    assert VIEWS[0] == (0, 1) and not torch.equal(each[0], each[1])


class Pixelwise(torch.nn.Module):
    """A segmenter whose logits are the gray of each pixel."""

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=pixel_values[:, :2])


def test_views_of_a_map_are_turned_back() -> None:
    image_processor = image_processor_for("segmentation", "", True, 64)
    y, x = torch.meshgrid(torch.linspace(0, 3, 64), torch.linspace(0, 3, 64), indexing="ij")
    images = ((x.sin() + y.cos()) / 4 + 0.5)[None]  # smooth, so that reading between pixels loses little
    plain, mean = (forward_views(Pixelwise(), image_processor, images, views)[0] for views in (1, 5))
    torch.testing.assert_close(mean[..., 4:-4, 4:-4], plain[..., 4:-4, 4:-4], atol=0.01, rtol=0)
    torch.testing.assert_close(mean[..., 0, 0], plain[..., 0, 0], atol=1.0, rtol=0)  # the rim is of fewer views
    assert not torch.equal(mean, plain)


def test_settings_say_how_many_views(run_folder) -> None:
    trained, image = TrainedModel.from_run(run_folder), Image.effect_noise((64, 64), 60)
    more = dataclasses.replace(trained, settings=dataclasses.replace(trained.settings, views=5))
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(image))[None].float() / 255
        logits, _ = forward_views(trained.model, trained.image_processor, pixels, 5)
    np.testing.assert_array_equal(more(image), trained.task.predict(logits[0], 64, 64, trained.settings))
    assert (more(image) != trained(image)).any()


def test_model_of_another_task_is_refused(run_folder, tb_folder) -> None:
    with pytest.raises(ValueError, match="model for lung_segmentation, not for tb_classification"):
        TrainedModel.from_run(run_folder, "tb_classification")
    with pytest.raises(ValueError, match="model for tb_classification, not for lung_segmentation"):
        find_lungs(datasets.Dataset.from_dict({"mask": []}), tb_folder)


@pytest.mark.parametrize("name", RUN_FILES)
def test_each_missing_file_is_named(name: str, run_folder, tmp_path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name} in "):
        TrainedModel.from_run(tmp_path / "run")


def test_all_missing_files_are_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TrainedModel.from_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"no {', '.join(RUN_FILES)}"):
        TrainedModel.from_run(tmp_path)


def test_model_of_others_is_refused(run_folder, tmp_path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    text = (tmp_path / "run" / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text(text.replace("chest_xray_masks", "theirs"))
    with pytest.raises(ValueError, match="has no chest_xray_masks"):
        TrainedModel.from_run(tmp_path / "run")


def test_lungs_are_found_in_every_x_ray(run_folder, phantoms) -> None:
    rows = load_splits(phantoms)["test"].select(range(6))
    filled, trained = find_lungs(rows, run_folder), TrainedModel.from_run(run_folder)
    trained = dataclasses.replace(trained, settings=dataclasses.replace(trained.settings, two_lungs=True))
    assert filled.features == rows.features and filled["id"] == rows["id"]
    for before, after in zip(rows, filled, strict=True):
        np.testing.assert_array_equal(to_mask(after["mask"]), trained(before["image"]))
        assert after["image"].tobytes() == before["image"].tobytes()


def test_found_lungs_are_cached_by_the_weights(run_folder, make_run, tiny_segformer, phantoms, tmp_path, monkeypatch):
    rows = load_splits(phantoms)["test"].select(range(6))
    first = find_lungs(rows, run_folder)
    shutil.copytree(run_folder, tmp_path / "moved")

    def refuse(self: TrainedModel, source: object) -> None:
        raise RuntimeError("predicted again")

    monkeypatch.setattr(TrainedModel, "__call__", refuse)
    again = find_lungs(rows, tmp_path / "moved")
    for name in ("mask", "image"):
        assert [one.tobytes() for one in again[name]] == [one.tobytes() for one in first[name]]
    other = make_run(TrainConfig("d", str(tmp_path / "other"), model=str(tiny_segformer), image_size=64), seed=4)
    for changed, folder in ((rows, other), (rows.select(range(2)), run_folder)):
        with pytest.raises(RuntimeError, match="predicted again"):
            find_lungs(changed, folder)
