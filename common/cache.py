"""The cache folder, bounded: decoded images and activations of frozen networks; the oldest give way.

Its arrays are .npy files with a checksum, verified when they are opened.
"""

import contextlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import locks
from common.errors import UserError
from common.files import append_checksum, cannot_write, free_bytes, is_intact, written_whole

IMAGES, ACTIVATIONS = BOUNDED = "images", "activations"  # its parts; each entry is a folder
FREE_DISK_KEPT = 2 * 2**30  # bytes that the cache leaves free for everything else


def _is_written_to(folder: Path) -> bool:
    """Whether a process writes to an entry. One that reads goes on: it has files open, and makes what is gone."""
    for path in folder.glob(".*.lock"):
        with contextlib.suppress(UserError):
            lock = locks.acquire(path)
            if lock is None:
                return True
            locks.release(lock)
    return False


def make_room(folder: Path, needed: int, limit: int, keep: Sequence[Path] = ()) -> bool:
    """Removes the least recently used entries until `needed` bytes fit; those that are written to stay.

    Args:
        folder: the entry to be written, such as cache/images/ENTRY; stays.
        limit: the most bytes that all entries together may take.
        keep: other entries that stay.

    Returns:
        False where they do not fit; where removing could not have helped, nothing was removed.

    Raises:
        UserError: the cache cannot be written to.
    """
    cache = folder.parent.parent
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder.parent, error) from error
    entries = [path for part in BOUNDED for path in (cache / part).glob("*") if path.is_dir()]
    used: list[tuple[float, Path]] = []
    for path in set(entries).difference([folder, *keep]):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            used.append((path.stat().st_mtime, path))
    others = {path: _bytes_in(path) for _, path in sorted(used)}  # the least recently used first
    kept = sum(map(_bytes_in, {folder, *keep}))

    def room() -> int:
        return min(limit - kept - sum(others.values()), free_bytes(cache) - FREE_DISK_KEPT)

    if needed > min(limit - kept, free_bytes(cache) + sum(others.values()) - FREE_DISK_KEPT):
        return False
    for path in list(others):
        if needed <= room():
            break
        if not _is_written_to(path):
            shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            others.pop(path)
    return needed <= room()


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.npy"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed or renamed it
            total += path.stat().st_size
    return total


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array with its checksum, completely or not at all.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    with written_whole(path) as temporary:
        with temporary.open("wb") as stream:  # np.save would not say that the disk is full
            np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
            stream.write(np.ascontiguousarray(array).data)
        append_checksum(temporary)


def open_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    """Maps an array into memory, read only; None where it is not there or not intact, and so must be made again.

    A corrupted file, or one of another shape or dtype, is deleted.
    """
    try:
        if is_intact(path):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.shape == shape and array.dtype == dtype:
                return np.asarray(array)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        pass
    print(f"note: {path} is corrupted, or cannot be read: it is deleted and made again", file=sys.stderr)
    with contextlib.suppress(OSError):  # of a cache that is only read
        path.unlink()
    return None
