"""The finished networks of a run: their settings, their mean prediction, their mean as an ONNX or LiteRT file."""

import itertools
import json
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.competition import CLASS_NAMES, CLASSES
from common.errors import UserError
from common.files import written_whole
from common.settings import ImageSize
from models.finetuning import runtime
from preprocessing.download import unpacked_bytes
from preprocessing.settings import REGIONS, WHOLE
from tools.finished import FinishedFold
from tools.pictures import Photograph

MOST_BYTES = 2 * 2**30  # of a network; the largest here, VGG19, has 80 MB
LARGEST_DIFFERENCE = 1e-4  # between probabilities; float32 sums in another order differ by some 1e-6
INPUT, OUTPUT = "images", "probabilities"
MOST_AT_ONCE = 16  # pictures; small, so that what was found appears soon
Item = TypeVar("Item")
Predict = Callable[[np.ndarray], np.ndarray]
See = Callable[[ImageSize, str], np.ndarray]  # size and crop -> a picture as a network wants it


class Networks:
    """Networks of finished fold runs, and how long they take.

    Args:
        fold_runs: each with a network.
        batch: pictures that they see at once; fewer are filled up, since another number would be compiled again.

    Attributes:
        load_seconds: what loading and compiling took.
        seconds: spent in reading pictures and in the networks so far.
        pictures: seen so far.

    Raises:
        UserError: as `load`.
    """

    def __init__(self, fold_runs: Sequence[FinishedFold], batch: int = MOST_AT_ONCE) -> None:
        started_at = time.monotonic()
        self.fold_runs = list(fold_runs)
        self.batch = min(batch, MOST_AT_ONCE)
        self.models = [load(fold_run) for fold_run in self.fold_runs]
        for fold_run, model in zip(self.fold_runs, self.models, strict=True):
            size = fold_run.image_size
            model.predict_on_batch(np.zeros((self.batch, size.height, size.width, 3), np.uint8))
        self.load_seconds = time.monotonic() - started_at
        self.seconds = 0.0
        self.pictures = 0

    def __str__(self) -> str:
        counts = Counter(fold_run.model for fold_run in self.fold_runs)
        parts = [f"{model} ({count} folds)" if count > 1 else model for model, count in counts.items()]
        return f"{len(self.fold_runs)} network{'s' * (len(self.fold_runs) > 1)}: {', '.join(parts)}"

    def predict(self, sees: Sequence[See]) -> np.ndarray:
        """The mean over models of the mean over folds, as in the blend with equal weights.

        Args:
            sees: for each of at most `batch` pictures, what gives it at a size and crop.

        Returns:
            shape (pictures, 10), float64, rows summing to 1.
        """
        started_at = time.monotonic()
        by_model: dict[str, list[np.ndarray]] = {fold_run.model: [] for fold_run in self.fold_runs}
        images: dict[tuple[ImageSize, str], np.ndarray] = {}
        for fold_run, model in zip(self.fold_runs, self.models, strict=True):
            key = fold_run.image_size, fold_run.crop
            if key not in images:
                images[key] = np.zeros((self.batch, key[0].height, key[0].width, 3), np.uint8)
                for place, see in enumerate(sees):
                    images[key][place] = see(*key)
            probabilities = model.predict_on_batch(images[key])
            by_model[fold_run.model].append(np.asarray(probabilities, np.float64)[: len(sees)])
        mean = np.mean([np.mean(folds, axis=0) for folds in by_model.values()], axis=0)
        self.seconds += time.monotonic() - started_at
        self.pictures += len(sees)
        return mean / mean.sum(axis=1, keepdims=True)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Parts of at most `size`, in order."""
    waiting = iter(items)
    while part := list(itertools.islice(waiting, size)):
        yield part


def load(fold_run: FinishedFold) -> Any:
    """The network of a fold run, images -> probabilities.

    Raises:
        UserError: the file is damaged, too large, or has code in it.
    """
    fold_run.folder.verified(fold_run.network.name)
    if zipfile.is_zipfile(fold_run.network) and unpacked_bytes(fold_run.network) > MOST_BYTES:
        raise UserError(
            f"{fold_run.network} would take more than {MOST_BYTES:,} bytes unpacked: no network of ours does."
        )
    keras = runtime.load_keras()
    try:
        return keras.saving.load_model(fold_run.network, compile=False, safe_mode=True)
    except Exception as error:  # zip, JSON and HDF5 readers each fail in their own way on damaged bytes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{fold_run.network} cannot be loaded ({reason}). Restore it, or train that again.") from error


def export(fold_runs: Sequence[FinishedFold], to: str, path: Path, photographs: Sequence[Photograph]) -> str:
    """Writes one file for the mean of networks of one image size, checked before it is there.

    Args:
        to: 'onnx' or 'litert'.
        path: ends in .onnx or .tflite.
        photographs: to check it on.

    Returns:
        What was written and how well it agrees, for the terminal.

    Raises:
        UserError: it predicts something else, or it cannot be converted or written.
    """
    size, crop = fold_runs[0].image_size, fold_runs[0].crop
    images = np.stack([photograph.seen(size, crop) for photograph in photographs])
    model = mean_network(fold_runs)
    expected = np.asarray(model.predict_on_batch(images))
    with written_whole(path) as temporary:
        with runtime.stderr_held_back():  # the converters talk much
            try:
                model.export(str(temporary), format=to, verbose=False)
                if to == "onnx":
                    _describe(temporary, fold_runs)
                predict = {"onnx": onnx_predictor, "litert": litert_predictor}[to](temporary)
                found = predict(images)
            except Exception as error:  # converters, checkers and runtimes each fail in their own way
                reason = " ".join(str(error).split())[:300]
                other = "litert" if to == "onnx" else "onnx"
                raise UserError(f"this network cannot be converted; try --to {other}. It said: {reason}") from error
        difference = float(np.abs(found - expected).max())
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"{path} was not written: it differs from the network by {difference:.2g} on {len(images)} photographs "
                f"(expected: at most {LARGEST_DIFFERENCE:g}). Try the other format of --to."
            )
        theirs, ours = _seconds(predict, images), _seconds(model.predict_on_batch, images)
        megabytes = temporary.stat().st_size / 1e6
    region = "the whole photograph" if crop == WHOLE else f"the part '{crop}' of it, in shares: {REGIONS[crop]}"
    return "\n".join(
        [
            f"{path}: {megabytes:.1f} MB, the mean of {', '.join(map(str, fold_runs))}",
            f"in   {INPUT}: uint8 RGB (batch, {size.height}, {size.width}, 3), 0 to 255, {region}, shrunk by area",
            f"out  probabilities: float32 (batch, {len(CLASSES)}), {CLASSES[0]} to {CLASSES[-1]}",
            f"checked on {len(images)} photographs: differs from Keras by at most {difference:.1g}; "
            f"{theirs:.4f} s each, Keras {ours:.4f} s",
        ]
    )


def mean_network(fold_runs: Sequence[FinishedFold]) -> Any:
    """One network, images -> the mean over models of the mean over folds, as `tools.predict` has it."""
    keras = runtime.load_keras()
    size = fold_runs[0].image_size
    images = keras.Input((size.height, size.width, 3), dtype="uint8", name=INPUT)
    by_model: dict[str, list[Any]] = {}
    for number, fold_run in enumerate(fold_runs):
        network = load(fold_run)
        network.name = f"network_{number}"  # they all have one name, and a network's parts need different ones
        by_model.setdefault(fold_run.model, []).append(network(images))
    means = [_mean(keras, outputs) for outputs in by_model.values()]
    return keras.Model(images, _mean(keras, means), name="distracted_driver")


def _mean(keras: Any, outputs: list[Any]) -> Any:
    return outputs[0] if len(outputs) == 1 else keras.layers.Average()(outputs)


def onnx_predictor(path: Path) -> Predict:
    """Predictions of an ONNX file by ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def litert_predictor(path: Path) -> Predict:
    """Predictions of a LiteRT file by its own interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()
    name = next(iter(runner.get_input_details()))
    return lambda images: np.array(next(iter(runner(**{name: images}).values())))


def _describe(path: Path, fold_runs: Sequence[FinishedFold]) -> None:
    """Names the batch and the output of an ONNX file, and writes into it what a reader must know."""
    import onnx

    model = onnx.load(str(path))
    output = model.graph.output[0]
    for node in model.graph.node:
        node.output[:] = [OUTPUT if name == output.name else name for name in node.output]
        node.input[:] = [OUTPUT if name == output.name else name for name in node.input]
    output.name = OUTPUT
    for value in (model.graph.input[0], output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    facts = {
        "classes": json.dumps(CLASS_NAMES),
        "networks": "; ".join(map(str, fold_runs)),
        "image_size": str(fold_runs[0].image_size),
        "crop": fold_runs[0].crop,
    }
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _seconds(predict: Predict, images: np.ndarray) -> float:
    """Of one image, in a batch of all."""
    started_at = time.perf_counter()
    predict(images)
    return (time.perf_counter() - started_at) / len(images)
