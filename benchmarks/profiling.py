"""What a step of training or prediction spends its time on: convolutions and products, and all else by operation.

    python -m benchmarks.profiling                                   the three networks at 224x224, all layers, batch 32
    python -m benchmarks.profiling --networks resnet50 --most 12
    python -m benchmarks.profiling --work prediction

Asks TensorFlow's profiler for the duration of each operation of one step, after some that compile. Operations run
beside each other, so shares are of the sum of their times. About a minute a network on 2 cores.
"""

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import NETWORKS, machine, parser, run

PRODUCTS = re.compile(r"Conv2D|DepthwiseConv|MatMul|BatchMatMul|Einsum")
OPERATION = re.compile(r"[^: ]+:(_?[A-Z]\w+)")  # an event of the executor: the place in the graph, and what it does


def profiled(step: Callable[[], None]) -> Any:
    """Calls it once under TensorFlow's profiler: the XSpace message that TensorBoard's plugin would read too."""
    import tensorflow
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tensorflow.profiler.experimental.start(folder)
        step()
        tensorflow.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        return xplane_pb2.XSpace.FromString(path.read_bytes())


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--networks", nargs="+", default=list(NETWORKS))
    command.add_argument("--size", type=int, default=224)
    command.add_argument("--work", choices=("training", "prediction"), default="training")
    command.add_argument("--batch", type=int, default=32)
    command.add_argument("--most", type=int, default=8, help="operations that are listed")
    command.add_argument("--precision", default="auto")
    command.add_argument("--one", help="one network, in this process")
    arguments = command.parse_args()
    if arguments.one:
        measure(arguments)
        return
    print(machine(), flush=True)
    for name in arguments.networks:
        options = [f"--{x}={getattr(arguments, x)}" for x in ("size", "work", "batch", "most", "precision")]
        print(run("-m", "benchmarks.profiling", "--one", name, *options), end="", flush=True)


def measure(arguments: argparse.Namespace) -> None:
    """Prints the shares of one network's step."""
    from models.finetuning import runtime

    name, size, batch, most = arguments.one, arguments.size, arguments.batch, arguments.most
    policy = runtime.start(arguments.precision, 0)
    import numpy as np

    from benchmarks.training import network_for

    network, _, _ = network_for(name, size, policy)
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    targets = np.eye(10, dtype=np.float32)[np.arange(batch) % 10]

    def step() -> None:
        if arguments.work == "training":
            network.train_on_batch(images, targets)
        else:
            network.predictor.predict_on_batch(images)

    for _ in range(3):
        step()
    taken: Counter[str] = Counter()  # seconds
    for plane in profiled(step).planes:
        for event in (event for line in plane.lines for event in line.events):
            if match := OPERATION.fullmatch(plane.event_metadata[event.metadata_id].name):
                taken[match[1]] += event.duration_ps / 1e12
    every = sum(taken.values())
    products = sum(count for operation, count in taken.items() if PRODUCTS.search(operation))
    print(f"{name}: convolutions and products {products / every:.1%} of {every:.2f} s of operations")
    others = [(operation, count) for operation, count in taken.most_common() if not PRODUCTS.search(operation)]
    print("  " + ", ".join(f"{operation} {count / every:.1%}" for operation, count in others[:most]), flush=True)


if __name__ == "__main__":
    main()
