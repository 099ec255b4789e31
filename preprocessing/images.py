"""Images: whether a file is a complete JPEG, decoding to one size, and decoded images by row from a cache on disk."""

import contextlib
import hashlib
import io
import math
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from common.cache import IMAGES, divide, make_room, open_array, write_array
from common.errors import UserError, progress_bar
from common.settings import ImageSize
from preprocessing.settings import REGIONS, WHOLE

LARGEST_SIDE = 20_000  # pixels
LARGEST_AREA = 100_000_000  # pixels
TOO_LARGE = f"has more than {LARGEST_AREA / 1e6:.0f} million pixels. Save it smaller."
LARGEST_JPEG_SIDE = 65_500  # pixels that OpenCV writes
END_SEARCHED = 4096  # bytes at the end of a file among which the end marker is looked for first
START_OF_IMAGE, END_OF_IMAGE = b"\xff\xd8\xff", b"\xff\xd9"
EMPTY, NOT_JPEG, TRUNCATED, ABSURD_SIZE = "empty", "not a JPEG", "truncated", "of an absurd size"
UNDECODABLE, UNREADABLE = "of a JPEG kind that cannot be decoded", "unreadable"
OTHER_CONTENT = {  # by the first bytes of a file
    b"\x89PNG": "PNG",
    b"RIFF": "WebP",
    b"<": "a web page",
    b"version https://git-lfs": "a Git LFS pointer: git lfs pull",
}

BLOCK = 256  # images in one cache file
VERSION = 4  # of the decoding and of the files; raise it when the pixels change
REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
Source = str | os.PathLike[str] | PIL.Image.Image | np.ndarray


class BrokenImageError(UserError):
    """An image file that cannot be used; `reason` is a constant of this module, such as TRUNCATED."""

    def __init__(self, path: str, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        shown = f" ({detail})" if detail else ""
        convert = " convert it," if reason == NOT_JPEG else ""
        super().__init__(
            f"{path} is {reason}{shown}. Expected a complete JPEG:{convert} get the file again, or leave it out."
        )


def read_header(path: str | os.PathLike[str]) -> ImageSize:
    """The size of a JPEG as stored, before it is turned as EXIF says, without decoding; or a BrokenImageError.

    Any amount of data may follow the picture, such as the video of a motion photo.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as stream:  # noqa: PTH123  (for 100,000 files, Path costs as much as the reading)
            return _parse(stream, name)
    except OSError as error:
        raise BrokenImageError(name, UNREADABLE, error.strerror or str(error)) from None


def _parse(stream: BinaryIO, name: str) -> ImageSize:
    """As `read_header`. Pillow reads the header, and does not check whether the picture is complete."""
    start = stream.read(32)
    if not start:
        raise BrokenImageError(name, EMPTY)
    if not start.startswith(START_OF_IMAGE):
        found = next((words for first, words in OTHER_CONTENT.items() if start.startswith(first)), "")
        found = "HEIC, AVIF or video" if start[4:8] == b"ftyp" else found
        raise BrokenImageError(name, NOT_JPEG, found and f"its content is {found}")
    stream.seek(0)
    try:
        image = JpegImageFile(stream)
    except Exception as error:  # Pillow fails in many ways on damaged bytes
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if isinstance(error, OSError) or not stream.read(1):
            raise BrokenImageError(name, TRUNCATED) from None
        raise BrokenImageError(name, UNDECODABLE, str(error)) from None
    (width, height), scan = image.size, stream.tell()
    if width > LARGEST_SIDE or height > LARGEST_SIDE or width * height > LARGEST_AREA:
        raise BrokenImageError(name, ABSURD_SIZE, f"{width} x {height} pixels")
    # Searched from the scan on only: an embedded thumbnail has an end marker of its own.
    for place in (max(scan, stream.seek(0, io.SEEK_END) - END_SEARCHED), scan):
        stream.seek(place)
        if END_OF_IMAGE in stream.read():
            return ImageSize(height, width)
    raise BrokenImageError(name, TRUNCATED)


def broken_images(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Of the files, named relative to `root`, the broken ones with the reason: TRUNCATED, or 'TRUNCATED: detail'."""
    broken: dict[str, str] = {}

    def check(chunk: Sequence[str]) -> None:
        for path in chunk:
            try:
                read_header(os.path.join(root, path))  # noqa: PTH118
            except BrokenImageError as error:
                broken[path] = f"{error.reason}: {error.detail}" if error.detail else error.reason
        bar.update(len(chunk))

    chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    # More threads than cores: what takes the time is a network drive's or a spinning disk's answer.
    with progress_bar(len(paths), "checking images") as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's, of damaged EXIF data, which are not used here
        pool = ThreadPoolExecutor(max_workers=16)
        try:
            list(pool.map(check, chunks))
        finally:
            pool.shutdown(cancel_futures=True)
    return dict(sorted(broken.items()))


def read_image(image: Source, size: ImageSize, crop: str = WHOLE) -> np.ndarray:
    """What a network sees of an image: the one function for training, prediction and the tools.

    A JPEG is decoded at the smallest sufficient scale; every image is turned as its EXIF orientation says and shrunk by
    area averaging (so without aliasing).

    Args:
        image: a path, a PIL image or an array of uint8 RGB; `checked_source` checks it.
        crop: the region of the photograph that is brought to the size, one of `settings.REGIONS`.

    Returns:
        shape (size.height, size.width, 3), uint8, RGB; a file that cannot be read as a picture is a UserError.
    """
    side = REGIONS[crop].side
    return fitted(decode(image, math.ceil(size.height / side), math.ceil(size.width / side)), size, crop)


def decode(image: Source, least_height: int = 0, least_width: int = 0) -> np.ndarray:
    """An image, upright: uint8 RGB of shape (height, width, 3); a UserError where it cannot be read as a picture.

    A JPEG may be decoded at a smaller scale, down to the pixels that will be needed.
    """
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, PIL.Image.Image):
        return _rgb(image, "the PIL image")
    name = os.fspath(image)
    try:
        data = Path(image).read_bytes()
    except OSError as error:
        raise BrokenImageError(name, UNREADABLE, error.strerror or str(error)) from None
    if not data.startswith(START_OF_IMAGE):
        return _decode_other(data, name)
    header, flags = _parse(io.BytesIO(data), name), cv2.IMREAD_COLOR
    for scale, reduced in REDUCED.items() if least_height > 0 and least_width > 0 else ():
        if -(-header.height // scale) >= least_height and -(-header.width // scale) >= least_width:
            flags = reduced
    pixels = _decode_jpeg(data, name, flags)
    if flags != cv2.IMREAD_COLOR and (
        pixels.shape[0] < least_height or pixels.shape[1] < least_width
    ):  # it was turned, and is too small now
        pixels = _decode_jpeg(data, name, cv2.IMREAD_COLOR)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _decode_jpeg(data: bytes, name: str, flags: int) -> np.ndarray:
    """As BGR; grey and CMYK too. It is turned as its EXIF orientation says."""
    pixels = None
    with contextlib.suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise BrokenImageError(name, UNDECODABLE)
    return np.asarray(pixels)


def _decode_other(data: bytes, name: str) -> np.ndarray:
    """Any format that Pillow reads."""
    if not data:
        raise BrokenImageError(name, EMPTY)
    try:
        with warnings.catch_warnings(action="ignore"):  # of its size, which is checked here
            image = PIL.Image.open(io.BytesIO(data))
    except PIL.Image.DecompressionBombError:
        raise UserError(f"{name} {TOO_LARGE}") from None
    except Exception:  # Pillow's readers fail in many ways on damaged bytes
        what = "is a HEIC or AVIF picture or a video" if data[4:8] == b"ftyp" else "cannot be read as a picture"
        raise UserError(f"{name} {what}. Expected JPEG, PNG, WebP, GIF, BMP or TIFF: convert it.") from None
    return _rgb(image, name)


def _rgb(image: PIL.Image.Image, name: str) -> np.ndarray:
    """A PIL image of 8 bits a channel, upright, as an array of uint8 RGB."""
    if image.width * image.height > LARGEST_AREA:
        raise UserError(f"{name} {TOO_LARGE}")
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{name} has 16 or more bits a channel (mode {image.mode}). Save it with 8 bits.")
    try:
        return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's readers fail in many ways on damaged bytes
        raise UserError(f"{name} cannot be decoded: {error}. Get the file again, or leave it out.") from None


def checked_source(image: object, name: str) -> Source:
    """An image as `read_image` takes it, from what a person may pass; anything else is a UserError with its `name`."""
    if isinstance(image, (str, os.PathLike)):
        path = Path(os.fsdecode(image))
        if not path.is_file():
            found = "is a folder; expected an image file" if path.is_dir() else "no such image"
            raise UserError(f"{path}: {found}.")
        return path
    if isinstance(image, PIL.Image.Image):
        return image
    found = type(image).__name__
    if isinstance(image, np.ndarray) or hasattr(image, "__array__"):
        array = np.asarray(image)
        if array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8 and array.size:
            return array
        found = f"shape {array.shape}, {array.dtype}"
    raise UserError(
        f"{name}: expected a path, a PIL image or a uint8 RGB array of shape (height, width, 3), values 0 to 255, "
        f"found {found}. For grey and RGBA: PIL.Image.fromarray(array).convert('RGB')."
    )


def fitted(image: np.ndarray, size: ImageSize, crop: str = WHOLE) -> np.ndarray:
    """A region of an image of shape (height, width, 3), uint8, brought to a size; it shrinks by area averaging."""
    image = REGIONS[crop].of(image)
    if image.shape[:2] == (size.height, size.width):
        return image
    shrinks = image.shape[0] >= size.height and image.shape[1] >= size.width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size.width, size.height), interpolation=how)


def encoded(picture: np.ndarray, suffix: str = ".jpg") -> bytes:
    """The bytes of a picture file, of an RGB picture; a UserError where it is too large for a JPEG."""
    if suffix != ".png" and max(picture.shape) > LARGEST_JPEG_SIDE:
        size = f"{picture.shape[1]:,} x {picture.shape[0]:,} pixels"
        raise UserError(f"a JPEG cannot have {size}. Ask for fewer or smaller images, or name a .png file.")
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, 90] if suffix != ".png" else [])[1].tobytes()


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
        fingerprint: changes whenever a file, its size or its time changes.
        limit: the most bytes that the cache may hold; images that would not fit are decoded on demand.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, paths: Sequence[Path], size: ImageSize, cache: Path, fingerprint: str, limit: int, crop: str = WHOLE
    ) -> None:
        self.paths, self.size, self.crop, self.limit = list(paths), size, crop, limit
        self.shape: tuple[int, ...] = (size.height, size.width, 3)
        names = hashlib.sha256("\n".join(map(os.path.abspath, self.paths)).encode()).hexdigest()
        region = "" if crop == WHOLE else f" {REGIONS[crop]}"
        key = hashlib.sha256(f"{VERSION} {fingerprint} {names}{region}".encode()).hexdigest()[:16]
        self.folder = Path(cache) / IMAGES / f"{size}_{key}"
        self._blocks: dict[int, np.ndarray | None] = {}  # those opened so far; None: not there, or corrupted

    def __len__(self) -> int:
        return len(self.paths)

    def prepare(self, workers: int, say: Callable[[str], None] = print, keep: Sequence["ImageStore"] = ()) -> None:
        """Makes the missing blocks; says so where they do not fit in the cache. The stores to `keep` make no room."""
        blocks = {self._block_path(number): number for number in range(-(-len(self) // BLOCK))}
        missing = {path: number for path, number in blocks.items() if not path.is_file()}
        needed = len(missing) * BLOCK * math.prod(self.shape)
        if missing and not make_room(self.folder, needed, self.limit, [store.folder for store in keep]):
            say(
                f"note: decoded images would take {needed / 2**30:.1f} GiB, more than the cache may hold "
                "(--cache-limit) or the disk has free: decoding them again in each epoch instead, which is slower."
            )
            return

        def make(path: Path) -> None:
            block = np.empty(self._block_shape(missing[path]), np.uint8)
            for position, image in enumerate(pool.map(self._decode, self._rows(missing[path]))):
                block[position] = image
                bar.update()
            write_array(path, block)

        count = sum(len(self._rows(number)) for number in missing.values())
        if missing:
            with progress_bar(count, f"decoding to {self.size}") as bar, ThreadPoolExecutor(workers) as pool:
                divide(list(missing), make)
        with contextlib.suppress(OSError):  # a cache that is only read will do
            os.utime(self.folder)  # the least recently used store is the first to make room

    def read(self, row: int) -> np.ndarray:
        """One image: shape (height, width, 3), uint8, RGB. A view into the cache: do not modify it."""
        number = row // BLOCK
        if number not in self._blocks:
            self._blocks[number] = open_array(self._block_path(number), self._block_shape(number), self.dtype)
        block = self._blocks[number]
        return self._decode(row) if block is None else block[row % BLOCK]

    def _block_shape(self, number: int) -> tuple[int, ...]:
        return (len(self._rows(number)), *self.shape)

    def _decode(self, row: int) -> np.ndarray:
        return read_image(self.paths[row], self.size, self.crop)

    def _rows(self, number: int) -> range:
        return range(number * BLOCK, min(len(self), (number + 1) * BLOCK))

    def _block_path(self, number: int) -> Path:
        return self.folder / f"block_{number:05d}.npy"
