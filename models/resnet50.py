"""ResNet50 (He et al. 2015, https://arxiv.org/abs/1512.03385).

About 8 minutes a fold of 2,100 images on 2 cores, by the rate of its step.
Not measured here with ImageNet weights; 0.289 was published for the best single network on the complete data.

224x224 pixels, BGR minus the ImageNet mean, 23.6 million parameters. AdamW at 3e-4, 4 epochs, BatchNorm frozen:
carried over from InceptionV3 and MobileNetV2 (docs/experiments.md), as are batch, augmentation, smoothing and dropout;
not measured here.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # the packages of this repository, in place of those in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.settings import ImageSize
from models.finetuning.architecture import Architecture, Recipe

ARCHITECTURE = Architecture(
    name="resnet50",
    builder="keras.applications:ResNet50",
    preprocessing="caffe",
    published_weights="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
    gigaflops=7.7,
    parameters=23_587_712,
    recipe=Recipe(learning_rate=3e-4),
    scratch={"learning_rate": 7e-4},
    quick={"image_size": ImageSize(60, 80)},
    demo_scratch={"pooled_layers": ("conv3_block4_out", "conv4_block3_out"), "augmentation": 0.3, "epochs": 4},
)

if __name__ == "__main__":
    from pipeline.train import main

    main(ARCHITECTURE)
