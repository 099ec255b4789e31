"""Which neighbours and segments help: chosen on predictions whose blend has not seen these drivers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.metric import log_loss, log_loss_per_image
from ensemble.calibration import Calibration, fit_calibration
from ensemble.clipping import choose_clip, clip
from ensemble.neighbours import Graph, Smoothing, typical_distance
from ensemble.paired import not_clearly_worse
from ensemble.pooling import floored
from ensemble.segments import Segmentation

REACHES = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the typical distance
COUNTS = (3, 5, 10, 20)
STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
ROUNDS = (1, 2, 3)
SEGMENT_REACHES = (0.5, 1.0, 1.5)  # times the typical distance
CONFIDENCES = (0.3, 0.5, 0.8)
START = Smoothing("", 10, 0.0, 2.0, 1)
MOST_PASSES = 2  # over the settings, one after the other


@dataclass(frozen=True)
class Transduction:
    """What follows a blend where images of the same set are heard: neighbours, segments, temperature, clip.

    Attributes:
        smoothing: None where neighbours did not help.
        segmentation: None where segments did not help.
        scale: of the log-probabilities after the segments.
        epsilon: the clip.
    """

    smoothing: Smoothing | None
    segmentation: Segmentation | None
    scale: float
    epsilon: float

    def predict(self, probabilities: np.ndarray, graphs: Mapping[str, Graph]) -> np.ndarray:
        """From the blend's predictions to final ones, shape (images, classes); `graphs` by feature, same images."""
        if self.smoothing is None:
            return probabilities
        graph = graphs[self.smoothing.feature]
        probabilities = self.smoothing.predict(probabilities, graph)
        if self.segmentation:
            probabilities = _tempered(self.segmentation.predict(probabilities, graph), self.scale)
        return clip(probabilities, self.epsilon)

    def as_json(self) -> dict[str, Any]:
        """Everything chosen, as JSON values."""
        return dataclasses.asdict(self)


NOTHING = Transduction(None, None, 1.0, 0.0)


def fit_transduction(
    probabilities: np.ndarray, labels: np.ndarray, drivers: np.ndarray, graphs: Mapping[str, Graph]
) -> Transduction:
    """Chooses feature, number, reach, strength and rounds, then segments, each only where it clearly helps.

    Args:
        probabilities: shape (images, classes), of a blend that was not fitted on these drivers.
        labels, drivers: shape (images,).
        graphs: of these images, by feature; none gives `NOTHING`.
    """
    if not graphs:
        return NOTHING
    smoothing, smooth = _best_smoothing(probabilities, labels, graphs)
    plain = log_loss_per_image(probabilities, labels)
    if not_clearly_worse(plain, log_loss_per_image(smooth, labels), drivers):
        return NOTHING
    graph = graphs[smoothing.feature]
    best: tuple[float, Segmentation | None, float, np.ndarray] = (log_loss(smooth, labels), None, 1.0, smooth)
    for reach in SEGMENT_REACHES:
        for confidence in CONFIDENCES:
            segmentation = Segmentation(reach * typical_distance(graph), confidence)
            shared = segmentation.predict(smooth, graph)
            scale = _scale(shared, labels)
            shared = _tempered(shared, scale)
            if log_loss(shared, labels) < best[0]:
                best = log_loss(shared, labels), segmentation, scale, shared
    _, segments, scale, final = best
    if segments and not_clearly_worse(log_loss_per_image(smooth, labels), log_loss_per_image(final, labels), drivers):
        segments, scale, final = None, 1.0, smooth
    return Transduction(smoothing, segments, scale, choose_clip(final, labels))


def _best_smoothing(
    probabilities: np.ndarray, labels: np.ndarray, graphs: Mapping[str, Graph]
) -> tuple[Smoothing, np.ndarray]:
    """The feature and reach first, then one setting after the other until none gains."""
    tried: dict[Smoothing, tuple[float, Smoothing, np.ndarray]] = {}

    def trial(smoothing: Smoothing) -> tuple[float, Smoothing, np.ndarray]:
        if smoothing not in tried:
            logarithms = smoothing.smoothed(probabilities, graphs[smoothing.feature])
            scale = fit_calibration(logarithms, labels, with_bias=False).scale
            final = np.exp(_scaled(logarithms, scale))
            tried[smoothing] = log_loss(final, labels), dataclasses.replace(smoothing, scale=scale), final
        return tried[smoothing]

    def better(first: Smoothing, second: Smoothing) -> Smoothing:
        return second if trial(second)[0] < trial(first)[0] - 1e-9 else first

    units = {name: typical_distance(graph) for name, graph in graphs.items()}
    starts = [
        dataclasses.replace(START, feature=name, reach=reach * unit)
        for name, unit in units.items()
        for reach in REACHES
    ]
    best = starts[0]
    for other in starts[1:]:
        best = better(best, other)
    for _ in range(MOST_PASSES):
        before = best
        unit = units[best.feature]
        for values in (
            [{"k": k} for k in COUNTS],
            [{"strength": strength} for strength in STRENGTHS],
            [{"reach": reach * unit} for reach in REACHES],
            [{"rounds": rounds} for rounds in ROUNDS],
        ):
            for value in values:
                best = better(best, dataclasses.replace(best, **value))
        if best == before:
            break
    return trial(best)[1:]


def _scaled(logarithms: np.ndarray, scale: float) -> np.ndarray:
    return Calibration(scale).logarithms(logarithms)


def _scale(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return fit_calibration(np.log(floored(probabilities)), labels, with_bias=False).scale


def _tempered(probabilities: np.ndarray, scale: float) -> np.ndarray:
    return Calibration(scale).predict(probabilities)
