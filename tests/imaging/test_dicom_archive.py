"""DICOM-SEG and SR with programs of others: dciodvfy checks them, an Orthanc takes and gives them over DICOMweb."""

import email
import io
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from tiny import dicom

from hub_models.imaging.dicom_reference import PATIENT_TAGS, Algorithm
from hub_models.imaging.dicom_seg import segmentation
from hub_models.imaging.dicom_sr import LungAreas, TbResult, measurement_report
from hub_models.imaging.flags import Flag

XRAY = np.random.default_rng(0).integers(0, 4096, (48, 36)).astype(np.uint16)
RIGHT, LEFT = np.zeros((2, 48, 36), bool)
RIGHT[5:40, 3:15] = LEFT[5:40, 20:33] = True
LUNGS, TB = Algorithm("lungs", "0.2.0", "ab" * 32), Algorithm("tb", "0.2.0", "cd" * 32)
FLAGS = [Flag.OUT_OF_DISTRIBUTION.raised(distance="9.1", limit="3.0"), Flag.NO_DICOM_SEG.raised(reason="é.dcm")]
PATIENT = {
    "PatientID": "7340211",
    "PatientName": "Doe^Jané",
    "StudyDate": "20190228",
    "SpecificCharacterSet": "ISO_IR 100",
}
PLUGINS = [Path(f"/usr/{place}/libOrthancDicomWeb.so") for place in ("share/orthanc/plugins", "lib/orthanc")]
Request = Callable[..., tuple[str, bytes]]


def made(**fields: object) -> tuple[bytes, bytes, bytes]:
    """An X-ray, its lungs and its report."""
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
    xray = dicom(XRAY, **uids | fields)
    seg = segmentation(xray, {"Right lung": RIGHT, "Left lung": LEFT}, LUNGS)
    areas = LungAreas({"Right lung": 1234.5, "Left lung": 77.25}, True, LUNGS, seg)
    return xray, seg, measurement_report(xray, TbResult(0.3, 0.25, TB), areas, FLAGS)


def errors_of(data: bytes, folder: Path) -> list[str]:
    """What dciodvfy calls an error."""
    if not (program := shutil.which("dciodvfy")):
        pytest.skip("no dciodvfy: install Debian's dicom3tools")
    (folder / "checked.dcm").write_bytes(data)
    ran = subprocess.run([program, "-new", folder / "checked.dcm"], capture_output=True, text=True, errors="replace")
    assert any(kind in ran.stderr for kind in ("Segmentation", "ComprehensiveSR")), ran.stderr
    return [line for line in ran.stderr.splitlines() if line.startswith("Error")]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        PATIENT,
        {"FrameOfReferenceUID": "1.2.6", "PatientOrientation": ["L", "F"], "LossyImageCompression": "01"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2", "FrameOfReferenceUID": "1.2.6"},
    ],
)
def test_dciodvfy_finds_no_error(tmp_path: Path, fields: dict[str, object]) -> None:
    xray, seg, report = made(**fields)
    bare = measurement_report(xray, None, LungAreas({"Lung": 0.25}, False, LUNGS), FLAGS)
    for data in (seg, report, bare, measurement_report(xray, TbResult(0.1 + 0.2, 1 / 3, TB))):
        assert errors_of(data, tmp_path) == []


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Request]:
    """Requests to an Orthanc of our own: on a free port of the loopback, with its own config and storage."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    plugin = next((path for path in PLUGINS if path.exists()), None)
    if not program or not plugin:
        pytest.skip("no Orthanc with DICOMweb: install Debian's orthanc and orthanc-dicomweb")
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": port,
        "Plugins": [str(plugin)],
    }
    config |= {"DicomServerEnabled": False, "RemoteAccessAllowed": False, "AuthenticationEnabled": False}
    (folder / "orthanc.json").write_text(json.dumps(config))

    def request(path: str, data: bytes | None = None, **headers: str) -> tuple[str, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/dicom-web/{path}", data, named), timeout=30
        ) as response:
            return response.headers["Content-Type"], response.read()

    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(300):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                request("studies", Accept="application/dicom+json")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        yield request
    finally:
        process.terminate()
        process.wait(30)


def sent(request: Request, files: tuple[bytes, ...]) -> dict:
    """Store files by STOW-RS."""
    parts = b"".join(b"--cut\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in files)
    kind = 'multipart/related; type="application/dicom"; boundary=cut'
    return json.loads(
        request("studies", parts + b"--cut--\r\n", Content_Type=kind, Accept="application/dicom+json")[1]
    )


def got(request: Request, path: str) -> list[pydicom.Dataset]:
    """Files by WADO-RS."""
    kind, body = request(path, Accept='multipart/related; type="application/dicom"')
    whole = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    return [pydicom.dcmread(io.BytesIO(part.get_payload(decode=True))) for part in whole.get_payload()]


def test_archive_files_them_in_the_study_and_gives_them_back(orthanc: Request) -> None:
    files = made(**PATIENT)
    xray, seg, report = (pydicom.dcmread(io.BytesIO(data)) for data in files)
    stored = sent(orthanc, files)
    assert len(stored["00081199"]["Value"]) == 3
    assert not stored.get("00081198", {}).get("Value")  # those that failed
    study = f"studies/{xray.StudyInstanceUID}"
    found = json.loads(orthanc(f"{study}/series", Accept="application/dicom+json")[1])
    modalities = {one["0020000E"]["Value"][0]: one.get("00080060", {}).get("Value") for one in found}
    assert modalities[seg.SeriesInstanceUID] == ["SEG"] and modalities[report.SeriesInstanceUID] == ["SR"]
    assert len(modalities) == 3
    studies = json.loads(orthanc("studies?PatientID=7340211", Accept="application/dicom+json")[1])
    assert [one["0020000D"]["Value"] for one in studies] == [[xray.StudyInstanceUID]]

    by_uid = {one.SOPInstanceUID: one for one in got(orthanc, study)}
    assert set(by_uid) == {one.SOPInstanceUID for one in (xray, seg, report)}
    lungs = by_uid[seg.SOPInstanceUID]
    (series,) = lungs.ReferencedSeriesSequence
    (instance,) = series.ReferencedInstanceSequence
    source = by_uid[instance.ReferencedSOPInstanceUID]  # the X-ray, as the archive has it
    assert source.SOPInstanceUID == xray.SOPInstanceUID and source.SOPClassUID == instance.ReferencedSOPClassUID
    assert source.SeriesInstanceUID == series.SeriesInstanceUID
    for one in (lungs, by_uid[report.SOPInstanceUID]):
        assert one.StudyInstanceUID == source.StudyInstanceUID
        assert all(str(one[name].value or "") == str(source.get(name) or "") for name in PATIENT_TAGS)
    np.testing.assert_array_equal(lungs.pixel_array, np.stack([RIGHT, LEFT]))
    check_report(highdicom.sr.ComprehensiveSR.from_dataset(by_uid[report.SOPInstanceUID]), xray, seg)


def check_report(report: highdicom.sr.ComprehensiveSR, xray: pydicom.Dataset, seg: pydicom.Dataset) -> None:
    """Assert that a report says what `made` put into it."""
    assert {one[2] for one in report.get_evidence()} == {xray.SOPInstanceUID, seg.SOPInstanceUID}
    (tb,) = report.content.get_image_measurement_groups()
    values = {one.name.value: one.value for one in tb.get_measurements()}
    assert values == {"122157": 0.3, "threshold": 0.25}  # 122157 is DCM's probability
    answers = [(one.name.value, one.value.value) for one in tb.get_qualitative_evaluations()]
    assert answers == [("decision", "suspected"), ("flag", "out_of_distribution"), ("flag", "no_dicom_seg")]
    items = [one for one in tb[0].ContentSequence if "ContentSequence" in one and one.ValueType == "CODE"]
    assert [one.ContentSequence[0].TextValue for one in items] == [
        FLAGS[0].message,
        "no DICOM Segmentation: \\xe9.dcm",
    ]
    assert [one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in tb.source_images] == [xray.SOPInstanceUID]
    assert identified(tb) == ["tb", "0.2.0", "chest-xray-masks", f"digest={'cd' * 32}"]
    lungs = report.content.get_planar_roi_measurement_groups()
    found = {one.finding_type.value: one.get_measurements()[0] for one in lungs}
    assert {code: (one.value, one.unit.value, one.name.value) for code, one in found.items()} == {
        "3341006": (1234.5, "mm2", "42798000"),
        "44029006": (77.25, "mm2", "42798000"),
    }
    for frame, one in enumerate(lungs, 1):
        (segment,) = [item for item in one[0].ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121214"]
        (reference,) = segment.ReferencedSOPSequence
        assert (reference.ReferencedSOPInstanceUID, reference.ReferencedFrameNumber) == (seg.SOPInstanceUID, frame)
        assert identified(one) == ["lungs", "0.2.0", "chest-xray-masks", f"digest={'ab' * 32}"]


def identified(group: highdicom.sr.MeasurementsAndQualitativeEvaluations) -> list[str]:
    """Name, version, maker and parameters of a group's algorithm."""
    codes = ("111001", "111003", "122405", "111002")
    items = [(one.ConceptNameCodeSequence[0].CodeValue, one) for one in group[0].ContentSequence]
    return [one.TextValue for code, one in items if code in codes]
