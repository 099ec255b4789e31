"""VGG16 (Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556).

    python models/vgg16.py --fold 0

About 23 minutes a fold of 2,100 images on 2 cores, by the rate of its step.
Not measured here with ImageNet weights; about 0.34 was published for the mean of its folds on the complete data.

224x224 pixels, BGR minus the ImageNet mean, 14.7 million parameters. No BatchNorm: a rate that is too high ruins it.
AdamW at 3e-5, 4 epochs: reasoned, the middle of the published rates for Adam, 1e-5 to 1e-4. Networks with BatchNorm
learned far more here at ten times such rates (docs/experiments.md), so try 1e-4 too. Batch, augmentation, smoothing and
dropout are carried over from them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the rooms, when this file is run as a script

from common.settings import ImageSize
from models.finetuning.architecture import Architecture
from models.finetuning.command import main
from models.finetuning.recipe import Recipe

ARCHITECTURE = Architecture(
    name="vgg16",
    builder="keras.applications:VGG16",
    preprocessing="caffe",
    published_weights="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    gigaflops=30.7,
    parameters=14_714_688,
    recipe=Recipe(learning_rate=3e-5),
    # Only a nearly right and small head sends back a gradient that random layers without BatchNorm start from.
    scratch={"head_start": "logistic", "head_regularisation": 1e-4, "learning_rate": 1e-4, "dropout": 0.0},
    quick={"image_size": ImageSize(48, 64)},
    quick_scratch={"augmentation": 0.4, "label_smoothing": 0.0},
)

if __name__ == "__main__":
    main(ARCHITECTURE)
