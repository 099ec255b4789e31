"""The finished networks of a run: which there are, and their mean prediction."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common.errors import UserError, named
from common.run_folder import CONFIG, NETWORK, RUNS, FoldFolder, RunFolder
from common.settings import CommandLine, ImageSize, names_in, nearest
from models.finetuning import runtime
from preprocessing.download import unpacked_bytes
from preprocessing.settings import WHOLE

if TYPE_CHECKING:
    import argparse

    import numpy as np

    See = Callable[[ImageSize, str], np.ndarray]  # size and crop -> a picture as a network wants it

MOST_BYTES = 2 * 2**30  # of a network; the largest here, VGG19, has 80 MB
MOST_AT_ONCE = 16  # pictures; small, so that what was found appears soon
Item = TypeVar("Item")


def add_choice(parser: CommandLine) -> None:
    """The options that choose among the networks of a run."""
    parser.add_argument("--run", required=True, metavar="NAME", help="the run whose networks are used")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="folder of all runs [runs]")
    # One word each, since several would swallow the pictures behind them.
    parser.add_argument("--model", type=names_in, default=[], metavar='"A B"', help="only these models of it [all]")
    parser.add_argument("--fold", type=names_in, default=[], metavar='"0 1"', help="only networks of these folds [all]")


def chosen(arguments: argparse.Namespace) -> list[FoldFolder]:
    """The fold runs that the options of `add_choice` name."""
    return finished_folds(RunFolder.existing(arguments.run, arguments.runs), arguments.model, arguments.fold)


def finished_folds(run: RunFolder, models: Sequence[str] = (), folds: Sequence[str] = ()) -> list[FoldFolder]:
    """The finished fold runs of a run, by model and fold; only some models or folds where these are named.

    Raises:
        UserError: a model or fold is not among the finished ones, or nothing is finished.
    """
    found = run.finished()
    if not found:
        started = sorted({folder.model for folder in run.fold_folders() if folder.exists(CONFIG)})
        hint = f" Started, but not finished: {named(started)}." if started else ""
        raise UserError(f"{run.path} holds no finished model.{hint} Train one: python models/vgg16.py --run {run.name}")
    for attribute, asked in (("model", models), ("fold", folds)):
        names = list(dict.fromkeys(str(getattr(folder, attribute)) for folder in found))
        for name in asked:
            if name not in names:
                hint = nearest(name, names) or "."
                raise UserError(
                    f"--{attribute} {name}: not finished in {run.path}{hint} There are: {named(names, 10)}."
                )
        found = [folder for folder in found if not asked or str(getattr(folder, attribute)) in asked]
    return found


def seen_by(fold: FoldFolder) -> tuple[ImageSize, str]:
    """The size and the part (crop) of a photograph that a network expects."""
    settings = fold.settings()
    return ImageSize.parse(str(settings["image_size"])), str(settings.get("crop", WHOLE))


class Networks:
    """Networks of finished fold runs.

    Args:
        folds: each with a network.
        batch: pictures that they see at once; fewer are filled up, since another number would be compiled again.
    """

    def __init__(self, folds: Sequence[FoldFolder], batch: int = MOST_AT_ONCE) -> None:
        self.batch = min(batch, MOST_AT_ONCE)
        self.networks = [(fold.model, load(fold), *seen_by(fold)) for fold in folds]
        self.predict([])  # compiles

    def predict(self, sees: Sequence[See]) -> np.ndarray:
        """The mean over models of the mean over folds, as in the blend with equal weights.

        Args:
            sees: for each of at most `batch` pictures, what gives it at a size and crop.

        Returns:
            shape (pictures, 10), float64, rows summing to 1.
        """
        import numpy as np

        by_model: dict[str, list[np.ndarray]] = {}
        images: dict[tuple[ImageSize, str], np.ndarray] = {}
        for model, network, size, crop in self.networks:
            if (size, crop) not in images:
                images[size, crop] = np.zeros((self.batch, size.height, size.width, 3), np.uint8)
                for place, see in enumerate(sees):
                    images[size, crop][place] = see(size, crop)
            probabilities = np.asarray(network.predict_on_batch(images[size, crop]), np.float64)
            by_model.setdefault(model, []).append(probabilities[: len(sees)])
        mean = np.mean([np.mean(tables, axis=0) for tables in by_model.values()], axis=0)
        return mean / mean.sum(axis=1, keepdims=True)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Parts of at most `size`, in order."""
    waiting = iter(items)
    while part := list(itertools.islice(waiting, size)):
        yield part


def load(fold: FoldFolder) -> Any:
    """The network of a fold run: RGB uint8 images -> ten probabilities.

    Raises:
        UserError: the file is damaged, too large, or has code in it.
    """
    path = fold.verified(NETWORK)
    if zipfile.is_zipfile(path) and unpacked_bytes(path) > MOST_BYTES:
        raise UserError(f"{path} would take more than {MOST_BYTES:,} bytes unpacked: no network of ours does.")
    keras = runtime.load_keras()
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # zip, JSON and HDF5 readers each fail in their own way on damaged bytes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be loaded ({reason}). Restore it, or train that again.") from error
