"""Write X-rays that are not the set as Parquet, with a card that says how they were read and what goes along."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from datasets import DatasetDict
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from hub_models.dataset.columns import POSITIVE
from hub_models.dataset.published import published_ids
from hub_models.dataset.sources import DataRequest, load_splits
from hub_models.hub.dataset_card import FIELDS, GATE_HEADING, PROJECT_TAG, counted, size_of
from hub_models.hub.dataset_pictures import by_site
from hub_models.hub.parquet import OWN_CONFIG, OWN_FOLDER, Facts, read_facts, write_rows
from hub_models.hub.templates import CODE_URL, card_template
from hub_models.runs.notes import CARD_NAME

OWN_CARD, OWN_TERMS = card_template("own_card.md"), card_template("own_terms.md")
OWN_FIELDS = FIELDS | {
    "id": "as in the source, else the name of the file",
    "patient_id": "as in the source, else the id; what splits are made by",
    "site": "as in the source, else the name of the source",
    "image": "the original bytes; of DICOM a PNG of its gray values",
    "label": "as in the source",
    "sex": "as in the source",
    "age_years": "as in the source",
    "findings": "text of the source",
    "reading": "text, of a source in this schema only",
}
GATE_PROMPT = (
    "These are X-rays of patients. Say who you are and what you want them for. Do not try to find out who "
    "the patients are, and pass no file on."
)


class OwnXrays(NamedTuple):
    """X-rays that are not the set, and how they were read."""

    request: DataRequest
    splits: DatasetDict
    said: list[str]  # as `load_splits` gives it, without paths of this machine
    license: str | None  # the Hub's name of it

    @property
    def made_from(self) -> tuple[object, ...]:
        """What an unchanged source has in common: the rows, as the cache of `datasets` knows them, and the rest."""
        return [(name, rows._fingerprint) for name, rows in self.splits.items()], self.said, self.license


def load_own(request: DataRequest, license: str | None) -> OwnXrays:
    """Return the X-rays of a request; raise what `load_splits` does."""
    said: list[str] = []
    splits = load_splits(request, said)
    for path in (Path(one).expanduser() for one in (request.data, request.table) if one):
        for text in sorted(map(str, {path, path.absolute(), path.resolve()}), key=len, reverse=True):
            if path.exists() and os.sep in text:
                said = [line.replace(text, path.resolve().name) for line in said]
    return OwnXrays(request, splits, said or ["The rows were in the schema of this project."], license)


def write_own(
    own: OwnXrays, folder: Path, name: str, repo_id: str | None, max_shard_size: str, num_shards: int
) -> str:
    """Write the X-rays and their card to `folder`, which is to become `name`; return the terms, in Markdown.

    Raises:
        ValueError: no X-ray is in a split, or no size; or, for a `repo_id`, some are the set's, whose terms the card
            does not state.
    """
    infos = write_rows(own.splits, folder, max_shard_size, num_shards)
    facts = read_facts(folder)
    known = [fact.id for fact in facts if fact.id in published_ids() and not fact.synthetic]
    if repo_id and known:
        ways = "export them from the set's own folder or zip, and leave them out here"
        raise ValueError(f"{len(known)} X-rays are the set's ({known[0]}, ...), which has terms of its own: {ways}")
    values = _own_values(own, facts, infos)
    terms = OWN_TERMS.render(values).strip()
    data = _own_metadata(facts, infos, str(values["title"]), own.license)
    tables = counted(facts, infos[OWN_CONFIG].features, OWN_FIELDS)
    values |= {"tables": tables, "terms": terms, "card_data": data.to_yaml(), "repo_id": repo_id or name}
    DatasetCard(re.sub(r"\n{3,}", "\n\n", OWN_CARD.render(values))).save(folder / CARD_NAME)
    return terms


def _own_values(own: OwnXrays, facts: list[Facts], infos: DatasetInfosDict) -> dict[str, object]:
    """Return what the templates say in words."""
    synthetic, modes = sum(fact.synthetic for fact in facts), Counter(fact.mode for fact in facts)
    only_synthetic = synthetic == len(facts)
    return {
        "title": f"{'Synthetic chest' if only_synthetic else 'Chest'} X-rays: {own.request.name}",
        "name": own.request.name,
        "code_url": CODE_URL,
        "split": next(iter(infos[OWN_CONFIG].splits)),
        "images": len(facts),
        "patients": len({fact.patient_id for fact in facts}),
        "per_site": ", ".join(f"{site} {len(rows)}" for site, rows in by_site(facts).items()),
        "masks": sum(fact.lungs is not None for fact in facts),
        "labelled": sum(fact.label is not None for fact in facts),
        "findings": sum(fact.findings is not None or fact.reading is not None for fact in facts),
        "synthetic": synthetic,
        "only_synthetic": only_synthetic,
        "modes": ", ".join(f"{count} are `{mode}`" for mode, count in sorted(modes.items())),
        "said": own.said,
        "positive": own.request.positive,
        "words": ", ".join(sorted(POSITIVE)),
        "license": own.license,
    }


def _own_metadata(facts: list[Facts], infos: DatasetInfosDict, title: str, license: str | None) -> DatasetCardData:
    """Return the head of the card; X-rays of patients are gated where they are public."""
    tasks = {
        "image-segmentation": any(fact.lungs is not None for fact in facts),
        "image-classification": any(fact.label is not None for fact in facts),
    }
    data = DatasetCardData(
        pretty_name=title,
        size_categories=[size_of(facts)],
        task_categories=[task for task, is_held in tasks.items() if is_held] or None,
        tags=[PROJECT_TAG, "chest-x-ray", "medical-imaging"] + ["synthetic"] * any(fact.synthetic for fact in facts),
        license=license,
    )
    if not all(fact.synthetic for fact in facts):
        data["extra_gated_heading"], data["extra_gated_prompt"] = GATE_HEADING, GATE_PROMPT
        data["extra_gated_fields"] = {name: "text" for name in ("Name", "Affiliation", "Purpose")}
    infos.to_dataset_card_data(data)
    files = [{"split": split, "path": f"{OWN_FOLDER}/{split}-*"} for split in infos[OWN_CONFIG].splits]
    MetadataConfigs({OWN_CONFIG: {"data_files": files}}).to_dataset_card_data(data)
    return data
