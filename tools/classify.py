"""The untouched network with its 1000-way top: the five likeliest ImageNet classes of each image.

    python -m tools.classify photograph.jpg --architecture inception_v3

The check that preprocessing is right: with a wrong one the classes make no sense. Take a photograph of something that
ImageNet knows, such as a cat.
"""

import contextlib
from pathlib import Path
from typing import Any

from common.errors import UserError, run_command
from common.settings import CommandLine, ImageSize
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Architecture
from models.finetuning.network import weights as pretrained

CLASSES_SHOWN = 5
CLASS_INDEX = "imagenet_class_index.json"
CLASS_INDEX_URL = f"https://storage.googleapis.com/download.tensorflow.org/data/{CLASS_INDEX}"


def make_parser() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m tools.classify", description=(__doc__ or "").strip())
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="photographs")
    parser.add_argument(
        "--architecture", default="vgg16", metavar="NAME", help=f"one of {', '.join(zoo.names())} [vgg16]"
    )
    parser.add_argument(
        "--weights", default="imagenet", metavar="W", help="imagenet, or a folder of NAME_top.weights.h5 [imagenet]"
    )
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    architecture = zoo.find(arguments.architecture)
    path = _weights_file(architecture, arguments.weights)

    from preprocessing.images import checked_source, decode, read_image

    for image in arguments.images:
        decode(checked_source(image, str(image)))  # before the network is loaded

    from models.finetuning import runtime

    runtime.start("float32", 0)
    network = whole_network(architecture, path)
    names = class_names()
    if names is None:
        print(f"The classes' names ({CLASS_INDEX}) are not available: numbers instead.")
    size = ImageSize(*network.input_shape[1:3])
    for image in arguments.images:
        row = network.predict_on_batch(read_image(image, size)[None])[0]
        print(f"{image}")
        for number in row.argsort()[::-1][:CLASSES_SHOWN]:
            print(f"  {row[number]:6.1%}  {names[number] if names else f'class {number}'}")


def whole_network(architecture: Architecture, path: Path | None) -> Any:
    """The network as it was published: images (uint8 RGB) -> probabilities of 1000 classes, at its own size.

    Args:
        path: a file of all its weights, the top's included; None is Keras's own ImageNet weights.

    Raises:
        UserError: the weights cannot be downloaded, or are not this network's.
    """
    import keras

    from models.finetuning.network.build import preprocessed

    if path is None:
        with pretrained.downloading(architecture, _published_name(architecture)):
            network = architecture.build(weights="imagenet", include_top=True)
    else:
        network = architecture.build(weights=None, include_top=True)
        expected = sorted(tuple(variable.shape) for variable in network.weights)
        if sorted(pretrained.shapes_in(path, architecture)) != expected:  # Keras would leave out what does not fit
            raise UserError(
                f"{path}: these are not the weights of {architecture.name} with its top: its arrays have other "
                f"shapes. {_ways_out(architecture)}"
            )
        pretrained.load_file(network, path)
    images = keras.Input(network.input_shape[1:], dtype="uint8")
    return keras.Model(images, network(preprocessed(images, architecture.preprocessing)))


def class_names() -> list[str] | None:
    """Names of the 1000 classes from Keras's cache, or its server; None where neither has them."""
    import json

    import keras

    path = pretrained.keras_cache() / CLASS_INDEX
    if not path.is_file():
        if not pretrained.reachable():
            return None
        with contextlib.suppress(Exception):  # Keras fails here in ways of its own; numbers will do
            keras.utils.get_file(CLASS_INDEX, CLASS_INDEX_URL, cache_subdir="models")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return [str(index[str(number)][1]) for number in range(1000)]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def _weights_file(architecture: Architecture, weights: str) -> Path | None:
    """A file of all weights; None is Keras's own, which are here or can be downloaded."""
    name, published = f"{architecture.name}_top.weights.h5", _published_name(architecture)
    if weights == "imagenet":
        if not published:
            raise UserError(f"{architecture.name}: Keras publishes no weights of it. {_ways_out(architecture)}")
        if not pretrained.is_cached(architecture, published) and not pretrained.reachable():
            raise UserError(
                f"the ImageNet weights of {architecture.name} with its top are not on this machine "
                f"({pretrained.keras_cache() / published}) and their server cannot be reached. "
                f"{_ways_out(architecture)}"
            )
        return None
    there = pretrained.files_in(Path(weights), (name, published))
    if not there:
        others = ", ".join(sorted(p.name for p in Path(weights).glob("*.h5"))) or "no *.h5"
        found = f"found {others}" if Path(weights).is_dir() else "found no such folder"
        raise UserError(f"--weights {weights}: expected {name} in it, {found}. {_ways_out(architecture)}")
    return there[0]


def _published_name(architecture: Architecture) -> str:
    """Of Keras's own file with the top; '' where Keras publishes none."""
    return architecture.published_weights.replace("_notop", "").replace("_no_top", "")


def _ways_out(architecture: Architecture) -> str:
    file, builder = f"{architecture.name}_top.weights.h5", architecture.builder.replace(":", ".")
    if not architecture.published_weights:
        return f"Say --weights with the folder of a file that {builder}(include_top=True).save_weights('{file}') made."
    return (
        f"Make that file on a machine with internet: {builder}().save_weights('{file}'), or get Keras's own "
        f"{_published_name(architecture)}, and say --weights with its folder."
    )


if __name__ == "__main__":
    run_command(main)
