"""How fast networks train here: against the script of the tutorials, and against the same step fed from memory.

    python benchmarks/training.py --data DIR          vgg16, inception_v3 and resnet50 at 224x224, all layers
    python benchmarks/training.py --data DIR --networks resnet50 --skip-plain

For each network, one after the other in this order, so that the ratios are of one run: the plain script (float32), the
step of this repository on one batch in memory, and the same with the real pipeline in front (decoded once, augmented).
"""

import argparse
import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

NAMES = {"vgg16": "VGG16", "inception_v3": "InceptionV3", "resnet50": "ResNet50"}
BATCH = 32
WARM = 2  # steps that are not timed: the first one compiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder in Kaggle's layout")
    parser.add_argument("--cache", type=Path, default=ROOT / "cache")
    parser.add_argument("--networks", nargs="+", default=list(NAMES), choices=tuple(NAMES))
    parser.add_argument("--steps", type=int, default=8, help="that are timed")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--skip-plain", action="store_true")
    parser.add_argument("--one", choices=tuple(NAMES), help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one, arguments)
        return
    print(f"{'network':14}{'plain':>8}{'memory':>9}{'pipeline':>10}  images/s   pipeline/plain  pipeline/memory")
    for name in arguments.networks:
        plain = float("nan")
        if not arguments.skip_plain:
            command = ["benchmarks/plain_script.py", "--data", str(arguments.data), "--network", NAMES[name]]
            plain = _figures(command)[0]
        options = ["--cache", str(arguments.cache), "--steps", str(arguments.steps), "--precision", arguments.precision]
        memory, pipeline = _figures(["benchmarks/training.py", "--data", str(arguments.data), "--one", name, *options])
        print(
            f"{name:14}{plain:8.2f}{memory:9.2f}{pipeline:10.2f}{'':12}{pipeline / plain:12.1f}x"
            f"{pipeline / memory:16.1%}",
            flush=True,
        )


def _figures(command: list[str]) -> list[float]:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    line = next(line for line in done.stdout.splitlines() if line.startswith("images/s"))
    return [float(word) for word in line.split()[1:]]


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Prints images/s from memory and with the pipeline."""
    from models.finetuning import architecture as zoo
    from models.finetuning import runtime
    from models.finetuning.recipe import Kind
    from preprocessing.settings import ImageSize

    policy, _ = runtime.start(arguments.precision, 0)
    import numpy as np

    from models.finetuning.network import build, set_trainable
    from models.finetuning.optimisation import make_optimizer, stages
    from preprocessing import dataset
    from preprocessing.batches import training_batches, training_order
    from preprocessing.images import ImageStore

    settings = {"image_size": ImageSize(224, 224), "trainable": "all", "pooled_layers": (), "batch_size": BATCH}
    recipe, augmentation = zoo.find(name).settings_for(Kind(), settings)
    recipe = dataclasses.replace(recipe, head_start="random")
    network = build(zoo.find(name), recipe, "none", policy, 0)
    set_trainable(network, recipe, head_only=False)
    network.compile(make_optimizer(recipe, stages(recipe)[0], policy), recipe.label_smoothing)

    found = dataset.load(arguments.data, arguments.cache, progress=False)
    rows = found.train.iloc[: 40 * BATCH]
    paths = [found.train_path(row.img, row.classname) for row in rows.itertuples()]
    store = ImageStore(paths, recipe.image_size, arguments.cache, found.fingerprint, 2**36)
    store.prepare(2, lambda line: None)
    targets = np.eye(10, dtype=np.float32)[rows["classname"].str[1].astype(int)]
    order = training_order(np.arange(len(store)), BATCH, 0, 1)[: WARM + arguments.steps]

    def rate(batches: Any) -> float:
        begun = 0.0
        for number, (images, wanted) in enumerate(batches):
            if number == WARM:
                begun = time.perf_counter()
            network.train_on_batch(images, wanted)
        return float((len(order) - WARM) * BATCH / (time.perf_counter() - begun))

    first = next(training_batches(store, targets, order[:1], augmentation, 0, 1, 2))
    memory = rate(first for _ in order)
    pipeline = rate(training_batches(store, targets, order, augmentation, 0, 1, 2))
    print(f"images/s {memory:.3f} {pipeline:.3f}")


if __name__ == "__main__":
    main()
