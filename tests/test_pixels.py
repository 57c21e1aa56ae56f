import io

import numpy as np
import pytest
from PIL import Image
from tiny import bare_png, dicom

from hub_models.pixels import (
    chroma,
    content_box,
    crop_to_lungs,
    is_synthetic,
    lungs_box,
    open_image,
    read_xray,
    resize_gray,
    resize_mask,
    spacing_mm,
    synthetic_mark,
    to_gray,
    to_mask,
)

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def palette_image(gray: np.ndarray) -> Image.Image:
    """Index i stands for gray 255 - i, so the indices are the negative of the picture."""
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


def test_palette_indices_are_not_gray() -> None:
    assert np.asarray(palette_image(RAMP))[0, 0] == 255  # the trap: index 255 stands for gray 0
    assert np.asarray(to_gray(palette_image(RAMP)))[0, 0] == 0


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
        assert xray.spacing_mm == spacing_mm(source) == (0.2, 0.1) and xray.flags == ()
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
        assert spacing_mm(source) is None and read_xray(source).spacing_mm is None


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
        (np.zeros((3, 4, 5)), r"shape \(3, 4, 5\) is no X-ray: pass \(H, W\)"),
        (np.zeros(4), r"shape \(4,\) is no X-ray"),
        (np.zeros((0, 4)), "array has 4x0 pixels, not 1 to"),
        (np.broadcast_to(np.uint8(1), (20_000, 20_000)), "array has 20000x20000 pixels, not 1 to 100000000"),
        (np.full((2, 2), np.nan), "array holds values that are not finite"),
        (np.array([[np.inf, 0]]), "array holds values that are not finite"),
        (np.zeros((2, 2), complex), "array of complex128 is no X-ray"),
        (np.array([["a"]]), "array of <U1 is no X-ray"),
    ],
)
def test_arrays_that_are_no_x_rays(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_gray(array)


def test_float_file_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="holds values that are not finite"):
        to_gray(Image.fromarray(np.array([[np.nan, 1]], np.float32)))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


NOISE = Image.effect_noise((64, 64), 50)
BAD_FILES = {
    "text.png": (b"not an image at all", r"text\.png cannot be decoded as an image .*: pass a sound PNG, JPEG"),
    "empty.png": (b"", r"empty\.png cannot be decoded, being empty"),
    "empty.dcm": (b"", r"empty\.dcm cannot be decoded, being empty"),
    "text.dcm": (b"not an image at all" * 20, r"text\.dcm is no DICOM file, or is cut off"),
    "cut.png": (saved(NOISE, "PNG")[:2000], r"cut\.png cannot be decoded as an image \(.*\): pass a sound file"),
    "cut.jpg": (saved(NOISE, "JPEG")[:900], r"cut\.jpg cannot be decoded as an image \(image file is truncated"),
    "bomb.png": (bare_png(30_000, 30_000), r"bomb\.png has more than 100000000 pixels: scale it down"),
    "large.png": (bare_png(10_001, 10_000), r"large\.png has 10001x10000 pixels, more than 100000000: scale it down"),
    "moving.gif": (
        saved(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)]),
        r"moving\.gif is a GIF of sev",
    ),
    "pages.tif": (saved(NOISE, "TIFF", save_all=True, append_images=[NOISE]), r"pages\.tif is a TIFF of several"),
    "moving.png": (
        saved(NOISE, "PNG", save_all=True, append_images=[NOISE.rotate(90)]),
        r"moving\.png is a PNG of sev",
    ),
    "program.eps": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        r"program\.eps cannot be dec",
    ),
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
        to_gray(Image.open(io.BytesIO(saved(NOISE, "JPEG")[:900])))
    with pytest.raises(ValueError, match="the image has 10001x10000 pixels, more than 100000000"):
        to_gray(Image.open(io.BytesIO(bare_png(10_001, 10_000))))


def test_image_without_gray_is_refused() -> None:
    with pytest.raises(ValueError, match="an image of mode LAB cannot be made gray: save it as RGB"):
        to_gray(Image.new("LAB", (4, 4)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL and pydicom, on what they make of the damage
def test_damaged_files_raise_nothing_else() -> None:
    """Each of 600 files with some bytes changed is decoded, or refused with a ValueError."""
    random = np.random.default_rng(0)
    sound = [saved(NOISE, kind) for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP")] + [dicom(np.asarray(NOISE), 8)]
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


def test_photograph_of_a_film_is_turned_upright(tmp_path) -> None:
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


def test_masks_of_any_mode_become_the_same_bool() -> None:
    lungs = np.zeros((6, 8), bool)
    lungs[1:5, 1:3] = lungs[1:5, 5:7] = True
    hard = lungs.astype(np.uint8) * 255
    soft = np.where(lungs, 128, 127).astype(np.uint8)  # the threshold is above 127
    modes = [
        Image.fromarray(lungs),
        Image.fromarray(hard),
        Image.fromarray(soft),
        Image.fromarray(lungs.astype(np.uint8)),  # 0 and 1
        palette_image(hard),
        Image.fromarray(np.stack([hard] * 3, -1)),
        Image.fromarray(lungs.astype(np.uint16) * 65535),
        Image.fromarray(lungs.astype(np.uint16) * 4095),
        Image.fromarray(lungs.astype(np.uint8) * np.array([[1] * 4 + [2] * 4], np.uint8)),  # left 1, right 2
        Image.fromarray(lungs.astype(np.uint8) * 100),
    ]
    for image in modes:
        np.testing.assert_array_equal(to_mask(encoded(image)), lungs)
    assert not to_mask(Image.new("L", (4, 4), 0)).any()


def test_resize_averages_areas_and_takes_nearest_mask() -> None:
    gray = Image.fromarray(np.array([[0, 100, 10, 10], [100, 200, 10, 10]] * 2, np.uint8))
    # 4x4 to 2x2: the mean of each 2x2 block, (0+100+100+200)/4 = 100
    np.testing.assert_array_equal(resize_gray(gray, 2), [[100, 10], [100, 10]])
    deep = Image.fromarray(np.array([[0, 1000], [2000, 4095]], np.uint16))
    # the mean is taken before rounding: 7095/4 * 255/4095 = 110.45
    np.testing.assert_array_equal(resize_gray(to_gray(deep), 1), [[110]])
    mask = np.zeros((4, 8), bool)
    mask[:, :4] = True
    np.testing.assert_array_equal(resize_mask(mask, 4), np.array([[True, True, False, False]] * 4))
    assert resize_gray(Image.new("L", (30, 50), 255), 32).tolist() == [[255] * 32] * 32  # upwards, and squashed


@pytest.mark.parametrize(
    ("sides", "box"),
    [
        ((4892, 4020, 512), (0, 45, 512, 466)),  # 512 * 4020 / 4892 = 420.7, so 421 columns; (512 - 421) // 2 = 45
        ((4020, 4892, 512), (45, 0, 466, 512)),
        ((100, 100, 32), (0, 0, 32, 32)),
        ((2, 4, 8), (2, 0, 6, 8)),  # upwards: half of 8 rows, 2 above and below
        ((1, 1000, 32), (15, 0, 16, 32)),  # 0.03 rows: one at least
    ],
)
def test_padded_x_ray_fills_its_box(sides: tuple[int, int, int], box: tuple[int, ...]) -> None:
    assert content_box(*sides, "pad") == box
    assert content_box(*sides, "squash") == (0, 0, sides[2], sides[2])


def test_padding_keeps_the_aspect_between_black_bars() -> None:
    gray = np.array([[0, 100, 10, 10], [100, 200, 30, 30]], np.uint8)
    # 2x4 to the square of 2: one row of the means of 2x2 blocks, 400 / 4 and 80 / 4; no row above it, one below
    np.testing.assert_array_equal(resize_gray(Image.fromarray(gray), 2, "pad"), [[100, 20], [0, 0]])
    np.testing.assert_array_equal(resize_gray(Image.fromarray(gray.T), 2, "pad"), [[100, 0], [20, 0]])
    deep = Image.fromarray(gray.astype(np.float32))
    np.testing.assert_array_equal(resize_gray(deep, 2, "pad"), [[100, 20], [0, 0]])
    # twice as large, two bars of two rows
    top, _, bottom, _ = content_box(2, 4, 8, "pad")
    large = resize_gray(Image.fromarray(gray), 8, "pad")
    np.testing.assert_array_equal(large[top:bottom], gray.repeat(2, 0).repeat(2, 1))
    assert not large[:top].any() and not large[bottom:].any()


def test_padded_mask_lies_on_its_padded_image() -> None:
    mask = np.zeros((40, 20), bool)
    mask[10:30, 4:16] = True
    small = resize_mask(mask, 20, "pad")  # half as large, 5 columns without lung on either side
    expected = np.zeros((20, 20), bool)
    expected[5:15, 5 + 2 : 5 + 8] = True
    np.testing.assert_array_equal(small, expected)
    np.testing.assert_array_equal(resize_gray(Image.fromarray(mask * np.uint8(255)), 20, "pad") > 127, small)


def test_squash_stays_the_default() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 50), np.uint8)
    np.testing.assert_array_equal(
        resize_gray(Image.fromarray(noise), 16), resize_gray(Image.fromarray(noise), 16, "squash")
    )
    np.testing.assert_array_equal(resize_mask(noise > 99, 16), resize_mask(noise > 99, 16, "squash"))


def test_unknown_fits_and_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="fit must be one of squash, pad, got 'crop'"):
        resize_gray(Image.new("L", (4, 4)), 2, "crop")
    with pytest.raises(ValueError, match="0x5 pixels has no place in a square of 8"):
        content_box(0, 5, 8, "pad")


LUNGS = np.zeros((20, 24), bool)
LUNGS[8:12, 6:14] = True  # 4 rows and 8 columns


def test_box_of_the_lungs_by_hand() -> None:
    assert lungs_box(LUNGS, 0) == (8, 6, 12, 14)
    assert lungs_box(LUNGS, 0.25) == (7, 4, 13, 16)  # a row and two columns more on each side
    assert lungs_box(LUNGS, 10) == (0, 0, 20, 24)  # clipped


@pytest.mark.parametrize("mode", ["L", "F"])
def test_crop_is_the_lungs_at_one_brightness_by_hand(mode: str) -> None:
    # margin 0.25: rows 7 to 12 and columns 4 to 15; the lungs are what lies within round(0.125 * 8) = 1 pixel of the
    # mask: 6 rows of 10 columns, half of them 60 and half of them 100: mean 80, sd 20, so 128 -+ 42.5
    values = np.full((20, 24), 200)
    values[7:10, 5:15], values[10:13, 5:15] = 60, 100
    gray = Image.fromarray(values.astype(np.uint8)).convert(mode)
    cut = crop_to_lungs(gray, LUNGS, 0.25)
    expected = np.full((6, 12), 128)
    expected[:3, 1:-1], expected[3:, 1:-1] = 86, 170  # rounded half to even
    assert cut.mode == "L"
    np.testing.assert_array_equal(np.asarray(cut), expected)
    brighter = Image.fromarray((values * 1.2 + 7).astype(np.float32))
    np.testing.assert_array_equal(np.asarray(crop_to_lungs(brighter, LUNGS, 0.25)), expected)
    turned = crop_to_lungs(Image.fromarray(values.T.astype(np.uint8)).convert(mode), LUNGS.T, 0.25)
    np.testing.assert_array_equal(np.asarray(turned), expected.T)


def test_crop_without_margin_is_the_box_with_mid_gray_between_the_lungs() -> None:
    two = np.zeros((4, 6), bool)
    two[1:3, [1, 4]] = True
    values = np.zeros((4, 6), np.uint8)
    values[:, 1], values[:, 4] = 10, 30
    cut = crop_to_lungs(Image.fromarray(values), two, 0)
    np.testing.assert_array_equal(np.asarray(cut), [[86, 128, 128, 170]] * 2)
    flat = crop_to_lungs(Image.new("L", (6, 4), 10), two, 0)
    np.testing.assert_array_equal(np.asarray(flat), [[128] * 4] * 2)


@pytest.mark.parametrize("seed", range(20))
def test_crop_of_8_bits_is_that_of_their_floats(seed: int) -> None:
    # a table of 256 grays does for the one what is done to each pixel of the other
    rng = np.random.default_rng(seed)
    gray = Image.fromarray(rng.normal(120, 40, (90, 70)).clip(0, 255).astype(np.uint8))
    mask = rng.random((90, 70)) < 0.01
    cuts = [np.asarray(crop_to_lungs(one, mask, 0.07)) for one in (gray, gray.convert("F"))]
    np.testing.assert_array_equal(*cuts)


def test_crop_refuses_masks_that_do_not_fit() -> None:
    gray = Image.new("L", (24, 20), 100)
    with pytest.raises(ValueError, match="lung mask of 10x24 pixels, its X-ray 20x24"):
        crop_to_lungs(gray, LUNGS[:10], 0.1)
    with pytest.raises(ValueError, match="mask of 20x24 pixels holds no lung"):
        crop_to_lungs(gray, np.zeros_like(LUNGS), 0.1)
    with pytest.raises(ValueError, match="margin must not be negative, got -0.1"):
        crop_to_lungs(gray, LUNGS, -0.1)


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
