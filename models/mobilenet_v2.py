"""MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381).

About 5 minutes a fold of 2,100 images on one core. On the README's practice set, 2026-11-21: 0.375 out of fold (single
networks), 0.242 on the test drivers (mean of five folds).

224x224 pixels, [-1, 1] RGB, 2.3 million parameters. AdamW at 5e-4, 5 epochs: ten times the
rate that is usual for fine-tuning, and better by far on drivers that it never saw (docs/experiments.md).
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # the packages of this repository, in place of those in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.settings import ImageSize
from models.finetuning.architecture import Architecture, Recipe

ARCHITECTURE = Architecture(
    name="mobilenet_v2",
    builder="keras.applications:MobileNetV2",
    preprocessing="tf",
    published_weights="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    gigaflops=0.6,
    slowdown=5.0,
    parameters=2_257_984,
    recipe=Recipe(learning_rate=5e-4, epochs=5),
    quick={"image_size": ImageSize(96, 128)},
    bottleneck={"pooled_layers": ("block_6_expand_relu", "block_13_expand_relu", "out_relu")},
)

if __name__ == "__main__":
    from pipeline.train import main

    main(ARCHITECTURE)
