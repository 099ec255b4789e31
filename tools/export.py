"""Exports networks of a run as one file that needs neither Keras nor this code, preprocessing included.

    python -m tools.export --run full --model inception_v3 --fold 0 --to onnx
    python -m tools.export --run full --model inception_v3 --to litert --out phone.tflite

Several networks of one image size become one file that gives their mean. It is written only if it predicts what Keras
predicts, on real photographs: those of --images, else of the run's test set. Needs requirements/export.txt.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.competition import CLASS_NAMES, CLASSES, TEST_FOLDER
from common.errors import UserError, run_command
from common.files import written_whole
from common.run_folder import FoldFolder, RunFolder
from common.settings import CommandLine
from models.finetuning import runtime
from preprocessing.settings import REGIONS, WHOLE
from tools.predict import add_choice, chosen, load, seen_by

if TYPE_CHECKING:
    import numpy as np

    from tools.pictures import Photograph

    Predict = Callable[[np.ndarray], np.ndarray]

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite"}
NEEDED = {"onnx": ("tf2onnx", "onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
CHECKED = 16  # photographs
LARGEST_DIFFERENCE = 1e-4  # between probabilities; float32 sums in another order differ by some 1e-6
INPUT, OUTPUT = "images", "probabilities"


def main() -> None:
    parser = CommandLine(prog="python -m tools.export", description=__doc__)
    add_choice(parser)
    parser.add_argument("--to", required=True, choices=tuple(SUFFIXES), help="the format; litert was TensorFlow Lite")
    parser.add_argument("--out", type=Path, metavar="FILE", help="[runs/NAME/NAME.onnx or .tflite]")
    parser.add_argument("--images", type=Path, nargs="+", metavar="PATH", help="photographs to check on [the test set]")
    arguments = parser.parse_args()
    suffix, folds = SUFFIXES[arguments.to], chosen(arguments)
    run = RunFolder.of(arguments.run, arguments.runs)
    out = arguments.out or run.path / ("-".join([run.name, *arguments.model, *arguments.fold]) + suffix)
    if out.suffix != suffix:
        raise UserError(f"--out {out}: expected a name that ends in {suffix} for --to {arguments.to}.")
    kinds = {fold.model: seen_by(fold) for fold in folds}
    if len(set(kinds.values())) > 1:
        listed = "; ".join(f"{model}: {size}, {crop}" for model, (size, crop) in kinds.items())
        raise UserError(f"these networks see different images ({listed}), so they cannot be one. Choose with --model.")
    missing = [name.replace("_", "-") for name in NEEDED[arguments.to] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--to {arguments.to} needs {', '.join(missing)}, which is not installed: "
            ".venv/bin/python -m pip install -r requirements/export.txt"
        )

    from preprocessing import dataset
    from tools.pictures import find
    from tools.report import Request

    images = arguments.images
    if not images and (data := Request(run).data_folder or dataset.locate(None)):
        images = [data / TEST_FOLDER]
    if not images:
        raise UserError("there is no test set to check the file on. Name photographs: --images FOLDER")
    photographs = find(images, videos=False).readable(CHECKED)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # what the converters start from; the networks are of any backend
    print(export(folds, arguments.to, out, photographs))


def export(folds: Sequence[FoldFolder], to: str, path: Path, photographs: Sequence[Photograph]) -> str:
    """Writes a file for the mean of networks of one image size, if it predicts the same; returns what is said of it."""
    import numpy as np

    size, crop = seen_by(folds[0])
    images = np.stack([photograph.seen(size, crop) for photograph in photographs])
    model = mean_network(folds)
    expected = np.asarray(model.predict_on_batch(images))
    with written_whole(path) as temporary:
        with runtime.stderr_held_back():  # the converters talk much
            try:
                model.export(str(temporary), format=to, verbose=False)
                if to == "onnx":
                    _describe(temporary, folds)
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
        megabytes = temporary.stat().st_size / 1e6
    region = "the whole photograph" if crop == WHOLE else f"the part '{crop}' of it, in shares: {REGIONS[crop]}"
    return (
        f"{path}: {megabytes:.1f} MB, the mean of {', '.join(map(str, folds))}\n"
        f"in   {INPUT}: uint8 RGB (batch, {size.height}, {size.width}, 3), 0 to 255, {region}, shrunk by area\n"
        f"out  {OUTPUT}: float32 (batch, {len(CLASSES)}), {CLASSES[0]} to {CLASSES[-1]}\n"
        f"checked on {len(images)} photographs: differs from Keras by at most {difference:.1g}"
    )


def mean_network(folds: Sequence[FoldFolder]) -> Any:
    """One network, images -> the mean over models of the mean over folds, as `tools.predict` has it."""
    keras = runtime.load_keras()
    size, _ = seen_by(folds[0])
    images = keras.Input((size.height, size.width, 3), dtype="uint8", name=INPUT)
    by_model: dict[str, list[Any]] = {}
    for number, fold in enumerate(folds):
        network = load(fold)
        network.name = f"network_{number}"  # they all have one name, and a network's parts need different ones
        by_model.setdefault(fold.model, []).append(network(images))
    means = [keras.ops.mean(keras.ops.stack(outputs), axis=0) for outputs in by_model.values()]
    return keras.Model(images, keras.ops.mean(keras.ops.stack(means), axis=0), name="distracted_driver")


def onnx_predictor(path: Path) -> Predict:
    """Predictions of an ONNX file by ONNX Runtime, on the CPU."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def litert_predictor(path: Path) -> Predict:
    """Predictions of a LiteRT file by its own interpreter."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner()
    name = next(iter(runner.get_input_details()))
    return lambda images: np.array(next(iter(runner(**{name: images}).values())))


def _describe(path: Path, folds: Sequence[FoldFolder]) -> None:
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
    size, crop = seen_by(folds[0])
    facts = {"classes": json.dumps(CLASS_NAMES), "networks": "; ".join(map(str, folds))}
    for key, value in (facts | {"image_size": str(size), "crop": crop}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


if __name__ == "__main__":
    run_command(main)
