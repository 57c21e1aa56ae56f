"""X-rays from anywhere as the builder's rows: folders with tables, classes and masks, Parquet, datasets, the Hub."""

import csv
import io
import json
import logging
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiny
from pictures import camera_tiff
from PIL import Image

import chest_xray_masks as cxm
from hub_models.dataset.audit import report
from hub_models.dataset.audit_report import ADVICE_OF_OWN, KINDS
from hub_models.dataset.columns import Labels, labels_of, parse_columns, parse_positive
from hub_models.dataset.schema import with_files
from hub_models.dataset.sources import DataRequest, fingerprint_of, folder_xrays, load_splits
from hub_models.imaging.gray import to_gray

HEADER = ["Datei", "Diagnose", "Patient", "Sex", "Age"]
MEANING = {"columns": "label=Diagnose", "positive": "TB suspect"}


@pytest.fixture(scope="module")
def rows(phantoms: Path) -> list[dict]:
    """The phantoms, as the builder gives them, by id."""
    return sorted((row for split in load_splits(phantoms).values() for row in split), key=lambda row: row["id"])


@pytest.fixture(scope="module")
def own(rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a stranger keeps them: other names, masks in seg/, a table with semicolons."""
    folder = tmp_path_factory.mktemp("own") / "clinic"
    for name in ("xrays", "seg"):
        (folder / name).mkdir(parents=True)
    lines = []
    for number, row in enumerate(rows):
        name = f"pat_{number:02d}_view1"
        to_gray(row["image"]).save(folder / "xrays" / f"{name}.png")
        if row["mask"] is not None:
            row["mask"].save(folder / "seg" / f"{name}.png")
        sex = "" if row["sex"] is None else "FMO"[row["sex"]]
        said = ["healthy", "TB suspect"][row["label"]]
        lines.append([f"{name}.png", said, row["patient_id"], sex, row["age_years"] or ""])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([HEADER, *lines])
    return folder


def all_rows(request: DataRequest | Path) -> dict[str, dict]:
    return {row["id"]: row for split in load_splits(request).values() for row in split}


def test_folder_with_a_table_gives_the_builders_rows(own: Path, rows: list[dict]) -> None:
    found = all_rows(DataRequest(str(own), **MEANING))
    assert len(found) == len(rows) == 60
    for number, row in enumerate(rows):
        one = found[f"pat_{number:02d}_view1"]
        assert (one["label"], one["patient_id"], one["sex"]) == (row["label"], row["patient_id"], row["sex"])
        assert one["age_years"] == (None if row["age_years"] is None else pytest.approx(row["age_years"], abs=1e-4))
        assert (np.asarray(to_gray(one["image"])) == np.asarray(to_gray(row["image"]))).all()
        assert (one["mask"] is None) == (row["mask"] is None)
        assert one["mask"] is None or (np.asarray(one["mask"]) == np.asarray(row["mask"])).all()
    splits = load_splits(DataRequest(str(own), **MEANING))
    assert splits["train"].features["site"].names == ["clinic"]
    patients = {row["patient_id"] for row in rows}
    expected = {split: {one for one in patients if cxm.split_of(one) == split} for split in cxm.SPLITS}
    assert {split: set(one["patient_id"]) for split, one in splits.items()} == expected
    request = DataRequest(str(own), **MEANING)
    assert fingerprint_of(request, splits) == fingerprint_of(request, load_splits(request))
    assert fingerprint_of(request, splits) != fingerprint_of(request, load_splits(DataRequest(str(own))))


def as_csv(columns: dict[str, list[str]], encoding: str = "utf-8", separator: str = ",") -> bytes:
    lines = [separator.join(line) for line in zip(*([name, *values] for name, values in columns.items()), strict=True)]
    return "\r\n".join(lines).encode(encoding)


TABLES: dict[str, Callable[[dict[str, list[str]]], bytes]] = {
    "table.csv": as_csv,
    "excel.csv": lambda columns: as_csv(columns, "utf-16", "\t"),
    "latin.csv": lambda columns: as_csv(columns | {"café": columns["file"]}, "latin-1", ";"),
    "table.tsv": lambda columns: as_csv(columns, separator="\t"),
    "metadata.jsonl": lambda columns: "\n".join(
        json.dumps(dict(zip(columns, line, strict=True))) for line in zip(*columns.values(), strict=True)
    ).encode(),
}


def small(folder: Path, names: dict[str, int]) -> Path:
    """A folder of small X-rays of noise by path: each the one of its seed."""
    for name, seed in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 255, (24, 20), np.uint8)
        Image.fromarray(noise).save(folder / name)
    return folder


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_kind(name: str, tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"a.png": 1, "deep/b.png": 2})
    columns = {"file": ["a.png", r"deep\b.png"], "TB": ["1", "0"], "split": ["Train", "valid"], "hospital": ["X", "Y"]}
    (folder / name).write_bytes(TABLES[name](columns))
    splits = load_splits(folder)
    assert splits["train"]["label"] == [1] and splits["validation"]["label"] == [0]
    assert splits["train"].features["site"].names == ["X", "Y"] and splits["validation"]["site"] == [1]


def test_parquet_beside_the_images_is_their_table(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"a.png": 1, "b.png": 2})
    table = pyarrow.table({"study_id": ["a", "b"], "target": [1.0, 0.0], "age": [None, 44.0]})
    pyarrow.parquet.write_table(table, folder / "t.parquet")
    found = all_rows(folder)
    assert [(found[id]["label"], found[id]["age_years"]) for id in "ab"] == [(1, None), (0, 44.0)]


def test_classes_and_splits_in_folders(tmp_path: Path) -> None:
    names = {"train/TB/1.png": 1, "train/normal/2.png": 2, "test/TB/3.png": 3, "val/normal/images/4.png": 4}
    splits = load_splits(small(tmp_path / "in", names))
    found = {split: list(zip(rows["id"], rows["label"], strict=True)) for split, rows in splits.items()}
    assert found == {"train": [("1", 1), ("2", 0)], "test": [("3", 1)], "validation": [("4", 0)]}
    other = small(tmp_path / "other", {"covid/1.png": 1, "clear/2.png": 2})
    assert {row["label"] for row in all_rows(other).values()} == {None}
    assert [row["label"] for row in all_rows(DataRequest(str(other), positive="covid")).values()] == [1, 0]


@pytest.mark.parametrize(
    "masks",
    [
        {"masks/a.png": 3},
        {"a_mask.png": 3},
        {"seg/left/a.png": 1, "seg/right/a.png": 2},
        {"mask_left/a_mask.png": 1, "mask_right/a_mask.png": 2},
        {"segmentations/a_left.png": 1, "segmentations/a_right.png": 2},
    ],
)
def test_masks_in_folders(masks: dict[str, int], tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"images/a.png": 1, "images/b.png": 2})
    for name, lungs in masks.items():
        drawn = np.zeros((24, 20), np.uint8)
        drawn[4:20, 2:8] = 255 * (lungs & 1)
        drawn[4:20, 12:18] = 255 * (lungs >> 1)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(folder / name)
    found = all_rows(folder)
    assert set(found) == {"a", "b"} and found["b"]["mask"] is None
    assert (np.asarray(found["a"]["mask"]) > 0).sum() == 2 * 16 * 6


def test_mask_column_and_zip(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"x/1.png": 1, "x/2.png": 2})
    Image.fromarray(np.full((24, 20), 255, np.uint8)).save(folder / "one.png")
    (folder / "t.csv").write_text("image,lungs\nx/1.png,one.png\nx/2.png,\n")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    for source in (folder, tmp_path / "in.zip", folder / "t.csv"):
        found = all_rows(DataRequest(str(source), columns="mask=lungs"))
        assert set(found) == {"1", "2"} and found["2"]["mask"] is None and np.asarray(found["1"]["mask"]).all()


def test_two_names_of_one_picture_are_in_one_split(tmp_path: Path) -> None:
    patients = [f"p{number}" for number in range(200)]
    first = {split: [one for one in patients if cxm.split_of(one) == split] for split in cxm.SPLITS}
    names = {"a.png": 7, "b.png": 7, "c.png": 8}
    folder = small(tmp_path / "in", names)
    of = {"a.png": first["train"][0], "b.png": first["test"][0], "c.png": first["test"][0]}  # b and c: one patient
    (folder / "t.csv").write_text("file,patient\n" + "\n".join(f"{name},{of[name]}" for name in names))
    splits = load_splits(folder)
    (held,) = [rows for rows in splits.values() if len(rows)]
    assert held["id"] == ["a", "b", "c"] and len(set(held["patient_id"])) == 1


def test_validation_comes_from_the_patients_of_train(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {f"{number}.png": number for number in range(60)})
    lines = [f"{number}.png,{'test' if number % 3 == 0 else 'train'},p{number // 2}" for number in range(60)]
    (folder / "t.csv").write_text("\n".join(["image,split,patient_id", *lines]))
    splits = load_splits(folder)
    assert len(splits["test"]) == 20 and 0 < len(splits["validation"]) < 20
    assert not set(splits["train"]["patient_id"]) & set(splits["validation"]["patient_id"])


def test_dicom_headers_tell_patient_sex_and_age(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    for name, patient in (("IM1", "P7"), ("DX.1.2.45", "P7")):
        (tmp_path / name).write_bytes(tiny.dicom(np.arange(480, dtype=np.uint16).reshape(24, 20) + len(name)))
        header = pydicom.dcmread(tmp_path / name)
        header.PatientID, header.PatientSex, header.PatientAge = patient, "F", "045Y"
        header.save_as(tmp_path / name)
    found = all_rows(tmp_path)
    assert {(row["patient_id"], row["sex"], row["age_years"]) for row in found.values()} == {("P7", 0, 45.0)}
    assert len(found) == 2


def test_parquet_folders_and_saved_datasets(own: Path, rows: list[dict], tmp_path: Path) -> None:
    splits = load_splits(DataRequest(str(own), **MEANING))
    for split, one in splits.items():
        one.to_parquet(tmp_path / "parquet" / f"{split}-00000-of-00001.parquet")
    splits.save_to_disk(str(tmp_path / "saved"))
    datasets.concatenate_datasets(list(splits.values())).to_parquet(tmp_path / "all.parquet")
    expected = all_rows(DataRequest(str(own), **MEANING))
    for source in (tmp_path / "parquet", tmp_path / "saved", tmp_path / "all.parquet"):
        found = all_rows(source)
        assert found.keys() == expected.keys()
        for id, row in found.items():
            same = ("patient_id", "label", "sex", "age_years")
            assert [row[name] for name in same] == [expected[id][name] for name in same]
            assert (row["mask"] is None) == (expected[id]["mask"] is None)
        if source.is_dir():
            assert {split: len(one) for split, one in load_splits(source).items()} == {
                split: len(one) for split, one in splits.items()
            }


def test_pushed_set_is_the_set(phantoms: Path, rows: list[dict], hub, as_user, tmp_path: Path) -> None:
    from hub_models.hub.dataset_export import export
    from hub_models.hub.export_config import ExportConfig

    with as_user("alice"):
        export(ExportConfig(data_dir=phantoms, output=tmp_path / "out", repo_id="alice/chest_xray_masks"))
        splits = load_splits("alice/chest_xray_masks")
        assert {split: one["id"] for split, one in splits.items()} == {
            split: one["id"] for split, one in load_splits(phantoms).items()
        }
        assert len(load_splits(DataRequest("alice/chest_xray_masks", revision="main"))["train"]) == len(
            splits["train"]
        )
        with pytest.raises(FileNotFoundError, match="alice/nothing"):
            load_splits("alice/nothing")


@pytest.mark.parametrize(
    ("files", "request_of", "said"),
    [
        ({}, {}, "no chest X-rays in"),
        ({"t.csv": "file,dx\na.png,maybe\n"}, {"columns": "label=dx"}, "'maybe'"),
        ({"t.csv": "file,dx\na.png,maybe\n"}, {"columns": "label=dx", "positive": "TB"}, "'maybe'"),
        ({"t.csv": "file,dx\na.png,1\n"}, {"columns": "label=diagnosis"}, "file, dx"),
        ({"t.csv": "file,dx\na.png,1\n"}, {"columns": "colour=dx"}, "'colour'"),
        ({"t.csv": "file,dx\na.png,1\na.png,0\n"}, {}, "several rows of a.png"),
        ({"t.csv": "file,split\na.png,fold7\n"}, {}, "'fold7'"),
        ({"t.csv": "who,what\nx,y\n"}, {"table": "t.csv"}, "no column"),
        ({"t.csv": "file,file\na.png,1\n"}, {}, "several columns 'file'"),
        ({"t.csv": "file\na.png,1,2\n"}, {}, "row 2"),
        ({"t.csv": "file,mask\na.png,no.png\n"}, {}, "no.png"),
        ({"t.csv": "image,label\na.png,1\n", "u.csv": "image,label\na.png,0\n"}, {}, "--table"),
        ({}, {"table": "none.csv"}, "none.csv"),
        ({"t.parquet": "PAR1"}, {"table": "t.parquet"}, "t.parquet"),
    ],
)
def test_what_cannot_be_understood_is_asked_for(
    files: dict[str, str], request_of: dict[str, str], said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    if files or request_of:
        small(folder, {"a.png": 1})
    for name, text in files.items():
        (folder / name).write_text(text)
    if "table" in request_of:
        request_of = request_of | {"table": str(folder / request_of["table"])}
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_splits(DataRequest(str(folder), **request_of))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_damage_and_two_masks_are_named(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"images/a.png": 1, "masks/a.png": 2, "masks/a_mask.png": 3})
    with pytest.raises(ValueError, match=r"masks/a.png and masks/a_mask.png"):
        load_splits(folder)
    (folder / "masks" / "a_mask.png").unlink()
    (folder / "images" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"images/a.png"):
        load_splits(folder)


def test_cells_with_paths_alone_are_not_opened(own: Path, tmp_path: Path) -> None:
    path = next((own / "xrays").iterdir())
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict(
        {"image": [{"path": str(path), "bytes": None}], "label": [1]}, features=features
    )
    pyarrow.parquet.write_table(table.with_format("arrow")[:], tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="row 0"):
        load_splits(tmp_path / "t.parquet")


def test_masks_that_can_hardly_be_of_lungs_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "in", {"images/a.png": 1, "images/b.png": 2})
    (folder / "masks").mkdir()
    for name, value in (("a", 255), ("b", 0)):
        Image.fromarray(np.full((24, 20), value, np.uint8)).save(folder / "masks" / f"{name}.png")
    with caplog.at_level(logging.WARNING):
        load_splits(folder)
    assert "the mask of a" in caplog.text and "the mask of b" in caplog.text


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "in", {"a.png": 1, "b.png": 2, "masks/c.png": 3})
    (folder / "t.csv").write_text("file,sex\na.png,robot\ngone.png,M\n")
    with caplog.at_level(logging.WARNING):
        load_splits(folder)
    for said in ("gone.png", "b.png", "c.png", "robot"):
        assert said in caplog.text


def test_table_that_names_no_xray_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, said = small(tmp_path / "in", {"a/x.png": 1, "b/x.png": 2}), []
    (folder / "labels.csv").write_text("image,TB\nx.png,1\ny.png,0\n")  # two files, and none
    load_splits(DataRequest(str(folder)), said)
    assert any("labels.csv is not used" in line for line in said) and "no column of labels.csv" in caplog.text


def test_what_a_command_wrote_is_no_xray_and_no_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "in", {"a.png": 1, "out/masks/a.png": 3, "fold/outlines.png": 4})
    (folder / "out" / "predict.json").write_text("{}")
    for name in ("results.json", "per_image.parquet"):  # all folds, or an evaluation
        (folder / "fold" / name).write_text("{}")
    (row,) = all_rows(folder).values()
    assert row["id"] == "a" and row["mask"] is None
    assert all(f"in/{name} is left out" in caplog.text for name in ("out", "fold"))
    assert all_rows(folder / "out" / "masks")  # which were asked for


def test_audit_of_any_source(own: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(own, tmp_path / "clinic")
    shutil.copy(folder / "xrays" / "pat_00_view1.png", folder / "xrays" / "again.png")
    Image.new("L", (80, 80)).save(folder / "seg" / "again.png")
    (folder / "xrays" / "pat_01_view1.png").write_bytes(b"no image")
    with (folder / "labels.csv").open("a") as file:
        file.write("again.png;healthy;new;;\r\n")
    found = report(DataRequest(str(folder), **MEANING), tmp_path / "audit.json", progress=False)
    assert found.counts["clinic"]["images"] == 61 and found.counts["clinic"]["tuberculosis"] > 20
    kinds = {one.kind: one.ids for one in found.findings}
    assert kinds["same pixels"] == ("again", "pat_00_view1") and kinds["unreadable file"] == ("pat_01_view1",)
    assert kinds["empty mask"] == ("again",)
    assert json.loads((tmp_path / "audit.json").read_text())["is_own"] is True


def test_audit_says_the_labels_of_one_picture(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"a.png": 1, "b.png": 1, "c.png": 2, "d.png": 2})
    (folder / "labels.csv").write_text("file,label\na.png,normal\nb.png,tuberculosis\nc.png,normal\nd.png,normal\n")
    found = report(DataRequest(str(folder)), progress=False)
    said = {one.ids: one.message for one in found.findings if one.kind == "same pixels"}
    assert said == {("a", "b"): "labelled normal and tuberculosis", ("c", "d"): ""}


@pytest.mark.parametrize(
    "head, kind",
    [(b"\0\0\0\x18ftypheic\0\0", "HEIC"), (b"8BPS\0\1", "Photoshop"), (camera_tiff(), "a camera's raw image")],
)
def test_kinds_that_are_not_read_are_named(head: bytes, kind: str, tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"a.png": 1})
    (folder / "photo.png").write_bytes(head)
    with pytest.raises(ValueError, match=rf"photo.png is .*{kind}.*, which is not read: save it as"):
        load_splits(DataRequest(str(folder)))
    (finding,) = report(DataRequest(str(folder)), progress=False).of_kind("unreadable file")
    assert kind in finding.message
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": head, "path": None}]}, features)
    rows.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=f"row 0 of .*{kind}"):
        load_splits(DataRequest(str(tmp_path / "rows.parquet")))


def test_audit_says_whose_patients_are_not_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "in", {"a.png": 1, "b.png": 2, "c.png": 3})
    (folder / "labels.csv").write_text("file,person\na.png,P1\nb.png,P1\nc.png,\n")
    report(DataRequest(str(folder)), progress=False)
    assert "no patient of 3 X-rays of 3 (a, ...)" in caplog.text and "--columns patient_id=COLUMN" in caplog.text
    caplog.clear()
    report(DataRequest(str(folder), columns="patient_id=person"), progress=False)
    assert "no patient of 1 X-rays of 3 (c, ...)" in caplog.text


def test_audit_takes_no_columns_for_the_set(phantoms: Path) -> None:
    with pytest.raises(ValueError, match="holds X-rays of the set alone"):
        report(DataRequest(str(phantoms), columns="label=nonsense"))


def test_masks_in_the_place_of_xrays_are_found(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number, values in enumerate(((0, 255), (17, 90), (0, 128, 255))):
        picture = np.resize(np.array(values, np.uint8), (64, 60))
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{number}.png")
    found = report(DataRequest(str(tmp_path)))
    assert [one.ids for one in found.of_kind("X-ray of two gray values")] == [("0",), ("1",)] and found.is_off
    assert ADVICE_OF_OWN.keys() < KINDS.keys()


@pytest.mark.parametrize(
    ("values", "proposal"),
    [
        (["1", "0", "-1"], "VALUE"),
        (["1", "2"], "VALUE"),
        (["Tuberculosis", "TBC", "TB", "pneumonia"], "Tuberculosis,TBC,TB"),
    ],
)
def test_proposed_positives_turn_no_known_one_around(values: list[str], proposal: str) -> None:
    with pytest.raises(ValueError, match=f'as in --positive "{proposal}"'):
        labels_of(values, Labels(), "the label column")
    assert labels_of(["-1", "1", "0"], parse_positive("1"), "it") == [0, 1, 0]


def test_columns_are_written_in_any_way() -> None:
    expected = {"image": "Image Index", "label": "dx", "age": "Age (years)"}
    for text in ("image=Image Index,label=dx, age=Age (years)", "image=Image Index label=dx age=Age (years)"):
        assert parse_columns(text) == expected
    assert parse_columns(None) == parse_columns("") == {}


@pytest.mark.parametrize(
    ("files", "table", "labels"),
    [
        (["TB/001.png", "normal/002.png"], "path,label\nTB/003.png,1\nnormal/002.png,0\n", {"002": 0}),
        (["normal/001.png", "normal/002.png"], "path,label\nTB/001.png,1\nnormal/002.png,0\n", {"002": 0}),
        (["a.png", "b.png"], "path,label\n/home/me/images/a.png,1\nC:\\x\\b.png,0\n", {"a": 1, "b": 0}),
        (["a/x.png", "b/x.png"], "path,label\nb/x,1\na/x,0\n", {"b/x": 1, "a/x": 0}),
        (["e\u0301.png"], "path,label\n\u00e9.png,1\n", {"e\u0301": 1}),
        (["a.png"], "path,label,patient\na.png,1.0,NA\n", {"a": 1}),
        (["a.png"], "sep=;\npath;label\na.png;1\n", {"a": 1}),
    ],
)
def test_rows_are_of_the_file_that_they_name(
    files: list[str], table: str, labels: dict[str, int], tmp_path: Path
) -> None:
    folder = small(tmp_path / "in", {name: number for number, name in enumerate(files)})
    (folder / "t.csv").write_text(table)
    assert {id: row["label"] for id, row in all_rows(folder).items()} == labels


def test_columns_that_name_other_xrays_are_asked_about(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {f"{number}.png": number for number in range(3)})
    (folder / "t.csv").write_text("bed,number,label\n2,0,1\n1,1,0\n0,2,0\n")
    with pytest.raises(ValueError, match="bed, number"):
        load_splits(folder)
    assert all_rows(DataRequest(str(folder), columns="image=number"))["0"]["label"] == 1


def test_table_in_a_folder_names_files_beside_it(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"1.png": 1, "a/1.png": 2})
    (folder / "a" / "t.csv").write_text("file,label\n1.png,1\n")
    for request in (DataRequest(str(folder)), DataRequest(str(folder), table=str(folder / "a" / "t.csv"))):
        (row,) = all_rows(request).values()
        assert np.asarray(row["image"])[0, 0] == np.random.default_rng(2).integers(0, 255, (24, 20), np.uint8)[0, 0]


def test_named_columns_choose_the_table(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"a.png": 1})
    (folder / "a.csv").write_text("file,tb,culture\na.png,0,1\n")
    (folder / "b.csv").write_text("file,site\na.png,X\n")
    (folder / "notes.csv").write_text("")
    assert all_rows(DataRequest(str(folder), columns="label=culture"))["a"]["label"] == 1
    assert all_rows(DataRequest(str(folder), table=str(folder / "a.csv"), columns="label=-"))["a"]["label"] is None


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_columns_of_another_source_hold_where_they_are(kind: str, tmp_path: Path) -> None:
    """As those of --data do for --test: all where all are there, guessed where none is."""

    def labels(header: str, columns: str) -> list[int | None]:
        folder = small(tmp_path / "in", {"a.png": 1, "b.png": 2})
        (folder / "t.csv").write_text(f"file,{header}\na.png,1,P1\nb.png,0,P2\n")
        source = folder
        if kind == "parquet":
            cells = [{"path": None, "bytes": (folder / f"{name}.png").read_bytes()} for name in "ab"]
            label, patient = header.split(",")
            rows = datasets.Dataset.from_dict({"file": cells, label: [1, 0], patient: ["P1", "P2"]})
            source = tmp_path / "in.parquet"
            rows.cast_column("file", datasets.Image()).to_parquet(source)
        found = all_rows(DataRequest(str(source), columns=columns, is_other=True))
        assert {row["patient_id"] for row in found.values()} == {"P1", "P2"}
        return [found[id]["label"] for id in sorted(found)]

    assert labels("dx,patient", "label=dx, patient_id=patient") == [1, 0]
    assert labels("label,patient", "label=dx, patient_id=who") == [1, 0]
    assert labels("label,patient", "label=-, patient_id=who") == [None, None]
    with pytest.raises(ValueError, match=r"in.* has no column for patient_id=who: it has file, dx, patient; "):
        labels("dx,patient", "label=dx, patient_id=who")


def test_columns_of_another_source_need_no_table(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"TB/a.png": 1, "normal/b.png": 2})
    found = all_rows(DataRequest(str(folder), columns="label=dx", is_other=True))
    assert {id: row["label"] for id, row in found.items()} == {"a": 1, "b": 0}


def test_xray_is_no_mask(tmp_path: Path) -> None:
    folder = small(tmp_path / "in", {"images/1.png": 1, "images/2.png": 2})
    (folder / "t.csv").write_text("image,mask\nimages/1.png,masks/1.png\nimages/2.png,images/1.png\n")
    with pytest.raises((ValueError, FileNotFoundError), match="1.png"):
        load_splits(folder)
    small(folder, {"masks/1.png": 3})
    (folder / "t.csv").write_text("image,mask\nimages/1.png,1.png\nimages/2.png,\n")
    found = all_rows(folder)
    assert found["1"]["mask"] is not None and found["2"]["mask"] is None


def test_masks_of_one_lung_or_of_another_folder_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "in", {"B/images/1.png": 1, "A/masks/1.png": 2, "B/images/2.png": 3})
    small(folder, {"B/masks/left/2.png": 4})
    with caplog.at_level(logging.WARNING):
        assert [row["mask"] for row in all_rows(folder).values()] == [None, None]
    assert "2 masks belong to no X-ray, or cover only one lung" in caplog.text


def test_nested_folders_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "in", {"TB/1.png": 1, "TB/old/2.png": 2, "normal/p/3.png": 3, "flu/4.png": 4})
    with caplog.at_level(logging.WARNING):
        found = {id: row["label"] for id, row in all_rows(folder).items()}
    assert found == {"1": 1, "2": 1, "3": 0, "4": None} and "flu (1)" in caplog.text
    found = {id: row["label"] for id, row in all_rows(DataRequest(str(folder), positive="TB")).items()}
    assert found == {"1": 1, "2": 1, "3": 0, "4": 0}
    with pytest.raises(ValueError, match="--positive"):
        load_splits(DataRequest(str(folder), positive="tuberculoma"))
    small(folder, {"TB/normal/5.png": 5})
    with pytest.raises(ValueError, match="both classes"):
        load_splits(folder)


def test_saved_dataset_opens_no_path(tmp_path: Path) -> None:
    secret = small(tmp_path / "secret", {"private.png": 1}) / "private.png"
    plain = {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    cell = {"path": str(secret), "bytes": None}
    datasets.Dataset.from_dict({"image": [cell]}, features=datasets.Features(plain)).save_to_disk(tmp_path / "saved")
    info = json.loads((tmp_path / "saved" / "dataset_info.json").read_text()) | {"builder_name": "imagefolder"}
    info["features"]["image"] = {"_type": "Image"}
    (tmp_path / "saved" / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="row 0"):
        load_splits(tmp_path / "saved")


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_column_of_bytes_holds_images(own: Path, tmp_path: Path, kind: pyarrow.DataType) -> None:
    """As programs other than `datasets` write them, in a file or a folder of files."""
    xrays = [path.read_bytes() for path in sorted((own / "xrays").rglob("*.png"))[:2]]
    mask = tiny.png(np.full(np.asarray(Image.open(io.BytesIO(xrays[0]))).shape, 255, np.uint8))
    columns = {"img": pyarrow.array(xrays, kind), "mask": pyarrow.array([mask, None], kind), "label": ["tb", "normal"]}
    (tmp_path / "in").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "in" / "a.parquet")
    for source in (tmp_path / "in", tmp_path / "in" / "a.parquet"):
        found = datasets.concatenate_datasets(list(load_splits(source).values())).sort("label")
        assert [found.features["label"].int2str(one) for one in found["label"]] == ["normal", "tuberculosis"]
        cells = with_files(found)
        assert [row["image"]["bytes"] for row in cells] == xrays[::-1]
        assert [row["mask"] is None for row in cells] == [True, False]


def test_column_of_bytes_and_paths_holds_images(tmp_path: Path) -> None:
    """As `datasets` writes one, but without its note of what it is."""
    cell = {"bytes": tiny.png(np.arange(64, dtype=np.uint8).reshape(8, 8)), "path": None}
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({"image": pyarrow.array([cell], kind), "label": ["tb"]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    (row,) = (row for part in load_splits(tmp_path / "in.parquet").values() for row in with_files(part))
    assert (row["image"]["bytes"], row["mask"], row["label"]) == (cell["bytes"], None, 1)


@pytest.mark.parametrize(
    "folder", ["segmentation_masks", "ground truth", "GT", "labels", "Annotations", "roi", "Masken", "targets"]
)
def test_folders_of_masks_by_other_words(folder: str, tmp_path: Path) -> None:
    small(tmp_path / "images", {"a.png": 1, "b.png": 2})
    small(tmp_path / folder, {"a.png": 3, "b.png": 4})
    xrays = folder_xrays(DataRequest(str(tmp_path)))
    assert xrays is not None
    assert [(xray.id, [mask.name for mask in xray.masks]) for xray in xrays] == [
        (id, [str(tmp_path / folder / f"{id}.png")]) for id in ("a", "b")
    ]


def test_patient_in_several_splits_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "in", {"a.png": 1, "b.png": 2, "c.png": 3})
    rows = "file,patient,split\na.png,P1,train\nb.png,P1,test\nc.png,P2,train\n"
    (folder / "labels.csv").write_text(rows)
    found = report(DataRequest(str(folder)), progress=False).findings
    assert [(one.ids, one.message) for one in found if one.kind == "patient in several splits"] == [
        (("a", "b"), "patient P1: test, train")
    ]
    said: list[str] = []
    load_splits(folder, said)
    assert "X-rays in several splits: those of 1 patient (P1, ...)" in said and said[-1] in caplog.text


def test_named_positive_that_no_x_ray_has_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "in", {"TB/a.png": 1, "COVID/b.png": 2, "normal/c.png": 3})
    load_splits(DataRequest(str(folder), positive="tb,covid19"))
    assert "--positive names covid19, and there is no such value in the folders of" in caplog.text
    assert "(counted as normal: covid, normal)" in caplog.text
    caplog.clear()
    labels_of(["TB", "Effusion", ""], parse_positive("tb,efusion"), "the table")
    assert (
        "--positive names efusion, and there is no such value in the table (counted as normal: effusion)"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (("Tuberkulose/a.png", "gesund/b.png"), "Tuberkulose (1), gesund (1)"),
        (("A/TB/a.png", "A/other/b.png", "B/normal/c.png", "B/other/d.png"), "other (2)"),
    ],
)
def test_folders_of_no_known_class_are_named(
    paths: tuple[str, ...], named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_splits(small(tmp_path / "in", {path: number for number, path in enumerate(paths)}))
    assert f"no label: {named}; if one is of tuberculosis, name it with --positive" in caplog.text


def test_sites_are_chosen_of_the_set_alone(own: Path) -> None:
    with pytest.raises(ValueError, match="config_name MC chooses X-rays of the set, and .*clinic is not the set"):
        load_splits(DataRequest(str(own), "MC"))


def test_table_is_named_from_its_folder_too(own: Path) -> None:
    assert len(folder_xrays(DataRequest(str(own), table="labels.csv", **MEANING)) or []) == 60


def test_spreadsheet_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small(tmp_path / "in", {"a.png": 1})
    (folder / "labels.xlsx").write_bytes(b"PK")
    load_splits(folder)
    assert f"warning: {folder} holds 1 spreadsheet, not read: save the table" in caplog.text
    with pytest.raises(ValueError, match="labels.xlsx is a spreadsheet, which is not read: save it as CSV"):
        load_splits(folder / "labels.xlsx")


def test_lists_of_images_are_no_column_of_images(tmp_path: Path) -> None:
    kind = datasets.Features({"images": datasets.List(datasets.Image()), "label": datasets.Value("int64")})
    cell = {"bytes": tiny.png(np.zeros((8, 8), np.uint8)), "path": None}
    datasets.Dataset.from_dict({"images": [[cell]], "label": [1]}, kind).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(ValueError, match="in.parquet has no column of images: it has images, label; pass data"):
        load_splits(tmp_path / "in.parquet")


def test_parquet_with_a_picture_beside_it_is_read(own: Path, tmp_path: Path) -> None:
    rows = datasets.concatenate_datasets(list(load_splits(DataRequest(str(own), **MEANING)).values()))
    rows.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    small(tmp_path / "set", {"overview.png": 1})
    assert len(all_rows(tmp_path / "set")) == 60
