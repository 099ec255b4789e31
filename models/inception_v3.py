"""InceptionV3 (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567).

About 3 minutes a fold on 2 cores. README's practice set: 0.352 out of fold, 0.262 on the test drivers.
160x208 pixels (nearly their shape), [-1, 1] RGB. The head sees the pooled outputs of mixed4, mixed7 and mixed8, where
the network is cut: 10.7 million parameters. AdamW at 6e-4.

Measured with a copy of the 2015 weights that lacks two kernels behind mixed8, hence the cut. For complete weights
(Keras's own) it is reasoned, not measured: mixed9 and mixed10 are the most specific to ImageNet's classes, and make
what trains a fifth dearer; --pooled-layers mixed4,mixed7,mixed10 keeps them.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # the packages of this repository, in place of those in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.settings import ImageSize
from models.finetuning.architecture import Architecture, Recipe

ARCHITECTURE = Architecture(
    name="inception_v3",
    builder="keras.applications:InceptionV3",
    preprocessing="tf",
    published_weights="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    gigaflops=5.7,
    parameters=21_802_784,
    least_size=75,
    recipe=Recipe(
        image_size=ImageSize(160, 208),  # 240x320 takes twice as long and was no better on a fold
        pooled_layers=("mixed4", "mixed7", "mixed8"),  # without mixed4 as good in the end, but 0.14 worse at the start
        learning_rate=6e-4,
        trainable="from mixed2",  # as good as all of it, and 1.8 times as fast: the early layers are the costly ones
    ),
    scratch={"head_start": "zero", "pooled_layers": ("mixed7", "mixed8")},
    quick={"image_size": ImageSize(75, 100)},
    demo_scratch={"pooled_layers": ("mixed2", "mixed4"), "epochs": 6},
    bottleneck={"pooled_layers": ("mixed4", "mixed7", "mixed8")},
)

if __name__ == "__main__":
    from pipeline.train import main

    main(ARCHITECTURE)
