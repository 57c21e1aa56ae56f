"""X-rays of one's own as a folder and on the Hub: the rows of their source, and a card that says what goes along."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tiny
from card_text import sections, tables
from huggingface_hub import DatasetCard
from loopback_hub import LoopbackHub
from PIL import Image

import chest_xray_masks as cxm
from hub_models.dataset.audit import report
from hub_models.dataset.sources import DataRequest, fingerprint_of, folder_xrays, load_splits
from hub_models.hub.dataset_export import RECORD_NAME, ExportConfig, build, export
from hub_models.imaging.gray import to_gray
from hub_models.runs.notes import CARD_NAME, NOTES_NAME

REPO = "alice/clinic"
MEANING = {"columns": "label=Diagnose", "positive": "TB suspect"}


def write_clinic(phantoms: Path, folder: Path, is_marked: bool) -> Path:
    """Phantoms as a stranger keeps X-rays, of two hospitals; they pass for patients' unless `is_marked`."""
    lines = [["Datei", "Diagnose", "Patient", "Sex", "Age", "hospital", "findings"]]
    for name in ("xrays", "seg"):
        (folder / name).mkdir(parents=True)
    for rows in load_splits(phantoms).values():
        raw = rows.cast_column("image", datasets.Image(decode=False))
        for row, held in zip(rows, raw, strict=True):
            name = f"pat_{len(lines):02d}.{'png' if is_marked or len(lines) % 2 else 'jpeg'}"
            if is_marked:
                (folder / "xrays" / name).write_bytes(held["image"]["bytes"])
            else:
                to_gray(row["image"]).save(folder / "xrays" / name)
            if row["mask"] is not None:
                row["mask"].save(folder / "seg" / Path(name).with_suffix(".png"))
            label, sex = ["healthy", "TB suspect"][row["label"]], "" if row["sex"] is None else "FMO"[row["sex"]]
            site, said = ["North", "South"][len(lines) % 2], row["findings"] if len(lines) % 3 else ""
            lines.append([name, label, row["patient_id"], sex, row["age_years"] or "", site, said])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(lines)
    return folder


@pytest.fixture(scope="module")
def clinic(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> DataRequest:
    """60 X-rays that pass for patients'."""
    folder = write_clinic(phantoms, tmp_path_factory.mktemp("own") / "clinic", is_marked=False)
    return DataRequest(str(folder), **MEANING)


@pytest.fixture(scope="module")
def built(clinic: DataRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, exported."""
    folder = tmp_path_factory.mktemp("built") / "set"
    build(clinic, folder)
    return folder


def config_of(request: DataRequest, **options: Any) -> ExportConfig:
    return ExportConfig(data_dir=request.data, columns=request.columns, positive=request.positive, **options)


def cells_of(splits: datasets.DatasetDict) -> dict[str, list[dict[str, Any]]]:
    """Rows by split, in order, images and masks as bytes, sites by name."""
    found = {}
    for split, rows in splits.items():
        sites = rows.features["site"]
        for name in ("image", "mask"):
            rows = rows.cast_column(name, datasets.Image(decode=False))
        found[split] = [row | {"site": sites.int2str(row["site"])} for row in rows]
    return found


def check_same(source: DataRequest, exported: DataRequest) -> None:
    """Hold every column and byte of what was exported against its source."""
    expected, found = load_splits(source), load_splits(exported)
    assert cells_of(found) == cells_of(expected)
    assert {split: rows.features for split, rows in found.items()} == {
        split: rows.features for split, rows in expected.items()
    }
    assert fingerprint_of(exported, found) == fingerprint_of(source, expected)


def test_folder_gives_the_rows_of_its_source(clinic: DataRequest, built: Path) -> None:
    check_same(clinic, DataRequest(str(built)))
    loaded = datasets.load_dataset(str(built))
    expected = load_splits(clinic)
    assert {split: len(rows) for split, rows in loaded.items()} == {
        split: len(expected[split]) for split in cxm.SPLITS
    }
    assert loaded["train"].features["site"].names == ["North", "South"]
    assert loaded["train"].features == cxm.FEATURES | {"site": datasets.ClassLabel(names=["North", "South"])}
    originals = {path.read_bytes() for path in (Path(clinic.data) / "xrays").iterdir()}
    assert {row["image"]["bytes"] for rows in cells_of(loaded).values() for row in rows} == originals
    streamed = datasets.load_dataset(str(built), split="test", streaming=True)
    assert [row["id"] for row in streamed] == list(expected["test"]["id"])
    files = sorted(path.name for path in (built / "data").iterdir())
    assert files == [f"{split}-00000-of-00001.parquet" for split in sorted(cxm.SPLITS)]


def test_export_among_its_own_xrays_is_refused_or_left_out(clinic: DataRequest, built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clinic.data, tmp_path / "clinic")
    with pytest.raises(ValueError, match="lies in .*clinic, and would be read itself"):
        build(replace(clinic, data=str(folder)), folder / "set")
    shutil.copytree(built, folder / "set")  # as it once could be made
    again = replace(clinic, data=str(folder))
    assert {name: len(rows) for name, rows in load_splits(again).items()} == {
        name: len(rows) for name, rows in load_splits(clinic).items()
    }
    assert folder_xrays(again) is not None  # not the rows of the Parquet


def test_audit_is_that_of_the_source(clinic: DataRequest, built: Path) -> None:
    of_source, of_folder = (report(one, progress=False) for one in (clinic, DataRequest(str(built))))
    assert of_folder.counts == of_source.counts and set(of_folder.counts) == {"North", "South"}
    assert [one.ids for one in of_folder.findings] == [one.ids for one in of_source.findings]


def test_repository_gives_the_rows_of_the_source(clinic: DataRequest, hub: LoopbackHub, as_user: Callable) -> None:
    with as_user("alice"):
        assert export(config_of(clinic, repo_id=REPO, license="cc-by-4.0")) == f"{hub.endpoint}/datasets/{REPO}"
        check_same(clinic, DataRequest(REPO))
        check_same(clinic, DataRequest(REPO, revision="1.0.0"))
        head = hub.repo(REPO, "dataset").commits[0].oid
        export(ExportConfig(data_dir=REPO, repo_id="alice/copy", license="cc-by-4.0"))  # of a dataset, by its Hub id
        check_same(clinic, DataRequest("alice/copy"))
        export(config_of(clinic, repo_id=REPO, license="cc-by-4.0"))
    repo = hub.repo(REPO, "dataset")
    assert repo.private and repo.commits[0].oid == head and len(repo.commits) == 2
    names = {f"data/{split}-00000-of-00001.parquet" for split in cxm.SPLITS}
    assert {name for name in repo.files() if name != ".gitattributes"} == {CARD_NAME, *names}


def noise(folder: Path, table: str, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 20), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "t.csv").write_text(table)
    return folder


@pytest.mark.parametrize("count", range(1, 12))
def test_splits_of_few_xrays_stay(count: int, tmp_path: Path) -> None:
    """Also where no patient falls into validation, or only one split has any."""
    source = noise(tmp_path / "few", "\n".join(["file,patient", *(f"{n}.png,p{n}" for n in range(count))]), count)
    build(source, tmp_path / "out")
    check_same(DataRequest(str(source)), DataRequest(str(tmp_path / "out")))


def test_own_splits_stay_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    lines = [f"{n}.png,{'test' if n % 2 else '' if n == 8 else 'train'}" for n in range(10)]
    source = noise(tmp_path / "in", "\n".join(["file,split", *lines, "gone.png,test"]), 11)
    build(source, tmp_path / "out")
    check_same(DataRequest(str(source)), DataRequest(str(tmp_path / "out")))
    said = sections(DatasetCard.load(tmp_path / "out" / CARD_NAME))["How the source was read"]
    for words in ("1 rows of t.csv", "1 X-rays that t.csv", "1 X-rays that are in no split", "have no patient id"):
        assert words in said
    assert str(tmp_path) not in (tmp_path / "out" / CARD_NAME).read_text()


def test_header_of_dicom_does_not_go_along(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    header = tiny.dicom_with_patient(())
    for name in ("PatientSex", "PatientAge", "PhotometricInterpretation"):
        setattr(header, name, {"PatientSex": "F", "PatientAge": "045Y"}.get(name, "MONOCHROME2"))
    header.PatientID, stored = "P7", np.arange(48 * 36, dtype=np.uint16).reshape(48, 36)
    header.PixelData = stored.tobytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "IM1").write_bytes(tiny.dicom_bytes(header))
    build(tmp_path / "in", tmp_path / "out")
    (row,) = (row for rows in cells_of(load_splits(tmp_path / "out")).values() for row in rows)
    image = Image.open(io.BytesIO(row["image"]["bytes"]))
    assert (image.format, image.mode) == ("PNG", "I;16") and (np.asarray(image) == stored).all()
    assert (row["patient_id"], row["sex"], row["age_years"]) == ("P7", 0, 45.0)
    held = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    secret = tiny.SECRET.encode()
    assert secret in tiny.dicom_bytes(header) and not any(secret in data for data in (*held, row["image"]["bytes"]))


def test_card_says_what_is_there_and_nothing_of_the_set(clinic: DataRequest, built: Path) -> None:
    card, text = DatasetCard.load(built / CARD_NAME), (built / CARD_NAME).read_text()
    found, splits = sections(card), load_splits(clinic)
    headings, rows = tables(found["Splits"])[0]
    counts = {(row[0], row[1]): dict(zip(headings[2:], map(int, row[2:]), strict=True)) for row in rows}
    assert counts["all", "all"]["X-rays"] == 60
    for split, one in splits.items():
        for number, site in enumerate(("North", "South")):
            held = [row for row in one if row["site"] == number]
            assert counts[site, split] == {
                "X-rays": len(held),
                "patients": len({row["patient_id"] for row in held}),
                "normal": sum(row["label"] == 0 for row in held),
                "tuberculosis": sum(row["label"] == 1 for row in held),
                "with a mask": sum(row["mask"] is not None for row in held),
            }
    fields = {row[0].strip("`"): row for row in tables(found["Fields"])[0][1]}
    assert list(fields) == list(cxm.FEATURES) and "North, South" in fields["site"][1]
    assert int(fields["findings"][3]) == sum(value is None for rows in splits.values() for value in rows["findings"])
    assert "label=Diagnose" in found["How the source was read"] and "TB suspect" in found["How the source was read"]
    along = found["What goes along"]
    for word in ("`patient_id`", "`findings`", "EXIF", "DICOM", "none was named"):
        assert word in along
    assert not re.search(r"NLM|National Library|Kaggle|Montgomery|Shenzhen|Jaeger|CC BY|croissant", text)
    assert card.data.license is None and card.data.extra_gated_fields == dict.fromkeys(
        ("Name", "Affiliation", "Purpose"), "text"
    )
    assert card.data.task_categories == ["image-segmentation", "image-classification"]


def test_unlabelled_xrays_without_masks_have_no_tasks(tmp_path: Path) -> None:
    build(noise(tmp_path / "in", "file,site\n0.png,all\n1.png,|x|\n2.png,<b>\n", 3), tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / CARD_NAME)
    assert card.data.task_categories is None and "unlabelled" in card.text
    check_same(DataRequest(str(tmp_path / "in")), DataRequest(str(tmp_path / "out")))


def test_phantoms_stay_phantoms(phantoms: Path, hub: LoopbackHub, as_user: Callable, tmp_path: Path) -> None:
    request = DataRequest(str(write_clinic(phantoms, tmp_path / "drawn", is_marked=True)), **MEANING)
    with as_user("alice"):
        export(config_of(request, repo_id=REPO, license="apache-2.0", public=True, i_accept_the_terms=True))
    repo = hub.repo(REPO, "dataset")
    assert not repo.private and not repo.gated
    card = DatasetCard(repo.files()[CARD_NAME].decode())
    assert "synthetic" in card.data.tags and "extra_gated_heading" not in card.data.to_dict()
    assert "of no use for medicine" in card.text and card.data.license == "apache-2.0"


def test_public_xrays_of_patients_are_gated(clinic: DataRequest, hub: LoopbackHub, as_user: Callable) -> None:
    with as_user("alice"):
        export(config_of(clinic, repo_id=REPO, license="other", public=True, i_accept_the_terms=True))
    repo = hub.repo(REPO, "dataset")
    assert not repo.private and repo.gated == "manual"
    with pytest.raises(ValueError, match="--i_accept_the_terms"):
        config_of(clinic, repo_id=REPO, license="other", public=True)


def test_push_needs_a_licence_that_the_set_has(clinic: DataRequest, tiny_set: Path, hub: LoopbackHub, as_user) -> None:
    with as_user("alice"):
        for dry_run in (False, True):
            with pytest.raises(ValueError, match="clinic.* pass --license"):
                export(config_of(clinic, repo_id=REPO, dry_run=dry_run))
        with pytest.raises(ValueError, match="leave --license out"):
            export(ExportConfig(data_dir=tiny_set, repo_id=REPO, license="mit"))
        with pytest.raises(ValueError, match="licen.e"):
            export(config_of(clinic, repo_id=REPO, license="mine, all mine"))
    assert not hub.repos


def test_set_and_other_xrays_do_not_replace_each_other(
    clinic: DataRequest, tiny_set: Path, hub: LoopbackHub, as_user: Callable, built: Path, tmp_path: Path
) -> None:
    with as_user("alice"):
        export(ExportConfig(data_dir=tiny_set, output=tmp_path / "set", repo_id="alice/set"))
        with pytest.raises(ValueError, match="alice/set holds MC/.* pass another --repo_id"):
            export(config_of(clinic, repo_id="alice/set", license="mit"))
        export(config_of(clinic, repo_id=REPO, license="mit"))
        with pytest.raises(ValueError, match=f"{REPO} holds data/.* pass another --repo_id"):
            export(ExportConfig(data_dir=tiny_set, repo_id=REPO))
    with pytest.raises(FileExistsError, match="holds MC/"):
        build(clinic, tmp_path / "set")
    with pytest.raises(FileExistsError, match="holds data/"):
        build(tiny_set, built)


def test_xrays_of_the_set_are_not_pushed_as_others(tiny_set: Path, hub: LoopbackHub, as_user, tmp_path: Path) -> None:
    build(tiny_set, tmp_path / "set")
    with as_user("alice"), pytest.raises(ValueError, match=r"X-rays are the set's \(MCUCXR_0001_0"):
        export(ExportConfig(data_dir=tmp_path / "set", repo_id=REPO, license="mit"))
    assert not hub.repos


def test_unchanged_source_is_left_and_a_changed_one_replaced(phantoms: Path, tmp_path: Path) -> None:
    request, out = DataRequest(str(write_clinic(phantoms, tmp_path / "in", False)), **MEANING), tmp_path / "out"
    out.mkdir()
    (out / NOTES_NAME).write_text("By *two* of us.")
    build(request, out)
    assert "\n\n## Notes\n\nBy *two* of us.\n" in (out / CARD_NAME).read_text()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    build(request, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    build(request, out, license="mit")
    assert DatasetCard.load(out / CARD_NAME).data.license == "mit" and "By *two*" in (out / CARD_NAME).read_text()
    path = Path(request.data) / "xrays" / "pat_01.png"
    Image.new("L", Image.open(path).size).save(path)
    build(request, out, license="mit")
    check_same(request, DataRequest(str(out)))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="pat_01"):
        build(request, out, license="mit")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert json.loads((out / RECORD_NAME).read_text())["num_shards"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize(("options", "count"), [({"num_shards": 5}, 5), ({"max_shard_size": "1KB"}, 6)])
def test_shards(options: dict[str, Any], count: int, clinic: DataRequest, tmp_path: Path) -> None:
    build(clinic, tmp_path / "out", **options)
    for split, rows in load_splits(clinic).items():
        files = sorted(path.name for path in (tmp_path / "out" / "data").glob(f"{split}-*"))
        assert len(files) == len(rows) if "max_shard_size" in options else min(count, len(rows))
        assert files[-1] == f"{split}-{len(files) - 1:05d}-of-{len(files):05d}.parquet"
    check_same(clinic, DataRequest(str(tmp_path / "out")))


@pytest.mark.parametrize("column", ["image", "mask"])
def test_paths_in_place_of_images_are_not_opened(column: str, clinic: DataRequest, tmp_path: Path) -> None:
    secret = next((Path(clinic.data) / "xrays").iterdir())
    rows = cells_of(load_splits(clinic))["test"][:2]
    rows[1][column] = {"path": str(secret), "bytes": None}
    features = load_splits(clinic)["test"].features
    plain = {name: {"bytes": datasets.Value("binary"), "path": datasets.Value("string")} for name in ("image", "mask")}
    rows = [row | {"site": 0} for row in rows]
    held = datasets.Dataset.from_list(rows, features=datasets.Features(features | plain))
    held.save_to_disk(tmp_path / "saved")
    info = json.loads((tmp_path / "saved" / "dataset_info.json").read_text())
    info["features"] |= {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}
    (tmp_path / "saved" / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=f"row 1 of .*saved has no bytes of its {column}"):
        build(tmp_path / "saved", tmp_path / "out")
    assert not (tmp_path / "out").exists()
