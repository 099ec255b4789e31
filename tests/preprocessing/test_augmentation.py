"""The augmentation: each setting changes what it says and nothing else; left stays left."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.augmentation import augment
from preprocessing.settings import Augmentation

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
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_strength_zero_is_the_identity_and_so_is_every_setting_at_its_neutral_value() -> None:
    image = picture()
    everything = dataclasses.replace(Augmentation(**MODERATE), augmentation=0.0)
    for seed in range(5):
        np.testing.assert_array_equal(changed(image, everything, seed), image)
        np.testing.assert_array_equal(changed(image, OFF, seed), image)


@pytest.mark.parametrize("name", OF_ONE_IMAGE)
def test_each_setting_by_itself_changes_the_image_and_more_so_with_more_strength(name: str) -> None:
    image = picture()
    distances = []
    for strength in (0.25, 1.0):
        augmentation = dataclasses.replace(only(**{name: float(MODERATE[name])}), augmentation=strength)
        results = [changed(image, augmentation, seed).astype(float) for seed in range(40)]
        distances.append(np.mean([np.abs(result - image).mean() for result in results]))
    assert 0 < distances[0] < distances[1]


@pytest.mark.parametrize("name", [name for name in OF_ONE_IMAGE if name != "erasing"])
def test_one_setting_does_not_shift_what_another_draws(name: str) -> None:
    """With a second setting on, the erased rectangle lies where it lay without."""
    image = picture()
    erased = np.any(changed(image, only(erasing=1.0), 3) != image, axis=2)
    level = changed(image, only(**{name: float(MODERATE[name])} | {"erasing": 1.0}), 3)[erased].astype(int)
    assert erased.any()
    assert np.ptp(level, axis=0).max() == 0


def test_the_same_seed_gives_the_same_image_and_another_seed_another() -> None:
    image, all_on = picture(), Augmentation(**MODERATE)
    np.testing.assert_array_equal(changed(image, all_on, 4), changed(image, all_on, 4))
    assert not np.array_equal(changed(image, all_on, 4), changed(image, all_on, 5))


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", [*OF_ONE_IMAGE, "all", "default"])
def test_no_augmented_image_looks_more_like_its_mirror_image_than_like_itself(name: str, strength: float) -> None:
    if name == "default":
        augmentation = Augmentation()
    else:
        values = MODERATE if name == "all" else {name: float(MODERATE[name])}
        augmentation = only(**{name: float(value) for name, value in values.items()})
    augmentation = dataclasses.replace(augmentation, augmentation=strength)
    # A bright slope from the left and a dark spot at the upper right: no symmetry of any kind.
    image = np.repeat(np.linspace(200, 60, SHAPE[1], dtype=np.uint8)[None, :, None], SHAPE[0], axis=0)
    image = np.repeat(image, 3, axis=2)
    image[10:40, 90:115] = 20
    for seed in range(30):
        result = changed(image, augmentation, seed)
        assert likeness(result, image) > likeness(result, image[:, ::-1]) + 0.3


def test_brightness_moves_the_mean_of_all_channels_alike_within_its_range() -> None:
    image = picture()
    for seed in range(20):
        shift = changed(image, only(brightness=0.1), seed).astype(int) - image
        assert np.ptp(shift) == 0
        assert abs(shift.mean()) <= 0.1 * 255 + 0.5


def test_contrast_scales_about_the_mean_and_keeps_it() -> None:
    for image in (picture(), picture() // 3):  # a dark photograph too
        away = image - image.mean()
        far = np.abs(away) > 15
        for seed in range(20):
            result = changed(image, only(contrast=0.3), seed)
            gain = ((result - image.mean()) / away)[far]
            assert abs(result.mean() - image.mean()) < 1
            assert np.ptp(gain) < 0.08
            assert 1 / 1.33 < gain.mean() < 1.33


def test_colour_scales_each_channel_by_itself_and_leaves_black_black() -> None:
    image = picture() // 2
    image[:10] = 0
    bright = image[:, :, 0] > 20
    spreads = []
    for seed in range(20):
        result = changed(image, only(colour=0.3), seed)
        assert not result[:10].any()
        gains = result[bright].astype(float) / image[bright]
        assert np.ptp(gains, axis=0).max() < 0.06
        assert gains.min() > 1 / 1.33
        assert gains.max() < 1.35
        spreads.append(np.ptp(gains.mean(axis=0)))
    assert max(spreads) > 0.2


def test_translation_shifts_by_its_share_at_most() -> None:
    dot = np.zeros((100, 200, 3), np.uint8)
    dot[45:55, 95:105] = 255
    shifts = []
    for seed in range(40):
        rows, columns = np.nonzero(changed(dot, only(translation=0.1), seed)[:, :, 0] > 127)
        shifts.append((rows.mean() - 49.5, columns.mean() - 99.5))
    largest = np.abs(shifts).max(axis=0)
    assert 6 < largest[0] <= 10.5
    assert 13 < largest[1] <= 20.5


def test_zoom_changes_sizes_within_its_range_both_ways() -> None:
    square = np.zeros((120, 160, 3), np.uint8)
    square[40:80, 60:100] = 255
    areas = [np.mean(changed(square, only(zoom=0.2), seed)[:, :, 0] > 127) * 120 * 160 / 1600 for seed in range(40)]
    assert 1 / 1.5 < min(areas) < 0.85
    assert 1.2 < max(areas) < 1.5


def test_noise_has_no_bias_and_stays_within_its_deviation() -> None:
    image = picture()
    noises = [changed(image, only(noise=10.0), seed).astype(float) - image for seed in range(20)]
    assert all(abs(noise.mean()) < 0.3 for noise in noises)
    assert 7 < max(noise.std() for noise in noises) < 10.5
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.05


def test_jpeg_loses_more_at_lower_quality_and_keeps_the_colours_in_their_channels() -> None:
    image = picture()
    image[:, :, 0] = image[:, :, 0] // 2 + 127
    losses = [
        np.mean([np.abs(changed(image, only(jpeg=q), seed).astype(float) - image).mean() for seed in range(10)])
        for q in (90.0, 50.0, 5.0)
    ]
    assert losses == sorted(losses)
    assert losses[0] < 4
    assert np.allclose(changed(image, only(jpeg=50.0)).mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=4)


def test_erasing_fills_one_rectangle_of_the_promised_area_and_touches_nothing_else() -> None:
    image = picture()
    for seed in range(20):
        result = changed(image, only(erasing=1.0), seed)
        rows, columns = np.nonzero(np.any(result != image, axis=2))
        part = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        assert 0.015 < result[part].size / result.size < 0.16
        assert np.ptp(result[part].reshape(-1, 3), axis=0).max() == 0
        np.testing.assert_allclose(result[part][0, 0], image.mean(axis=(0, 1)), atol=0.51)


def test_erasing_is_a_probability() -> None:
    image = picture()
    count = sum(not np.array_equal(changed(image, only(erasing=0.3), seed), image) for seed in range(300))
    assert 60 <= count <= 120


def test_one_strength_scales_every_setting_and_none_leaves_its_range() -> None:
    half = dataclasses.replace(Augmentation(**MODERATE), augmentation=0.5).scaled()
    for name, value in MODERATE.items():
        assert getattr(half, name) == pytest.approx(65 if name == "jpeg" else value / 2)
    for field in dataclasses.fields(Augmentation):
        value = getattr(dataclasses.replace(Augmentation(**MODERATE), augmentation=10.0).scaled(), field.name)
        assert field.metadata["least"] <= value <= field.metadata["most"]
