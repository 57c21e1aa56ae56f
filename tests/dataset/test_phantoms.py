import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, label

from chest_xray_masks import FINDING_NAMES, parse_findings, parse_reading
from hub_models.dataset import phantoms as phantom
from hub_models.dataset.phantoms import render_phantom, write_phantoms
from hub_models.imaging.gray import is_synthetic

MONTGOMERY, SHENZHEN = 20, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_phantoms(tmp_path_factory.mktemp("phantoms") / "set", MONTGOMERY, SHENZHEN, image_size=64, seed=3)
    return root / "Lung Segmentation"


def load(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture


def names(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def readings(folder: Path, prefix: str) -> dict[str, str]:
    return {
        p.stem: p.read_bytes().decode() for p in (folder / "ClinicalReadings").iterdir() if p.stem.startswith(prefix)
    }


def test_layout_and_counts(folder: Path) -> None:
    images = names(folder / "CXR_png")
    montgomery = {name for name in images if re.fullmatch(r"MCUCXR_\d{4}_[01]", name)}
    shenzhen = {name for name in images if re.fullmatch(r"CHNCXR_\d{4}_[01]", name)}
    assert (len(montgomery), len(shenzhen), len(images)) == (MONTGOMERY, SHENZHEN, MONTGOMERY + SHENZHEN)
    # 20 * 58 / 138 = 8.4 and 60 * 336 / 662 = 30.5
    assert sum(name.endswith("_1") for name in montgomery) == 8
    assert sum(name.endswith("_1") for name in shenzhen) == 30
    assert {"MCUCXR_0001_0", "MCUCXR_0012_0", "MCUCXR_0101_1", "MCUCXR_0108_1"} <= images
    assert {"CHNCXR_0001_0", "CHNCXR_0030_0", "CHNCXR_0327_1", "CHNCXR_0356_1"} <= images
    assert names(folder / "ClinicalReadings") == images
    without_mask = names(folder / "test")
    assert len(without_mask) == 9 and without_mask < shenzhen  # 60 * 96 / 662 = 8.7
    assert names(folder / "masks") == montgomery | {f"{name}_mask" for name in shenzhen - without_mask}


def test_ids_stay_unique_past_the_first_tb_number(tmp_path: Path) -> None:
    # 190 * 58 / 138 = 79.9, so 110 normals: TB ids start at 111, not at 101
    for name in ("CXR_png", "masks", "test", "ClinicalReadings"):
        (tmp_path / name).mkdir()
    for index in (109, 110):
        phantom._write_phantom(tmp_path, "Montgomery", 190, index, 64, 0)
    assert names(tmp_path / "CXR_png") == {"MCUCXR_0110_0", "MCUCXR_0111_1"}


def test_modes_palette_indices_and_equal_channels(folder: Path) -> None:
    modes = {path.stem: load(path).mode for path in (folder / "CXR_png").iterdir()}
    assert {mode for name, mode in modes.items() if name.startswith("MC")} == {"L"}
    shenzhen = [mode for name, mode in modes.items() if name.startswith("CH")]
    assert (shenzhen.count("P"), shenzhen.count("RGB")) == (58, 2)  # 60 * 27 / 662 = 2.4
    for path in (folder / "CXR_png").glob("CH*.png"):
        picture = load(path)
        gray = np.asarray(picture.convert("L"))
        assert picture.mode != "P" or np.mean(np.asarray(picture) != gray) > 0.9  # indices are not gray
        assert (np.asarray(picture.convert("RGB")) == gray[..., None]).all()


def test_sizes(folder: Path) -> None:
    sizes = {path.stem: load(path).size for path in (folder / "CXR_png").iterdir()}
    # 64 * 4020 / 4892 = 52.6
    assert {size for name, size in sizes.items() if name.startswith("MC")} == {(53, 64), (64, 53)}
    shenzhen = [size for name, size in sizes.items() if name.startswith("CH")]
    assert len(set(shenzhen)) > 10
    assert all(0.63 * 64 < min(size) <= max(size) <= 64 for size in shenzhen)


def test_masks_are_two_lungs(folder: Path) -> None:
    for path in (folder / "masks").iterdir():
        picture = load(path)
        assert picture.mode == "L"
        assert picture.size == load(folder / "CXR_png" / f"{path.stem.removesuffix('_mask')}.png").size
        mask = np.asarray(picture)
        assert set(np.unique(mask)) == {0, 255}
        pieces, count = label(mask)
        assert count == 2
        areas = np.bincount(pieces.ravel())[1:] / mask.size
        assert (areas > 0.07).all() and (areas < 0.21).all()


def test_test_folder_repeats_pixels_in_other_bytes(folder: Path) -> None:
    for path in (folder / "test").iterdir():
        twin = folder / "CXR_png" / path.name
        assert load(path).mode == load(twin).mode
        assert (np.asarray(load(path).convert("RGB")) == np.asarray(load(twin).convert("RGB"))).all()
        assert path.read_bytes() != twin.read_bytes()


def test_montgomery_readings(folder: Path) -> None:
    texts = readings(folder, "MC")
    form = r"Patient's Sex: ([FMO]) \r?\nPatient's Age: (\d{3})Y\r?\n(.+?)\r?\n(\r\n)?"
    matches = {name: re.fullmatch(form, text) for name, text in texts.items()}
    assert all(matches.values())
    assert {match[1] for match in matches.values()} == {"F", "M", "O"}
    assert all((match[3] == "normal") == name.endswith("_0") for name, match in matches.items())
    assert any("\r\n" in text for text in texts.values()) and any("\r" not in text for text in texts.values())


def test_shenzhen_readings(folder: Path) -> None:
    texts = readings(folder, "CH")
    families = (
        r"(fe)?male \d+yrs\r\nnormal",
        r"femal \d+yrs\r\nnormal",
        r"(fe)?male 16month\r\nnormal",
        r"(fe)?male\d+yrs\r\nnormal",
        r"(fe)?male 64days\r\nnormal",
        r"(fe)?male 1yr\r\n\r\nnormal",
        r"(fe)?male \d+\r\nnormal",
        r" (fe)?male  \d+ yrs\nnormal\r\n",
        r"(fe)?male \d+yrs  \t\n.*(PTB|pleurisy).* \t",
        r"(fe)?male \d+yrs\r\nSTB\r\n.*(PTB|pleurisy)(.|\n)*",
        r"(Female|Male), \d+yrs  \t\n.*   \t",
        r"(Female|Male) , \d+yrs  \t\n1\..* \t",
    )
    found = {text: [bool(re.fullmatch(family, text)) for family in families] for text in texts.values()}
    assert all(sum(row) == 1 for row in found.values()), found
    assert np.any(list(found.values()), axis=0).all()


def test_same_patient_looks_the_same(folder: Path) -> None:
    texts = readings(folder, "MC")
    assert "(same pt as MCUCXR_0101_1)" in texts["MCUCXR_0102_1"]
    assert "(same pt as MCUCXR_0104_1)" in texts["MCUCXR_0105_1"]
    assert "(same pt as MCUCXR_0105_1, MCUCXR_0104_1)" in texts["MCUCXR_0106_1"]
    assert sum("same pt" in text for text in texts.values()) == 3
    first, second = (texts[f"MCUCXR_010{n}_1"].replace("\r", "").splitlines() for n in (1, 2))
    assert first[:2] == second[:2] and second[2].startswith(first[2])


def test_another_visit_is_the_same_patient_in_another_pose() -> None:
    first, second, stranger = (
        render_phantom(s, "Montgomery", True, (96, 96), visit=v) for s, v in ((5, 0), (5, 1), (6, 0))
    )
    assert (first.sex, first.age_years, first.findings) == (second.sex, second.age_years, second.findings)
    assert not np.array_equal(first.image, second.image)
    assert (first.age_years, first.findings) != (stranger.age_years, stranger.findings)


def test_render_is_deterministic_and_sides_are_the_patients() -> None:
    one, two = (render_phantom(11, "Shenzhen", True, (80, 96)) for _ in range(2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.mask, two.mask)
    assert one.reading == two.reading
    assert one.image.shape == one.mask.shape == (80, 96)
    assert (one.image.dtype, one.mask.dtype, one.label) == (np.uint8, bool, 1)
    assert (one.id, one.site) == ("CHNCXR_0011_1", "Shenzhen")
    # The heart takes from the patient's left lung, which is image-right.
    columns = [render_phantom(seed, "Shenzhen", False, (96, 96)).mask.sum(axis=0) for seed in range(12)]
    right, left = np.sum(columns, axis=0).reshape(2, 48).sum(axis=1)
    assert right > left


@pytest.mark.parametrize("site", ["Montgomery", "Shenzhen"])
def test_lesions_lie_in_the_lungs_on_the_named_side(site: str) -> None:
    one_sided = 0
    for seed in range(25):
        sick, well = (render_phantom(seed, site, tuberculosis, (96, 96)) for tuberculosis in (True, False))
        assert np.array_equal(sick.mask, well.mask)
        assert well.findings == () and "normal" in well.reading and sick.findings
        change = sick.image.astype(float) - well.image
        near = binary_dilation(sick.mask, iterations=3)
        assert change.max() > 8
        assert np.abs(change[near]).sum() > 0.8 * np.abs(change).sum()
        text = " ".join(sick.findings)
        if ("right" in text) != ("left" in text):
            one_sided += 1
            assert (change[:, :48].sum() > change[:, 48:].sum()) == ("right" in text)
    assert one_sided > 5


@pytest.mark.parametrize("site", ["Montgomery", "Shenzhen"])
def test_findings_say_what_is_drawn(site: str) -> None:
    for seed in range(40):
        lesions = phantom._lesions(np.random.default_rng((seed, 1)))
        found = parse_findings(parse_reading(render_phantom(seed, site, True, (32, 32)).reading).findings)
        assert set(found.present) == {kind for kind, _, _ in lesions}
        assert not [name for name in FINDING_NAMES if getattr(found, name) == "uncertain"]
        sides = {side for kind, side, _ in lesions if kind != "miliary"}
        both = len(sides) == 2 or any(kind == "miliary" for kind, _, _ in lesions)
        assert found.side == ("bilateral" if both else sides.pop())
        named = {zone for kind, _, zone in lesions if kind in ("infiltrate", "cavity")}
        assert set(found.zones) == named


def test_sites_differ() -> None:
    means = {
        site: np.mean([(p := render_phantom(seed, site, False, (64, 64))).image[p.mask].mean() for seed in range(8)])
        for site in ("Montgomery", "Shenzhen")
    }
    assert means["Shenzhen"] > means["Montgomery"] + 30


def test_every_xray_says_that_it_is_synthetic(folder: Path) -> None:
    xrays = [path for name in ("CXR_png", "test") for path in (folder / name).glob("*.png")]
    assert xrays and all(is_synthetic(path.read_bytes()) for path in xrays)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    one, two, other = (
        write_phantoms(tmp_path / name, 6, 12, 64, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert files(one) == files(two)
    image = "Lung Segmentation/CXR_png/MCUCXR_0001_0.png"
    assert files(one)[image] != files(other)[image]


def test_finished_set_is_kept_and_anything_else_refused(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "set"
    assert write_phantoms(root, 2, 2, 64) == root
    stamp = (root / "phantoms.json").stat().st_mtime_ns
    assert write_phantoms(root, 2, 2, 64) == root
    assert (root / "phantoms.json").stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match="set holds"):
        write_phantoms(root, 2, 2, 64, seed=1)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="file is a file"):
        write_phantoms(tmp_path / "file", 2, 2, 64)
    (tmp_path / "empty").mkdir()
    assert (write_phantoms(tmp_path / "empty", 1, 0, 64) / "phantoms.json").is_file()


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_late(seed: int, site: str, *args: object, **kwargs: object) -> phantom.Phantom:
        if site == "Shenzhen":
            raise OSError("disk full")
        return render_phantom(seed, site, *args, **kwargs)

    monkeypatch.setattr(phantom, "render_phantom", fail_late)
    with pytest.raises(OSError, match="disk full"):
        write_phantoms(tmp_path / "set", 3, 3, 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 63}, "image_size of 64 px or more.*got 63"),
        ({"seed": -1}, "seed of 0 or more.*-1"),
        ({"montgomery": -1}, "0 to 9000 images.*-1"),
        ({"shenzhen": 9001}, "0 to 9000 images.*9001"),
        ({"montgomery": 0, "shenzhen": 0}, "one or more in all"),
    ],
)
def test_impossible_sets_are_refused(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_phantoms(tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "arguments", [(0, "Boston", True, (64, 64)), (-1, "Shenzhen", True, (64, 64)), (0, "Shenzhen", True, (64, 31))]
)
def test_impossible_xrays_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="Montgomery.*got"):
        render_phantom(*arguments)
