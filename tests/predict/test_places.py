"""X-rays of strangers: what is named in folders, zips, lists and tables and is not opened, and how that is said."""

import csv
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from test_foreign_files import IRREGULAR, ROOT, as_nobody  # noqa: F401  a fixture
from tiny import image_png, write_tree, write_zip, zip_bytes

from hub_models.imaging.source import open_image
from hub_models.predict.index import Sources
from hub_models.predict.inputs import find_sources

PNG = image_png("MCUCXR_0001_0")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="others have no such files")


def said(sources: Sources) -> dict[str, str]:
    """The error of each X-ray by its key; empty where it can be read."""
    found = {}
    for row, open_source in sources.stream(sources.index):
        try:
            open_image(open_source())
            found[row["source"]] = ""
        except Exception as error:  # as the reader: whatever it raises
            found[row["source"]] = str(error)
    return found


# Only regular files

CHILD = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
from test_places import find_sources, said
print(json.dumps([said(find_sources(images)) for images in sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", IRREGULAR)
def test_what_is_no_file_takes_neither_time_nor_memory(kind: str, tmp_path: Path) -> None:
    folder = write_tree({"a/sound.png": PNG}, tmp_path / "xrays")
    IRREGULAR[kind](folder / "a" / "x.png")
    IRREGULAR[kind](folder / "a" / "notes")  # not by an image's name
    (tmp_path / "list.txt").write_text(f"{folder}/a/x.png\n{folder}/a/sound.png")
    (tmp_path / "list.csv").write_text(f"path\n{folder}/a/x.png\n{folder}/a/sound.png")
    ways = [folder, f"{folder}/a/*.png", f"{folder}/**", tmp_path / "list.txt", tmp_path / "list.csv"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, ways)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'predict'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for rows in json.loads(done.stdout):
        errors = {Path(key).name: error for key, error in rows.items()}
        assert "x.png" in errors.pop("x.png") and errors.pop("sound.png") == "" and not errors


@pytest.mark.parametrize("name", ["x.png", "list.txt", "xrays.zip", "xrays.parquet"])
@pytest.mark.parametrize("kind", ["FIFO", "link to itself", "device"])
def test_what_is_no_file_is_refused_as_data(kind: str, name: str, tmp_path: Path) -> None:
    IRREGULAR[kind](tmp_path / name)
    with pytest.raises((ValueError, OSError), match=name):
        find_sources(str(tmp_path / name))


def test_folder_of_an_image_s_name_in_a_zip_is_a_row(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "xrays.zip", "w") as archive:
        archive.writestr("a/", b"")
        archive.writestr("a/x.png/", b"")
        archive.writestr("a/sound.png", PNG)
    errors = said(find_sources(str(tmp_path / "xrays.zip")))
    assert "empty" in errors.pop("a/x.png/") and errors == {"a/sound.png": ""}


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
@pytest.mark.parametrize("pattern", ["", "/**", "/*/*.png", "/*/*"])
def test_folder_that_may_not_be_read_is_a_row(pattern: str, mode: int, as_nobody: Path) -> None:  # noqa: F811
    write_tree({"a/x.png": PNG, "sub/y.png": PNG}, as_nobody)
    (as_nobody / "sub").chmod(mode)
    try:
        errors = said(find_sources(f"{as_nobody}{pattern}"))
    finally:
        (as_nobody / "sub").chmod(0o700)
    assert errors.pop("a/x.png") == ""
    ((key, error),) = errors.items()
    assert key.startswith("sub") and ("ermission denied" in error or "may not be read" in error)


def test_folder_that_may_not_be_read_is_told_before_tables_are(as_nobody: Path) -> None:  # noqa: F811
    pyarrow.parquet.write_table(pyarrow.table({"image": [PNG]}), as_nobody / "xrays.parquet")
    (as_nobody / "sub").mkdir(0o000)
    try:
        with pytest.raises(ValueError, match=r"holds tables, and sub that cannot be read"):
            find_sources(str(as_nobody))
        assert not any(said(find_sources(f"{as_nobody}/*.parquet")).values())
        (as_nobody / "sub").chmod(0o700)
        as_nobody.chmod(0o000)
        with pytest.raises(PermissionError):
            find_sources(str(as_nobody))
    finally:
        as_nobody.chmod(0o700)


def test_glob_is_not_concerned_with_folders_it_does_not_name(as_nobody: Path) -> None:  # noqa: F811
    write_tree({"a/x.png": PNG}, as_nobody)
    (as_nobody / "sub").mkdir(0o000)
    try:
        assert said(find_sources(f"{as_nobody}/a*/*.png")) == {"a/x.png": ""}
        assert said(find_sources(f"{as_nobody}/a/*.png")) == {"x.png": ""}
    finally:
        (as_nobody / "sub").chmod(0o700)


# Zips


@pytest.mark.slow
def test_gigabytes_of_zeros_in_a_zip_are_rows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "xrays.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sound.png", PNG)
        for name in ("x.png", "y.png", "IM0001"):
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(1024):
                    file.write(bytes(2**20))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "xrays.zip")],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'predict'}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    (rows,) = json.loads(done.stdout)
    assert rows.pop("sound.png") == "" and set(rows) == {"x.png", "y.png"}
    assert all("1073741824 bytes" in error and "get the zip again" in error for error in rows.values())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_member_of_another_method_is_a_row(method: int, tmp_path: Path) -> None:
    (tmp_path / "xrays.zip").write_bytes(zip_bytes({"x.png": bytes(2**24), "IM0001": bytes(2**24)}, method))
    errors = said(find_sources(str(tmp_path / "xrays.zip")))
    assert set(errors) == {"x.png", "IM0001"} and all(f"method {method}" in error for error in errors.values())


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_zip_in_a_zip_or_folder_is_told(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"sound.png": PNG, "more.zip": zip_bytes({"x.png": PNG})}
    source = write_zip(files, tmp_path / "xrays.zip") if kind == "zip" else write_tree(files, tmp_path / "xrays")
    assert said(find_sources(str(source))) == {"sound.png": ""}
    assert "holds 1 zips, which are not read: unpack them" in caplog.text


def test_member_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "xrays.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x.png", PNG)
        archive.writestr("x.png", image_png("CHNCXR_0001_0"))
    with pytest.raises(ValueError, match=r"holds two files x\.png that differ"):
        find_sources(str(tmp_path / "xrays.zip"))


# Tables of strangers

SECRET = "a table of others could name any file or address: trust it with --allow_paths"
PLACES = {
    "path": lambda folder: str(folder / "secret" / "x.png"),
    "file": lambda folder: (folder / "secret" / "x.png").as_uri(),
    "local": lambda folder: f"local://{folder}/secret/x.png",
    "relative": lambda folder: os.path.relpath(folder / "secret" / "x.png"),
    "memory": lambda folder: "memory://secret/x.png",
    "chain": lambda folder: f"zip://x.png::{folder}/secret/x.zip",
    "simplecache": lambda folder: f"simplecache::{folder.as_uri()}/secret/x.png",
}
ADDRESSES = ("https://127.0.0.1:9/x.png", "s3://bucket/x.png", "zip://x.png::http://127.0.0.1:9/x.zip", "/etc/passwd")


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of an X-ray on a web server of this machine, and what the server was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(PNG)))
            self.end_headers()
            self.wfile.write(PNG if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/x.png", asked
        http.shutdown()


def with_secrets(folder: Path) -> list[str]:
    """Places of an X-ray of another patient, each of which can be opened."""
    write_tree({"secret/x.png": PNG, "secret/x.zip": zip_bytes({"x.png": PNG})}, folder)
    fsspec.filesystem("memory").pipe("/secret/x.png", PNG)
    return [place(folder) for place in PLACES.values()]


def table_of(places: list[str], path: Path) -> str:
    path.parent.mkdir(exist_ok=True)
    cells = [{"bytes": None, "path": place} for place in places]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    said_by_datasets = datasets.Features({"image": datasets.Image()}).arrow_schema.metadata
    table = pyarrow.table({"image": pyarrow.array(cells, kind)}).replace_schema_metadata(said_by_datasets)
    pyarrow.parquet.write_table(table, path)
    return str(path)


def test_places_in_parquet_are_opened_where_allowed_only(server: tuple[str, list[str]], tmp_path: Path) -> None:
    places = [*with_secrets(tmp_path), server[0]]
    table = table_of([*places, *ADDRESSES], tmp_path / "set" / "train.parquet")
    errors = list(said(find_sources(table)).values())
    assert not server[1]
    assert len(errors) == len(places) + 4 and all(SECRET in error for error in errors)
    allowed = list(said(find_sources(table, allow_paths=True)).values())
    assert allowed[: len(places)] == [""] * len(places) and not any(SECRET in error for error in allowed)
    assert server[1]
    assert find_sources(table).digest != find_sources(table, allow_paths=True).digest


def test_places_in_a_dataset_are_opened_where_allowed_only(server: tuple[str, list[str]], tmp_path: Path) -> None:
    places = [*with_secrets(tmp_path), server[0]]
    inside = write_tree({"set/x.png": PNG}, tmp_path) / "set" / "x.png"
    table_of([*places, *ADDRESSES, str(inside)], tmp_path / "set" / "data" / "train.parquet")
    inside.unlink()  # else the folder is one of images
    errors = said(find_sources(str(tmp_path / "set"), split="train"))
    assert not server[1]
    assert len(errors) == len(places) + 5 and all(SECRET in error for error in errors.values())
    allowed = said(find_sources(str(tmp_path / "set"), split="train", allow_paths=True))
    assert list(allowed.values())[: len(places)] == [""] * len(places)


def test_parquet_that_unpacks_to_far_more_than_it_takes_is_rows(tmp_path: Path) -> None:
    table = pyarrow.table({"image": [bytes(100 * 2**20), PNG]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", compression="zstd", row_group_size=1)
    errors = said(find_sources(str(tmp_path / "x.parquet")))
    assert "would unpack to 1048" in errors.pop("x.parquet/0") and errors == {"x.parquet/1": ""}
    rows = pyarrow.table({"image": pyarrow.nulls(1_000_000, pyarrow.binary())})
    pyarrow.parquet.write_table(rows, tmp_path / "many.parquet")
    with pytest.raises(ValueError, match=r"many\.parquet claims 1000000 rows in \d+ bytes"):
        find_sources(str(tmp_path / "many.parquet"))


def test_text_of_a_column_is_opened_where_allowed_only(tmp_path: Path) -> None:
    places = with_secrets(tmp_path)
    for column in ("image", "path"):
        table = tmp_path / f"{column}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"id": list(PLACES), column: places}), table)
        assert all(SECRET in error for error in said(find_sources(str(table), column=column)).values())
        assert said(find_sources(str(table), column=column, allow_paths=True)) == dict.fromkeys(PLACES, "")
    with pytest.raises(ValueError, match=r"path\.parquet has no image column, but \['id', 'path'\]"):
        find_sources(str(table))


def test_images_of_a_folder_are_its_own(tmp_path: Path) -> None:
    write_tree({"set/train/x.png": PNG, "set/train/y.png": PNG, "other.png": PNG}, tmp_path)
    of_folder = {"data_dir": str(tmp_path / "set"), "split": "train"}
    assert list(said(find_sources("imagefolder", **of_folder)).values()) == ["", ""]
    (tmp_path / "set" / "train" / "z.png").symlink_to(tmp_path / "other.png")
    errors = said(find_sources("imagefolder", **of_folder))
    assert sorted(SECRET in error for error in errors.values()) == [False, False, True]


def test_folder_whose_card_lists_images_elsewhere_is_no_dataset(tmp_path: Path) -> None:
    write_tree({"set/train/x.png": PNG, "others/secret.png": PNG}, tmp_path)
    card = f"---\nconfigs:\n- config_name: default\n  data_files: '{tmp_path}/others/*.png'\n---\n"
    (tmp_path / "set" / "README.md").write_text(card)
    with pytest.raises(
        ValueError, match="--split and --config_name are of a dataset or the set, and .*set is neither"
    ):
        find_sources(str(tmp_path / "set"), split="train")


def test_folder_that_lists_images_elsewhere_is_one_of_others(tmp_path: Path) -> None:
    write_tree({"set/train/x.png": PNG, "others/secret.png": PNG}, tmp_path)
    (tmp_path / "set" / "train" / "metadata.jsonl").write_text('{"file_name": "../../others/secret.png"}\n')
    try:
        errors = said(find_sources("imagefolder", data_dir=str(tmp_path / "set"), split="train"))
    except Exception as refused:  # by `datasets`, in an error of its own
        assert "secret" in f"{refused} {refused.__cause__}"
    else:
        assert errors and all(SECRET in error for error in errors.values())


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_list_elsewhere_names_files_below_its_folder(name: str, tmp_path: Path) -> None:
    places = [*with_secrets(tmp_path), *ADDRESSES, "../secret/x.png", f"x.png::{tmp_path.as_uri()}/secret/x.png"]
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/bucket/{name}": "\n".join(["path", *places, "xrays/x.png"]).encode(), "/bucket/xrays/x.png": PNG})
    try:
        errors = said(find_sources(f"memory://bucket/{name}"))
        assert errors.pop("xrays/x.png") == "" and errors.pop("path", "") != SECRET
        assert len(errors) == len(places) and all(SECRET in error for error in errors.values())
        allowed = said(find_sources(f"memory://bucket/{name}", allow_paths=True))
        assert not any(SECRET in error for error in allowed.values()) and allowed[str(tmp_path / "secret/x.png")] == ""
    finally:
        memory.rm("/bucket", recursive=True)


def test_list_of_this_machine_is_one_s_own(tmp_path: Path) -> None:
    places = with_secrets(tmp_path)
    (tmp_path / "list.txt").write_text("\n".join(places[:2] + places[4:]))
    assert set(said(find_sources(str(tmp_path / "list.txt"))).values()) == {""}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("list.txt", "x.png".encode("utf-16")[:-1]),
        ("list.csv", b"path\n\x81\x8d"),  # of no letters in Windows-1252 either
        ("list.csv", b"path\n" + b"x" * 200_000),
        ("xrays.parquet", b"PAR1" + bytes(100)),
    ],
)
def test_list_or_table_that_cannot_be_read_is_named(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name} is not a (list in UTF-8|whole Parquet file) "):
        find_sources(str(tmp_path / name))


# Formulas

FORMULAS = ["=cmd|' calc'!A0.png", "@SUM(A1).png", "+1+1.png", "-2+3.png", "\tx.png", "\rx.png", "＝1.png", "'=x.png"]


def test_cells_of_a_csv_are_no_formulas_and_are_read_back(tmp_path: Path) -> None:
    from hub_models.predict.row_log import close_row_log, file_of, open_row_log

    texts = [*FORMULAS, "-0.5", "+1e-3", "plain.png", "'quoted'", "a=b", "-"]
    schema = pyarrow.schema({"source": "string", "error": "string", "value": "double"})
    open_row_log(tmp_path)
    lines = ({"number": row, "source": text, "error": None, "value": -0.5} for row, text in enumerate(texts))
    file_of(tmp_path, 0).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    close_row_log(tmp_path, "table", schema, len(texts))
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    harmless = [f"'{text}" if text in (*FORMULAS, "-") else text for text in texts]
    assert [row["source"] for row in rows] == harmless and {row["value"] for row in rows} == {"-0.5"}
    assert pyarrow.parquet.read_table(tmp_path / "table.parquet")["source"].to_pylist() == texts
    read = list(find_sources(str(tmp_path / "table.csv")).index["source"])
    assert read == list(dict.fromkeys(text.strip() for text in texts))
