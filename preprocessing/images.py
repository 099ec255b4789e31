"""Decoded images at one size, by row: from a memory-mapped cache on disk, or decoded on demand where that won't fit."""

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from preprocessing import jpeg, locks
from preprocessing.cache import IMAGES, make_room
from preprocessing.crops import REGIONS, WHOLE
from preprocessing.files import written_whole
from preprocessing.settings import ImageSize

BLOCK = 256  # images in one cache file
VERSION = 1  # of the decoding; raise it when the pixels change


def read_image(path: Path, size: ImageSize, crop: str = WHOLE, upright: bool = False) -> np.ndarray:
    """Decodes one JPEG at the smallest sufficient scale and shrinks it by area averaging (so without aliasing).

    Args:
        crop: the region of the photograph that is brought to the size, one of `crops.REGIONS`.
        upright: turn it as its EXIF orientation says.

    Returns:
        shape (size.height, size.width, 3), uint8, RGB.
    """
    side = REGIONS[crop].side
    least_height, least_width = math.ceil(size.height / side), math.ceil(size.width / side)
    return fitted(jpeg.decode(path, least_height, least_width, upright), size, crop)


def fitted(image: np.ndarray, size: ImageSize, crop: str = WHOLE) -> np.ndarray:
    """A region of an image of shape (height, width, 3), uint8, brought to a size; it shrinks by area averaging."""
    image = REGIONS[crop].of(image)
    if image.shape[:2] == (size.height, size.width):
        return image
    shrinks = image.shape[0] >= size.height and image.shape[1] >= size.width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size.width, size.height), interpolation=how)


class ImageStore:
    """The images of one table at one size.

    Built once, in parallel, into files of `BLOCK` images under `cache/images/`; the next process, fold or
    architecture of the same size maps them. A block is written whole, so a store interrupted goes on where it was.

    Args:
        paths: the image files, one per row.
        size: the size in pixels that every image is brought to.
        cache: the cache folder.
        fingerprint: changes whenever a file, its size or its time changes.
        limit: the most bytes that the cache may hold; images that would not fit are decoded on demand.
        crop: the region of the photographs that is used, one of `crops.REGIONS`.
    """

    def __init__(
        self, paths: Sequence[Path], size: ImageSize, cache: Path, fingerprint: str, limit: int, crop: str = WHOLE
    ) -> None:
        self.paths = list(paths)
        self.size = size
        self.shape: tuple[int, ...] = (size.height, size.width, 3)
        self.dtype = np.dtype(np.uint8)
        self.crop = crop
        names = hashlib.sha256("\n".join(map(str, self.paths)).encode()).hexdigest()
        region = "" if crop == WHOLE else f" {REGIONS[crop]}"
        key = hashlib.sha256(f"{VERSION} {fingerprint} {names}{region}".encode()).hexdigest()[:16]
        self.folder = Path(cache) / IMAGES / f"{size}_{key}"
        self.limit = limit
        self.cached = False
        self._blocks: dict[int, np.ndarray] = {}
        self._in_use: locks.InUse | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def bytes(self) -> int:
        """Size of all decoded images."""
        return len(self) * self.size.height * self.size.width * 3

    def prepare(self, workers: int, say: Callable[[str], None] = print, keep: Sequence["ImageStore"] = ()) -> None:
        """Makes the missing blocks, with a progress bar; says so where the cache has no room for them.

        Args:
            keep: other stores of this process, which must not make room for this one.
        """
        missing = self._missing()
        needed = len(missing) * BLOCK * self.bytes // max(1, len(self))
        if missing and not make_room(self.folder, needed, self.limit, [store.folder for store in keep]):
            say(
                f"decoded images would take {self.bytes / 2**30:.1f} GiB, more than the cache may hold "
                "(--cache-limit) or the disk has free: decoding them anew in each epoch instead, which is slower."
            )
            return
        self._in_use = locks.InUse(self.folder)
        if missing:
            bar = tqdm(total=len(self), desc=f"decoding to {self.size}", unit="img", leave=False, disable=None)
            bar.update(len(self) - sum(len(self._rows(number)) for number in missing))
            with ThreadPoolExecutor(workers) as pool:
                for number in missing:
                    rows = self._rows(number)
                    block = np.empty((len(rows), self.size.height, self.size.width, 3), np.uint8)
                    for position, image in enumerate(pool.map(self._decode, rows)):
                        block[position] = image
                        bar.update()
                    with written_whole(self._block_path(number)) as temporary, temporary.open("wb") as stream:
                        np.save(stream, block, allow_pickle=False)
            bar.close()
        with contextlib.suppress(OSError):  # a cache that is only read will do
            os.utime(self.folder)  # the least recently used store is the first to make room
        self.cached = True

    def attach(self) -> None:
        """For a single pass: maps the store if all of it is there already, and makes nothing."""
        self.cached = not self._missing()

    def read(self, row: int) -> np.ndarray:
        """One image: shape (height, width, 3), uint8, RGB. A view into the cache: do not modify it."""
        if not self.cached:
            return self._decode(row)
        number = row // BLOCK
        block = self._blocks.get(number)
        if block is None:
            try:
                block = np.load(self._block_path(number), mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError):  # removed meanwhile, to make room for another run
                return self._decode(row)
            self._blocks[number] = block
        return block[row % BLOCK]

    def _missing(self) -> list[int]:
        return [number for number in range(-(-len(self) // BLOCK)) if not self._block_path(number).exists()]

    def _decode(self, row: int) -> np.ndarray:
        return read_image(self.paths[row], self.size, self.crop)

    def _rows(self, number: int) -> range:
        return range(number * BLOCK, min(len(self), (number + 1) * BLOCK))

    def _block_path(self, number: int) -> Path:
        return self.folder / f"block_{number:05d}.npy"
