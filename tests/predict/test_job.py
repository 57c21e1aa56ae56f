import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from dicom_frames import damaged, fatal_dicom, of_every_kind
from launch import ROOT, accelerate, kill_when, python
from PIL import Image
from small_disk import largest_file
from tiny import bare_png, write_tree, write_zip

from hub_models.dataset.sources import load_splits
from hub_models.files import DiskFullError, held
from hub_models.predict import job
from hub_models.predict.job import read_all
from hub_models.predict.reader import ChestXrayReader
from hub_models.runs.config import TrainConfig

Rows = list[dict[str, object]]
KINDS = ("csv", "parquet")


@pytest.fixture(scope="module")
def models(make_run, tiny_segformer, tiny_resnet, tmp_path_factory) -> dict[str, Path]:
    """A lung model, and a TB model that sees the lungs only, as `read_all` takes them."""
    folders = [str(tmp_path_factory.mktemp(name)) for name in ("lungs", "tb")]
    lungs = make_run(TrainConfig("data", folders[0], model=str(tiny_segformer), image_size=64))
    options = {"region": "lungs", "model": str(tiny_resnet), "image_size": 64}
    tb = make_run(TrainConfig("data", folders[1], "tb_classification", **options))
    return {"segmenter": lungs, "classifier": tb}


@pytest.fixture(scope="module")
def xrays(phantoms) -> Path:
    return next(phantoms.rglob("CXR_png"))


def table(folder: Path) -> Rows:
    """Rows of the finished table; CSV and Parquet agree."""
    rows = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
    lines = pyarrow.csv.read_csv(folder / "predictions.csv").to_pylist()
    assert [line["source"] for line in lines] == [row["source"] for row in rows]
    assert [line["probability"] for line in lines] == [row["probability"] for row in rows]
    return rows


def masks(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("masks/**/*.png"))}


@pytest.fixture(scope="module")
def whole(xrays, models, tmp_path_factory) -> Path:
    """A folder read without a stop."""
    return read_all(str(xrays), tmp_path_factory.mktemp("whole") / "out", **models)


def test_table_and_masks_are_what_the_reader_says(xrays, models, whole) -> None:
    rows, reader = table(whole), ChestXrayReader(**models)
    batches = ([xrays / row["source"] for row in rows[start : start + 4]] for start in range(0, 60, 4))
    read = [one for batch in batches for one in reader.read(batch)]
    assert [row["source"] for row in rows] == sorted(path.name for path in xrays.glob("*.png"))
    for row, one in zip(rows, read, strict=True):
        assert (row["probability"], row["flags"]) == (one.probability, "|".join(one.flag_codes))
        np.testing.assert_array_equal(np.asarray(Image.open(whole / row["mask"])), one.mask)
    assert all(row["error"] is None for row in rows)
    assert len(masks(whole)) == len(rows)
    assert {path.name for path in whole.iterdir()} == {"masks", "predict.json", *map("predictions.{}".format, KINDS)}


@pytest.mark.parametrize("data", [b"", b"[]", b"{"])
def test_damaged_settings_are_named(data: bytes, xrays, models, whole, tmp_path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "out"))
    (folder / "predict.json").write_bytes(data)
    with pytest.raises(ValueError, match=f"{folder / 'predict.json'} is damaged.*: delete {folder}, or pass another"):
        read_all(str(xrays), folder, **models)


def test_folder_of_something_else_is_refused_before_x_rays_are_listed(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="holds thesis.tex"):
        read_all(str(tmp_path / "nowhere"), tmp_path / "out", segmenter="nowhere")


def test_x_ray_whose_mask_a_power_cut_emptied_is_read_again(xrays, models, whole, tmp_path, monkeypatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(job, "close_row_log", stop)
        read_all(str(xrays), tmp_path / "out", **models)
    first, second, *_ = sorted((tmp_path / "out" / "masks").iterdir())
    first.write_bytes(b""), second.unlink()
    read_all(str(xrays), tmp_path / "out", **models)
    assert table(tmp_path / "out") == table(whole) and masks(tmp_path / "out") == masks(whole)


def test_full_disk_is_named_and_the_same_call_resumes(xrays, models, whole, tmp_path) -> None:
    with largest_file(4_000), pytest.raises(DiskFullError, match=f"the disk of {tmp_path / 'out'} is full"):
        read_all(str(xrays), tmp_path / "out", **models)
    read_all(str(xrays), tmp_path / "out", **models)
    assert table(tmp_path / "out") == table(whole) and masks(tmp_path / "out") == masks(whole)


@pytest.fixture(scope="module")
def many(xrays, tmp_path_factory) -> Path:
    """A folder that holds each of the X-rays five times, so that a launch can be killed in the middle."""
    folder = tmp_path_factory.mktemp("many")
    for copy in range(5):
        (folder / str(copy)).mkdir()
        for path in xrays.glob("*.png"):
            (folder / str(copy) / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def whole_many(many, models, tmp_path_factory) -> Path:
    return read_all(str(many), tmp_path_factory.mktemp("whole_many") / "out", **models)


def command(images: object, output: Path, models: dict[str, Path], *more: object) -> tuple[object, ...]:
    options = ["--images", images, "--output", output]
    return "scripts/predict.py", *options, *(text for name in models for text in (f"--{name}", models[name])), *more


def written(output: Path) -> int:
    """Count of the rows so far."""
    return sum(path.read_bytes().count(b"\n") for path in output.glob("rows/*/*.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_job_is_resumed_to_the_same_end(many, models, whole_many, tmp_path, processes: int) -> None:
    started = command(many, tmp_path / "out", models)
    for count in (3, 60, 120):
        kill_when(lambda count=count: written(tmp_path / "out") > count, *started, processes=processes)
        assert count < written(tmp_path / "out") < 300 and not list((tmp_path / "out").glob("predictions.*"))
    log = accelerate(*started, processes=3 - processes).stderr
    assert "resumed: " in log and "of 300 X-rays are left" in log and not (tmp_path / "out" / "rows").exists()
    assert table(tmp_path / "out") == table(whole_many)
    assert masks(tmp_path / "out") == masks(whole_many)


DYING = """
import ctypes, os, sys
from pathlib import Path
from hub_models.predict import job, reader

ENDS = {"abort": os.abort, "segfault": lambda: ctypes.string_at(0), "kill": lambda: os.kill(os.getpid(), 9)}

def read(source, name=None, read=reader.read_xray):
    if isinstance(source, bytes):  # before any X-ray
        return read(source, name)
    if Path(source).name == sys.argv[4]:
        ENDS[sys.argv[5]]()
    imported = len(sys.modules)
    found = read(source, name)
    if len(sys.modules) != imported:
        raise ImportError("while an X-ray was decoded")
    return found

reader.read_xray = read
job.read_all(*sys.argv[1:4])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "deaths"), [("abort", 1), ("segfault", 1), ("kill", 3)])
def test_xray_that_ends_the_process_is_passed_over(xrays, models, whole, tmp_path, how: str, deaths: int) -> None:
    name = sorted(path.name for path in xrays.glob("*.png"))[9]
    start = [sys.executable, "-c", DYING, xrays, tmp_path / "out", models["segmenter"], name, how]
    ended = [subprocess.run(start, cwd=ROOT, capture_output=True).returncode for _ in range(deaths + 1)]
    assert all(code < 0 for code in ended[:-1]) and ended[-1] == 0
    rows = {row["source"]: row for row in table(tmp_path / "out")}
    assert len(rows) == 60 and "ended the process that read it" in rows.pop(name)["error"]
    assert all(row["error"] is None for row in rows.values())
    others = {path: data for path, data in masks(whole).items() if name not in path}
    assert masks(tmp_path / "out") == others


def test_damaged_dicom_is_a_row(xrays, models, tmp_path) -> None:
    files = of_every_kind(tmp_path)
    bad = {f"{kind}-{n}.dcm": data for kind in files for n, data in enumerate(damaged(files[kind], 2, seed=len(kind)))}
    folder = write_tree(bad | {f"{kind}.dcm": data for kind, data in files.items()}, tmp_path / "xrays")
    (folder / "fatal.dcm").write_bytes(fatal_dicom())
    rows = {row["source"]: row for row in table(read_all(str(folder), tmp_path / "out", **models))}
    assert len(rows) == 3 * len(files) + 1
    assert all(rows[f"{kind}.dcm"]["error"] is None for kind in files)
    assert "its decoder ended with code" in rows["fatal.dcm"]["error"] and "fatal.dcm" in rows["fatal.dcm"]["error"]
    assert not (tmp_path / "out" / "rows").exists()
    reader = ChestXrayReader(**models)  # that of the page, too
    with pytest.raises(ValueError, match="fatal.dcm .*its decoder ended with code"):
        reader.read(folder / "fatal.dcm")
    (found,) = reader.read(folder / "JPEG lossless.dcm")
    assert found.probability == rows["JPEG lossless.dcm"]["probability"]


@pytest.mark.slow
def test_script_says_where_and_what_is_wrong(xrays, models, tmp_path) -> None:
    done = python(*command(xrays, tmp_path / "out", models, "--overlays", "--saliency"))
    flagged = sum(row["flags"] not in (None, "") for row in table(tmp_path / "out"))
    said = f"60 images, 0 unreadable, {flagged} flagged: {tmp_path / 'out' / 'predictions.csv'}"
    assert said in done.stderr and "Traceback" not in done.stderr
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 60
    assert len(list((tmp_path / "out" / "saliency").iterdir())) == 60
    again = python(*command(xrays, tmp_path / "out", models, "--overlays", "--saliency"))
    assert "is finished: delete it" in again.stderr and said in again.stderr
    (tmp_path / "gone.txt").write_text("gone.png\n")
    unread = python(*command(tmp_path / "gone.txt", tmp_path / "unread", models), check=False)
    assert unread.returncode == 1 and "1 image, 1 unreadable" in unread.stderr
    assert table(tmp_path / "unread")[0]["error"] in (tmp_path / "unread" / "predictions.csv").read_text()
    (tmp_path / "empty").mkdir()
    refused = python(*command(tmp_path / "empty", tmp_path / "other", models), check=False)
    assert refused.returncode == 1 and refused.stderr.startswith("error: no image in")
    assert not (tmp_path / "other").exists()


def test_finished_folder_is_left_alone(xrays, models, whole, caplog) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    with caplog.at_level("INFO", "hub_models"):
        assert read_all(str(xrays), whole, **models) == whole
    assert f"{whole} is finished: delete it, or pass another output" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}


def test_other_x_rays_models_and_settings_are_refused_by_name(
    xrays, models, whole, phantoms, tmp_path, monkeypatch
) -> None:
    changed = Path(shutil.copytree(models["segmenter"], tmp_path / "changed"))
    settings = json.loads((changed / "config.json").read_text())
    settings["chest_xray_masks"]["two_lungs"] = True
    (changed / "config.json").write_text(json.dumps(settings))
    for images, options, name in (
        (phantoms, models, "X-rays"),
        (xrays, {"segmenter": models["segmenter"]}, "classifier"),
        (xrays, models | {"overlays": True}, "overlays"),
        (xrays, models | {"segmenter": changed}, "segmenter"),
    ):
        with pytest.raises(ValueError, match=f"was made with other {name}:"):
            read_all(str(images), whole, **options)
    monkeypatch.setattr(job, "PREDICTION_VERSION", job.PREDICTION_VERSION + 1)
    with pytest.raises(ValueError, match="was made with other version:"):
        read_all(str(xrays), whole, **models)
    monkeypatch.undo()
    assert read_all(str(xrays), whole, shutil.copytree(models["segmenter"], tmp_path / "moved"), models["classifier"])


def test_other_x_rays_of_the_same_names_are_refused(xrays, models, tmp_path, monkeypatch) -> None:
    first, second = (path.read_bytes() for path in sorted(xrays.glob("*.png"))[:2])
    for place, xray in (("A", first), ("B", second)):
        write_tree({f"{place}/list.txt": b"x.png", f"{place}/x.png": xray}, tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"front": [first], "side": [second]}), tmp_path / "xrays.parquet")
    read_all(str(tmp_path / "A" / "list.txt"), tmp_path / "listed", **models)
    read_all(str(tmp_path / "xrays.parquet"), tmp_path / "rows", **models, column="front")
    with pytest.raises(ValueError, match="was made with other X-rays:"):
        read_all(str(tmp_path / "B" / "list.txt"), tmp_path / "listed", **models)
    with pytest.raises(ValueError, match="was made with other X-rays:"):
        read_all(str(tmp_path / "xrays.parquet"), tmp_path / "rows", **models, column="side")
    monkeypatch.chdir(tmp_path)
    assert read_all("A/list.txt", "listed", **models) == Path("listed")
    assert read_all("xrays.parquet", "rows", **models, column="front") == Path("rows")


def test_folders_that_are_in_use_are_refused(xrays, models, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="holds mine.txt, .*: pass a new or an empty folder"):
        read_all(str(xrays), tmp_path, **models)
    with held(tmp_path / "out"), pytest.raises(ValueError, match="another launch is writing to"):
        read_all(str(xrays), tmp_path / "out", **models)
    with pytest.raises(ValueError, match="lies in .*, and would be read itself"):
        read_all(str(xrays), xrays / "out", **models)


def test_bad_settings_are_told_before_anything_is_made(xrays, models, tmp_path) -> None:
    tb = {"classifier": models["classifier"]}
    for options, said in (
        (tb | {"dicom_seg": True}, "dicom_seg .*: pass a segmenter"),
        (tb | {"overlays": True}, "overlays .*: pass a segmenter"),
        ({"segmenter": models["segmenter"], "saliency": True}, "saliency .*: pass a classifier"),
        (models | {"batch_size": 0}, "batch_size .* got 0"),
        (tb, "pass a segmenter="),
    ):
        with pytest.raises(ValueError, match=said):
            read_all(str(xrays), tmp_path / "out", **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in"):  # before the models are looked at
        read_all(str(tmp_path / "empty"), tmp_path / "out", segmenter="nowhere")
    assert not (tmp_path / "out").exists()


def test_every_bad_file_is_a_row(xrays, models, tmp_path, caplog) -> None:
    sound = sorted(xrays.glob("*.png"))[0]
    bad = {"text.png": b"not an image", "empty.png": b"", "cut.png": sound.read_bytes()[:-200]}
    bad |= {"bomb.png": bare_png(30_000, 30_000), "deep/x.dcm": b"\0" * 128 + b"DICM", "header.png": bare_png(64, 64)}
    folder = write_tree(bad | {"sound.png": sound.read_bytes()}, tmp_path / "xrays")
    Image.new("L", (1, 1)).save(folder / "dot.png")
    with caplog.at_level("INFO", "hub_models"):
        rows = {row["source"]: row for row in table(read_all(str(folder), tmp_path / "out", **models))}
    assert "8 images, 7 unreadable, " in caplog.text
    assert rows.pop("sound.png")["error"] is None
    assert set(rows) == {*bad, "dot.png"}
    for name, row in rows.items():
        assert row["error"] and "\n" not in row["error"] and row["name"] == Path(name).name
        assert row["mask"] is row["probability"] is row["height"] is None
    assert list(masks(tmp_path / "out")) == ["masks/sound.png"]


def test_passed_over_files_are_counted_and_labels_carried_over(xrays, models, tmp_path, caplog) -> None:
    sound = sorted(xrays.glob("*.png"))[0].read_bytes()
    files = {"DX.1.2.45": sound, "IMG_1.HEIC": b"\0\0\0\x24ftypheic", "a.txt": b"", "b.txt": b"", "data.7": b"-"}
    folder = write_tree(files, tmp_path / "xrays")
    with caplog.at_level("INFO", "hub_models"):
        out = read_all(str(folder), tmp_path / "out", **models)
    said = "2 images, 1 unreadable, "
    others = "3 files passed over (2 .txt, 1 no image by its first bytes)"
    assert said in caplog.text.splitlines()[-1] and others in caplog.text.splitlines()[-1]
    rows = {row["source"]: row for row in table(out)}
    assert rows["DX.1.2.45"]["error"] is None and "save it as JPEG" in rows["IMG_1.HEIC"]["error"]
    counts = "reason,files,first\r\n.txt,2,a.txt\r\nno image by its first bytes,1,data.7\r\n"
    assert (out / "passed_over.csv").read_bytes().decode() == counts
    caplog.clear()
    with caplog.at_level("INFO", "hub_models"):
        read_all(str(folder), tmp_path / "out", **models)  # finished
    assert others in caplog.text
    (folder / "list.csv").write_text("case;image;label;site\np17;DX.1.2.45;TB;Kampala\n")
    (row,) = table(read_all(str(folder / "list.csv"), tmp_path / "listed", **models, id_column="case"))
    assert [row[name] for name in ("source", "label", "site", "split")] == ["p17", "TB", "Kampala", None]
    assert row["mask"] == "masks/p17.png" and row["probability"] == rows["DX.1.2.45"]["probability"]


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such files")
def test_fifo_is_a_row_and_names_are_no_formulas(xrays, models, tmp_path) -> None:
    sound = sorted(xrays.glob("*.png"))[0]
    folder = write_tree({"=1+1.png": sound.read_bytes(), "@x.png": b"no image"}, tmp_path / "xrays")
    os.mkfifo(folder / "+fifo.png")
    out = read_all(str(folder), tmp_path / "out", **models)
    rows = {row["source"]: row for row in pyarrow.parquet.read_table(out / "predictions.parquet").to_pylist()}
    assert set(rows) == {"=1+1.png", "@x.png", "+fifo.png"} and rows["=1+1.png"]["mask"] == "masks/=1+1.png"
    assert rows["+fifo.png"]["error"].endswith("+fifo.png is a FIFO: put a regular file in its place")
    with (out / "predictions.csv").open(newline="") as file:
        cells = {row["source"]: row for row in csv.DictReader(file)}
    assert set(cells) == {f"'{name}" for name in rows} == {cell["name"] for cell in cells.values()}
    (folder / "again.csv").write_bytes((out / "predictions.csv").read_bytes())
    again = read_all(str(folder / "again.csv"), tmp_path / "again", **models)
    assert pyarrow.parquet.read_table(again / "predictions.parquet").to_pylist() == list(rows.values())
    assert read_all(str(folder), out, **models) == out  # finished: left as it is


@pytest.mark.skipif(sys.platform != "linux", reason="others take no such name")
def test_name_that_is_no_utf8_is_read(xrays, models, tmp_path) -> None:
    xray = sorted(xrays.glob("*.png"))[0].read_bytes()
    files = {b"x.png": xray, b"sound_\xe9.png": xray, b"cut_\xe9.png": b"no image"}
    folder = write_tree({os.fsdecode(name): data for name, data in files.items()}, tmp_path / "xrays")
    rows = table(read_all(str(folder), tmp_path / "out", **models))
    assert [row["source"] for row in rows] == ["cut_\\udce9.png", "sound_\\udce9.png", "x.png"]
    assert [row["mask"] for row in rows] == [None, "masks/sound__udce9.png", "masks/x.png"]
    assert "cut_\\udce9.png cannot be decoded" in rows[0]["error"]
    assert rows[1]["name"] == "sound_\\udce9.png" and rows[1]["probability"] == rows[2]["probability"]


def test_same_names_get_masks_of_their_own(xrays, models, tmp_path) -> None:
    first, second = sorted(xrays.glob("*.png"))[:2]
    folder = write_tree({"a/x.png": first.read_bytes(), "b/x.png": second.read_bytes()}, tmp_path / "xrays")
    Image.open(first).convert("L").rotate(90, expand=True).save(folder / "a" / "x.tif")
    rows = table(read_all(str(folder), tmp_path / "out", **models))
    assert [row["mask"] for row in rows] == ["masks/a/x.png", "masks/a/x.tif.png", "masks/b/x.png"]
    sizes = [Image.open(tmp_path / "out" / row["mask"]).size for row in rows]
    assert sizes == [(row["width"], row["height"]) for row in rows] and sizes[0] == sizes[1][::-1]


@pytest.fixture(scope="module")
def few(xrays) -> dict[str, bytes]:
    """Bytes of some X-rays by name."""
    return {path.name: path.read_bytes() for path in sorted(xrays.glob("*.png"))[:60:12]}


Give = Callable[[dict[str, bytes], Path], str]


def as_list(few: dict[str, bytes], folder: Path) -> str:
    write_tree(few, folder)
    (folder / "list.txt").write_text("\n".join(few))
    return str(folder / "list.txt")


def as_parquet(few: dict[str, bytes], folder: Path) -> str:
    cells = [{"bytes": data, "path": None} for data in few.values()]
    pyarrow.parquet.write_table(pyarrow.table({"id": list(few), "image": cells}), folder / "xrays.parquet")
    return str(folder / "xrays.parquet")


def in_memory(few: dict[str, bytes], folder: Path) -> str:
    fsspec.filesystem("memory").pipe({f"/{folder.name}/{name}": data for name, data in few.items()})
    return f"memory://{folder.name}"


WAYS: dict[str, Give] = {
    "zip": lambda few, folder: str(write_zip(few, folder / "xrays.zip")),
    "glob": lambda few, folder: f"{write_tree(few, folder)}/*.png",
    "list": as_list,
    "parquet": as_parquet,
    "memory": in_memory,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_give_x_rays_gives_the_same_rows(few, models, whole, tmp_path, way: str) -> None:
    (tmp_path / "in").mkdir()
    rows = table(read_all(WAYS[way](few, tmp_path / "in"), tmp_path / "out", **models))
    assert rows == [row for row in table(whole) if row["source"] in few]


def test_rows_of_the_dataset_are_read_by_id(phantoms, models, whole, tmp_path) -> None:
    rows = table(read_all("chest_xray_masks", tmp_path / "out", **models, data_dir=str(phantoms), split="test"))
    assert [row["source"] for row in rows] == load_splits(phantoms)["test"]["id"]
    by_name = {row["name"]: row for row in table(whole)}
    for row in rows:
        there = by_name[f"{row['source']}.png"]
        assert row["split"] == "test" and row["label"] in ("normal", "tuberculosis")
        others = dict.fromkeys(("source", "name", "mask", "label", "site", "split"))
        assert row | others == there | others
