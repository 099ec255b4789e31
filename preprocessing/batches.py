"""Batches of images, made by threads ahead of the network (OpenCV and NumPy let go of Python's lock while they work).

What a batch holds depends on (seed, epoch, its rows and its place in the order) alone, never on the number of threads.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from preprocessing.augmentation import augment, mix
from preprocessing.images import Rows
from preprocessing.settings import Augmentation

AHEAD = 4  # batches in the making while the network works
MIXING = 1  # tells a batch's generator from those of its rows; not 0, which a seed sequence is padded with
Part = TypeVar("Part")
Made = TypeVar("Made")


class Augmented:
    """Images of a store as one epoch of training sees them; the same for every fold and any number of threads."""

    def __init__(self, store: Rows, augmentation: Augmentation, seed: int, epoch: int) -> None:
        self.shape, self.dtype = store.shape, store.dtype
        self._store, self._settings, self._seed, self._epoch = store, augmentation.scaled(), seed, epoch

    def read(self, row: int) -> np.ndarray:
        """Shape (height, width, 3), uint8, RGB."""
        return augment(self._store.read(row), self._settings, np.random.default_rng([self._seed, self._epoch, row]))


def training_order(rows: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The rows of one epoch in batches of one size: a permutation, whose last batch is filled up from its beginning.

    Args:
        rows: shape (images,), integers.

    Returns:
        shape (batches, batch_size).
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    batches = -(-len(order) // batch_size)
    return np.resize(order, (batches, batch_size))


def training_batches(
    store: Rows,
    targets: np.ndarray,
    order: np.ndarray,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    workers: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Augmented images in the order given, and what the network shall say of them.

    Args:
        targets: shape (len(store), classes), float32: the probabilities to learn for each row of `store`.
        order: shape (batches, batch_size), rows of `store`.

    Yields:
        images of shape (batch_size, height, width, 3), uint8, RGB; and their targets, shape (batch_size, classes),
        float32, which are mixtures where mixup or cutmix mixed the images.
    """
    settings = augmentation.scaled()
    augmented = Augmented(store, augmentation, seed, epoch)

    def make(batch: tuple[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        number, rows = batch
        images = _stacked(augmented, rows, len(rows))
        return mix(images, targets[rows], settings, np.random.default_rng([seed, epoch, number, MIXING]))

    yield from _ahead(make, list(enumerate(order)), workers)


def plain_batches(store: Rows, rows: np.ndarray, batch_size: int, workers: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows as they are, in the order given; the last batch is padded with zeros to the common size.

    Yields:
        shape (batch_size, *store.shape), of the store's dtype; and how many of them are real.
    """

    def make(part: np.ndarray) -> tuple[np.ndarray, int]:
        return _stacked(store, part, batch_size), len(part)

    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    yield from _ahead(make, parts, workers)


def _stacked(store: Rows, rows: np.ndarray, count: int) -> np.ndarray:
    """Rows of a store in one array of `count`, zeros behind them."""
    found = np.empty((count, *store.shape), store.dtype)
    found[len(rows) :] = 0
    for position, row in enumerate(rows):
        found[position] = store.read(int(row))
    return found


def _ahead(make: Callable[[Part], Made], parts: list[Part], workers: int) -> Iterator[Made]:
    """Results of `make` in order; `AHEAD` of them are computed in advance."""
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(make, part))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
