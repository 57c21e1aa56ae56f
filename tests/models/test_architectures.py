import json
from pathlib import Path

import pytest
import torch
from checkpoints import CHECKPOINTS, write_checkpoint
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    DeiTConfig,
    ResNetConfig,
    SegformerConfig,
    SwinConfig,
    ViTConfig,
    ViTImageProcessorPil,
)

from hub_models.imaging.resizing import resize_gray
from hub_models.models.architectures import ARCHITECTURES, build, load, outline_at
from hub_models.models.image_processors import image_processor_for, normalize
from hub_models.models.tasks import TASKS
from hub_models.training.optimization import layer_depths

LUNGS, TB = (TASKS[name].labels for name in ("lung_segmentation", "tb_classification"))
HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.4]}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def millions(model: torch.nn.Module) -> float:
    return sum(weight.numel() for weight in model.parameters()) / 1e6


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        # Xie et al. 2021, table 1: SegFormer-B0 has 3.8 million parameters and B1 13.7, with 150 classes
        ("segmentation", "nvidia/mit-b0", 3.7),
        ("segmentation", "nvidia/mit-b1", 13.7),
        ("classification", "nvidia/mit-b0", 3.3),
        # half the widths of B0: a quarter of its encoder; a decoder of 64: (16+32+80+128)*64 + 4*64*64 weights
        ("segmentation", "segformer-light", 3.3 / 4 + 0.03),
        # a quarter of ResNet-18's widths and one layer of two in each stage
        ("classification", "resnet-light", 11.2 / 16 / 2),
        # 12 * 192 * 192 in each of 8 layers, and 192 for each of 785 positions and 3 * 8 * 8 pixels
        ("classification", "vit-light", 3.54 + 0.19),
        # Touvron et al. 2021, table 1, 5.7 and 22.1 with 1000 classes, of 192 and 384 features
        ("classification", "facebook/deit-tiny-patch16-224", 5.7 - 0.2),
        ("classification", "facebook/deit-small-patch16-224", 22.1 - 0.4),
        ("classification", "google/vit-base-patch16-224", 86.6 - 0.8),
        # Liu et al. 2021, table 1: Swin-T 28.3, less 768 * 1000; He et al. 2015: ResNet-18 11.7, less 512 * 1000
        ("classification", "microsoft/swin-tiny-patch4-window7-224", 28.3 - 0.8),
        ("classification", "microsoft/resnet-18", 11.7 - 0.5),
    ],
)
def test_from_scratch_has_the_published_size(kind: str, name: str, expected: float) -> None:
    with torch.device("meta"):  # sizes without numbers
        model = build(kind, name, True, LUNGS if kind == "segmentation" else TB, 224)
    assert millions(model) == pytest.approx(expected, abs=0.11)
    assert model.config.id2label == dict(enumerate(LUNGS if kind == "segmentation" else TB))


def test_known_architectures() -> None:
    assert {task.model for task in TASKS.values()} <= set(ARCHITECTURES)
    default = SegformerConfig()  # B0 of the paper
    sizes = {"hidden_sizes": list(default.hidden_sizes), "depths": list(default.depths)}
    sizes["decoder_hidden_size"] = default.decoder_hidden_size
    assert ARCHITECTURES["nvidia/mit-b0"] == (SegformerConfig.model_type, sizes)


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_from_scratch_takes_the_architecture_of_a_folder(kind: str, tiny_segformer) -> None:
    model = build(kind, str(tiny_segformer), True, ("a", "b", "c"), 32)
    assert list(model.config.hidden_sizes) == [8, 16, 24, 32]
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape[1] == 3


def test_classifiers_of_every_family_run(tiny_vit, tiny_resnet, tmp_path) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    DeiTConfig(**small, patch_size=16).save_pretrained(tmp_path / "deit")
    SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4).save_pretrained(tmp_path / "swin")
    for folder in (tiny_vit, tiny_resnet, tmp_path / "deit", tmp_path / "swin"):
        model = build("classification", str(folder), True, TB, 64).eval()
        assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 2)
        model.save_pretrained(tmp_path / "trained")
        again = build("classification", str(tmp_path / "trained"), False, TB, 64)
        assert all(torch.equal(one, again.state_dict()[name]) for name, one in model.state_dict().items())


def test_from_scratch_sets_the_image_size(tiny_vit, tmp_path) -> None:
    model = build("classification", str(tiny_vit), True, TB, 96)
    assert model.config.image_size == 96
    assert model.vit.embeddings.position_embeddings.shape[1] == 1 + 6 * 6  # patches of 16
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="96 pixels, got image_size 128: pass --image_size 96"):
        build("classification", str(tmp_path), False, TB, 128)
    assert build("classification", str(tmp_path), False, TB, 96).config.image_size == 96


def test_models_without_positions_take_any_size(tiny_resnet, tiny_segformer, tmp_path) -> None:
    for kind, folder in (("classification", tiny_resnet), ("segmentation", tiny_segformer)):
        build(kind, str(folder), True, TB, 32).save_pretrained(tmp_path / kind)
        assert build(kind, str(tmp_path / kind), False, TB, 224).config.num_labels == 2


@pytest.mark.parametrize(
    ("family", "size", "said"),
    [
        ("dinov2", 64, "a multiple of 14 pixels, got image_size 64: pass --image_size 70"),
        ("vit", 56, "a multiple of 16 pixels, got image_size 56: pass --image_size 64"),
        ("resnet", 56, "a multiple of 32 pixels, got image_size 56: pass --image_size 64"),
        ("clip", 96, "images of 64 pixels, got image_size 96: pass --image_size 64"),
        ("siglip", 32, "images of 64 pixels, got image_size 32: pass --image_size 64"),
    ],
)
def test_image_size_that_a_model_does_not_take_is_refused_before_its_weights_are_read(family, size, said, tmp_path):
    write_checkpoint(family, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=said):
        outline_at("classification", str(tmp_path), False, size)


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_encoder_of_each_family_gets_a_head_and_comes_back(family: str, tmp_path) -> None:
    """As the plain class of transformers reads it, too."""
    write_checkpoint(family, tmp_path / "start")
    size = CHECKPOINTS[family].image_size
    model = build("classification", str(tmp_path / "start"), False, TB, size).eval()
    model.save_pretrained(tmp_path / "trained")
    inputs = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = model(inputs).logits
    assert expected.shape == (2, 2)
    ours = load("classification", tmp_path / "trained", TB, size).eval()
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "trained").eval()
    assert torch.equal(ours(inputs).logits, expected) and torch.equal(plain(inputs).logits, expected)
    assert len(set(layer_depths(model).values())) > 3  # of embeddings, two layers or more, and the head
    model(inputs).logits.sum().backward()
    assert not [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]


def test_dinov2_fits_its_positions_to_the_image(tmp_path) -> None:
    write_checkpoint("dinov2", tmp_path)
    for size in (70, 84, 112):
        model = build("classification", str(tmp_path), False, TB, size)
        assert model(torch.zeros(1, 3, size, size)).logits.shape == (1, 2)
        assert model.dinov2.embeddings.position_embeddings.shape[1] == 1 + 5 * 5  # as in the checkpoint


def test_model_of_another_family_is_refused(tiny_vit, tmp_path) -> None:
    BertConfig().save_pretrained(tmp_path)
    for kind, folder, family in (("segmentation", tiny_vit, "vit"), ("classification", tmp_path, "bert")):
        with pytest.raises(ValueError, match=f"is a {family} model, .*: pass another --model"):
            build(kind, str(folder), True, LUNGS, 32)


@pytest.mark.parametrize(
    ("source", "from_scratch", "error", "said"),
    [
        ("nvidia/mit-b9", True, ValueError, "no architecture nvidia/mit-b9: .*segformer-light, or a folder"),
        ("empty", False, OSError, "no model at 'empty': no config.json in it; .* --model, or --from_scratch"),
        ("runs/typo", False, OSError, "no model at 'runs/typo': no such folder"),
    ],
)
def test_unknown_sources(source: str, from_scratch: bool, error: type, said: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=said):
        build("segmentation", source, from_scratch, LUNGS, 32)


def test_checkpoint_weights_are_kept_but_not_the_head_of_other_classes(tiny_segformer, tmp_path) -> None:
    other = build("segmentation", str(tiny_segformer), True, ("a", "b", "c"), 32)
    other.save_pretrained(tmp_path)
    model = build("segmentation", str(tmp_path), False, LUNGS, 32)
    kept, lost = "decode_head.linear_fuse.weight", "decode_head.classifier.weight"
    assert torch.equal(model.state_dict()[kept], other.state_dict()[kept])
    assert model.state_dict()[lost].shape[0] == 2
    classifier = build("classification", str(tmp_path), False, TB, 32)  # takes the encoder over
    assert type(classifier).__name__ == "SegformerForImageClassification"
    encoder = {name: one for name, one in other.state_dict().items() if name.startswith("segformer.")}
    assert {name for name in classifier.state_dict() if name.startswith("segformer.")} == set(encoder)
    assert all(torch.equal(classifier.state_dict()[name], one) for name, one in encoder.items())
    assert classifier.config.id2label == {0: "normal", 1: "tuberculosis"}


def test_dropout_is_of_whole_layers_and_the_classifier(tiny_segformer, tiny_vit, tmp_path) -> None:
    segformer = build("segmentation", str(tiny_segformer), True, LUNGS, 32, 0.2).config
    assert (segformer.classifier_dropout_prob, segformer.drop_path_rate) == (0.2, 0.2)
    assert (segformer.hidden_dropout_prob, segformer.attention_probs_dropout_prob) == (0.0, 0.0)
    vit = build("classification", str(tiny_vit), True, TB, 32, 0.2).config  # without whole layers to drop
    assert (vit.hidden_dropout_prob, vit.attention_probs_dropout_prob) == (0.2, 0.0)
    SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4).save_pretrained(tmp_path / "swin")
    swin = build("classification", str(tmp_path / "swin"), True, TB, 32, 0.2).config
    assert (swin.drop_path_rate, swin.hidden_dropout_prob) == (0.2, 0.0)
    own = ViTConfig.from_pretrained(tiny_vit, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    own.save_pretrained(tmp_path)
    config = build("classification", str(tmp_path), True, TB, 32).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["tiny_segformer", "tiny_vit"])
def test_dropout_acts_in_training(name: str, request: pytest.FixtureRequest) -> None:
    folder, inputs = str(request.getfixturevalue(name)), torch.randn(2, 3, 32, 32)
    for dropout in (0.0, 0.5):
        model = build("classification", folder, True, TB, 32, dropout).train()
        same = torch.equal(model(inputs).logits, model(inputs).logits)
        assert same == (dropout == 0)


@pytest.mark.parametrize(
    "named",
    [
        {"image_processor_type": "ViTFeatureExtractor"},
        {"image_processor_type": "SegformerFeatureExtractor"},
        {"feature_extractor_type": "ViTFeatureExtractor"},
        {},
    ],
)
def test_mean_of_a_checkpoint_whatever_its_image_processor_is_called(named: dict[str, str], tmp_path) -> None:
    """The types of 2022 and 2023 are unknown to transformers 5."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HALF | named))
    found = image_processor_for("classification", str(tmp_path), False, 64)
    assert {"image_mean": list(found.image_mean), "image_std": list(found.image_std)} == HALF
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(named | {"image_mean": None}))
    found = image_processor_for("classification", str(tmp_path), False, 64)
    assert (list(found.image_mean), list(found.image_std)) == IMAGENET
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(named | {"image_mean": [0.5]}))
    with pytest.raises(ValueError, match=r"image_mean \[0.5\], .* not three numbers"):
        image_processor_for("classification", str(tmp_path), False, 64)


def test_image_processor_has_the_mean_of_the_checkpoint_or_imagenets(tiny_vit, tmp_path) -> None:
    ViTImageProcessorPil(**HALF).save_pretrained(tmp_path)
    ViTConfig.from_pretrained(tiny_vit).save_pretrained(tmp_path)
    theirs = image_processor_for("classification", str(tmp_path), False, 64)
    assert {"image_mean": list(theirs.image_mean), "image_std": list(theirs.image_std)} == HALF
    for source, from_scratch in ((tmp_path, True), (tiny_vit, False), (Path("nvidia/mit-b0"), True)):
        ours = image_processor_for("classification", str(source), from_scratch, 64)
        assert (list(ours.image_mean), list(ours.image_std)) == IMAGENET


@pytest.mark.parametrize(
    ("kind", "name"), [("segmentation", "SegformerImageProcessor"), ("classification", "ViTImageProcessor")]
)
def test_normalize_is_what_the_saved_image_processor_does(kind: str, name: str, tmp_path) -> None:
    ViTImageProcessorPil(**HALF).save_pretrained(tmp_path)
    ResNetConfig().save_pretrained(tmp_path)
    image_processor = image_processor_for(kind, str(tmp_path), False, 64)
    assert type(image_processor).__name__.startswith(name)
    assert dict(image_processor.size) == {"height": 64, "width": 64}
    gray = Image.effect_noise((200, 150), 60)
    theirs = image_processor(gray.convert("RGB"), return_tensors="pt")["pixel_values"]
    ours = normalize(torch.from_numpy(resize_gray(gray, 64).copy())[None].float() / 255, image_processor)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
