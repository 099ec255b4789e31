"""What photographs tell without labels and networks: who shows the same driver, and the outlines of what they show.

The cabin, the seat and the clothes differ more between drivers than one driver's behaviours differ from each other, on
a picture of 16x12 pixels.

Clusters of such pictures are divided as long as both parts show the same mix of behaviours, as the predictions have it:
parts of different mixes are not two drivers but two behaviours of one. Drivers who look alike may share a group.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from common.environment import cores
from common.errors import UserError
from common.metric import FEWEST_CLUSTERED, FEWEST_IMAGES, Cloud
from common.settings import ImageSize
from preprocessing.images import ImageStore, fitted, read_image

SIZE, SIZE_OF_OUTLINES = ImageSize(12, 16), ImageSize(96, 128)
DIMENSIONS = 32  # principal components of the pixels
SAMPLE = 10_000  # images that the groups are found in; the others go to the nearest mean
CHUNK = 8_192  # images that are compared at a time
MOST_INFORMATION = 0.05  # of the behaviours that may lie in a division, as a share of what there is; see `_information`
MOST_CLUSTERED = 5_000  # images of a group: more are hardly one driver, and their outlines would take 250 MB or more
CLUSTER_DIMENSIONS = 32  # principal components of the outlines
UNKNOWN = -1


def same_driver(
    paths: Sequence[Path], predictions: np.ndarray, workers: int = 0, store: ImageStore | None = None
) -> np.ndarray:
    """Groups of images, a driver each: clusters by Ward's method.

    Args:
        predictions: shape (images, classes), rows summing to 1.
        workers: threads that read the files; 0 for one a core.
        store: the same images at `SIZE`, where a cache keeps them.

    Returns:
        shape (images,), int64 from 0; `UNKNOWN` for a file that cannot be read.

    Source: Ward 1963, Hierarchical grouping to optimize an objective function.
    """
    from scipy.spatial.distance import cdist
    from sklearn.decomposition import PCA

    with ThreadPoolExecutor(workers or cores()) as pool:
        pictures = list(pool.map(store.read, range(len(paths))) if store else pool.map(_thumbnail, paths))
    groups = np.full(len(paths), UNKNOWN, dtype=np.int64)
    known = np.array([place for place, picture in enumerate(pictures) if picture is not None], dtype=np.int64)
    groups[known] = 0
    if len(known) < 2 * FEWEST_IMAGES:
        return groups
    pixels = np.stack([pictures[place] for place in known]).reshape(len(known), -1)
    if not np.ptp(pixels, axis=0).any():
        return groups
    every = slice(None, None, -(-len(known) // SAMPLE))
    reduced = PCA(min(DIMENSIONS, *pixels[every].shape), svd_solver="full").fit(pixels[every])
    points = reduced.transform(pixels[every])
    parts = _parts(points, predictions[known][every])
    means = np.stack([points[part].mean(axis=0) for part in parts])
    for start in range(0, len(known), CHUNK):
        some = slice(start, start + CHUNK)
        groups[known[some]] = cdist(reduced.transform(pixels[some]), means).argmin(axis=1)
    return groups


def _thumbnail(path: Path) -> np.ndarray | None:
    try:
        return read_image(path, SIZE)
    except UserError:
        return None


@dataclass(frozen=True)
class Outlines:
    """Features that tell a driver's behaviours apart: the root of the brightness's gradient, at each of 128x96 pixels.

    Attributes:
        read: the complete image by its row, at any size: shape (height, width, 3), uint8, RGB.
        workers: threads that read; 0 for one a core.
    """

    read: Callable[[int], np.ndarray]
    workers: int = 0

    @classmethod
    def of(cls, paths: Sequence[Path], workers: int = 0) -> "Outlines":
        """Those of photographs, which are decoded when they are asked for."""
        return cls(lambda row: read_image(paths[row], SIZE_OF_OUTLINES), workers)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Shape (rows, pixels), float32."""
        found = np.empty((len(rows), SIZE_OF_OUTLINES.height * SIZE_OF_OUTLINES.width), np.float32)
        with ThreadPoolExecutor(self.workers or cores()) as pool:
            for place, outline in enumerate(pool.map(self._outline, rows.tolist())):
                found[place] = outline
        return found

    def _outline(self, row: int) -> np.ndarray:
        grey = cv2.cvtColor(fitted(self.read(row), SIZE_OF_OUTLINES), cv2.COLOR_RGB2GRAY).astype(np.float32)
        return np.sqrt(np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))).ravel()


def clouds_of(features: "Outlines | np.ndarray", sets: np.ndarray) -> list[Cloud]:
    """The features of each driver with `FEWEST_CLUSTERED` to `MOST_CLUSTERED` images, in few dimensions.

    Args:
        features: of the images, read driver by driver; they are centred and brought to length 1.
        sets: shape (images,): images of one value show one driver; below 0, nobody knows whom.

    Returns:
        of each such driver the rows, ascending, and the principal components, shape (rows, dimensions), float64.
    """
    from sklearn.decomposition import PCA

    clouds = []
    for value in np.unique(sets[sets >= 0]):
        rows = np.flatnonzero(sets == value)
        if FEWEST_CLUSTERED <= len(rows) <= MOST_CLUSTERED:
            centred = features[rows].astype(np.float32, copy=False)  # a copy already, of these rows
            centred -= centred.mean(axis=0)
            centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
            if centred.any():  # else all images are alike
                dimensions = min(CLUSTER_DIMENSIONS, *centred.shape)
                reduce = PCA(dimensions, svd_solver="randomized", iterated_power=2, random_state=0)
                clouds.append((rows, np.asarray(reduce.fit_transform(centred), dtype=np.float64)))
    return clouds


def _parts(points: np.ndarray, predictions: np.ndarray) -> list[list[int]]:
    """The rows of each group; a handful of odd rows is in none."""
    from scipy.cluster.hierarchy import to_tree, ward

    waiting, parts = [to_tree(ward(points))], []
    while waiting:
        node = waiting.pop()
        large = [side for side in (node.left, node.right) if side is not None and side.count >= FEWEST_IMAGES]
        if len(large) == 2 and _information([predictions[side.pre_order()] for side in large]) > MOST_INFORMATION:
            large = []
        if large:
            waiting += large
        else:
            parts.append(node.pre_order())
    return parts


def _information(sides: Sequence[np.ndarray]) -> float:
    """What the side of an image says about its class: mutual information, as a share of that of a known class.

    Less what as many images of one mix have by chance (Miller 1955).
    """
    images, classes = sum(map(len, sides)), sides[0].shape[1]
    mean = np.concatenate(sides).mean(axis=0)
    found = 0.0
    for side in sides:
        own = side.mean(axis=0)
        found += len(side) / images * float(own @ np.log(np.maximum(own, 1e-12) / np.maximum(mean, 1e-12)))
    return (found - (classes - 1) / (2 * images)) / float(np.log(classes))
