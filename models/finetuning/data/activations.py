"""What a frozen trunk makes of the images, kept in the cache: computed once for all epochs' copies and all folds.

    cache/activations/ARCHITECTURE_BOUNDARY_KEY/plain_block_00000.npy       of the images as they are
                                                epoch_001_block_00000.npy   as the first epoch's augmentation has them

Each file holds the activations of `BLOCK` images in the order of the table, in the dtype that the network computes in;
it is written whole. The key is made of everything that decides them, and each image's have a checksum that is looked at
whenever they are read, so what is used is right. Augmentation depends on (seed, epoch, image) alone, so the folds of a
run share its copies.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from tqdm import tqdm

from models.finetuning.data.prediction import PREDICTION_BATCH
from models.finetuning.network.split import Split
from common import locks
from preprocessing.batches import Rows, plain_batches
from common.blocks import Block, DamagedError, open_block, write_block
from common.cache import ACTIVATIONS
from preprocessing.images import ImageStore

BLOCK = 256  # images in one file
PLAIN = "plain"
VERSION = 2  # of how activations are made; raise it when they change


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
        known: dict[str, Any] = {"version": VERSION, "images": images.folder.name}
        known |= {"boundary": split.name, "dtype": output.dtype}
        if output.dtype == "uint8":  # several arrays packed, and the boundary does not tell which
            known["shape"] = list(self.shape)
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

    def fitting(self, part: str, rows: np.ndarray, room: int) -> np.ndarray:
        """Of these rows the first ones, as many as are there or would fit into so many bytes more."""
        fitting: list[int] = []
        for block in self._blocks_of(rows):
            size = self.missing_bytes([part], np.array([block * BLOCK]))
            if size > room:
                break
            room -= size
            fitting.append(block)
        found: np.ndarray = rows[np.isin(rows // BLOCK, fitting)]
        return found

    def part(self, name: str, images: Rows, rows: np.ndarray) -> "Part":
        """The activations of some rows, mapped; computed where they are not there.

        Args:
            name: `PLAIN`, or of the augmented copy.
            images: this table's images, as they are or augmented.
            rows: shape (images,); of others the result may know nothing.

        Raises:
            UserError: the cache cannot be written to.
        """
        self._in_use = self._in_use or locks.InUse(self.folder)

        def make(blocks: list[int]) -> dict[int, Block]:
            self._compute(name, images, blocks)
            return {block: self._opened(name, block) for block in blocks}

        def mend(block: int) -> None:
            print(
                f"note: {self._path(name, block)} is damaged (its checksum does not match); it is made again",
                file=sys.stderr,
            )
            with contextlib.suppress(OSError):  # of a cache that is only read
                self._path(name, block).unlink()
            found.blocks.update(make([block]))

        found = Part(self.shape, self.dtype, len(self.images), lambda block: self._path(name, block), mend)
        missing = []
        for block in self._blocks_of(rows):
            mapped = self._mapped(name, block)
            if mapped is None:
                missing.append(block)
            else:
                found.blocks[block] = mapped
        if missing:
            found.blocks.update(make(missing))
        with contextlib.suppress(OSError):  # a cache that is only read will do
            os.utime(self.folder)  # the least recently used is the first to make room
        return found

    def _compute(self, name: str, images: Rows, blocks: list[int]) -> None:
        count = sum(len(self._block_rows(block)) for block in blocks)
        bar = tqdm(total=count, desc=f"activations, {name.replace('_', ' ')}", unit="img", leave=False, disable=None)
        number_of = {self._path(name, block): block for block in blocks}

        def make(path: Path) -> None:
            rows, made = np.array(self._block_rows(number_of[path])), []
            for batch, real in plain_batches(images, rows, PREDICTION_BATCH, self.workers):
                made.append(np.asarray(self.trunk.predict_on_batch(batch))[:real])
                bar.update(real)
            write_block(path, _storable(np.concatenate(made).astype(self.dtype, copy=False)))

        locks.divide(list(number_of), lambda path: self._mapped(name, number_of[path]) is not None, make)
        bar.close()

    def _opened(self, name: str, block: int) -> Block:
        """The block that was just written."""
        found = self._mapped(name, block)
        if found is None:
            raise DamagedError(self._path(name, block), lambda: None)
        return found

    def _mapped(self, name: str, block: int) -> Block | None:
        """The block, or None where it is not there or plainly damaged."""
        shape = (len(self._block_rows(block)), *self.shape)
        try:
            return open_block(self._path(name, block), shape, _stored_type(self.dtype))
        except OSError:
            return None

    def _blocks_of(self, rows: np.ndarray) -> list[int]:
        return [int(block) for block in np.unique(np.asarray(rows) // BLOCK)]

    def _block_rows(self, block: int) -> range:
        return range(block * BLOCK, min(len(self.images), (block + 1) * BLOCK))

    def _path(self, part: str, block: int) -> Path:
        return self.folder / f"{part}_block_{block:05d}.npy"


class Part:
    """Activations of one table's images, as they are or of one augmented copy; rows by number, as `batches` reads them.

    Attributes:
        blocks: by number, rows of `shape`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        count: int,
        path: Callable[[int], Path],
        mend: Callable[[int], None],
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.blocks: dict[int, Block] = {}
        self._count, self._path, self._mend = count, path, mend

    def __len__(self) -> int:
        return self._count

    def read(self, row: int) -> np.ndarray:
        """One image's activations, of `shape`. A view into the cache: do not modify it.

        Raises:
            DamagedError: they are not as they were written.
        """
        number = row // BLOCK
        found = self.blocks[number].row(row % BLOCK)
        if found is None:
            raise DamagedError(self._path(number), lambda: self._mend(number))
        return found.view(self.dtype)


def _storable(array: np.ndarray) -> np.ndarray:
    """NumPy's files know no bfloat16: the same bits as integers."""
    return array.view(_stored_type(array.dtype))


def _stored_type(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype
