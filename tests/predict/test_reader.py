import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import dicom

from hub_models.evaluation.measure import measure
from hub_models.imaging.flags import Flag
from hub_models.imaging.gray import synthetic_mark
from hub_models.imaging.masks import to_mask
from hub_models.imaging.resizing import resize_gray
from hub_models.metrics import count_overlap
from hub_models.models.image_processors import normalize
from hub_models.models.out_of_distribution import OutOfDistribution
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.reader import LEAST_SIDE, ChestXrayReader
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import load_run_splits
from hub_models.runs.run_folder import RunFolder


@pytest.fixture(scope="module")
def lungs_folder(make_run, tiny_segformer, tmp_path_factory) -> Path:
    folder = str(tmp_path_factory.mktemp("lungs"))
    return make_run(TrainConfig("data", folder, model=str(tiny_segformer), image_size=64))


@pytest.fixture(scope="module")
def tb_folder(make_run, tiny_resnet, tmp_path_factory) -> Path:
    """A TB model that sees the whole X-ray."""
    folder = str(tmp_path_factory.mktemp("tb"))
    return make_run(TrainConfig("data", folder, "tb_classification", model=str(tiny_resnet), image_size=64))


@pytest.fixture(scope="module")
def found_folder(make_run, lungs_folder, tiny_resnet, tmp_path_factory) -> Path:
    """A TB model that sees the lungs only, as a segmenter finds them, the aspect kept."""
    folder = str(tmp_path_factory.mktemp("found"))
    options = {"region": "lungs", "fit": "pad", "model": str(tiny_resnet), "image_size": 64}
    config = TrainConfig("data", folder, "tb_classification", **options)
    return make_run(config, segmenter=RunFolder.read(lungs_folder).digest)


def test_lungs_and_probability_are_those_of_the_evaluation(lungs_folder, tb_folder, phantoms) -> None:
    reader = ChestXrayReader(lungs_folder, tb_folder)
    for folder, task in ((lungs_folder, "lung_segmentation"), (tb_folder, "tb_classification")):
        config = TrainConfig(str(phantoms), "unused", task, image_size=64)
        part = load_run_splits(config, Accelerator(), ("test",))["test"]
        measured = measure(TrainedModel.from_run(folder), part, Accelerator())
        found = dict(zip(part.rows["id"], reader.read(part.rows["image"]), strict=True))
        for row, mask in zip(measured, part.rows.sort("id")["mask"], strict=True):
            one = found[row["id"]]
            if task == "tb_classification":
                assert one.probability == pytest.approx(row["probability"], abs=1e-5)
                assert one.threshold == row["threshold"]
            else:
                counts = count_overlap(one.mask, to_mask(mask))._asdict()
                assert counts == {name: row[name] for name in counts}


def test_model_of_the_lungs_is_as_evaluated(lungs_folder, found_folder, phantoms) -> None:
    names = {"region": "lungs", "fit": "pad", "segmenter": str(lungs_folder), "image_size": 64}
    config = TrainConfig(str(phantoms), "unused", "tb_classification", **names)
    part = load_run_splits(config, Accelerator(), ("test",))["test"]
    measured = {
        row["id"]: row["probability"] for row in measure(TrainedModel.from_run(found_folder), part, Accelerator())
    }
    found = ChestXrayReader(lungs_folder, found_folder).read(part.rows["image"])
    assert dict(zip(part.rows["id"], [one.probability for one in found], strict=True)) == pytest.approx(measured, 1e-5)


def test_one_model_may_be_absent(lungs_folder, tb_folder) -> None:
    image = Image.effect_noise((150, 90), 60)
    (lungs,) = ChestXrayReader(segmenter=lungs_folder).read(image)
    assert lungs.mask.shape == (90, 150) and lungs.mask.dtype == bool
    assert lungs.probability is lungs.threshold is lungs.decision is lungs.is_suspected is None
    (tb,) = ChestXrayReader(classifier=tb_folder).read(image)
    assert tb.mask is None and tb.lungs is None and tb.flags == tb.flag_codes == () and 0 < tb.probability < 1


def test_decision_is_at_the_stored_threshold(tb_folder) -> None:
    (one,) = ChestXrayReader(classifier=tb_folder).read(Image.effect_noise((90, 90), 60))
    at, above = (dataclasses.replace(one, threshold=one.probability + more) for more in (0, 1e-6))
    assert at.is_suspected is True and above.is_suspected is False
    assert at.verdict != above.verdict and at.advice != above.advice
    odd = dataclasses.replace(at, image_flags=(Flag.BLANK.raised(),))
    assert odd.is_suspected is True and odd.flag_codes == (Flag.BLANK,) and odd.advice == at.advice
    assert odd.verdict == f"{at.verdict}, but see the flags"
    for found in (at, above, odd):
        assert found.decision == f"{found.verdict}: {found.advice}"


def test_lungs_of_another_model_than_the_classifier_was_trained_on_are_warned_of(
    lungs_folder, found_folder, tb_folder, tmp_path, caplog
) -> None:
    ChestXrayReader(lungs_folder, found_folder)
    ChestXrayReader(lungs_folder, tb_folder)  # which sees whole X-rays
    assert not caplog.records
    other = Path(shutil.copytree(lungs_folder, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["chest_xray_masks"]["two_lungs"] = True
    (other / "config.json").write_text(json.dumps(config))
    (found,) = ChestXrayReader(other, found_folder).read(Image.effect_noise((90, 90), 60))
    (record,) = caplog.records
    known = f"trained with the lungs that model {RunFolder.read(lungs_folder).digest[:16]} finds, not {other}"
    assert record.getMessage() == f"warning: {found_folder} was {known}: {Flag.OTHER_SEGMENTER.message}"
    assert Flag.OTHER_SEGMENTER in found.flag_codes
    (known,) = ChestXrayReader(lungs_folder, found_folder).read(Image.effect_noise((90, 90), 60))
    assert Flag.OTHER_SEGMENTER not in known.flag_codes


def test_order_and_names_stay_beyond_one_batch(lungs_folder, tmp_path) -> None:
    reader = ChestXrayReader(lungs_folder)
    sizes = [(64 + number, 50) for number in range(20)]
    paths = [tmp_path / f"{number:02}.png" for number in range(20)]
    for path, size in zip(paths, sizes, strict=True):
        Image.effect_noise(size, 60).save(path)
    found = reader.read(paths)
    assert [one.name for one in found] == [path.name for path in paths]
    assert [one.mask.shape[::-1] for one in found] == sizes
    (alone,) = reader.read(paths[7].read_bytes())
    assert alone.name == "image 1"
    np.testing.assert_array_equal(alone.mask, found[7].mask)


def test_spacing_of_a_montgomery_x_ray_is_known_by_its_name(lungs_folder, tmp_path) -> None:
    image = Image.effect_noise((100, 200), 60)
    (tmp_path / "synthetic").mkdir()
    image.save(tmp_path / "MCUCXR_0001_0.png")  # an original of 4020 rows and 4892 columns, 0.0875 mm
    (one,) = ChestXrayReader(lungs_folder).read(tmp_path / "MCUCXR_0001_0.png")
    assert one.spacing_mm == pytest.approx((4020 * 0.0875 / 200, 4892 * 0.0875 / 100))
    area = one.mask.sum() * one.spacing_mm[0] * one.spacing_mm[1]
    assert one.lungs.right_mm2 + one.lungs.left_mm2 == pytest.approx(area)
    image.save(tmp_path / "synthetic" / "MCUCXR_0001_0.png", pnginfo=synthetic_mark())
    (phantom,) = ChestXrayReader(lungs_folder).read(tmp_path / "synthetic" / "MCUCXR_0001_0.png")
    assert phantom.spacing_mm is None and phantom.lungs.right_mm2 is None  # of no real size
    (unknown,) = ChestXrayReader(lungs_folder).read(image)
    assert unknown.spacing_mm is None and unknown.lungs.right_mm2 is None


def known_by(folder: Path, limit: float) -> OutOfDistribution:
    """What a model of 24 + 32 channels (the tiny one's last two stages) would know, at the origin, and saved."""
    known = OutOfDistribution(np.zeros(56), np.eye(56), limit, 30)
    known.save(folder)
    return known


def test_distance_is_of_the_x_ray_itself_in_one_pass(lungs_folder, tmp_path) -> None:
    folder = Path(shutil.copytree(lungs_folder, tmp_path / "known"))
    known_by(folder, 0.5)
    reader = ChestXrayReader(folder)
    xrays = [reader.decode(Image.effect_noise((70, 90 + side), 60)) for side in range(3)]
    pixels = torch.from_numpy(np.stack([resize_gray(xray.gray, 64) for xray in xrays])).float() / 255
    with torch.inference_mode():
        inputs = normalize(pixels, reader.segmenter.image_processor)
        stages = reader.segmenter.model(pixel_values=inputs, output_hidden_states=True).hidden_states[-2:]
    features = torch.cat([stage.flatten(2).std(2, correction=0) for stage in stages], 1)  # (3, 56)
    logits, distances = reader.segment(xrays)
    np.testing.assert_allclose(distances, features.norm(dim=1), rtol=1e-4)  # to the origin
    reader.segmenter = dataclasses.replace(
        reader.segmenter, settings=dataclasses.replace(reader.segmenter.settings, views=3)
    )
    many_logits, many_distances = reader.segment(xrays)
    np.testing.assert_allclose(many_distances, distances, rtol=1e-5)
    assert not np.array_equal(many_logits[0], logits[0])  # the other views do count there


def test_far_x_rays_are_flagged_where_the_run_knows_its_own(lungs_folder, tmp_path) -> None:
    folder = Path(shutil.copytree(lungs_folder, tmp_path / "known"))
    image = Image.effect_noise((90, 90), 60)
    (unknown,) = ChestXrayReader(folder).read(image)
    assert unknown.distance is unknown.limit is None and Flag.OUT_OF_DISTRIBUTION not in unknown.flag_codes
    known_by(folder, 1e-3)
    (far,) = ChestXrayReader(folder).read(image)
    assert far.distance > far.limit == 1e-3 and far.flag_codes[0] == Flag.OUT_OF_DISTRIBUTION
    np.testing.assert_array_equal(far.mask, unknown.mask)
    known_by(folder, far.distance)
    assert Flag.OUT_OF_DISTRIBUTION not in ChestXrayReader(folder).read(image)[0].flag_codes
    OutOfDistribution(np.zeros(3), np.eye(3), 1.0, 30).save(folder)
    with pytest.raises(ValueError, match="is for a model with 3 features, but this one has 56"):
        ChestXrayReader(folder).read(image)


def test_image_that_cannot_be_an_x_ray_is_flagged_without_a_lung_model(tb_folder) -> None:
    colour = Image.merge("RGB", [Image.effect_noise((90, 90), 60), *[Image.new("L", (90, 90), 100)] * 2])
    blank = Image.new("L", (90, 90), 7)
    found = ChestXrayReader(classifier=tb_folder).read([colour.point(lambda value: value // 2), blank])
    assert [one.flag_codes[0] for one in found] == [Flag.COLOUR, Flag.BLANK]


def test_what_cannot_be_read_with_is_refused(lungs_folder, tb_folder, found_folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="sees lungs only: pass a segmenter="):
        ChestXrayReader(classifier=found_folder)
    with pytest.raises(ValueError, match="holds a model for tb_classification, not for lung_segmentation"):
        ChestXrayReader(segmenter=tb_folder)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ChestXrayReader(segmenter=tmp_path / "nowhere")
    broken = Path(shutil.copytree(lungs_folder, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    name = next(name for name, values in weights.items() if values.is_floating_point())
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"weights that are not finite \(.*: pass a sound copy"):
        ChestXrayReader(segmenter=broken)


def test_bad_x_rays_are_named(lungs_folder, tmp_path) -> None:
    reader = ChestXrayReader(lungs_folder)
    (tmp_path / "text.png").write_text("not an image")
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(ValueError, match=r"text\.png cannot be decoded"):
        reader.read(tmp_path / "text.png")
    with pytest.raises(ValueError, match=rf"dot\.png has 1x1 pixels.* of {LEAST_SIDE} or more"):
        reader.read(tmp_path / "dot.png")
    with pytest.raises(FileNotFoundError, match="absent.png"):
        reader.read(tmp_path / "absent.png")


@pytest.mark.parametrize("source", [torch.zeros(64, 64), None, 3, ["x.png", 4], {}.keys, {"image": "x.png"}])
def test_x_ray_of_another_type_is_refused(source: object, lungs_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save("x.png")
    with pytest.raises(TypeError, match=r"image [12] is of type \w+: pass a path"):
        ChestXrayReader(lungs_folder).read(source)


def test_dicom_brings_its_spacing_and_its_flags(lungs_folder, tmp_path) -> None:
    values = np.asarray(Image.effect_noise((64, 80), 60)).astype(np.uint16)
    file = dicom(values, PixelSpacing=[0.5, 0.2], ViewPosition="LL")
    (tmp_path / "xray").write_bytes(file)
    (one,) = ChestXrayReader(lungs_folder).read(tmp_path / "xray")
    assert one.spacing_mm == (0.5, 0.2) and (one.height, one.width) == (80, 64)
    assert one.lungs.right_mm2 + one.lungs.left_mm2 == pytest.approx(one.mask.sum() * 0.1)
    assert Flag.NOT_FRONTAL in one.flag_codes


def test_sides_are_those_that_the_dicom_header_says(lungs_folder) -> None:
    values = np.asarray(Image.effect_noise((64, 80), 60)).astype(np.uint16)
    reader = ChestXrayReader(lungs_folder)
    usual, mirrored = reader.read([dicom(values, PatientOrientation=[side, "F"]) for side in "LR"])
    assert Flag.MIRRORED in mirrored.flag_codes and Flag.MIRRORED not in usual.flag_codes
    np.testing.assert_array_equal(mirrored.mask, usual.mask)  # on the file's own pixels
    sides = mirrored.lungs.right_fraction, mirrored.lungs.left_fraction
    assert sides == (usual.lungs.left_fraction, usual.lungs.right_fraction) and sides[0] != sides[1]
