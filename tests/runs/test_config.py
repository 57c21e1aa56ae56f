import dataclasses
from typing import get_args

import pytest

from hub_models.dataset import splits as protocols
from hub_models.dataset.augmentation import STRENGTHS
from hub_models.dataset.folds import FOLDS
from hub_models.files import write_json
from hub_models.imaging.lung_crop import REGIONS
from hub_models.imaging.resizing import FITS
from hub_models.models.tasks import TASKS
from hub_models.runs.config import TrainConfig

TB = {"task": "tb_classification"}
FROZEN = {"freeze": "encoder", "augment": "none"}


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("image_size", 300, "must be a multiple of 32 or 14, 2048 at most, got 300"),
        ("image_size", 0, "must be a multiple of 32 or 14, 2048 at most, got 0"),
        ("image_size", -32, "must be a multiple of 32 or 14, 2048 at most, got -32"),
        ("fold", 5, "must be 0 to 4, got 5"),
        ("fold", -1, "must be 0 to 4, got -1"),
        ("epochs", 0, "must be at least 1, got 0"),
        ("batch_size", 0, "must be at least 1, got 0"),
        ("accumulation", 0, "must be at least 1, got 0"),
        ("learning_rate", 0.0, "must be above 0, got 0.0"),
        ("learning_rate", float("nan"), "must be above 0, got nan"),
        ("layer_decay", 0.0, r"must be in \(0, 1\], got 0.0"),
        ("layer_decay", 1.1, r"must be in \(0, 1\], got 1.1"),
        ("lora", -1, "must be at least 0, got -1"),
        ("weight_decay", -0.1, "must be at least 0, got -0.1"),
        ("warmup_fraction", 1.0, r"must be in \[0, 1\), got 1.0"),
        ("gradient_norm", 0.0, "must be above 0, got 0.0"),
        ("dropout", 1.0, r"must be in \[0, 1\), got 1.0"),
        ("label_smoothing", -0.1, r"must be in \[0, 1\), got -0.1"),
        ("ema", 1.0, r"must be in \[0, 1\), got 1.0"),
        ("patience", -1, "must be at least 0, got -1"),
        ("checkpoint_steps", -1, "must be at least 0, got -1"),
        ("checkpoints", 0, "must be at least 1, got 0"),
        ("seed", -1, "must be at least 0, got -1"),
    ],
)
def test_each_rule_names_field_value_and_way_out(field: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{field} {rule}"):
        TrainConfig("data", "out", **{field: value})


CHOICES = {field.name: get_args(field.type) for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize(
    "field", ["task", "protocol", "config_name", "fit", "region", "balance", "augment", "keep", "freeze"]
)
def test_unknown_choices_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be one of {', '.join(CHOICES[field])}, got 'other'"):
        TrainConfig("data", "out", **{field: "other"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fold": 1}, "fold needs protocol folds: leave out fold 1"),
        ({"region": "lungs"}, "region needs task tb_classification: leave out region 'lungs'"),
        ({"balance": "weights"}, "balance needs task tb_classification"),
        ({"label_smoothing": 0.1}, "label_smoothing needs task tb_classification"),
        ({"mixup": 0.2}, "mixup needs task tb_classification"),
        ({"mixup": 0.2, **TB, "freeze": "encoder", "augment": "none"}, "mixup needs freeze none"),
        ({"segmenter": "runs/lungs"}, "segmenter needs region lungs"),
        (TB | {"segmenter": "runs/lungs"}, "segmenter needs region lungs"),
        (FROZEN | {"from_scratch": True}, "freeze needs a trained encoder, not from_scratch: leave out freeze 'enc"),
        ({"lora": 4, "from_scratch": True}, "lora needs a trained encoder, not from_scratch: leave out lora 4"),
        (FROZEN | {"lora": 4}, "lora needs freeze none: leave out lora 4"),
        (FROZEN | {"layer_decay": 0.75}, "layer_decay needs freeze none"),
        (FROZEN | TB | {"dropout": 0.1}, "dropout needs freeze none"),
        ({"freeze": "encoder"}, "freeze encoder takes each X-ray as it is: pass augment none, not light"),
    ],
)
def test_options_that_exclude_each_other(given: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainConfig("data", "out", **given)


def test_options_that_go_together() -> None:
    assert TrainConfig("data", "out", protocol="folds").fold is None  # all of them
    assert [TrainConfig("d", "o", protocol="folds", fold=fold).fold for fold in range(FOLDS)] == list(range(5))
    options = {"region": "lungs", "segmenter": "runs/lungs", "balance": "weights", "label_smoothing": 0.1}
    assert TrainConfig("data", "out", **TB, **options).segmenter == "runs/lungs"


def test_choices_are_those_of_other_modules() -> None:
    assert (CHOICES["task"], CHOICES["protocol"]) == (tuple(TASKS), protocols.PROTOCOLS)
    assert (CHOICES["augment"], CHOICES["fit"], CHOICES["region"]) == (tuple(STRENGTHS), FITS, REGIONS)


def test_saved_config_comes_back_equal(tmp_path) -> None:
    config = TrainConfig("data", "out", epochs=3, learning_rate=1e-3, from_scratch=True, protocol="folds", fold=2)
    config.save(tmp_path)
    assert TrainConfig.load(tmp_path) == config
    assert [path.name for path in tmp_path.iterdir()] == ["train_config.json"]


def test_regions_of_version_1_are_renamed_or_refused(tmp_path) -> None:
    values = dataclasses.asdict(TrainConfig("data", "out", **TB, region="lungs", segmenter="runs/lungs"))
    write_json(values | {"region": "found_lungs"}, tmp_path / "train_config.json")
    assert TrainConfig.load(tmp_path).region == "lungs"
    write_json(values | {"region": "lungs"}, tmp_path / "train_config.json")  # the lungs of reference masks
    with pytest.raises(ValueError, match="'lungs' of an earlier version.*: train again"):
        TrainConfig.load(tmp_path)
    write_json(values | {"region": "lungs", "version": 2}, tmp_path / "train_config.json")
    assert TrainConfig.load(tmp_path).region == "lungs"


def test_load_errors(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="pass a folder that cxm train made"):
        TrainConfig.load(tmp_path)
    write_json(dataclasses.asdict(TrainConfig("data", "out")) | {"from_the_future": 1}, tmp_path / "train_config.json")
    with pytest.raises(ValueError, match="fields this version does not know: from_the_future"):
        TrainConfig.load(tmp_path)


def test_differences_name_the_field_and_pass_over_the_folders() -> None:
    one, other = TrainConfig("data", "out", epochs=3), TrainConfig("data", "out", epochs=5)
    assert one.differences(other) == ["epochs: 3, not 5"]
    assert one.differences(one) == []
    assert one.differences(dataclasses.replace(one, data_dir="moved", output_dir="there")) == []
