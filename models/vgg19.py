"""VGG19 (Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556).

About a quarter longer than models/vgg16.py by its operations; not timed.

112x144 pixels, BGR minus the ImageNet mean, 20.0 million parameters: VGG16 with one convolution more in each
of its last three blocks. No BatchNorm: a rate that is too high ruins it. All settings are carried over from
models/vgg16.py and not measured here.
"""

import dataclasses
import sys
from pathlib import Path

if __name__ == "__main__":  # the packages of this repository, in place of those in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from models.vgg16 import ARCHITECTURE as VGG16

ARCHITECTURE = dataclasses.replace(
    VGG16,
    name="vgg19",
    builder="keras.applications:VGG19",
    published_weights="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    gigaflops=39.0,
    parameters=20_024_384,
)

if __name__ == "__main__":
    from pipeline.train import main

    main(ARCHITECTURE)
