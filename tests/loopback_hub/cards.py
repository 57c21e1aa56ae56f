"""The YAML at the head of a README.md, checked as far as the Hub's own rules are known."""

import re
from typing import Any

import yaml

# Identifiers of the Hub's licence list; anything else needs `license: other` with a license_name
_LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc
    cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc intel-research h-research lppl-1.3c
    ms-pl mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    gemma apple-ascl apple-amlr unknown other
"""
LICENSES = frozenset(_LICENSES.split())
LISTS = ("tags", "datasets", "metrics", "task_categories", "task_ids", "size_categories", "configs", "model-index")


def metadata_of(readme: str) -> dict[str, Any]:
    """The fields of a card's head; {} where it has none."""
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(\r?\n|$)", readme, re.DOTALL)
    if not found:
        return {}
    try:
        fields = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ValueError(f"YAML Metadata Error: {error}") from error
    if fields is not None and not isinstance(fields, dict):
        raise ValueError(f"YAML Metadata Error: the head must be a mapping, got a {type(fields).__name__}")
    return fields or {}


def faults_of(readme: str) -> list[str]:
    """What the Hub would refuse in a card's head, one sentence each; [] if nothing."""
    try:
        fields = metadata_of(readme)
    except ValueError as error:
        return [str(error)]
    found = [f'"{name}" must be an array' for name in LISTS if not isinstance(fields.get(name, []), list)]
    for name in ("tags", "datasets", "metrics", "task_categories"):
        values = fields.get(name) if isinstance(fields.get(name), list) else []
        found += [f'"{name}" must hold strings, got {value!r}' for value in values if not isinstance(value, str)]
    licenses = fields.get("license", [])
    for license in licenses if isinstance(licenses, list) else [licenses]:
        if license not in LICENSES:
            found.append(f'"license" must be one of the known identifiers, got {license!r}')
    if licenses == "other" and not isinstance(fields.get("license_name", ""), str):
        found.append('"license_name" must be a string')
    if isinstance(fields.get("model-index"), list):
        found += [fault for entry in fields["model-index"] for fault in _faults_of_results(entry)]
    return found


def _faults_of_results(entry: Any) -> list[str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return ['"model-index[].name" is required']
    if not isinstance(entry.get("results"), list):
        return ['"model-index[].results" must be an array']
    found = []
    for result in entry["results"]:
        result = result if isinstance(result, dict) else {}
        for part, keys in {"task": ("type",), "dataset": ("type", "name")}.items():
            given = result.get(part) if isinstance(result.get(part), dict) else {}
            found += [f'"model-index[].results[].{part}.{key}" is required' for key in keys if not given.get(key)]
        metrics = result.get("metrics") if isinstance(result.get("metrics"), list) else []
        whole = [isinstance(metric, dict) and "type" in metric and "value" in metric for metric in metrics]
        if not whole or not all(whole):
            found.append('"model-index[].results[].metrics" needs a type and a value each')
    return found
