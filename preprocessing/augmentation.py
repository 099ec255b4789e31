"""Random changes of a photograph that leave its label true. Never a flip: left and right hands are different classes.

Every change is drawn from a generator seeded by (run seed, epoch, row of the image), so that the augmented
image is the same whatever thread makes it and whenever.

Images can also be mixed: mixup and cutmix mix two of a batch, and their labels with them. What comes from another image
stays at its place: a left hand stays a left hand.
"""

import math

import cv2
import numpy as np

from preprocessing.settings import Augmentation

SMALLEST_BLUR = 0.3  # pixels of standard deviation; below it a Gaussian kernel is one pixel
ERASED_AREA = (0.02, 0.15)  # least and largest share of the image (Zhong et al. 2017 have up to 0.4: a whole driver)


def augment(image: np.ndarray, settings: Augmentation, generator: np.random.Generator) -> np.ndarray:
    """One randomly changed copy of an image.

    Args:
        image: shape (height, width, 3), uint8, RGB, 0 to 255; not modified.
        settings: the largest change of each kind, already multiplied by the strength (`Augmentation.scaled`).
        generator: where the randomness comes from.

    Returns:
        shape and dtype of `image`; `image` itself where nothing is to change.
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
    """Rotation, zoom, shear and translation in one interpolation, about the centre.

    Borders repeat the edge: reflecting them would put mirrored hands there.
    """
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
    mean = cv2.mean(image)[:3]
    image = image.copy()
    image[top : top + tall, left : left + wide] = np.rint(mean)
    return image


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
