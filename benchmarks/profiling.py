"""What a training step spends its time on: convolutions and matrix products, and everything else, by operation.

    python -m benchmarks.profiling                                   the three networks at 224x224, all layers, batch 32
    python -m benchmarks.profiling --networks resnet50 --most 12

Asks TensorFlow for the start and the end of each operation of one step, after some that compile. Operations run beside
each other, so shares are of the sum of their times. About a minute a network on 2 cores.
"""

import re
from collections import Counter

from benchmarks.common import NETWORKS, machine, parser, run

PRODUCTS = re.compile(r"Conv2D|DepthwiseConv|MatMul|BatchMatMul|Einsum")


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--networks", nargs="+", default=list(NETWORKS))
    command.add_argument("--size", type=int, default=224)
    command.add_argument("--batch", type=int, default=32)
    command.add_argument("--most", type=int, default=8, help="operations that are listed")
    command.add_argument("--precision", default="auto")
    command.add_argument("--one", help="one network, in this process")
    arguments = command.parse_args()
    if arguments.one:
        measure(arguments.one, arguments.size, arguments.batch, arguments.precision, arguments.most)
        return
    print(machine(), flush=True)
    for name in arguments.networks:
        options = [f"--{x}={getattr(arguments, x)}" for x in ("size", "batch", "most", "precision")]
        print(run("-m", "benchmarks.profiling", "--one", name, *options), end="", flush=True)


def measure(name: str, size: int, batch: int, precision: str, most: int) -> None:
    """Prints the shares of one network's step."""
    from models.finetuning import runtime

    policy, _ = runtime.start(precision, 0)
    import numpy as np
    from tensorflow.python.eager import context  # what tf.profiler writes needs another package to be read

    from benchmarks.training import network_for

    network, _, _ = network_for(name, size, policy)
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    targets = np.eye(10, dtype=np.float32)[np.arange(batch) % 10]
    for _ in range(3):
        network.train_on_batch(images, targets)
    context.enable_run_metadata()
    network.train_on_batch(images, targets)
    found = context.export_run_metadata()
    taken: Counter[str] = Counter()
    for device in found.step_stats.dev_stats:
        for node in device.node_stats:
            label = re.search(r"= (\w+)\(", node.timeline_label) or re.search(r":(\w+)$", node.node_name)
            if label and label[1] not in ("PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf"):
                taken[label[1]] += node.op_end_rel_micros - node.op_start_rel_micros
    every = sum(taken.values())
    products = sum(count for operation, count in taken.items() if PRODUCTS.search(operation))
    print(f"{name}: convolutions and products {products / every:.1%} of {every / 1e6:.2f} s of operations")
    others = [(operation, count) for operation, count in taken.most_common() if not PRODUCTS.search(operation)]
    print("  " + ", ".join(f"{operation} {count / every:.1%}" for operation, count in others[:most]), flush=True)


if __name__ == "__main__":
    main()
