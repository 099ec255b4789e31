"""Where the steps of a training begin: at the photographs, or at activations of the frozen trunk from the cache."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from models.finetuning.data.activations import PLAIN, ActivationStore
from models.finetuning.network.build import Network
from models.finetuning.data.prediction import predict
from models.finetuning.recipe import Recipe
from models.finetuning.network.split import Split
from preprocessing.augmentation_settings import Augmentation
from preprocessing.batches import Augmented, plain_batches, training_batches
from common.cache import make_room, room
from preprocessing.driver_mixing import Companions, nobody
from preprocessing.images import ImageStore
from common.settings import as_json


class Source(Protocol):
    """Batches to train on and predictions, for the images of one table.

    Attributes:
        network: what trains and predicts, from what the batches hold.
        images: the table's.
    """

    network: Network
    images: ImageStore

    def batches(
        self, targets: np.ndarray, order: np.ndarray, seed: int, copy: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Inputs of `network` and their targets.

        Args:
            targets: shape (images of the table, classes), float32.
            order: shape (batches, batch_size), rows of the table.
            seed: of the augmentation.
            copy: number of the augmented copy, from 1.
        """
        ...

    def predict(self, rows: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and features of these rows, as `prediction.predict`."""
        ...


class Pixels:
    """Every step begins at the photographs."""

    def __init__(
        self,
        network: Network,
        images: ImageStore,
        augmentation: Augmentation,
        workers: int,
        companions: Companions | None = None,
    ) -> None:
        self.network, self.images, self.augmentation, self.workers = network, images, augmentation, workers
        self.companions = companions

    def batches(
        self, targets: np.ndarray, order: np.ndarray, seed: int, copy: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return training_batches(
            self.images, targets, order, self.augmentation, seed, copy, self.workers, self.companions
        )

    def predict(self, rows: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        return predict(self.network.predictor, self.images, rows, self.workers, what)


class Activations:
    """Every step begins at the trunk's boundary.

    Args:
        plain: activations of the images as they are.
        augmented: of their augmented copies.
    """

    def __init__(
        self, network: Network, plain: ActivationStore, augmented: ActivationStore, augmentation: Augmentation
    ) -> None:
        self.network, self.plain, self.augmented, self.augmentation = network, plain, augmented, augmentation
        self.images = plain.images

    def batches(
        self, targets: np.ndarray, order: np.ndarray, seed: int, copy: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        images = Augmented(self.augmented.images, self.augmentation, seed, copy)
        part = self.augmented.part(copy_name(copy), images, np.unique(order))
        batches = plain_batches(part, order.reshape(-1), order.shape[1], self.augmented.workers)
        for rows, (inputs, _) in zip(order, batches, strict=True):
            yield inputs, targets[rows]

    def predict(self, rows: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        part = self.plain.part(PLAIN, self.plain.images, rows)
        return predict(self.network.predictor, part, rows, self.plain.workers, what)


class Streamed:
    """Predictions begin at kept activations as far as the cache has room for them; all else begins at the photographs.

    Args:
        kept: those of some rows.
        pixels: of the same table.
        rows: which ones are kept.
    """

    def __init__(self, kept: Activations, pixels: Pixels, rows: np.ndarray) -> None:
        self.network, self.images = pixels.network, pixels.images
        self.kept, self.pixels, self.rows = kept, pixels, rows

    def batches(
        self, targets: np.ndarray, order: np.ndarray, seed: int, copy: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self.pixels.batches(targets, order, seed, copy)

    def predict(self, rows: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        are_kept = np.isin(rows, self.rows)
        found = [np.empty((len(rows), output.shape[-1]), np.float32) for output in self.network.predictor.outputs]
        for source, chosen in ((self.kept, are_kept), (self.pixels, ~are_kept)):
            if chosen.any():
                for whole, some in zip(found, source.predict(rows[chosen], what), strict=True):
                    whole[chosen] = some
        probabilities, features = found
        return probabilities, features


class WithPseudoLabels:
    """A source whose batches hold images of another besides, with soft targets of their own.

    Args:
        real: the labelled images; its batches come first in every batch, as they are without.
        other: the images besides. Both are pixels, or both are activations.
        soft: shape (images of `other`, classes), float32.
        ratio: images of `real` for each of `other`.
    """

    def __init__(self, real: Source, other: Source, soft: np.ndarray, ratio: float) -> None:
        self.network, self.images = real.network, real.images
        self.real, self.other, self.soft, self.ratio = real, other, soft, ratio

    def batches(
        self, targets: np.ndarray, order: np.ndarray, seed: int, copy: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        count = max(1, round(order.shape[1] / self.ratio))
        besides = self._besides(order, count, seed)
        pairs = zip(
            self.real.batches(targets, order, seed, copy),
            self.other.batches(self.soft, besides, seed, copy),
            strict=True,
        )
        for (inputs, wanted), (more, soft) in pairs:
            yield np.concatenate([inputs, more]), np.concatenate([wanted, soft])

    def predict(self, rows: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        return self.real.predict(rows, what)

    def _besides(self, order: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Rows of `other`: each comes again only after all others. The order of the real ones tells epochs apart."""
        generator = np.random.default_rng([seed, *order[0].tolist()])
        rounds = -(-len(order) * count // len(self.soft))
        rows = np.concatenate([generator.permutation(len(self.soft)) for _ in range(rounds)])
        return rows[: len(order) * count].reshape(len(order), count)


def copy_name(copy: int) -> str:
    """Of an augmented copy's files."""
    return f"epoch_{copy:03d}"


class _Room:
    """Room in the cache that is promised to one source after another."""

    def __init__(self, limit: int, kept: list[Path]) -> None:
        self.limit = limit
        self.kept = kept  # folders that make no room for others
        self.promised = 0  # bytes that will be written to them

    def promise(self, size: int, folders: Sequence[Path]) -> bool:
        """Makes room for so many bytes more in these folders, if it can be had."""
        if not make_room(folders[0], size + self.promised, self.limit, [*self.kept, *folders]):
            return False
        self.kept += folders
        self.promised += size
        return True

    def left(self, folders: Sequence[Path]) -> int:
        """Bytes that could be written to these folders."""
        return room(folders[0], self.limit, [*self.kept, *folders]) - self.promised


def choose(
    network: Network,
    split: Split | None,
    stores: Sequence[ImageStore],
    *,
    training: np.ndarray,
    companions: Companions | None,
    plain: Sequence[np.ndarray],
    epochs: int,
    recipe: Recipe,
    augmentation: Augmentation,
    name: str,
    decides: dict[str, Any],
    seed: int,
    cache: Path,
    limit: int,
    workers: int,
    say: Callable[[str], None],
    train_on_all: bool = False,
) -> list[Source]:
    """A source for each table: activations as far as the cache has room for them, else pixels.

    Args:
        split: the network cut at the boundary; None is pixels for all.
        stores: the tables' images; those to train on first.
        training: rows of the first table that are trained on.
        companions: what images of the first table may be joined with.
        plain: rows of each table that will be predicted.
        epochs: of the whole training.
        name: of the architecture.
        decides: what decides the trunk's function: weights, precision, ...
        seed: of the augmentation.
        limit: the most bytes that the cache may hold.
        train_on_all: the other tables are trained on too, together with the first.
    """
    pixels = [
        Pixels(network, store, augmentation, workers, nobody(len(store)) if number else companions)
        for number, store in enumerate(stores)
    ]
    if split is None:
        return list(pixels)
    if augmentation.mixup or augmentation.cutmix or augmentation.driver_mixing:
        say("images are mixed, which differs from fold to fold: activations are not kept")
        return list(pixels)
    settings = {name: value for name, value in as_json(augmentation.scaled()).items() if name != "driver_mixing"}
    drawn = decides | {"augmentation": settings, "seed": seed}
    copies = [copy_name(copy) for copy in sorted({recipe.copy_of(epoch) for epoch in range(1, epochs + 1)})]
    cache_room = _Room(limit, [store.folder for store in stores])
    found: list[Source] = []
    for number, store in enumerate(stores):
        own = ActivationStore(name, decides, store, split, cache, workers)
        augmented = ActivationStore(name, drawn, store, split, cache, workers)
        rows = training if number == 0 else np.arange(len(store))
        wanted = [(own, [PLAIN], plain[number])]
        wanted += [(augmented, copies, rows)] if number == 0 or train_on_all else []
        size = sum(one.bytes(rows) * len(parts) for one, parts, rows in wanted)
        what = f"{size / 2**30:.1f} GiB of activations at {split.name} for {len(store):,} images"
        needed = sum(one.missing_bytes(parts, rows) for one, parts, rows in wanted)
        folders = [one.folder for one, _, _ in wanted]
        if cache_room.promise(needed, folders):
            found.append(Activations(split.top, own, augmented, augmentation))
            say(f"{what} are computed once, for all epochs and folds, and kept in the cache")
            continue
        some = own.fitting(PLAIN, plain[number], cache_room.left(folders))
        if len(some) and not train_on_all and cache_room.promise(own.missing_bytes([PLAIN], some), folders):
            found.append(Streamed(Activations(split.top, own, augmented, augmentation), pixels[number], some))
            say(
                f"{what} find no room in the cache (--cache-limit, or the disk): kept for the predictions of "
                f"{len(some):,} images, computed anew each time for the rest"
            )
            continue
        found.append(pixels[number])
        say(f"{what} find no room in the cache (--cache-limit, or the disk): computed anew each time")
        if train_on_all:  # what is trained on together must begin at one place
            return list(pixels)
    return found
