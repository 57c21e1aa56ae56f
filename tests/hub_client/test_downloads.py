"""Models as users take them from the Hub: transformers' own classes and pipelines say what our evaluation says.

Where a pipeline cannot know what a model of this project needs, the test says what to hand it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from loopback_hub import LoopbackHub, clients_of
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

from hub_models.evaluation.measure import measure
from hub_models.hub_client.downloads import pull_model
from hub_models.imaging.gray import to_gray
from hub_models.imaging.lung_crop import MARGIN, crop_to_lungs
from hub_models.imaging.masks import keep_two_lungs, to_mask
from hub_models.imaging.resizing import resize_gray
from hub_models.metrics import count_overlap, dice
from hub_models.models.architectures import OF_LUNGS
from hub_models.models.trained_model import TrainedModel, forward_views
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import Split, load_run_splits
from hub_models.runs.run_folder import RunFolder

CLASSES = {
    "lungs": (SegformerForSemanticSegmentation, SegformerImageProcessorPil),
    "vit": (ViTForImageClassification, ViTImageProcessorPil),
    "resnet": (ResNetForImageClassification, ViTImageProcessorPil),
}
SIZES = {"lungs": 64, "vit": 32, "resnet": 64}
XRays = Callable[[str, int], Split]


@pytest.fixture(scope="module")
def runs(
    make_run: Callable[..., Path],
    phantoms: Path,
    tiny_segformer: Path,
    tiny_vit: Path,
    tiny_resnet: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Run folders by the name of their repository; their weights tell X-rays and pixels apart, as trained ones do."""
    models = {"lungs": tiny_segformer, "vit": tiny_vit, "resnet": tiny_resnet}
    folders = {}
    for name, model in models.items():
        folder, task = tmp_path_factory.mktemp(name), "lung_segmentation" if name == "lungs" else "tb_classification"
        config = TrainConfig(str(phantoms), str(folder), task, model=str(model), image_size=SIZES[name])
        folders[name] = make_run(config)
        trained = TrainedModel.from_run(folders[name])
        _sharpen(trained, load_run_splits(config, Accelerator(), ("validation",))["validation"])
        trained.model.save_pretrained(folders[name])
    return folders


def _sharpen(trained: TrainedModel, split: Split) -> None:
    """Scale and shift the last layer, so that half of the pixels or X-rays come out positive, by wide margins."""
    model = trained.model
    last = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)][-1]
    with torch.no_grad():
        pixels = split.arrays.__getitems__(list(range(len(split.arrays))))["pixels"]  # (B, S, S)
        margin = forward_views(model, trained.image_processor, pixels.float() / 255)[0].diff(dim=1)  # (B, 1, ...)
        scale = 2 / margin.std()
        last.weight *= scale
        last.bias *= scale
        last.bias[1] -= scale * margin.median()


@pytest.fixture(scope="module")
def published(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A Hub that holds the three runs, private, pushed by alice; the clients use it as her, caches empty at first."""
    with LoopbackHub() as hub:
        token = hub.add_user("alice")
        with clients_of(hub, token, tmp_path_factory.mktemp("pusher")):
            for name, folder in runs.items():
                huggingface_hub.create_repo(f"alice/{name}", private=True)
                huggingface_hub.upload_folder(repo_id=f"alice/{name}", folder_path=folder)
        with clients_of(hub, token, tmp_path_factory.mktemp("user")):
            yield hub


@pytest.fixture(scope="module")
def xrays(phantoms: Path) -> XRays:
    """What makes the test split for a task at a size."""
    return lambda task, size: load_run_splits(
        TrainConfig(str(phantoms), "unused", task, image_size=size), Accelerator(), ("test",)
    )["test"]


def piped(task: str, name: str) -> Any:
    """A pipeline, its image processor in PIL's form.

    Where torchvision is installed, transformers prefers its form, which has no area average and raises.
    """
    image_processor = AutoImageProcessor.from_pretrained(f"alice/{name}", backend="pil")
    return pipeline(task, model=f"alice/{name}", image_processor=image_processor)


def lungs_of(segment: Any, image: Image.Image) -> np.ndarray:
    """(H, W) bool of the lungs in what a pipeline says."""
    found = {one["label"]: np.asarray(one["mask"]) > 0 for one in segment(image)}
    return found.get("lung", np.zeros((image.height, image.width), bool))


def tb_of(classify: Any, image: Image.Image) -> float:
    """Probability of tuberculosis in what a pipeline says."""
    return {one["label"]: one["score"] for one in classify(image)}["tuberculosis"]


def deep(image: Image.Image) -> Image.Image:
    """The X-ray with 16 bits, of which 8 are those that it had."""
    below = np.random.default_rng(0).integers(0, 256, (image.height, image.width), np.uint16)
    return Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16) << 8) + below)


@pytest.mark.parametrize("name", CLASSES)
def test_classes_give_weights_and_image_processor(published: LoopbackHub, runs: dict[str, Path], name: str) -> None:
    kind, processing = CLASSES[name]
    ours = TrainedModel.from_run(runs[name])
    model = kind.from_pretrained(f"alice/{name}")
    assert type(model) is type(ours.model) is kind
    assert model.config.id2label == dict(enumerate(ours.task.labels))
    expected, found = ours.model.state_dict(), model.state_dict()
    assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in expected)
    image_processor = AutoImageProcessor.from_pretrained(f"alice/{name}", backend="pil")
    assert type(image_processor) is processing
    assert image_processor.to_dict() == ours.image_processor.to_dict()


@pytest.mark.parametrize("name", CLASSES)
def test_whole_run_comes_back(published: LoopbackHub, runs: dict[str, Path], xrays: XRays, name: str) -> None:
    there = TrainedModel.from_run(huggingface_hub.snapshot_download(f"alice/{name}"))
    here = TrainedModel.from_run(runs[name])
    task = "lung_segmentation" if name == "lungs" else "tb_classification"
    for image in xrays(task, SIZES[name]).rows["image"]:
        np.testing.assert_array_equal(there(image), here(image))


def test_segmentation_pipeline_is_our_evaluation(published: LoopbackHub, runs: dict[str, Path], xrays: XRays) -> None:
    segment = piped("image-segmentation", "lungs")
    trained, test = TrainedModel.from_run(runs["lungs"]), xrays("lung_segmentation", 64)
    measured = {row["id"]: row for row in measure(trained, test, Accelerator())}
    modes = set()
    for row in test.rows:
        image, theirs = row["image"], lungs_of(segment, row["image"])
        assert 0.05 < theirs.mean() < 0.95
        np.testing.assert_array_equal(theirs, trained(image))
        counts = count_overlap(theirs, to_mask(row["mask"]))
        assert counts._asdict() == {name: measured[row["id"]][name] for name in counts._fields}
        assert dice(counts) == pytest.approx(measured[row["id"]]["dice"], abs=1e-5)
        np.testing.assert_array_equal(lungs_of(segment, image.convert("RGB")), theirs)
        modes.add(image.mode)
    assert modes == {"L", "P"}  # both sites' own forms


def test_pipelines_need_only_the_name(published: LoopbackHub, runs: dict[str, Path]) -> None:
    image = Image.effect_noise((150, 90), 60)
    expected = TrainedModel.from_run(runs["lungs"])(image)
    np.testing.assert_array_equal(lungs_of(pipeline("image-segmentation", model="alice/lungs"), image), expected)
    for name in ("vit", "resnet"):
        found = tb_of(pipeline("image-classification", model=f"alice/{name}"), image)
        assert found == pytest.approx(TrainedModel.from_run(runs[name])(image), abs=1e-5)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_classification_pipeline_is_our_evaluation(
    published: LoopbackHub, runs: dict[str, Path], xrays: XRays, name: str
) -> None:
    classify = piped("image-classification", name)
    trained, test = TrainedModel.from_run(runs[name]), xrays("tb_classification", SIZES[name])
    measured = {row["id"]: row["probability"] for row in measure(trained, test, Accelerator())}
    found = {row["id"]: tb_of(classify, row["image"]) for row in test.rows}
    assert found == pytest.approx(measured, abs=1e-5)
    assert found == pytest.approx({row["id"]: trained(row["image"]) for row in test.rows}, abs=1e-5)
    assert np.ptp(list(found.values())) > 0.1
    assert {row["image"].mode for row in test.rows} == {"L", "P"}


def test_classification_of_16_bits(published: LoopbackHub, runs: dict[str, Path], xrays: XRays) -> None:
    """Hand a pipeline what `resize_gray(to_gray(x), size)` gives, never the 16 bits themselves."""
    classify, trained = piped("image-classification", "resnet"), TrainedModel.from_run(runs["resnet"])
    clipped, rounded = [], []
    for image in map(deep, xrays("tb_classification", 64).rows["image"]):
        expected, gray = trained(image), to_gray(image)
        assert tb_of(classify, Image.fromarray(resize_gray(gray, 64))) == pytest.approx(expected, abs=1e-5)
        whole = Image.fromarray(np.asarray(gray).round().astype(np.uint8))  # rounded before the resize, not after
        rounded.append(abs(tb_of(classify, whole) - expected))
        clipped.append(abs(tb_of(classify, image) - expected))
    assert 1e-5 < max(rounded) < 0.01
    assert max(clipped) > 0.1  # all above 255 is white to PIL's convert


def test_segmentation_of_16_bits(published: LoopbackHub, runs: dict[str, Path], xrays: XRays) -> None:
    """Hand the image processor `resize_gray(to_gray(x), size)`, and its post-processing the X-ray's own size."""
    model = SegformerForSemanticSegmentation.from_pretrained("alice/lungs")
    image_processor = AutoImageProcessor.from_pretrained("alice/lungs", backend="pil")
    segment, trained = piped("image-segmentation", "lungs"), TrainedModel.from_run(runs["lungs"])
    clipped, rounded = [], []
    for image in map(deep, xrays("lung_segmentation", 64).rows["image"]):
        expected, gray = trained(image), to_gray(image)
        inputs = image_processor(Image.fromarray(resize_gray(gray, 64)).convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            sizes = [(image.height, image.width)]
            (mask,) = image_processor.post_process_semantic_segmentation(model(**inputs), sizes)
        np.testing.assert_array_equal(mask.bool(), expected)
        whole = Image.fromarray(np.asarray(gray).round().astype(np.uint8))
        rounded.append((lungs_of(segment, whole) != expected).mean())
        clipped.append((lungs_of(segment, image) != expected).mean())
    assert max(rounded) < 0.01
    assert max(clipped) > 0.1


def test_model_of_the_lungs_is_refused_by_plain_transformers(
    published: LoopbackHub, make_run: Callable[..., Path], tiny_resnet: Path, tmp_path: Path
) -> None:
    options = {"model": str(tiny_resnet), "image_size": 64, "region": "lungs"}
    folder = make_run(TrainConfig("data", str(tmp_path), "tb_classification", **options))
    huggingface_hub.create_repo("alice/of-lungs")
    huggingface_hub.upload_folder(repo_id="alice/of-lungs", folder_path=folder)
    for source in (str(folder), "alice/of-lungs"):
        with pytest.raises(ValueError, match=OF_LUNGS):
            pipeline("image-classification", model=source)
        for auto in (AutoConfig, AutoModelForImageClassification):
            with pytest.raises(ValueError, match=OF_LUNGS):
                auto.from_pretrained(source)
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):  # the class's own, of other sizes
            ResNetForImageClassification.from_pretrained(source)
    (folder / "config.json").write_text(json.dumps(RunFolder.read(folder).model))  # as in version 0.2
    old, image, mask = TrainedModel.from_run(folder), Image.effect_noise((64, 64), 60), np.ones((64, 64), bool)
    assert old(image, mask) == TrainedModel.from_run(pull_model("alice/of-lungs"))(image, mask)


def test_model_of_the_lungs_takes_their_crop(
    published: LoopbackHub, make_run: Callable[..., Path], tiny_resnet: Path, xrays: XRays, tmp_path: Path
) -> None:
    """Hand a pipeline `crop_to_lungs(to_gray(x), lungs, MARGIN)`; where the aspect is kept, its padded square too."""
    for fit in ("squash", "pad"):
        options = {"model": str(tiny_resnet), "image_size": 64, "fit": fit, "region": "lungs"}
        folder = make_run(TrainConfig("data", str(tmp_path / fit), "tb_classification", **options))
        huggingface_hub.create_repo(f"alice/{fit}")
        huggingface_hub.upload_folder(repo_id=f"alice/{fit}", folder_path=folder)
        trained = TrainedModel.from_run(folder)
        classify = pipeline("image-classification", model=trained.model, image_processor=trained.image_processor)
        for row in xrays("lung_segmentation", 64).rows:
            lungs = to_mask(row["mask"])
            crop = crop_to_lungs(to_gray(row["image"]), lungs, MARGIN)
            handed = crop if fit == "squash" else Image.fromarray(resize_gray(crop, 64, "pad"))
            expected = trained(row["image"], lungs)
            assert tb_of(classify, handed) == pytest.approx(expected, abs=1e-5)
            assert abs(tb_of(classify, row["image"]) - expected) > 1e-5  # the whole X-ray is another question


def test_two_lungs_are_kept_by_hand(published: LoopbackHub, runs: dict[str, Path], xrays: XRays) -> None:
    trained, segment = TrainedModel.from_run(runs["lungs"]), piped("image-segmentation", "lungs")
    trained = replace(trained, settings=replace(trained.settings, two_lungs=True))
    changed = 0
    for image in xrays("lung_segmentation", 64).rows["image"]:
        mask = lungs_of(segment, image)
        np.testing.assert_array_equal(keep_two_lungs(mask), trained(image))
        changed += (keep_two_lungs(mask) != mask).sum()
    assert changed
