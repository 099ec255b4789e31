"""GoogLeNet against its paper's table, and the importer of its published weights."""

from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from common.errors import UserError
from models.finetuning import architecture as zoo
from models.finetuning.network import weights
from models.finetuning.network.googlenet import GoogLeNet, import_weights, local_response_normalization
from tests.commands import run_python

pytestmark = pytest.mark.slow  # builds many networks

# Table 1 of the paper: height and channels of what each module gives.
TABLE = {"3a": (28, 256), "3b": (28, 480), "4a": (14, 512), "4b": (14, 512), "4c": (14, 512), "4d": (14, 528)}
TABLE |= {"4e": (14, 832), "5a": (7, 832), "5b": (7, 1024)}
STEM = {"conv1_7x7_s2": (112, 64), "pool1_3x3_s2": (56, 64), "conv2_3x3_reduce": (56, 64), "conv2_3x3": (56, 192)}
STEM |= {"pool2_3x3_s2": (28, 192), "pool3_3x3_s2": (14, 480), "pool4_3x3_s2": (7, 832)}
ARCHITECTURE = zoo.find("googlenet")


def test_layer_output_shapes_are_those_of_the_papers_table() -> None:
    whole = GoogLeNet(include_top=True, auxiliary=True)
    expected = {name: (None, size, size, channels) for name, (size, channels) in STEM.items()}
    for module, (size, channels) in TABLE.items():
        expected[f"inception_{module}_output"] = (None, size, size, channels)
    expected |= {"pool5_7x7_s1": (None, 1024), "predictions": (None, 1000)}
    for branch, channels in (("auxiliary_4a", 512), ("auxiliary_4d", 528)):
        expected[f"{branch}_pool_5x5_s3"] = (None, 4, 4, channels)
        expected[f"{branch}_conv_1x1"] = (None, 4, 4, 128)
        expected[f"{branch}_fc"] = (None, 1024)
    assert {name: whole.get_layer(name).output.shape for name in expected} == expected


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


def tensors() -> dict[str, np.ndarray]:
    """Random weights under the names and in the layout of the ONNX model zoo's file, its classifier included."""
    random = np.random.default_rng(5)
    found = {"loss3/classifier_w_0": np.zeros((1000, 1024), np.float32), "OC2_DUMMY_1": np.array([1, 1024])}
    for layer in (layer for layer in GoogLeNet().layers if layer.weights):
        block, _, rest = layer.name.partition("_")
        start = f"{block}_{rest.replace('_', '/', 1)}" if block == "inception" else f"{block}/{rest}"
        height, width, channels, filters = layer.kernel.shape
        found[f"{start}_w_0"] = random.normal(size=(filters, channels, height, width)).astype(np.float32)
        found[f"{start}_b_0"] = random.normal(size=filters).astype(np.float32)
    return found


def written(arrays: dict[str, np.ndarray], path: Path) -> Path:
    graph = helper.make_graph([], "GoogLeNet", [], [], [numpy_helper.from_array(x, name) for name, x in arrays.items()])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4), path)
    return path


def test_an_onnx_file_is_imported_for_every_size(tmp_path: Path) -> None:
    arrays = tensors()
    source = written(arrays, tmp_path / "googlenet-9.onnx")
    done = run_python("-m", "models.finetuning.network.googlenet", source, "--out", tmp_path / "weights")
    assert done.stdout.startswith(f"wrote {tmp_path / 'weights' / 'googlenet.weights.h5'}"), done.stderr
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["googlenet.weights.h5"]

    network = GoogLeNet(input_shape=(96, 128, 3), auxiliary=True)  # another size, between the auxiliary branches
    weights.load(keras.Model(network.inputs, network.outputs[0]), ARCHITECTURE, str(tmp_path / "weights"))
    for name, layer in (("conv1/7x7_s2", "conv1_7x7_s2"), ("inception_4d/5x5_reduce", "inception_4d_5x5_reduce")):
        kernel, bias = network.get_layer(layer).get_weights()
        np.testing.assert_array_equal(kernel, arrays[f"{name}_w_0"].transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(bias, arrays[f"{name}_b_0"])


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("inception_4e/1x1_w_0", np.zeros((256, 512, 1, 1), np.float32)),
        ("conv1/7x7_s2_b_0", np.full(64, np.nan, np.float32)),
        ("inception_5b/5x5_b_0", None),
        ("", None),
    ],
)
def test_files_that_are_not_googlenet_are_refused(tmp_path: Path, name: str, array: np.ndarray | None) -> None:
    source = tmp_path / "file.onnx"
    source.write_bytes(b"a page of the web, not a network")
    if name:
        kept = {other: values for other, values in tensors().items() if other != name}
        written(kept if array is None else kept | {name: array}, source)
    with pytest.raises(UserError, match="not GoogLeNet as the ONNX model zoo publishes it"):
        import_weights(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
