"""Training and prediction on a GPU through JAX: images/s of the three networks at 224x224, and the share of its peak.

    KERAS_BACKEND=jax python -m benchmarks.gpu --peak 989                  an H100 (dense bfloat16, TFLOP/s); 312: A100
    KERAS_BACKEND=jax python -m benchmarks.gpu --data DIR --workers 16     with the ceiling of the input pipeline

Needs `pip install "jax[cuda13]"` in the environment (see JAX's own instructions) and no TensorFlow. "of matmul" is the
share of a product of two 8192 x 8192 matrices that ran on it a moment before, "of peak" that of --peak. The pipeline's
ceiling is how many images/s the threads decode, once, and augment from the cache, with no network behind them.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.common import NETWORKS, ROOT, data_folder, figures, machine, matmul_peak, parser, tell

PASSES = 3  # that a training step costs: forward, and backward to activations and to weights


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--networks", nargs="+", default=list(NETWORKS))
    command.add_argument("--batch", type=int, default=128)
    command.add_argument("--size", type=int, default=224)
    command.add_argument("--steps", type=int, default=30)
    command.add_argument("--precision", default="auto")
    command.add_argument("--peak", type=float, default=0.0, help="of the chip, TFLOP/s")
    command.add_argument("--side", type=int, default=8192, help="of the matrices")
    command.add_argument("--data", type=data_folder, help="a folder in Kaggle's layout, for the pipeline's ceiling")
    command.add_argument("--cache", type=Path, default=ROOT / "cache")
    command.add_argument("--workers", type=int, default=16)
    command.add_argument("--one", help=argparse.SUPPRESS)  # in a process of its own
    arguments = command.parse_args()
    if arguments.one:
        measure(arguments)
        return
    print(machine())
    print(f"{'':14}{'training':>12}{'of matmul':>12}{'of peak':>10}{'prediction':>12}")
    for name in arguments.networks:
        options = [f"--{x}={getattr(arguments, x)}" for x in ("batch", "size", "steps", "precision", "side")]
        own = figures("-m", "benchmarks.gpu", "--one", name, *options)
        of_peak = f"{own['used'] / arguments.peak:10.1%}" if arguments.peak else f"{'':10}"
        shares = f"{own['used'] / own['matmul']:12.1%}{of_peak}"
        print(f"{name:14}{own['training']:8.1f}/s  {shares}{own['prediction']:10.1f}/s", flush=True)
    if arguments.data:
        pipeline(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Images/s and TFLOP/s of one network; the step on one batch, which is sent to the device each time."""
    from models.finetuning import architecture as zoo
    from models.finetuning import runtime

    policy = runtime.start(arguments.precision, 0)
    import numpy as np

    from benchmarks.training import network_for, prediction_rate, step_seconds

    matmul = matmul_peak({"mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}.get(policy, policy), arguments.side)
    network, _, _ = network_for(arguments.one, arguments.size, policy)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (arguments.batch, arguments.size, arguments.size, 3), dtype=np.uint8)
    targets = np.eye(10, dtype=np.float32)[np.arange(arguments.batch) % 10]
    training = arguments.batch / step_seconds(network, ((images, targets) for _ in range(2 + arguments.steps)))
    operations = PASSES * zoo.find(arguments.one).gigaflops * arguments.size**2 / 224**2
    predicted = prediction_rate(network, arguments.steps, arguments.batch)
    tell(training=training, prediction=predicted, used=operations * training / 1000, matmul=matmul)


def pipeline(arguments: argparse.Namespace) -> None:
    """Prints images/s of decoding, and of augmentation from the cache, with the full default augmentation."""
    import numpy as np

    from common.settings import ImageSize
    from preprocessing import dataset
    from preprocessing.batches import training_batches, training_order
    from preprocessing.images import ImageStore, read_image
    from preprocessing.settings import Augmentation

    found = dataset.load(arguments.data, arguments.cache)
    paths = [found.train_path(row.img, row.classname) for row in found.train.itertuples()]
    size = ImageSize(arguments.size, arguments.size)
    decoded = _rate(lambda path: read_image(path, size), paths[:2000], arguments.workers)
    store = ImageStore(paths, size, arguments.cache, found.fingerprint, 2**36)
    store.prepare(arguments.workers)
    order = training_order(np.arange(len(store)), arguments.batch, 0, 1)
    targets = np.zeros((len(store), 10), np.float32)
    begun = time.perf_counter()
    for _ in training_batches(store, targets, order, Augmentation(), 0, 1, arguments.workers):
        pass
    augmented = order.size / (time.perf_counter() - begun)
    print(f"pipeline, {arguments.workers} threads: {decoded:.0f} images/s decoded, {augmented:.0f} augmented")


def _rate(work: Any, items: list[Any], workers: int) -> float:
    from concurrent.futures import ThreadPoolExecutor

    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, items))
    return len(items) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
