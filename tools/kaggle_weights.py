"""Packs pretrained weights for a Kaggle kernel, which has no internet, and uploads them as a dataset.

    kaggle/pack_weights.sh USER                                     those of run_all.sh's three architectures
    kaggle/pack_weights.sh USER --models "convnext_tiny xception" --dry-run
    kaggle/pack_weights.sh USER --weights DIR                       of a folder of NAME.weights.h5

They are Keras's own downloads, saved without their tops as NAME.weights.h5. What is packed already stays.
"""

import os
import shutil
from pathlib import Path

from common.errors import UserError, run_command
from common.files import sha256_of, write_json, written_whole
from common.run_folder import CACHE
from common.settings import CommandLine, names_in
from models.finetuning import architecture as zoo
from models.finetuning import runtime
from models.finetuning.architecture import Architecture
from models.finetuning.network import weights as pretrained
from pipeline.presets import DEFAULT_MODELS
from tools.kaggle_push import WEIGHTS, checked_user, dataset_metadata, publish_dataset


def pack(architecture: Architecture, weights: str, folder: Path) -> Path:
    """Writes ARCHITECTURE.weights.h5 into a folder, unless it is there.

    Args:
        weights: 'imagenet', or a folder that has the file.

    Raises:
        UserError: the weights are not available, the file is another network's, or another file was packed before.
    """
    path = folder / f"{architecture.name}.weights.h5"
    source = pretrained.weights_file(architecture, weights)
    if path.exists() and source is not None and sha256_of(path) != sha256_of(source):
        raise UserError(
            f"{path} was packed from other weights than {source}. Delete it, or pack into another folder with --out."
        )
    if path.exists():
        return pretrained.weights_file(architecture, str(folder)) or path
    pretrained.check_available(architecture, weights)
    if source is not None:
        with written_whole(path) as temporary:
            shutil.copyfile(source, temporary)
        return path
    runtime.load_keras()
    with pretrained.downloading(architecture, architecture.published_weights):
        network = architecture.build(weights="imagenet", include_top=False)
    inside = folder / f".{os.getpid()}.weights.h5"  # Keras insists on the end of the name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        network.save_weights(inside)
        inside.replace(path)
    finally:
        inside.unlink(missing_ok=True)
    return pretrained.weights_file(architecture, str(folder)) or path


def main() -> None:
    parser = CommandLine(prog="kaggle/pack_weights.sh", description=__doc__)
    parser.add_argument("user", metavar="USER", help="your name at Kaggle")
    parser.add_argument(
        "--models", type=names_in, default=DEFAULT_MODELS, metavar='"A B"', help=f"architectures [{DEFAULT_MODELS}]"
    )
    parser.add_argument("--weights", default="imagenet", metavar="W", help="imagenet, or a folder of them [imagenet]")
    parser.add_argument("--dry-run", action="store_true", help="only pack")
    parser.add_argument(
        "--out", type=Path, default=CACHE / "kaggle", metavar="DIR", help="where they are packed [cache/kaggle]"
    )
    arguments = parser.parse_args()
    user, folder = checked_user(arguments.user), arguments.out / "weights"
    if arguments.weights == "none":
        raise UserError("--weights none: there is nothing to pack. Expected imagenet, or a folder.")
    architectures = zoo.find_all(arguments.models)
    for architecture in architectures:
        path = pack(architecture, arguments.weights, folder)
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")
    write_json(folder / "dataset-metadata.json", dataset_metadata(user, WEIGHTS))
    if arguments.dry_run:
        print("nothing was uploaded (--dry-run)")
        return
    publish_dataset(folder, " ".join(architecture.name for architecture in architectures))
    print(f"uploaded: https://www.kaggle.com/datasets/{user}/{WEIGHTS}")


if __name__ == "__main__":
    run_command(main)
