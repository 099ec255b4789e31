"""ConvNeXt-T (Liu et al. 2022, https://arxiv.org/abs/2201.03545).

About 14 minutes a fold of 2,100 images on 2 cores, by its operations; not timed.

224x224 pixels, 0 to 255 RGB, which the network itself standardises; 27.8 million parameters. LayerNorm, no BatchNorm.
AdamW at 5e-5, the paper's rate for fine-tuning, 4 epochs: not measured here.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # the packages of this repository, in place of those in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.settings import ImageSize
from models.finetuning.architecture import Architecture, Recipe

ARCHITECTURE = Architecture(
    name="convnext_tiny",
    builder="keras.applications:ConvNeXtTiny",
    preprocessing="included",
    published_weights="convnext_tiny_notop.h5",
    gigaflops=8.5,
    parameters=27_820_128,
    recipe=Recipe(learning_rate=5e-5),
    quick={"image_size": ImageSize(64, 96)},
)

if __name__ == "__main__":
    from pipeline.train import main

    main(ARCHITECTURE)
