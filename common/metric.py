"""What is computed of predicted probabilities: the competition's metric, which is one function; prior matching; and
clusters, of one driver's images of one class.
"""

from collections.abc import Sequence

import numpy as np

SMALLEST_PROBABILITY = 1e-15
LARGEST_BIAS = 2.0  # nats: images that are certain stay so
FEWEST_IMAGES = 20  # of one driver: fewer say nothing of their mix, and are no group of their own
HALF_STRENGTH = 100  # images at which the strength is half of what it is for very many
FEWEST_CLUSTERED = 60  # images of one driver: fewer are no clusters, since some class would have one or two
CLUSTER_STEPS = 10
TAIL = 20.0  # of the density, the distance squared to the power of minus this: what a cluster says against the network
SHRINKAGES = 5.0, 10.0  # images at the driver's mean, for each class, that keep the mean of an unlikely class there
MOST_SURPRISE = 0.2  # nats that clusters cost by the predictions, above their own entropy; of two drivers: 0.24 to 3
SHARPNESS = 0.5  # the frames of a video say much the same many times: what makes the result as sure as it is right

Cloud = tuple[np.ndarray, np.ndarray]  # the rows of one driver, and their features: shape (rows, dimensions)


def log_loss_per_image(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Multi-class log loss of each image, as Kaggle scores it.

    Args:
        probabilities: shape (images, classes), non-negative; each row is divided by its sum.
        labels: shape (images,), the true class as an integer from 0.

    Returns:
        shape (images,), float64, in nats; between 0 and -ln(1e-15) = 34.54.

    Source: https://www.kaggle.com/competitions/state-farm-distracted-driver-detection/overview/evaluation
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    probabilities = np.clip(probabilities, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return -np.log(probabilities[np.arange(len(probabilities)), np.asarray(labels)])


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over images of `log_loss_per_image`, in nats."""
    return float(log_loss_per_image(probabilities, labels).mean())


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of images, 0 to 1, whose most probable class is the true one."""
    return float((np.asarray(probabilities).argmax(axis=1) == np.asarray(labels)).mean())


def paired_difference(losses: np.ndarray, others: np.ndarray, drivers: np.ndarray) -> tuple[float, float]:
    """Mean of `losses` minus `others` over the images, and its standard error over drivers: infinite with one.

    Args:
        losses, others: shape (images,), in nats, of the same images.
        drivers: shape (images,), the driver of each image.

    Source: the cluster-robust variance of a mean, with the correction for few clusters (Cameron and Miller 2015).
    """
    difference = losses - others
    mean = float(difference.mean())
    numbers = np.unique(drivers, return_inverse=True)[1]
    deviations = np.bincount(numbers, difference - mean)
    if len(deviations) < 2:
        return mean, float("inf") if difference.any() else 0.0
    return mean, float(np.sqrt(len(deviations) / (len(deviations) - 1) * (deviations**2).sum()) / len(difference))


def floored(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of at least 1e-15, below which the metric sees no difference: their logarithms are finite."""
    return np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST_PROBABILITY)


def smoothed_prior(labels: np.ndarray, classes: int) -> np.ndarray:
    """The share of each class among labels, with one image added to each so that none is 0; shape (classes,)."""
    counts = np.bincount(labels, minlength=classes) + 1.0
    return counts / counts.sum()


def matched_logarithms(logarithms: np.ndarray, prior: np.ndarray, strength: float, sets: np.ndarray) -> np.ndarray:
    """Prior matching: log-probabilities with a bias for each class and set of images, such as those of a driver.

    Each driver shows every behaviour about as often as the drivers in training, so the mean prediction for a driver
    should be near training's mix. That corrects drivers whose images are taken for one class too often.

    Args:
        logarithms: log-probabilities, shape (images, classes), finite.
        prior: shape (classes,), positive, summing to 1.
        strength: what it is worth to come nearer to the prior, against changing the predictions, for very many images.
        sets: shape (images,): images of one value share a bias.
    """
    from scipy.special import log_softmax

    matched = logarithms.copy()
    for value in np.unique(sets):
        rows = sets == value
        if rows.sum() >= FEWEST_IMAGES:
            matched[rows] += prior_bias(logarithms[rows], prior, strength)
    return log_softmax(matched, axis=-1)


def prior_bias(logarithms: np.ndarray, prior: np.ndarray, strength: float) -> np.ndarray:
    """The bias of each class, shape (classes,), that brings the mean prediction nearer to `prior`.

    It minimises |bias|^2 / 2 - strength * sum of prior * log(mean prediction): a normal prior of the bias and a
    Dirichlet prior of the classes' shares. The strength is that for very many images; few have less. Doubtful images
    move; none moves by more than twice `LARGEST_BIAS`.
    """
    from scipy.optimize import minimize
    from scipy.special import softmax

    strength *= len(logarithms) / (len(logarithms) + HALF_STRENGTH)

    def objective(bias: np.ndarray) -> tuple[float, np.ndarray]:
        shifted = softmax(logarithms + bias, axis=1)
        mean = floored(shifted.mean(axis=0))
        weights = prior / mean
        by_bias = (shifted * (weights - (shifted @ weights)[:, None])).mean(axis=0)
        return bias @ bias / 2 - strength * float(prior @ np.log(mean)), bias - strength * by_bias

    bounds = [(-LARGEST_BIAS, LARGEST_BIAS)] * len(prior)
    return np.asarray(minimize(objective, np.zeros(len(prior)), jac=True, method="L-BFGS-B", bounds=bounds).x)


def clustered_logarithms(logarithms: np.ndarray, clouds: Sequence[Cloud]) -> np.ndarray:
    """Log-probabilities, moved towards a cluster in feature space for each class of each driver.

    One driver's images of one class are frames of one video, so they are near each other, whatever the network takes
    the whole video for. A cloud whose clusters the predictions contradict may be of two drivers: it is divided, and
    both parts are tried. Images in no cloud stay as they are, and those of small parts.

    Args:
        logarithms: log-probabilities, shape (images, classes), finite.
        clouds: of these images, as `clouds_of` finds them.
    """
    from scipy.special import log_softmax
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    clustered, waiting = log_softmax(logarithms.astype(np.float64), axis=1), list(clouds)
    while waiting:
        rows, points = waiting.pop()
        own = clustered[rows]
        found = _of_clusters(own, points)
        if ((np.exp(own) - found) * own).sum(axis=1).mean() <= MOST_SURPRISE:
            clustered[rows] = np.log(floored(found))
            continue
        right = points[:, 0] > 0
        if right.any() and not right.all():  # else all images are alike
            start = np.stack([points[side].mean(axis=0) for side in (right, ~right)])
            with threadpool_limits(1):  # the same bits each time
                sides = KMeans(2, init=start, n_init=1).fit_predict(points)
            parts = [np.flatnonzero(sides == side) for side in (0, 1)]
            if min(map(len, parts)) >= FEWEST_IMAGES:
                large = [part for part in parts if len(part) >= FEWEST_CLUSTERED]
                waiting += [(rows[part], points[part] - points[part].mean(axis=0)) for part in large]
    return clustered


def _of_clusters(logarithms: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Probabilities of the classes of one driver's images, by a cluster for each class and the log-probabilities.

    The clusters start where the predictions are, and are found by the EM algorithm, once for each of `SHRINKAGES`:
    where these differ, the mean of their probabilities is in doubt.

    Source: Peel and McLachlan 2000, Robust mixture modelling using the t distribution; balanced classes: Hu, Gripon and
    Pateux 2021, Leveraging the feature distribution in transfer-based few-shot learning.
    """
    from scipy.spatial.distance import cdist
    from scipy.special import softmax

    results = []
    for shrinkage in SHRINKAGES:
        found = logarithms
        for _ in range(CLUSTER_STEPS):
            weights = softmax(found, axis=1)
            means = weights.T @ points / (weights.sum(axis=0) + shrinkage)[:, None]
            squares = cdist(points, means, "sqeuclidean")
            found = logarithms - TAIL * np.log1p(squares / max(float((weights * squares).sum() / len(points)), 1e-12))
        results.append(softmax(SHARPNESS * found, axis=1))
    return np.asarray(np.mean(results, axis=0))
