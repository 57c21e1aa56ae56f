"""A set's card: what its rows hold, counted from its own Parquet files; the card's text is dataset_card.md."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

import chest_xray_masks as cxm
from hub_models.dataset.audit_report import KINDS, PUBLISHED, Audit
from hub_models.hub.dataset_pictures import by_site, draw_overview, draw_samples
from hub_models.hub.parquet import Facts, data_files, read_facts
from hub_models.runs.notes import CARD_NAME

TERMS_NAME = "LICENSE.md"
TEMPLATE, TERMS_TEMPLATE = (Path(__file__).with_name(name) for name in ("dataset_card.md", "dataset_terms.md"))
TAG = "chest-xray-masks"  # by which a repository is known as one of these
PICTURES = ("overview.png", "samples.png")
TITLES = {
    False: "Montgomery County and Shenzhen chest X-rays with lung masks",
    True: "Synthetic chest X-rays with lung masks",
}
OF_COUNTS = ("X-ray missing", "site absent")  # kinds of finding that the table of counts tells
NAMED = 5  # ids that stand beside a kind of finding
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
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


def write_card(folder: Path, infos: DatasetInfosDict, found: Audit, repo_id: str) -> str:
    """Put README.md, its pictures and, for X-rays of patients, LICENSE.md beside the files of `write_parquet`.

    Return the terms. `infos` are what that gave, `found` is the audit of the X-rays, and `repo_id` where the folder is
    to stand.
    """
    facts = read_facts(folder)
    draw_overview(facts, folder / PICTURES[0])
    if _synthetic(facts) == len(facts) and any(fact.lungs is not None for fact in facts):
        draw_samples(facts, folder, folder / PICTURES[1])
    terms = terms_of(facts, infos)
    if _synthetic(facts) < len(facts):
        (folder / TERMS_NAME).write_text(f"# Terms\n\n{terms}\n")
    dataset_card(facts, infos, found, repo_id, terms).save(folder / CARD_NAME)
    return terms


def dataset_card(facts: list[Facts], infos: DatasetInfosDict, found: Audit, repo_id: str, terms: str) -> DatasetCard:
    """Return the card of the rows that `facts` are of."""
    names = _counts(facts) | _use(infos, repo_id) | {"tables": tables(facts, found), "named": NAMED, "terms": terms}
    card = DatasetCard.from_template(_metadata(facts, infos), template_str=_template(TEMPLATE), **names)
    card.text = re.sub(r"\n{3,}", "\n\n", card.text)
    return card


def terms_of(facts: list[Facts], infos: DatasetInfosDict) -> str:
    """Return the terms of the X-rays and masks, in Markdown."""
    return jinja2.Template(_template(TERMS_TEMPLATE)).render(_counts(facts) | _configs(infos)).strip()


def _template(path: Path) -> str:
    """Return the text of a template, of which a line that holds a tag only leaves no line behind."""
    return re.sub(r"^({%.*%})\n", r"\1", path.read_text(), flags=re.M)


def _synthetic(facts: list[Facts]) -> int:
    return sum(fact.synthetic for fact in facts)


def _metadata(facts: list[Facts], infos: DatasetInfosDict) -> DatasetCardData:
    synthetic = _synthetic(facts)
    other = {"license": "other", "license_name": "nlm-request-and-cc-by-nc-sa-4.0", "license_link": TERMS_NAME}
    data = DatasetCardData(
        language="en",
        pretty_name=TITLES[synthetic == len(facts)],
        size_categories=[next(name for limit, name in SIZES if len(facts) < limit)],
        task_categories=["image-segmentation", "image-classification"],
        tags=[TAG, "chest-x-ray", "medical-imaging", "tuberculosis", "lung-segmentation"]
        + ["synthetic"] * (synthetic > 0),
        **({"license": "apache-2.0"} if synthetic == len(facts) else other),
    )
    infos.to_dataset_card_data(data)
    data_files(infos).to_dataset_card_data(data)
    return data


def _configs(infos: DatasetInfosDict) -> dict[str, dict[str, str]]:
    return {"configs": {name: cxm.SITES[name] for name in infos if name in cxm.SITES}}


def _use(infos: DatasetInfosDict, repo_id: str) -> dict[str, Any]:
    """What the template says of loading."""
    config = next(iter(infos))
    return _configs(infos) | {
        "repo_id": repo_id,
        "config": config,
        "split": next(iter(infos[config].splits)),
    }


def _counts(facts: list[Facts]) -> dict[str, Any]:
    """What the template says in words."""
    patients = Counter(fact.patient_id for fact in facts)
    together = [
        [fact.id for fact in facts if fact.patient_id == patient]
        for patient in sorted(patients)
        if patients[patient] > 1
    ]
    synthetic, modes = _synthetic(facts), Counter(fact.mode for fact in facts)
    masks = [fact for fact in facts if fact.lungs is not None]
    shenzhen_masks = sum(fact.site == cxm.SITES["Shenzhen"] and not fact.synthetic for fact in masks)
    return {
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
        "shares": "about 70 % of all patients are in train, 10 % in validation, 20 % in test",
        "groups": "; ".join(" and ".join(f"`{id}`" for id in ids) for ids in together),
        "citations": [line for line in cxm.CITATION.splitlines() if shenzhen_masks or "Shenzhen masks" not in line],
    }


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown table; empty without rows."""
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings), *lines]) if lines else ""


def tables(facts: list[Facts], found: Audit) -> dict[str, str]:
    """Every table of a card by name, those without rows empty."""
    return {
        "fields": _fields(facts),
        "splits": _splits(facts),
        "sex": _sex(facts),
        "ages": _ages(facts),
        "images": _images(facts),
        "counts": _published(facts, found),
        "findings": _findings(found),
    }


def _fields(facts: list[Facts]) -> str:
    missing = {"mask": sum(fact.lungs is None for fact in facts)}
    missing |= {
        name: sum(getattr(fact, name) is None for fact in facts)
        for name in ("sex", "age_years", "findings", "reading")
    }
    rows = []
    for name, feature in cxm.FEATURES.items():
        kind = getattr(feature, "dtype", None) if type(feature).__name__ == "Value" else type(feature).__name__
        values = f" ({', '.join(feature.names)})" if kind == "ClassLabel" else ""
        rows.append([f"`{name}`", f"{kind}{values}", FIELDS[name], missing.get(name, 0)])
    return table(["field", "type", "what it is", "rows without"], rows)


def _splits(facts: list[Facts]) -> str:
    sites, rows = by_site(facts), []
    for site, members in (sites if len(sites) == 1 else sites | {"all": facts}).items():
        for split in (*cxm.SPLITS, "all"):
            held = [fact for fact in members if split in (fact.split, "all")]
            labels = [sum(fact.label == label for fact in held) for label in cxm.FEATURES["label"].names]
            masks = sum(fact.lungs is not None for fact in held)
            rows.append([site, split, len(held), len({fact.patient_id for fact in held}), *labels, masks])
    return table(["site", "split", "X-rays", "patients", *cxm.FEATURES["label"].names, "with a mask"], rows)


def _groups(facts: list[Facts]) -> list[tuple[str, str, list[Facts]]]:
    """Site, label and rows of each group that has any."""
    labels = cxm.FEATURES["label"].names
    groups = [
        (site, label, [fact for fact in rows if fact.label == label])
        for site, rows in by_site(facts).items()
        for label in labels
    ]
    return [group for group in groups if group[2]]


def _sex(facts: list[Facts]) -> str:
    names = cxm.FEATURES["sex"].names
    rows = [
        [site, label, *(sum(fact.sex == sex for fact in held) for sex in (*names, None))]
        for site, label, held in _groups(facts)
    ]
    return table(["site", "label", *names, "not said"], rows)


def _ages(facts: list[Facts]) -> str:
    rows = []
    for site, label, held in _groups(facts):
        if ages := [fact.age_years for fact in held if fact.age_years is not None]:
            rows.append([site, label, len(ages), *(f"{age:.1f}" for age in np.percentile(ages, (0, 25, 50, 75, 100)))])
    return table(
        ["site", "label", "X-rays with an age", "youngest", "quarter", "median", "three quarters", "oldest"], rows
    )


def _images(facts: list[Facts]) -> str:
    rows = []
    for site, held in by_site(facts).items():
        sides = [np.percentile([getattr(fact, side) for fact in held], (0, 50, 100)) for side in ("width", "height")]
        modes = Counter(fact.mode for fact in held)
        shown = [" / ".join(f"{value:.0f}" for value in values) for values in sides]
        size = sum(fact.bytes for fact in held) / 1e6
        rows.append([site, *shown, ", ".join(f"`{mode}` {modes[mode]}" for mode in sorted(modes)), f"{size:.1f}"])
    headings = ("width, pixels: least / median / most", "height", "modes", "MB in all")
    return table(["site", *headings], rows)


def _published(facts: list[Facts], found: Audit) -> str:
    """Counts of the sites that have any, beside the published ones; phantoms have none."""
    if _synthetic(facts):
        return ""
    sites = by_site(facts)
    rows = [
        [site, *(f"{count} of {PUBLISHED[config][what]}" for what, count in found.counts[config].items())]
        for config, site in cxm.SITES.items()
        if site in sites
    ]
    return table(["site", *next(iter(PUBLISHED.values()))], rows)


def _findings(found: Audit) -> str:
    """A row per kind of finding; counts have a table of their own."""
    rows = []
    for kind in KINDS:
        held, is_off = found.of_kind(kind), any(one.is_off for one in found.of_kind(kind))
        if not held or kind in OF_COUNTS:
            continue
        names = [" and ".join(f"`{id}`" for id in one.ids) for one in held[:NAMED]]
        more = f", and {len(held) - NAMED} more" if len(held) > NAMED else ""
        rows.append([kind, "to look at" if is_off else "as it is", len(held), ", ".join(names) + more])
    return table(["what", "", "how many", "which"], rows)
