"""Batches of images, made by threads ahead of the network (OpenCV and NumPy let go of Python's lock while they work).

The augmentation changes photographs at random in ways that leave their labels true. Never a flip: left and right hands
are different classes. Every change is drawn from a generator seeded by (run seed, epoch, row of the image), so a batch
depends on (seed, epoch, its rows and its place in the order) alone, never on the number of threads.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from preprocessing.images import Rows
from preprocessing.settings import Augmentation

AHEAD = 4  # batches in the making while the network works
MIXING = 1  # tells a batch's generator from those of its rows; not 0, which a seed sequence is padded with
SMALLEST_BLUR = 0.3  # pixels of standard deviation; below it a Gaussian kernel is one pixel
ERASED_AREA = (0.02, 0.15)  # least and largest share of the image (Zhong et al. 2017 have up to 0.4: a whole driver)


class Augmented:
    """Images of a store as one epoch of training sees them; the same for every fold and any number of threads."""

    def __init__(self, store: Rows, augmentation: Augmentation, seed: int, epoch: int) -> None:
        self.shape, self.dtype = store.shape, store.dtype
        self._store, self._settings, self._seed, self._epoch = store, augmentation.scaled(), seed, epoch

    def read(self, row: int) -> np.ndarray:
        """Shape (height, width, 3), uint8, RGB."""
        return augment(self._store.read(row), self._settings, np.random.default_rng([self._seed, self._epoch, row]))


def training_order(rows: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The rows of one epoch, shape (batches, batch_size): a permutation, the last batch filled from its beginning."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return np.resize(order, (-(-len(order) // batch_size), batch_size))


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
        images of shape (batch_size, height, width, 3), uint8, RGB; and their targets, mixed where the images are.
    """
    settings = augmentation.scaled()
    augmented = Augmented(store, augmentation, seed, epoch)

    def make(batch: tuple[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        number, rows = batch
        images = _stacked(augmented, rows, len(rows))
        return mix(images, targets[rows], settings, np.random.default_rng([seed, epoch, number, MIXING]))

    return _ahead(make, list(enumerate(order)), workers)


def plain_batches(store: Rows, rows: np.ndarray, batch_size: int, workers: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows as they are, in the order given, and how many of a batch are real: the last one is padded with zeros."""

    def make(part: np.ndarray) -> tuple[np.ndarray, int]:
        return _stacked(store, part, batch_size), len(part)

    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return _ahead(make, parts, workers)


def _stacked(store: Rows, rows: np.ndarray, count: int) -> np.ndarray:
    """Rows of a store in one array of `count`, zeros behind them."""
    found = np.empty((count, *store.shape), store.dtype)
    found[len(rows) :] = 0
    for position, row in enumerate(rows):
        found[position] = store.read(int(row))
    return found


def _ahead(make: Callable[[Any], Any], parts: list[Any], workers: int) -> Iterator[Any]:
    """Results of `make` in order; `AHEAD` of them are computed in advance."""
    waiting: deque[Future] = deque()
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


def augment(image: np.ndarray, settings: Augmentation, generator: np.random.Generator) -> np.ndarray:
    """One randomly changed copy of an image, uint8 RGB, by settings already multiplied by the strength.

    The image itself is not modified, and returned where nothing is to change.
    """
    # Always as many draws, so that no setting shifts another's; 18 and 19 are free.
    draw = generator.uniform(-1.0, 1.0, size=20)
    image = _moved(image, settings, draw[:5])
    image = _recoloured(image, settings, draw[5:10])
    if settings.blur * abs(draw[10]) >= SMALLEST_BLUR:
        image = cv2.GaussianBlur(image, (0, 0), settings.blur * abs(draw[10]))
    if settings.noise > 0:
        image = _noisy(image, settings.noise * abs(draw[11]), seed=int(generator.integers(2**31)))
    if settings.jpeg < 100:
        image = _compressed(image, round(100 - (100 - settings.jpeg) * abs(draw[12])))
    if abs(draw[13]) < settings.erasing:
        image = _erased(image, draw[14:18])
    return image


def _moved(image: np.ndarray, settings: Augmentation, draw: np.ndarray) -> np.ndarray:
    """Rotation, zoom, shear and shift about the centre; borders repeat the edge: reflected, they had mirrored hands."""
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
    turn = np.column_stack([matrix, offset])
    return cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _recoloured(image: np.ndarray, settings: Augmentation, draw: np.ndarray) -> np.ndarray:
    """Brightness, contrast and colour balance, as one look-up table per channel.

    Contrast turns about the image's own mean, not a fixed grey: these photographs are dark, and their shadows, with
    hands and telephones in them, would go to black together. Colour is a gain from zero, as a white balance is: about
    any other level it would tint the shadows.
    """
    if not (settings.brightness or settings.contrast or settings.colour):
        return image
    mean = sum(cv2.mean(image)[:3]) / 3 if settings.contrast else 0.0
    contrast = math.exp(math.log1p(settings.contrast) * draw[0])
    levels = (
        (np.arange(256, dtype=np.float64)[:, None] - mean) * contrast + mean + 255.0 * settings.brightness * draw[1]
    )
    table = levels * np.exp(math.log1p(settings.colour) * draw[2:5])
    return cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8)[:, None, :])


def _noisy(image: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """Independent Gaussian noise on every level. OpenCV draws it faster than NumPy, from one state per thread."""
    cv2.setRNGSeed(seed)
    noise = np.empty(image.shape, np.int16)
    cv2.randn(noise, np.zeros(3), np.full(3, deviation))
    return cv2.add(image, noise, dtype=cv2.CV_8U)


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """What JPEG at this quality (1 to 100) leaves of the image."""
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)


def _erased(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """A rectangle becomes the image's mean colour (Zhong et al. 2017, 'random erasing')."""
    height, width = image.shape[:2]
    least, most = ERASED_AREA
    area = (least + (most - least) * abs(draw[0])) * height * width
    aspect = math.exp(draw[1])  # height over width
    tall = min(height, max(1, round(math.sqrt(area * aspect))))
    wide = min(width, max(1, round(math.sqrt(area / aspect))))
    top, left = int(abs(draw[2]) * (height - tall + 1)), int(abs(draw[3]) * (width - wide + 1))
    erased = image.copy()
    erased[top : top + tall, left : left + wide] = np.rint(cv2.mean(image)[:3])
    return erased


def mix(
    images: np.ndarray, targets: np.ndarray, settings: Augmentation, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mixes each image of a batch with one other of the same batch.

    With probability `cutmix` an image receives a rectangle of its partner at the same place, of an area drawn evenly
    (Yun et al. 2019); the others are blended with theirs, in a share drawn from Beta(mixup, mixup) (Zhang et al. 2018).
    A target becomes the mean of both targets, weighted by the shares of the pixels.

    Images of shape (batch, height, width, 3) and targets of shape (batch, classes) are not modified, and returned where
    nothing is to mix; the settings are already multiplied by the strength.
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
            part = _rectangle(image.shape[0], image.shape[1], draw[position, 1:])
            mixed[position][part] = other[part]
            own[position] = 1.0 - other[part].size / other.size
        else:
            cv2.addWeighted(image, own[position], other, 1.0 - own[position], 0.0, dst=mixed[position])
    share = own[:, None].astype(np.float32)
    return mixed, share * targets + (1.0 - share) * targets[partners]


def _rectangle(height: int, width: int, draw: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a rectangle of the image's own shape, anywhere, cut off at the borders.

    Drawn are the share of the area before that, and the centre as shares of height and width; each 0 to 1.
    """
    side = math.sqrt(draw[0])
    tall, wide = side * height, side * width
    top, left = draw[1] * height - tall / 2, draw[2] * width - wide / 2
    rows = slice(max(0, round(top)), min(height, round(top + tall)))
    return rows, slice(max(0, round(left)), min(width, round(left + wide)))
