"""The fine-tuning script of the tutorials, as a fair user would write it, to measure against.

    python -m benchmarks.plain_script --data DIR --network InceptionV3 --images 128        images/s
    python -m benchmarks.plain_script --data DIR --folds runs/NAME/folds.csv --epochs 4    a fold and its losses

Images loaded to float32 arrays with OpenCV at 224x224, `keras.applications` with a new head, everything trainable
(BatchNorm too), SGD with Nesterov momentum at 1e-3, `fit` in float32. It knows nothing of this repository.
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
    begun = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", choices=tuple(MODULES), default="InceptionV3")
    parser.add_argument("--weights", help="a .weights.h5 file of the network without its top [random weights]")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=128, help="that training and prediction are timed with")
    parser.add_argument("--folds", type=Path, help="a table img,subject,classname,fold: train on all folds but --fold")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    if arguments.folds:
        train_fold(arguments, begun)
    else:
        time_steps(arguments)


def load(data: Path, table: pd.DataFrame, network: str) -> tuple[np.ndarray, np.ndarray]:
    """All images at once, preprocessed, shape (images, 224, 224, 3), float32; and their labels, one-hot."""
    images = np.empty((len(table), 224, 224, 3), np.float32)
    for number, (img, classname) in enumerate(zip(table["img"], table["classname"], strict=True)):
        image: Any = cv2.imread(str(data / "imgs" / "train" / classname / img))
        images[number] = cv2.cvtColor(cv2.resize(image, (224, 224)), cv2.COLOR_BGR2RGB)
    inputs = getattr(keras.applications, MODULES[network]).preprocess_input(images)
    return inputs, keras.utils.to_categorical(table["classname"].str[1].astype(int), 10)


def build(network: str, weights: str | None) -> keras.Model:
    """The network with a new head, compiled."""
    applications = getattr(keras.applications, MODULES[network])
    backbone = getattr(applications, network)(weights=weights, include_top=False, input_shape=(224, 224, 3))
    features = keras.layers.GlobalAveragePooling2D()(backbone.output)
    outputs = keras.layers.Dense(10, activation="softmax")(keras.layers.Dropout(0.5)(features))
    model = keras.Model(backbone.input, outputs)
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True)
    model.compile(optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def time_steps(arguments: argparse.Namespace) -> None:
    """Images/s of `fit` and of `predict`, after a first batch that compiles."""
    table = pd.read_csv(arguments.data / "driver_imgs_list.csv")
    table = table.sample(min(arguments.images, len(table)), random_state=0)
    inputs, labels = load(arguments.data, table, arguments.network)
    model, first = build(arguments.network, arguments.weights), slice(0, arguments.batch)
    model.fit(inputs[first], labels[first], batch_size=arguments.batch, epochs=1, verbose=0)
    begun = time.perf_counter()
    model.fit(inputs, labels, batch_size=arguments.batch, epochs=1, verbose=0)
    training = time.perf_counter() - begun
    model.predict(inputs[first], verbose=0)
    begun = time.perf_counter()
    model.predict(inputs, verbose=0)
    predicting = time.perf_counter() - begun
    print(f"figures training={len(inputs) / training:.4f} prediction={len(inputs) / predicting:.4f}")


def train_fold(arguments: argparse.Namespace, begun: float) -> None:
    """Trains on all folds but one; says, after each epoch, the seconds so far and the held-out drivers' loss."""
    table = pd.read_csv(arguments.folds)
    inputs, labels = load(arguments.data, table[table["fold"] != arguments.fold], arguments.network)
    held_out, wanted = load(arguments.data, table[table["fold"] == arguments.fold], arguments.network)
    model = build(arguments.network, arguments.weights)
    for epoch in range(1, arguments.epochs + 1):
        model.fit(inputs, labels, batch_size=arguments.batch, epochs=1, verbose=0)
        loss, _ = model.evaluate(held_out, wanted, batch_size=arguments.batch, verbose=0)
        print(f"figures epoch={epoch} loss={loss:.5f} seconds={time.perf_counter() - begun:.2f}", flush=True)


if __name__ == "__main__":
    main()
