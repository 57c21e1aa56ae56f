import csv
import io
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image
from tiny import dicom

from hub_models.imaging.dicom_reference import Algorithm
from hub_models.imaging.flags import Flag
from hub_models.predict.dicom_output import DicomOutput
from hub_models.predict.job import read_all
from hub_models.predict.reader import Prediction
from hub_models.runs.config import TrainConfig
from hub_models.runs.run_folder import RunFolder

MODEL = Algorithm("m", "1")
UIDS = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}
MASK = np.zeros((48, 40), bool)
MASK[5:40, 3:15] = MASK[5:40, 23:33] = True
XRAY = dicom(np.zeros((48, 40), np.uint16), **UIDS)


def report_of(files: dict[str, bytes]) -> highdicom.sr.ComprehensiveSR:
    return highdicom.sr.ComprehensiveSR.from_dataset(pydicom.dcmread(io.BytesIO(files["dicom_sr"])))


@pytest.mark.parametrize("spacing", [None, (2.0, 0.5)])
def test_areas_are_in_mm2_where_the_spacing_is_known(spacing: tuple[float, float] | None) -> None:
    found = Prediction("x", 48, 40, spacing, MASK)
    files, flags = DicomOutput(MODEL, None, True).files_of(XRAY, found)
    assert not flags and set(files) == {"dicom_seg", "dicom_sr"}
    groups = report_of(files).content.get_planar_roi_measurement_groups()
    areas = {one.finding_type.value: one.get_measurements()[0] for one in groups}
    right, left = (35 * 12, 35 * 10) if spacing else (35 * 12 / MASK.size, 35 * 10 / MASK.size)
    assert {code: one.value for code, one in areas.items()} == {"3341006": right, "44029006": left}
    assert {one.unit.value for one in areas.values()} == {"mm2" if spacing else "1"}


def test_turned_x_ray_has_one_area_and_an_empty_mask_no_segmentation() -> None:
    turned = Prediction("x", 48, 40, None, MASK, image_flags=(Flag.NOT_FRONTAL.raised(),))
    (group,) = report_of(
        DicomOutput(MODEL, None, True).files_of(XRAY, turned)[0]
    ).content.get_planar_roi_measurement_groups()
    assert group.finding_type.value == "39607008" and group.get_measurements()[0].value == pytest.approx(MASK.mean())
    files, flags = DicomOutput(MODEL, None, True).files_of(XRAY, Prediction("x", 48, 40, None, np.zeros_like(MASK)))
    assert not flags and set(files) == {"dicom_sr"}
    groups = report_of(files).content.get_image_measurement_groups()
    assert [one.get_measurements()[0].value for one in groups] == [0, 0]
    assert [one.value.value for one in groups[0].get_qualitative_evaluations()] == [Flag.NO_LUNGS]


def test_what_cannot_be_referred_to_is_a_flag_for_each_file() -> None:
    bare, found = dicom(np.zeros((48, 40), np.uint16)), Prediction("x", 48, 40, None, MASK, 0.5, 0.4)
    files, flags = DicomOutput(MODEL, MODEL, True).files_of(bare, found)
    assert not files and [flag.code for flag in flags] == [Flag.NO_DICOM_SEG, Flag.NO_DICOM_SR]
    assert all("StudyInstanceUID" in flag.message for flag in flags)
    assert DicomOutput(MODEL, MODEL, True).files_of(b"no DICOM", found) == ({}, ())
    (flag,) = DicomOutput(None, MODEL, True).files_of(Path("gone.dcm"), found)[1]
    assert flag.code == Flag.NO_DICOM_SR and "gone.dcm" in flag.message


def test_job_writes_reports_with_their_paths_and_resumes(
    make_run, tiny_segformer, tiny_resnet, phantoms, tmp_path
) -> None:
    folders = [str(tmp_path / name) for name in ("lungs", "tb")]
    options = {"region": "lungs", "model": str(tiny_resnet), "image_size": 64}
    models = {
        "segmenter": make_run(TrainConfig("data", folders[0], model=str(tiny_segformer), image_size=64)),
        "classifier": make_run(TrainConfig("data", folders[1], "tb_classification", **options)),
    }
    path = sorted(phantoms.rglob("CXR_png/*.png"))[0]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(path.read_bytes())
    gray = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
    (tmp_path / "in" / "b.dcm").write_bytes(dicom(gray, 8, **UIDS, PixelSpacing=[1.4, 1.4]))
    out = read_all(str(tmp_path / "in"), tmp_path / "out", **models, dicom_sr=True)
    rows = {row["source"]: row for row in csv.DictReader((out / "predictions.csv").open())}
    assert rows["a.png"]["dicom_sr"] == rows["a.png"]["dicom_seg"] == ""
    row = rows["b.dcm"]
    assert (row["dicom_sr"], row["dicom_seg"]) == ("reports/b.dcm.dcm", "segmentations/b.dcm.dcm")
    report = report_of({"dicom_sr": (out / row["dicom_sr"]).read_bytes()})
    assert {one[2] for one in report.get_evidence()} == {
        "1.2.3", pydicom.dcmread(out / row["dicom_seg"]).SOPInstanceUID,
    }  # fmt: skip
    tb, *_ = report.content.get_image_measurement_groups()  # then lungs that have no segment
    probability, threshold = (one.value for one in tb.get_measurements())
    assert (probability, threshold) == (float(row["probability"]), float(row["threshold"]))
    decision, *flags = (one.value.value for one in tb.get_qualitative_evaluations())
    assert decision == ("suspected" if row["is_suspected"] == "true" else "not_suspected")
    assert "|".join(flags) == row["flags"]
    digest = RunFolder.read(models["classifier"]).digest
    assert f"digest={digest}".encode() in (out / row["dicom_sr"]).read_bytes()
    areas = [one.get_measurements()[0].value for one in report.content.get_planar_roi_measurement_groups()]
    assert areas == [float(row[name]) for name in ("right_mm2", "left_mm2") if float(row[name])]
    before = (out / row["dicom_sr"]).read_bytes()
    assert read_all(str(tmp_path / "in"), out, **models, dicom_sr=True) == out
    assert (out / row["dicom_sr"]).read_bytes() == before  # a finished folder is left as it is
    with pytest.raises(ValueError, match="made with other dicom_sr"):
        read_all(str(tmp_path / "in"), out, **models)
