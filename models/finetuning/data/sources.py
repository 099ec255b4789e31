"""Where the network's inputs come from: the photographs, or stored activations of its frozen layers."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.cache import make_room
from common.settings import as_json
from models.finetuning.data.activations import PLAIN, ActivationStore
from models.finetuning.data.prediction import predict
from models.finetuning.network.network import Network, Split
from models.finetuning.recipe import Recipe
from preprocessing.batches import Augmented, plain_batches, training_batches
from preprocessing.images import ImageStore
from preprocessing.settings import Augmentation

Batches = Iterator[tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class FoldData:
    """The labelled images, and which of them a fold trains on.

    Attributes:
        store: all labelled images.
        labels: shape (images,), class of each row of `store`.
        training: rows to train on.
        held_out: rows of drivers who are not among them.
    """

    store: ImageStore
    labels: np.ndarray
    training: np.ndarray
    held_out: np.ndarray


class Source:
    """Training batches and predictions for the images of one table, from the photographs.

    Args:
        network: trains on the batches, and predicts.
        images: the table's images.
        seed: of the augmentation.
        workers: threads that make batches.
    """

    def __init__(
        self,
        network: Network,
        images: ImageStore,
        augmentation: Augmentation,
        seed: int,
        workers: int,
    ) -> None:
        self.network, self.images, self.augmentation = network, images, augmentation
        self.seed, self.workers = seed, workers

    def batches(self, targets: np.ndarray, order: np.ndarray, copy: int) -> Batches:
        """Inputs of `network` and their targets.

        Args:
            targets: shape (images of the table, classes), float32.
            order: shape (batches, batch_size), rows of the table.
            copy: number of the augmented copy, from 1.
        """
        return training_batches(self.images, targets, order, self.augmentation, self.seed, copy, self.workers)

    def predict(self, rows: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and features of these rows, as `prediction.predict`."""
        return predict(self.network.predictor, self.images, rows, self.workers, what)


class KeptSource(Source):
    """The same images from activations of the frozen layers.

    Args:
        source: the images as photographs.
        top: the network above the frozen layers.
        plain: activations of the images as they are.
        augmented: of their augmented copies.
    """

    def __init__(self, source: Source, top: Network, plain: ActivationStore, augmented: ActivationStore) -> None:
        super().__init__(top, source.images, source.augmentation, source.seed, source.workers)
        self.plain, self.augmented = plain, augmented

    def batches(self, targets: np.ndarray, order: np.ndarray, copy: int) -> Batches:
        images = Augmented(self.images, self.augmentation, self.seed, copy)
        part = self.augmented.part(copy_name(copy), images, np.unique(order))
        batches = plain_batches(part, order.reshape(-1), order.shape[1], self.workers)
        for rows, (inputs, _) in zip(order, batches, strict=True):
            yield inputs, targets[rows]

    def predict(self, rows: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        part = self.plain.part(PLAIN, self.images, rows)
        return predict(self.network.predictor, part, rows, self.workers, what)


class WithPseudoLabels(Source):
    """A source whose batches also hold images of another one, with soft targets.

    Args:
        real: the labelled images; they come first in every batch, as they are without.
        other: the other images. Both sources are photographs, or both are activations.
        soft: shape (images of `other`, classes), float32.
        ratio: images of `real` for each of `other`.
    """

    def __init__(self, real: Source, other: Source, soft: np.ndarray, ratio: float) -> None:
        options = real.augmentation, real.seed, real.workers
        super().__init__(real.network, real.images, *options)
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


def copy_name(copy: int) -> str:
    """Of an augmented copy's files."""
    return f"epoch_{copy:03d}"


@dataclasses.dataclass
class ActivationCache:
    """Activations of a network's frozen layers: computed once for all epochs and folds, as far as they fit.

    Attributes:
        split: the network cut above its frozen layers.
        folder: the cache.
        limit: the most bytes that it may hold.
        name: of the architecture.
        decides: what decides the function of the frozen layers: weights, precision, ...; JSON values.
        say: prints a line.
    """

    split: Split
    folder: Path
    limit: int
    name: str
    decides: dict[str, Any]
    say: Callable[[str], None]
    _folders: list[Path] = dataclasses.field(default_factory=list)  # of this fold run
    _promised: int = 0  # bytes that will be written to them

    def sources(self, labelled: Source, test: Source, data: FoldData, recipe: Recipe) -> tuple[Source, Source]:
        """The same two sources, from activations where that is possible.

        Args:
            labelled: the images of `data`.
        """
        augmentation = labelled.augmentation
        if augmentation.mixup or augmentation.cutmix:
            self.say("images are mixed, which differs from fold to fold: activations are not kept")
            return labelled, test
        self._folders = [labelled.images.folder, test.images.folder]
        epochs = range(1, recipe.head_epochs + recipe.epochs + 1)
        copies = [copy_name(copy) for copy in sorted({recipe.copy_of(epoch) for epoch in epochs})]
        of_test = np.arange(len(test.images))
        every = np.arange(len(data.labels)) if recipe.head_start == "logistic" else data.held_out
        kept = self.kept(labelled, every, data.training, copies)
        kept_test = self.kept(test, of_test, of_test, copies if recipe.pseudo_labels else [])
        if recipe.pseudo_labels and kept.network is not kept_test.network:
            return labelled, test  # both are trained on together
        return kept, kept_test

    def kept(
        self, source: Source, predicted: np.ndarray, trained: np.ndarray | None = None, copies: Sequence[str] = ()
    ) -> Source:
        """One source from activations, or as it is where they do not fit.

        Args:
            predicted: rows that will be predicted.
            trained: rows that will be trained on, in each of these augmented copies.
        """
        settings = as_json(source.augmentation.scaled())
        drawn = self.decides | {"augmentation": settings, "seed": source.seed}
        name, boundary = f"{self.name}_{self.split.name}", {"boundary": self.split.name}
        plain, augmented = (
            ActivationStore(self.folder, name, decides | boundary, self.split.trunk, source.images, source.workers)
            for decides in (self.decides, drawn)
        )
        what = f"activations at {self.split.name} for {len(source.images):,} images"
        size = plain.missing_bytes([PLAIN], predicted)
        size += augmented.missing_bytes(copies, trained) if trained is not None else 0
        if self._reserve(size, plain.folder, augmented.folder, source.images.folder):
            self.say(f"{what} are computed once, for all epochs and folds, and kept in the cache")
            return KeptSource(source, self.split.top, plain, augmented)
        self.say(f"{what} do not fit in the cache (--cache-limit, or the disk): computed again each time")
        return source

    def _reserve(self, size: int, *folders: Path) -> bool:
        """Makes room for so many bytes in these folders beside what was reserved before, if there is enough."""
        if not make_room(folders[0], size + self._promised, self.limit, [*self._folders, *folders]):
            return False
        self._folders += folders
        self._promised += size
        return True
