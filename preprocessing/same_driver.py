"""Which photographs show the same driver, found without labels: the cabin, the seat and the clothes differ more between
drivers than one driver's behaviours differ from each other, on a picture of 16x12 pixels.

On 14 drivers of the competition the groups are the drivers but for 2 % of the images; of two drivers who look alike,
one group may be made, and a driver who was recorded twice may be two. No group follows the behaviours.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.machine import cores
from common.settings import ImageSize
from preprocessing.images import read_image

SIZE = ImageSize(12, 16)
DIMENSIONS = 32  # principal components of the pixels
SAMPLE = 3_000  # images that the groups are found in; the others go to the nearest mean
LEAST, MOST = 0.5, 1.5  # groups, for each driver that is expected
MARGIN = 0.02  # of the mean silhouette, within which the most groups are taken: else those of two drivers are often one
UNKNOWN = -1


def guessed_test_drivers(test_images: int, images: int, drivers: int) -> int:
    """How many drivers a test set has if each is on as many images as a known one; at least 1."""
    return max(1, round(test_images * drivers / images))


def same_driver(paths: Sequence[Path], expected: int) -> np.ndarray:
    """Groups of images, a driver each: clusters by Ward's method, as many as the mean silhouette allows.

    Args:
        paths: the image files.
        expected: a guess of the number of drivers, at least 1.

    Returns:
        shape (images,), int64 from 0; `UNKNOWN` for a file that cannot be read.

    Source: Ward 1963, Hierarchical grouping to optimize an objective function; Rousseeuw 1987, Silhouettes.
    """
    from scipy.spatial.distance import cdist
    from sklearn.decomposition import PCA

    with ThreadPoolExecutor(cores()) as pool:
        pictures = list(pool.map(_thumbnail, paths))
    groups = np.full(len(paths), UNKNOWN, dtype=np.int64)
    known = [place for place, picture in enumerate(pictures) if picture is not None]
    groups[known] = 0
    pixels = np.array([picture for picture in pictures if picture is not None], dtype=np.float32)
    if expected < 2 or len(known) < MOST * expected or not np.ptp(pixels, axis=0).any():
        return groups
    pixels = pixels.reshape(len(known), -1)
    sample = pixels[:: -(-len(pixels) // SAMPLE)]
    reduced = PCA(min(DIMENSIONS, *sample.shape), svd_solver="full").fit(sample)
    points = reduced.transform(sample)
    labels = _clusters(points, max(2, round(LEAST * expected)), round(MOST * expected))
    means = np.stack([points[labels == label].mean(axis=0) for label in np.unique(labels)])
    groups[known] = cdist(reduced.transform(pixels), means).argmin(axis=1)
    return groups


def _thumbnail(path: Path) -> np.ndarray | None:
    try:
        return read_image(path, SIZE)
    except UserError:
        return None


def _clusters(points: np.ndarray, fewest: int, most: int) -> np.ndarray:
    """Labels of points, shape (points,): the most clusters whose silhouette is within `MARGIN` of the best."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist, squareform
    from sklearn.metrics import silhouette_score

    distances = pdist(points)
    tree, square = linkage(distances, "ward"), squareform(distances)
    tried = [fcluster(tree, count, "maxclust") for count in range(fewest, min(most, len(points) - 1) + 1)]
    tried = [labels for labels in tried if labels.max() > 1]  # equal points are not divided
    silhouettes = [float(silhouette_score(square, labels, metric="precomputed")) for labels in tried]
    good = [labels for labels, one in zip(tried, silhouettes, strict=True) if one >= max(silhouettes) - MARGIN]
    return good[-1] if good else np.ones(len(points), dtype=np.int64)
