"""Saliency of models whose answer is known: by hand, by finite differences, and of models trained to see one thing."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from transformers import AutoConfig, PreTrainedModel
from transformers.models.vit import modeling_vit

from hub_models.imaging.lung_crop import MARGIN, crop_to_lungs, lungs_box
from hub_models.imaging.resizing import resize_gray
from hub_models.models import saliency as module
from hub_models.models.image_processors import image_processor_for, normalize
from hub_models.models.saliency import METHODS, fraction_in, lungs_of, measure_saliency, saliency, saliency_maps
from hub_models.models.settings import Settings
from hub_models.models.tasks import TASKS
from hub_models.models.trained_model import TrainedModel
from hub_models.models.weights import AUTO_CLASSES

TB = TASKS["tb_classification"]
_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
_CONV = {"hidden_sizes": [8, 16], "depths": [1, 1]}
_SWIN = {"patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
SIZES = {  # of small models, by family
    "vit": _VIT,
    "vit_msn": _VIT,
    "deit": _VIT,
    "resnet": {"embedding_size": 8, "layer_type": "basic"} | _CONV,
    "regnet": {"embedding_size": 8, "groups_width": 8} | _CONV,
    "convnext": {"num_stages": 2} | _CONV,
    "convnextv2": {"num_stages": 2} | _CONV,
    "swin": _SWIN,
    "swinv2": _SWIN,
    "segformer": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 4]},
}


def classifier_of(family: str, size: int = 32, fit: str = "squash", region: str = "image", **sizes) -> TrainedModel:
    """A small classifier with random weights."""
    torch.manual_seed(2)
    config = AutoConfig.for_model(family, **SIZES[family] | sizes)
    if hasattr(config, "image_size"):
        config.image_size = size
    config.num_labels, config.architectures = 2, []
    model = AUTO_CLASSES["classification"].from_config(config).eval()
    settings = Settings("tb_classification", size, fit, region)
    return TrainedModel(TB, model, image_processor_for("classification", "", True, size), settings)


def noise(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def inputs_of(trained: TrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    return normalize(pixels.float() / 255, trained.image_processor)


def log_odds(model: PreTrainedModel, inputs: torch.Tensor) -> torch.Tensor:
    logits = model(pixel_values=inputs).logits
    return logits[:, 1] - logits[:, 0]


def relevance_of(model: PreTrainedModel, inputs: torch.Tensor) -> torch.Tensor:
    with module._norms_held(model):
        return METHODS[model.config.model_type](model, inputs.clone().requires_grad_()).detach()


@pytest.mark.parametrize("family", METHODS)  # each needs SIZES
def test_maps_are_scaled_and_leave_the_model_as_it_was(family: str) -> None:
    trained = classifier_of(family)
    model = trained.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    way = model.config._attn_implementation
    with torch.inference_mode():  # as within a prediction
        maps = saliency_maps(trained, noise())
    assert maps.shape == (3, 32, 32) and maps.dtype == np.float32
    assert maps.min() >= 0 and maps.max((1, 2)) == pytest.approx(1) and maps.std((1, 2)).min() > 0.01
    assert model.training and model.config._attn_implementation == way
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert not any("spread" in repr(hook) for one in model.modules() for hook in one._forward_hooks.values())
    with torch.no_grad():  # of one image alone the same, and of a model whose weights are not to be trained
        (alone,) = saliency_maps(replace(trained, model=model.requires_grad_(False)), noise()[1:2])
    np.testing.assert_allclose(alone, maps[1], atol=1e-4)


@pytest.mark.parametrize("family", ["resnet", "regnet", "convnext", "convnextv2", "swin", "swinv2", "segformer"])
def test_last_map_splits_the_log_odds(family: str, monkeypatch) -> None:
    # log odds = (w1 - w0) . mean over cells of the features + (b1 - b0): a cell adds (w1 - w0) . features / n.
    # ConvNeXt norms the mean: features less their own mean, over the spread of those of the mean, times its weights.
    monkeypatch.setattr(module, "CELLS", 1)
    trained = classifier_of(family)
    model, inputs = trained.model, inputs_of(trained, noise())
    relevance = relevance_of(model, inputs)
    with torch.no_grad():
        features = model.base_model(pixel_values=inputs).last_hidden_state
        features = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features  # (B, cells, C)
        (linear,) = [layer for layer in model.classifier.modules() if isinstance(layer, torch.nn.Linear)]
        weights, rest = linear.weight[1] - linear.weight[0], linear.bias[1] - linear.bias[0]
        if family.startswith("convnext"):
            norm = model.base_model.layernorm
            spread = (features.mean(1, keepdim=True).var(2, unbiased=False, keepdim=True) + norm.eps).sqrt()
            features = (features - features.mean(2, keepdim=True)) / spread
            weights, rest = weights * norm.weight, rest + weights @ norm.bias
        splits = features @ weights / features.shape[1]  # (B, cells)
        torch.testing.assert_close(splits.sum(1) + rest, log_odds(model, inputs), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(relevance.flatten(1), splits.clamp(min=0), atol=1e-6, rtol=1e-4)
    assert 0 < (splits > 0).float().mean() < 1 or family == "segformer"  # of a single cell


@contextmanager
def norms_of_first_pass(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, layer norms divide by what they divided by in the first forward pass."""
    spreads: dict[torch.nn.Module, torch.Tensor] = {}

    def divide(norm, arguments, output):
        first = getattr(norm, "data_format", "") == "channels_first"
        values = arguments[0].movedim(1, -1) if first else arguments[0]
        spread = spreads.setdefault(norm, (values.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt())
        normed = (values - values.mean(-1, keepdim=True)) / spread * norm.weight + norm.bias
        return normed.movedim(-1, 1) if first else normed

    norms = [one for one in model.modules() if isinstance(one, torch.nn.LayerNorm)]
    hooks = [norm.register_forward_hook(divide) for norm in norms]
    with torch.no_grad():
        yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("family", ["resnet", "convnext", "swin"])
def test_activation_times_gradient_is_what_a_larger_activation_adds(family: str) -> None:
    # activations of one cell times 1 + e: the log odds change by e * (activation . gradient)
    trained = classifier_of(family)
    model = trained.model.double()
    inputs = inputs_of(trained, noise(1)).double()
    relevance = relevance_of(model, inputs)[0]
    assert relevance.shape == (8, 8)  # of 4 and 8, the last of 7 or more
    first = model.base_model.embeddings if family == "swin" else model.base_model.encoder.stages[0]
    factor = torch.ones(8, 8, dtype=torch.float64)

    def scale(module, arguments, output):
        if family == "swin":
            return output[0] * factor.flatten()[:, None], output[1]
        return output * factor

    hook = first.register_forward_hook(scale)
    with norms_of_first_pass(model):
        log_odds(model, inputs)
        for cell in ((0, 0), (2, 3), (3, 1), (7, 7), (5, 2)):
            slope = 0.0
            for sign in (1, -1):
                factor[cell] = 1 + sign * 1e-5
                slope += sign * log_odds(model, inputs).item() / 2e-5
            factor[cell] = 1
            assert relevance[cell].item() == pytest.approx(max(0, slope), abs=1e-8, rel=1e-4)
    hook.remove()
    assert 0 < (relevance > 0).double().mean() < 1


def test_attention_is_rolled_out_as_published(monkeypatch) -> None:
    # Chefer et al. 2021, equations 5 and 6, with whole matrices; gradients by finite differences in every attention
    trained = classifier_of("vit", patch_size=16)
    model = trained.model.double()
    inputs = inputs_of(trained, noise(1)).double()
    relevance = relevance_of(model, inputs)[0]
    factors, kept = torch.ones(2, 2, 5, 5, dtype=torch.float64), []  # layers, heads, tokens

    def attend(module, query, key, value, attention_mask, scaling, **options):
        weights = (query @ key.transpose(2, 3) * scaling).softmax(-1) * factors[len(kept)]
        kept.append(weights)
        return (weights @ value).transpose(1, 2), weights

    monkeypatch.setattr(modeling_vit, "eager_attention_forward", attend)
    model.set_attn_implementation("eager")
    products = torch.zeros_like(factors)
    with norms_of_first_pass(model):
        log_odds(model, inputs)
        for cell in np.ndindex(*factors.shape):  # an attention times 1 + e adds e * (attention * gradient)
            for sign in (1, -1):
                factors[cell] = 1 + sign * 1e-5
                kept.clear()
                products[cell] += sign * log_odds(model, inputs).item() / 2e-5
            factors[cell] = 1
    rolled = torch.eye(5, dtype=torch.float64)
    for layer in products.clamp(min=0).mean(1):
        rolled = rolled + layer @ rolled
    torch.testing.assert_close(relevance, rolled[0, 1:].reshape(2, 2), atol=1e-8, rtol=1e-4)
    assert relevance.max() > 1e-5
    deit = classifier_of("deit", patch_size=16)  # CLS, distillation, 2 x 2 patches
    assert METHODS["deit"](deit.model, inputs.float().requires_grad_()).shape == (1, 2, 2)


@pytest.mark.parametrize(("family", "least"), [("resnet", 0.4), ("vit", 0.7)])
def test_a_model_of_one_square_is_salient_there(family: str, least: float) -> None:
    # the label says whether there is a bright square, in the lower left quarter; the dark one says nothing
    sizes = {"hidden_size": 32, "intermediate_size": 64} if family == "vit" else {}
    trained = classifier_of(family, 48, **sizes)
    model, rng = trained.model.train(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        pixels, labels, _ = squares(16, rng)
        loss = torch.nn.functional.cross_entropy(model(pixel_values=inputs_of(trained, pixels)).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pixels, labels, told = squares(40, rng)
    with torch.no_grad():
        right = (log_odds(model.eval(), inputs_of(trained, pixels)) > 0) == labels
    assert right.float().mean() > 0.9
    maps = saliency_maps(trained, pixels)
    inside = [fraction_in(one, mask) for one, mask, label in zip(maps, told, labels.tolist(), strict=True) if label]
    area = told[labels.numpy() == 1].mean()
    assert area < 0.2 and np.mean(inside) > least


def squares(count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Noise (B, 48, 48), a dark square in it at the upper right, and in half of them a bright one at the lower left;
    (B,) whether that is there; (B, 48, 48) bool where it may show: on the square and half a cell around it."""
    pixels = rng.integers(60, 120, (count, 48, 48))
    labels, told = rng.integers(0, 2, count), np.zeros((count, 48, 48), bool)
    for image, mask, label in zip(pixels, told, labels, strict=True):
        top, left = rng.integers(4, 12, 2)
        image[top : top + 8, 24 + left : 32 + left] = 0
        if label:
            image[24 + top : 32 + top, left : left + 8] = 250
            mask[20 + top : 36 + top, left - 4 : left + 12] = True
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels), told


@pytest.fixture
def mirror(monkeypatch) -> Callable[..., TrainedModel]:
    """What makes a classifier whose saliency is how bright the pixels that it sees are: that of a known place."""
    monkeypatch.setitem(METHODS, "resnet", lambda model, inputs: inputs[:, 0] - inputs[:, 0].amin((1, 2), True))
    return lambda *settings: classifier_of("resnet", *settings)


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize(("height", "width"), [(96, 64), (64, 96), (20, 30), (81, 81)])
def test_map_lies_on_the_pixels_of_the_x_ray(fit: str, height: int, width: int, mirror) -> None:
    values = np.zeros((height, width), np.uint8)
    top, left = height * 5 // 8, width // 4
    values[top : top + height // 8, left : left + width // 8] = 255
    found = saliency(mirror(32, fit), Image.fromarray(values))
    assert found.shape == (height, width) and found.dtype == np.float32
    assert found.min() >= 0 and found.max() == 1
    ys, xs = np.mgrid[:height, :width]
    center = [(found * one).sum() / found.sum() for one in (ys, xs)]
    pixel = max(height, width) / 32  # of the model, on the X-ray
    assert center == pytest.approx([top + height / 16 - 0.5, left + width / 16 - 0.5], abs=pixel / 2)


@pytest.mark.parametrize("fit", ["squash", "pad"])
@pytest.mark.parametrize("size", [(100, 80), (60, 90)])
def test_map_of_a_lung_model_lies_in_the_box_of_the_lungs(fit: str, size: tuple[int, int], mirror) -> None:
    source = Image.effect_noise(size, 60).filter(ImageFilter.GaussianBlur(2))  # which survives a change of size
    mask = np.zeros((source.height, source.width), bool)
    mask[10:40, 12:24] = mask[15:45, 32:50] = True
    trained = mirror(64, fit, "lungs")
    found = saliency(trained, source, mask)
    top, left, bottom, right = lungs_box(mask, MARGIN)
    inside = found[top:bottom, left:right]
    assert found.shape == mask.shape and inside.max() == found.max() == 1
    assert np.count_nonzero(found) == np.count_nonzero(inside)  # nothing outside
    seen = np.asarray(crop_to_lungs(source, mask, MARGIN), float)
    assert np.corrcoef(seen.ravel(), inside.ravel())[0, 1] > 0.95  # the same picture, but for two changes of size
    nothing = saliency(trained, source, np.zeros_like(mask))  # no lungs found: seen whole, as a prediction does
    np.testing.assert_array_equal(nothing, saliency(trained, source, np.ones_like(mask)))
    whole = mirror(64, fit)
    np.testing.assert_array_equal(saliency(whole, source, mask), saliency(whole, source))


def test_where_nothing_speaks_for_tuberculosis_the_map_is_empty(monkeypatch) -> None:
    monkeypatch.setitem(METHODS, "resnet", lambda model, inputs: torch.zeros(len(inputs), 4, 4))
    trained = classifier_of("resnet")
    assert not saliency_maps(trained, noise()).any()
    found = saliency(trained, Image.effect_noise((40, 50), 60))
    assert found.shape == (50, 40) and not found.any()
    assert np.isnan(fraction_in(found, np.ones((50, 40), bool)))


def test_fraction_by_hand() -> None:
    found = np.array([[0.0, 0.5], [1.0, 0.5]], np.float32)
    assert fraction_in(found, np.array([[True, True], [False, False]])) == 0.25
    assert fraction_in(found, np.array([[True, False], [False, False]])) == 0
    assert fraction_in(found, np.ones((2, 2), bool)) == 1
    assert fraction_in(found, np.array([[0.0, 0.0], [0.5, 0.0]])) == 0.25  # half of a pixel
    assert np.isnan(fraction_in(found, None))
    with pytest.raises(ValueError, match=r"saliency \(2, 2\) and mask \(2, 3\) must have one shape"):
        fraction_in(found, np.ones((2, 3), bool))


@pytest.mark.parametrize(("fit", "region"), [("squash", "image"), ("pad", "image"), ("pad", "lungs")])
def test_measured_saliency_is_that_of_a_user(fit: str, region: str) -> None:
    trained = classifier_of("resnet", 32, fit, region)
    rng, rows, pixels = np.random.default_rng(0), [], []
    for height, width in ((200, 160), (160, 240), (180, 180)):
        image = Image.fromarray(rng.integers(0, 256, (height, width), np.uint8))
        found, own = np.zeros((2, height, width), bool)
        found[32:120, 20:60] = found[32:128, 80:132] = own[40:120, 24:64] = own[40:120, 88:120] = True
        masks = [Image.fromarray(np.uint8(mask) * 255) for mask in (found, own)]
        found_or_own = {"mask": masks[0], "reference": masks[1]} if region == "lungs" else {"mask": masks[1]}
        rows.append({"image": image} | found_or_own)
        seen = crop_to_lungs(image, found, MARGIN) if region == "lungs" else image
        pixels.append(torch.from_numpy(resize_gray(seen, 32, fit).copy()))
    measured = measure_saliency(trained, torch.stack(pixels), rows)
    for row, one in zip(rows, measured, strict=True):
        lungs = lungs_of(row)
        shown = np.asarray(row["mask"]) > 127
        top, left, bottom, right = lungs_box(shown, MARGIN) if region == "lungs" else (0, 0, *lungs.shape)
        assert one["lungs_fraction"] == lungs[top:bottom, left:right].mean() > 0.1
        expected = fraction_in(saliency(trained, row["image"], shown), lungs)
        assert one["saliency_in_lungs"] == pytest.approx(expected, abs=0.01)
        assert 0 < one["saliency_in_lungs"] < 1
    assert len({one["saliency_in_lungs"] for one in measured}) == 3


def test_measured_saliency_without_lungs_or_of_an_unknown_family(monkeypatch) -> None:
    trained, lungs = classifier_of("resnet"), Image.new("L", (10, 10), 255)
    rows = [{"mask": None}, {"mask": lungs, "reference": None}]
    for one in measure_saliency(trained, noise(2), rows):
        assert list(one) == ["saliency_in_lungs", "lungs_fraction"] and np.isnan(list(one.values())).all()
    monkeypatch.delitem(METHODS, "resnet")
    assert measure_saliency(trained, noise(2), rows) == [{}, {}]


def test_attention_is_put_back() -> None:
    trained = classifier_of("vit")
    before = saliency_maps(trained, noise(1))
    with ThreadPoolExecutor(4) as pool:  # threads take turns with it
        for found in pool.map(lambda _: saliency_maps(trained, noise(1)), range(24)):
            np.testing.assert_allclose(found, before, atol=1e-5)
    with pytest.raises(ValueError, match="Input image size"):
        saliency_maps(trained, noise(1, 48))
    assert trained.model.config._attn_implementation == "sdpa" and not trained.model.training


def test_errors_name_the_way_out() -> None:
    image, beit = Image.effect_noise((40, 40), 60), SimpleNamespace(config=AutoConfig.for_model("beit"))
    for trained, source, said in (
        (classifier_of("resnet", 32, "squash", "lungs"), image, "pass their mask, from a lung_segmentation model"),
        (
            replace(classifier_of("resnet"), model=beit),
            image,
            "beit classification model: pass a classifier, .* vit, ",
        ),
        (replace(classifier_of("segformer"), task=TASKS["lung_segmentation"]), image, "segformer segmentation model"),
        (classifier_of("resnet"), b"no image", "cannot be decoded"),
    ):
        with pytest.raises(ValueError, match=said):
            saliency(trained, source)
