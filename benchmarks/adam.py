"""What Adam as one native operation a variable is worth, in a whole training step.

    python -m benchmarks.adam                                  inception_v3 by its defaults
    python -m benchmarks.adam --architecture mobilenet_v2

Trains two copies of a network on one batch, in turns: one with the native operation, one with Keras's dozen of
element-wise ones (`ScaledAdam` of models/finetuning/training/optimisation.py). Random weights and pixels; about two
minutes on 2 cores.
"""

import time

import numpy as np

from benchmarks.common import machine, parser

WARM = 2  # steps that are not timed: the first one compiles


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--architecture", default="inception_v3")
    command.add_argument("--steps", type=int, default=20)
    arguments = command.parse_args()
    print(machine())
    from models.finetuning import architecture as zoo
    from models.finetuning import runtime

    policy = runtime.start("auto", 0)
    from models.finetuning.network.build import build
    from models.finetuning.network.network import set_trainable
    from models.finetuning.training import optimisation

    native = optimisation.apply_adam
    updates = {"native": native, "element-wise": lambda *_: False}
    network = zoo.find(arguments.architecture)
    recipe, size = network.recipe, network.recipe.image_size
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (recipe.batch_size, size.height, size.width, 3), dtype=np.uint8)
    targets = np.eye(10, dtype=np.float32)[generator.integers(0, 10, recipe.batch_size)]
    copies = {}
    for name in updates:
        copies[name] = build(network, recipe, "none", policy, 0)
        set_trainable(copies[name], recipe, head_only=False)
        stage = optimisation.stages(recipe)[-1]
        copies[name].compile(optimisation.make_optimizer(recipe, stage, policy), recipe.label_smoothing)
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for step in range(WARM + arguments.steps):
        for name, update in updates.items():
            optimisation.apply_adam = update  # read when the first step is traced
            begun = time.perf_counter()
            copies[name].train_on_batch(images, targets)
            if step >= WARM:
                seconds[name].append(time.perf_counter() - begun)
    medians = {name: float(np.median(found)) for name, found in seconds.items()}
    ratios = np.array(seconds["element-wise"]) / np.array(seconds["native"])
    print(*(f"{name}: {found * 1000:.0f} ms a step" for name, found in medians.items()), sep="\n")
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"element-wise takes {middle:.3f} times as long (the middle half of the pairs: {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
