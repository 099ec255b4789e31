"""Images joined across drivers: the same class, another driver of the training rows, every part at its place."""

import dataclasses

import numpy as np

from preprocessing.augmentation import CUT, Companions, Joined
from preprocessing.batches import training_batches, training_order
from preprocessing.settings import Augmentation
from tests.preprocessing.test_augmentation import MODERATE, only

SHAPE = (40, 60, 3)
DRIVERS, CLASSES, EACH = 4, 3, 5  # of whom the last driver is held out
CLASS = np.tile(np.repeat(np.arange(CLASSES), EACH), DRIVERS)
DRIVER = np.repeat(np.arange(DRIVERS), CLASSES * EACH)
TRAINING = np.flatnonzero(DRIVER < DRIVERS - 1)


class Flat:
    """Row r is of level r everywhere, so that each pixel tells where it comes from; reads are recorded."""

    shape, dtype = SHAPE, np.dtype(np.uint8)

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def read(self, row: int) -> np.ndarray:
        self.seen.add(row)
        return np.full(SHAPE, row, np.uint8)


def joined_rows(probability: float, epoch: int = 1, rows: np.ndarray = TRAINING, seed: int = 7) -> np.ndarray:
    store = Joined(Flat(), CLASS, Companions(DRIVER, TRAINING), probability, seed, epoch)
    return np.stack([store.read(int(row)) for row in rows])


def test_a_joined_image_has_two_parts_of_one_class_and_two_drivers_with_one_straight_cut() -> None:
    upright = 0
    for row, image in zip(TRAINING, joined_rows(1.0), strict=True):
        levels = np.unique(image)
        assert len(levels) == 2
        other = int(levels[levels != row][0])
        assert CLASS[other] == CLASS[row]
        assert DRIVER[other] != DRIVER[row]
        foreign = image[:, :, 0] == other
        rows, columns = np.nonzero(foreign)
        assert foreign[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert foreign.any(axis=1).all() or foreign.any(axis=0).all()
        assert CUT[0] - 0.02 <= foreign.mean() <= 1 - CUT[0] + 0.02
        upright += foreign.any(axis=1).all()
    assert 0.25 < upright / len(TRAINING) < 0.75


def test_held_out_drivers_are_never_looked_at() -> None:
    flat = Flat()
    for epoch in range(20):
        store = Joined(flat, CLASS, Companions(DRIVER, TRAINING), 1.0, 0, epoch)
        for row in TRAINING:
            store.read(int(row))
    assert flat.seen == set(TRAINING.tolist()), "every training row, and no other"


def test_it_is_a_probability_and_depends_on_seed_epoch_and_row_alone() -> None:
    many = np.concatenate([joined_rows(0.3, epoch) for epoch in range(20)])
    share = np.mean([len(np.unique(image)) == 2 for image in many])
    assert 0.22 < share < 0.38
    np.testing.assert_array_equal(joined_rows(1.0, rows=TRAINING[::-1])[::-1], joined_rows(1.0))
    assert not np.array_equal(joined_rows(1.0, epoch=2), joined_rows(1.0, epoch=1))
    assert not np.array_equal(joined_rows(1.0, seed=8), joined_rows(1.0))


def test_without_another_driver_of_the_class_an_image_stays_alone() -> None:
    alone = Joined(Flat(), CLASS, Companions(DRIVER, np.flatnonzero(DRIVER == 0)), 1.0, 0, 1)
    assert len(np.unique(alone.read(3))) == 1


def test_batches_have_them_whatever_the_number_of_workers_and_keep_their_labels() -> None:
    targets = np.eye(10, dtype=np.float32)[CLASS]
    order, augmentation = training_order(TRAINING, 6, 3, 1), Augmentation(**MODERATE | {"mixup": 0, "cutmix": 0})
    both = dataclasses.replace(augmentation, driver_mixing=0.8)
    companions = Companions(DRIVER, TRAINING)
    made = [list(training_batches(Flat(), targets, order, both, 3, 1, n, companions)) for n in (1, 2, 5)]
    plain = list(training_batches(Flat(), targets, order, augmentation, 3, 1, 2))
    for one, two, five, without in zip(*made, plain, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[0], five[0])
        np.testing.assert_array_equal(one[1], without[1])
    assert not all(np.array_equal(one[0], without[0]) for one, without in zip(made[0], plain, strict=True))
    off = list(training_batches(Flat(), targets, order, only(driver_mixing=1.0, augmentation=0.0), 3, 1, 2))
    np.testing.assert_array_equal(np.concatenate([x for x, _ in off])[:, 0, 0, 0], order.ravel())
