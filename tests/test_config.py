import dataclasses
import json

import pytest
from transformers import HfArgumentParser

from hub_models.config import TrainConfig
from hub_models.files import write_json


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("image_size", 300, "must be a multiple of 32, got 300"),
        ("image_size", 0, "must be a multiple of 32, got 0"),
        ("epochs", 0, "must be at least 1, got 0"),
        ("batch_size", 0, "must be at least 1, got 0"),
        ("learning_rate", 0.0, "must be above 0, got 0.0"),
        ("weight_decay", -0.1, "must not be negative, got -0.1"),
        ("warmup_share", 1.0, r"must be in \[0, 1\), got 1.0"),
        ("gradient_norm", 0.0, "must be above 0, got 0.0"),
        ("seed", -1, "must not be negative, got -1"),
    ],
)
def test_each_rule_names_field_value_and_way_out(field: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{field} {rule}"):
        TrainConfig("data", "out", **{field: value})


def test_unknown_task_and_site_are_refused() -> None:
    for field, known in (("task", "lung_segmentation"), ("config_name", "Shenzhen")):
        with pytest.raises(ValueError, match=f"{field} must be one of .*{known}.*, got 'other'"):
            TrainConfig("data", "out", **{field: "other"})


def test_saved_config_comes_back_equal(tmp_path) -> None:
    config = TrainConfig("data", "out", epochs=3, learning_rate=1e-3, from_scratch=True)
    config.save(tmp_path)
    assert TrainConfig.load(tmp_path) == config
    assert [path.name for path in tmp_path.iterdir()] == ["train_config.json"]


def test_load_errors(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="pass a folder that scripts/train.py made"):
        TrainConfig.load(tmp_path)
    write_json(dataclasses.asdict(TrainConfig("data", "out")) | {"from_the_future": 1}, tmp_path / "train_config.json")
    with pytest.raises(ValueError, match="fields this version does not know: from_the_future"):
        TrainConfig.load(tmp_path)


def test_differences_name_the_field() -> None:
    one, other = TrainConfig("data", "out", epochs=3), TrainConfig("data", "out", epochs=5)
    assert one.differences(other) == ["epochs: 3, not 5"]
    assert one.differences(one) == []


def test_command_line_reads_every_kind_of_field() -> None:
    line = (
        "--data_dir d --output_dir o --from_scratch --augment False --learning_rate 0.001 --model m --config_name MC"
    )
    (config,) = HfArgumentParser(TrainConfig).parse_args_into_dataclasses(line.split())
    wanted = {"from_scratch": True, "augment": False, "learning_rate": 1e-3, "model": "m", "config_name": "MC"}
    assert config == TrainConfig("d", "o", **wanted)
    helps = [field.metadata.get("help") for field in dataclasses.fields(TrainConfig)]
    assert all(helps)


def test_json_is_whole_or_absent(tmp_path) -> None:
    write_json({"a": 1}, tmp_path / "x.json")
    with pytest.raises(TypeError):
        write_json({"a": object()}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}  # the old one stays
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
