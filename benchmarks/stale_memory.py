"""Whether a training step reads memory that nobody wrote, and what it costs to clear all memory.

    python -m benchmarks.stale_memory                                  InceptionV3 at 240x320, all layers, bfloat16
    python -m benchmarks.stale_memory --architecture resnet50 --image-size 224x224

Takes the gradients of one batch again and again, while malloc gives out memory full of NaN, of 0.75 and of zeros, in
turns. Any NaN, or any bit that differs between the last two, comes from memory that no one wrote. What training does
about it is `clear_new_memory` of models/finetuning/runtime.py. Random weights and pixels; about a minute on 2 cores.
"""

import argparse
import dataclasses
import sys
import time
from typing import Any

from benchmarks.common import machine, parser

FILLS = {"NaN": 0xFF, "0.75": 0x3F, "zero": 0x00}  # every byte; so is every float of two or four bytes
BATCH, STEPS = 32, 3


def main() -> None:
    from common.settings import ImageSize

    command = parser(__doc__)
    command.add_argument("--architecture", default="inception_v3")
    command.add_argument("--image-size", type=ImageSize.parse, default=ImageSize(240, 320), metavar="HxW")
    command.add_argument("--trainable", default="all")
    command.add_argument("--precision", default="mixed_bfloat16")
    command.add_argument("--turns", type=int, default=6)
    arguments = command.parse_args()
    print(machine())
    step, names = make_step(arguments)
    measure(step, names, arguments.turns)


def make_step(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """A function that returns a loss and the gradients of every kernel that trains, and the kernels' names."""
    from models.finetuning import architecture as zoo
    from models.finetuning import runtime

    policy = runtime.start(arguments.precision, 0)
    import keras
    import numpy as np
    import tensorflow

    from models.finetuning.network.build import build
    from models.finetuning.network.network import set_trainable

    recipe = zoo.find(arguments.architecture).recipe
    recipe = dataclasses.replace(recipe, image_size=arguments.image_size, trainable=arguments.trainable)
    network = build(zoo.find(arguments.architecture), recipe, "none", policy, 0)
    set_trainable(network, recipe, head_only=False)
    generator = np.random.default_rng(0)
    size = arguments.image_size
    images = generator.integers(0, 256, (BATCH, size.height, size.width, 3), dtype=np.uint8)
    targets = np.eye(10, dtype=np.float32)[generator.integers(0, 10, BATCH)]
    loss_of = keras.losses.CategoricalCrossentropy(from_logits=True)
    variables = network.training.trainable_variables

    @tensorflow.function
    def gradients() -> Any:
        with tensorflow.GradientTape() as tape:
            outputs = network.training(tensorflow.constant(images), training=False)
            loss = loss_of(targets, outputs[0] if len(network.loss_weights) > 1 else outputs)
        return loss, tape.gradient(loss, [variable.value for variable in variables])

    def step() -> list[Any]:
        loss, found = gradients()
        return [np.asarray(loss), *(np.asarray(one) for one in found if one is not None)]

    used = [variable.path for variable, one in zip(variables, gradients()[1], strict=True) if one is not None]
    return step, ["loss", *used]


def measure(step: Any, names: list[str], turns: int) -> None:
    """Prints, for each kind of old memory, what became NaN, and what a step takes."""
    import numpy as np

    from models.finetuning import runtime

    results: dict[str, list[Any]] = {}
    seconds: dict[str, list[float]] = {fill: [] for fill in ("as it is", *FILLS)}
    for _ in range(turns):
        for fill, taken in seconds.items():
            done = runtime.clear_new_memory(FILLS.get(fill))
            if not done:
                sys.exit("the C library here cannot fill memory: nothing to measure")
            step()  # what was given out before is free again after this one
            for _ in range(STEPS):
                begun = time.perf_counter()
                results[fill] = step()
                taken.append(time.perf_counter() - begun)
    for fill in FILLS:
        spoilt = [name for name, one in zip(names, results[fill], strict=True) if not np.isfinite(one).all()]
        print(f"new memory full of {fill:4}: {len(spoilt)} of {len(names)} arrays have a NaN", *spoilt[:6])
    same = all(np.array_equal(one, other) for one, other in zip(results["0.75"], results["zero"], strict=True))
    print("0.75 and zero give", "the same bits" if same else "DIFFERENT results")
    plain, cleared = (float(np.median(seconds[fill])) for fill in ("as it is", "zero"))
    print(f"a step: {plain:.2f} s with memory as it is, {cleared:.2f} s with cleared memory, {cleared / plain:.2f}x")


if __name__ == "__main__":
    main()
