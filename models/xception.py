"""Xception (Chollet 2016, https://arxiv.org/abs/1610.02357).

About 24 minutes a fold of 2,100 images on 2 cores, by its operations; not timed.

240x320 pixels (the shape of the photographs), [-1, 1] RGB, 20.9 million parameters. AdamW at 3e-4, 4 epochs:
carried over from InceptionV3 and MobileNetV2 (docs/experiments.md), not measured here.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # the packages of this repository, in place of those in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.settings import ImageSize
from models.finetuning.architecture import Architecture, Recipe

ARCHITECTURE = Architecture(
    name="xception",
    builder="keras.applications:Xception",
    preprocessing="tf",
    published_weights="xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
    gigaflops=9.1,
    parameters=20_861_480,
    least_size=71,
    recipe=Recipe(image_size=ImageSize(240, 320), learning_rate=3e-4),
    quick={"image_size": ImageSize(72, 96)},
)

if __name__ == "__main__":
    from pipeline.train import main

    main(ARCHITECTURE)
