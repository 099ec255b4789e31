"""GoogLeNet's published ImageNet weights: from an ONNX file to one that `--weights DIR` reads.

    .venv/bin/python -m pip install -c requirements/lock.txt onnx
    python -m models.finetuning.network.googlenet_onnx googlenet-12.onnx --out weights

The file is that of the ONNX model zoo (https://github.com/onnx/models, inception_and_googlenet, BSD licence): the BVLC
Caffe model, converted. Not tried with the real file: the tests write one with its names.
Weights are found by name: `inception_3a/1x1_w_0` and `_b_0` are kernel and bias of the layer inception_3a_1x1. Every
layer needs both, with its shapes. The 1000-way classifier is left out. The file is only read.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, run_command
from common.files import written_whole
from common.settings import CommandLine
from models.finetuning.runtime import load_keras

FILE_NAME = "googlenet.weights.h5"
LIMIT_BYTES = 256 * 2**20  # the published file has 28 MB


def import_weights(source: Path, folder: Path) -> Path:
    """Writes the weights of an ONNX file to googlenet.weights.h5 in a folder, for `--weights`; returns its path.

    Raises:
        UserError: the file cannot be read, is too large, or is not GoogLeNet.
    """
    stored = _tensors(source)
    load_keras()
    from models.finetuning.network.googlenet import GoogLeNet

    network = GoogLeNet()
    for layer in (layer for layer in network.layers if layer.weights):
        kernel = _array(stored, f"{layer.name}_w_0", tuple(layer.kernel.shape[axis] for axis in (3, 2, 0, 1)), source)
        layer.set_weights([kernel.transpose(2, 3, 1, 0), _array(stored, f"{layer.name}_b_0", layer.bias.shape, source)])
    with tempfile.TemporaryDirectory() as scratch, written_whole(folder / FILE_NAME) as temporary:
        network.save_weights(Path(scratch) / FILE_NAME)  # Keras insists on the end of the name
        shutil.copyfile(Path(scratch) / FILE_NAME, temporary)
    return folder / FILE_NAME


def _tensors(source: Path) -> dict[str, Any]:
    """The stored tensors, by our names."""
    try:
        import onnx
    except ImportError as error:
        raise UserError("no onnx: .venv/bin/python -m pip install -c requirements/lock.txt onnx") from error
    if not source.is_file():
        raise UserError(f"{source}: no such file. Expected GoogLeNet as an ONNX file.")
    if source.stat().st_size > LIMIT_BYTES:
        raise _refused(source, f"found {source.stat().st_size:,} bytes, expected at most {LIMIT_BYTES:,}")
    try:
        graph = onnx.ModelProto.FromString(source.read_bytes()).graph
    except Exception as error:  # protobuf's classes of errors differ by its implementation
        raise _refused(source, f"not an ONNX file ({error})") from error
    return {tensor.name.replace("/", "_"): tensor for tensor in graph.initializer}


def _array(stored: dict[str, Any], name: str, shape: tuple[int, ...], source: Path) -> np.ndarray:
    from onnx import TensorProto, numpy_helper

    if name not in stored:
        raise _refused(source, f"it has no tensor {name}")
    tensor = stored[name]
    if tuple(tensor.dims) != shape or tensor.data_type != TensorProto.FLOAT or tensor.external_data:
        raise _refused(source, f"{name} has shape {tuple(tensor.dims)}, expected {shape} as float32 in the same file")
    try:
        values = np.asarray(numpy_helper.to_array(tensor), np.float32)
    except Exception as error:  # too few bytes
        raise _refused(source, f"{name} cannot be read ({error})") from error
    if not np.isfinite(values).all():
        raise _refused(source, f"{name} has NaN or infinite values")
    return values


def _refused(source: Path, reason: str) -> UserError:
    return UserError(
        f"{source}: not GoogLeNet as the ONNX model zoo publishes it: {reason}. Expected the float32 file "
        "googlenet-12.onnx (or -3, -6, -7, -8, -9) of https://github.com/onnx/models."
    )


def main() -> None:
    """The command line."""
    parser = CommandLine(prog="python -m models.finetuning.network.googlenet_onnx", description=__doc__)
    parser.add_argument("source", type=Path, metavar="FILE.onnx", help="GoogLeNet of the ONNX model zoo")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"folder where {FILE_NAME} goes")
    arguments = parser.parse_args()
    path = import_weights(arguments.source, arguments.out)
    print(f"wrote {path}. Use it: python models/googlenet.py --weights {path.parent} ...")


if __name__ == "__main__":
    run_command(main)
