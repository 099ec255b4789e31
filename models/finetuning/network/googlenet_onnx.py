"""GoogLeNet's published ImageNet weights: from an ONNX file to one that `--weights DIR` reads.

    .venv/bin/python -m pip install -r requirements-import.txt
    python -m models.finetuning.network.googlenet_onnx googlenet-12.onnx --out weights

The file is that of the ONNX model zoo (https://github.com/onnx/models, validated/vision/classification/
inception_and_googlenet/googlenet, 28 MB, BSD licence): the BVLC Caffe model, converted. Its int8 and qdq variants are
quantised and refused. Not yet seen with the real file: the tests write one with its nodes and names. The Caffe file
itself (bvlc_googlenet.caffemodel) has no reader here: OpenCV 5.0 reads ONNX, TensorFlow and TFLite files (OpenVINO's
where it was built with that), but no longer those of Caffe, Darknet and Torch.

The file is data: it is parsed and never run. Every node between the pixels and inception_5b must be the one that
GoogLeNet has there, and every weight must have its shape. The 1000-way classifier is left out.
"""

import argparse
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
INSTALL = "the onnx package is missing. Install it: .venv/bin/python -m pip install -r requirements-import.txt"

# Operations between two concatenations; the digits are window/stride of a pooling, /stride of a convolution.
STEM = ["Conv/2", "Relu", "MaxPool3/2", "LRN", "Conv/1", "Relu", "Conv/1", "Relu", "LRN", "MaxPool3/2"]
STEM_LAYERS = ["conv1_7x7_s2", "conv2_3x3_reduce", "conv2_3x3"]
BRANCHES = {  # our names of the convolutions -> operations
    ("1x1",): ["Conv/1", "Relu"],
    ("3x3_reduce", "3x3"): ["Conv/1", "Relu", "Conv/1", "Relu"],
    ("5x5_reduce", "5x5"): ["Conv/1", "Relu", "Conv/1", "Relu"],
    ("pool_proj",): ["MaxPool3/1", "Conv/1", "Relu"],
}
CONV_DEFAULTS = {"pads": [0, 0, 0, 0], "group": 1, "dilations": [1, 1]}
LRN_DEFAULTS = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}  # ONNX's, both


def import_weights(source: Path, folder: Path) -> Path:
    """Writes the weights of an ONNX file for `--weights folder`.

    Args:
        source: GoogLeNet as an ONNX file, pixels of shape (batch, 3, height, width).
        folder: where googlenet.weights.h5 goes; made if need be.

    Returns:
        the path of that file.

    Raises:
        UserError: the file cannot be read, is too large, or is not GoogLeNet.
    """
    graph = _graph(source)
    load_keras()
    from models.finetuning.network.googlenet import GoogLeNet

    stored = {tensor.name: tensor for tensor in graph.initializer}
    network = GoogLeNet()
    for name, node in _convolutions(graph, source).items():
        layer = network.get_layer(name)
        height, width, channels, filters = layer.kernel.shape
        _check(node, {"pads": [height // 2] * 4, "group": 1, "dilations": [1, 1]}, source)
        if len(node.input) != 3:
            raise _refused(source, f"{name} has {len(node.input)} inputs, expected maps, kernel and bias")
        kernel = _array(stored.get(node.input[1]), (filters, channels, height, width), f"kernel of {name}", source)
        layer.kernel.assign(kernel.transpose(2, 3, 1, 0))
        layer.bias.assign(_array(stored.get(node.input[2]), (filters,), f"bias of {name}", source))
    target = folder / FILE_NAME
    with tempfile.TemporaryDirectory() as scratch, written_whole(target) as temporary:
        network.save_weights(Path(scratch) / FILE_NAME)  # Keras insists on the end of the name
        shutil.copyfile(Path(scratch) / FILE_NAME, temporary)
    return target


def _graph(source: Path) -> Any:
    """The graph in the file."""
    try:
        import onnx
    except ImportError as error:
        raise UserError(INSTALL) from error
    if not source.is_file():
        raise UserError(f"{source}: no such file. Expected GoogLeNet as an ONNX file, such as googlenet-12.onnx.")
    _check_size(source, source)
    try:
        return onnx.ModelProto.FromString(source.read_bytes()).graph
    except Exception as error:  # protobuf's classes of errors differ by its implementation
        raise _refused(source, f"not an ONNX file ({error})") from error


def _convolutions(graph: Any, source: Path) -> dict[str, Any]:
    """The Conv nodes by our names of them, found by following the graph back from each concatenation.

    Their order and shapes alone would not tell 1x1 from 3x3_reduce in inception_3b and inception_4c.
    """
    from models.finetuning.network.googlenet import LRN_ALPHA, LRN_BETA, LRN_K, LRN_SIZE, MODULES, POOL_BEFORE

    producers = {output: node for node in graph.node for output in node.output}
    joins = [node for node in graph.node if node.op_type == "Concat"]
    if [len(join.input) for join in joins] != [len(BRANCHES)] * len(MODULES):
        raise _refused(source, f"{len(joins)} Concat nodes; expected {len(MODULES)} of {len(BRANCHES)} branches each")
    found: dict[str, Any] = {}
    before = ""  # the output of the module before
    for module, join in zip(MODULES, joins, strict=True):
        common = ["MaxPool3/2"] if module in POOL_BEFORE else [] if before else STEM
        for (layers, operations), tensor in zip(BRANCHES.items(), join.input, strict=True):
            names = [*([] if before else STEM_LAYERS), *(f"{module}_{layer}" for layer in layers)]
            nodes = _nodes_back(producers, tensor, before)
            kinds = [_kind(node) for node in nodes]
            if kinds != common + operations:
                expected, seen = " ".join(common + operations), " ".join(kinds) or "nothing"
                raise _refused(source, f"expected {expected} on the way to {names[-1]}, found {seen}")
            convolutions = [node for node in nodes if node.op_type == "Conv"]
            for name, node in zip(names, convolutions, strict=True):
                if found.setdefault(name, node).output[0] != node.output[0]:
                    raise _refused(source, f"the branches of {module} do not share {name}")
        before = join.output[0]
    for node in graph.node:
        if node.op_type == "LRN":
            _check(node, {"size": LRN_SIZE, "alpha": LRN_ALPHA, "beta": LRN_BETA, "bias": LRN_K}, source)
    return found


def _nodes_back(producers: dict[str, Any], tensor: str, stop: str) -> list[Any]:
    """The nodes from `stop` (or the pixels) to `tensor` in the order of computation, following first inputs."""
    nodes: list[Any] = []
    while tensor != stop and tensor in producers and len(nodes) < 2 * len(STEM):  # a bad file may go in a circle
        nodes.append(producers[tensor])
        tensor = nodes[-1].input[0] if nodes[-1].input else ""
    return nodes[::-1]


def _kind(node: Any) -> str:
    """'Relu', 'Conv/STRIDE', 'MaxPoolSIZE/STRIDE'."""
    if node.op_type not in ("Conv", "MaxPool"):
        return str(node.op_type)
    given = _numbers(node)
    size = _one(given.get("kernel_shape")) if node.op_type == "MaxPool" else ""
    return f"{node.op_type}{size}/{_one(given.get('strides', [1, 1]))}"


def _one(values: Any) -> str:
    """'3' for [3, 3]."""
    return str(values[0]) if isinstance(values, list) and len(values) == 2 and len(set(values)) == 1 else str(values)


def _numbers(node: Any) -> dict[str, Any]:
    """The attributes of a node that are numbers or lists of whole numbers."""
    from onnx import AttributeProto

    fields = {AttributeProto.INT: "i", AttributeProto.FLOAT: "f", AttributeProto.INTS: "ints"}
    found = {a.name: getattr(a, fields[a.type]) for a in node.attribute if a.type in fields}
    return {name: value if isinstance(value, int | float) else list(value) for name, value in found.items()}


def _check(node: Any, expected: dict[str, Any], source: Path) -> None:
    """Compares attributes of a node, where those that it leaves out have ONNX's default."""
    given = {**CONV_DEFAULTS, **LRN_DEFAULTS, **_numbers(node)}
    for name, value in expected.items():
        seen = given.get(name, np.nan)
        if np.shape(seen) != np.shape(value) or not np.allclose(seen, value, rtol=1e-4, atol=0):
            raise _refused(source, f"{node.op_type} {node.output[0]!r} has {name} {seen}, expected {value}")


def _array(tensor: Any, shape: tuple[int, ...], what: str, source: Path) -> np.ndarray:
    """An initialiser as float32, shape checked before anything is read."""
    from onnx import TensorProto, numpy_helper

    if tensor is None:
        raise _refused(source, f"the {what} is not among its initialisers")
    if tuple(tensor.dims) != shape or tensor.data_type != TensorProto.FLOAT:
        types = TensorProto.DataType.keys()
        kind = types[tensor.data_type] if 0 <= tensor.data_type < len(types) else f"type {tensor.data_type}"
        raise _refused(source, f"the {what} is {kind} {tuple(tensor.dims)}, expected FLOAT {shape}")
    if tensor.data_location == TensorProto.EXTERNAL:
        _check_external(tensor, source)
    try:
        values = numpy_helper.to_array(tensor, base_dir=str(source.parent))
    except Exception as error:  # too few bytes, an unreadable external file: each with a class of its own
        raise _refused(source, f"the {what} cannot be read ({error})") from error
    if not np.isfinite(values).all():
        raise _refused(source, f"the {what} holds infinities or not-a-numbers")
    return np.asarray(values, np.float32)


def _check_external(tensor: Any, source: Path) -> None:
    """Weights in a file of their own must lie in the folder of the ONNX file, links followed."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    folder = source.parent.resolve()
    path = (folder / location).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise _refused(source, f"its weights are said to lie in {location!r}, expected a file in {folder}")
    _check_size(path, source)


def _check_size(path: Path, source: Path) -> None:
    size = path.stat().st_size
    if size > LIMIT_BYTES:
        raise _refused(source, f"{path.name} has {size / 2**20:.0f} MiB, expected at most {LIMIT_BYTES / 2**20:.0f}")


def _refused(source: Path, reason: str) -> UserError:
    return UserError(
        f"{source}: not GoogLeNet as the ONNX model zoo publishes it: {reason}. Expected the float32 file "
        "googlenet-12.onnx (or -3, -6, -7, -8, -9) of https://github.com/onnx/models."
    )


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(prog="python -m models.finetuning.network.googlenet_onnx", description=__doc__)
    parser.add_argument("source", type=Path, metavar="FILE.onnx", help="GoogLeNet of the ONNX model zoo")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"folder where {FILE_NAME} goes")
    return parser


def main() -> None:
    """The command line."""
    arguments = _parser().parse_args()
    path = import_weights(arguments.source, arguments.out)
    print(f"wrote {path}. Use it: python models/googlenet.py --weights {path.parent} ...")


if __name__ == "__main__":
    run_command(main)
