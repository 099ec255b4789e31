"""GoogLeNet against its paper's table, and the importer of its published weights against OpenCV's reading of a file."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from common.errors import UserError
from common.run_folder import REPOSITORY
from models.finetuning import architecture as zoo
from models.finetuning.network import googlenet_onnx, weights
from models.finetuning.network.googlenet import AUXILIARY_OUTPUTS, GoogLeNet, local_response_normalization
from models.finetuning.network.googlenet_onnx import import_weights

pytestmark = pytest.mark.slow  # builds many networks

# Table 1 of the paper: what comes in, then 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection; and height, output.
TABLE = {
    "3a": (192, 64, 96, 128, 16, 32, 32, 28, 256),
    "3b": (256, 128, 128, 192, 32, 96, 64, 28, 480),
    "4a": (480, 192, 96, 208, 16, 48, 64, 14, 512),
    "4b": (512, 160, 112, 224, 24, 64, 64, 14, 512),
    "4c": (512, 128, 128, 256, 24, 64, 64, 14, 512),
    "4d": (512, 112, 144, 288, 32, 64, 64, 14, 528),
    "4e": (528, 256, 160, 320, 32, 128, 128, 14, 832),
    "5a": (832, 256, 160, 320, 32, 128, 128, 7, 832),
    "5b": (832, 384, 192, 384, 48, 128, 128, 7, 1024),
}
STEM = {
    "conv1_7x7_s2": (112, 64),
    "pool1_3x3_s2": (56, 64),
    "conv2_3x3_reduce": (56, 64),
    "conv2_3x3": (56, 192),
    "pool2_3x3_s2": (28, 192),
    "pool3_3x3_s2": (14, 480),
    "pool4_3x3_s2": (7, 832),
}
ARCHITECTURE = zoo.find("googlenet")


@pytest.fixture(scope="module")
def whole() -> keras.Model:
    """The network with its top and its auxiliary classifiers, at the paper's size."""
    return GoogLeNet(include_top=True, auxiliary=True)


def test_layer_output_shapes_are_those_of_the_papers_table(whole: keras.Model) -> None:
    expected = {name: (None, size, size, channels) for name, (size, channels) in STEM.items()}
    for module, (*_, size, channels) in TABLE.items():
        expected[f"inception_{module}_output"] = (None, size, size, channels)
    expected |= {"pool5_7x7_s1": (None, 1024), "predictions": (None, 1000)}
    for branch, channels in (("auxiliary_4a", 512), ("auxiliary_4d", 528)):
        expected[f"{branch}_pool_5x5_s3"] = (None, 4, 4, channels)
        expected[f"{branch}_conv_1x1"] = (None, 4, 4, 128)
        expected |= {f"{branch}_fc": (None, 1024), f"{branch}_predictions": (None, 1000)}
    assert {name: whole.get_layer(name).output.shape for name in expected} == expected


def test_parameter_counts_are_those_of_the_arithmetic(whole: keras.Model) -> None:
    def counted(start: str) -> int:
        return sum(layer.count_params() for layer in whole.layers if layer.name.startswith(start))

    first = whole.get_layer("conv1_7x7_s2")
    assert [int(np.prod(variable.shape)) for variable in first.weights] == [9_408, 64]  # the paper prints 2.7K
    stem = (7 * 7 * 3 + 1) * 64 + (64 + 1) * 64 + (3 * 3 * 64 + 1) * 192
    assert counted("conv") == stem
    modules = 0
    for module, (before, direct, reduce_3, width_3, reduce_5, width_5, projected, _, after) in TABLE.items():
        assert direct + width_3 + width_5 + projected == after
        expected = (before + 1) * (direct + reduce_3 + reduce_5 + projected)
        expected += (9 * reduce_3 + 1) * width_3 + (25 * reduce_5 + 1) * width_5
        assert counted(f"inception_{module}_") == expected
        modules += expected
    assert counted("predictions") == 1_025_000
    for branch, channels in (("auxiliary_4a", 512), ("auxiliary_4d", 528)):
        assert counted(branch) == (channels + 1) * 128 + (4 * 4 * 128 + 1) * 1024 + 1_025_000
    assert GoogLeNet().count_params() == stem + modules == ARCHITECTURE.parameters


def test_local_response_normalization_is_the_formula() -> None:
    maps = np.random.default_rng(0).normal(scale=300, size=(2, 5, 7, 11))
    expected = np.empty_like(maps)
    for channel in range(11):
        window = maps[..., max(0, channel - 2) : channel + 3]
        expected[..., channel] = maps[..., channel] / (1 + 1e-4 / 5 * (window**2).sum(axis=-1)) ** 0.75
    assert np.abs(maps / expected).max() > 5  # the numbers put the formula to use
    inputs = keras.Input((5, 7, 11))
    model = keras.Model(inputs, local_response_normalization(inputs, "norm"))
    np.testing.assert_allclose(model.predict_on_batch(maps.astype(np.float32)), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [31, 48, 63, 64])
def test_pooling_rounds_as_caffe_does(size: int) -> None:
    def pooled(count: int) -> int:
        return -((3 - count) // 2) + 1  # (count - 3) / 2 rounded up, and the first window

    rows = (size + 2 * 3 - 7) // 2 + 1
    for _ in range(4):
        rows = pooled(rows)
    assert GoogLeNet(input_shape=(size, 96, 3)).output_shape == (None, rows, 3, 1024)


@pytest.mark.parametrize(("size", "pooled"), [((31, 53), (1, 1)), ((96, 128), (1, 2)), ((240, 320), (4, 6))])
def test_auxiliary_branches_fit_any_size(size: tuple[int, int], pooled: tuple[int, int]) -> None:
    network = GoogLeNet(input_shape=(*size, 3), auxiliary=True)
    assert network.get_layer("auxiliary_4a_conv_1x1").output.shape == (None, *pooled, 128)
    assert [output.shape for output in network.outputs[1:]] == [(None, 1024)] * 2
    assert [network.get_layer(name).output.name for name in AUXILIARY_OUTPUTS] == [o.name for o in network.outputs[1:]]


def test_trains_a_step_with_auxiliary_heads_and_the_saved_network_needs_no_code(tmp_path: Path) -> None:
    size = (31, 53)
    keras.utils.set_random_seed(0)
    network = GoogLeNet(input_shape=(*size, 3), auxiliary=True)
    pooled = keras.layers.GlobalAveragePooling2D()(network.outputs[0])
    logits = [keras.layers.Dense(10, "softmax")(features) for features in (pooled, *network.outputs[1:])]
    training = keras.Model(network.input, logits)
    loss_weights = [1.0, ARCHITECTURE.auxiliary_weight, ARCHITECTURE.auxiliary_weight]
    losses = ["categorical_crossentropy"] * 3
    training.compile(keras.optimizers.SGD(1e-4), losses, loss_weights=loss_weights, run_eagerly=True)
    images = np.random.default_rng(0).normal(scale=60, size=(2, *size, 3)).astype(np.float32)
    layers = ["conv1_7x7_s2", "inception_4a_5x5", "auxiliary_4a_fc", "auxiliary_4d_conv_1x1", "inception_5b_pool_proj"]
    before = {name: np.array(network.get_layer(name).kernel) for name in layers}
    loss = training.train_on_batch(images, [np.eye(10, dtype=np.float32)[[2, 7]]] * 3, return_dict=True)
    assert np.isfinite(list(loss.values())).all()
    for name in layers:
        assert not np.array_equal(network.get_layer(name).kernel, before[name]), name

    training.save(tmp_path / "model.keras")
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model('model.keras', safe_mode=True)\n"
        "np.savez('seen.npz', *model.predict_on_batch(np.load('images.npy')))\n"
        "assert not any(name.split('.')[0] in ('models', 'preprocessing') for name in sys.modules)\n"
    )
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    with np.load(tmp_path / "seen.npz") as seen:
        for loaded, expected in zip(seen.values(), training.predict_on_batch(images), strict=True):
            np.testing.assert_allclose(loaded, expected, atol=1e-6)


def test_wrong_requests_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match="at least 31x31 pixels, found 30x64"):
        GoogLeNet(input_shape=(30, 64, 3))
    with pytest.raises(UserError, match="googlenet_onnx"):
        GoogLeNet(weights="imagenet")


class ZooFile:
    """Writes GoogLeNet with random weights as the ONNX model zoo has it: its nodes, names and order."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(5)
        self.nodes: list[Any] = []
        self.arrays: dict[str, np.ndarray] = {}
        maps = self.convolution("data_0", "conv1/7x7_s2", 3, 64, 7, stride=2)
        maps = self.node("LRN", [self.pool(maps, "pool1/3x3_s2")], "pool1/norm1_1", size=5, alpha=1e-4, beta=0.75)
        maps = self.convolution(maps, "conv2/3x3_reduce", 64, 64, 1)
        maps = self.convolution(maps, "conv2/3x3", 64, 192, 3)
        maps = self.node("LRN", [maps], "conv2/norm2_1", size=5, alpha=1e-4, beta=0.75, bias=1.0)
        maps = self.pool(maps, "pool2/3x3_s2")
        for module, (before, *widths, _, _) in TABLE.items():
            if module in ("4a", "5a"):
                maps = self.pool(maps, f"pool{int(module[0]) - 1}/3x3_s2")
            maps = self.inception(maps, f"inception_{module}", before, widths)
        maps = self.node("AveragePool", [maps], "pool5/7x7_s1_1", kernel_shape=[7, 7], strides=[1, 1])
        maps = self.node("Dropout", [maps], "pool5/7x7_s1_2", ratio=0.4)
        self.arrays["OC2_DUMMY_1"] = np.array([1, 1024])
        flat = self.node("Reshape", [maps, "OC2_DUMMY_1"], "OC2_DUMMY_0")
        self.arrays["loss3/classifier_w_0"] = self.random.normal(scale=2e-3, size=(1000, 1024)).astype(np.float32)
        self.arrays["loss3/classifier_b_0"] = self.random.normal(size=1000).astype(np.float32)
        classifier = [flat, "loss3/classifier_w_0", "loss3/classifier_b_0"]
        logits = self.node("Gemm", classifier, "loss3/classifier_1", transB=1)
        self.node("Softmax", [logits], "prob_1", axis=1)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def convolution(self, maps: str, name: str, channels: int, filters: int, size: int, stride: int = 1) -> str:
        scale = np.sqrt(2 / (size * size * channels))
        kernel = self.random.normal(scale=scale, size=(filters, channels, size, size))
        self.arrays[f"{name}_w_0"] = kernel.astype(np.float32)
        self.arrays[f"{name}_b_0"] = self.random.normal(scale=0.2, size=filters).astype(np.float32)
        inputs = [maps, f"{name}_w_0", f"{name}_b_0"]
        options = {"kernel_shape": [size, size], "pads": [size // 2] * 4, "strides": [stride, stride]}
        return self.node("Relu", [self.node("Conv", inputs, f"{name}_1", **options)], f"{name}_2")

    def pool(self, maps: str, name: str, stride: int = 2) -> str:
        pads = [1, 1, 1, 1] if stride == 1 else [0, 0, 1, 1]
        return self.node("MaxPool", [maps], f"{name}_1", kernel_shape=[3, 3], pads=pads, strides=[stride, stride])

    def inception(self, maps: str, name: str, channels: int, widths: list[int]) -> str:
        direct, reduce_3, width_3, reduce_5, width_5, projected = widths
        branch_1 = self.convolution(maps, f"{name}/1x1", channels, direct, 1)
        branch_3 = self.convolution(maps, f"{name}/3x3_reduce", channels, reduce_3, 1)
        branch_3 = self.convolution(branch_3, f"{name}/3x3", reduce_3, width_3, 3)
        branch_5 = self.convolution(maps, f"{name}/5x5_reduce", channels, reduce_5, 1)
        branch_5 = self.convolution(branch_5, f"{name}/5x5", reduce_5, width_5, 5)
        pooled = self.pool(maps, f"{name}/pool", stride=1)
        branch_p = self.convolution(pooled, f"{name}/pool_proj", channels, projected, 1)
        return self.node("Concat", [branch_1, branch_3, branch_5, branch_p], f"{name}/output_1", axis=1)

    def model(self) -> Any:
        tensors = [numpy_helper.from_array(array, name) for name, array in self.arrays.items()]
        pixels = helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, 224, 224])
        probabilities = helper.make_tensor_value_info("prob_1", TensorProto.FLOAT, [1, 1000])
        graph = helper.make_graph(self.nodes, "GoogLeNet", [pixels], [probabilities], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)


def written(zoo_file: ZooFile, path: Path) -> Path:
    onnx.save_model(zoo_file.model(), path)
    return path


def test_an_imported_onnx_file_gives_what_opencv_gets_from_it(tmp_path: Path) -> None:
    zoo_file = ZooFile()
    source = written(zoo_file, tmp_path / "googlenet-9.onnx")
    command = ["-m", "models.finetuning.network.googlenet_onnx", str(source), "--out", str(tmp_path / "weights")]
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"wrote {tmp_path / 'weights' / 'googlenet.weights.h5'}")
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["googlenet.weights.h5"]

    network = GoogLeNet()
    weights.load(network, ARCHITECTURE, str(tmp_path / "weights"))
    pixels = np.random.default_rng(1).normal(scale=60, size=(1, 224, 224, 3)).astype(np.float32)
    features = network.predict_on_batch(pixels).mean(axis=(1, 2), dtype=np.float64)
    logits = features @ zoo_file.arrays["loss3/classifier_w_0"].T + zoo_file.arrays["loss3/classifier_b_0"]
    reader = cv2.dnn.readNetFromONNX(str(source))
    reader.setInput(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    theirs = np.log(reader.forward().reshape(-1).astype(np.float64))
    ours = logits[0] - np.log(np.exp(logits[0] - logits.max()).sum()) - logits.max()
    assert theirs.std() > 1  # not a nearly uniform answer that anything would match
    np.testing.assert_allclose(ours, theirs, atol=1e-3)

    other = GoogLeNet(input_shape=(96, 128, 3), auxiliary=True)  # another size, between the auxiliary branches
    weights.load(keras.Model(other.inputs, other.outputs[0]), ARCHITECTURE, str(tmp_path / "weights"))
    for layer in network.layers:
        for stored, loaded in zip(layer.weights, other.get_layer(layer.name).weights, strict=True):
            np.testing.assert_array_equal(loaded, stored)


def refusal(source: Path, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        import_weights(source, folder)
    assert not folder.exists()
    return str(caught.value)


def test_files_that_are_not_googlenet_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "file.onnx", tmp_path / "out"

    assert "no such file" in refusal(source, out)
    source.write_bytes(b"a page of the web, not a network")
    assert "not an ONNX file" in refusal(source, out)
    source.write_bytes(b"")
    assert "no tensor conv1_7x7_s2_w_0" in refusal(source, out)

    def reason(name: str, array: np.ndarray | None) -> str:
        zoo_file = ZooFile()
        zoo_file.arrays.pop(name) if array is None else zoo_file.arrays.update({name: array})
        return refusal(written(zoo_file, source), out)

    other_shape = reason("inception_4e/1x1_w_0", np.zeros((256, 512, 1, 1), np.float32))
    assert "inception_4e_1x1_w_0 has shape (256, 512, 1, 1), expected (256, 528, 1, 1)" in other_shape
    assert "NaN or infinite" in reason("conv1/7x7_s2_b_0", np.full(64, np.nan, np.float32))
    assert "expected (64,) as float32" in reason("conv1/7x7_s2_b_0", np.zeros(64, np.float16))
    assert "no tensor inception_5b_5x5_b_0" in reason("inception_5b/5x5_b_0", None)
    elsewhere = tmp_path / "elsewhere.onnx"
    onnx.save_model(ZooFile().model(), elsewhere, save_as_external_data=True, location="file.data", size_threshold=0)
    assert "in the same file" in refusal(elsewhere, out)
    monkeypatch.setattr(googlenet_onnx, "LIMIT_BYTES", 10**6)
    assert "expected at most" in refusal(written(ZooFile(), source), out)
