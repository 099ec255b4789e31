"""Two drivers who do the same, joined in one image: the label stays true, and who sits there tells less about it.

As the competition's 5th place did: a half of one photograph, the other half of another of the same class and a
different driver. Every part stays at its place, so a left hand stays a left hand.
"""

import dataclasses

import numpy as np

from preprocessing.images import Rows

JOINING = 2  # tells these draws from those of the augmentation and of `mixing`
CUT = (0.35, 0.65)  # least and largest share of the width or height at which the images are joined


@dataclasses.dataclass(frozen=True, eq=False)
class Companions:
    """What an image may be joined with.

    Attributes:
        drivers: shape (rows of the store,), integers: who is on each; below 0 is unknown, and such a row stays alone.
        rows: the only rows that are mixed in: those that are trained on, never a held-out driver's.
    """

    drivers: np.ndarray
    rows: np.ndarray


def nobody(count: int) -> Companions:
    """Of so many images whose drivers are unknown: nothing is joined."""
    return Companions(np.full(count, -1), np.empty(0, np.int64))


class Joined:
    """Rows of a store, of which some are joined with one of the same class and another driver.

    Which, and with what, depends on (seed, epoch, row) and the companions alone.

    Args:
        store: the photographs, uint8.
        classes: shape (len(store),), integers.
        companions: what may be mixed in.
        probability: that an image is joined, where there is another driver of its class.
    """

    def __init__(
        self,
        store: Rows,
        classes: np.ndarray,
        companions: Companions,
        probability: float,
        seed: int,
        epoch: int,
    ) -> None:
        self.shape, self.dtype = store.shape, store.dtype
        self._store, self._classes, self._drivers = store, classes, companions.drivers
        self._probability, self._seed, self._epoch = probability, seed, epoch
        known = companions.rows[companions.drivers[companions.rows] >= 0]
        self._of_class = {int(number): known[classes[known] == number] for number in np.unique(classes[known])}

    def __len__(self) -> int:
        return len(self._store)

    def read(self, row: int) -> np.ndarray:
        """Shape (height, width, 3), uint8. Do not modify it."""
        image = self._store.read(row)
        draw = np.random.default_rng([self._seed, self._epoch, row, JOINING]).uniform(size=5)
        if draw[0] >= self._probability:
            return image
        other = self.partner(row, draw[1])
        return image if other is None else joined(image, self._store.read(other), draw[2:])

    def partner(self, row: int, draw: float) -> int | None:
        """Another driver's row of the same class; None where there is none.

        Args:
            draw: 0 to 1, says which.
        """
        if self._drivers[row] < 0:
            return None
        same = self._of_class.get(int(self._classes[row]), np.empty(0, np.int64))
        others = same[self._drivers[same] != self._drivers[row]]
        return int(others[int(draw * len(others))]) if len(others) else None


def joined(image: np.ndarray, other: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """A part of one image and the rest of another, beside each other or one above the other.

    Args:
        image, other: of the same shape and dtype; not modified.
        draw: shape (3,), 0 to 1: whether the cut is upright, which side is the other's, where the cut is.
    """
    axis = 1 if draw[0] < 0.5 else 0
    length = image.shape[axis]
    cut = round((CUT[0] + (CUT[1] - CUT[0]) * draw[2]) * length)
    part = slice(0, cut) if draw[1] < 0.5 else slice(cut, length)
    result = image.copy()
    where = (slice(None), part) if axis else part
    result[where] = other[where]
    return result
