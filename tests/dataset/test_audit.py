import csv
import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import dicom

import chest_xray_masks as cxm
from hub_models.dataset.audit import audit, report, says_normal
from hub_models.dataset.audit_report import KINDS, PUBLISHED, PUBLISHED_ODDITIES, Audit
from hub_models.dataset.inspection import component_areas, hash_distances, inspect_tree, perceptual_hash
from hub_models.dataset.published import published_ids
from hub_models.dataset.sources import load_splits

ROOT = Path(__file__).parents[2]
SIZE = 64
IDS = Path(__file__).parents[1] / "data" / "ids.csv"
CROSSING = "CHNCXR_0361_1"  # the published mask whose polygon crosses itself
NORMAL, SICK, MC = "CHNCXR_0001_0", "CHNCXR_0327_1", "MCUCXR_0001_0"


def xray(seed: int, size: int = SIZE) -> np.ndarray:
    """(size, size) uint8: smooth noise, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def lungs(size: int = SIZE) -> np.ndarray:
    """(size, size) uint8 of 0 and 255: two rectangles, each of 0.5 x 0.25 = 12.5 % of the image."""
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : 3 * size // 4, size // 8 : 3 * size // 8] = 255
    mask[size // 4 : 3 * size // 4, 5 * size // 8 : 7 * size // 8] = 255
    return mask


def png(pixels: np.ndarray | Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, "PNG", **how)
    return buffer.getvalue()


def reading(id: str) -> str:
    findings = "normal" if id[-1] == "0" else "secondary PTB in the left upper field"
    return f"Patient's Sex: F\nPatient's Age: 031Y\n{findings}\n" if id[0] == "M" else f"male 46yrs\n{findings}"


def text_of(id: str) -> str:
    return f"ClinicalReadings/{id}.txt"


def files_of(id: str, seed: int) -> dict[str, bytes]:
    mask = f"masks/{id}{'' if id[0] == 'M' else '_mask'}.png"
    return {f"CXR_png/{id}.png": png(xray(seed)), mask: png(lungs()), text_of(id): reading(id).encode()}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / "Lung Segmentation" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Three sound images, to which a test adds files or takes them (None) away."""

    def _make(changes: dict[str, bytes | None] | None = None, **more: bytes | None) -> Path:
        files = files_of(NORMAL, 1) | files_of(SICK, 2) | files_of(MC, 3)
        files |= (changes or {}) | more
        return write(tmp_path / "set", {name: data for name, data in files.items() if data is not None})

    return _make


def run(data_dir: Path) -> Audit:
    return audit(data_dir, progress=False)


def kinds(found: Audit) -> dict[str, list[tuple[str, ...]]]:
    """Ids by kind of finding; the X-rays that a tiny tree lacks, and those that it made up, left out."""
    rows: dict[str, list[tuple[str, ...]]] = {}
    for finding in found.findings:
        if finding.kind not in ("X-ray missing", "not of the published set"):
            rows.setdefault(finding.kind, []).append(finding.ids)
    return rows


def complete_set() -> dict[str, bytes]:
    """The published X-rays in small: 800 images and readings, 704 masks, 96 test/ copies, and the crossing polygon."""
    files: dict[str, bytes] = {}
    with IDS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        id = row["id"]
        own = files_of(id, number)
        if row["has_mask"] == "0":
            own.pop(f"masks/{id}_mask.png")
            pixels = Image.open(io.BytesIO(own[f"CXR_png/{id}.png"]))
            own[f"test/{id}.png"] = png(pixels.convert("RGB"))
        own[text_of(id)] = own[text_of(id)].replace(b"31Y", b"%dY" % (20 + number % 50))
        files |= own
    return files | {f"masks/{CROSSING}_mask.png": png(three_parts())}


def three_parts() -> np.ndarray:
    """(SIZE, SIZE) uint8: the lungs, one of them cut in two."""
    mask = lungs()
    mask[SIZE // 2, : SIZE // 2] = 0
    return mask


def test_sound_subset_is_off_by_what_it_lacks_alone(make: Make) -> None:
    found = run(make())
    assert kinds(found) == {}
    assert found.is_off
    assert found.counts["Shenzhen"] == {"images": 2, "normal": 1, "tuberculosis": 1, "masks": 2, "readings": 2}
    assert found.counts["MC"] == {"images": 1, "normal": 1, "tuberculosis": 0, "masks": 1, "readings": 1}
    assert len(found.of_kind("X-ray missing")) == len(found.missing["images"]) == 797
    assert (len(found.missing["masks"]), len(found.missing["readings"]), found.is_complete) == (701, 797, False)
    assert found.headline() == "3 of 800 X-rays, 3 of 704 masks, 3 of 800 readings"
    assert found.mask_values == {"0/255": 3}
    assert found.modes == {
        f"{site} {role} L 8-bit": count for site, count in (("MC", 1), ("Shenzhen", 2)) for role in ("image", "mask")
    }


def test_a_site_without_any_file_is_information(tmp_path: Path) -> None:
    found = run(write(tmp_path, files_of(MC, 1)))
    assert found.of_kind("site absent")[0].ids == ("Shenzhen",)
    assert {finding.ids[0][:3] for finding in found.of_kind("X-ray missing")} == {"MCU"}
    assert found.headline() == "1 of 138 X-rays, 1 of 138 masks, 1 of 138 readings (Montgomery alone)"


def test_missing_partners(make: Make) -> None:
    found = run(make({f"CXR_png/{SICK}.png": None, f"masks/{NORMAL}_mask.png": None, text_of(MC): None}))
    expected = {"mask missing": [(NORMAL,)], "image without reading": [(MC,)]}
    assert kinds(found) == expected | {"mask without image": [(SICK,)], "reading without image": [(SICK,)]}


def test_label_against_reading_and_reading_without_values(make: Make) -> None:
    path = make({text_of(SICK): b"male 46yrs\nNormal", text_of(MC): b"Patient's Sex: \nPatient's Age: \nTB"})
    found = run(path)
    assert kinds(found) == {"reading lacks a value": [(MC,)], "label against reading": [(SICK,), (MC,)]}
    assert found.of_kind("label against reading")[0].message == "named tuberculosis, the reading says 'Normal'"
    assert found.of_kind("reading lacks a value")[0].message.startswith("no sex, age_years in ")


@pytest.mark.parametrize(
    ("findings", "normal"),
    [("normal", True), ("Normale", True), ("STB; 1.normal", False), ("pt had previously normal CXR", False)]
    + [("abnormal", False), ("; normal", True), ("poor image; normal", True)],
)
def test_says_normal(findings: str, normal: bool) -> None:
    assert says_normal(findings) == normal


def test_image_under_both_labels(make: Make) -> None:
    found = run(make(files_of("CHNCXR_0001_1", 9)))
    assert kinds(found) == {"two labels": [("CHNCXR_0001_0",), ("CHNCXR_0001_1",)]}
    assert [finding.ids for finding in found.of_kind("not of the published set")] == [("CHNCXR_0001_1",)]


def test_phantoms_are_called_synthetic(phantoms: Path, tmp_path: Path) -> None:
    found = run(phantoms)
    assert found.headline().startswith("60 synthetic X-rays (phantoms), ") and found.is_off and not found.is_complete
    assert len(found.of_kind("synthetic X-ray")) == found.synthetic == 60 and not found.of_kind("X-ray missing")
    one = min(phantoms.rglob("CXR_png/CHN*.png"))
    mixed = run(write(tmp_path, files_of(MC, 3) | {f"CXR_png/{SICK}.png": one.read_bytes()}))
    assert mixed.headline().endswith("; 1 synthetic X-ray (phantoms) among them") and mixed.synthetic == 1


def test_modes_and_bit_depths(make: Make) -> None:
    deep = Image.fromarray(xray(4).astype(np.uint16) * 16)
    path = make({f"CXR_png/{NORMAL}.png": png(Image.fromarray(xray(1)).convert("P")), f"CXR_png/{MC}.png": png(deep)})
    found = run(path)
    assert kinds(found) == {}
    assert found.modes["Shenzhen image P 8-bit"] == found.modes["Shenzhen image L 8-bit"] == 1
    assert found.modes["MC image I;16 16-bit"] == 1


def test_mask_values(make: Make) -> None:
    soft = lungs()
    soft[16, 8:12] = 90, 200, 180, 140  # 4 of 4096 pixels
    path = make({f"masks/{MC}.png": png(soft), f"masks/{NORMAL}_mask.png": png(lungs() // 255)})
    found = run(path)
    assert found.mask_values == {"0/1": 1, "0/255": 1, "soft edges": 1}
    assert kinds(found) == {}


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda mask: mask * 0, "empty mask", ""),
        (lambda _: lungs(32), "mask of another size", "32x32, its image 64x64"),
        (lambda mask: np.pad(mask[3:-3, 3:-3], 3, constant_values=100), "mask of gray values", " not black or white"),
        (lambda mask: mask + 255 * (np.arange(SIZE**2) == 130).reshape(SIZE, SIZE), "specks in mask", ""),  # at (2, 2)
        (lambda mask: mask * (np.arange(SIZE) < 32).astype(np.uint8), "mask of one part", "12.5%"),
        (lambda _: three_parts(), "mask of more than two parts", "3: 12.5% and 6.2% and 5.9%"),
        # 2 columns x 32 of 64 x 64 pixels: 1.6 % of the image
        (lambda mask: mask * (np.arange(SIZE) < 42), "lung of odd area", "12.5% and 1.6% of the image"),
        # the left lung 4 x 32 pixels (3.1 %), a quarter of the right one
        (lambda mask: mask * (np.arange(SIZE) < 44), "lung of odd area", "and 3.1% of the image: one is much smaller"),
    ],
)
def test_lungs(make: Make, change: Callable[[np.ndarray], np.ndarray], kind: str, message: str) -> None:
    found = run(make({f"masks/{MC}.png": png(change(lungs()).astype(np.uint8))}))
    assert kinds(found) == {kind: [(MC,)]}
    (finding,) = found.of_kind(kind)
    assert finding.message.endswith(message)
    assert (finding.mark, finding.known) == ("off" if KINDS[kind].is_off else "info", None)


def sides(left: np.ndarray, right: np.ndarray) -> dict[str, bytes | None]:
    """Changes to a tree: a file for each lung of MC in place of one mask."""
    lungs = {"leftMask": left, "rightMask": right}
    files = {f"MontgomerySet/ManualMask/{name}/{MC}.png": png(mask) for name, mask in lungs.items()}
    return {f"masks/{MC}.png": None, **files}


def test_left_and_right_masks_are_one(make: Make) -> None:
    left = lungs() * (np.arange(SIZE) < SIZE // 2) > 0
    found = run(make(sides(left, (lungs() > 0) & ~left)))
    assert kinds(found) == {}
    assert (found.counts["MC"]["masks"], found.modes["MC mask 1 1-bit"], found.second_copies) == (1, 1, 0)


def test_one_lung_of_two(make: Make) -> None:
    changes = sides(lungs(), lungs())
    found = run(make(changes | {f"MontgomerySet/ManualMask/rightMask/{MC}.png": None}))
    assert kinds(found) == {"one lung of two": [(MC,)], "mask missing": [(MC,)]}
    assert found.counts["MC"]["masks"] == 0


def test_left_and_right_masks_of_two_sizes(make: Make) -> None:
    found = run(make(sides(lungs(32), lungs())))
    assert kinds(found) == {"unreadable file": [(MC,)]}
    assert "(32, 32) and (64, 64) pixels" in found.of_kind("unreadable file")[0].message


def test_same_pixels_in_other_bytes_and_modes(make: Make) -> None:
    gray = Image.fromarray(xray(1))
    path = make({f"CXR_png/{SICK}.png": png(gray.convert("RGB")), f"CXR_png/{MC}.png": png(gray.convert("P"))})
    assert kinds(run(path)) == {"same pixels": [(NORMAL, SICK, MC)]}


def test_near_duplicates_are_of_different_patients(make: Make, tmp_path: Path) -> None:
    darker = png((xray(1) * 0.9).astype(np.uint8))
    assert kinds(run(make({f"CXR_png/{SICK}.png": darker}))) == {"near-duplicate": [(NORMAL, SICK)]}
    earlier, later = "MCUCXR_0200_1", "MCUCXR_0201_1"
    files = files_of(earlier, 1) | files_of(later, 1) | {f"CXR_png/{later}.png": darker}
    files[text_of(earlier)] = b"Patient's Sex: M\nPatient's Age: 040Y\nold scars"
    files[text_of(later)] = b"Patient's Sex: M\nPatient's Age: 041Y\n(same pt as MCUCXR_0200_1)"
    assert kinds(run(write(tmp_path / "one patient", files))) == {"site absent": [("Shenzhen",)]}


def test_may_be_one_patient(tmp_path: Path) -> None:
    said = {
        "MCUCXR_0200_1": "M 33 stable inactive scars in RUL",
        "MCUCXR_0201_1": "M 33 stable inactive scars RUL",
        "MCUCXR_0202_1": "M 34 stable inactive scars RUL",  # another age
        "MCUCXR_0203_1": "M 34 miliary nodules, effusion",  # other findings
        "MCUCXR_0204_1": "M 33 stable scar in the right upper lobe",
        "MCUCXR_0205_1": "M 33 stable scar in the right upper lobe (same pt as MCUCXR_0204_1)",  # known
        "MCUCXR_0001_0": "F 20 normal",
        "MCUCXR_0002_0": "F 20 normal",  # "normal" says nothing
    }
    files: dict[str, bytes] = {}
    for id, text in said.items():
        sex, age, findings = text.split(" ", 2)
        files |= files_of(id, len(files))
        files[text_of(id)] = f"Patient's Sex: {sex}\nPatient's Age: 0{age}Y\n{findings}".encode()
    found = kinds(run(write(tmp_path, files)))
    assert found == {"site absent": [("Shenzhen",)], "may be one patient": [("MCUCXR_0200_1", "MCUCXR_0201_1")]}


def test_test_copies(make: Make) -> None:
    copies = {
        f"test/{NORMAL}.png": png(Image.fromarray(xray(1)).convert("RGB")),  # other bytes, same pixels
        f"test/{SICK}.png": png(xray(1)),  # the pixels of NORMAL
        "test/CHNCXR_0400_1.png": png(xray(9)),
    }
    found = run(make(copies))
    assert found.test_copies == 1
    assert kinds(found) == {"test/ copy of no image": [("CHNCXR_0400_1",)], "test/ copy of another image": [(SICK,)]}
    assert found.of_kind("test/ copy of another image")[0].message == f"has the pixels of {NORMAL}"
    assert found.counts["Shenzhen"]["images"] == 2


def test_copies_of_one_file(make: Make) -> None:
    same = {"again/" + name: data for name, data in files_of(NORMAL, 1).items()}
    resaved = png(xray(3), compress_level=0)
    found = run(make(same | {f"again/CXR_png/{MC}.png": resaved}))
    assert kinds(found) == {}
    assert found.second_copies == 4


def test_copies_that_differ(make: Make) -> None:
    others = {f"again/{name}": data for name, data in files_of(NORMAL, 8).items()}
    others[f"again/masks/{NORMAL}_mask.png"] = png(lungs().T)
    others[f"again/ClinicalReadings/{NORMAL}.txt"] = b"male 46yrs \r\n normal"  # the same words
    found = run(make(others))
    assert kinds(found) == {"copies differ": [(NORMAL,), (NORMAL,)]}
    message = f"Lung Segmentation/again/CXR_png/{NORMAL}.png is not Lung Segmentation/CXR_png/{NORMAL}.png"
    assert found.of_kind("copies differ")[0].message == message


def test_blank_image(make: Make) -> None:
    assert kinds(run(make({f"CXR_png/{MC}.png": png(lungs() * 0)}))) == {"blank image": [(MC,)]}


def test_damaged_files_are_rows(make: Make) -> None:
    whole = png(xray(2))
    files = {f"CXR_png/{NORMAL}.png": b"", f"CXR_png/{SICK}.png": whole[:-500], f"masks/{MC}.png": b"no image"}
    path = make(files | {f"CXR_png/{MC}.png": None, f"CXR_png/{MC}.dcm": b"no dicom"})
    found = run(path)
    assert kinds(found) == {"unreadable file": [(NORMAL,), (SICK,), (MC,), (MC,)]}
    assert str(path) not in str(found.findings)
    assert " at 0x" not in str(found.findings)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk whose checksum is right."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_damage_that_only_a_full_decode_shows(make: Make) -> None:
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, 0)
    short = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"too few pixels")) + chunk(b"IEND", b"")
    short = b"\x89PNG\r\n\x1a\n" + short
    assert cxm.check_image(short, "short") == (SIZE, SIZE)
    assert kinds(run(make({f"CXR_png/{MC}.png": short}))) == {"unreadable file": [(MC,)]}


@pytest.mark.parametrize("side", [12_000, 65_000])  # above MAX_PIXELS; so large that PIL refuses it
def test_too_many_pixels(make: Make, side: int) -> None:
    whole = png(xray(1))
    huge = whole[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)) + whole[33:]
    assert kinds(run(make({f"CXR_png/{MC}.png": huge}))) == {"too many pixels": [(MC,)]}


def test_dicom_image(make: Make) -> None:
    data = dicom(xray(3).astype(np.uint16) * 16)
    found = run(make({f"CXR_png/{MC}.png": None, f"CXR_png/{MC}.dcm": data}))
    assert kinds(found) == {}
    assert found.modes["MC image DICOM"] == 1


def test_readings_alone(tmp_path: Path) -> None:
    found = run(write(tmp_path, {text_of(MC): reading(MC).encode()}))
    assert kinds(found) == {"site absent": [("Shenzhen",)], "reading without image": [(MC,)]}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"data/Lung Segmentation/{name}", data)
    return path


def test_zip_with_a_damaged_and_an_unsafe_member(tmp_path: Path) -> None:
    files = files_of(MC, 1) | files_of(SICK, 2)
    path = zipped(tmp_path / "set.zip", files | {f"../../../CXR_png/{NORMAL}.png": png(xray(3))})
    data = path.read_bytes()
    at = data.index(files[f"CXR_png/{MC}.png"]) + 100
    path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
    found = run(path)
    unsafe = f"data/Lung Segmentation/../../../CXR_png/{NORMAL}.png"
    assert kinds(found) == {"unreadable file": [(MC,), (unsafe,)]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda mask: 255 - mask, "looks inverted: it covers 75% of the image"),
        (lambda mask: np.pad(mask[8:-8, 8:-8] | 255, 8), "covers"),
    ],
)
def test_masks_of_no_lungs(make: Make, change: Callable[[np.ndarray], np.ndarray], said: str) -> None:
    side = 2 * SIZE if said == "covers" else SIZE  # a frame of 1/16: 77 % of the image
    files = {f"masks/{MC}.png": png(change(lungs(side))), f"CXR_png/{MC}.png": png(xray(3, side))}
    found = run(make(files))
    assert kinds(found) == {"mask of no lungs": [(MC,)]} and found.is_off
    assert found.of_kind("mask of no lungs")[0].message.startswith(said)


def test_masks_as_labels_are_sound(make: Make) -> None:
    side_by_side = np.where(np.arange(SIZE) < SIZE // 2, 100, 200) * (lungs() // 255)
    halves = {
        f"mask_{side}/{MC}_mask.png": png(part) for side, part in zip(("left", "right"), split(lungs()), strict=True)
    }
    files = {f"masks/{NORMAL}_mask.png": png(side_by_side.astype(np.uint8)), f"masks/{MC}.png": None}
    found = run(make(files | halves))
    assert kinds(found) == {}
    assert found.mask_values == {"0/255": 2, "labels": 1}


def split(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lungs of a mask, one in each."""
    is_left = np.arange(SIZE) < SIZE // 2
    return mask * is_left, mask * ~is_left


def test_files_that_are_not_used(make: Make) -> None:
    more = {f"previews/{id}.png": png(xray(5)) for id in (NORMAL, SICK)}
    jpeg = io.BytesIO()
    Image.fromarray(xray(1)).save(jpeg, "JPEG")
    found = run(make(more | {f"images/{NORMAL}.jpg": jpeg.getvalue()}))
    assert kinds(found) == {
        "file not used": [("Lung Segmentation/previews",)],
        "copy not used": [("Lung Segmentation/images",)],
    }
    assert found.of_kind("file not used")[0].message.startswith("2 files named like X-rays of the set in ")
    assert not found.of_kind("copy not used")[0].is_off and found.of_kind("file not used")[0].is_off


def test_a_table_in_the_place_of_readings(make: Make) -> None:
    table = f"study_id,sex,age,findings\n{MC}.png,F,31,normal\n{NORMAL}.png,Female,64,normal\n{SICK}.png,,,normal\n"
    files = files_of("CHNCXR_0202_0", 7) | {text_of(id): None for id in (MC, SICK, "CHNCXR_0202_0")}
    table += "CHNCXR_0202_0.png,Female,64,normal\n"
    found = run(make(files | {"x_metadata.csv": table.encode()}))
    assert kinds(found) == {
        "label against reading": [(SICK,)],
        "reading lacks a value": [(SICK,)],
        "table known to be wrong": [("CHNCXR_0202_0",)],
        "table against reading": [(NORMAL,)],
    }
    assert found.of_kind("table against reading")[0].message == "sex female: male, age 64.0: 46.0"
    assert found.counts["Shenzhen"]["readings"] == 3 and found.counts["MC"]["readings"] == 1


def test_a_mask_in_two_formats(make: Make) -> None:
    jpeg, other = io.BytesIO(), io.BytesIO()
    Image.fromarray(lungs()).save(jpeg, "JPEG")
    Image.fromarray(lungs().T).save(other, "JPEG")
    found = run(make({f"masks/{MC}.jpg": jpeg.getvalue(), f"masks/{NORMAL}_mask.jpg": other.getvalue()}))
    assert kinds(found) == {"copies differ": [(NORMAL,)]}


def test_cut_zip_beside_sound_files(make: Make, tmp_path: Path) -> None:
    path = make()
    whole = zipped(tmp_path / "whole.zip", files_of(NORMAL, 1)).read_bytes()
    (path / "cut.zip").write_bytes(whole[:-200])
    assert kinds(run(path)) == {"unreadable file": [("cut.zip",)]}


def test_nothing_of_the_set(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(png(xray(1)))
    with pytest.raises(FileNotFoundError, match="no chest X-rays in .*CXR_png"):
        audit(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        audit(tmp_path / "nowhere")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04")
    ((name,),) = kinds(run(tmp_path / "cut.zip"))["unreadable file"]
    assert name.endswith("cut.zip")


def test_report_path_is_checked_before_the_work(make: Make, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        report(tmp_path / "nowhere", tmp_path / "missing" / "report.json")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        report(make(), tmp_path)


def test_json_holds_all_of_it(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    found = report(make({f"masks/{MC}.png": None}), path, progress=False)
    read = json.loads(path.read_text())
    assert read == found.to_dict()
    assert read["published"]["MC"]["images"] == 138
    assert read["reported"] == {"MC": {}, "Shenzhen": {"activity unknown": 1}}  # PTB in the left upper field
    expected = {"kind": "mask missing", "ids": [MC], "message": "", "is_off": True, "known": None}
    assert expected in read["findings"] and read["advice"]["mask missing"] == KINDS["mask missing"].advice
    assert [entry.name for entry in tmp_path.iterdir() if "report" in entry.name] == ["report.json"]


def test_published_counts_add_up_and_oddities_are_of_the_set() -> None:
    assert [sum(row[what] for row in PUBLISHED.values()) for what in ("images", "masks")] == [800, 704]
    assert all(row["normal"] + row["tuberculosis"] == row["images"] for row in PUBLISHED.values())
    assert {kind for kind, _ in PUBLISHED_ODDITIES} <= set(KINDS)
    assert {id for _, ids in PUBLISHED_ODDITIES for id in ids} <= published_ids()


def test_hash_is_of_the_picture_not_of_its_size_or_brightness() -> None:
    first, second = Image.fromarray(xray(1)), Image.fromarray(xray(2))
    half = first.resize((48, 48), Image.Resampling.BICUBIC)
    brighter = first.point([round(255 * (value / 255) ** 0.8) for value in range(256)])
    distances = hash_distances([perceptual_hash(image) for image in (first, half, brighter, second)])
    assert distances.diagonal().tolist() == [0, 0, 0, 0]
    assert max(distances[0, 1:3]) <= 30 < 80 < distances[0, 3]
    assert perceptual_hash(Image.new("L", (64, 64), 7)) is None


def test_component_areas() -> None:
    mask = np.zeros((10, 10), bool)
    mask[0:2, 0:3] = mask[2, 3] = True  # joined by a corner: 7 pixels
    mask[9, 9] = True
    assert component_areas(mask) == pytest.approx([0.07, 0.01])


def test_inspected_facts_hold_no_pixels(make: Make) -> None:
    inspected = inspect_tree(cxm.scan(str(make())), progress=False)
    assert [one.role for one in inspected if one.id == MC] == ["image", "mask", "reading"]
    assert not [one for one in inspected for value in one.facts if isinstance(value, np.ndarray)]


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/audit_dataset.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_script_on_the_complete_set_in_a_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "archive.zip", files := complete_set())
    done = script("--data_dir", path, "--json", tmp_path / "report.json", "--strict")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "complete: 800 of 800 X-rays, 704 of 704 masks, 800 readings"
    read = json.loads((tmp_path / "report.json").read_text())
    assert (read["is_off"], read["is_complete"], read["test_copies"], read["counts"]) == (False, True, 96, PUBLISHED)
    kinds = Counter(finding["kind"] for finding in read["findings"])
    assert kinds == {"image without mask": 96, "mask of more than two parts": 1}
    assert [finding["ids"] for finding in read["findings"] if finding["known"]] == [[CROSSING]]
    files |= {f"masks/{SICK}_mask.png": png(three_parts())}  # such a mask of another X-ray is not an oddity of the set
    done = script("--data_dir", zipped(path, files), "--strict")
    assert done.returncode == 1 and done.stdout.startswith("complete: ")
    del files[f"CXR_png/{MC}.png"], files[f"masks/{MC}.png"], files[text_of(MC)]
    done = script("--data_dir", zipped(path, files), "--strict")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "799 of 800 X-rays, 703 of 704 masks, 799 of 800 readings"


def test_script_is_strict_only_with_the_option(make: Make) -> None:
    path = make({text_of(SICK): b"male 46yrs\nnormal [/red]"})
    done, strict = script("--data_dir", path), script("--data_dir", path, "--strict")
    assert (done.returncode, strict.returncode) == (0, 1)
    assert "something is off" in done.stdout
    assert "normal [/red]" in done.stdout


def test_script_without_the_set(tmp_path: Path) -> None:
    for folder, said in ((tmp_path, "no chest X-rays in"), (tmp_path / "nowhere", "does not exist")):
        done = script("--data_dir", folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr and str(folder) in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("data", ["/no/where", "./nowhere", "x.zip"])
def test_report_of_nothing_says_what_every_command_says(data: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{data} does not exist: pass the set, a folder of X-rays"):
        report(data)
    with pytest.raises(FileNotFoundError, match=f"{data} does not exist: pass the set, a folder of X-rays"):
        load_splits(data)


def test_real_set(real_data_dir: Path) -> None:
    found = run(real_data_dir)
    totals = [sum(row[what] for row in found.counts.values()) for what in ("images", "masks", "readings")]
    assert totals == [525, 449, 525]
    assert (found.test_copies, found.second_copies) == (76, 0)
    assert found.mask_values == {"soft edges": 449}
    assert found.headline() == "525 of 800 X-rays, 449 of 704 masks, 525 of 800 readings"
    assert {finding.kind for finding in found.findings if finding.is_off} == {"X-ray missing"}
    assert len(found.of_kind("image without mask")) == 76
    said = {"cavity": 10, "? cavity": 1, "effusion": 7, "activity active": 10, "activity unknown": 15}
    assert said.items() <= found.reported["MC"].items() and "adenopathy" not in found.reported["MC"]
    assert found.reported["Shenzhen"]["miliary"] == 3 and found.reported["Shenzhen"]["activity unknown"] == 216
    pairs = [finding.ids for finding in found.of_kind("may be one patient")]
    assert pairs == [("MCUCXR_0254_1", "MCUCXR_0255_1"), ("MCUCXR_0372_1", "MCUCXR_0375_1")]
    odd = [finding.ids[0] for finding in found.of_kind("lung of odd area")]
    assert odd == ["CHNCXR_0339_1", "CHNCXR_0513_1", "CHNCXR_0603_1", "CHNCXR_0606_1"]
    assert all(one.known for one in found.of_kind("lung of odd area") + found.of_kind("may be one patient"))
