"""Mixup, cutmix and the training batches: soft targets that say what the pixels say, whatever the number of workers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from common.settings import ImageSize
from preprocessing.augmentation import mix
from preprocessing.batches import training_batches, training_order
from preprocessing.images import ImageStore
from preprocessing.settings import Augmentation
from tests.preprocessing.test_augmentation import MODERATE, only
from tests.trees import write_image

COUNT, SHAPE = 10, (40, 60, 3)
TARGETS = np.eye(10, dtype=np.float32)
FLAT = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), np.prod(SHAPE)).reshape(COUNT, *SHAPE)  # image i has level 25 i


def mixed(augmentation: Augmentation, seed: int = 0, images: np.ndarray = FLAT) -> tuple[np.ndarray, np.ndarray]:
    return mix(images, TARGETS[: len(images)], augmentation.scaled(), np.random.default_rng(seed))


@pytest.mark.parametrize("augmentation", [only(mixup=0.4), only(cutmix=1.0), only(cutmix=0.5, mixup=1.0)])
def test_targets_are_the_shares_of_the_pixels(augmentation: Augmentation) -> None:
    before = FLAT.copy()
    for seed in range(10):
        images, targets = mixed(augmentation, seed)
        assert images.shape == FLAT.shape
        assert images.dtype == np.uint8
        assert targets.dtype == np.float32
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
        assert (np.count_nonzero(targets, axis=1) <= 2).all()
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), targets @ np.arange(0, 250, 25), atol=0.51)
        assert not np.array_equal(images, FLAT)
    np.testing.assert_array_equal(FLAT, before)


def test_cutmix_puts_a_rectangle_of_the_partner_at_its_own_place() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (COUNT, *SHAPE), dtype=np.uint8)
    results, targets = mixed(only(cutmix=1.0), images=images)
    for position, result in enumerate(results):
        others = [other for other in np.flatnonzero(targets[position]) if other != position]
        foreign = np.any(result != images[position], axis=2)
        if not foreign.any():
            continue
        rows, columns = np.nonzero(foreign)
        part = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        assert len(others) == 1
        np.testing.assert_array_equal(result[part], images[others[0]][part])


def test_cutmix_is_a_probability_and_mixup_takes_what_it_leaves() -> None:
    both = np.concatenate([mixed(only(cutmix=0.3, mixup=1.0), seed)[0] for seed in range(30)])
    blended = np.ptp(both.reshape(len(both), -1), axis=1) == 0  # a rectangle leaves two levels in the image
    assert 0.6 < blended.mean() < 0.85
    alone = np.concatenate([mixed(only(cutmix=0.3), seed)[0] for seed in range(30)])
    assert 0.6 < np.mean(alone == np.tile(FLAT, (30, 1, 1, 1))) < 0.95


def test_nothing_to_mix_changes_nothing() -> None:
    images, targets = mixed(dataclasses.replace(only(cutmix=1.0, mixup=1.0), augmentation=0.0))
    assert images is FLAT
    np.testing.assert_array_equal(targets, TARGETS)
    single, target = mixed(only(mixup=1.0), images=FLAT[:1])
    assert np.array_equal(single, FLAT[:1])
    assert np.array_equal(target, TARGETS[:1])


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    paths = [tmp_path / f"{row}.jpg" for row in range(20)]
    for row, path in enumerate(paths):
        write_image(path, np.random.default_rng(row).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    return ImageStore(paths, ImageSize(24, 32), tmp_path / "cache", "a", 2**20)


def epoch_of(store: ImageStore, augmentation: Augmentation, epoch: int, workers: int) -> list[np.ndarray]:
    targets = np.eye(10, dtype=np.float32)[np.arange(len(store)) % 10]
    order = training_order(np.arange(len(store)), 6, 7, epoch)
    batches = list(training_batches(store, targets, order, augmentation, 7, epoch, workers))
    assert [images.shape for images, _ in batches] == [(6, 24, 32, 3)] * 4
    assert all(wanted.shape == (6, 10) and wanted.dtype == np.float32 for _, wanted in batches)
    return [np.concatenate(part) for part in zip(*batches, strict=True)]


def test_batches_do_not_depend_on_the_number_of_workers_but_on_seed_and_epoch(store: ImageStore) -> None:
    everything = Augmentation(**MODERATE | {"cutmix": 0.5})
    first = epoch_of(store, everything, 1, 1)
    for workers in (1, 3, 8):
        for one, other in zip(first, epoch_of(store, everything, 1, workers), strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0], epoch_of(store, everything, 2, 1)[0])


def test_without_augmentation_batches_are_the_images_and_their_labels(store: ImageStore) -> None:
    images, targets = epoch_of(store, dataclasses.replace(Augmentation(**MODERATE), augmentation=0.0), 1, 2)
    order = training_order(np.arange(len(store)), 6, 7, 1).ravel()
    np.testing.assert_array_equal(images, np.stack([store.read(row) for row in order]))
    np.testing.assert_array_equal(targets.argmax(axis=1), order % 10)
    assert set(np.unique(targets)) == {0.0, 1.0}
