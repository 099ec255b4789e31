"""A head that is right before the network moves: logistic regression on the frozen network's pooled features."""

import contextlib
import warnings
from collections.abc import Iterator

import keras
import numpy as np
from threadpoolctl import threadpool_limits

LARGEST_ITERATIONS = 300
SMALLEST_DEVIATION = 0.1  # that a feature is divided by, relative to the mean deviation of all


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Within, fits keep to one BLAS thread and say nothing of their iteration limit.

    With a thread a core, beside those of TensorFlow, they took four times as long. What they reach at that limit is
    judged on held-out drivers, or is a start good enough. Both are set for the whole process: who fits in several
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
    classifier = LogisticRegression(C=regularisation, max_iter=LARGEST_ITERATIONS)
    classifier.fit((features - mean) / deviation, labels)
    if len(classifier.classes_) != classes:
        raise ValueError(f"expected {classes} classes among the labels, found {len(classifier.classes_)}")
    kernel = classifier.coef_.T / deviation[:, None]
    bias = classifier.intercept_ - mean @ kernel
    return kernel.astype(np.float32), bias.astype(np.float32)


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature, shape (features,), float32; the deviation is bounded from below.

    ReLUs leave features that are silent on all but a few training images. Divided by their tiny deviation they get a
    huge kernel, and augmentation, which wakes them, makes logits explode: with MobileNetV2 on a toy set the loss on
    augmented images was 4.9 with a bound of 0.001, and is 1.9 with 0.1.

    Args:
        features: shape (images, features), float32.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    return mean, np.maximum(deviation, SMALLEST_DEVIATION * max(float(deviation.mean()), 1e-30))


def set_head(head: keras.Model, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Puts a fitted kernel and bias into a head that is one layer deep."""
    head.get_layer("logits").set_weights([kernel, bias])
