"""What k folds cost where they share frozen layers: against one fold, or against one forward pass.

    python -m benchmarks.sharing --data DIR --weights DIR

bottleneck   models/bottleneck.py, five folds with the search for the regularisation, against a process that only
             computes the pooled features of the same images (it loads Keras, decodes, predicts; test images too)
trunk        inception_v3, five folds of 3 epochs with all up to mixed7 frozen and one augmented copy, against one fold

Each process begins with an empty cache. --train and --test take fewer photographs (Keras's start weighs more then).
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.common import data_folder, machine, parser, seconds, smaller

ROWS = ("bottleneck", "trunk")
SIZE = 224


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=data_folder, help="a folder in Kaggle's layout")
    command.add_argument("--weights", default="none", help="of inception_v3, as the architectures take them")
    command.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    command.add_argument("--train", type=int, default=0, help="labelled images; 0 is all")
    command.add_argument("--test", type=int, default=0, help="images to predict; 0 is all")
    command.add_argument("--folds", type=int, default=5)
    command.add_argument("--size", type=int, default=SIZE)
    command.add_argument("--epochs", type=int, default=3)
    command.add_argument("--precision", default="auto")
    command.add_argument("--jobs", type=int, help="folds at a time in the row trunk [as by default]")
    command.add_argument("--one", choices=("pass",), help=argparse.SUPPRESS)  # in a process of its own
    command.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    arguments = command.parse_args()
    if arguments.one == "pass":
        forward_pass(arguments)
        return
    if not arguments.data:
        command.error("--data is needed")
    print(machine())
    print(f"{'':12}{'one':>10}{f'{arguments.folds} folds':>10}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        arguments.data = smaller(arguments.data, folder / "data", arguments.train, arguments.test)
        for row in arguments.rows:
            one, many = {"bottleneck": bottleneck, "trunk": trunk}[row](arguments, folder)
            print(f"{row:12}{one:8.2f} s{many:8.2f} s{many / one:7.2f}x", flush=True)


def bottleneck(arguments: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Seconds of one forward pass, and of the stage."""
    common = ["--data", arguments.data, "--weights", arguments.weights, "--precision", arguments.precision]
    one = seconds(
        "-m", "benchmarks.sharing", "--one", "pass", *common, "--size", arguments.size, "--cache", folder / "pass"
    )
    size = f"{arguments.size}x{arguments.size}"
    options = [
        "--architecture",
        "inception_v3",
        "--image-size",
        size,
        "--folds",
        arguments.folds,
    ]
    where = ["--runs", folder / "runs", "--run", "bottleneck", "--cache", folder / "bottleneck"]
    return one, seconds("models/bottleneck.py", *options, *common, *where)


def trunk(arguments: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Seconds of one fold, and of all of them."""
    size = f"{arguments.size}x{arguments.size}"
    options = ["--data", arguments.data, "--weights", arguments.weights, "--precision", arguments.precision]
    options += ["--folds", arguments.folds, "--image-size", size, "--epochs", arguments.epochs, "--patience", 99]
    options += ["--trainable", "from mixed7", "--augmented-copies", 1, "--runs", folder / "runs"]
    options += ["--jobs", arguments.jobs] if arguments.jobs else []
    found = []
    for name, asked in (("one", [0]), ("five", range(arguments.folds))):
        own = ["--run", f"trunk_{name}", "--cache", folder / f"trunk_{name}", "--fold", *asked]
        found.append(seconds("models/inception_v3.py", *options, *own))
    return found[0], found[1]


def forward_pass(arguments: argparse.Namespace) -> None:
    """Pooled features of all images of a data folder."""
    from models.finetuning import architecture as zoo
    from models.finetuning import runtime

    policy = runtime.start(arguments.precision, 0)
    import numpy as np

    from common.settings import ImageSize
    from models.finetuning.data.sources import predict as run_predictor
    from models.finetuning.network.build import build
    from preprocessing import dataset
    from preprocessing.images import ImageStore

    architecture = zoo.find("inception_v3")
    size = ImageSize(arguments.size, arguments.size)
    recipe = architecture.bottleneck_settings(False, {"image_size": size}).network_recipe()
    network = build(architecture, recipe, arguments.weights, policy, 0)
    found = dataset.load(arguments.data, arguments.cache)
    paths = [found.train_path(row.img, row.classname) for row in found.train.itertuples()]
    paths += [found.test_path(img) for img in found.test]
    store = ImageStore(paths, recipe.image_size, arguments.cache, found.fingerprint, 2**36)
    run_predictor(network.predictor, store, np.arange(len(store)), 2, "features")


if __name__ == "__main__":
    main()
