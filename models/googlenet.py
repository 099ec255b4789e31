"""GoogLeNet, the first Inception (Szegedy et al. 2014, https://arxiv.org/abs/1409.4842).

About 5 minutes a fold of 2,100 images on 2 cores, by its operations; not timed.

224x224 pixels, BGR minus the ImageNet mean, 6.0 million parameters; no BatchNorm. AdamW at 5e-5, 4 epochs (reasoned,
not measured here), with the paper's two auxiliary heads in training. Keras has no weights of it:
models/finetuning/network/googlenet.py imports them.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # the packages of this repository, in place of those in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.settings import ImageSize
from models.finetuning.architecture import Architecture, Recipe

ARCHITECTURE = Architecture(
    name="googlenet",
    builder="models.finetuning.network.googlenet:GoogLeNet",
    preprocessing="caffe",
    gigaflops=3.2,
    parameters=5_973_552,
    least_size=31,
    auxiliary_weight=0.3,
    importer="models.finetuning.network.googlenet",
    recipe=Recipe(learning_rate=5e-5),
    # Only a head scaled to its small differences between images sends back a gradient that it can start from.
    scratch={"head_start": "logistic", "learning_rate": 1e-4, "dropout": 0.0, "label_smoothing": 0.0},
    quick={"image_size": ImageSize(64, 85)},
    quick_scratch={"epochs": 11},
)

if __name__ == "__main__":
    from pipeline.train import main

    main(ARCHITECTURE)
