"""JPEG headers are read without decoding; pictures are decoded to RGB, at a reduced scale where that is enough."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from preprocessing import jpeg
from preprocessing.images import decode
from preprocessing.jpeg import BrokenImageError, JpegHeader, read_header

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
    assert read_header(path) == JpegHeader(width=160, height=120)
    pixels = decode(path)
    assert pixels.shape == (120, 160, 3)
    assert pixels.dtype == np.uint8
    expected = np.asarray(picture.convert(mode).convert("RGB"), dtype=int)
    assert np.abs(pixels.astype(int) - expected)[10:50, 10:70].max() <= 4


@pytest.mark.parametrize(
    ("least", "shape"),
    [
        ((0, 0), (119, 157)),
        ((119, 157), (119, 157)),
        ((61, 20), (119, 157)),
        ((60, 79), (60, 79)),
        ((60, 80), (119, 157)),
        ((30, 40), (30, 40)),
        ((15, 20), (15, 20)),
        ((1, 1), (15, 20)),
        ((500, 500), (119, 157)),
    ],
)
def test_the_smallest_scale_that_is_large_enough_is_decoded(
    tmp_path: Path, picture: Image.Image, least: tuple[int, int], shape: tuple[int, int]
) -> None:
    path = tmp_path / "odd.jpg"
    picture.crop((0, 0, 157, 119)).save(path)
    assert decode(path, *least).shape == (*shape, 3)


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
@pytest.mark.parametrize("restart", [0, 2])
def test_any_amount_of_data_may_follow_the_picture_but_a_cut_picture_is_truncated(
    tmp_path: Path, progressive: bool, restart: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).save(path, progressive=progressive, restart_marker_rows=restart)
    good = path.read_bytes()
    expected = decode(path)
    video = b"\0\0\0\x18ftypmp42" + np.random.default_rng(1).bytes(2_000_000)
    for after in (bytes(5000), video + bytes(5000), good + bytes(5000), video + good + video.replace(b"\xff\xd9", b"")):
        path.write_bytes(good + after)
        assert read_header(path) == JpegHeader(width=320, height=240)
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
        "empty": (b"", jpeg.EMPTY),
        "text": (b"hello", jpeg.NOT_JPEG),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), jpeg.NOT_JPEG),
        "zeros": (bytes(5000), jpeg.NOT_JPEG),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(100), jpeg.NOT_JPEG),
        "only the first bytes": (good[:4], jpeg.TRUNCATED),
        "cut in the header": (good[: frame + 4], jpeg.TRUNCATED),
        "cut in the picture": (good[:-2], jpeg.TRUNCATED),
        "end overwritten with zeros": (good[:-5000] + bytes(5000), jpeg.TRUNCATED),
        "no picture": (b"\xff\xd8\xff\xd9", jpeg.TRUNCATED),
        "a damaged header": (good[:2] + bytes(10) + good[12:], jpeg.NOT_JPEG),
        "no height": (with_size(good, 0, 160), jpeg.UNDECODABLE),
        "too wide": (with_size(good, 10, 20_001), jpeg.ABSURD_SIZE),
        "too many pixels": (with_size(good, 12_000, 12_000), jpeg.ABSURD_SIZE),
        "12 bits": (good[: frame + 4] + b"\x0c" + good[frame + 5 :], jpeg.UNDECODABLE),
    }


def test_every_broken_file_has_its_reason_and_none_is_decoded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    path = tmp_path / "good.jpg"
    Image.fromarray(noise).save(path)
    files = broken_files(path.read_bytes())
    for name, (content, reason) in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.jpg "):
            decode(tmp_path / f"{name}.jpg")
        with pytest.raises(BrokenImageError) as caught:
            read_header(tmp_path / f"{name}.jpg")
        assert caught.value.reason == reason, name
    found = jpeg.broken_images(tmp_path, ["good.jpg", *(f"{name}.jpg" for name in files)])
    assert {path: why.partition(": ")[0] for path, why in found.items()} == {
        f"{name}.jpg": reason for name, (_, reason) in files.items()
    }
    assert found["png.jpg"] == "not a JPEG: its content is PNG"
    assert found["heic.jpg"] == "not a JPEG: its content is HEIC, AVIF or video"
    assert found["zeros.jpg"] == "not a JPEG"
    assert found["too wide.jpg"] == "of an absurd size: 20001 x 10 pixels"


def test_a_missing_file_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(BrokenImageError, match=r"none\.jpg is unreadable \(No such file or directory\)"):
        decode(tmp_path / "none.jpg")
