"""GoogLeNet (Szegedy et al. 2014, https://arxiv.org/abs/1409.4842), which keras.applications lacks.

Built of built-in layers and operations, so that a saved network loads in safe mode without this code. Sizes, names
and constants are those of the BVLC Caffe model, whose weights are the published ones: pooling that rounds as Caffe
does, and local response normalisation with n=5, alpha=1e-4, beta=0.75, k=1. Pixels: BGR minus the ImageNet mean.

As a command it makes the file that `--weights DIR` reads from the ONNX model zoo's (https://github.com/onnx/models,
inception_and_googlenet, BSD licence). Not tried with the real file: the tests write one with its names.

    .venv/bin/python -m pip install -c requirements/lock.txt onnx
    python -m models.finetuning.network.googlenet googlenet-12.onnx --out weights
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, run_command
from common.files import written_whole
from common.settings import CommandLine
from models.finetuning import runtime

keras = runtime.load_keras()  # this module is a command too: nobody has loaded it before

FILE_NAME = "googlenet.weights.h5"
MODULES = {  # the paper's table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
    "inception_3a": (64, 96, 128, 16, 32, 32),
    "inception_3b": (128, 128, 192, 32, 96, 64),
    "inception_4a": (192, 96, 208, 16, 48, 64),
    "inception_4b": (160, 112, 224, 24, 64, 64),
    "inception_4c": (128, 128, 256, 24, 64, 64),
    "inception_4d": (112, 144, 288, 32, 64, 64),
    "inception_4e": (256, 160, 320, 32, 128, 128),
    "inception_5a": (256, 160, 320, 32, 128, 128),
    "inception_5b": (384, 192, 384, 48, 128, 128),
}
POOL_BEFORE = {"inception_4a": "pool3_3x3_s2", "inception_5a": "pool4_3x3_s2"}
AUXILIARY_AFTER = {"inception_4a": "auxiliary_4a", "inception_4d": "auxiliary_4d"}
LRN_SIZE, LRN_ALPHA, LRN_K = 5, 1e-4, 1.0


def GoogLeNet(  # noqa: N802 - called as the builders of keras.applications are
    weights: None = None,
    include_top: bool = False,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    auxiliary: bool = False,
) -> Any:
    """Builds the network with random weights, for images of at least 31x31 pixels.

    Returns:
        preprocessed images -> feature maps (batch, (height + 1) // 32, (width + 1) // 32, 1024), or with the top
        probabilities (batch, 1000). With `auxiliary` a list: that, and 1024 features of each branch of the training.
    """
    images = keras.Input(input_shape, name="input")
    maps = _stem(images)
    branches = []
    for module, widths in MODULES.items():
        if module in POOL_BEFORE:
            maps = _halved(maps, POOL_BEFORE[module])
        maps = _inception(maps, widths, module)
        if auxiliary and module in AUXILIARY_AFTER:
            branches.append(_auxiliary(maps, AUXILIARY_AFTER[module]))
    if include_top:
        pooled = keras.layers.GlobalAveragePooling2D(name="pool5_7x7_s1")(maps)
        dropped = keras.layers.Dropout(0.4, name="pool5_dropout")(pooled)
        maps = keras.layers.Dense(1000, activation="softmax", dtype="float32", name="predictions")(dropped)
    return keras.Model(images, [maps, *branches] if auxiliary else maps, name="googlenet")


def local_response_normalization(maps: Any, name: str) -> Any:
    """x / (k + alpha / n * (sum of x squared over the n channels about its own)) ** 0.75, as in Caffe and ONNX.

    In float32 under every dtype policy, since the squares of activations leave the range of float16.
    """
    shape, single = tuple(maps.shape[1:]), {"dtype": "float32"}
    squares = keras.layers.Multiply(name=f"{name}_square", **single)([maps, maps])
    # The channels become the width of a picture of one channel, and the window a pooling of size 1 x n.
    rows = keras.layers.Reshape((-1, shape[-1], 1), name=f"{name}_rows", **single)(squares)
    padded = keras.layers.ZeroPadding2D((0, LRN_SIZE // 2), name=f"{name}_pad", **single)(rows)
    means = keras.layers.AveragePooling2D((1, LRN_SIZE), strides=1, name=f"{name}_mean", **single)(padded)
    scales = keras.layers.Rescaling(LRN_ALPHA, offset=LRN_K, name=f"{name}_scale", **single)(means)
    root = keras.ops.rsqrt(keras.layers.Reshape(shape, name=f"{name}_maps", **single)(scales))
    return keras.layers.Multiply(name=name, **single)([maps, root, keras.ops.sqrt(root)])  # s ** -0.75


def _stem(images: Any) -> Any:
    padded = keras.layers.ZeroPadding2D(3, name="conv1_pad")(images)  # Keras's own 'same' would pad 2 and 3
    maps = keras.layers.Conv2D(64, 7, strides=2, activation="relu", name="conv1_7x7_s2")(padded)
    maps = local_response_normalization(_halved(maps, "pool1_3x3_s2"), "pool1_norm1")
    maps = _convolution(_convolution(maps, 64, 1, "conv2_3x3_reduce"), 192, 3, "conv2_3x3")
    return _halved(local_response_normalization(maps, "conv2_norm2"), "pool2_3x3_s2")


def _inception(maps: Any, widths: tuple[int, ...], name: str) -> Any:
    """The four branches side by side, in the paper's order."""
    direct, reduce_3, width_3, reduce_5, width_5, projected = widths
    pooled = keras.layers.MaxPooling2D(3, strides=1, padding="same", name=f"{name}_pool")(maps)
    branches = [
        _convolution(maps, direct, 1, f"{name}_1x1"),
        _convolution(_convolution(maps, reduce_3, 1, f"{name}_3x3_reduce"), width_3, 3, f"{name}_3x3"),
        _convolution(_convolution(maps, reduce_5, 1, f"{name}_5x5_reduce"), width_5, 5, f"{name}_5x5"),
        _convolution(pooled, projected, 1, f"{name}_pool_proj"),
    ]
    return keras.layers.Concatenate(name=f"{name}_output")(branches)


def _auxiliary(maps: Any, name: str) -> Any:
    """Average pooling 5x5 at stride 3 (of the whole map where it is smaller), 128 1x1 convolutions, 1024 units."""
    window = (min(5, maps.shape[1]), min(5, maps.shape[2]))
    pooled = keras.layers.AveragePooling2D(window, strides=3, name=f"{name}_pool_5x5_s3")(maps)
    flat = keras.layers.Flatten(name=f"{name}_flatten")(_convolution(pooled, 128, 1, f"{name}_conv_1x1"))
    hidden = keras.layers.Dense(1024, activation="relu", name=f"{name}_fc")(flat)
    return keras.layers.Dropout(0.7, name=f"{name}_dropout")(hidden)


def _convolution(maps: Any, filters: int, size: int, name: str) -> Any:
    return keras.layers.Conv2D(filters, size, padding="same", activation="relu", name=name)(maps)


def _halved(maps: Any, name: str) -> Any:
    """Largest of 3x3 at stride 2, n // 2 of n: a window may hang over the end, as where Caffe rounds up.

    The padding of zeros changes no maximum, since the maps are not negative. Keras's 'same' would shift odd sizes.
    """
    padded = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(maps)
    return keras.layers.MaxPooling2D(3, strides=2, name=name)(padded)


def import_weights(source: Path, folder: Path) -> Path:
    """Writes the weights of an ONNX file to a folder; inception_3a/1x1_w_0 and _b_0 are of layer inception_3a_1x1."""
    try:
        import onnx
    except ImportError as error:
        raise UserError("no onnx: .venv/bin/python -m pip install -c requirements/lock.txt onnx") from error
    network = GoogLeNet()
    try:
        graph = onnx.ModelProto.FromString(source.read_bytes()).graph
        stored = {tensor.name.replace("/", "_"): tensor for tensor in graph.initializer}
        if any(tensor.external_data for tensor in graph.initializer):
            raise ValueError("its values are in other files")
        for layer in (layer for layer in network.layers if layer.weights):
            kernel, bias = (onnx.numpy_helper.to_array(stored[f"{layer.name}_{end}_0"]) for end in "wb")
            if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
                raise ValueError(f"{layer.name} has NaN or infinite values")
            layer.set_weights([kernel.transpose(2, 3, 1, 0), bias])
    except Exception as error:  # a missing file, protobuf's errors, a missing tensor, another shape
        raise UserError(
            f"{source}: not GoogLeNet as the ONNX model zoo publishes it: {error!r}. Expected the float32 file "
            "googlenet-12.onnx (or -3, -6, -7, -8, -9) of https://github.com/onnx/models."
        ) from error
    with tempfile.TemporaryDirectory() as scratch, written_whole(folder / FILE_NAME) as temporary:
        network.save_weights(Path(scratch) / FILE_NAME)  # Keras insists on the end of the name
        shutil.copyfile(Path(scratch) / FILE_NAME, temporary)
    return folder / FILE_NAME


def main() -> None:
    parser = CommandLine(prog="python -m models.finetuning.network.googlenet", description=__doc__)
    parser.add_argument("source", type=Path, metavar="FILE.onnx", help="GoogLeNet of the ONNX model zoo")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"folder where {FILE_NAME} goes")
    arguments = parser.parse_args()
    path = import_weights(arguments.source, arguments.out)
    print(f"wrote {path}. Use it: python models/googlenet.py --weights {path.parent} ...")


if __name__ == "__main__":
    run_command(main)
