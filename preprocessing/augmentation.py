"""Random changes of a photograph that leave its label true. Never a flip: left and right hands are different classes.

Every change is drawn from a generator seeded by (run seed, epoch, row of the image), so that the augmented
image is the same whatever thread makes it and whenever.
"""

import dataclasses
import math

import cv2
import numpy as np

from preprocessing.augmentation_settings import Augmentation


def augment(image: np.ndarray, settings: Augmentation, generator: np.random.Generator) -> np.ndarray:
    """One randomly changed copy of an image.

    Args:
        image: shape (height, width, 3), uint8, RGB, 0 to 255; not modified.
        settings: the largest change of each kind, already multiplied by the strength (`Augmentation.scaled`).
        generator: where the randomness comes from.

    Returns:
        shape and dtype of `image`.
    """
    draw = generator.uniform(-1.0, 1.0, size=12)  # always as many numbers, so that one setting does not shift another
    image = _moved(image, settings, draw[:6])
    image = _recoloured(image, settings, draw[6:12])
    if settings.blur > 0:
        sigma = settings.blur * abs(generator.normal())
        if sigma > 0.3:  # below that a Gaussian kernel is one pixel
            image = cv2.GaussianBlur(image, (0, 0), sigma)
    if settings.noise > 0:
        deviation = settings.noise * generator.uniform()
        noise = generator.normal(0.0, max(deviation, 1e-6), size=image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if generator.uniform() < settings.erasing:
        image = _erased(image, generator)
    return image


def _moved(image: np.ndarray, settings: Augmentation, draw: np.ndarray) -> np.ndarray:
    """Rotation, zoom, shear and translation in one interpolation, about the centre; borders repeat the edge."""
    if not (settings.rotation or settings.zoom or settings.shear or settings.translation):
        return image
    height, width = image.shape[:2]
    angle = math.radians(settings.rotation * draw[0])
    scale = math.exp(math.log1p(settings.zoom) * draw[1])
    shear = math.tan(math.radians(settings.shear * draw[2]))
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[1.0, shear], [0.0, 1.0]])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = np.array([settings.translation * draw[3] * width, settings.translation * draw[4] * height])
    offset = centre - matrix @ centre + shift
    return cv2.warpAffine(
        image,
        np.column_stack([matrix, offset]),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _recoloured(image: np.ndarray, settings: Augmentation, draw: np.ndarray) -> np.ndarray:
    """Brightness, contrast and colour balance, as one look-up table per channel."""
    if not (settings.brightness or settings.contrast or settings.colour):
        return image
    levels = np.arange(256, dtype=np.float64)[:, None]
    gain = math.exp(math.log1p(settings.contrast) * draw[0]) * np.exp(math.log1p(settings.colour) * draw[2:5])
    table = (levels - 127.5) * gain + 127.5 + 255.0 * settings.brightness * draw[1]
    return cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8)[:, None, :])


def _erased(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A rectangle of 2 to 15 % of the area becomes the image's mean colour (Zhong et al. 2017, 'random erasing')."""
    height, width = image.shape[:2]
    area, aspect = generator.uniform(0.02, 0.15) * height * width, math.exp(generator.uniform(-1.0, 1.0))
    tall = min(height, max(1, round(math.sqrt(area * aspect))))
    wide = min(width, max(1, round(math.sqrt(area / aspect))))
    top, left = generator.integers(0, height - tall + 1), generator.integers(0, width - wide + 1)
    image = image.copy()
    image[top : top + tall, left : left + wide] = image.mean(axis=(0, 1)).astype(np.uint8)
    return image


def scaled(settings: Augmentation) -> Augmentation:
    """The settings with every range multiplied by the strength, and strength 1; erasing stays a probability."""
    changes = {
        field.name: getattr(settings, field.name) * settings.augmentation
        for field in dataclasses.fields(settings)
        if field.name != "augmentation"
    }
    return dataclasses.replace(settings, **changes | {"erasing": min(1.0, changes["erasing"]), "augmentation": 1.0})
