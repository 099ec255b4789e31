"""Where the network's inputs come from, and its predictions of them: photographs, with pseudo-labels, augmented."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from common.competition import CLASSES, NUMBER_OF_CLASSES
from common.environment import LESS_MEMORY
from common.errors import UserError, named, progress_bar
from common.metric import clustered_logarithms, floored, matched_logarithms, smoothed_prior
from common.run_folder import ALL_DRIVERS, verified
from common.tables import geometric_mean, read_predictions
from models.finetuning import runtime
from models.finetuning.architecture import Recipe
from models.finetuning.network.network import Network
from preprocessing.batches import Augmented, plain_batches, training_batches
from preprocessing.dataset import Dataset
from preprocessing.images import ImageStore, Rows
from preprocessing.same_driver import SIZE, SIZE_OF_OUTLINES, Outlines, clouds_of, same_driver
from preprocessing.settings import WHOLE, Augmentation

# A quarter where the process before ran out of memory: features and predictions are rounded differently, no more.
PREDICTION_BATCH = 16 if os.environ.get(LESS_MEMORY) else 64
TTA = dataclasses.replace(Augmentation.neutral(), augmentation=1.0, rotation=4.0, translation=0.04, zoom=0.08)
PRIOR_STRENGTH = 300.0  # of the prior of each driver in pseudo-labels; blends choose 300 or 1000

Batches = Iterator[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class FoldData:
    """The labelled images, and which of them a fold trains on."""

    store: ImageStore  # all labelled images
    labels: np.ndarray  # shape (images,), class of each row of `store`
    training: np.ndarray  # rows to train on
    held_out: np.ndarray  # rows of drivers who are not among them


def stores(
    recipe: Any, dataset: Dataset, folds: pd.DataFrame, cache: Path, limit: int
) -> tuple[ImageStore, ImageStore]:
    """The labelled and the readable test images at the recipe's size and crop, nothing decoded yet."""
    dataset = dataclasses.replace(dataset, root=dataset.root.resolve())  # one cache, whatever the path that was typed
    labelled = [dataset.train_path(row.img, row.classname) for row in folds.itertuples()]
    test = [dataset.test_path(img) for img in dataset.test if img not in dataset.broken_test]
    how = recipe.image_size, cache, dataset.fingerprint, limit, recipe.crop
    return ImageStore(labelled, *how), ImageStore(test, *how)


def fold_data(recipe: Recipe, fold: int | str, folds: pd.DataFrame, store: ImageStore) -> FoldData:
    """Which of the labelled images a fold, or 'all', trains on and which it holds out; `folds` has rows as `store`."""
    labels = folds["classname"].map(CLASSES.index).to_numpy()
    numbers = folds["fold"].to_numpy()
    held_out = np.zeros(len(numbers), bool) if fold == ALL_DRIVERS else numbers == fold
    training = np.flatnonzero(~held_out)
    if 0 < recipe.train_images < len(training):  # rows follow the videos, so every n-th row thins each of them
        training = training[np.linspace(0, len(training) - 1, recipe.train_images).round().astype(int)]
    lost = sorted(set(range(NUMBER_OF_CLASSES)) - set(labels[training]))
    if lost:
        raise UserError(
            f"--train-images {recipe.train_images} leaves no image of {', '.join(CLASSES[k] for k in lost)} to "
            "train on. Use more."
        )
    return FoldData(store, labels, training, np.flatnonzero(held_out))


@dataclasses.dataclass
class Source:
    """Training batches and predictions of a network for the images of one table, from the photographs."""

    network: Network
    images: ImageStore
    augmentation: Augmentation
    seed: int
    workers: int

    def batches(self, targets: np.ndarray, order: np.ndarray, copy: int) -> Batches:
        """Inputs of `network` and their targets, of one augmented copy.

        Args:
            targets: shape (images of the table, classes), float32.
            order: shape (batches, batch_size), rows of the table.
        """
        return training_batches(self.images, targets, order, self.augmentation, self.seed, copy, self.workers)

    def predict(self, rows: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and features of these rows, as `predict`."""
        return predict(self.network.predictor, self.images, rows, self.workers, what)


class WithPseudoLabels(Source):
    """A source whose batches also hold images of another one, behind their own, with soft targets.

    Both are photographs, or both are activations; there are `ratio` images of `real` for each of `other`.
    """

    def __init__(self, real: Source, other: Source, soft: np.ndarray, ratio: float) -> None:
        super().__init__(real.network, real.images, real.augmentation, real.seed, real.workers)
        self.real, self.other, self.soft, self.ratio = real, other, soft, ratio

    def batches(self, targets: np.ndarray, order: np.ndarray, copy: int) -> Batches:
        more = self._more_rows(order, max(1, round(order.shape[1] / self.ratio)))
        real, other = self.real.batches(targets, order, copy), self.other.batches(self.soft, more, copy)
        for (inputs, wanted), (others, soft) in zip(real, other, strict=True):
            yield np.concatenate([inputs, others]), np.concatenate([wanted, soft])

    def predict(self, rows: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        return self.real.predict(rows, what)

    def _more_rows(self, order: np.ndarray, count: int) -> np.ndarray:
        """Rows of `other`: each comes again only after all others. The order of the real ones differs by epoch."""
        generator = np.random.default_rng([self.seed, *order[0].tolist()])
        rounds = -(-len(order) * count // len(self.soft))
        rows = np.concatenate([generator.permutation(len(self.soft)) for _ in range(rounds)])
        return rows[: len(order) * count].reshape(len(order), count)


def with_pseudo_labels(
    tables: Sequence[Path], recipe: Recipe, dataset: Dataset, data: FoldData, labelled: Source, test: Source
) -> Source:
    """The labelled images, and besides the test images with what tables of an earlier run say, if there are any."""
    if not tables:
        return labelled
    images = [img for img in dataset.test if img not in dataset.broken_test]
    soft = soft_targets(tables, images)
    if recipe.pseudo_prior or recipe.pseudo_clusters:
        store, matched = test.images, np.log(floored(soft))
        stored = store.crop == WHOLE and store.size.width >= SIZE_OF_OUTLINES.width
        small = ImageStore(store.paths, SIZE, store.folder.parents[1], dataset.fingerprint, store.limit)
        small.prepare(test.workers, keep=[labelled.images, store])  # once for all folds
        sets = same_driver(store.paths, soft, test.workers, small)
        if recipe.pseudo_prior:  # nearer to training's mix, for each driver of the test set
            prior = smoothed_prior(data.labels[data.training], soft.shape[1])
            matched = matched_logarithms(matched, prior, PRIOR_STRENGTH, sets)
        if recipe.pseudo_clusters:
            outlines = Outlines(store.read, test.workers) if stored else Outlines.of(store.paths, test.workers)
            matched = clustered_logarithms(matched, clouds_of(outlines, sets))
        soft = np.exp(matched).astype(np.float32)
    return WithPseudoLabels(labelled, test, soft, recipe.pseudo_ratio)


def soft_targets(tables: Sequence[Path], images: Sequence[str]) -> np.ndarray:
    """What prediction tables say of these images: their mean in log space, shape (images, classes), float32."""
    found = []
    for path in tables:
        table = read_predictions(verified(path))
        if missing := sorted(set(images).difference(table.index)):
            raise UserError(f"{path}: expected every test image, it lacks {len(missing):,}: {named(missing)}.")
        found.append(table.loc[list(images), list(CLASSES)].to_numpy())
    return geometric_mean(found).astype(np.float32)


def predict(
    predictor: keras.Model, store: Rows, rows: np.ndarray, workers: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a predictor over these rows of a store, with a progress bar of the title `what`.

    Returns:
        probabilities, shape (rows, 10), float32; features, shape (rows, features), float32.
    """
    predictor.jit_compile = runtime.compiles_with_xla()
    found = [np.empty((len(rows), output.shape[-1]), np.float32) for output in predictor.outputs]
    done = 0
    bar = progress_bar(len(rows), what)
    for images, count in plain_batches(store, rows, PREDICTION_BATCH, workers):
        for every, batch in zip(found, predictor.predict_on_batch(images), strict=True):
            every[done : done + count] = np.asarray(batch)[:count]
        done += count
        bar.update(count)
    bar.close()
    return found[0], found[1]


def with_tta(predictor: keras.Model, source: Source, rows: np.ndarray, plain: np.ndarray, copies: int) -> np.ndarray:
    """Test-time augmentation: the mean in log space of the predictions of images and of augmented copies.

    The copies are slightly moved, scaled and turned, by (seed, copy, image) alone. Never flipped: left and right hands
    are different classes.

    Args:
        plain: shape (rows, classes), the predictions of the images as they are.
        copies: of each image; with 0 the result is `plain`.
    """
    tables = [plain]
    for copy in range(1, copies + 1):
        images, what = Augmented(source.images, TTA, source.seed, copy), f"test-time augmentation {copy} of {copies}"
        tables.append(predict(predictor, images, rows, source.workers, what)[0])
    return geometric_mean(tables) if copies else plain
