"""croissant.json of sets that were really built, read by mlcroissant: no fault, and the rows of the Parquet files."""

from pathlib import Path

import datasets
import mlcroissant
import pytest
import tiny
from card_text import sections
from huggingface_hub import DatasetCard

import chest_xray_masks as cxm
from hub_models.hub.croissant import CROISSANT_NAME, REPOSITORY
from hub_models.hub.dataset_export import build

REPO = "alice/chest-xrays"
RAI = {  # fields of every set of patients, by mlcroissant's names
    *("data_collection", "data_collection_type", "data_collection_missing_data", "data_preprocessing_protocol"),
    *("data_annotation_protocol", "annotations_per_item", "annotator_demographics", "data_biases", "data_use_cases"),
    *("data_limitations", "personal_sensitive_information"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Path]:
    """The few X-rays of tiny, built for a repository and for none."""
    root = tmp_path_factory.mktemp("croissant")
    source = tiny.write_tree(tiny.kaggle(), root / "set")
    folders = {REPO: root / "hub", None: root / "folder"}
    for repo_id, folder in folders.items():
        build(source, folder, repo_id)
    return folders


def opened(folder: Path, repo_id: str | None) -> mlcroissant.Dataset:
    """The set as mlcroissant sees it; the folder stands for the repository on the Hub."""
    return mlcroissant.Dataset(str(folder / CROISSANT_NAME), mapping={REPOSITORY: folder} if repo_id else None)


@pytest.mark.parametrize("repo_id", [REPO, None])
def test_it_is_valid_and_says_what_the_card_says(repo_id: str | None, built) -> None:
    found = opened(built[repo_id], repo_id).metadata
    assert not found.ctx.issues.errors and not found.ctx.issues.warnings
    assert found.conforms_to == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    assert all(getattr(found, name) for name in RAI)
    card = sections(DatasetCard.load(built[repo_id] / "README.md"))
    lists = [*found.data_annotation_protocol, *found.annotator_demographics, *found.personal_sensitive_information]
    assert all(sentence in card["Origin"] for sentence in (found.data_collection, *lists))
    assert all(sentence in card["Limits"] for sentence in (*found.data_limitations, *found.data_biases))
    assert found.data_collection_missing_data in card["Limits"]
    assert "10.3978/j.issn.2223-4292.2014.11.20" in found.cite_as
    if repo_id:
        assert found.url == f"https://huggingface.co/datasets/{REPO}"
        assert found.license == [f"{found.url}/blob/main/LICENSE.md"]


@pytest.mark.parametrize("repo_id", [REPO, None])
@pytest.mark.parametrize("config", ["MC", "Shenzhen", "all"])
def test_its_records_are_the_rows(config: str, repo_id: str | None, built) -> None:
    loaded = datasets.load_dataset(str(built[repo_id]), config)
    records = {record[f"{config}/id"].decode(): record for record in opened(built[repo_id], repo_id).records(config)}
    assert sorted(records) == sorted(id for rows in loaded.values() for id in rows["id"])
    for split, rows in loaded.items():
        for row in rows:
            record = {name.partition("/")[2]: value for name, value in records[row["id"]].items()}
            assert set(record) == {"split", *cxm.FEATURES} and record.pop("split") == split.encode()
            for name in ("image", "mask"):
                ours, theirs = row.pop(name), record.pop(name)
                assert (ours is None) == (theirs is None)
                assert ours is None or ours.tobytes() == theirs.tobytes()
            assert {key: one.decode() if isinstance(one, bytes) else one for key, one in record.items()} == row


def test_phantoms_have_no_annotators_and_no_terms(phantoms: Path, tmp_path: Path) -> None:
    build(phantoms, tmp_path / "out", REPO)
    found = opened(tmp_path / "out", REPO).metadata
    assert not found.ctx.issues.errors and not found.ctx.issues.warnings
    assert found.license == ["https://spdx.org/licenses/Apache-2.0"] and not found.data_annotation_protocol
    assert "Jaeger" not in (tmp_path / "out" / CROISSANT_NAME).read_text()
