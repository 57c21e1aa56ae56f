"""Files of a model or a run: JSON that is whole and of its types, and none that would have code or packages loaded."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

SOUND = "pass a sound copy of the model"
LARGEST_JSON = 1 << 26  # bytes; the ids of a million X-rays take fewer
LARGEST_WHOLE = 1 << 53  # up to which a float holds every whole number
LARGEST_SIDE = 2048  # pixels of a model's input; at twice as many the maps of a SegFormer take 40 GB
TaskName = Literal["lung_segmentation", "tb_classification"]  # keys of TASKS
DEEPEST = 32  # levels of lists and objects; a config of transformers has 4
ENCODER_CONFIG_NAME = "pretrain_config.json"  # of a folder that holds a pre-trained encoder alone
NESTED = "processor_config.json"  # from which transformers takes an image processor, where it is there
# Keys of a config by which transformers 5 loads modules of a repository, kernels, other packages or other files.
# Source: configuration_utils.py, modeling_utils.py, quantizers/auto.py, integrations/hub_kernels.py, backbone_utils.py
CODE_FIELDS = frozenset(
    ("auto_map", "custom_pipelines", "custom_generate", "quantization_config", "compression_config", "fusion_config")
    + ("transformers_weights", "configuration_files", "distributed_config", "use_kernels", "kernel_config")
    + ("backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone")
    + ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
    + ("_experts_implementation", "_experts_implementation_internal")
)
CODE_FILES = ("*.py", "adapter_config.json")  # modules; low-rank updates of another model, which the file names
FOREIGN_FILES = (*CODE_FILES, NESTED, "pytorch_model*")  # the last are pickles


def damaged(name: str | Path, why: object, way: str = SOUND) -> ValueError:
    """Return the error of a file that is not as this project or transformers writes it, with the way out."""
    return ValueError(f"{name} is damaged ({first_line(why)}): {way}")


def first_line(error: object) -> str:
    """Return the first line of what an error of a library says, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_text(path: Path) -> str:
    """Return the text of a file; raise ValueError where it is not UTF-8."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise damaged(path, error) from error


def read_json(path: Path, name: str | None = None, way: str = SOUND) -> dict[str, Any]:
    """Return the object in a JSON file that this project or transformers wrote.

    An error calls it `name` (default: its path), and says the `way` out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is cut, too large or too deep, no UTF-8, no object, holds NaN, or names code to be loaded.
    """
    name = name or str(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: pass the folder of a finished run")
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise damaged(name, f"{size} bytes", way)
    try:
        values = json.loads(path.read_bytes().decode())
        json.dumps(values, allow_nan=False, ensure_ascii=False).encode()  # not of NaN, 1e999 and half a character
    except RecursionError:
        raise damaged(name, "nested too deep", way) from None
    except ValueError as error:
        raise damaged(name, error, way) from error
    if not isinstance(values, dict):
        raise damaged(name, "it holds no object", way)
    for depth, level in enumerate(levels(values)):
        if depth == DEEPEST:
            raise damaged(name, "nested too deep", way)
        _check_level(level, name, way)
    return values


def _check_level(level: list[Any], name: str, way: str) -> None:
    for one in level:
        if isinstance(one, int) and abs(one) > LARGEST_WHOLE:
            raise damaged(name, "it holds a number that is too large", way)
        keys = one.keys() & CODE_FIELDS if isinstance(one, dict) else ()
        if named := sorted(key for key in keys if one[key] not in (None, False)):
            raise ValueError(f"{name} asks to load code or packages of its own ({named[0]}): it is not used")


def levels(values: Any) -> Iterator[list[Any]]:
    """Yield a JSON value, then what its lists and objects hold, then what those hold, and so on."""
    level = [values]
    while level:
        yield level
        level = [inner for one in level for inner in _inside(one)]


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def check_types(values: Mapping[str, Any], kind: type, name: str | Path) -> None:
    """Raise ValueError where values lack what a dataclass or TypedDict needs, or hold it in another type."""
    hints = get_type_hints(kind)
    for key in _needed(kind):
        if key not in values:
            raise damaged(name, f"it lacks {key}")
    for key, value in values.items():
        if key in hints and not _is_of(value, hints[key]):
            raise damaged(name, f"{key} is {str(value)[:40]!r}")


def _needed(kind: Any) -> list[str]:
    """Return the names of the fields that a dataclass or TypedDict has no default for."""
    if is_typeddict(kind):
        return sorted(kind.__required_keys__)
    return [one.name for one in fields(kind) if one.default is MISSING]


def _is_of(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is of an annotated type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_of(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(_is_of(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is_of(one, inner[1]) for one in value.values())
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        known = isinstance(value, dict) and all(key in value for key in _needed(kind))
        return known and all(_is_of(value[key], hints[key]) for key in value.keys() & hints.keys())
    if kind in (int, float):
        return isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def refuse_foreign(folder: Path, patterns: Iterable[str] = FOREIGN_FILES) -> None:
    """Raise ValueError where a folder holds a file by which transformers loads code, or a model unchecked."""
    if found := sorted(path for one in patterns for path in folder.glob(one)):
        raise ValueError(f"{found[0]} holds code, or another model than {folder} is checked for: delete it")


def refuse_encoder(folder: Path) -> None:
    """Raise ValueError where a folder holds an encoder that `cxm pretrain` made, in place of a trained model."""
    if (folder / ENCODER_CONFIG_NAME).is_file():
        way = f"fine-tune it with cxm train --task tb_classification --model {folder}, and pass that run"
        raise ValueError(f"{folder} holds a pre-trained encoder, which reads no X-ray and is not pushed: {way}")
