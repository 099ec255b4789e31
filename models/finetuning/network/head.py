"""Linear classifiers on a frozen network's pooled features: the start of a head, and those of bottleneck models.

Each is one kernel and one bias on the features as they are, so that a network's head can hold it exactly. For
bottleneck models, regularisation and calibration are chosen on drivers that a fit has not seen.

Standardised features of n images in d > n dimensions span only n of them, so they are rotated there once: a penalty on
the length of the weights does not see a rotation, and each fit becomes as cheap as n images in n dimensions.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from common.competition import NUMBER_OF_CLASSES
from common.metric import log_loss

HEAD_ITERATIONS = 300
SMALLEST_DEVIATION = 0.1  # that a feature is divided by, relative to the mean deviation of all
CLASSIFIERS = ("logistic", "svm")
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

    With a thread a core, beside those of TensorFlow, they took four times as long. What they reach at that limit is
    measured on held-out drivers, or is a start good enough. Both are set for the whole process: who fits in several
    threads enters this around all of them.
    """
    import scipy.linalg  # noqa: F401  (libraries that are not loaded yet could not be limited)
    import sklearn.linear_model
    import sklearn.svm  # noqa: F401

    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@quietly()
def fit_logistic(
    features: np.ndarray, labels: np.ndarray, regularisation: float, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on standardised features, as a kernel and a bias on the features as they are.

    Args:
        features: shape (images, features), float.
        labels: shape (images,), integers below `classes`; every class occurs.
        regularisation: scikit-learn's C, smaller is stronger.

    Returns:
        kernel of shape (features, classes) and bias of shape (classes,), float32.
    """
    from sklearn.linear_model import LogisticRegression

    features = np.asarray(features, dtype=np.float32)
    mean, deviation = standardisation(features)
    classifier = LogisticRegression(C=regularisation, max_iter=HEAD_ITERATIONS)
    classifier.fit((features - mean) / deviation, labels)
    if len(classifier.classes_) != classes:
        raise ValueError(f"expected {classes} classes among the labels, found {len(classifier.classes_)}")
    kernel = classifier.coef_.T / deviation[:, None]
    bias = classifier.intercept_ - mean @ kernel
    return kernel.astype(np.float32), bias.astype(np.float32)


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature, shape (features,), float32; the deviation is bounded from below.

    ReLUs leave features that are zero on all but a few training images. Divided by their tiny deviation they get a
    huge kernel, and augmentation, which changes that, makes logits explode: with MobileNetV2 on a toy set the loss on
    augmented images was 4.9 with a bound of 0.001, and is 1.9 with 0.1.

    Args:
        features: shape (images, features), float32.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    return mean, np.maximum(deviation, SMALLEST_DEVIATION * max(float(deviation.mean()), 1e-30))


def set_head(head: Any, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Puts a fitted kernel and bias into a head that is one layer deep."""
    head.get_layer("logits").set_weights([kernel, bias])


@dataclasses.dataclass(frozen=True)
class Linear:
    """features @ kernel + bias.

    Attributes:
        kernel: shape (features, 10), float32, on the features as they are.
        bias: shape (10,), float32.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Args: features, shape (images, features). Returns: logits or decision values, shape (images, 10)."""
        return np.asarray(features, np.float32) @ self.kernel + self.bias

    def then(self, after: "Linear") -> "Linear":
        """Both in one: `after` applied to what this gives."""
        return Linear(self.kernel @ after.kernel, self.bias @ after.kernel + after.bias)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A fitted classifier and how its regularisation was chosen.

    Attributes:
        linear: features -> logits.
        regularisation: the C that it was fitted with.
        tried: a row for each C: regularisation, inner_log_loss, inner_accuracy; empty where C was given.
    """

    linear: Linear
    regularisation: float
    tried: tuple[dict[str, float], ...]


def search(
    features: np.ndarray,
    labels: np.ndarray,
    classifier: str,
    grid: Sequence[float],
    calibrate: bool,
    inner: Sequence[np.ndarray],
    workers: int = 1,
) -> list[Choice]:
    """Fits a classifier for each of several folds; what two folds share is fitted once.

    With folds 0 to 4, the choice for fold 0 is made on folds 1 to 4, each measured by a fit on the other three. The fit
    on {2, 3, 4} measures fold 1 for fold 0, and fold 0 for fold 1: ten fits in all, not twenty.

    Each fit keeps to one BLAS thread: more gain nothing. Support vector machines are fitted one by one: their library
    draws from one generator for the whole process, whose order would decide the result.

    Args:
        features: shape (images, features), float32.
        labels: shape (images,), 0 to 9.
        classifier: one of `CLASSIFIERS`.
        grid: values of C, ascending; one value is taken as it is.
        calibrate: pass the decision values through a multinomial logistic regression on them, fitted on drivers that
            the decision values are not of. A support vector machine needs it to give probabilities.
        inner: for each fold, shape (images,): the inner fold of each training image, from 0; -1 for other images.
        workers: fits at a time.
    """

    def decisions(training: np.ndarray) -> np.ndarray:
        fits = fit_path(features[training], labels[training], classifier, grid, SEARCH_TOLERANCE)
        return np.stack([fit(features) for fit in fits])

    def choose(own: np.ndarray) -> Choice:
        training, tried, best = own >= 0, list[dict[str, float]](), 0
        if masks:
            numbers, found = own[training], np.zeros((len(grid), len(own), NUMBER_OF_CLASSES), np.float32)
            for number, mask in enumerate(_inner_training(own)):
                found[:, own == number] = shared[mask.tobytes()][:, own == number]
            held_out = found[:, training]
            for regularisation, values in zip(grid, held_out, strict=True):
                logits = _cross_calibrated(values, labels[training], numbers) if calibrate else values
                row = {"regularisation": regularisation}
                row["inner_log_loss"] = log_loss(softmax(logits), labels[training])
                row["inner_accuracy"] = float((logits.argmax(axis=1) == labels[training]).mean())
                tried.append(row)
            best = int(np.argmin([row["inner_log_loss"] for row in tried]))
        path = grid[best : best + 1]
        (linear,) = fit_path(features[training], labels[training], classifier, path, FINAL_TOLERANCE)
        if calibrate:
            linear = linear.then(calibration(held_out[best], labels[training]))
        return Choice(linear, grid[best], tuple(tried) if len(grid) > 1 else ())

    every = [mask for own in inner for mask in _inner_training(own)] if calibrate or len(grid) > 1 else []
    masks = {mask.tobytes(): mask for mask in every}
    with quietly(), ThreadPoolExecutor(1 if classifier == "svm" else workers) as pool:
        shared = dict(zip(masks, pool.map(decisions, masks.values()), strict=True))
        return list(pool.map(choose, inner))


def _inner_training(inner: np.ndarray) -> list[np.ndarray]:
    """For each inner fold, shape (images,): what is trained on to measure it."""
    return [(inner >= 0) & (inner != number) for number in range(inner.max() + 1)]


@quietly()
def fit_path(
    features: np.ndarray, labels: np.ndarray, classifier: str, grid: Sequence[float], tolerance: float
) -> list[Linear]:
    """scikit-learn's LogisticRegression or LinearSVC for each C, on standardised features.

    Args:
        features: shape (images, features), float32.
        labels: shape (images,), 0 to 9; every class occurs.
        grid: values of C, ascending, so that each logistic fit starts where the one before ended.
        tolerance: of the logistic regression.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    if len(np.unique(labels)) != NUMBER_OF_CLASSES:
        raise ValueError(f"expected {NUMBER_OF_CLASSES} classes among the labels, found {len(np.unique(labels))}")
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
        kernel = (weights if back is None else standardised.T @ _solved(back, weights)) / deviation[:, None]
        bias = model.intercept_ - mean.astype(np.float64) @ kernel.astype(np.float64)
        found.append(Linear(kernel.astype(np.float32), bias.astype(np.float32)))
    return found


@quietly()
def calibration(values: np.ndarray, labels: np.ndarray) -> Linear:
    """Turns decision values into logits: a multinomial logistic regression on them, drawn to a temperature alone.

    The kernel is t I + D. The penalty is on D and on the bias, not on t, so that few drivers give a temperature and
    many also what each class is mistaken for. (A penalty on all of it leaves every probability too modest.)

    Args:
        values: shape (images, 10), of classifiers that did not see these images' drivers.
        labels: shape (images,), 0 to 9.
    """
    from scipy.optimize import minimize

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
    """Probabilities, float64."""
    from scipy.special import softmax as of_rows

    return of_rows(np.asarray(logits, np.float64), axis=1)


def _cross_calibrated(values: np.ndarray, labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Logits of each inner fold, calibrated on the others."""
    logits = np.empty_like(values)
    for number in np.unique(numbers):
        rows = numbers == number
        logits[rows] = calibration(values[~rows], labels[~rows])(values[rows])
    return logits


def _rotated(standardised: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The images in the space that they span, and the Cholesky factor that leads back; as they are where n >= d.

    X X' = L L' with L of shape (n, n), so X = L Q with orthonormal rows of Q: the images are the rows of L, and weights
    u there are X' L'^-1 u here.
    """
    from scipy.linalg import LinAlgError, cholesky

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


def _solved(factor: np.ndarray, weights: np.ndarray) -> np.ndarray:
    from scipy.linalg import solve_triangular

    solution = solve_triangular(factor, weights, lower=True, trans="T", check_finite=False)
    return np.asarray(solution, np.float32)
