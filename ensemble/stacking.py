"""Blends with many parameters, held back by a penalty whose strength is chosen on drivers left out.

Both start from weights that all classes share, and pay for leaving them: per-class weights on the simplex (accelerated
projected gradient), and stacking, a multinomial regression on the log-probabilities of all members (L-BFGS). Both
problems are convex.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import log_softmax

PENALTIES = (100.0, 10.0, 1.0)  # nats an image for parameters one off; the strongest first
MOST_SPLITS = 3  # of the drivers, to choose the penalty


def choose_penalty(
    fit: Callable[[np.ndarray, float], Callable[[np.ndarray], np.ndarray]],
    labels: np.ndarray,
    groups: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
) -> float:
    """The penalty with the least log loss on groups that were left out; the strongest where there is one group.

    Args:
        fit: from the rows to fit on and a penalty to a function from rows to log-probabilities of these rows.
        labels, groups: shape (images,).
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    splits = min(MOST_SPLITS, int(numbers.max()) + 1)
    if splits < 2:
        return penalties[0]
    losses = np.zeros(len(penalties))
    for split in range(splits):
        held_out = np.flatnonzero(numbers % splits == split)
        rest = np.flatnonzero(numbers % splits != split)
        for place, penalty in enumerate(penalties):
            logarithms = fit(rest, penalty)(held_out)
            losses[place] -= logarithms[np.arange(len(held_out)), labels[held_out]].sum()
    return penalties[int(np.argmin(losses))]


def fit_per_class(logarithms: np.ndarray, labels: np.ndarray, shared: np.ndarray, penalty: float) -> np.ndarray:
    """Weights of shape (members, classes), each column on the simplex, near `shared` by the penalty.

    Args:
        logarithms: log-probabilities, shape (members, images, classes).
        labels: shape (images,), integers from 0.
        shared: shape (members,), on the simplex.
        penalty: of the squared distance from `shared`, in nats an image.

    Source: Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm (2009), with restarts.
    """
    images, classes = logarithms.shape[1:]
    true = np.zeros((images, classes))
    true[np.arange(images), labels] = 1

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = log_softmax((logarithms * weights[:, None, :]).sum(axis=0), axis=-1)
        away = weights - shared[:, None]
        loss = -float((scores * true).sum()) / images + penalty / 2 * float((away**2).sum())
        gradient = np.einsum("mic,ic->mc", logarithms, np.exp(scores) - true) / images
        return loss, gradient + penalty * away

    weights = np.repeat(shared[:, None], classes, axis=1)
    ahead, momentum, step = weights, 1.0, 1.0
    value = objective(weights)[0]
    for _ in range(40):
        loss, gradient = objective(ahead)
        while True:
            following = simplex_columns(ahead - step * gradient)
            moved = following - ahead
            found = objective(following)[0]
            if found <= loss + float((gradient * moved).sum()) + float((moved**2).sum()) / (2 * step) + 1e-12:
                break
            step /= 2
        if found > value:  # overshot: drop the momentum
            if momentum == 1.0:
                break
            ahead, momentum = weights, 1.0
            continue
        following_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = following + (momentum - 1) / following_momentum * (following - weights)
        gained, weights, value, momentum = value - found, following, found, following_momentum
        if gained < 1e-6:
            break
        step *= 1.3
    return weights


def simplex_columns(values: np.ndarray) -> np.ndarray:
    """The nearest point on the simplex to each column of an array of shape (members, columns).

    Source: Duchi et al., Efficient projections onto the l1-ball (2008).
    """
    descending = -np.sort(-values, axis=0)
    ranks = np.arange(1, len(values) + 1)[:, None]
    excess = (descending.cumsum(axis=0) - 1) / ranks
    last = (descending > excess).sum(axis=0) - 1
    projected = np.maximum(values - excess[last, np.arange(values.shape[1])], 0)
    return projected / projected.sum(axis=0)


def fit_stacking(
    logarithms: np.ndarray, labels: np.ndarray, shared: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial regression on the members' log-probabilities, near their pool with `shared` weights.

    Args:
        logarithms: log-probabilities, shape (members, images, classes).
        labels: shape (images,), integers from 0.
        shared: shape (members,), on the simplex.
        penalty: of the squared distance from that pool, in nats an image.

    Returns:
        kernel of shape (members, classes, classes) and bias of shape (classes,), for `pooling.stacked_pool`.

    Source: Wolpert, Stacked generalization (1992); the penalty as in ODIR, Kull et al., Beyond temperature scaling
        (2019).
    """
    from scipy.optimize import minimize

    members, images, classes = logarithms.shape
    inputs = np.ascontiguousarray(logarithms.transpose(0, 2, 1)).reshape(members * classes, images)
    true = np.zeros((classes, images))  # classes first: sums over them are several times faster
    true[labels, np.arange(images)] = 1
    start = np.concatenate([weight * np.eye(classes) for weight in shared])
    size = start.size

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = parameters[:size].reshape(start.shape), parameters[size:]
        scores = kernel.T @ inputs + bias[:, None]
        scores -= scores.max(axis=0)
        exponentials = np.exp(scores)
        sums = exponentials.sum(axis=0)
        away = kernel - start
        loss = float(np.log(sums).mean()) - float(scores[labels, np.arange(images)].mean())
        loss += penalty / 2 * (float((away**2).sum()) + float(bias @ bias))
        error = (exponentials / sums - true) / images
        return loss, np.concatenate([(inputs @ error.T + penalty * away).ravel(), error.sum(axis=1) + penalty * bias])

    first = np.concatenate([start.ravel(), np.zeros(classes)])
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options={"ftol": 1e-8, "maxiter": 40})
    best = found.x if np.isfinite(found.x).all() and found.fun <= objective(first)[0] else first
    return best[:size].reshape(members, classes, classes), best[size:]
