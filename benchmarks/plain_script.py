"""The fine-tuning script of the tutorials, as a fair user would write it, to measure against.

    python benchmarks/plain_script.py --data DIR --network InceptionV3 --images 128

Images loaded to float32 arrays with OpenCV at 224x224, `keras.applications` with a new head, everything trainable, SGD
with Nesterov momentum at 1e-3, `fit` in float32, batches of 32. Prints images/s, after some steps that compile.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2
import keras
import numpy as np
import pandas as pd

MODULES = {"VGG16": "vgg16", "InceptionV3": "inception_v3", "ResNet50": "resnet50"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", choices=tuple(MODULES), default="InceptionV3")
    parser.add_argument("--images", type=int, default=128)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    table = pd.read_csv(arguments.data / "driver_imgs_list.csv").sample(arguments.images, random_state=0)
    images = []
    for row in table.itertuples():
        image: Any = cv2.imread(str(arguments.data / "imgs" / "train" / row.classname / row.img))
        images.append(cv2.cvtColor(cv2.resize(image, (224, 224)), cv2.COLOR_BGR2RGB))
    applications = getattr(keras.applications, MODULES[arguments.network])
    inputs = applications.preprocess_input(np.array(images, dtype=np.float32))
    labels = keras.utils.to_categorical(table["classname"].str[1].astype(int), 10)

    backbone = getattr(applications, arguments.network)(weights=None, include_top=False, input_shape=(224, 224, 3))
    features = keras.layers.GlobalAveragePooling2D()(backbone.output)
    outputs = keras.layers.Dense(10, activation="softmax")(keras.layers.Dropout(0.5)(features))
    model = keras.Model(backbone.input, outputs)
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True)
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    model.fit(inputs[:64], labels[:64], batch_size=32, epochs=1, verbose=0)
    begun = time.perf_counter()
    model.fit(inputs, labels, batch_size=32, epochs=1, verbose=0)
    print(f"images/s {len(inputs) / (time.perf_counter() - begun):.2f}")


if __name__ == "__main__":
    main()
