"""Activations of frozen layers, in the cache, for all epochs' copies and all folds.

    cache/activations/ARCHITECTURE_BOUNDARY_KEY/plain_block_00000.npy       of the images as they are
                                                epoch_001_block_00000.npy   as augmented in the first epoch

A file of activations holds those of `BLOCK` images in the table's order, in the dtype that the network computes in.
A key is a hash of everything that decides the values. Each file has a checksum, which is verified when it is opened.
Augmentation depends on (seed, epoch, image) alone, so the folds of a run share its copies.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from common import locks, terminal
from common.cache import ACTIVATIONS, open_array, write_array
from common.errors import UserError
from models.finetuning.data.prediction import PREDICTION_BATCH
from preprocessing.batches import plain_batches
from preprocessing.images import ImageStore, Rows

BLOCK = 256  # images in one file
PLAIN = "plain"
VERSION = 3  # of how activations are made; raise it when they change


class ActivationStore:
    """Activations of one table's images.

    Args:
        cache: the cache folder.
        name: what the folder's name begins with, for people.
        decides: everything that decides the activations besides the images, as JSON values.
        trunk: the network that computes them: images -> activations.
        images: the images, in the table's order.
        workers: threads that make batches of images.
    """

    def __init__(
        self, cache: Path, name: str, decides: dict[str, Any], trunk: keras.Model, images: ImageStore, workers: int
    ) -> None:
        output = trunk.outputs[0]
        self.images, self.trunk, self.workers = images, trunk, workers
        self.shape = tuple(output.shape[1:])
        self.dtype = np.dtype(ml_dtypes.bfloat16 if output.dtype == "bfloat16" else output.dtype)
        self.stored_dtype = np.dtype(np.uint16) if output.dtype == "bfloat16" else self.dtype  # .npy has no bfloat16
        known = {"version": VERSION, "images": images.folder.name, "dtype": output.dtype}
        key = hashlib.sha256(json.dumps(known | decides, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(cache) / ACTIVATIONS / f"{name}_{key}"

    def missing_bytes(self, parts: Collection[str], rows: np.ndarray) -> int:
        """Of these parts' files that hold these rows, the size of those that are not there yet."""
        missing = [b for part in parts for b in self.blocks_of(rows) if not self.path(part, b).exists()]
        return sum(len(self.block_rows(b)) for b in missing) * int(np.prod(self.shape)) * self.dtype.itemsize

    def part(self, name: str, images: Rows, rows: np.ndarray) -> "Part":
        """The activations of some rows, mapped; computed where they are not there.

        Args:
            name: `PLAIN`, or of the augmented copy.
            images: this table's images, as they are or augmented.
            rows: shape (images,); the result need not know others.

        Raises:
            UserError: the cache cannot be written to.
        """
        found = Part(self, name, images, self.blocks_of(rows))
        with contextlib.suppress(OSError):  # a read-only cache will do
            os.utime(self.folder)  # the least recently used is the first to make room
        return found

    def blocks_of(self, rows: np.ndarray) -> list[int]:
        """The numbers of the blocks that hold these rows."""
        return [int(block) for block in np.unique(np.asarray(rows) // BLOCK)]

    def block_rows(self, block: int) -> range:
        """The rows in a block."""
        return range(block * BLOCK, min(len(self.images), (block + 1) * BLOCK))

    def path(self, part: str, block: int) -> Path:
        """The file of a block."""
        return self.folder / f"{part}_block_{block:05d}.npy"


class Part:
    """Activations of one table's images, as they are or of one augmented copy; rows by number, as `batches` reads them.

    Args:
        images: the images that they are computed from.
        blocks: numbers of those that will be read; they are computed where they are not there.
    """

    def __init__(self, store: ActivationStore, name: str, images: Rows, blocks: list[int]) -> None:
        self.shape, self.dtype = store.shape, store.dtype
        self._store, self._name, self._images = store, name, images
        self._blocks = self._open(blocks)
        if missing := [block for block in blocks if block not in self._blocks]:
            self._compute(missing)
            self._blocks |= self._open(missing)
        if len(self._blocks) < len(blocks):
            raise UserError(f"{store.folder}: what was written is not what can be read. Choose another with --cache.")

    def read(self, row: int) -> np.ndarray:
        """One image's activations, of `shape`. A view into the cache: do not modify it."""
        found: np.ndarray = self._blocks[row // BLOCK][row % BLOCK]
        return found.view(self.dtype)

    def _compute(self, blocks: list[int]) -> None:
        store, title = self._store, f"activations, {self._name.replace('_', ' ')}"
        number_of = {store.path(self._name, block): block for block in blocks}
        count = sum(len(store.block_rows(block)) for block in blocks)
        bar = terminal.bar(count, title)

        def make(path: Path) -> None:
            rows, made = np.array(store.block_rows(number_of[path])), []
            for batch, real in plain_batches(self._images, rows, PREDICTION_BATCH, store.workers):
                made.append(np.asarray(store.trunk.predict_on_batch(batch))[:real])
                bar.update(real)
            write_array(path, np.concatenate(made).astype(self.dtype, copy=False).view(store.stored_dtype))

        locks.divide(list(number_of), Path.is_file, make)
        bar.close()

    def _open(self, blocks: list[int]) -> dict[int, np.ndarray]:
        """Those of the blocks that are there and intact."""
        store = self._store

        def mapped(block: int) -> np.ndarray | None:
            shape = (len(store.block_rows(block)), *self.shape)
            return open_array(store.path(self._name, block), shape, store.stored_dtype)

        with ThreadPoolExecutor(store.workers) as pool:
            found = zip(blocks, pool.map(mapped, blocks), strict=True)
            return {block: array for block, array in found if array is not None}
