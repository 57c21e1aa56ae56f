"""Expected grays are worked by hand from the formulas of DICOM PS3.3 C.11."""

import io
import math

import numpy as np
import pydicom
import pytest
from tiny import dicom, dicom_bytes

from chest_xray_masks import dicom_png
from hub_models.imaging.dicom import read_dicom
from hub_models.imaging.flags import Flag
from hub_models.imaging.gray import to_gray
from hub_models.imaging.windowing import full_scale, luminance


def gray_of(stored: object, *args: object, signed: bool = False, **fields: object) -> np.ndarray:
    """Grays of one row of 16-bit stored values."""
    row = np.array([stored], np.int16 if signed else np.uint16)
    return read_dicom(dicom(row, *args, signed=signed, **fields)).gray[0]


def table(descriptor: list[int], data: list[int] | bytes) -> list[pydicom.Dataset]:
    """A lookup table as a sequence of one item."""
    item = pydicom.Dataset()
    item.LUTDescriptor = descriptor
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return [item]


def window(center: float, width: float, function: str | None = None) -> dict[str, object]:
    """The elements of a window."""
    fields = {"WindowCenter": center, "WindowWidth": width}
    return fields | ({"VOILUTFunction": function} if function else {})


@pytest.mark.parametrize(
    ("function", "width", "stored", "expected"),
    [
        # C.11.2.1.2.1: black up to 999.5 - 50, white above 999.5 + 50, else (x - 999.5) / 100 + 0.5
        (None, 101, [0, 949, 950, 1000, 1049, 1050, 4095], [0, 0, 1.275, 128.775, 253.725, 255, 255]),
        (None, 1, [999, 1000], [0, 255]),  # the narrowest: a step at c - 0.5
        # C.11.2.1.3.2: (x - 1000) / 100 + 0.5
        ("LINEAR_EXACT", 100, [949, 950, 975, 1000, 1050, 1051], [0, 0, 63.75, 127.5, 255, 255]),
        # C.11.2.1.3.1: 1 / (1 + exp(-4 (x - 1000) / 400))
        ("SIGMOID", 400, [900, 1000, 1100], [255 / (1 + math.e), 127.5, 255 / (1 + 1 / math.e)]),
    ],
)
def test_window_by_hand(function: str | None, width: float, stored: list[int], expected: list[float]) -> None:
    grays = gray_of(stored, **window(1000, width, function))
    np.testing.assert_allclose(grays, expected, rtol=1e-6)
    assert grays.dtype == np.float32


def test_first_of_several_windows_counts_on_signed_values_too() -> None:
    signed = gray_of([-100, 0, 100], signed=True, **window(0, 200, "LINEAR_EXACT"))
    np.testing.assert_allclose(signed, [0, 127.5, 255])
    both = {"WindowCenter": [1000, 3000], "WindowWidth": [100, 4000], "VOILUTFunction": "LINEAR_EXACT"}
    np.testing.assert_allclose(gray_of([975], **both), [63.75])


def test_window_is_in_rescaled_units() -> None:
    # 2 x - 1000 is 0, 1000 and 2000; the window goes from 0 to 2000
    fields = window(1000, 2000, "LINEAR_EXACT") | {"RescaleSlope": 2, "RescaleIntercept": -1000}
    np.testing.assert_allclose(gray_of([500, 1000, 1500], **fields), [0, 127.5, 255])
    # falling: 4000 - x is 4000, 2000, 0; the window from 0 to 4000 makes the first white
    fields = window(2000, 4000, "LINEAR_EXACT") | {"RescaleSlope": -1, "RescaleIntercept": 4000}
    np.testing.assert_allclose(gray_of([0, 2000, 4000], **fields), [255, 127.5, 0])
    np.testing.assert_allclose(
        gray_of([0, 1000, 4095], RescaleSlope=-1, RescaleIntercept=0), [255, 255 * 3095 / 4095, 0]
    )


@pytest.mark.parametrize("shape", [{}, {"PresentationLUTShape": "INVERSE"}, {"PresentationLUTShape": "IDENTITY"}])
def test_white_on_black_after_the_window(shape: dict[str, str]) -> None:
    fields = window(1000, 100, "LINEAR_EXACT") | shape
    np.testing.assert_allclose(gray_of([950, 975, 1050], 12, "MONOCHROME1", **fields), [255, 191.25, 0])
    plain = read_dicom(dicom(np.array([[950, 975, 1050]], np.uint16), 12, "MONOCHROME2", **fields))
    np.testing.assert_allclose(plain.gray[0], [0, 63.75, 255])  # the standard has INVERSE with MONOCHROME1 only
    expected = (Flag.UNCLEAR_POLARITY.raised(),) if shape.get("PresentationLUTShape") == "INVERSE" else ()
    assert plain.flags == expected


SHORT = table([3, 1000, 8], [10, 100, 255])
MIDDLE = 255 * 1000 / 4095


@pytest.mark.parametrize(
    ("fields", "bits", "stored", "expected"),
    [
        ({"VOILUTSequence": SHORT}, 12, [0, 1000, 1001, 1002, 4095], [10, 10, 100, 255, 255]),
        # it goes before a window, and its entries may take two bytes each or one
        (window(0, 1) | {"VOILUTSequence": table([3, 1000, 8], b"\x0a\0\x64\0\xff\0")}, 12, [0, 1001], [10, 100]),
        (window(0, 1) | {"VOILUTSequence": table([3, 1000, 8], b"\x0a\x64\xff\x00")}, 12, [0, 1001], [10, 100]),
        # of 12 bits that claims 16
        ({"VOILUTSequence": table([3, 0, 16], [0, 1000, 4095])}, 12, [0, 1, 2], [0, MIDDLE, 255]),
        # of 8 bits for 12: pydicom's own apply_voi takes the values modulo 256 here
        ({"VOILUTSequence": table([4096, 0, 8], [x // 16 for x in range(4096)])}, 12, [0, 160, 4095], [0, 10, 255]),
        # the largest of all: a table of 65536 entries says 0
        (
            {"VOILUTSequence": table([0, 0, 16], np.arange(65536, dtype="<u2").tobytes())},
            16,
            [0, 13107, 65535],
            [0, 51, 255],
        ),
        ({"ModalityLUTSequence": table([3, 0, 16], [0, 1000, 4095])}, 12, [0, 1, 2], [0, MIDDLE, 255]),
        (
            {"ModalityLUTSequence": table([3, 0, 16], [0, 1000, 4095])} | window(1000, 2000, "LINEAR_EXACT"),
            12,
            [0, 1, 2],
            [0, 127.5, 255],
        ),
    ],
)
def test_lookup_table_by_hand(fields: dict, bits: int, stored: list[int], expected: list[float]) -> None:
    np.testing.assert_allclose(gray_of(stored, bits, **fields), expected, rtol=1e-6)


def test_voi_table_behind_a_rescale() -> None:
    fields = {"VOILUTSequence": table([3, -1, 8], [10, 100, 255]), "RescaleSlope": 0.5, "RescaleIntercept": -1}
    # x / 2 - 1 is -1, 0, 1
    np.testing.assert_array_equal(gray_of([0, 2, 4], signed=True, **fields), [10, 100, 255])


STORED = np.array([[0, 1, 255, 256], [2048, 4000, 4094, 4095]], np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        lambda: dicom(STORED, 12),
        lambda: dicom(STORED, 12, "MONOCHROME1"),
        lambda: dicom(STORED * 16, 16),
        lambda: dicom(STORED * 16, 16, "MONOCHROME1"),
        lambda: dicom((STORED % 256).astype(np.uint8), 8),
        lambda: dicom((STORED % 256).astype(np.uint8), 8, "MONOCHROME1"),
        lambda: dicom((STORED.astype(np.int16) - 2048), 12, signed=True),
        lambda: dicom((STORED.astype(np.int16) - 2048), 12, "MONOCHROME1", signed=True),
        lambda: dicom(STORED // 16, 12),  # 8 bits in 12
        lambda: dicom(STORED, 16),  # 12 bits in 16
        lambda: dicom(STORED, 12, RescaleSlope=3, RescaleIntercept=-7),
    ],
)
def test_without_a_window_it_is_as_through_the_builder(data) -> None:
    through_builder = np.asarray(to_gray(dicom_png(data(), "x.dcm")))
    np.testing.assert_allclose(read_dicom(data()).gray, through_builder, rtol=1e-5, atol=1e-4)


def test_bits_above_the_stored_ones_are_no_gray() -> None:
    # 12 bits that claim 16 are inverted in 12
    np.testing.assert_allclose(gray_of([0, 1000, 4095], 16, "MONOCHROME1"), [255, 255 * 3095 / 4095, 0], rtol=1e-5)
    np.testing.assert_array_equal(gray_of([0, 1000, 4095]), gray_of([0, 1000 + 4096, 4095 + 8192]))  # an overlay


@pytest.mark.parametrize(
    ("fields", "is_padding"),
    [
        ({"PixelPaddingValue": 0}, [True, False, False, False]),
        ({"PixelPaddingValue": 4095}, [False, False, False, True]),
        ({"PixelPaddingValue": 3000, "PixelPaddingRangeLimit": 4095}, [False, False, True, True]),
        ({"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 3000}, [False, False, True, True]),
        ({"PixelPaddingValue": 7}, [False] * 4),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, [False] * 4),  # all of it: then none is
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_as_dark_as_the_darkest_real_pixel(fields: dict, is_padding: list[bool], photometric: str) -> None:
    real = ~np.array(is_padding)
    fields = window(2048, 4096, "LINEAR_EXACT") | fields
    grays = gray_of([0, 1000, 3000, 4095], 12, photometric, **fields)
    fraction = np.array([0, 1000, 3000, 4095]) / 4096
    expected = 255 * (fraction if photometric == "MONOCHROME2" else 1 - fraction)
    expected[~real] = expected[real].min()
    np.testing.assert_allclose(grays, expected, rtol=1e-5, atol=1e-5)


def test_padding_beyond_the_range_or_written_as_unsigned() -> None:
    grays = gray_of([0, 2000, 4095, 65535], 16, PixelPaddingValue=65535)  # of 16 bits, the real values have 12
    np.testing.assert_allclose(grays, [0, 255 * 2000 / 4095, 255, 0], rtol=1e-6)
    header = pydicom.dcmread(io.BytesIO(dicom(np.array([[-2000, 0, 1000]], np.int16), 16, signed=True)))
    header.add_new("PixelPaddingValue", "US", 65536 - 2000)
    for keyword, value in window(500, 1000, "LINEAR_EXACT").items():
        setattr(header, keyword, value)
    np.testing.assert_allclose(read_dicom(dicom_bytes(header)).gray[0], [0, 0, 255])


@pytest.mark.parametrize(
    "fields",
    [
        window(1000, 0),
        window(1000, 0.5),
        window(1000, 0, "SIGMOID"),
        window(1000, 100, "CURVED"),
        {"WindowCenter": 1000},
        {"WindowCenter": 1000, "WindowWidth": None},
    ],
)
def test_window_that_cannot_be_used_gives_way_to_the_full_range(fields: dict[str, object]) -> None:
    image = read_dicom(dicom(STORED, **fields))
    np.testing.assert_allclose(image.gray, STORED * np.float32(255 / 4095), rtol=1e-5)
    assert image.flags == (Flag.UNUSABLE_WINDOW.raised(),)


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    ("fields", "effect"),
    [
        (window(128, 256), "clips 94% of the X-ray"),
        (window(127, 255), "clips 94% of the X-ray"),
        (window(4000, 50), "clips 99% of the X-ray"),
        (window(0, 1), "clips 100% of the X-ray"),
        (window(2048, 65535), "leaves 6% of the contrast"),  # of 16 bits
        ({"VOILUTSequence": table([4096, 0, 12], [min(4095, 40 * value) for value in range(4096)])}, "clips 98%"),
        ({"VOILUTSequence": table([1, 0, 12], [4095])}, "clips 100%"),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_window_that_leaves_no_picture_gives_way_to_the_full_range(fields, effect: str, photometric: str) -> None:
    image = read_dicom(dicom(RAMP, 12, photometric, **fields))
    full = RAMP * np.float32(255 / 4095)
    np.testing.assert_allclose(image.gray, full if photometric == "MONOCHROME2" else 255 - full, rtol=1e-4, atol=1e-3)
    (flag,) = image.flags
    assert flag.code == Flag.CLIPPING_WINDOW and effect in flag.message


@pytest.mark.parametrize("fields", [window(2048, 4096), window(1000, 2000), window(3000, 1800), window(0, 10_000)])
def test_window_that_leaves_a_picture_is_used(fields: dict[str, object]) -> None:
    image = read_dicom(dicom(RAMP, **fields))
    assert image.flags == () and np.ptp(image.gray) > 60
    # nor do a black border and a white marker count, which lie beyond most windows
    framed = np.pad(RAMP // 8 + 1800, 40)
    framed[:9, :99] = 4095
    assert read_dicom(dicom(framed, **window(2050, 600))).flags == ()


def test_next_view_of_the_header_is_used_where_the_first_leaves_no_picture() -> None:
    expected = read_dicom(dicom(RAMP, **window(1000, 2000))).gray
    several = {"WindowCenter": [128, 1000], "WindowWidth": [256, 2000]}
    white = {"VOILUTSequence": table([1, 0, 12], [4095])} | window(1000, 2000)
    for fields in (several, white):
        image = read_dicom(dicom(RAMP, **fields))
        np.testing.assert_array_equal(image.gray, expected)
        assert image.flags == ()


def test_modality_table_takes_the_place_of_the_slope_over_its_own_range() -> None:
    tenfold = table([4096, 0, 16], [10 * value for value in range(4096)])  # to 40950, of 65535
    image = read_dicom(dicom(RAMP, ModalityLUTSequence=tenfold, RescaleSlope=0.01, RescaleIntercept=0))
    np.testing.assert_allclose(image.gray, RAMP * np.float32(255 / 4095), rtol=1e-5)
    assert image.flags == ()


def test_colour_becomes_luminance() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(read_dicom(dicom(np.stack([gray] * 3, -1), 8, "RGB")).gray, gray)
    blank = np.full_like(gray, 128)
    np.testing.assert_array_equal(read_dicom(dicom(np.stack([gray, blank, blank], -1), 8, "YBR_FULL")).gray, gray)
    # 0.299 * 100 + 0.587 * 200 + 0.114 * 50 = 153
    coloured = read_dicom(dicom(np.tile(np.uint8([100, 200, 50]), (2, 2, 1)), 8, "RGB"))
    np.testing.assert_array_equal(coloured.gray, np.full((2, 2), 153))
    np.testing.assert_allclose(luminance(np.float32([[[100, 200, 50]]])), [[153]], rtol=1e-6)


def test_full_scale() -> None:
    tops = {0: 255, 255: 255, 256: 1023, 1024: 4095, 4096: 16383, 65535: 65535}
    assert {highest: full_scale(highest) for highest in tops} == tops
    with pytest.raises(ValueError, match="65536 needs more than 16 bits"):
        full_scale(65536)
