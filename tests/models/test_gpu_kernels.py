"""What a training step would meet on a GPU, read from TensorFlow's own list of kernels: none is needed for that."""

from collections.abc import Iterator
from typing import Any

import keras
import pytest

from common.settings import ImageSize
from models.finetuning import architecture as zoo
from models.finetuning.network.network import set_trainable
from models.finetuning.training.optimisation import make_optimizer, stages
from tests.commands import run_python
from tests.models.test_networks import network_of

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="they are TensorFlow's kernels")
NOT_DETERMINISTIC = {  # on GPUs, by the messages of TensorFlow's kernels
    *("AdjustContrast", "AdjustContrastv2", "ResizeNearestNeighborGrad", "SparseTensorDenseMatMul"),
    *("CropAndResizeGradBoxes", "CropAndResizeGradImage", "FusedBatchNormGrad", "FusedBatchNormGradV3"),
}
NO_KERNELS = {"If", "StatelessIf", "PartitionedCall", "StatefulPartitionedCall"}  # of their own


def nodes_of(function: Any) -> Iterator[Any]:
    """The operations of a traced function and of the functions that it calls."""
    graph = function.graph.as_graph_def()
    yield from graph.node
    for called in graph.library.function:
        yield from called.node_def


def has_gpu_kernel(node: Any, kernels: Any) -> bool:
    def accepts(constraint: Any) -> bool:
        attribute = node.attr[constraint.name]
        return (attribute.type or next(iter(attribute.list.type), 0)) in constraint.allowed_values.list.type

    found = kernels.get_registered_kernels_for_op(node.op).kernel
    return any(one.device_type in ("GPU", "DEFAULT") and all(map(accepts, one.constraint)) for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", zoo.names())
def test_every_operation_of_a_training_step_runs_on_gpus_and_deterministically(name: str, precision: str) -> None:
    import tensorflow
    from tensorflow.python.framework import kernels

    network, recipe = network_of(name, precision=precision, image_size=ImageSize(96, 96))
    set_trainable(network, recipe, head_only=False)
    optimizer = make_optimizer(recipe, stages(recipe)[0], precision)
    network.compile(optimizer, recipe.label_smoothing)
    optimizer.build(network.training.trainable_variables)
    outputs = len(network.loss_weights)
    images = tensorflow.TensorSpec((4, 96, 96, 3), tensorflow.uint8)
    wanted = tensorflow.TensorSpec((4, 10), tensorflow.float32)
    targets = [wanted] * outputs if outputs > 1 else wanted
    network.training._symbolic_build(data_batch=(images, targets))  # metrics
    step = tensorflow.function(lambda x, y: network.training.train_step((x, y)))
    nodes = list(nodes_of(step.get_concrete_function(images, targets)))
    assert len(nodes) > 100
    lacking = {node.op for node in nodes if node.op not in NO_KERNELS and not has_gpu_kernel(node, kernels)}
    assert not lacking
    assert not {node.op for node in nodes} & NOT_DETERMINISTIC


def test_operations_are_deterministic_and_nothing_is_compiled_by_xla() -> None:
    code = """
import keras
from models.finetuning import runtime
runtime.start("float32", 0)
from tensorflow.python.framework.config import is_op_determinism_enabled
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
model.compile("sgd", "mse", jit_compile=runtime.compiles_with_xla())
print(is_op_determinism_enabled(), model.jit_compile)
"""
    assert run_python("-c", code).stdout.split() == ["True", "False"]
