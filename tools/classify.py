"""The untouched network with its 1000-way top: the five likeliest ImageNet classes of each image.

    python -m tools.classify photograph.jpg --architecture inception_v3

The check that preprocessing is right: with a wrong one the classes make no sense. Take a photograph of something that
ImageNet knows, such as a cat.
"""

import dataclasses
from pathlib import Path
from typing import Any

from common.errors import run_command
from common.settings import CommandLine, ImageSize
from models.finetuning import architecture as zoo
from models.finetuning import runtime
from models.finetuning.architecture import Architecture
from models.finetuning.network import weights as pretrained

CLASSES_SHOWN = 5


def main() -> None:
    parser = CommandLine(prog="python -m tools.classify", description=__doc__)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="photographs")
    named = f"one of {', '.join(zoo.names())} [vgg16]"
    parser.add_argument("--architecture", default="vgg16", metavar="NAME", help=named)
    where = "imagenet, or a folder of NAME_top.weights.h5 [imagenet]"
    parser.add_argument("--weights", default="imagenet", metavar="W", help=where)
    arguments = parser.parse_args()
    architecture = zoo.find(arguments.architecture)
    pretrained.check_available(with_top(architecture), arguments.weights)

    from preprocessing.images import checked_source, decode, read_image

    for image in arguments.images:
        decode(checked_source(image, str(image)))  # before the network is loaded
    runtime.start("float32", 0)
    network = whole_network(architecture, arguments.weights)
    size = ImageSize(*network.input_shape[1:3])
    tables = [network.predict_on_batch(read_image(image, size)[None]) for image in arguments.images]
    names = class_names(tables[0])
    for image, table in zip(arguments.images, tables, strict=True):
        print(f"{image}")
        for number in table[0].argsort()[::-1][:CLASSES_SHOWN]:
            print(f"  {table[0][number]:6.1%}  {names.get(number, f'class {number}')}")


def with_top(architecture: Architecture) -> Architecture:
    """A network with its top, as far as its weights are concerned."""
    published = architecture.published_weights.replace("_notop", "").replace("_no_top", "")
    name = f"{architecture.name}_top"
    return dataclasses.replace(architecture, name=name, include_top=True, published_weights=published)


def whole_network(architecture: Architecture, weights: str) -> Any:
    """The network as it was published: images (uint8 RGB) -> probabilities of 1000 classes, at its own size."""
    import keras

    from models.finetuning.network.build import preprocessed

    top = with_top(architecture)
    if weights == "imagenet":
        with pretrained.downloading(top):
            network = architecture.build(weights="imagenet", include_top=True)
    else:
        network = architecture.build(weights=None, include_top=True)
        pretrained.load(network, top, weights)
    images = keras.Input(network.input_shape[1:], dtype="uint8")
    return keras.Model(images, network(preprocessed(images, architecture.preprocessing)))


def class_names(table: Any) -> dict[int, str]:
    """Names of the 1000 classes by number, as Keras has them for a table of predictions; none without a network."""
    import keras

    try:
        found = keras.applications.imagenet_utils.decode_predictions(table[:1], top=1000)[0]
    except Exception as error:  # of the download
        print(f"The classes' names are not available ({str(error)[:100]}): numbers instead.")
        return {}
    return {number: name for number, (_, name, _) in zip(table[0].argsort()[::-1], found, strict=True)}


if __name__ == "__main__":
    run_command(main)
