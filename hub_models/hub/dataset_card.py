"""A set's card, counted from its own Parquet files; the card's text is dataset_card.md."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from datasets import Features
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

import chest_xray_masks as cxm
from hub_models.dataset.audit_report import KINDS, PUBLISHED, Audit
from hub_models.hub.benchmark import EVAL_NAME, eval_yaml
from hub_models.hub.croissant import CROISSANT_NAME, croissant
from hub_models.hub.dataset_pictures import by_site, draw_overview, draw_samples
from hub_models.hub.parquet import Facts, data_files, read_facts
from hub_models.hub.provenance import provenance
from hub_models.hub.templates import CODE_URL, HUB_URL, card_template, markdown_table
from hub_models.runs.notes import CARD_NAME

TERMS_NAME = "LICENSE.md"
DATASET_TEMPLATE, TERMS_TEMPLATE = card_template("dataset_card.md"), card_template("dataset_terms.md")
PROJECT_TAG = "chest-xray-masks"  # by which a repository is known as one of these
SET_PICTURES = ("overview.png", "samples.png")
TITLES = {
    False: "Montgomery County and Shenzhen chest X-rays with lung masks",
    True: "Synthetic chest X-rays with lung masks",
}
OF_COUNTS = ("X-ray missing", "site absent")  # kinds of finding that stand in the table of counts
UNLABELLED = "unlabelled"
NAMED = 5  # ids that stand beside a kind of finding
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
FIELDS = {
    "id": "as in the file name: `MCUCXR` Montgomery, `CHNCXR` Shenzhen, then number and label",
    "patient_id": "what splits are made by",
    "site": "where it was taken",
    "image": "the original bytes",
    "mask": "both lungs, on the image's pixels: 0 and 255, mode `L`",
    "label": "what a radiologist saw",
    "sex": "from the reading",
    "age_years": "from the reading; 64 days are 0.175",
    "findings": "the reading without sex and age, its lines joined by `; `",
    "reading": "the text as it stands",
}
LICENSE_NAMES = {False: "other", True: "apache-2.0"}
PUBLISHED_ON = {False: "2014-12-01", True: "2026-11-29"}  # the X-rays by the NLM; the program that draws
GATE_HEADING = "The owner of this set decides who has its files"
LABEL_NAMES, SEX_NAMES = cxm.FEATURES["label"].names, cxm.FEATURES["sex"].names


def write_card(folder: Path, infos: DatasetInfosDict, found: Audit, name: str, repo_id: str | None) -> str:
    """Write README.md, its pictures, croissant.json, eval.yaml and, for X-rays of patients, LICENSE.md.

    `folder` holds the files of `write_parquet`, whose `infos` are given. The folder `name` is to become the
    repository `repo_id`, where it is to become one. Return the terms.
    """
    facts = read_facts(folder)
    only_synthetic = all(fact.synthetic for fact in facts)
    draw_overview(facts, folder / SET_PICTURES[0])
    if only_synthetic and any(fact.lungs is not None for fact in facts):
        draw_samples(facts, folder, folder / SET_PICTURES[1])
    values = _values(facts, infos, repo_id or name)
    origin = provenance(values)
    terms = TERMS_TEMPLATE.render(values).strip()
    if not only_synthetic:
        (folder / TERMS_NAME).write_text(f"# Terms\n\n{terms}\n")
    if (text := eval_yaml(str(values["title"]), infos, any(fact.lungs is not None for fact in facts))) is not None:
        (folder / EVAL_NAME).write_text(text, encoding="utf-8")
    data = _metadata(facts, infos, terms)
    described = _described(values, repo_id or name, data.to_dict()["tags"])
    text = json.dumps(croissant(infos, repo_id, described, origin), indent=2, ensure_ascii=False)
    (folder / CROISSANT_NAME).write_text(text + "\n", encoding="utf-8")
    values |= {"tables": _tables(facts, found), "terms": terms, "card_data": data.to_yaml(), "origin": origin}
    DatasetCard(re.sub(r"\n{3,}", "\n\n", DATASET_TEMPLATE.render(values))).save(folder / CARD_NAME)
    return terms


def _described(values: dict[str, object], repo_id: str, tags: list[str]) -> dict[str, object]:
    """Return what croissant.json says of the whole set."""
    is_free = bool(values["only_synthetic"])
    terms = f"{HUB_URL}/datasets/{repo_id}/blob/main/{TERMS_NAME}"
    return {
        "name": repo_id.rpartition("/")[2],
        "title": values["title"],
        "description": f"{values['images']} frontal chest X-rays of {values['patients']} patients "
        f"({values['per_site']}), {values['masks']} with a lung mask, each labeled normal or tuberculosis.",
        "license": "https://spdx.org/licenses/Apache-2.0" if is_free else terms,
        "published": PUBLISHED_ON[is_free],
        "keywords": tags,
        "citations": CODE_URL if is_free else "; ".join(cxm.CITATION.splitlines()),
        "creator": "chest-xray-masks" if is_free else "U.S. National Library of Medicine",
        "fields": FIELDS,
    }


def _metadata(facts: list[Facts], infos: DatasetInfosDict, terms: str) -> DatasetCardData:
    synthetic = [fact.synthetic for fact in facts]
    is_free = all(synthetic)
    tags = [PROJECT_TAG, "chest-x-ray", "medical-imaging", "tuberculosis", "lung-segmentation"]
    data = DatasetCardData(
        language="en",
        pretty_name=TITLES[is_free],
        size_categories=[size_of(facts)],
        task_categories=["image-segmentation", "image-classification"],
        tags=tags + ["synthetic"] * any(synthetic),
        license=LICENSE_NAMES[is_free],
        license_name=None if is_free else "nlm-request-and-cc-by-nc-sa-4.0",
        license_link=None if is_free else TERMS_NAME,
    )
    for name, value in () if is_free else _gate(facts, terms).items():
        data[name] = value
    infos.to_dataset_card_data(data)
    data_files(infos).to_dataset_card_data(data)
    return data


def size_of(facts: list[Facts]) -> str:
    """Return the Hub's name for how many rows there are."""
    return next((name for limit, name in SIZES if len(facts) < limit), "1M<n<10M")


def _gate(facts: list[Facts], terms: str) -> dict[str, object]:
    """Return what the Hub shows who wants the files of a gated set, and what it lets them state."""
    stated = ["I cite the papers named in the card"]
    if any(fact.site == cxm.SITES["MC"] for fact in facts):
        stated.append("I do not share the Montgomery set outside my group")
    if _shenzhen_masks(facts):
        stated.append("I use the Shenzhen masks under CC BY-NC-SA 4.0, not for commerce")
    fields = {name: "text" for name in ("Name", "Affiliation", "Purpose")} | {name: "checkbox" for name in stated}
    return {"extra_gated_heading": GATE_HEADING, "extra_gated_prompt": terms, "extra_gated_fields": fields}


def _shenzhen_masks(facts: list[Facts]) -> int:
    """Return the number of masks that are under CC BY-NC-SA 4.0."""
    return sum(fact.site == cxm.SITES["Shenzhen"] and fact.lungs is not None and not fact.synthetic for fact in facts)


def _values(facts: list[Facts], infos: DatasetInfosDict, repo_id: str) -> dict[str, object]:
    """Return what the templates of card and terms say in words."""
    patients, modes = Counter(fact.patient_id for fact in facts), Counter(fact.mode for fact in facts)
    linked = [patient for patient in sorted(patients) if patients[patient] > 1]
    together = [[f"`{fact.id}`" for fact in facts if fact.patient_id == patient] for patient in linked]
    synthetic, config = sum(fact.synthetic for fact in facts), next(iter(infos))
    masks = [fact for fact in facts if fact.lungs is not None]
    shenzhen_masks = _shenzhen_masks(facts)
    return {
        "repo_id": repo_id,
        "code_url": CODE_URL,
        "configs": {name: cxm.SITES[name] for name in infos if name in cxm.SITES},
        "config": config,
        "split": next(iter(infos[config].splits)),
        "title": TITLES[synthetic == len(facts)],
        "images": len(facts),
        "patients": len(patients),
        "per_site": ", ".join(f"{site} {len(rows)}" for site, rows in by_site(facts).items()),
        "masks": len(masks),
        "readings": sum(fact.reading is not None for fact in facts),
        "synthetic": synthetic,
        "only_synthetic": synthetic == len(facts),
        "shenzhen_masks": shenzhen_masks,
        "modes": ", ".join(f"{count} are `{mode}`" for mode, count in sorted(modes.items())),
        "groups": "; ".join(" and ".join(ids) for ids in together),
        "citations": [line for line in cxm.CITATION.splitlines() if shenzhen_masks or "Shenzhen masks" not in line],
        "named": NAMED,
    }


def _tables(facts: list[Facts], found: Audit) -> dict[str, str]:
    """Return every table of a card by name, those without rows empty."""
    return counted(facts, cxm.FEATURES, FIELDS) | {
        "counts": _published(facts, found),
        "findings": _findings(found, list(by_site(facts))),
        "reported": _reported(facts),
    }


def counted(facts: list[Facts], features: Features, described: Mapping[str, str]) -> dict[str, str]:
    """Return the tables of fields, splits, sex, ages and images, of any sites; `described` tells what fields are."""
    groups = [
        (site, label or UNLABELLED, held)
        for site, rows in by_site(facts).items()
        for label in _labels(facts)
        if (held := [fact for fact in rows if fact.label == label])
    ]
    sex = [
        [site, label, *(sum(fact.sex == sex for fact in held) for sex in (*SEX_NAMES, None))]
        for site, label, held in groups
    ]
    ages = [
        [site, label, len(known), *(f"{age:.1f}" for age in np.percentile(known, (0, 25, 50, 75, 100)))]
        for site, label, held in groups
        if (known := [fact.age_years for fact in held if fact.age_years is not None])
    ]
    quarters = ["youngest", "quarter", "median", "three quarters", "oldest"]
    return {
        "fields": _fields(facts, features, described),
        "splits": _splits(facts),
        "sex": markdown_table(["site", "label", *SEX_NAMES, "not said"], sex),
        "ages": markdown_table(["site", "label", "X-rays with an age", *quarters], ages),
        "images": _images(facts),
    }


def _labels(facts: list[Facts]) -> list[str | None]:
    """Return the labels, and None where a row has none."""
    return [*LABEL_NAMES, *([None] if any(fact.label is None for fact in facts) else [])]


def _fields(facts: list[Facts], features: Features, described: Mapping[str, str]) -> str:
    optional = {name: name for name in ("label", "sex", "age_years", "findings", "reading")} | {"mask": "lungs"}
    rows = []
    for name, feature in features.items():
        kind = feature.dtype if type(feature).__name__ == "Value" else type(feature).__name__
        values = f" ({', '.join(feature.names)})" if kind == "ClassLabel" else ""
        missing = sum(getattr(fact, optional[name]) is None for fact in facts) if name in optional else 0
        rows.append([f"`{name}`", f"{kind}{values}", described[name], missing])
    return markdown_table(["field", "type", "what it is", "rows without"], rows)


def _splits(facts: list[Facts]) -> str:
    sites, rows = by_site(facts), []
    for site, members in (sites if len(sites) == 1 else sites | {"all": facts}).items():
        for split in (*cxm.SPLITS, "all"):
            held = [fact for fact in members if split in (fact.split, "all")]
            labels = [sum(fact.label == label for fact in held) for label in _labels(facts)]
            masks = sum(fact.lungs is not None for fact in held)
            rows.append([site, split, len(held), len({fact.patient_id for fact in held}), *labels, masks])
    names = [label or UNLABELLED for label in _labels(facts)]
    return markdown_table(["site", "split", "X-rays", "patients", *names, "with a mask"], rows)


def _images(facts: list[Facts]) -> str:
    rows = []
    for site, held in by_site(facts).items():
        sides = ([fact.width for fact in held], [fact.height for fact in held])
        shown = [" / ".join(f"{value:.0f}" for value in np.percentile(side, (0, 50, 100))) for side in sides]
        modes = sorted(Counter(fact.mode for fact in held).items())
        size = sum(fact.bytes for fact in held) / 1e6
        rows.append([site, *shown, ", ".join(f"`{mode}` {count}" for mode, count in modes), f"{size:.1f}"])
    headings = ["site", "width, pixels: least / median / most", "height", "modes", "MB in all"]
    return markdown_table(headings, rows)


def _reported(facts: list[Facts]) -> str:
    """Return a row for each finding and activity, with the X-rays of each site whose readings say so."""
    sites = {
        site: [cxm.parse_findings(fact.findings) for fact in held if fact.findings is not None]
        for site, held in by_site(facts).items()
    }
    if not any(sites.values()):
        return ""
    rows: list[list[object]] = []
    for name in cxm.FINDING_NAMES:
        states = {site: Counter(getattr(found, name) for found in held) for site, held in sites.items()}
        cells = [f"{states[site]['present']} / {states[site]['uncertain']}" for site in sites]
        rows.append([name.replace("_", " "), cxm.RADLEX[name] or "none", *cells])
    for activity in cxm.ACTIVITIES:
        counts = [sum(found.activity == activity for found in held) for held in sites.values()]
        rows.append([f"activity {activity}", "", *counts])
    return markdown_table(["the reading says", "RadLex", *sites], rows)


def _published(facts: list[Facts], found: Audit) -> str:
    """Return the counts of the sites that have any, beside the published ones; phantoms have none."""
    if any(fact.synthetic for fact in facts):
        return ""
    sites = by_site(facts)
    rows = [
        [site, *(f"{count} of {PUBLISHED[config][what]}" for what, count in found.counts[config].items())]
        for config, site in cxm.SITES.items()
        if site in sites
    ]
    return markdown_table(["site", *next(iter(PUBLISHED.values()))], rows)


def _findings(found: Audit, sites: list[str]) -> str:
    """Return a row for each kind of finding, with the number of X-rays that it names at each site."""
    rows = []
    for kind in KINDS:
        if kind in OF_COUNTS or not (held := found.of_kind(kind)):
            continue
        names = ", ".join(" and ".join(f"`{id}`" for id in one.ids) for one in held[:NAMED])
        more = f", and {len(held) - NAMED} more" if len(held) > NAMED else ""
        state = "to look at" if any(one.is_off for one in held) else "as it is"
        named = {id for one in held for id in one.ids}
        counts = [sum(cxm.SITE_OF_PREFIX.get(id[:6]) == site for id in named) for site in sites]
        rows.append([kind, state, len(held), *counts, names + more])
    return markdown_table(["what", "", "how many", *sites, "which"], rows)
