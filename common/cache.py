"""The cache folder, bounded: decoded images, features and activations of frozen networks; the oldest give way."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import locks
from common.errors import UserError
from common.files import free_bytes

IMAGES, FEATURES, ACTIVATIONS = BOUNDED = "images", "features", "activations"  # its parts; each entry is a folder
FREE_DISK_KEPT = 2 * 2**30  # bytes that the cache leaves free for everything else


def make_room(folder: Path, needed: int, limit: int, keep: Sequence[Path] = ()) -> bool:
    """Removes the least recently used entries until `needed` bytes fit; those that a living process uses stay.

    Args:
        folder: the entry to be written, such as cache/images/ENTRY; stays.
        limit: the most bytes that all entries together may take.
        keep: other entries that stay.

    Returns:
        False where they cannot fit; then nothing that could not help was removed.

    Raises:
        UserError: the cache cannot be written to.
    """
    cache = _made(folder)
    kept, others = _sizes(cache, {folder, *keep})
    if needed > _room(cache, limit, kept, others):
        return False
    for path in list(others):
        if kept + sum(others.values()) + needed <= limit and free_bytes(cache) >= needed + FREE_DISK_KEPT:
            break
        if locks.removed_unless_used(path):
            others.pop(path)
    return kept + sum(others.values()) + needed <= limit and free_bytes(cache) >= needed + FREE_DISK_KEPT


def room(folder: Path, limit: int, keep: Sequence[Path] = ()) -> int:
    """The most bytes that `make_room` could find, were no other process using the cache. Arguments as there.

    Raises:
        UserError: the cache cannot be written to.
    """
    cache = _made(folder)
    return _room(cache, limit, *_sizes(cache, {folder, *keep}))


def _room(cache: Path, limit: int, kept: int, others: Mapping[Path, int]) -> int:
    return min(limit - kept, free_bytes(cache) + sum(others.values()) - FREE_DISK_KEPT)


def _sizes(cache: Path, kept: set[Path]) -> tuple[int, dict[Path, int]]:
    """Bytes in the entries that stay, and in each that may give way, the least recently used first."""
    return sum(map(_bytes_in, kept)), {path: _bytes_in(path) for path in _others(cache, kept)}


def _made(folder: Path) -> Path:
    """The cache that an entry is of, its part made."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the cache {folder.parent}: {error.strerror}. Choose another with --cache."
        ) from error
    return folder.parent.parent


def _others(cache: Path, kept: set[Path]) -> list[Path]:
    """Entries that may give way, the least recently used first."""
    entries: list[tuple[float, Path]] = []
    for path in (path for part in BOUNDED for path in (cache / part).glob("*") if path.is_dir() and path not in kept):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            entries.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(entries)]


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.npy"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it, or given it its name
            total += path.stat().st_size
    return total
