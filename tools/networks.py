"""The finished networks of a run, loaded together: pictures in, the mean of their probabilities out."""

import itertools
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from common.competition import NUMBER_OF_CLASSES
from common.errors import UserError
from common.settings import ImageSize
from models.finetuning import runtime
from preprocessing.download import unpacked_bytes
from tools.finished import FinishedFold

MOST_BYTES = 2 * 2**30  # of a network; the largest here, VGG19, has 80 MB
MOST_AT_ONCE = 16  # pictures; small, so that what was found appears soon
Item = TypeVar("Item")
See = Callable[[ImageSize, str], np.ndarray]  # size and crop -> a picture as a network wants it


class Networks:
    """Networks of finished fold runs, and how long they take.

    Args:
        fold_runs: each with a network.
        batch: pictures that they see at once; fewer are filled up, since another number would be compiled anew.

    Attributes:
        load_seconds: what loading and compiling took.
        seconds: spent in reading pictures and in the networks so far.
        pictures: seen so far.

    Raises:
        UserError: a file is damaged, or no network of ours.
    """

    def __init__(self, fold_runs: Sequence[FinishedFold], batch: int = MOST_AT_ONCE) -> None:
        begun = time.monotonic()
        self.fold_runs = list(fold_runs)
        self.batch = min(batch, MOST_AT_ONCE)
        self.models = [load(fold_run) for fold_run in self.fold_runs]
        for fold_run, model in zip(self.fold_runs, self.models, strict=True):
            size = fold_run.image_size
            model.predict_on_batch(np.zeros((self.batch, size.height, size.width, 3), np.uint8))
        self.load_seconds = time.monotonic() - begun
        self.seconds = 0.0
        self.pictures = 0

    def __str__(self) -> str:
        counts = Counter(fold_run.model for fold_run in self.fold_runs)
        parts = [f"{model} ({count} folds)" if count > 1 else model for model, count in counts.items()]
        return f"{len(self.fold_runs)} network{'s' * (len(self.fold_runs) > 1)}: {', '.join(parts)}"

    def predict(self, sees: Sequence[See]) -> np.ndarray:
        """The mean over models of the mean over folds, as in the blend with equal weights.

        Args:
            sees: for each of at most `batch` pictures, what gives it at a size and crop.

        Returns:
            shape (pictures, 10), float64, rows summing to 1.
        """
        begun = time.monotonic()
        by_model: dict[str, list[np.ndarray]] = {fold_run.model: [] for fold_run in self.fold_runs}
        images: dict[tuple[ImageSize, str], np.ndarray] = {}
        for fold_run, model in zip(self.fold_runs, self.models, strict=True):
            key = fold_run.image_size, fold_run.crop
            if key not in images:
                images[key] = np.zeros((self.batch, key[0].height, key[0].width, 3), np.uint8)
                for place, see in enumerate(sees):
                    images[key][place] = see(*key)
            probabilities = model.predict_on_batch(images[key])
            by_model[fold_run.model].append(np.asarray(probabilities, np.float64)[: len(sees)])
        mean = np.mean([np.mean(folds, axis=0) for folds in by_model.values()], axis=0)
        self.seconds += time.monotonic() - begun
        self.pictures += len(sees)
        return mean / mean.sum(axis=1, keepdims=True)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Parts of at most `size`, in order."""
    waiting = iter(items)
    while part := list(itertools.islice(waiting, size)):
        yield part


def load(fold_run: FinishedFold) -> Any:
    """The network of a fold run, images -> probabilities.

    Raises:
        UserError: the file is damaged, or no network of ours.
    """
    fold_run.folder.verified(fold_run.network.name)
    if zipfile.is_zipfile(fold_run.network) and unpacked_bytes(fold_run.network) > MOST_BYTES:
        raise UserError(
            f"{fold_run.network} would take more than {MOST_BYTES:,} bytes unpacked: no network of ours does."
        )
    keras = runtime.load_keras()
    try:
        model = keras.saving.load_model(fold_run.network, compile=False, safe_mode=True)
    except Exception as error:  # zip, JSON and HDF5 readers each fail in their own way on damaged bytes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{fold_run.network} cannot be loaded ({reason}). Restore it, or train that again.") from error
    size = fold_run.image_size
    expected = (None, size.height, size.width, 3)
    if tuple(model.input_shape) != expected or tuple(model.output_shape) != (None, NUMBER_OF_CLASSES):
        raise UserError(
            f"{fold_run.network}: expected images {size} in and ten probabilities out, found another network."
        )
    return model
