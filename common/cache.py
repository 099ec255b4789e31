"""The cache folder, bounded: decoded images and activations of frozen networks; the oldest give way.

Its arrays are .npy files with a checksum, verified when they are opened.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import append_checksum, free_bytes, is_intact, is_locked, locked, written_whole

IMAGES, ACTIVATIONS = BOUNDED = "images", "activations"  # its parts; each entry is a folder
FREE_DISK_KEPT = 2 * 2**30  # bytes that the cache leaves free for everything else


def make_room(folder: Path, needed: int, limit: int, keep: Sequence[Path] = ()) -> bool:
    """Removes the least recently used entries until `needed` bytes fit; those that are written to stay.

    A process that reads a removed entry goes on: it has files open, and makes what is gone.

    Args:
        folder: the entry to be written, such as cache/images/ENTRY; it stays, as those to `keep` do.
        limit: the most bytes that all entries together may take.

    Returns:
        False where they do not fit; where removing could not have helped, nothing was removed.
    """
    cache = folder.parent.parent
    entries = {path for part in BOUNDED for path in (cache / part).glob("*") if path.is_dir()}
    used = sorted((*_use_of(path), path) for path in entries.difference([folder, *keep]))
    others = {path: size for _, size, path in used}  # the least recently used first
    kept = sum(_use_of(path)[1] for path in {folder, *keep})

    def room() -> int:
        return min(limit - kept - sum(others.values()), free_bytes(cache) - FREE_DISK_KEPT)

    if needed > min(limit - kept, free_bytes(cache) + sum(others.values()) - FREE_DISK_KEPT):
        return False
    for path in list(others):
        if needed <= room():
            break
        with contextlib.suppress(UserError):  # of a lock that another user left: the entry stays
            if not any(map(is_locked, path.glob(".*.lock"))):
                shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            others.pop(path)
    return needed <= room()


def _use_of(folder: Path) -> tuple[float, int]:
    """When an entry was used last, and its size in bytes; another process may remove it meanwhile."""
    used, size = 0.0, 0
    with contextlib.suppress(FileNotFoundError):
        used = folder.stat().st_mtime
        size = sum(path.stat().st_size for path in folder.glob("*.npy"))
    return used, size


def divide(files: Sequence[Path], make: Callable[[Path], None]) -> None:
    """Makes those files that are not there, and that other processes may be making too: unlocked files first.

    Each is made by `make` under its lock, FOLDER/.NAME.lock.
    """
    for wait in (False, True):
        for file in files:
            lock = file.with_name(f".{file.name}.lock")
            if file.is_file() or (not wait and is_locked(lock)):
                continue
            with locked(lock, f"{file} is being written", wait=True):
                if not file.is_file():
                    make(file)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes an array with its checksum, completely or not at all."""
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
