"""How fast networks train and predict here: against the script of the tutorials, and against a batch in memory.

    python -m benchmarks.training --data DIR                          the three networks at 224x224, all layers
    python -m benchmarks.training --data DIR --networks resnet50 --skip-plain

For each network, one after the other, so that the ratios are of one run: the plain script (float32, `fit` and
`predict`), then this repository's step on one batch in memory and with the real pipeline before it (decoded once, full
default augmentation), in turns. All layers train, BatchNorm is in inference mode, the batch is 32. "of peak": the
operations of the training step against a product of two 4096 x 4096 matrices in the same precision. About 3 minutes a
network on 2 cores.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.common import NETWORKS, ROOT, data_folder, figures, machine, matmul_peak, parser, tell

BATCH = 32
WARM = 2  # steps that are not timed: the first one compiles
PASSES = 3  # that a training step costs: forward, and backward to activations and to weights


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=data_folder, required=True, help="a folder in Kaggle's layout")
    command.add_argument("--cache", type=Path, default=ROOT / "cache")
    command.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=tuple(NETWORKS))
    command.add_argument("--steps", type=int, default=6, help="of each turn")
    command.add_argument("--turns", type=int, default=2, help="of memory and pipeline")
    command.add_argument("--plain-images", type=int, default=96, help="that the plain script is timed with")
    command.add_argument("--size", type=int, default=224, help="of the images here; the plain script has 224")
    command.add_argument("--precision", default="auto")
    command.add_argument("--skip-plain", action="store_true")
    command.add_argument("--one", choices=tuple(NETWORKS), help=argparse.SUPPRESS)  # in a process of its own
    arguments = command.parse_args()
    if arguments.one:
        measure(arguments.one, arguments)
        return
    print(machine())
    print(f"{'images/s':14}{'training':^46}{'prediction':^24}")
    heads = ("plain", "here", "", "of memory", "of peak", "plain", "here", "")
    print(
        f"{'':14}" + "".join(f"{head:>{width}}" for head, width in zip(heads, (8, 8, 8, 11, 11, 8, 8, 8), strict=True))
    )
    for name in arguments.networks:
        plain = {"training": float("nan"), "prediction": float("nan")}
        if not arguments.skip_plain:
            words = ["--data", arguments.data, "--network", NETWORKS[name], "--images", arguments.plain_images]
            plain = figures("-m", "benchmarks.plain_script", *words)
        options = [f"--{option}={getattr(arguments, option)}" for option in ("data", "cache", "steps", "turns", "size")]
        own = figures("-m", "benchmarks.training", "--one", name, "--precision", arguments.precision, *options)
        print(
            f"{name:14}{plain['training']:8.2f}{own['pipeline']:8.2f}{own['pipeline'] / plain['training']:7.1f}x"
            f"{own['pipeline'] / own['memory']:11.1%}{own['share']:11.1%}"
            f"{plain['prediction']:8.2f}{own['prediction']:8.2f}{own['prediction'] / plain['prediction']:7.1f}x",
            flush=True,
        )


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Images/s of training from memory and with the pipeline, of prediction, and the share of the peak."""
    from models.finetuning import architecture as zoo
    from models.finetuning import runtime

    policy = runtime.start(arguments.precision, 0)
    import numpy as np

    from preprocessing import dataset
    from preprocessing.batches import training_batches, training_order
    from preprocessing.images import ImageStore

    network, recipe, augmentation = network_for(name, arguments.size, policy)
    found = dataset.load(arguments.data, arguments.cache)
    rows = found.train.iloc[: 40 * BATCH]
    paths = [found.train_path(row.img, row.classname) for row in rows.itertuples()]
    store = ImageStore(paths, recipe.image_size, arguments.cache, found.fingerprint, 2**36)
    store.prepare(2, lambda line: None)
    targets = np.eye(10, dtype=np.float32)[rows["classname"].str[1].astype(int)]
    taken: dict[str, list[float]] = {"memory": [], "pipeline": []}
    for turn in range(arguments.turns):
        order = np.resize(training_order(np.arange(len(store)), BATCH, 0, turn), (WARM + arguments.steps, BATCH))
        first = next(training_batches(store, targets, order[:1], augmentation, 0, 1, 2))
        taken["memory"].append(step_seconds(network, (first for _ in order)))
        taken["pipeline"].append(
            step_seconds(network, training_batches(store, targets, order, augmentation, 0, 1 + turn, 2))
        )
    rates = {way: BATCH * len(every) / sum(every) for way, every in taken.items()}
    peak = matmul_peak("bfloat16" if policy == "mixed_bfloat16" else "float32")
    pixels = arguments.size**2 / 224**2
    share = PASSES * zoo.find(name).gigaflops * pixels * rates["memory"] / (1000 * peak)
    tell(**rates, prediction=prediction_rate(network, arguments.steps), share=share, peak=peak)


def network_for(name: str, size: int, policy: str) -> tuple[Any, Any, Any]:
    """A network of which all layers train, compiled, with its recipe and its augmentation."""
    from common.settings import ImageSize
    from models.finetuning import architecture as zoo
    from models.finetuning.network.build import build
    from models.finetuning.network.network import set_trainable
    from models.finetuning.training.optimisation import make_optimizer, stages

    settings = {"image_size": ImageSize(size, size), "trainable": "all", "pooled_layers": (), "batch_size": BATCH}
    recipe, augmentation = zoo.find(name).settings_for(settings)
    recipe = dataclasses.replace(recipe, head_start="random")
    network = build(zoo.find(name), recipe, "none", policy, 0)
    set_trainable(network, recipe, head_only=False)
    network.compile(make_optimizer(recipe, stages(recipe)[0], policy), recipe.label_smoothing)
    return network, recipe, augmentation


def step_seconds(network: Any, batches: Iterable[Any]) -> float:
    """Mean seconds of a step, of all but the first `WARM`."""
    begun, count = 0.0, 0
    for number, (images, wanted) in enumerate(batches):
        if number == WARM:
            begun = time.perf_counter()
        network.train_on_batch(images, wanted)
        count = number + 1 - WARM
    return (time.perf_counter() - begun) / count


def prediction_rate(network: Any, rounds: int, batch: int = 64) -> float:
    """Images/s of the predictor on a batch in memory."""
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (batch, *network.predictor.input_shape[1:]), dtype=np.uint8)
    network.predictor.predict_on_batch(images)
    begun = time.perf_counter()
    for _ in range(rounds):
        np.asarray(network.predictor.predict_on_batch(images)[0])
    return batch * rounds / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
