"""VGG16 (Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556).

Two folds of 2,100 images take about 30 minutes side by side on 2 busy cores, at the lowest priority.
Held-out log loss on the sample's five folds: 0.611, 0.655, 0.868, 0.454 and 0.729, or 0.658 over all images; 0.677
without test-time augmentation (2 cores of an Intel Xeon with AMX, 2026-11-29; docs/experiments.md). The weights
were those of an edge detector whose training started from ImageNet's VGG16. ImageNet's own are better in the upper
layers and were not available. About 0.34 was published for the mean of its folds on the complete data, at 224x224.

112x144 pixels, BGR minus the ImageNet mean, 14.7 million parameters. No BatchNorm: a rate that is too high ruins it.
The head sees the pooled outputs of block3, block4 and block5. AdamW at 2e-4, 6 epochs, blocks 1 and 2 frozen. A
prediction is the mean over an image and two augmented copies.
With a GPU and ImageNet's weights try --image-size 224x224 too.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # the packages of this repository, in place of those in this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.settings import ImageSize
from models.finetuning.architecture import Architecture, Recipe

ARCHITECTURE = Architecture(
    name="vgg16",
    builder="keras.applications:VGG16",
    preprocessing="caffe",
    published_weights="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    gigaflops=30.7,
    parameters=14_714_688,
    recipe=Recipe(
        image_size=ImageSize(112, 144),  # 224x224 takes four times as long; not measured
        pooled_layers=("block3_pool", "block4_pool", "block5_pool"),
        trainable="from block3_conv1",
        dropout=0.2,
        epochs=6,
        learning_rate=2e-4,
        tta=2,
    ),
    # Only a nearly right and small head sends back a gradient that random layers without BatchNorm start from.
    scratch={
        "image_size": ImageSize(224, 224),
        "pooled_layers": (),
        "head_start": "logistic",
        "head_regularisation": 1e-4,
        "learning_rate": 1e-4,
        "dropout": 0.0,
    },
    quick={"image_size": ImageSize(48, 64)},
    quick_scratch={"augmentation": 0.4, "label_smoothing": 0.0},
    # Without BatchNorm, random weights hardly learn within minutes: the demo ends early.
    demo_scratch={"pooled_layers": ("block2_pool", "block3_pool"), "learning_rate": 3e-4, "epochs": 2},
)

if __name__ == "__main__":
    from pipeline.train import main

    main(ARCHITECTURE)
