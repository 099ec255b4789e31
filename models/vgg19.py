"""VGG19 (Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556).

    python models/vgg19.py --fold 0

About a quarter longer than models/vgg16.py by its operations; not timed.

112x144 pixels, BGR minus the ImageNet mean, 20.0 million parameters: VGG16 with one convolution more in each
of its last three blocks. No BatchNorm: a rate that is too high ruins it. All settings are carried over from
models/vgg16.py and not measured here.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the rooms, when this file is run as a script

from common.settings import ImageSize
from models.finetuning.architecture import Architecture
from models.finetuning.command import main
from models.finetuning.recipe import Recipe

ARCHITECTURE = Architecture(
    name="vgg19",
    builder="keras.applications:VGG19",
    preprocessing="caffe",
    published_weights="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    gigaflops=39.0,
    parameters=20_024_384,
    recipe=Recipe(
        image_size=ImageSize(112, 144),  # 224x224 takes four times as long; not measured
        pooled_layers=("block3_pool", "block4_pool", "block5_pool"),
        trainable="from block3_conv1",
        dropout=0.2,
        epochs=6,
        learning_rate=2e-4,
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
)

if __name__ == "__main__":
    main(ARCHITECTURE)
