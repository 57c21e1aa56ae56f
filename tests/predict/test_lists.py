import base64
import tracemalloc
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from test_inputs import keys, opened
from tiny import image_png, write_tree

from hub_models.predict import lists
from hub_models.predict.inputs import find_sources

PNGS = {"a b.png": image_png("MCUCXR_0001_0"), "胸部_01.png": image_png("CHNCXR_0001_0")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tree(PNGS | {"sub/é.png": PNGS["a b.png"]}, tmp_path)


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_list_is_read_in_any_unicode(folder: Path, name: str, encoding: str) -> None:
    lines = ["path"] * (name == "list.csv") + list(PNGS)
    (folder / name).write_bytes("\r\n".join(lines).encode(encoding))
    assert opened(find_sources(str(folder / name))) == PNGS


def test_list_of_windows_is_read_and_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "list.csv").write_bytes("path;note\r\nsub\\é.png;œdème\r\n".encode("cp1252"))
    assert opened(find_sources(str(folder / "list.csv"))) == {"sub\\é.png": PNGS["a b.png"]}
    assert "list.csv" in caplog.text and "Windows-1252" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("x.csv", "path;age\na b.png;31\n胸部_01.png;40\n", list(PNGS)),
        ("x.csv", "sep=;\nage;path\n31;a b.png\n", ["a b.png"]),
        ("x.csv", "age\tpath\n31\ta b.png\n", ["a b.png"]),
        ("x.csv", "age|Path\n31|a b.png\n", ["a b.png"]),
        ("x.tsv", "File Name\tage\na b.png\t31\n", ["a b.png"]),
        ("x.txt", "path\tage\na b.png\t31\n", ["a b.png"]),
        ("x.csv", 'Image Index,Finding Labels\na b.png,"Mass, Nodule"\n', ["a b.png"]),
        ("x.csv", "study_id,sex,age,findings\na b.png,male,31,normal\n", ["a b.png"]),
        ("x.csv", "study_id,path\n7,a b.png\n", ["a b.png"]),  # the first of the known columns
        ("x.csv", "path,age\n.\\a b.png,31\n", [".\\a b.png"]),
        ("x.txt", '"a b.png"\n', ["a b.png"]),
        ("x.txt", "sub\\..\\a b.png\n", ["sub\\..\\a b.png"]),
        ("x.txt", "a b.png;31\n", ["a b.png;31"]),  # no table: a row that says that there is no such file
    ],
)
def test_table_is_read_by_its_separator_and_column(folder: Path, name: str, text: str, found: list[str]) -> None:
    (folder / name).write_text(text)
    sources = find_sources(str(folder / name))
    assert keys(sources) == found
    if ";" not in found[0]:
        assert set(opened(sources).values()) <= set(PNGS.values())


def test_files_of_a_table_are_found_below_its_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    two = {"images/one.png": PNGS["a b.png"], "images/2.png": PNGS["胸部_01.png"], "more/2.png": PNGS["a b.png"]}
    write_tree(two | {"out/overlays/gone.png": PNGS["a b.png"], "out/predict.json": b"{}"}, folder)
    (folder / "x.csv").write_text("image,label\none,TB\nimages/2.png,TB\na b.png,TB\n")
    first, second, third = opened(find_sources(str(folder / "x.csv"))).values()
    assert (first, second, third) == (PNGS["a b.png"], PNGS["胸部_01.png"], PNGS["a b.png"])
    for name in ("2", "gone.png", "other/2.png"):  # two files; what a prediction job wrote; in another folder
        (folder / "x.csv").write_text(f"image\n{name}\n")
        with pytest.raises(FileNotFoundError, match=f"{name}, and no single file below"):
            opened(find_sources(str(folder / "x.csv")))


def test_a_list_of_paths_or_a_closed_folder_is_not_searched(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    walks = []

    def walk(root: Path) -> None:
        walks.append(root)
        raise PermissionError("closed")

    monkeypatch.setattr(lists, "list_folder", walk)
    (folder / "x.txt").write_text("é.png\n")  # which is in sub/
    with pytest.raises(FileNotFoundError):
        opened(find_sources(str(folder / "x.txt")))
    assert not walks
    (folder / "x.csv").write_text("image\né.png\nother.png\n")
    sources = find_sources(str(folder / "x.csv"))
    for _, open_source in sources.stream(sources.index):
        with pytest.raises(FileNotFoundError, match="no single file below"):
            open_source()
    assert walks == [folder] and "closed" in caplog.text


def test_backslash_in_the_name_of_a_file_here_stays(folder: Path) -> None:
    write_tree({"a\\b.png": PNGS["a b.png"]}, folder)
    (folder / "x.txt").write_text("a\\b.png\n")
    assert opened(find_sources(str(folder / "x.txt"))) == {"a\\b.png": PNGS["a b.png"]}


LABELS = (
    "File,Label,site,case,split\na b.png,TB,Kampala,p1,test\n胸部_01.png,,Gulu,p2,test\na b.png,normal,X,p3,train\n"
)


def test_label_site_and_split_are_carried_over(folder: Path) -> None:
    (folder / "x.csv").write_text(LABELS)
    index = find_sources(str(folder / "x.csv")).index
    assert list(index["source"]) == list(PNGS)  # each once, the first line counts
    assert [list(index[name]) for name in ("label", "site", "split")] == [
        ["TB", None],
        ["Kampala", "Gulu"],
        ["test", "test"],
    ]


def test_id_column_names_the_rows(folder: Path) -> None:
    (folder / "x.csv").write_text(LABELS)
    sources = find_sources(str(folder / "x.csv"), id_column="case")
    assert opened(sources) == {"p1": PNGS["a b.png"], "p2": PNGS["胸部_01.png"], "p3": PNGS["a b.png"]}
    assert list(sources.index["label"]) == ["TB", None, "normal"]
    write_tree({"x.txt": b"a b.png"}, folder)
    for images, column, message in (
        ("x.csv", "number", r"x\.csv has the columns \['File', .*none is number"),
        ("x.csv", "split", "split test is in .*x.csv twice"),
        ("x.csv", "Label", "1 rows of .*x.csv have no Label"),
        ("x.txt", "case", r"x\.txt is a list of paths without columns"),
        ("", "case", "has no column case"),
        ("a b.png", "case", "has no column case"),
    ):
        with pytest.raises(ValueError, match=message):
            find_sources(str(folder / images), id_column=column)


def test_spreadsheet_is_named(folder: Path) -> None:
    (folder / "x.xlsx").write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match=r"x\.xlsx is a spreadsheet, .*: save it as CSV"):
        find_sources(str(folder / "x.xlsx"))


def test_long_table_takes_little_memory(folder: Path) -> None:
    count = 50_000
    (folder / "x.csv").write_text("path\n" + "\n".join(f"xrays/{number:09d}.png" for number in range(count)))
    tracemalloc.start()
    sources = find_sources(str(folder / "x.csv"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sources.index) == count and peak < 400 * count
    assert "label" not in sources.index.column_names


# Parquet


def parquet(folder: Path, **columns: object) -> str:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "x.parquet")
    return str(folder / "x.parquet")


def test_base64_in_a_table_is_an_image(folder: Path) -> None:
    texts = [base64.b64encode(png).decode() for png in PNGS.values()]
    texts[1] = f"data:image/png;base64,{texts[1]}"
    for column in ("image", "scan"):
        sources = find_sources(parquet(folder, **{column: texts}), column=None if column == "image" else column)
        assert list(opened(sources).values()) == list(PNGS.values())


def test_paths_in_a_table_here_are_relative_to_it(folder: Path) -> None:
    name = parquet(folder, path=["a b.png", "sub\\é.png", str(folder / "a b.png")])
    sources = find_sources(name, column="path", allow_paths=True)
    assert list(opened(sources).values()) == [PNGS["a b.png"]] * 3
    with pytest.raises(ValueError, match=r"x\.parquet has no image column, but \['path'\]: .*--allow_paths"):
        find_sources(name)


@pytest.mark.parametrize("cell", [PNGS["a b.png"], {"bytes": PNGS["a b.png"], "path": None}])
def test_lists_of_images_are_named(folder: Path, cell: object) -> None:
    for column in (None, "images"):
        with pytest.raises(ValueError, match=r"x\.parquet holds lists in images: write a table with one X-ray in"):
            find_sources(parquet(folder, images=[[cell, cell], [cell]]), column=column)


def test_columns_of_parquet_are_carried_over_by_their_names(folder: Path) -> None:
    rows = datasets.Dataset.from_dict(
        {"image": [*PNGS.values()], "label": [1, 0], "case": ["x", "y"], "split": [1, 2]}
    )
    rows = rows.cast_column("label", datasets.ClassLabel(names=["normal", "tuberculosis"]))
    rows.to_parquet(folder / "x.parquet")
    index = find_sources(str(folder / "x.parquet"), id_column="case").index
    assert [list(index[name]) for name in ("source", "label", "split")] == [
        ["x", "y"],
        ["tuberculosis", "normal"],
        ["1", "2"],
    ]
    digest = find_sources(str(folder / "x.parquet")).digest
    rows.map(lambda row: {"split": row["split"] + 1}).to_parquet(folder / "x.parquet")
    assert find_sources(str(folder / "x.parquet")).digest != digest


def test_dataset_carries_its_splits(phantoms) -> None:
    sources = find_sources("chest_xray_masks", "MC", data_dir=str(phantoms))
    assert set(sources.index["split"]) <= {"train", "validation", "test"}
    assert set(sources.index["label"]) == {"normal", "tuberculosis"} and set(sources.index["site"]) == {"Montgomery"}
    readings = find_sources("chest_xray_masks", "MC", data_dir=str(phantoms), id_column="patient_id", split="test[:1]")
    assert len(readings.index) == 1 and "_" in readings.index[0]["source"]
