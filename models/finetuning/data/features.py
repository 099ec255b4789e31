"""Pooled features of a frozen network for all images of a run: computed in one pass, kept in the cache, and mapped.

cache/features/ARCHITECTURE_HxW_KEY/features.npy, float32, a row an image: the labelled ones, then the test images. The
key is made of everything that decides the features; the file is written completely or not at all, and its checksum is
verified before it is used.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cache import FEATURES, InUse, make_room, open_array
from common.files import append_checksum, written_whole
from models.finetuning.data.prediction import predict
from models.finetuning.network.network import Network
from preprocessing.images import ImageStore

PART = 2048  # images whose features are held in memory before they are written
VERSION = 3  # of how features are made; raise it when they change


class FeatureStore:
    """Features of the images of several stores, one after the other.

    Args:
        name: what the folder's name begins with, for people.
        decides: everything that decides the features besides the images, as JSON values.
        stores: the images.
        cache: the cache folder.
        limit: the most bytes that the cache may hold; features that would not fit are computed and not kept.
    """

    def __init__(
        self, name: str, decides: dict[str, Any], stores: Sequence[ImageStore], cache: Path, limit: int
    ) -> None:
        self.stores = list(stores)
        images = [store.folder.name for store in stores]  # tells names, order, size, crop, and the files' dates
        text = json.dumps({"version": VERSION, "images": images, **decides}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path = Path(cache) / FEATURES / f"{name}_{key}" / "features.npy"
        self.limit = limit
        self._in_use: InUse | None = None
        self.computed = False  # what `read` returned, rather than found in the cache

    def __len__(self) -> int:
        return sum(map(len, self.stores))

    def read(self, network: Network, workers: int, say: Callable[[str], None]) -> list[np.ndarray]:
        """The features of each store, shape (images, features), float32; computed where they are not there.

        Raises:
            UserError: the cache cannot be written to.
        """
        found = open_array(self.path, (len(self), network.head.input_shape[1]), np.dtype(np.float32))
        if found is None:
            found, self.computed = self._computed(network, workers, say), True
        with contextlib.suppress(OSError):  # a cache that is only read will do
            os.utime(self.path.parent)  # the least recently used is the first to make room
        return np.split(found, np.cumsum([len(store) for store in self.stores])[:-1])

    def _computed(self, network: Network, workers: int, say: Callable[[str], None]) -> np.ndarray:
        """One pass over all images, into the cache or, where there is no room, into memory."""
        shape = (len(self), network.head.input_shape[1])
        for store in self.stores:
            store.attach()
        if not make_room(self.path.parent, 4 * shape[0] * shape[1], self.limit, [s.folder for s in self.stores]):
            say("the features find no room in the cache (--cache-limit, or the disk): they are not kept")
            found = np.empty(shape, np.float32)
            self._fill(found, network, workers)
            return found
        self._in_use = InUse(self.path.parent)  # another process that needs room leaves it alone
        with written_whole(self.path) as temporary:
            mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            with temporary.open(
                "rb+"
            ) as stream:  # all of it at once: a mapping that finds no room later ends the process
                os.posix_fallocate(stream.fileno(), 0, temporary.stat().st_size)
            self._fill(mapped, network, workers)
            mapped.flush()
            append_checksum(temporary)
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def _fill(self, found: np.ndarray, network: Network, workers: int) -> None:
        first = 0
        for store in self.stores:
            for start in range(0, len(store), PART):
                rows = np.arange(start, min(start + PART, len(store)))
                _, found[first + rows] = predict(network.predictor, store, rows, workers, "features")
            first += len(store)
