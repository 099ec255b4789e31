"""Linear classifiers on a frozen network's pooled features: the start of a head, and those of bottleneck models.

Each is one kernel and one bias on the features as they are, so that a network's head can hold it exactly. Standardised
features of n images in d > n dimensions span only n of them, so they are rotated there once: a penalty on the length of
the weights does not see a rotation, and each fit becomes as cheap as n images in n dimensions.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import softmax as softmax_over
from threadpoolctl import threadpool_limits

from common.competition import NUMBER_OF_CLASSES
from common.metric import log_loss

HEAD_ITERATIONS = 300
SMALLEST_DEVIATION = 0.1  # that a feature is divided by, relative to the mean deviation of all
GRIDS = {"logistic": (1e-3, 1e-2, 1e-1), "svm": (1e-5, 1e-4, 1e-3)}  # of scikit-learn's C, strongest first
SEARCH_TOLERANCE, FINAL_TOLERANCE = 3e-5, 1e-5  # of the logistic loss's gradient: the third and fifth digit of log loss
SVM_TOLERANCE = 0.1  # of the dual, which by then is within 1 % of the decision values of a tight fit
SVM_INTERCEPT = 30.0  # LinearSVC penalises its intercept; the larger this, the less
LARGEST_ITERATIONS = 3000
CALIBRATION_REGULARISATION = 0.02  # C of the regression on the decision values, scaled to deviation 1
JITTER = 1e-5  # of the mean diagonal: centred features are singular, and their Gram matrix is one in float32


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Within, fits keep to one BLAS thread and say nothing of their iteration limit.

    With a thread a core, beside those of TensorFlow, they took four times as long. Both are set for the whole process:
    who fits in several threads enters this around all of them.
    """
    import sklearn.linear_model  # libraries that are not loaded yet could not be limited
    import sklearn.svm  # noqa: F401

    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@quietly()
def fit_logistic(features: np.ndarray, labels: np.ndarray, regularisation: float) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on standardised features of shape (images, features), float32.

    Returns a kernel (features, classes) and a bias (classes,), float32, on the features as they are.
    """
    from sklearn.linear_model import LogisticRegression

    mean, deviation = standardisation(features)
    classifier = LogisticRegression(C=regularisation, max_iter=HEAD_ITERATIONS)
    classifier.fit((features - mean) / deviation, labels)
    kernel = classifier.coef_.T / deviation[:, None]
    bias = classifier.intercept_ - mean @ kernel
    return kernel.astype(np.float32), bias.astype(np.float32)


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature, shape (features,), float32; the deviation is bounded from below.

    ReLUs leave features that are zero on all but a few training images. Divided by their tiny deviation they get a
    huge kernel, and augmentation, which changes that, makes logits explode.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    return mean, np.maximum(deviation, SMALLEST_DEVIATION * max(float(deviation.mean()), 1e-30))


@dataclasses.dataclass(frozen=True)
class Linear:
    """features @ kernel + bias, float32: kernel (features, 10), on the features as they are, and bias (10,)."""

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Logits or decision values, shape (images, 10)."""
        return np.asarray(features, np.float32) @ self.kernel + self.bias

    def then(self, after: "Linear") -> "Linear":
        """Both in one: `after` applied to what this gives."""
        return Linear(self.kernel @ after.kernel, self.bias @ after.kernel + after.bias)


def search(
    features: np.ndarray,
    labels: np.ndarray,
    classifier: str,
    grid: Sequence[float],
    calibrate: bool,
    inner: Sequence[np.ndarray],
    workers: int = 1,
) -> list[tuple[Linear, float]]:
    """Fits a classifier for each of several folds, and returns it with its C; what two folds share is fitted once.

    With folds 0 to 4, the choice for fold 0 is made on folds 1 to 4, each measured by a fit on the other three. The fit
    on {2, 3, 4} measures fold 1 for fold 0, and fold 0 for fold 1: ten fits in all, not twenty. Support vector machines
    are fitted one by one: their library draws from one generator for the whole process, whose order would decide.

    Args:
        grid: values of C, ascending; one value is taken as it is.
        calibrate: whether `calibration` follows, fitted on drivers that the decision values are not of.
        inner: for each fold, shape (images,): the inner fold of each training image, from 0; -1 for other images.
    """

    def decisions(training: np.ndarray) -> np.ndarray:
        fits = fit_path(features[training], labels[training], classifier, grid, SEARCH_TOLERANCE)
        return np.stack([fit(features) for fit in fits])

    def choose(own: np.ndarray) -> tuple[Linear, float]:
        training, best = own >= 0, 0
        if masks:
            numbers, found = own[training], np.zeros((len(grid), len(own), NUMBER_OF_CLASSES), np.float32)
            for number, mask in enumerate(_inner_training(own)):
                found[:, own == number] = shared[mask.tobytes()][:, own == number]
            held_out = found[:, training]
            logits = [_cross_calibrated(x, labels[training], numbers) if calibrate else x for x in held_out]
            best = int(np.argmin([log_loss(softmax(x), labels[training]) for x in logits]))
        path = grid[best : best + 1]
        (linear,) = fit_path(features[training], labels[training], classifier, path, FINAL_TOLERANCE)
        if calibrate:
            linear = linear.then(calibration(held_out[best], labels[training]))
        return linear, grid[best]

    every = [mask for own in inner for mask in _inner_training(own)] if calibrate or len(grid) > 1 else []
    masks = {mask.tobytes(): mask for mask in every}
    with quietly(), ThreadPoolExecutor(1 if classifier == "svm" else workers) as pool:
        shared = dict(zip(masks, pool.map(decisions, masks.values()), strict=True))
        return list(pool.map(choose, inner))


def _inner_training(inner: np.ndarray) -> list[np.ndarray]:
    """What is trained on to measure each inner fold, shape (images,)."""
    return [(inner >= 0) & (inner != number) for number in range(inner.max() + 1)]


@quietly()
def fit_path(
    features: np.ndarray, labels: np.ndarray, classifier: str, grid: Sequence[float], tolerance: float
) -> list[Linear]:
    """scikit-learn's LogisticRegression or LinearSVC for each C, ascending, on standardised features.

    Each logistic fit starts where the one before ended; `tolerance` is its own.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    mean, deviation = standardisation(features)
    standardised = (features - mean) / deviation
    rotated, back = _rotated(standardised)
    model = LogisticRegression(warm_start=True, tol=tolerance, max_iter=LARGEST_ITERATIONS)
    found = []
    for regularisation in grid:
        if classifier == "svm":
            model = LinearSVC(
                C=regularisation, tol=SVM_TOLERANCE, dual=True, intercept_scaling=SVM_INTERCEPT, random_state=0
            )
        model.C = regularisation
        model.fit(rotated, labels)
        weights = model.coef_.T.astype(np.float32)
        kernel = (weights if back is None else standardised.T @ _rotated_back(back, weights)) / deviation[:, None]
        bias = model.intercept_ - mean.astype(np.float64) @ kernel.astype(np.float64)
        found.append(Linear(kernel.astype(np.float32), bias.astype(np.float32)))
    return found


@quietly()
def calibration(values: np.ndarray, labels: np.ndarray) -> Linear:
    """Turns decision values into logits: a multinomial logistic regression on them, drawn to a temperature alone.

    The kernel is t I + D. The penalty is on D and on the bias, not on t, so that few drivers give a temperature and
    many also what each class is mistaken for. `values` are of classifiers that did not see these images' drivers.
    """
    mean = values.mean(axis=0)
    scale = max(float((values - mean).std()), 1e-12)
    scaled = ((values - mean) / scale).astype(np.float64)
    targets = np.eye(NUMBER_OF_CLASSES)[labels]

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        temperature, rest = parameters[0], parameters[1:].reshape(-1, NUMBER_OF_CLASSES)
        predicted = softmax(temperature * scaled + scaled @ rest[:-1] + rest[-1])
        residual = predicted - targets
        slope = np.concatenate([scaled.T @ residual, residual.sum(axis=0, keepdims=True)])
        slope += rest / CALIBRATION_REGULARISATION
        loss = log_loss(predicted, labels) * len(labels) + float((rest**2).sum()) / (2 * CALIBRATION_REGULARISATION)
        return loss, np.concatenate([[float((residual * scaled).sum())], slope.ravel()])

    start = np.concatenate([[1.0], np.zeros(NUMBER_OF_CLASSES * (NUMBER_OF_CLASSES + 1))])
    found = minimize(objective, start, jac=True, method="L-BFGS-B").x
    rest = found[1:].reshape(-1, NUMBER_OF_CLASSES)
    kernel = (found[0] * np.eye(NUMBER_OF_CLASSES) + rest[:-1]) / scale
    bias = rest[-1] - mean @ kernel
    return Linear(kernel.astype(np.float32), bias.astype(np.float32))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of each row, float64."""
    return softmax_over(np.asarray(logits, np.float64), axis=1)


def _cross_calibrated(values: np.ndarray, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Logits of each inner fold, calibrated on the others."""
    logits = np.empty_like(values)
    for number in np.unique(numbers):
        rows = numbers == number
        logits[rows] = calibration(values[~rows], labels[~rows])(values[rows])
    return logits


def _rotated(standardised: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The images in the space that they span, and the Cholesky factor that leads back; as they are where n >= d.

    X X' = L L', so X = L Q with orthonormal rows of Q: images are the rows of L, and weights u there are X' L'^-1 u.
    """
    count, size = standardised.shape
    if count >= size:
        return standardised, None
    gram = (standardised @ standardised.T).astype(np.float64)
    diagonal, jitter = np.diag_indices(count), max(JITTER * float(np.trace(gram)) / count, 1e-12)
    while True:
        gram[diagonal] += jitter
        try:
            factor = cholesky(gram, lower=True, check_finite=False)
            return factor.astype(np.float32), factor
        except LinAlgError:  # images that are there twice, say
            jitter *= 10


def _rotated_back(factor: np.ndarray, weights: np.ndarray) -> np.ndarray:
    solution = solve_triangular(factor, weights, lower=True, trans="T", check_finite=False)
    return np.asarray(solution, np.float32)
