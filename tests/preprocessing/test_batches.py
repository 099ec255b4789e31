"""Training batches: each setting changes what it says and nothing else; left stays left; targets fit the pixels."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.settings import ImageSize
from models.finetuning.data.sources import TTA
from preprocessing.batches import augment, mix, training_batches, training_order
from preprocessing.images import ImageStore
from preprocessing.settings import Augmentation
from tests.trees import write_image

NAMES = [field.name for field in dataclasses.fields(Augmentation) if field.name != "augmentation"]
OF_ONE_IMAGE = [name for name in NAMES if name not in ("mixup", "cutmix")]
OFF = dataclasses.replace(Augmentation.neutral(), augmentation=1.0)
MODERATE = {"rotation": 15, "translation": 0.1, "zoom": 0.25, "shear": 10, "brightness": 0.2, "contrast": 0.4}
MODERATE |= {"colour": 0.2, "blur": 2, "noise": 15, "jpeg": 30, "erasing": 1, "mixup": 0.4, "cutmix": 1}
SHAPE = (96, 128, 3)


def only(**changes: float) -> Augmentation:
    return dataclasses.replace(OFF, **changes)


def picture(seed: int = 0) -> np.ndarray:
    """A smooth picture without symmetry, levels well inside 0 to 255, like a photograph out of focus."""
    coarse = np.random.default_rng(seed).uniform(60, 190, (6, 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (SHAPE[1], SHAPE[0]), interpolation=cv2.INTER_CUBIC).clip(30, 225).astype(np.uint8)


def changed(image: np.ndarray, augmentation: Augmentation, seed: int = 0) -> np.ndarray:
    return augment(image, augmentation.scaled(), np.random.default_rng([seed, 1, 2]))


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two images' grey levels."""
    return float(np.corrcoef(one.mean(axis=2).ravel(), other.mean(axis=2).ravel())[0, 1])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.fixed_dictionaries({name: st.just(0.0) | st.just(float(MODERATE[name])) for name in OF_ONE_IMAGE}),
    st.floats(0, 10),
    st.integers(0, 99),
)
def test_any_settings_keep_shape_and_type_and_leave_the_original_alone(
    height: int, width: int, values: dict[str, float], strength: float, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    values["jpeg"] = max(1.0, values["jpeg"])
    result = changed(image, dataclasses.replace(only(**values), augmentation=strength), seed)
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, before)


def test_strength_zero_is_the_identity_and_so_is_every_setting_at_its_neutral_value() -> None:
    for augmentation in (dataclasses.replace(Augmentation(**MODERATE), augmentation=0.0), OFF):
        np.testing.assert_array_equal(changed(picture(), augmentation, 3), picture())


@pytest.mark.parametrize("name", OF_ONE_IMAGE)
def test_each_setting_changes_the_image_more_with_more_strength_and_shifts_no_other_draw(name: str) -> None:
    image, distances = picture(), []
    for strength in (0.25, 1.0):
        augmentation = dataclasses.replace(only(**{name: float(MODERATE[name])}), augmentation=strength)
        results = [changed(image, augmentation, seed).astype(float) for seed in range(40)]
        distances.append(np.mean([np.abs(result - image).mean() for result in results]))
    assert 0 < distances[0] < distances[1]
    erased = np.any(changed(image, only(erasing=1.0), 3) != image, axis=2)
    level = changed(image, only(**{name: float(MODERATE[name])} | {"erasing": 1.0}), 3)[erased].astype(int)
    assert erased.any() and np.ptp(level, axis=0).max() == 0, "the rectangle lies where it lay without"


@pytest.mark.parametrize("name", [*OF_ONE_IMAGE, "all", "default", "test time"])
def test_no_augmented_image_looks_more_like_its_mirror_image_than_like_itself(name: str) -> None:
    values = MODERATE if name == "all" else {name: MODERATE.get(name, 0)}
    augmentation = {"default": Augmentation(), "test time": TTA}.get(name) or only(**values)
    # A bright slope from the left and a dark spot at the upper right: no symmetry of any kind.
    image = np.repeat(np.linspace(200, 60, SHAPE[1], dtype=np.uint8)[None, :, None], SHAPE[0], axis=0)
    image = np.repeat(image, 3, axis=2)
    image[10:40, 90:115] = 20
    for seed in range(30):
        result = changed(image, augmentation, seed)
        assert likeness(result, image) > likeness(result, image[:, ::-1]) + 0.3


def test_levels_change_within_their_ranges() -> None:
    image = picture()
    away = image - image.mean()
    for seed in range(20):
        shift = changed(image, only(brightness=0.1), seed).astype(int) - image
        assert np.ptp(shift) == 0 and abs(shift.mean()) <= 0.1 * 255 + 0.5
        contrast = changed(image, only(contrast=0.3), seed)
        gain = ((contrast - image.mean()) / away)[np.abs(away) > 15]
        assert np.ptp(gain) < 0.08 and 1 / 1.33 < gain.mean() < 1.33
        gains = changed(image // 2, only(colour=0.3), seed) / (image // 2)
        assert np.ptp(gains, axis=(0, 1)).max() < 0.1 and gains.min() > 1 / 1.4 and gains.max() < 1.4


def test_translation_and_zoom_stay_within_their_ranges() -> None:
    dot, square = np.zeros((100, 200, 3), np.uint8), np.zeros((120, 160, 3), np.uint8)
    dot[45:55, 95:105] = square[40:80, 60:100] = 255
    places = [np.nonzero(changed(dot, only(translation=0.1), seed)[:, :, 0] > 127) for seed in range(40)]
    largest = np.abs([(rows.mean() - 49.5, columns.mean() - 99.5) for rows, columns in places]).max(axis=0)
    assert 6 < largest[0] <= 10.5 and 13 < largest[1] <= 20.5
    areas = [np.sum(changed(square, only(zoom=0.2), seed)[:, :, 0] > 127) / 1600 for seed in range(40)]
    assert 1 / 1.5 < min(areas) < 0.85 and 1.2 < max(areas) < 1.5


def test_erasing_fills_one_rectangle_of_the_promised_area_and_touches_nothing_else() -> None:
    image = picture()
    for seed in range(20):
        result = changed(image, only(erasing=1.0), seed)
        rows, columns = np.nonzero(np.any(result != image, axis=2))
        part = result[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert 0.015 < part.size / result.size < 0.16
        assert np.ptp(part.reshape(-1, 3), axis=0).max() == 0
        np.testing.assert_allclose(part[0, 0], image.mean(axis=(0, 1)), atol=0.51)
    count = sum(not np.array_equal(changed(image, only(erasing=0.3), seed), image) for seed in range(300))
    assert 60 <= count <= 120, "a probability"


def test_one_strength_scales_every_setting_and_none_leaves_its_range() -> None:
    half = dataclasses.replace(Augmentation(**MODERATE), augmentation=0.5).scaled()
    most = dataclasses.replace(Augmentation(**MODERATE), augmentation=10.0).scaled()
    for name, value in MODERATE.items():
        assert getattr(half, name) == pytest.approx(65 if name == "jpeg" else value / 2)
        bounds = Augmentation.__dataclass_fields__[name].metadata
        assert bounds["least"] <= getattr(most, name) <= bounds["most"]


# Mixing

COUNT, SMALL = 10, (40, 60, 3)
TARGETS = np.eye(10, dtype=np.float32)
FLAT = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), np.prod(SMALL)).reshape(COUNT, *SMALL)  # image i has level 25 i


def mixed(augmentation: Augmentation, seed: int = 0, images: np.ndarray = FLAT) -> tuple[np.ndarray, np.ndarray]:
    return mix(images, TARGETS[: len(images)], augmentation.scaled(), np.random.default_rng(seed))


@pytest.mark.parametrize("augmentation", [only(mixup=0.4), only(cutmix=1.0), only(cutmix=0.5, mixup=1.0)])
def test_targets_are_the_shares_of_the_pixels(augmentation: Augmentation) -> None:
    before = FLAT.copy()
    for seed in range(10):
        images, targets = mixed(augmentation, seed)
        assert (images.shape, images.dtype, targets.dtype) == (FLAT.shape, np.uint8, np.float32)
        np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
        assert (np.count_nonzero(targets, axis=1) <= 2).all()
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), targets @ np.arange(0, 250, 25), atol=0.51)
        assert not np.array_equal(images, FLAT)
    np.testing.assert_array_equal(FLAT, before)


def test_cutmix_is_a_probability_and_mixup_takes_what_it_leaves() -> None:
    both = np.concatenate([mixed(only(cutmix=0.3, mixup=1.0), seed)[0] for seed in range(30)])
    blended = np.ptp(both.reshape(len(both), -1), axis=1) == 0  # a rectangle leaves two levels in the image
    assert 0.6 < blended.mean() < 0.85
    images, targets = mixed(dataclasses.replace(only(cutmix=1.0, mixup=1.0), augmentation=0.0))
    assert images is FLAT and np.array_equal(targets, TARGETS)
    assert np.array_equal(mixed(only(mixup=1.0), images=FLAT[:1])[0], FLAT[:1]), "nobody to mix with"


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
    np.testing.assert_array_equal(targets, np.eye(10, dtype=np.float32)[order % 10])
