"""Put the rows of any dataset, of the Hub, of Parquet or of a folder, into the schema of the builder."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets

import chest_xray_masks as cxm
from hub_models.dataset.columns import (
    SPLIT_OF_WORD,
    Labels,
    age_of,
    columns_here,
    described,
    guess_columns,
    labels_of,
    parse_columns,
    parse_positive,
    plain,
    sex_of,
    splits_of,
)
from hub_models.dataset.tables import text_of
from hub_models.imaging.source import check_xray

BYTES = (datasets.Value("binary"), datasets.Value("large_binary"))  # of a column that may hold the files of images


def with_files(rows: datasets.Dataset, columns: Iterable[str] = ("image", "mask")) -> datasets.Dataset:
    """Return rows with the bytes of their images and masks, as the files hold them; none is decoded."""
    for name in columns:
        rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


def features_of(sites: list[str]) -> datasets.Features:
    """Return the builder's schema with other sites."""
    return datasets.Features(cxm.FEATURES | {"site": datasets.ClassLabel(names=sites)})


def of_dataset(
    data: str,
    config_name: str,
    columns: str | None,
    positive: str | None,
    revision: str | None,
    said: list[str],
    is_other: bool = False,
) -> datasets.Dataset:
    """Return all rows of a dataset in the builder's schema, with the column `split`.

    `data` is Parquet, a folder that `datasets` knows or saved, or the id of a dataset; see `sources.DataRequest`.
    `said` gets how its columns were understood. With `is_other`, `columns` were named for another source.

    Raises:
        FileNotFoundError: there is no such dataset.
        ValueError: damaged data, no column of images, or a value that cannot be understood.
    """
    import pyarrow

    path, given, labels = Path(data).expanduser(), parse_columns(columns), parse_positive(positive)
    try:
        if is_saved(path):
            loaded = datasets.load_from_disk(str(path))
        elif path.is_file():
            loaded = datasets.load_dataset("parquet", data_files=str(path))
        else:
            config = None if config_name == "all" else config_name
            loaded = datasets.load_dataset(data, config, revision=revision)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"no dataset {data} ({error}): pass a folder, Parquet or a Hub id") from error
    except (datasets.exceptions.DatasetGenerationError, pyarrow.ArrowException, OSError) as error:
        cause = error.__cause__ or error
        # an OSError of pyarrow, over damage, has no number and no kind; others are of the system or the network
        if isinstance(cause, OSError) and (cause.errno is not None or type(cause) is not OSError):
            raise
        why = " ".join(cxm.reason(cause).split())
        raise ValueError(f"{data} cannot be read as a dataset ({why}): get a sound copy") from error
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    found = []
    for name, rows in splits.items():
        own = SPLIT_OF_WORD.get(plain(name)) if len(splits) > 1 or plain(name) != "train" else None
        # whose paths `datasets` listed itself; what a saved dataset says of its builder is a stranger's word
        listed = not is_saved(path) and rows.builder_name == "imagefolder"
        here = columns_here(given, rows.column_names, data) if is_other else given
        found.append(_in_schema(rows, own, data, here, labels, listed, said))
    sites = sorted({site for rows in found for site in rows.features["site"].names})
    if len({tuple(rows.features["site"].names) for rows in found}) > 1:
        features = datasets.Features(found[0].features | features_of(sites))
        found = [_renumbered(rows, features) for rows in found]
    return datasets.concatenate_datasets(found)


def _is_schema(features: datasets.Features) -> bool:
    """Return whether features are the builder's, of any sites."""
    own = features.get("site")
    return isinstance(own, datasets.ClassLabel) and all(
        features.get(name) == kind for name, kind in features_of(own.names).items()
    )


def _check_bytes(rows: datasets.Dataset, data: str) -> None:
    """Raise ValueError for a row whose image or mask is a path, which may lead anywhere, and not its bytes."""
    import pyarrow.compute

    for name in ("image", "mask"):
        column = rows.data[name]
        is_lost = pyarrow.compute.is_null(pyarrow.compute.struct_field(column, "bytes"))
        if name == "mask":
            is_lost = pyarrow.compute.and_(is_lost, pyarrow.compute.is_valid(column))
        if (first := pyarrow.compute.index(is_lost, True).as_py()) >= 0:
            ways = "pass a table with the bytes of one in each row"
            raise ValueError(f"row {first} of {data} has no bytes of its {name}: {ways}")


def is_saved(folder: Path) -> bool:
    """Return whether `datasets` saved what a folder holds."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def holds_rows(folder: Path) -> bool:
    """Return whether a folder holds rows with images: Parquet, or what `datasets` saved."""
    tables = folder.rglob("*.parquet") if folder.is_dir() else ()
    return is_saved(folder) or any(map(holds_images, map(str, tables)))


def holds_images(path: str) -> bool:
    """Return whether a Parquet file has a column of images, as `datasets` writes them, or of bytes."""
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError):
        return False
    is_of_bytes = (pyarrow.types.is_binary, pyarrow.types.is_large_binary)
    kinds = [one.type for one in schema]
    structs = [kind for kind in kinds if pyarrow.types.is_struct(kind)]
    return any("bytes" in {part.name for part in kind} for kind in structs) or any(
        is_one(kind) for kind in kinds for is_one in is_of_bytes
    )


def _renumbered(rows: datasets.Dataset, features: datasets.Features) -> datasets.Dataset:
    """Return the rows with the classes of `features`."""
    names = rows.features["site"].int2str(list(rows["site"]))
    numbers = [features["site"].str2int(name) for name in names]
    order = rows.column_names
    rows = rows.remove_columns("site").add_column("site", numbers).select_columns(order)
    return rows.cast(features)


def _in_schema(
    rows: datasets.Dataset,
    split: str | None,
    data: str,
    given: Mapping[str, str],
    labels: Labels,
    listed: bool,
    said: list[str],
) -> datasets.Dataset:
    """Return the rows of one split of a dataset in the builder's schema, with the column `split`."""
    if not given and _is_schema(rows.features):
        _check_bytes(rows, data)
        return rows.select_columns(list(cxm.FEATURES)).add_column("split", [split] * len(rows))
    place = f"{data} ({split})" if split else data
    images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    of_bytes = [name for name, kind in rows.features.items() if _is_of_bytes(kind)]
    fields = guess_columns(rows.column_names, given, place)
    if not (likely := images or of_bytes):
        way = "pass data whose cells hold an image each, as the bytes of a file"
        raise ValueError(f"{place} has no column of images: it has {', '.join(rows.column_names)}; {way}")
    if fields.get("image") not in (*images, *of_bytes):
        if len(likely) != 1 or "image" in given:
            raise ValueError(f"{place} has the image columns {', '.join(likely)}: pass --columns image=...")
        fields["image"] = likely[0]
    if fields.get("mask") not in (*images, *of_bytes):
        fields.pop("mask", None)
    said.append(described(place, fields, rows.column_names))
    texts, name = _texts(rows, fields), Path(data).stem if Path(data).exists() else data
    values = _values(texts, labels, place, len(rows), name)
    if "id" not in texts and split:
        values["id"] = [f"{split}-{id}" for id in values["id"]]
    values["split"] = values["split"] if "split" in fields else [split] * len(rows)
    cells = rows.select_columns([fields["image"], *filter(None, [fields.get("mask")])])
    cells = with_files(cells, cells.column_names)
    sites = sorted(set(values["site"]))
    features = datasets.Features(features_of(sites) | {"split": datasets.Value("string")})
    return cells.map(
        _row_of,
        with_indices=True,
        fn_kwargs={
            "image": fields["image"],
            "mask": fields.get("mask"),
            "values": values,
            "name": place,
            "listed": listed,
        },
        remove_columns=cells.column_names,
        features=features,
        desc="Reading X-rays",
    )


def _is_of_bytes(kind: object) -> bool:
    """Return whether a column holds bytes, alone or beside the paths that they came from."""
    if isinstance(kind, dict) and {"bytes"} <= kind.keys() <= {"bytes", "path"}:
        return kind["bytes"] in BYTES
    return kind in BYTES


def _texts(rows: datasets.Dataset, fields: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the columns of fields that are not images, as text; classes by their names."""
    found = {}
    for field, column in fields.items():
        if field in ("image", "mask"):
            continue
        kind, values = rows.features[column], rows.select_columns(column)[:][column]
        names = kind.names if isinstance(kind, datasets.ClassLabel) else None
        found[field] = [text_of(names[value] if names and value is not None else value) for value in values]
    return found


def _values(texts: Mapping[str, list[str]], labels: Labels, place: str, count: int, name: str) -> dict[str, list[Any]]:
    """Return the fields of `count` rows but their images, as columns."""
    blank = [""] * count
    ids = texts.get("id", [])
    return {
        "id": ids if len(set(filter(None, ids))) == count else [f"{name}-{index}" for index in range(count)],
        "patient_id": texts.get("patient_id", blank),
        "site": [site or name for site in texts.get("site", blank)],
        "label": labels_of(texts.get("label", blank), labels, f"the label column of {place}"),
        "sex": list(map(sex_of, texts.get("sex", blank))),
        "age_years": list(map(age_of, texts.get("age", blank))),
        "findings": [text or None for text in texts.get("findings", blank)],
        "split": splits_of(texts.get("split", blank), f"the split column of {place}"),
    }


def _row_of(
    row: dict[str, Any],
    index: int,
    image: str,
    mask: str | None,
    values: dict[str, list[Any]],
    name: str,
    listed: bool,
) -> dict[str, Any]:
    """Return the row of a dataset in the builder's schema."""
    name = f"row {index} of {name}"
    data, drawn = _bytes_of(row[image], name, listed), row[mask] if mask else None
    size, png = check_xray(data, name), None
    if drawn:
        png = cxm.mask_png([(f"the mask of {name}", _bytes_of(drawn, name, listed))], size)
    found = {field: column[index] for field, column in values.items()}
    images = {"image": {"path": None, "bytes": data}, "mask": {"path": None, "bytes": png} if png else None}
    return found | images | {"reading": None}


def _bytes_of(cell: dict[str, Any] | None, name: str, listed: bool) -> bytes:
    """Return the image file of a cell; a path alone, which may lead anywhere, is opened only where it is `listed`."""
    data, path = (cell["bytes"], cell["path"]) if cell else (None, None)
    if not data and path and listed:
        data = cxm.read_file(path)
    if not data:
        raise ValueError(f"{name} holds no image: pass a table with the bytes of one in each row")
    return bytes(data)
