import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import dicom
from transformers import MobileNetV2Config

from hub_models.imaging.dicom_reference import Algorithm
from hub_models.imaging.flags import Flag
from hub_models.imaging.masks import keep_two_lungs
from hub_models.models.saliency import saliency
from hub_models.predict import stream
from hub_models.predict.dicom_output import DicomOutput
from hub_models.predict.reader import ChestXrayReader, Prediction
from hub_models.predict.saliency_model import SaliencyModel
from hub_models.predict.stream import PREDICTION_COLUMNS, StreamOutput, flag_columns, read_stream
from hub_models.runs.config import TrainConfig

CPU = torch.device("cpu")
SEG = DicomOutput(Algorithm("lungs", "1", "ab12"))


@pytest.fixture(scope="module")
def reader(make_run, tiny_segformer, tiny_resnet, tmp_path_factory) -> ChestXrayReader:
    """A lung model, and a TB model that sees the lungs only."""
    folders = [str(tmp_path_factory.mktemp(name)) for name in ("lungs", "tb")]
    lungs = make_run(TrainConfig("data", folders[0], model=str(tiny_segformer), image_size=64))
    options = {"region": "lungs", "model": str(tiny_resnet), "image_size": 64}
    return ChestXrayReader(lungs, make_run(TrainConfig("data", folders[1], "tb_classification", **options)))


def items_of(paths: list[Path]) -> Iterator[tuple[dict, partial]]:
    for number, path in enumerate(paths):
        row = {"number": number, "source": f"xrays/{path.name}", "output": f"xrays/{path.stem}"}
        yield row, partial(Path, path)


@pytest.fixture(scope="module")
def xrays(phantoms) -> list[Path]:
    return sorted(phantoms.rglob("CXR_png/*.png"))[::5]


@pytest.mark.parametrize("batch_size", [None, 1, 5, 16])
def test_rows_are_those_of_the_reader(reader, xrays, tmp_path, batch_size: int | None) -> None:
    rows = list(read_stream(StreamOutput(reader, tmp_path), items_of(xrays), CPU, batch_size))
    read = [found for one in xrays for found in reader.read([one])]  # whatever is read together
    assert [row["number"] for row in rows] == list(range(len(xrays)))
    for row, one in zip(rows, read, strict=True):
        mask = Image.open(tmp_path / row["mask"])
        assert mask.mode == "1" and row["mask"] == f"masks/xrays/{Path(one.name).stem}.png"
        np.testing.assert_array_equal(np.asarray(mask), one.mask)
        assert set(row) <= {"number", *PREDICTION_COLUMNS} and "error" not in row
        assert row["source"] == f"xrays/{one.name}" and row["name"] == one.name
        assert (row["probability"], row["threshold"]) == (one.probability, one.threshold)  # to the bit
        assert (row["is_suspected"], row["decision"]) == (one.is_suspected, one.decision)
        assert {name: row[name] for name in ("flags", "flag_messages")} == flag_columns(one.flags)
        assert (row["height"], row["width"]) == one.mask.shape
        assert (row["right_fraction"], row["left_fraction"]) == (one.lungs.right_fraction, one.lungs.left_fraction)
        assert (row["right_mm2"], row["left_mm2"]) == (one.lungs.right_mm2, one.lungs.left_mm2)
        assert (row.get("spacing_row_mm"), row.get("spacing_column_mm")) == (one.spacing_mm or (None, None))


def test_flags_are_as_many_codes_as_messages() -> None:
    turned, unwritten = Flag.NOT_FRONTAL.raised(), Flag.NO_DICOM_SEG.raised(reason="a|b.dcm, \udce9.dcm: not; there")
    columns = flag_columns([turned, unwritten])
    assert columns["flags"].split("|") == ["not_frontal", "no_dicom_seg"] == [Flag.NOT_FRONTAL, Flag.NO_DICOM_SEG]
    first, second = columns["flag_messages"].split(" | ")
    assert first == turned.message and r"a/b.dcm, \udce9.dcm: not; there" in second
    assert flag_columns([]) == {"flags": "", "flag_messages": ""}


def test_model_that_is_absent_leaves_its_columns_empty(reader, xrays, tmp_path) -> None:
    lungs = ChestXrayReader(segmenter=reader.segmenter.model.name_or_path)
    (row,) = read_stream(StreamOutput(lungs, tmp_path), items_of(xrays[:1]), CPU)
    assert row["probability"] is row["threshold"] is row["decision"] is row["is_suspected"] is None
    assert (tmp_path / row["mask"]).is_file()


def test_bad_file_is_a_row_between_the_others(reader, xrays, tmp_path) -> None:
    bad = [tmp_path / name for name in ("text.png", "empty.png", "dot.png", "gone.png")]
    bad[0].write_text("not\nan image")
    bad[1].write_bytes(b"")
    Image.new("L", (1, 1)).save(bad[2])
    paths = [path for pair in zip(xrays, bad, strict=False) for path in pair]
    for batch_size in (1, 3, 16):
        rows = list(read_stream(StreamOutput(reader, tmp_path), items_of(paths), CPU, batch_size))
        errors = [row.get("error") for row in rows]
        assert errors[::2] == [None] * 4
        assert "cannot be decoded" in errors[1] and "cannot be decoded" in errors[3]
        assert "1x1 pixels" in errors[5] and "gone.png" in errors[7]
        assert all("\n" not in error for error in errors[1::2])
        assert set(rows[1]) == {"number", "source", "name", "error"}


def test_overlay_is_small_and_has_a_rim_around_the_lungs(reader, xrays, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stream, "LONGEST_SIDE", 50)
    list(read_stream(StreamOutput(reader, tmp_path, overlays=True), items_of(xrays[:2]), CPU))
    pictures = sorted((tmp_path / "overlays" / "xrays").iterdir())
    assert [path.name for path in pictures] == [path.name for path in xrays[:2]]
    picture = Image.open(pictures[0])
    assert max(picture.size) == 50
    values = np.asarray(picture, int)
    assert 0 < (np.ptp(values, 2) > 0).mean() < 0.5  # coloured, where all else is gray


def test_saliency_is_that_of_the_model_and_changes_no_row(reader, xrays, tmp_path, monkeypatch) -> None:
    deep = tmp_path / "deep.png"
    values = np.asarray(Image.open(xrays[0]).convert("L"), np.uint16) * 200 + 500
    Image.fromarray(values).save(deep)
    shown = []
    heat = stream.heat
    monkeypatch.setattr(stream, "heat", lambda gray, saliency: shown.append(saliency) or heat(gray, saliency))
    paths = [*xrays[:3], deep]
    plain = list(read_stream(StreamOutput(reader, tmp_path / "plain"), items_of(paths), CPU, 1))
    output = StreamOutput(reader, tmp_path / "salient", saliency=SaliencyModel(reader.classifier))
    assert list(read_stream(output, items_of(paths), CPU, 1)) == plain
    expected = [
        saliency(reader.classifier, path, keep_two_lungs(one.mask))
        for path, one in zip(paths, reader.read(paths), strict=True)
    ]
    for one in shown:  # in the order of the threads
        assert any(np.array_equal(one, other) for other in expected)
    pictures = sorted((tmp_path / "salient" / "saliency" / "xrays").iterdir())
    assert [path.name for path in pictures] == sorted(path.name for path in paths)
    assert Image.open(pictures[0]).mode == "RGB"


def test_family_without_saliency_is_named(make_run, tmp_path) -> None:
    MobileNetV2Config(depth_multiplier=0.25, image_size=32).save_pretrained(tmp_path / "tiny")
    config = TrainConfig(
        "data", str(tmp_path / "run"), "tb_classification", model=str(tmp_path / "tiny"), image_size=32
    )
    classifier = ChestXrayReader(classifier=make_run(config)).classifier
    with pytest.raises(ValueError, match="no saliency of a mobilenet_v2 model: leave it out, or pass one of vit"):
        SaliencyModel(classifier)


def test_few_x_rays_are_in_memory_however_many_there_are(reader, xrays, tmp_path) -> None:
    opened, done, most = 0, 0, 0
    lock = threading.Lock()

    def endless() -> Iterator[tuple[dict, partial]]:
        nonlocal opened, most
        for number in range(80):
            with lock:
                opened += 1
                most = max(most, opened - done)
            row = {"number": number, "source": f"{number}.png", "output": str(number)}
            yield row, partial(Path, xrays[0])

    for _ in read_stream(StreamOutput(reader, tmp_path), endless(), CPU):
        done += 1
    lanes = stream.cores() + 1
    assert done == 80 and most <= 4 * (2 * lanes + 2)


def test_torch_gets_its_threads_back_and_errors_pass(reader, xrays, tmp_path) -> None:
    before = torch.get_num_threads()
    (tmp_path / "masks").write_text("in the way")
    with pytest.raises(OSError, match="masks"):
        list(read_stream(StreamOutput(reader, tmp_path), items_of(xrays), CPU))
    assert torch.get_num_threads() == before


def test_lungs_of_dicom_go_out_as_dicom_too(reader, xrays, tmp_path) -> None:
    import highdicom

    gray = np.asarray(Image.open(xrays[0]).convert("L")).astype(np.uint16)
    (tmp_path / "in").mkdir()
    uids = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}
    whole, ct = dicom(gray, 8, **uids), dicom(gray, 8, **uids, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    files = {"whole.dcm": whole, "bare.dcm": dicom(gray, 8), "ct.dcm": ct, "xray.png": xrays[0].read_bytes()}
    for name, file in files.items():
        (tmp_path / "in" / name).write_bytes(file)
    paths = sorted((tmp_path / "in").iterdir())
    out = tmp_path / "out"
    rows = {row["name"]: row for row in read_stream(StreamOutput(reader, out, dicom=SEG), items_of(paths), CPU)}
    assert [path.name for path in (out / "segmentations" / "xrays").iterdir()] == ["whole.dcm"]
    without = {name: Flag.NO_DICOM_SEG in row["flags"].split("|") for name, row in rows.items()}
    assert without == {"bare.dcm": True, "ct.dcm": True, "whole.dcm": False, "xray.png": False}
    assert "StudyInstanceUID" in rows["bare.dcm"]["flag_messages"]
    written = highdicom.seg.segread(out / "segmentations" / "xrays" / "whole.dcm")
    lungs = written.get_pixels_by_source_instance(["1.2.3"], combine_segments=False)[0].any(-1)
    np.testing.assert_array_equal(lungs, np.asarray(Image.open(out / rows["whole.dcm"]["mask"])))


def test_sides_of_a_dicom_segmentation_are_the_patients(reader, xrays, tmp_path) -> None:
    import highdicom

    gray, paths = np.asarray(Image.open(xrays[0]).convert("L")).astype(np.uint16), []
    for rows, columns in ("LF", "RF", "PF"):
        uids = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}
        paths.append(tmp_path / f"{rows}.dcm")
        paths[-1].write_bytes(dicom(gray, 8, PatientOrientation=[rows, columns], **uids))
    list(read_stream(StreamOutput(reader, tmp_path, dicom=SEG), items_of(paths), CPU))
    found = {}
    for path in paths:
        written = highdicom.seg.segread(tmp_path / "segmentations" / "xrays" / path.name)
        labels = [one.segment_label for one in written.SegmentSequence]
        masks = written.get_pixels_by_source_instance(["1.2.3"], combine_segments=False)[0]
        found[path.stem] = dict(zip(labels, np.moveaxis(masks, -1, 0), strict=True))
    usual, mirrored, lateral = (found[side] for side in "LRP")
    other = {"Right lung": "Left lung", "Left lung": "Right lung"}
    assert usual and set(mirrored) == {other[label] for label in usual} and set(lateral) == {"Lung"}
    for label, mask in usual.items():
        np.testing.assert_array_equal(mirrored[other[label]], mask)
    np.testing.assert_array_equal(lateral["Lung"], np.logical_or.reduce(list(usual.values())))


def test_x_ray_is_opened_once(reader, xrays, tmp_path) -> None:
    gray = np.asarray(Image.open(xrays[0]).convert("L")).astype(np.uint16)
    Image.fromarray(gray * 200).save(tmp_path / "deep.png")
    whole = dicom(gray, 8, StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.5")
    opens = [iter([data]) for data in (xrays[0].read_bytes(), (tmp_path / "deep.png").read_bytes(), whole)]
    rows = [{"number": number, "source": f"{number}", "output": f"{number}"} for number in range(3)]
    output = StreamOutput(reader, tmp_path, overlays=True, saliency=SaliencyModel(reader.classifier), dicom=SEG)
    items = ((row, partial(next, one)) for row, one in zip(rows, opens, strict=True))  # a second time raises
    assert [row.get("error") for row in read_stream(output, items, CPU)] == [None] * 3
    assert len(list((tmp_path / "saliency").iterdir())) == 3
    assert [path.name for path in (tmp_path / "segmentations").iterdir()] == ["2.dcm"]


def test_dicom_that_is_gone_is_a_flag(tmp_path) -> None:
    found = Prediction("xray", 48, 48, mask=np.eye(48, dtype=bool))
    files, (flag,) = SEG.files_of(tmp_path / "gone.dcm", found)
    assert not files and flag.code == Flag.NO_DICOM_SEG and "gone.dcm" in flag.message
