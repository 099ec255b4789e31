"""MobileNet (Howard et al. 2017, https://arxiv.org/abs/1704.04861).

About 4 minutes a fold of 2,100 images on 2 cores. On the README's practice set, 2026-11-21: 0.456 out of fold (single
networks), 0.328 on the test drivers (mean of five folds).

224x224 pixels, [-1, 1] RGB, 3.2 million parameters. AdamW at 3e-4, 5 epochs. mobilenet_v2's 5e-4 is as good at full
size and length, and breaks where images are small or epochs few; 2e-4 is not better (docs/experiments.md).
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # the packages of this repository, in place of those in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.settings import ImageSize
from models.finetuning.architecture import Architecture, Recipe

ARCHITECTURE = Architecture(
    name="mobilenet",
    builder="keras.applications:MobileNet",
    preprocessing="tf",
    published_weights="mobilenet_1_0_224_tf_no_top.h5",
    gigaflops=1.1,
    slowdown=3.0,
    parameters=3_228_864,
    recipe=Recipe(learning_rate=3e-4, epochs=5),
    quick={"image_size": ImageSize(96, 128)},
    bottleneck={"pooled_layers": ("conv_pw_5_relu", "conv_pw_11_relu", "conv_pw_13_relu")},
)

if __name__ == "__main__":
    from pipeline.train import main

    main(ARCHITECTURE)
