import io

import datasets
import numpy as np
import pytest
from PIL import Image
from tiny import bare_png, dicom

from chest_xray_masks import as_shown, binarize, check_image, mask_png
from hub_models.imaging.gray import chroma, is_synthetic, read_xray, synthetic_mark, to_gray
from hub_models.imaging.masks import to_mask
from hub_models.imaging.source import open_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def palette_image(gray: np.ndarray) -> Image.Image:
    """Index i is of gray 255 - i: `np.asarray` gives the indices, the negative of the picture."""
    image = Image.frombytes("P", gray.shape[::-1], (255 - gray).tobytes())
    image.putpalette([255 - index for index in range(256) for _ in "rgb"])
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RAMP),
        palette_image(RAMP),
        Image.fromarray(np.stack([RAMP] * 3, -1)),
        Image.merge("RGBA", [Image.fromarray(RAMP)] * 3 + [Image.new("L", (16, 16), 128)]),
        Image.merge("LA", [Image.fromarray(RAMP), Image.new("L", (16, 16), 128)]),
    ],
    ids=["L", "P", "RGB", "RGBA", "LA"],
)
def test_every_8_bit_mode_gives_the_same_gray(image: Image.Image) -> None:
    for source in (image, encoded(image)):
        gray = to_gray(source)
        assert gray.mode == "L"
        np.testing.assert_array_equal(np.asarray(gray), RAMP)


def test_synthetic_x_ray_says_so_itself() -> None:
    image = Image.fromarray(RAMP)
    marked = encoded(image, pnginfo=synthetic_mark())
    assert is_synthetic(marked) and not is_synthetic(encoded(image))
    assert Image.open(io.BytesIO(marked)).info == {"Warning": "synthetic, not an X-ray of a patient"}
    np.testing.assert_array_equal(np.asarray(to_gray(marked)), RAMP)
    other = synthetic_mark()
    other.chunks.clear()
    other.add_text("Warning", "another")
    assert not is_synthetic(encoded(image, pnginfo=other))


@pytest.mark.parametrize(
    ("top", "full"),
    # the smallest of 8, 10, 12, 14, 16 bits that holds the top
    [(200, 255), (255, 255), (256, 1023), (1023, 1023), (4000, 4095), (4096, 16383), (16384, 65535), (65535, 65535)],
)
def test_deep_gray_keeps_its_range(top: int, full: int) -> None:
    deep = np.array([[0, top // 2], [top // 4, top]], np.uint16)
    gray = to_gray(encoded(Image.fromarray(deep)))
    assert gray.mode == "F"
    np.testing.assert_allclose(np.asarray(gray), deep * (255 / full), rtol=1e-6)
    if top > 510:  # Pillow's own conversion clips all above 255 to white
        clipped = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(deep)))).convert("L"))
        assert clipped[0, 1] == 255 and np.asarray(gray)[0, 1] < 255


def test_float_and_signed_images_go_from_their_minimum_to_their_maximum() -> None:
    for values in (np.array([[-1.0, 0.0, 1.0]], np.float32), np.array([[-100, 0, 100]], np.int32)):
        np.testing.assert_allclose(np.asarray(to_gray(Image.fromarray(values))), [[0, 127.5, 255]], rtol=1e-6)
    assert np.asarray(to_gray(Image.fromarray(np.full((2, 2), 7.0, np.float32)))).max() == 0  # constant: undefined


def test_dicom_comes_as_displayed_and_not_by_its_own_maximum(tmp_path) -> None:
    stored = np.array([[0, 1000], [2000, 4095]], np.uint16)
    data = dicom(stored, photometric="MONOCHROME1", PixelSpacing=[0.2, 0.1])
    path = tmp_path / "no_suffix"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        xray = read_xray(source)
        gray = np.asarray(xray.gray)
        np.testing.assert_allclose(gray, (4095 - stored.astype(float)) * 255 / 4095, rtol=1e-6)  # 0 is white
        np.testing.assert_array_equal(gray, np.asarray(to_gray(source)))
        assert xray.spacing_mm == (0.2, 0.1) and xray.flags == ()
        deep = open_image(source)
        assert deep.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(deep), (gray * 257).round())
    # half of the window's range: mid-gray stays mid-gray
    half = dicom(np.full((2, 2), 1000, np.uint16), WindowCenter=1000, WindowWidth=2000, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_array_equal(np.asarray(to_gray(half)), 127.5)


def test_resolution_of_a_png_is_not_believed(tmp_path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "ramp.png", dpi=(300, 300))
    assert "dpi" in Image.open(tmp_path / "ramp.png").info
    for source in (tmp_path / "ramp.png", Image.fromarray(RAMP), RAMP):
        assert read_xray(source).spacing_mm is None


@pytest.mark.parametrize(
    ("array", "gray"),
    [
        (RAMP, RAMP),
        (RAMP[..., None], RAMP),
        (np.stack([RAMP] * 3, -1), RAMP),
        (np.stack([RAMP] * 3 + [RAMP.T], -1), RAMP),  # alpha is dropped
        (RAMP > 99, np.where(RAMP > 99, 255, 0)),
        (np.stack([RAMP > 99] * 3, -1), np.where(RAMP > 99, 255, 0)),
        (RAMP.astype(np.uint16) * 16, RAMP * (16 * 255 / 4095)),
        (RAMP.astype(">u2") * 16, RAMP * (16 * 255 / 4095)),
        (np.stack([RAMP.astype(np.uint16) * 16] * 3, -1), RAMP * (16 * 255 / 4095)),
        (RAMP.astype(np.int64), RAMP),
        (RAMP.astype(np.int64) * 2**40 - 5, RAMP),  # deeper than 16 bits: from its minimum to its maximum
        (RAMP / 255, RAMP),
        (np.stack([RAMP / 255] * 3, -1), RAMP),
        (RAMP.astype(np.float16) - 300, RAMP),
    ],
)
def test_arrays_are_x_rays_too(array: np.ndarray, gray: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(to_gray(array)), gray, atol=1e-3)
    assert to_gray(array).mode == ("L" if array.dtype in (bool, np.uint8) else "F")


def test_luminance_of_deep_colour_by_hand() -> None:
    # 0.299 * 1000 + 0.587 * 2000 + 0.114 * 4000 = 1929
    deep = np.array([[[1000, 2000, 4000], [4095, 4095, 4095]]], np.uint16)
    np.testing.assert_allclose(np.asarray(to_gray(deep)), [[1929 * 255 / 4095, 255]], rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4, 5)), r"shape \(3, 4, 5\) is not an X-ray: pass \(H, W\)"),
        (np.zeros(4), r"shape \(4,\) is not an X-ray"),
        (np.zeros((0, 4)), "array has 4x0 pixels, not 1 to"),
        (np.broadcast_to(np.uint8(1), (20_000, 20_000)), "array has 20000x20000 pixels, not 1 to 100000000"),
        (np.full((2, 2), np.nan), "array holds values that are not finite"),
        (np.array([[np.inf, 0]]), "array holds values that are not finite"),
        (np.zeros((2, 2), complex), "array of complex128 is not an X-ray"),
        (np.array([["a"]]), "array of <U1 is not an X-ray"),
        (Image.fromarray(np.array([[np.nan, 1]], np.float32)), "holds values that are not finite"),
        (Image.new("LAB", (4, 4)), "an image of mode LAB cannot be made gray: save it as RGB"),
    ],
)
def test_values_that_are_no_x_rays(array: np.ndarray | Image.Image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_gray(array)


NOISE = Image.effect_noise((64, 64), 50)
SEVERAL = {"save_all": True, "append_images": [NOISE.rotate(90)]}
BAD_FILES = {
    "text.png": (b"not an image at all", r"text\.png cannot be decoded as an image .*: pass a sound PNG, JPEG"),
    "empty.png": (b"", r"empty\.png cannot be decoded, being empty"),
    "empty.dcm": (b"", r"empty\.dcm cannot be decoded, being empty"),
    "text.dcm": (b"not an image at all" * 20, r"text\.dcm is not a DICOM file, or is cut off"),
    "cut.png": (encoded(NOISE, "PNG")[:2000], r"cut\.png cannot be decoded as an image \(.*\): pass a sound file"),
    "cut.jpg": (encoded(NOISE, "JPEG")[:900], r"cut\.jpg cannot be decoded as an image \(image file is truncated"),
    "bomb.png": (bare_png(30_000, 30_000), r"bomb\.png has more than 100000000 pixels: scale it down"),
    "large.png": (bare_png(10_001, 10_000), r"large\.png has 10001x10000 pixels, more than 100000000: scale it down"),
    "moving.gif": (encoded(NOISE, "GIF", **SEVERAL), r"moving\.gif is a GIF of several"),
    "pages.tif": (encoded(NOISE, "TIFF", **SEVERAL), r"pages\.tif is a TIFF of several"),
    "moving.png": (encoded(NOISE, "PNG", **SEVERAL), r"moving\.png is a PNG of several"),
    "program.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", r"program\.eps cannot"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_end_in_one_sentence(name: str, tmp_path) -> None:
    data, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    for decode in (to_gray, open_image, to_mask):
        with pytest.raises(ValueError, match=message) as caught:
            decode(tmp_path / name)
        assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)
    if not name.endswith(".dcm"):
        with pytest.raises(ValueError, match=message.replace(name.replace(".", r"\."), "image bytes")):
            to_gray(data)


def test_folders_and_absent_files(tmp_path) -> None:
    with pytest.raises(ValueError, match="is a folder: pass the file of one X-ray"):
        to_gray(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        open_image(tmp_path / "absent.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_image_that_was_opened_but_not_decoded() -> None:
    with pytest.raises(ValueError, match="the image cannot be decoded as an image"):
        to_gray(Image.open(io.BytesIO(encoded(NOISE, "JPEG")[:900])))
    with pytest.raises(ValueError, match="the image has 10001x10000 pixels, more than 100000000"):
        to_gray(Image.open(io.BytesIO(bare_png(10_001, 10_000))))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL and pydicom, on what they make of the damage
def test_damaged_files_raise_nothing_else() -> None:
    """Each of 600 files with some bytes changed is decoded, or refused with a ValueError."""
    random = np.random.default_rng(0)
    sound = [encoded(NOISE, kind) for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP")] + [dicom(np.asarray(NOISE), 8)]
    refused = 0
    for data in sound:
        for _ in range(100):
            bad = np.frombuffer(data, np.uint8).copy()
            bad[random.integers(0, min(len(bad), 600), 4)] = random.integers(0, 256, 4)
            try:
                to_gray(bad.tobytes())
            except ValueError as error:
                assert "\n" not in str(error)
                refused += 1
    assert 100 < refused < 600


DEEP = np.array([[0, 700, 1400], [2100, 2800, 4095]], np.uint16)


def white_is_zero(stored: np.ndarray, order: str = "<") -> bytes:
    """The TIFF of values of which 0 is white: that of Pillow, its photometric interpretation changed."""
    buffer = io.BytesIO()
    tag = (b"\1\6\0\3\0\0\0\1\0\1", b"\1\6\0\3\0\0\0\1\0\0")
    image = Image.fromarray(stored)
    if order == "<":
        tag = (b"\6\1\3\0\1\0\0\0\1\0", b"\6\1\3\0\1\0\0\0\0\0")
    else:
        image = Image.frombytes("I;16B", stored.shape[::-1], stored.astype(">u2").tobytes())
    image.save(buffer, "TIFF")
    assert buffer.getvalue().count(tag[0]) == 1
    return buffer.getvalue().replace(*tag)


@pytest.mark.parametrize(
    ("stored", "order", "expected"),
    [
        (4095 - DEEP, "<", DEEP * (255 / 4095)),  # 12 bits in 16
        (65535 - 16 * DEEP, "<", DEEP * (16 * 255 / 65535)),
        (65535 - 16 * DEEP, ">", DEEP * (16 * 255 / 65535)),
        ((4095 - DEEP).astype(np.int32), "<", DEEP * (255 / 4095)),
        ((4095 - DEEP).astype(np.int32) * 1000, "<", DEEP * (255 / 4095)),  # deeper than 16 bits
        ((4095 - DEEP).astype(np.float32), "<", DEEP * (255 / 4095)),
        ((255 - DEEP // 16).astype(np.uint8), "<", DEEP // 16),
    ],
)
def test_tiff_in_which_0_is_white_is_read_the_right_way_round(stored, order: str, expected, tmp_path) -> None:
    data = white_is_zero(stored, order)
    (tmp_path / "x.tif").write_bytes(data)
    for source in (data, tmp_path / "x.tif", Image.open(tmp_path / "x.tif")):
        np.testing.assert_allclose(np.asarray(to_gray(source)), expected, atol=1e-2)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(binarize(as_shown(image)), expected > 127)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_followed_in_every_format_as_datasets_does(kind: str) -> None:
    upright = Image.fromarray(np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None], 16, 1))  # brighter downwards
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    options = {} if kind == "TIFF" else {"lossless": True} if kind == "WEBP" else {"quality": 95}
    data = encoded(upright.transpose(Image.Transpose.ROTATE_90), kind, exif=exif, **options)
    by_datasets = datasets.Image().decode_example({"bytes": data, "path": None})
    for gray in (to_gray(data), to_gray(by_datasets)):
        assert np.abs(np.asarray(gray, np.int16) - np.asarray(upright)).max() < 8
    assert check_image(data, "x") == upright.size
    if kind == "PNG":
        assert np.array_equal(binarize(open_image(data)), binarize(upright))
        union = mask_png([("mask.png", data)], upright.size)
        np.testing.assert_array_equal(np.asarray(open_image(union)) > 0, binarize(upright))


def test_photograph_of_an_x_ray_is_turned_upright(tmp_path) -> None:
    upright = Image.fromarray(np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None], 16, 1))  # brighter downwards
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.save(tmp_path / "phone.jpg", exif=exif, quality=95)
    gray = np.asarray(to_gray(tmp_path / "phone.jpg")).astype(int)
    assert gray.shape == (24, 16)
    assert np.abs(gray - np.asarray(upright)).max() < 8
    # decoded by the caller, it stays as the caller sees it
    assert to_gray(Image.open(tmp_path / "phone.jpg")).size == turned.size == (24, 16)


def test_preview_in_a_phones_jpeg_does_not_count(tmp_path) -> None:
    NOISE.convert("RGB").save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[NOISE.resize((8, 8))])
    assert Image.open(tmp_path / "phone.jpg").n_frames == 2
    assert to_gray(tmp_path / "phone.jpg").size == (64, 64)


def test_chroma_is_the_mean_spread_of_the_colours() -> None:
    colours = np.zeros((128, 128, 3), np.uint8)
    colours[:, :64] = (10, 40, 20)  # 30 apart in one half, none in the other
    assert chroma(Image.fromarray(colours)) == 15
    assert chroma(Image.fromarray(colours).convert("RGBA")) == 15
    assert chroma(Image.fromarray(colours).quantize(4)) == 15


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I", "F", "I;16", "P", "RGB", "CMYK"])
def test_gray_has_no_chroma_in_any_mode(mode: str) -> None:
    gray = Image.fromarray(np.arange(128 * 128, dtype=np.uint16).reshape(128, 128))
    image = gray if mode == "I;16" else gray.point(lambda value: value / 64).convert("L").convert(mode)
    assert image.mode == mode and chroma(image) == 0
