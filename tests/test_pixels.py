import io

import numpy as np
import pytest
from PIL import Image

from hub_models.pixels import open_image, resize_gray, resize_mask, to_gray, to_mask

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


def test_dicom_file_comes_as_12_bits(tmp_path) -> None:
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = pydicom.uid.generate_uid()
    stored = np.array([[0, 1000], [2000, 4095]], np.uint16)
    header.set_pixel_data(stored, "MONOCHROME1", 12)
    header.save_as(tmp_path / "MCUCXR_0001_0.dcm", enforce_file_format=True)
    gray = np.asarray(to_gray(tmp_path / "MCUCXR_0001_0.dcm"))
    np.testing.assert_allclose(gray, (4095 - stored.astype(float)) * 255 / 4095, rtol=1e-6)  # 0 is white
    np.testing.assert_allclose(gray, np.asarray(to_gray((tmp_path / "MCUCXR_0001_0.dcm").read_bytes())))


def test_undecodable_files_are_named(tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(encoded(Image.effect_noise((64, 64), 50))[:2000])
    with pytest.raises(ValueError, match=r"broken\.png cannot be decoded"):
        open_image(tmp_path / "broken.png")
    with pytest.raises(ValueError, match="image bytes cannot be decoded"):
        open_image(b"no image")
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        open_image(tmp_path / "absent.png")


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
