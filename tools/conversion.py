"""Networks as one ONNX or LiteRT file, which is kept only if it predicts what the networks predict."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.competition import CLASS_NAMES, CLASSES
from common.errors import UserError
from common.files import written_whole
from models.finetuning import runtime
from preprocessing.settings import REGIONS, WHOLE
from tools.finished import FinishedFold
from tools.networks import load
from tools.pictures import Photograph

LARGEST_DIFFERENCE = 1e-4  # between probabilities; float32 sums in another order differ by some 1e-6
INPUT, OUTPUT = "images", "probabilities"
Predict = Callable[[np.ndarray], np.ndarray]


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
    begun = time.perf_counter()
    predict(images)
    return (time.perf_counter() - begun) / len(images)
