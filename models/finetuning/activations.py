"""What a frozen trunk makes of the images, kept in the cache: computed once for all epochs' copies and all folds.

    cache/activations/ARCHITECTURE_BOUNDARY_KEY/plain_block_00000.npy       of the images as they are
                                                epoch_001_block_00000.npy   as the first epoch's augmentation has them

Each file holds the activations of `BLOCK` images in the order of the table, in the dtype that the network computes in;
it is written whole. The key is made of everything that decides them, so what is there is right. Augmentation depends on
(seed, epoch, image) alone, so the folds of a run share its copies.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from tqdm import tqdm

from models.finetuning.prediction import PREDICTION_BATCH
from models.finetuning.trunk import Split
from preprocessing import locks
from preprocessing.batches import Rows, plain_batches
from preprocessing.cache import ACTIVATIONS
from preprocessing.files import written_whole
from preprocessing.images import ImageStore

BLOCK = 256  # images in one file
PLAIN = "plain"
VERSION = 1  # of how activations are made; raise it when they change


class ActivationStore:
    """Activations of one table's images.

    Args:
        name: what the folder's name begins with, for people.
        decides: everything that decides the activations besides the images and the trunk's boundary, as JSON values.
        images: the images, in the table's order.
        split: the network that makes them.
        cache: the cache folder.
        workers: threads that make batches of images.
    """

    def __init__(
        self, name: str, decides: dict[str, Any], images: ImageStore, split: Split, cache: Path, workers: int
    ) -> None:
        output = split.trunk.outputs[0]
        self.images = images
        self.trunk = split.trunk
        self.shape = tuple(output.shape[1:])
        self.dtype = np.dtype(ml_dtypes.bfloat16 if output.dtype == "bfloat16" else output.dtype)
        self.workers = workers
        self._in_use: locks.InUse | None = None
        known = {"version": VERSION, "images": images.folder.name, "boundary": split.name, "dtype": output.dtype}
        key = hashlib.sha256(json.dumps(known | decides, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(cache) / ACTIVATIONS / f"{name}_{split.name}_{key}"

    def bytes(self, rows: np.ndarray) -> int:
        """Size of one part's files that hold these rows."""
        count = sum(len(self._block_rows(block)) for block in self._blocks_of(rows))
        return count * int(np.prod(self.shape)) * self.dtype.itemsize

    def missing_bytes(self, parts: Collection[str], rows: np.ndarray) -> int:
        """Of these parts' files that hold these rows, the size of those that are not there yet."""
        missing = [b for part in parts for b in self._blocks_of(rows) if not self._path(part, b).exists()]
        return sum(len(self._block_rows(b)) for b in missing) * int(np.prod(self.shape)) * self.dtype.itemsize

    def part(self, name: str, images: Rows, rows: np.ndarray) -> "Part":
        """The activations of some rows, mapped; computed where they are not there.

        Args:
            name: `PLAIN`, or of the augmented copy.
            images: this table's images, as they are or augmented.
            rows: shape (images,); of others the result may know nothing.

        Raises:
            UserError: the cache cannot be written to.
        """
        found = Part(self.shape, self.dtype, len(self.images))
        self._in_use = self._in_use or locks.InUse(self.folder)
        missing = []
        for block in self._blocks_of(rows):
            array = self._mapped(name, block)
            if array is None:
                missing.append(block)
            else:
                found.blocks[block] = array
        if missing:
            self._compute(name, images, missing)
            found.blocks.update((block, self._mapped(name, block)) for block in missing)
        with contextlib.suppress(OSError):  # a cache that is only read will do
            os.utime(self.folder)  # the least recently used is the first to make room
        return found

    def _compute(self, name: str, images: Rows, blocks: list[int]) -> None:
        count = sum(len(self._block_rows(block)) for block in blocks)
        bar = tqdm(total=count, desc=f"activations, {name.replace('_', ' ')}", unit="img", leave=False, disable=None)
        for block in blocks:
            rows = np.array(self._block_rows(block))
            made = []
            for batch, real in plain_batches(images, rows, PREDICTION_BATCH, self.workers):
                made.append(np.asarray(self.trunk.predict_on_batch(batch))[:real])
                bar.update(real)
            with written_whole(self._path(name, block)) as temporary, temporary.open("wb") as stream:
                np.save(stream, _storable(np.concatenate(made).astype(self.dtype, copy=False)), allow_pickle=False)
        bar.close()

    def _mapped(self, name: str, block: int) -> Any:
        """The block's array, or None where it is not there or damaged."""
        try:
            array = np.load(self._path(name, block), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return None
        array = array.view(self.dtype)
        return array if array.shape == (len(self._block_rows(block)), *self.shape) else None

    def _blocks_of(self, rows: np.ndarray) -> list[int]:
        return [int(block) for block in np.unique(np.asarray(rows) // BLOCK)]

    def _block_rows(self, block: int) -> range:
        return range(block * BLOCK, min(len(self.images), (block + 1) * BLOCK))

    def _path(self, part: str, block: int) -> Path:
        return self.folder / f"{part}_block_{block:05d}.npy"


class Part:
    """Activations of one table's images, as they are or of one augmented copy; rows by number, as `batches` reads them.

    Attributes:
        blocks: by number, arrays of shape (up to BLOCK, *shape).
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, count: int) -> None:
        self.shape, self.dtype = shape, dtype
        self.blocks: dict[int, np.ndarray] = {}
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read(self, row: int) -> np.ndarray:
        """One image's activations, of `shape`. A view into the cache: do not modify it."""
        return self.blocks[row // BLOCK][row % BLOCK]


def _storable(array: np.ndarray) -> np.ndarray:
    """NumPy's files know no bfloat16: the same bits as integers."""
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
