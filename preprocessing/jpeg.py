"""JPEG files without decoding: their headers, and whether the picture is complete."""

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from common import terminal
from common.errors import UserError

LARGEST_SIDE = 20_000  # pixels
LARGEST_AREA = 100_000_000  # pixels
END_SEARCHED = 4096  # bytes at the end of a file among which the end marker is looked for first

EMPTY = "empty"
NOT_JPEG = "not a JPEG"
TRUNCATED = "truncated"
ABSURD_SIZE = "of an absurd size"
UNDECODABLE = "of a JPEG kind that cannot be decoded"
UNREADABLE = "unreadable"

_OTHER_FORMATS = {  # by the first bytes of a file
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
    b"<": "a web page",
    b"version https://git-lfs": "a Git LFS pointer: git lfs pull",
}
START_OF_IMAGE, _END_OF_IMAGE = b"\xff\xd8\xff", b"\xff\xd9"


class JpegHeader(NamedTuple):
    """The size of a JPEG in pixels, as stored: before it is turned as EXIF says."""

    width: int
    height: int


class BrokenImageError(UserError):
    """An image file that cannot be used; `reason` is one of the words of this module, such as TRUNCATED."""

    def __init__(self, path: str, reason: str, detail: str = "") -> None:
        super().__init__(path, reason, detail)
        self.path, self.reason, self.detail = path, reason, detail

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        convert = " convert it," if self.reason == NOT_JPEG else ""
        return (
            f"{self.path} is {self.reason}{detail}. "
            f"Expected a complete JPEG:{convert} get the file again, or leave it out."
        )


def read_header(path: str | os.PathLike[str]) -> JpegHeader:
    """Reads the header and looks for the end marker, without decoding.

    Any amount of data may follow the picture, such as the video of a motion photo. What lies between the header and the
    last 4 KiB is read only where the end marker is not among these.

    Raises:
        BrokenImageError (a UserError): empty, not a JPEG, truncated, of an absurd size, or not readable.
    """
    try:
        with open(path, "rb") as stream:  # noqa: PTH123  (for 100,000 files, Path costs as much as the reading)
            return parse(stream, os.fspath(path))
    except OSError as error:
        raise BrokenImageError(os.fspath(path), UNREADABLE, error.strerror or str(error)) from None


def parse(stream: BinaryIO, name: str) -> JpegHeader:
    """As `read_header`, of an open file; `name` is for messages.

    Pillow reads the header. Whether the picture is complete it does not check: its end marker must follow.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    start = stream.read(32)
    if not start:
        raise BrokenImageError(name, EMPTY)
    if not start.startswith(START_OF_IMAGE):
        found = next((words for first, words in _OTHER_FORMATS.items() if start.startswith(first)), "")
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
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(scan, size - END_SEARCHED))
    if _END_OF_IMAGE not in stream.read():
        stream.seek(scan)
        if _END_OF_IMAGE not in stream.read():
            raise BrokenImageError(name, TRUNCATED)
    return JpegHeader(width, height)


def broken_images(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Reads the headers of many files in a thread pool, with a progress bar on stderr.

    Args:
        paths: relative to `root`, with '/'.

    Returns:
        The reason (EMPTY, TRUNCATED, ...) by path, of the broken ones only, in the order of `paths`; where more is
        known, 'REASON: detail'.
    """

    def check(chunk: Sequence[str]) -> None:
        for path in chunk:
            try:
                read_header(os.path.join(root, path))  # noqa: PTH118
            except BrokenImageError as error:
                broken[path] = f"{error.reason}: {error.detail}" if error.detail else error.reason
        bar.update(len(chunk))

    broken: dict[str, str] = {}
    chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    # More threads than cores: what takes the time is a network drive's or a spinning disk's answer.
    pool = ThreadPoolExecutor(max_workers=16)
    with terminal.bar(len(paths), "checking images") as bar:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # Pillow's, of damaged EXIF data, which are not used here
                list(pool.map(check, chunks))
        finally:
            pool.shutdown(cancel_futures=True)
    return {path: broken[path] for path in paths if path in broken}
