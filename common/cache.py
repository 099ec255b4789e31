"""The cache folder, bounded: decoded images, features and activations of frozen networks; the oldest give way."""

import contextlib
import os
import shutil
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import locks
from common.errors import UserError
from common.files import free_bytes

IMAGES, FEATURES, ACTIVATIONS = BOUNDED = "images", "features", "activations"  # its parts; each entry is a folder
FREE_DISK_KEPT = 2 * 2**30  # bytes that the cache leaves free for everything else


class InUse:
    """An entry that `make_room` leaves alone as long as this object and its process live."""

    def __init__(self, folder: Path) -> None:
        with contextlib.suppress(UserError):  # a cache that is only read
            lock = locks.acquire(folder / f".used-{os.getpid()}-{id(self):x}.lock")
            weakref.finalize(self, locks.release, lock)


def _is_in_use(folder: Path) -> bool:
    for path in folder.glob(".used-*.lock"):
        with contextlib.suppress(UserError):
            lock = locks.acquire(path)
            if lock is None:
                return True
            locks.release(lock)
    return False


def make_room(folder: Path, needed: int, limit: int, keep: Sequence[Path] = ()) -> bool:
    """Removes the least recently used entries until `needed` bytes fit; those that a living process uses stay.

    Args:
        folder: the entry to be written, such as cache/images/ENTRY; stays.
        limit: the most bytes that all entries together may take.
        keep: other entries that stay.

    Returns:
        False where they do not fit; where removing could not have helped, nothing was removed.

    Raises:
        UserError: the cache cannot be written to.
    """
    cache = _made(folder)
    kept, others = _sizes(cache, {folder, *keep})
    if needed > _room(cache, limit, kept, others):
        return False

    def fits() -> bool:
        return kept + sum(others.values()) + needed <= limit and free_bytes(cache) >= needed + FREE_DISK_KEPT

    for path in list(others):
        if fits():
            break
        if not _is_in_use(path):
            shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            others.pop(path)
    return fits()


def room(folder: Path, limit: int, keep: Sequence[Path] = ()) -> int:
    """The most bytes that `make_room` could free, if no other process used the cache. Arguments as there.

    Raises:
        UserError: the cache cannot be written to.
    """
    cache = _made(folder)
    return _room(cache, limit, *_sizes(cache, {folder, *keep}))


def _room(cache: Path, limit: int, kept: int, others: Mapping[Path, int]) -> int:
    return min(limit - kept, free_bytes(cache) + sum(others.values()) - FREE_DISK_KEPT)


def _sizes(cache: Path, kept: set[Path]) -> tuple[int, dict[Path, int]]:
    """Bytes in the entries that stay, and in each that may give way, the least recently used first."""
    others: list[tuple[float, Path]] = []
    for path in (path for part in BOUNDED for path in (cache / part).glob("*") if path.is_dir() and path not in kept):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            others.append((path.stat().st_mtime, path))
    return sum(map(_bytes_in, kept)), {path: _bytes_in(path) for _, path in sorted(others)}


def _made(folder: Path) -> Path:
    """The cache that an entry is of; makes the part that the entry belongs to."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the cache {folder.parent}: {error.strerror}. Choose another with --cache."
        ) from error
    return folder.parent.parent


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.npy"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed or renamed it
            total += path.stat().st_size
    return total
