"""The exported set in Croissant, the format of MLCommons: its files, fields, terms and responsible-AI fields."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets.info import DatasetInfosDict

import chest_xray_masks as cxm
from hub_models.hub.parquet import data_files
from hub_models.hub.templates import HUB_URL

CROISSANT_NAME = "croissant.json"
CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
ALIASES = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty"),
    *("fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
    *("separator", "source", "subField", "transform"),
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{name: f"cr:{name}" for name in ALIASES},
}
TYPES = {"string": "sc:Text", "float32": "sc:Float", "ClassLabel": "sc:Integer", "Image": "sc:ImageObject"}
REPOSITORY = "repo"  # id of the FileObject that holds all others; a folder on disk can stand for it
SPLIT_OF_PATH = rf"(?:{'|'.join(cxm.SITES)})/({'|'.join(cxm.SPLITS)})-.+parquet$"  # simple enough to filter by


def croissant(
    infos: DatasetInfosDict, repo_id: str | None, facts: Mapping[str, Any], origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of croissant.json for the Parquet files of `infos`.

    `repo_id` is where they are on the Hub; None lets the file name those beside it. `facts` holds `name`, `title`,
    `description`, `license`, `published`, `keywords`, `citations` and, by field, what `fields` are; `origin` is
    `provenance.provenance`.
    """
    page = f"{HUB_URL}/datasets/{repo_id}" if repo_id else None
    files = [_file_set(config, entry["data_files"], page) for config, entry in data_files(infos).items()]
    values: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": facts["name"],
        "alternateName": facts["title"],
        "description": facts["description"],
        "conformsTo": CONFORMS_TO,
        "license": facts["license"],
        "url": page or cxm.HOMEPAGE,
        "version": str(cxm.ChestXrayMasksConfig.version),
        "datePublished": facts["published"],
        "keywords": facts["keywords"],
        "citeAs": facts["citations"],
        "creator": {"@type": "Organization", "name": facts["creator"]},
        "distribution": ([_repository(page)] if page else []) + files,
        "recordSet": [_record_set(config, facts["fields"]) for config in infos],
    }
    return values | {f"rai:{name}": value for name, value in origin.items() if value}


def _repository(page: str) -> dict[str, str]:
    return {
        "@type": "cr:FileObject",
        "@id": REPOSITORY,
        "name": REPOSITORY,
        "description": "The repository on the Hub.",
        "contentUrl": page,
        "encodingFormat": "git+https",
        # a repository has no digest; the format wants one: https://github.com/mlcommons/croissant/issues/80
        "sha256": "https://github.com/mlcommons/croissant/issues/80",
    }


def _file_set(config: str, splits: Sequence[Mapping[str, Any]], page: str | None) -> dict[str, Any]:
    values = {
        "@type": "cr:FileSet",
        "@id": f"files-of-{config}",
        "encodingFormat": "application/x-parquet",
        "includes": [f"{pattern}.parquet" for split in splits for pattern in split["path"]],
    }
    return values | ({"containedIn": {"@id": REPOSITORY}} if page else {})


def _record_set(config: str, described: Mapping[str, str]) -> dict[str, Any]:
    files = {"fileSet": {"@id": f"files-of-{config}"}}
    split = files | {"extract": {"fileProperty": "fullpath"}, "transform": {"regex": SPLIT_OF_PATH}}
    fields = [_field(config, "split", "sc:Text", "train, validation or test, by patient", split)]
    for name, feature in cxm.FEATURES.items():
        kind = type(feature).__name__
        source: dict[str, Any] = files | {"extract": {"column": name}}
        if kind == "Image":
            source |= {"transform": {"jsonPath": "bytes"}}
        names = "" if kind != "ClassLabel" else "; " + ", ".join(f"{i} {one}" for i, one in enumerate(feature.names))
        data_type = TYPES[feature.dtype if kind == "Value" else kind]
        fields.append(_field(config, name, data_type, described[name] + names, source))
    return {"@type": "cr:RecordSet", "@id": config, "key": {"@id": f"{config}/id"}, "field": fields}


def _field(config: str, name: str, data_type: str, description: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{config}/{name}",
        "dataType": data_type,
        "description": description,
        "source": source,
    }
