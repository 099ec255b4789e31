"""EfficientNetV2-S (Tan & Le 2021, https://arxiv.org/abs/2104.00298).

About 12 minutes a fold of 2,100 images on 2 cores, by its operations; not timed.

240x320 pixels (the shape of the photographs), 0 to 255 RGB, which the network itself brings to [-1, 1]; 20.3 million
parameters. AdamW at 3e-4, 4 epochs: carried over from InceptionV3 and MobileNetV2
(docs/experiments.md), not measured here.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # the packages of this repository, in place of those in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.settings import ImageSize
from models.finetuning.architecture import Architecture, Recipe

ARCHITECTURE = Architecture(
    name="efficientnet_v2_s",
    builder="keras.applications:EfficientNetV2S",
    preprocessing="included",
    published_weights="efficientnetv2-s_notop.h5",
    gigaflops=5.7,
    parameters=20_331_360,
    recipe=Recipe(image_size=ImageSize(240, 320), learning_rate=3e-4),
    quick={"image_size": ImageSize(72, 96)},
)

if __name__ == "__main__":
    from pipeline.train import main

    main(ARCHITECTURE)
