import dataclasses
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from chest_xray_masks import SPLITS, scan, split_of
from hub_models.dataset.augmentation import STRENGTHS
from hub_models.dataset.sources import load_splits
from hub_models.dataset.splits import divide
from hub_models.imaging.gray import to_gray
from hub_models.imaging.resizing import resize_gray
from hub_models.models.tasks import TASKS
from hub_models.runs.config import TrainConfig
from hub_models.runs.data import describe, load_rows, load_run_splits, resolve
from hub_models.runs.leaks import Seen, check_leaks, check_pixels, trained_on
from hub_models.runs.run_folder import RunFolder, short_digest

TB = {"task": "tb_classification"}


def config_of(data_dir: Path, **options: object) -> TrainConfig:
    return TrainConfig(str(data_dir), "out", **{"image_size": 32, "augment": "light"} | options)


@pytest.fixture(scope="module")
def lung_run(make_run, tiny_segformer, tmp_path_factory) -> Path:
    """A run folder of lung segmentation that was trained on nothing."""
    folder = str(tmp_path_factory.mktemp("lungs"))
    return make_run(TrainConfig("data", folder, model=str(tiny_segformer), image_size=32))


def test_splits_hold_the_rows_and_the_same_at_the_models_size(phantoms) -> None:
    splits = load_run_splits(config_of(phantoms, seed=5), Accelerator())
    rows = divide(load_splits(phantoms), "default", "lung_segmentation")
    assert tuple(splits) == SPLITS
    for name, split in splits.items():
        assert list(split.rows["id"]) == list(TASKS["lung_segmentation"].usable(rows[name])["id"])
        assert list(split.arrays.prepared["id"]) == list(split.rows["id"])
        assert (split.arrays.image_size, split.arrays.seed) == (32, 5)
        pixels = resize_gray(to_gray(split.rows[1]["image"]), 32)
        assert torch.equal(split.arrays.__getitems__([1])["pixels"][0], torch.from_numpy(pixels.copy()))
    ranges = {name: split.arrays.ranges for name, split in splits.items()}
    assert ranges == {"train": STRENGTHS["light"], "validation": None, "test": None}


def test_size_fit_and_splits_are_those_given(phantoms) -> None:
    splits = load_run_splits(config_of(phantoms, image_size=None, **TB), Accelerator(), ("test",))
    assert list(splits) == ["test"] and splits["test"].arrays.image_size == TASKS["tb_classification"].image_size
    padded = load_run_splits(config_of(phantoms, fit="pad"), Accelerator(), ("test",))["test"]
    pixels = resize_gray(to_gray(padded.rows[0]["image"]), 32, "pad")
    assert torch.equal(padded.arrays.__getitems__([0])["pixels"][0], torch.from_numpy(pixels.copy()))


def test_rows_are_those_of_the_protocol_and_the_site(phantoms) -> None:
    across = load_rows(config_of(phantoms, protocol="mc_to_shenzhen"))
    assert {id[:3] for id in across["test"]["id"]} == {"CHN"}
    assert {id[:3] for split in ("train", "validation") for id in across[split]["id"]} == {"MCU"}
    folds = [load_rows(config_of(phantoms, protocol="folds", fold=fold, **TB))["test"]["id"] for fold in range(5)]
    assert sorted(id for fold in folds for id in fold) == sorted(
        id for rows in load_splits(phantoms).values() for id in rows["id"]
    )
    assert {id[:3] for id in load_rows(config_of(phantoms, config_name="MC"))["train"]["id"]} == {"MCU"}


def test_empty_split_is_named(phantoms, tmp_path) -> None:
    shutil.copytree(phantoms, tmp_path / "set")
    for mask in (tmp_path / "set").rglob("masks/*.png"):
        if split_of(mask.name[:11]) == "validation":
            mask.unlink()
    said = r"no validation X-ray in .*set \(protocol default\) has a lung mask"
    with pytest.raises(ValueError, match=said):
        load_run_splits(config_of(tmp_path / "set"), Accelerator())
    assert len(load_rows(config_of(tmp_path / "set"), ("train",))["train"])  # the others are there
    assert len(load_rows(config_of(tmp_path / "set", **TB))["validation"])  # TB needs no mask
    with pytest.raises(FileNotFoundError, match="set2"):
        load_rows(config_of(tmp_path / "set2"))


def test_split_of_one_class_is_named(phantoms, tmp_path, caplog) -> None:
    shutil.copytree(phantoms, tmp_path / "set")
    for image in (tmp_path / "set").rglob("CXR_png/*_1.png"):
        if split_of(image.name[:11]) == "test":
            image.unlink()
    with pytest.raises(ValueError, match=r"no X-ray of test \(protocol default\) is tuberculosis"):
        load_run_splits(config_of(tmp_path / "set", **TB), Accelerator())
    tested_on = load_run_splits(config_of(tmp_path / "set", **TB), Accelerator(), ("test",))["test"]
    assert set(tested_on.rows["label"]) == {0} and "no X-ray of test (protocol default) is tubercul" in caplog.text


def test_lung_region_is_what_the_lung_model_finds(phantoms, lung_run) -> None:
    config = config_of(phantoms, region="lungs", **TB)
    with pytest.raises(ValueError, match="region lungs needs a lung model that finds them: pass --segmenter"):
        load_run_splits(config, Accelerator(), ("test",))
    found = load_run_splits(dataclasses.replace(config, segmenter=str(lung_run)), Accelerator(), ("test",))["test"]
    whole = load_run_splits(config_of(phantoms, **TB), Accelerator(), ("test",))["test"]
    assert list(found.rows["id"]) == list(whole.rows["id"])
    for one, own in zip(found.rows, whole.rows, strict=True):
        assert one["mask"] is not None and one["mask"] != own["mask"]
        assert one["reference"] == own["mask"]  # which may be absent
    assert not torch.equal(*(one.arrays.__getitems__([0])["pixels"] for one in (found, whole)))


def test_description_has_ids_and_fingerprint(phantoms) -> None:
    config = config_of(phantoms)
    rows = load_rows(config)
    data = describe(config, rows)
    assert {name: data[name] for name in SPLITS} == {name: list(rows[name]["id"]) for name in SPLITS}
    assert data["fingerprint"] == scan(phantoms).fingerprint(None) and data["earlier"] == []
    assert json.loads(json.dumps(data)) == data
    assert data["synthetic"] == sum(map(len, rows.values()))
    mc = config_of(phantoms, config_name="MC")
    of_mc = describe(mc, load_rows(mc))["fingerprint"]
    assert of_mc == scan(phantoms).fingerprint("Montgomery") != data["fingerprint"]


def test_x_rays_that_do_not_say_so_are_not_synthetic(phantoms, tmp_path) -> None:
    shutil.copytree(phantoms, tmp_path / "set")
    xrays = sorted((tmp_path / "set").rglob("CXR_png/*.png"))
    for xray in xrays[1:]:
        with Image.open(xray) as image:
            image.load()
            image.save(xray)  # drops what the file says of itself
    config = config_of(tmp_path / "set", **TB)
    assert describe(config, load_rows(config))["synthetic"] == 1
    with Image.open(xrays[0]) as image:
        image.load()
        image.save(xrays[0])
    assert "synthetic" not in describe(config, load_rows(config))


@pytest.mark.parametrize("option", ["model", "segmenter"])
def test_earlier_model_must_not_know_test_patients(option: str, phantoms, make_run, tiny_segformer, tmp_path) -> None:
    options = {"region": "lungs"} | TB if option == "segmenter" else {}
    config = config_of(phantoms, **options, **{option: str(tmp_path)})
    rows = load_rows(config)
    lungs = TrainConfig("data", str(tmp_path), model=str(tiny_segformer), image_size=32)
    safe, test = rows["train"]["id"][0], rows["test"]["id"][0]
    make_run(lungs, train=[safe], validation=["CHNCXR_9999_0"], test=[test], earlier=["CHNCXR_9998_1"])
    data = describe(config, rows)
    assert data["earlier"] == sorted([safe, "CHNCXR_9999_0", "CHNCXR_9998_1"])
    digests = {name: data[name] for name in ("model", "segmenter") if name in data}
    assert digests == {option: RunFolder.read(tmp_path).digest}
    unused = dataclasses.replace(config, from_scratch=True)  # the architecture of the model alone
    for split in ("train", "validation", "earlier"):
        make_run(lungs, **{split: [test]})
        with pytest.raises(ValueError, match=rf"on patients of 1 of the {len(rows['test'])} X-rays .*\({test}, "):
            describe(config, rows)
        assert option == "segmenter" or describe(unused, rows)["earlier"] == []


def seen(*ids: str, patients: tuple[str, ...] = (), synthetic: bool | None = None) -> Seen:
    return Seen(frozenset(ids), frozenset(map(short_digest, patients)), frozenset(), synthetic)


def test_what_a_model_was_trained_on(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no data.json in "):
        trained_on(tmp_path)
    data = {"fingerprint": "x", "train": ["a", "b"], "validation": ["c"], "test": ["d"], "earlier": ["e", "a"]}
    (tmp_path / "data.json").write_text(json.dumps(data))
    assert trained_on(tmp_path) == seen("a", "b", "c", "e")
    data |= {"pixels": {"train": ["1"], "validation": ["2"], "earlier": ["3"]}, "patients": {"train": ["p"]}}
    (tmp_path / "data.json").write_text(json.dumps(data))
    known = trained_on(tmp_path, ("train",))
    assert (known.pixels, known.patients, known.synthetic) == ({"1", "3"}, {"p"}, None)  # of the earlier none knows
    data["earlier"] = []
    (tmp_path / "data.json").write_text(json.dumps(data))
    assert trained_on(tmp_path).synthetic is False
    (tmp_path / "data.json").write_text(json.dumps(data | {"synthetic_learned": 3}))
    assert trained_on(tmp_path).synthetic is True


def test_leaks_are_of_patients_not_only_of_x_rays() -> None:
    # the readings say that MCUCXR_0162_1, 0166 and 0170 are of one patient
    features = {name: datasets.Value("string") for name in ("id", "patient_id")}
    ids = ["MCUCXR_0166_1", "MCUCXR_0001_0"]
    patients = ["MCUCXR_0162", "MCUCXR_0001"]
    test = datasets.Dataset.from_dict({"id": ids, "patient_id": patients}, features=datasets.Features(features))
    check_leaks("run", seen("MCUCXR_0104_1"), test)
    check_leaks("run", seen(), test)
    with pytest.raises(ValueError, match=r"run was trained on patients of 1 of the 2 X-rays .*\(MCUCXR_0166_1, ...\)"):
        check_leaks("run", seen("MCUCXR_0170_1"), test)
    check_leaks("run", seen("MCUCXR_0170_1"), test, "idiap")  # that split itself divides this patient's X-rays
    with pytest.raises(ValueError, match=r"1 of the 2 X-rays to test on \(MCUCXR_0001_0, ...\)"):
        check_leaks("run", seen("MCUCXR_0001_0"), test, "idiap")


def test_leaks_are_of_patients_whose_ids_tell_nothing() -> None:
    features = {name: datasets.Value("string") for name in ("id", "patient_id")}
    test = datasets.Dataset.from_dict({"id": ["a7", "b"], "patient_id": ["P1", "P2"]}, datasets.Features(features))
    check_leaks("run", seen("other", patients=("P3",)), test)
    for known in (seen("b"), seen(short_digest("b")), seen("other", patients=("P2",))):
        with pytest.raises(ValueError, match=r"1 of the 2 X-rays to test on \(b, ...\)"):
            check_leaks("run", known, test)


def test_phantoms_are_not_the_patients_whose_names_they_carry(phantoms) -> None:
    test = load_splits(phantoms)["test"]
    (id, *_) = test["id"]
    check_leaks("run", seen(id, synthetic=False), test)
    for synthetic in (True, None):
        with pytest.raises(ValueError, match="was trained on patients of 1 of"):
            check_leaks("run", seen(id, synthetic=synthetic), test)


def test_pixels_tell_what_names_do_not(phantoms, tmp_path) -> None:
    splits = load_run_splits(resolve(TrainConfig(str(phantoms), str(tmp_path), image_size=32)), Accelerator())
    digests = splits["test"].arrays.prepared["digest"]
    check_pixels("run", frozenset(splits["train"].arrays.prepared["digest"]), splits["test"])
    with pytest.raises(ValueError, match=splits["test"].rows["id"][3]):
        check_pixels("run", frozenset({digests[3]}), splits["test"])


def test_phantom_set_has_what_these_tests_need(phantoms) -> None:
    rows = load_splits(phantoms)["train"]
    absent = np.array([mask is None for mask in rows["mask"]])
    assert 4 <= absent.sum() <= len(rows) - 4


def write_own(folder: Path, header: str) -> None:
    """Forty images of noise and a table of three columns: file, label and patient."""
    folder.mkdir()
    lines = [header]
    for number in range(40):
        noise = np.random.default_rng(ord(folder.name) * 1000 + number).integers(0, 255, (24, 20), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{['normal', 'TB'][number % 2]},{folder.name}{number}")
    (folder / "t.csv").write_text("\n".join(lines))


def test_columns_of_the_training_are_guessed_in_a_test_that_has_none_of_them(tmp_path: Path) -> None:
    for name, header in (("a", "file,dx,patient"), ("b", "file,label,pid"), ("c", "file,dx,who")):
        write_own(tmp_path / name, header)
    config = config_of(tmp_path / "a", columns="label=dx, patient_id=patient", test_data=str(tmp_path / "b"), **TB)
    rows = load_rows(config)
    assert sum(rows["test"]["label"]) == 20 and {id[0] for id in rows["test"]["patient_id"]} == {"b"}
    assert {id[0] for id in (*rows["train"]["patient_id"], *rows["validation"]["patient_id"])} == {"a"}
    with pytest.raises(ValueError, match="c has no column for patient_id=patient"):
        load_rows(dataclasses.replace(config, test_data=str(tmp_path / "c")))


def test_beside_the_set_columns_are_those_of_the_test(phantoms: Path, tmp_path: Path) -> None:
    write_own(tmp_path / "a", "file,dx,who")
    config = config_of(phantoms, columns="label=dx, patient_id=who", test_data=str(tmp_path / "a"), **TB)
    rows = load_rows(config)
    assert sum(rows["test"]["label"]) == 20 and {id[0] for id in rows["test"]["patient_id"]} == {"a"}
    assert len(rows["train"]) == len(load_splits(phantoms)["train"])
    with pytest.raises(ValueError, match="patient_id=patient"):
        load_rows(dataclasses.replace(config, columns="label=dx, patient_id=patient"))
    with pytest.raises(ValueError, match="X-rays of the set alone"):
        load_rows(dataclasses.replace(config, test_data=str(phantoms)))
