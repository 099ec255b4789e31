"""Decoded images at one size, by row: from a memory-mapped cache on disk, or decoded on demand where that won't fit."""

import contextlib
import hashlib
import io
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps

from common import terminal
from common.cache import IMAGES, divide, make_room, open_array, write_array
from common.errors import UserError
from common.settings import ImageSize
from preprocessing import jpeg
from preprocessing.settings import REGIONS, WHOLE

BLOCK = 256  # images in one cache file
VERSION = 4  # of the decoding and of the files; raise it when the pixels change
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
Source = str | os.PathLike[str] | PIL.Image.Image | np.ndarray


def read_image(image: Source, size: ImageSize, crop: str = WHOLE) -> np.ndarray:
    """What a network sees of an image: the one function for training, prediction and the tools.

    A JPEG is decoded at the smallest sufficient scale; every image is turned as its EXIF orientation says and shrunk by
    area averaging (so without aliasing).

    Args:
        image: a path, a PIL image or an array of uint8 RGB; `checked_source` checks it.
        crop: the region of the photograph that is brought to the size, one of `settings.REGIONS`.

    Returns:
        shape (size.height, size.width, 3), uint8, RGB.

    Raises:
        UserError: the file cannot be read as a picture.
    """
    side = REGIONS[crop].side
    least_height, least_width = math.ceil(size.height / side), math.ceil(size.width / side)
    return fitted(decode(image, least_height, least_width), size, crop)


def decode(image: Source, least_height: int = 0, least_width: int = 0) -> np.ndarray:
    """An image, upright: uint8 RGB of shape (height, width, 3).

    Args:
        least_height, least_width: pixels that will be needed; a JPEG may be decoded at a smaller scale.

    Raises:
        UserError: it cannot be read as a picture.
    """
    if isinstance(image, np.ndarray):
        return image
    if not isinstance(image, (str, os.PathLike)):
        return _rgb(image, "the PIL image")
    name = os.fspath(image)
    try:
        data = Path(image).read_bytes()
    except OSError as error:
        raise jpeg.BrokenImageError(name, jpeg.UNREADABLE, error.strerror or str(error)) from None
    if data.startswith(jpeg.START_OF_IMAGE):
        return _decode_jpeg(data, name, least_height, least_width)
    return _decode_other(data, name)


def _decode_jpeg(data: bytes, name: str, least_height: int, least_width: int) -> np.ndarray:
    """Grey and CMYK become RGB, and it is turned as its EXIF orientation says.

    It is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 scale that is large enough in both axes, which is faster.
    """
    header, tries = jpeg.parse(io.BytesIO(data), name), [cv2.IMREAD_COLOR]
    for scale, reduced in REDUCED.items() if least_height > 0 and least_width > 0 else ():
        if -(-header.height // scale) >= least_height and -(-header.width // scale) >= least_width:
            tries.insert(0, reduced)
            break
    for flags in tries:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            pixels = None
        if pixels is None:
            raise jpeg.BrokenImageError(name, jpeg.UNDECODABLE)
        if pixels.shape[0] >= least_height and pixels.shape[1] >= least_width:
            break  # else it was turned on its side, and is too small now
    return cv2.cvtColor(np.asarray(pixels), cv2.COLOR_BGR2RGB)


def checked_source(image: object, name: str) -> Source:
    """An image as `read_image` takes it, from what a person may pass; `name` is for messages.

    Raises:
        UserError: no such file, or neither a path nor a PIL image nor an array of uint8 RGB.
    """
    if isinstance(image, (str, os.PathLike)):
        path = Path(os.fsdecode(image))
        if not path.is_file():
            found = "is a folder; expected an image file" if path.is_dir() else "no such image"
            raise UserError(f"{path}: {found}.")
        return path
    if isinstance(image, PIL.Image.Image):
        return image
    expected = "expected a path, a PIL image or a uint8 RGB array of shape (height, width, 3)"
    if not hasattr(image, "__array__"):
        raise UserError(f"{name}: {expected}, found {type(image).__name__}.")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        hint = "For grey and RGBA: PIL.Image.fromarray(array).convert('RGB')."
        if array.dtype != np.uint8:
            hint = "Scale its values to 0 to 255 and convert them: array.astype('uint8')."
        raise UserError(f"{name}: {expected}, found shape {array.shape}, {array.dtype}. {hint}")
    return array


def _decode_other(data: bytes, name: str) -> np.ndarray:
    """Any format that Pillow reads."""
    if not data:
        raise jpeg.BrokenImageError(name, jpeg.EMPTY)
    try:
        image = PIL.Image.open(io.BytesIO(data))
    except PIL.Image.DecompressionBombError as error:
        raise UserError(f"{name}: {error} Save it smaller.") from None
    except Exception:  # Pillow's readers fail in many ways on damaged bytes
        what = "is a HEIC or AVIF picture or a video" if data[4:8] == b"ftyp" else "cannot be read as a picture"
        raise UserError(f"{name} {what}. Expected JPEG, PNG, WebP, GIF, BMP or TIFF: convert it.") from None
    return _rgb(image, name)


def _rgb(image: PIL.Image.Image, name: str) -> np.ndarray:
    """A PIL image of 8 bits a channel, upright, as an array of uint8 RGB."""
    if image.width * image.height > jpeg.LARGEST_AREA:
        raise UserError(f"{name} has more than {jpeg.LARGEST_AREA / 1e6:.0f} million pixels. Save it smaller.")
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{name} has 16 or more bits a channel (mode {image.mode}). Save it with 8 bits.")
    try:
        return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's readers fail in many ways on damaged bytes
        raise UserError(f"{name} cannot be decoded: {error}. Get the file again, or leave it out.") from None


def fitted(image: np.ndarray, size: ImageSize, crop: str = WHOLE) -> np.ndarray:
    """A region of an image of shape (height, width, 3), uint8, brought to a size; it shrinks by area averaging."""
    image = REGIONS[crop].of(image)
    if image.shape[:2] == (size.height, size.width):
        return image
    shrinks = image.shape[0] >= size.height and image.shape[1] >= size.width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size.width, size.height), interpolation=how)


class Rows(Protocol):
    """Arrays of one shape and type by row: photographs, or what a frozen network makes of them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, row: int) -> np.ndarray:
        """One array of `shape` and `dtype`. Do not modify it."""
        ...


class ImageStore:
    """The images of one table at one size.

    Built once, in parallel, into files of `BLOCK` images under `cache/images/`; the next process, fold or
    architecture of the same size maps them. An interrupted build resumes with the missing files. The checksum of a file
    is verified when it is opened; a corrupted file is deleted, and the next process that builds the store makes it.

    Args:
        paths: the image files, one per row.
        size: the size in pixels that every image is brought to.
        cache: the cache folder.
        fingerprint: changes whenever a file, its size or its time changes.
        limit: the most bytes that the cache may hold; images that would not fit are decoded on demand.
        crop: the region of the photographs that is used, one of `settings.REGIONS`.
    """

    def __init__(
        self, paths: Sequence[Path], size: ImageSize, cache: Path, fingerprint: str, limit: int, crop: str = WHOLE
    ) -> None:
        self.paths = list(paths)
        self.size = size
        self.shape: tuple[int, ...] = (size.height, size.width, 3)
        self.dtype = np.dtype(np.uint8)
        self.crop = crop
        names = hashlib.sha256("\n".join(map(os.path.abspath, self.paths)).encode()).hexdigest()
        region = "" if crop == WHOLE else f" {REGIONS[crop]}"
        key = hashlib.sha256(f"{VERSION} {fingerprint} {names}{region}".encode()).hexdigest()[:16]
        self.folder = Path(cache) / IMAGES / f"{size}_{key}"
        self.limit = limit
        self._blocks: dict[int, np.ndarray | None] = {}  # those opened so far; None: not there, or corrupted

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def bytes(self) -> int:
        """Size of all decoded images."""
        return len(self) * self.size.height * self.size.width * 3

    def prepare(self, workers: int, say: Callable[[str], None] = print, keep: Sequence["ImageStore"] = ()) -> None:
        """Makes the missing blocks, with a progress bar; prints a note where they do not fit in the cache.

        Args:
            keep: other stores of this process, which must not make room for this one.
        """
        missing = self._missing()
        needed = len(missing) * BLOCK * self.bytes // max(1, len(self))
        if missing and not make_room(self.folder, needed, self.limit, [store.folder for store in keep]):
            say(
                f"note: decoded images would take {self.bytes / 2**30:.1f} GiB, more than the cache may hold "
                "(--cache-limit) or the disk has free: decoding them again in each epoch instead, which is slower."
            )
            return
        if missing:
            bar = terminal.bar(len(self), f"decoding to {self.size}")
            bar.update(len(self) - sum(len(self._rows(number)) for number in missing))
            number_of = {self._block_path(number): number for number in missing}

            def make(path: Path) -> None:
                block = np.empty(self._block_shape(number_of[path]), np.uint8)
                for position, image in enumerate(pool.map(self._decode, self._rows(number_of[path]))):
                    block[position] = image
                    bar.update()
                write_array(path, block)

            with ThreadPoolExecutor(workers) as pool:
                divide(list(number_of), make)
            bar.close()
        with contextlib.suppress(OSError):  # a cache that is only read will do
            os.utime(self.folder)  # the least recently used store is the first to make room

    def read(self, row: int) -> np.ndarray:
        """One image: shape (height, width, 3), uint8, RGB. A view into the cache: do not modify it."""
        number = row // BLOCK
        if number not in self._blocks:
            self._blocks[number] = open_array(self._block_path(number), self._block_shape(number), self.dtype)
        block = self._blocks[number]
        return self._decode(row) if block is None else block[row % BLOCK]

    def _missing(self) -> list[int]:
        """The blocks that are not there."""
        return [number for number in range(-(-len(self) // BLOCK)) if not self._block_path(number).is_file()]

    def _block_shape(self, number: int) -> tuple[int, ...]:
        return (len(self._rows(number)), *self.shape)

    def _decode(self, row: int) -> np.ndarray:
        return read_image(self.paths[row], self.size, self.crop)

    def _rows(self, number: int) -> range:
        return range(number * BLOCK, min(len(self), (number + 1) * BLOCK))

    def _block_path(self, number: int) -> Path:
        return self.folder / f"block_{number:05d}.npy"
