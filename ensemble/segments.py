"""Segments: chains of mutual neighbours whose confident members agree share one prediction."""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from ensemble.neighbours import Graph
from ensemble.pooling import floored

CLOSEST = 5  # neighbours that may be linked
LEAST_AGREEMENT = 0.8  # share of a segment's confident images that take the same class


@dataclass(frozen=True)
class Segmentation:
    """Which chains share a prediction.

    Attributes:
        reach: the largest distance of two linked images.
        confidence: the probability of its first class from which an image has a say in whether the segment agrees.
    """

    reach: float
    confidence: float

    def predict(self, probabilities: np.ndarray, graph: Graph) -> np.ndarray:
        """Each image of a segment gets the mean of its log-probabilities; the others keep their own.

        Args:
            probabilities: shape (images, classes), rows summing to 1.
            graph: of the same images.

        Returns:
            shape (images, classes), rows summing to 1.
        """
        chains = mutual_chains(graph, self.reach)
        sizes = np.bincount(chains)
        top, classes = probabilities.argmax(axis=1), probabilities.shape[1]
        sure = probabilities.max(axis=1) >= self.confidence
        votes = np.bincount(chains[sure] * classes + top[sure], minlength=len(sizes) * classes)
        votes = votes.reshape(len(sizes), classes)
        agreeing = (sizes > 1) & (votes.max(axis=1) > 0)
        agreeing &= votes.max(axis=1) >= LEAST_AGREEMENT * votes.sum(axis=1)
        logarithms = np.log(floored(probabilities))
        means = np.stack([np.bincount(chains, column) for column in logarithms.T], axis=1) / sizes[:, None]
        return np.where(agreeing[chains][:, None], softmax(means[chains], axis=-1), probabilities)


def mutual_chains(graph: Graph, reach: float) -> np.ndarray:
    """The number of the chain of each image, from 0, shape (images,): the connected parts of the mutual neighbours.

    Args:
        reach: the largest distance of two linked images. Linked are those of which each is among the closest few of
            the other.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    images, k = len(graph.indices), min(CLOSEST, graph.indices.shape[1])
    near = graph.distances[:, :k] <= reach
    rows = np.repeat(np.arange(images), k)[near.ravel()]
    links = csr_array((np.ones(len(rows)), (rows, graph.indices[:, :k][near])), shape=(images, images))
    return np.asarray(connected_components(links.multiply(links.T), directed=False)[1])
