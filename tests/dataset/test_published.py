import csv
from collections import Counter
from pathlib import Path

import pytest

from hub_models.dataset.published import PUBLISHED_SPLITS, TABLE, pixel_spacing_mm, published_ids, published_split

IDS = Path(__file__).parents[1] / "data" / "ids.csv"


def ids() -> list[str]:
    with IDS.open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


def test_table_holds_the_800_in_order() -> None:
    with TABLE.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == ids() == sorted(ids())
    sizes = Counter((row["id"][:3], row["width"], row["height"]) for row in table)
    assert sizes == {("MCU", "4020", "4892"): 97, ("MCU", "4892", "4020"): 41, ("CHN", "", ""): 662}


@pytest.mark.parametrize(
    ("split", "montgomery", "shenzhen"),
    [  # train, validation, test, left out; each line adds to 138 and 662
        ("idiap_segmentation", (96, 14, 28, 0), (396, 56, 114, 96)),
        ("idiap_classification", (88, 22, 28, 0), (422, 107, 133, 0)),
        ("ark_shenzhen", (0, 0, 0, 138), (463, 65, 134, 0)),
    ],
)
def test_splits_are_as_large_as_published(split: str, montgomery: tuple[int, ...], shenzhen: tuple[int, ...]) -> None:
    for prefix, expected in (("MCU", montgomery), ("CHN", shenzhen)):
        counts = Counter(published_split(id, split) for id in ids() if id.startswith(prefix))
        assert tuple(counts[name] for name in ("train", "validation", "test", None)) == expected


def test_segmentation_split_holds_the_x_rays_with_a_mask() -> None:
    with IDS.open(newline="") as file:
        masked = {row["id"] for row in csv.DictReader(file) if row["has_mask"] == "1"}
    assert masked == {id for id in ids() if published_split(id, "idiap_segmentation")} == published_ids(with_mask=True)
    assert published_ids() == set(ids())


def test_published_split_separates_one_patients_xrays() -> None:
    """The reason for the project's own split: 0162, 0166 and 0170 are one patient."""
    splits = [published_split(f"MCUCXR_{id}_1", "idiap_segmentation") for id in ("0162", "0166", "0170")]
    assert splits == ["train", "test", "train"]


def test_unknown_ids_are_in_no_split_and_an_unknown_split_is_refused() -> None:
    assert {published_split("MCUCXR_9999_0", split) for split in PUBLISHED_SPLITS} == {None}
    with pytest.raises(ValueError, match="'idiap'.*idiap_segmentation"):
        published_split("MCUCXR_0001_0", "idiap")


@pytest.mark.parametrize(
    ("id", "height", "width", "spacing"),
    [  # MCUCXR_0001_0 has 4020 rows of 4892 pixels at 0.0875 mm: 351.75 mm high and 428.05 mm wide
        ("MCUCXR_0001_0", 4020, 4892, (0.0875, 0.0875)),
        ("MCUCXR_0001_0", 512, 512, (351.75 / 512, 428.05 / 512)),
        # MCUCXR_0399_1 has 4892 rows of 4020 pixels: a tenth of the rows, each ten times as high
        ("MCUCXR_0399_1", 489, 4020, (4892 * 0.0875 / 489, 0.0875)),
        ("CHNCXR_0001_0", 512, 512, None),
        ("MCUCXR_9999_0", 512, 512, None),
    ],
)
def test_spacing(id: str, height: int, width: int, spacing: tuple[float, float] | None) -> None:
    assert pixel_spacing_mm(id, height, width) == (spacing and pytest.approx(spacing))


@pytest.mark.parametrize("size", [(0, 512), (512, -1)])
def test_spacing_of_no_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="MCUCXR_0001_0 cannot have"):
        pixel_spacing_mm("MCUCXR_0001_0", *size)
