"""JPEG headers are read without decoding; pictures are decoded to RGB, at a reduced scale where that is enough."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.settings import ImageSize
from preprocessing import images
from preprocessing.images import BrokenImageError, ImageStore, broken_images, decode, read_header, read_image
from preprocessing.settings import REGIONS
from tests.trees import write_image

COLOURS = np.array([[(220, 40, 30), (20, 60, 210)], [(30, 200, 60), (240, 240, 240)]], dtype=np.uint8)


@pytest.fixture
def picture() -> Image.Image:
    """120 x 160 pixels: red, blue over green, white."""
    return Image.fromarray(COLOURS.repeat(60, axis=0).repeat(80, axis=1))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_is_decoded_to_rgb(tmp_path: Path, picture: Image.Image, mode: str, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    picture.convert(mode).save(path, quality=95, progressive=progressive)
    assert read_header(path) == ImageSize(120, 160)
    pixels = decode(path)
    assert (pixels.shape, pixels.dtype) == ((120, 160, 3), np.uint8)
    expected = np.asarray(picture.convert(mode).convert("RGB"), dtype=int)
    assert np.abs(pixels.astype(int) - expected)[10:50, 10:70].max() <= 4


SCALES = {(0, 0): (119, 157), (61, 20): (119, 157), (60, 79): (60, 79), (60, 80): (119, 157), (30, 40): (30, 40)}
SCALES |= {(15, 20): (15, 20), (1, 1): (15, 20), (500, 500): (119, 157)}


def test_the_smallest_scale_that_is_large_enough_is_decoded(tmp_path: Path, picture: Image.Image) -> None:
    picture.crop((0, 0, 157, 119)).save(tmp_path / "odd.jpg")
    assert {least: decode(tmp_path / "odd.jpg", *least).shape[:2] for least in SCALES} == SCALES


def test_an_exif_orientation_is_applied_at_every_scale(tmp_path: Path, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # 'rotate by 90 degrees'
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg").shape == (160, 120, 3)
    assert decode(tmp_path / "a.jpg", 30, 20).shape == (40, 30, 3)
    assert decode(tmp_path / "a.jpg", 30, 40).shape == (160, 120, 3)  # at 1/4 it is large enough only as it is stored


def test_a_thumbnail_in_the_header_is_not_taken_for_the_picture(tmp_path: Path, picture: Image.Image) -> None:
    thumbnail = tmp_path / "thumbnail.jpg"
    picture.resize((16, 12)).save(thumbnail)
    picture.save(tmp_path / "a.jpg", exif=b"Exif\0\0" + thumbnail.read_bytes())
    assert read_header(tmp_path / "a.jpg").width == 160
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-100])
    with pytest.raises(BrokenImageError, match="truncated"):
        read_header(tmp_path / "a.jpg")


@pytest.mark.parametrize("progressive", [False, True])
def test_any_amount_of_data_may_follow_the_picture_but_a_cut_picture_is_truncated(
    tmp_path: Path, progressive: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).save(path, progressive=progressive, restart_marker_rows=2)
    good, expected = path.read_bytes(), decode(path)
    video = b"\0\0\0\x18ftypmp42" + np.random.default_rng(1).bytes(2_000_000)
    for after in (bytes(5000), video + bytes(5000), video + good + video.replace(b"\xff\xd9", b"")):
        path.write_bytes(good + after)
        assert read_header(path) == ImageSize(240, 320)
        np.testing.assert_array_equal(decode(path), expected)
    for cut in (good[:-2], good[: len(good) // 2], good[:-1]):
        path.write_bytes(cut + bytes(5000))
        for read in (read_header, decode):
            with pytest.raises(BrokenImageError, match="truncated"):
                read(path)


def with_size(data: bytes, height: int, width: int) -> bytes:
    """The same file with another size in its frame header."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[place + 4 :]


def broken_files(good: bytes) -> dict[str, tuple[bytes, str]]:
    frame = good.index(b"\xff\xc0")
    return {
        "empty": (b"", images.EMPTY),
        "text": (b"hello", images.NOT_JPEG),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), f"{images.NOT_JPEG}: its content is PNG"),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(100), f"{images.NOT_JPEG}: its content is HEIC, AVIF or video"),
        "cut in the header": (good[: frame + 4], images.TRUNCATED),
        "cut in the picture": (good[:-2], images.TRUNCATED),
        "end overwritten with zeros": (good[:-5000] + bytes(5000), images.TRUNCATED),
        "no picture": (b"\xff\xd8\xff\xd9", images.TRUNCATED),
        "a damaged header": (good[:2] + bytes(10) + good[12:], images.NOT_JPEG),
        "no height": (with_size(good, 0, 160), images.UNDECODABLE),
        "too wide": (with_size(good, 10, 20_001), f"{images.ABSURD_SIZE}: 20001 x 10 pixels"),
        "too many pixels": (with_size(good, 12_000, 12_000), images.ABSURD_SIZE),
        "12 bits": (good[: frame + 4] + b"\x0c" + good[frame + 5 :], images.UNDECODABLE),
    }


def test_every_broken_file_has_its_reason_and_none_is_decoded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.jpg")
    files = {f"{name}.jpg": case for name, case in broken_files((tmp_path / "good.jpg").read_bytes()).items()}
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} "):
            decode(tmp_path / name)
    found = broken_images(tmp_path, ["good.jpg", *files])
    assert set(found) == set(files)
    for name, (_, reason) in files.items():
        assert found[name].startswith(reason), name
    with pytest.raises(BrokenImageError, match=r"none\.jpg is unreadable \(No such file or directory\)"):
        decode(tmp_path / "none.jpg")


# Regions


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """640x480 pixels whose red level says how far right, and green level how far down."""
    right, down = np.meshgrid(np.linspace(0, 255, 640), np.linspace(0, 255, 480))
    path = tmp_path / "img_1.jpg"
    write_image(path, np.dstack([np.full_like(right, 128), down, right]).astype(np.uint8))
    return path


@pytest.mark.parametrize("size", [ImageSize(240, 320), ImageSize(224, 224), ImageSize(48, 64), ImageSize(480, 640)])
@pytest.mark.parametrize("name", ["upper_body", "hands"])
def test_the_corners_are_those_of_the_region(photograph: Path, size: ImageSize, name: str) -> None:
    image, region = read_image(photograph, size, name), REGIONS[name]
    assert (image.shape, image.dtype) == ((size.height, size.width, 3), np.uint8)
    assert 0 <= region.left <= 1 - region.side and 0 <= region.top <= 1 - region.side
    side = region.side
    for row, column, down, right in [(0, 0, 0.0, 0.0), (0, -1, 0.0, side), (-1, 0, side, 0.0), (-1, -1, side, side)]:
        red, green, _ = image[row, column].astype(float) / 255
        assert red == pytest.approx(region.left + right, abs=0.03)
        assert green == pytest.approx(region.top + down, abs=0.03)


def test_the_cache_keeps_the_regions_apart(photograph: Path, tmp_path: Path) -> None:
    size = ImageSize(48, 64)
    stores = {name: ImageStore([photograph], size, tmp_path / "cache", "a", 2**24, name) for name in REGIONS}
    for store in stores.values():
        store.prepare(1, keep=list(stores.values()))
    for name, store in stores.items():
        np.testing.assert_array_equal(store.read(0), read_image(photograph, size, name))
    assert len({store.read(0).tobytes() for store in stores.values()}) == len(REGIONS)
