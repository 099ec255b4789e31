"""Crop regions: what is cut out, that it keeps its shape, and that the cache tells it from the whole photograph."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from common.settings import ImageSize
from preprocessing.images import ImageStore, read_image
from preprocessing.settings import REGIONS
from tests.trees import write_image

UPPER = REGIONS["upper_body"]


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
    assert image.shape == (size.height, size.width, 3)
    assert image.dtype == np.uint8
    side = region.side
    corners = [(0, 0, 0.0, 0.0), (0, -1, 0.0, side), (-1, 0, side, 0.0), (-1, -1, side, side)]
    for row, column, down, right in corners:
        red, green, _ = image[row, column].astype(float) / 255
        assert red == pytest.approx(region.left + right, abs=0.03)
        assert green == pytest.approx(region.top + down, abs=0.03)


@pytest.mark.parametrize("name", list(REGIONS))
@pytest.mark.parametrize("shape", [(480, 640), (240, 320), (60, 80), (1, 1), (7, 3)])
def test_a_region_lies_in_the_image_and_keeps_its_shape(name: str, shape: tuple[int, int]) -> None:
    region = REGIONS[name]
    assert 0 <= region.left <= 1 - region.side
    assert 0 <= region.top <= 1 - region.side
    part = region.of(np.zeros((*shape, 3), np.uint8))
    assert part.shape[0] == pytest.approx(region.side * shape[0], abs=0.51)
    assert part.shape[1] == pytest.approx(region.side * shape[1], abs=0.51)


def test_enough_is_decoded_for_the_region(tmp_path: Path) -> None:
    """At 230x300 half of 640x480 is enough for the whole photograph, but not for the part of it."""
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    write_image(tmp_path / "a.jpg", picture)
    result = read_image(tmp_path / "a.jpg", ImageSize(230, 300), "upper_body")
    full = UPPER.of(cv2.cvtColor(cv2.imread(str(tmp_path / "a.jpg")), cv2.COLOR_BGR2RGB))
    np.testing.assert_array_equal(result, cv2.resize(full, (300, 230), interpolation=cv2.INTER_AREA))


def test_the_cache_keeps_the_regions_apart(photograph: Path, tmp_path: Path) -> None:
    stores = {
        name: ImageStore([photograph], ImageSize(48, 64), tmp_path / "cache", "a", 2**24, name) for name in REGIONS
    }
    for store in stores.values():
        store.prepare(1, keep=list(stores.values()))
    for name, store in stores.items():
        np.testing.assert_array_equal(store.read(0), read_image(photograph, ImageSize(48, 64), name))
    assert len({store.read(0).tobytes() for store in stores.values()}) == len(REGIONS)
