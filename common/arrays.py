"""Arrays of the cache in .npy files with a checksum, verified when they are opened."""

import contextlib
import sys
from pathlib import Path

import numpy as np

from common.files import append_checksum, is_intact, written_whole


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
