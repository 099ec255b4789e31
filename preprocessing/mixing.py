"""Batches in which images are mixed with each other, and their labels with them: mixup and cutmix.

Nothing is moved or mirrored: what comes from another image stays at its place, so a left hand stays a left hand.
"""

import math

import cv2
import numpy as np

from preprocessing.augmentation_settings import Augmentation


def mix(
    images: np.ndarray, targets: np.ndarray, settings: Augmentation, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mixes each image of a batch with one other of the same batch.

    With probability `cutmix` an image receives a rectangle of its partner at the same place, of an area drawn evenly
    (Yun et al. 2019); the others are blended with theirs, in a share drawn from Beta(mixup, mixup) (Zhang et al. 2018).
    A target becomes the mean of both targets, weighted by the shares of the pixels.

    Args:
        images: shape (batch, height, width, 3), uint8; not modified.
        targets: shape (batch, classes), float32, rows sum to 1; not modified.
        settings: already multiplied by the strength (`Augmentation.scaled`).
        generator: where the randomness comes from.

    Returns:
        images and targets of the same shapes and dtypes; the arguments themselves where nothing is to mix.
    """
    count = len(images)
    if count < 2 or not (settings.cutmix or settings.mixup):
        return images, targets
    partners = np.roll(np.arange(count), int(generator.integers(1, count)))  # never an image with itself
    draw = generator.uniform(size=(count, 4))
    own = generator.beta(settings.mixup, settings.mixup, size=count) if settings.mixup else np.ones(count)
    mixed = np.empty_like(images)
    for position, partner in enumerate(partners):
        image, other = images[position], images[partner]
        if draw[position, 0] < settings.cutmix:
            mixed[position] = image
            part = rectangle(image.shape[0], image.shape[1], draw[position, 1:])
            mixed[position][part] = other[part]
            own[position] = 1.0 - other[part].size / other.size
        else:
            cv2.addWeighted(image, own[position], other, 1.0 - own[position], 0.0, dst=mixed[position])
    share = own[:, None].astype(np.float32)
    return mixed, share * targets + (1.0 - share) * targets[partners]


def rectangle(height: int, width: int, draw: np.ndarray) -> tuple[slice, slice]:
    """A rectangle of the image's own shape, anywhere, cut off at the borders.

    Args:
        draw: share of the area before it is cut off, and the centre as shares of height and width; each 0 to 1.

    Returns:
        the rows and the columns.
    """
    side = math.sqrt(draw[0])
    tall, wide = side * height, side * width
    top, left = draw[1] * height - tall / 2, draw[2] * width - wide / 2
    rows = slice(max(0, round(top)), min(height, round(top + tall)))
    return rows, slice(max(0, round(left)), min(width, round(left + wide)))
