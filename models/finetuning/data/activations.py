"""Activations of frozen layers, in the cache, for all epochs' copies and all folds.

Below the lowest layer that trains, outputs are the same in every epoch and every fold:

    images -> trunk (frozen) -> activations at the boundary -> top (what trains, and what lies above it) -> logits

cache/activations/ARCHITECTURE_BOUNDARY_KEY/plain_block_00000.npy has those of the first `BLOCK` images as they are,
epoch_001_block_00000.npy of them as augmented in the first epoch. The key is a hash of everything that decides the
values. Augmentation depends on (seed, epoch, image) alone, so the folds of a run share its copies.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from common.cache import ACTIVATIONS, divide, make_room, open_array, write_array
from common.errors import UserError, progress_bar
from common.settings import as_json
from models.finetuning.architecture import Recipe
from models.finetuning.data.sources import PREDICTION_BATCH, Batches, FoldData, Source, predict
from models.finetuning.network.build import fused
from models.finetuning.network.network import Network, leaves, pooled_features, trainable_layers
from preprocessing.batches import Augmented, plain_batches
from preprocessing.images import ImageStore, Rows

RANDOM_LAYERS = (keras.layers.Dropout, keras.layers.GaussianNoise)
BLOCK = 256  # images in one file
PLAIN = "plain"
VERSION = 3  # of how activations are made; raise it when they change


@dataclasses.dataclass(frozen=True)
class Split:
    """A network cut in two; both parts share their variables with it."""

    name: str  # of the boundary: the trunk's last layer
    trunk: keras.Model  # images (batch, height, width, 3) uint8 -> activations, in the dtype that it computes in
    top: Network  # with `training` and `predictor` from these


def split(network: Network, recipe: Recipe) -> Split | None:
    """Cuts a network below the lowest layer that the recipe lets train.

    The boundary is one tensor through which all paths from the image to what trains lead, as near to the head as
    possible. Where only the head trains, it is what the head sees. None where there is nothing to cut off: the first
    layers train, an auxiliary head branches off, or the frozen part draws random numbers.
    """
    if network.auxiliary_layers:
        return None
    backbone, images = network.backbone, network.predictor.input
    if training := trainable_layers(backbone, recipe.trainable):
        found = _boundary(backbone, training)
        if found is None:
            return None
        name, output, upper = found
        lower = keras.Model(backbone.inputs, output)
        activations = fused(lower)(network.preprocessing(images))
    else:
        name, lower, activations = "features", backbone, network.predictor.outputs[1]
    if any(isinstance(leaf, RANDOM_LAYERS) and leaf.rate for leaf in leaves(lower.layers)):
        return None
    inputs = features = keras.Input(activations.shape[1:], dtype=activations.dtype, name="activations")
    if training:
        upper = fused(upper) if recipe.batch_norm == "inference" else upper
        features = pooled_features(upper(inputs), recipe.pooling)
    logits = network.head(features)
    outputs = [keras.layers.Softmax(name="probabilities")(logits), keras.layers.Identity()(features)]
    top = dataclasses.replace(
        network,
        training=keras.Model(inputs, logits, name="training"),
        predictor=keras.Model(inputs, outputs, name="predictor"),
    )
    return Split(name, keras.Model(images, activations, name="trunk"), top)


def _boundary(backbone: keras.Model, training: list[Any]) -> tuple[str, Any, keras.Model] | None:
    """The layer nearest to the head whose output all of `training` is computed from: its name, that output, what
    lies above it. None where there is no such layer, or it and those below it have no weights.
    """
    wanted = {id(layer) for layer in training}
    first = next(place for place, layer in enumerate(backbone.layers) if id(layer) in wanted)
    below = backbone.layers[1:first]
    for place, layer in reversed(list(enumerate(below))):
        if not any(leaf.weights for leaf in below[: place + 1]):
            return None  # padding and rescaling cost less than what keeps them
        outputs = [keras.layers.Identity()(x) if x is layer.output else x for x in backbone.outputs]
        try:
            upper = keras.Model(layer.output, outputs if len(outputs) > 1 else outputs[0])
        except ValueError:  # some path to the outputs leads past it
            continue
        if wanted <= {id(other) for other in upper.layers}:
            return layer.name, layer.output, upper
    return None


@dataclasses.dataclass
class Part:
    """Activations of one table's images, as they are or of one augmented copy, as `batches` reads them."""

    blocks: dict[int, np.ndarray]  # of `BLOCK` images each, by number
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, row: int) -> np.ndarray:
        """One image's activations, of `shape`. A view into the cache: do not modify it."""
        return self.blocks[row // BLOCK][row % BLOCK].view(self.dtype)


class ActivationStore:
    """Activations of one table's images, computed by `trunk`; `decides` is what decides them besides the images."""

    def __init__(
        self, cache: Path, name: str, decides: dict[str, Any], trunk: keras.Model, images: ImageStore, workers: int
    ) -> None:
        output = trunk.outputs[0]
        self.images, self.trunk, self.workers = images, trunk, workers
        self.shape = tuple(output.shape[1:])
        self.dtype = np.dtype(ml_dtypes.bfloat16 if output.dtype == "bfloat16" else output.dtype)
        self.stored_dtype = np.dtype(np.uint16) if output.dtype == "bfloat16" else self.dtype  # .npy has no bfloat16
        known = {"version": VERSION, "images": images.folder.name, "dtype": output.dtype}
        key = hashlib.sha256(json.dumps(known | decides, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(cache) / ACTIVATIONS / f"{name}_{key}"

    def missing_bytes(self, parts: Collection[str], rows: np.ndarray) -> int:
        """Of these parts' files that hold these rows, the size of those that are not there yet."""
        missing = [b for part in parts for b in _blocks_of(rows) if not self._path(part, b).exists()]
        return sum(map(self._images_in, missing)) * int(np.prod(self.shape)) * self.dtype.itemsize

    def part(self, name: str, images: Rows, rows: np.ndarray) -> Part:
        """The activations of these rows, mapped; computed from images, plain or augmented, where they are not there."""
        numbers = _blocks_of(rows)
        blocks = self._open(name, numbers)
        if missing := [block for block in numbers if block not in blocks]:
            self._compute(name, images, missing)
            blocks |= self._open(name, missing)
        if len(blocks) < len(numbers):
            raise UserError(f"{self.folder}: what was written is not what can be read. Choose another with --cache.")
        with contextlib.suppress(OSError):  # a read-only cache will do
            os.utime(self.folder)  # the least recently used is the first to make room
        return Part(blocks, self.shape, self.dtype)

    def _compute(self, name: str, images: Rows, blocks: list[int]) -> None:
        number_of = {self._path(name, block): block for block in blocks}
        bar = progress_bar(sum(map(self._images_in, blocks)), f"activations, {name.replace('_', ' ')}")

        def make(path: Path) -> None:
            rows, made = number_of[path] * BLOCK + np.arange(self._images_in(number_of[path])), []
            for batch, real in plain_batches(images, rows, PREDICTION_BATCH, self.workers):
                made.append(np.asarray(self.trunk.predict_on_batch(batch))[:real])
                bar.update(real)
            write_array(path, np.concatenate(made).astype(self.dtype, copy=False).view(self.stored_dtype))

        divide(list(number_of), make)
        bar.close()

    def _open(self, name: str, blocks: list[int]) -> dict[int, np.ndarray]:
        """Those of the blocks that are there and intact."""

        def mapped(block: int) -> np.ndarray | None:
            return open_array(self._path(name, block), (self._images_in(block), *self.shape), self.stored_dtype)

        with ThreadPoolExecutor(self.workers) as pool:
            found = zip(blocks, pool.map(mapped, blocks), strict=True)
            return {block: array for block, array in found if array is not None}

    def _images_in(self, block: int) -> int:
        return min(BLOCK, len(self.images) - block * BLOCK)

    def _path(self, part: str, block: int) -> Path:
        return self.folder / f"{part}_block_{block:05d}.npy"


def _blocks_of(rows: np.ndarray) -> list[int]:
    return [int(block) for block in np.unique(np.asarray(rows) // BLOCK)]


class KeptSource(Source):
    """The images of a source from activations, of them as they are and as augmented, below the network `top`."""

    def __init__(self, source: Source, top: Network, plain: ActivationStore, augmented: ActivationStore) -> None:
        super().__init__(top, source.images, source.augmentation, source.seed, source.workers)
        self.plain, self.augmented = plain, augmented

    def batches(self, targets: np.ndarray, order: np.ndarray, copy: int) -> Batches:
        images = Augmented(self.images, self.augmentation, self.seed, copy)
        part = self.augmented.part(_copy_name(copy), images, np.unique(order))
        batches = plain_batches(part, order.reshape(-1), order.shape[1], self.workers)
        for rows, (inputs, _) in zip(order, batches, strict=True):
            yield inputs, targets[rows]

    def predict(self, rows: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
        part = self.plain.part(PLAIN, self.images, rows)
        return predict(self.network.predictor, part, rows, self.workers, what)


def _copy_name(copy: int) -> str:
    return f"epoch_{copy:03d}"


@dataclasses.dataclass
class ActivationCache:
    """Activations of a network's frozen layers: computed once for all epochs and folds, as far as they fit."""

    split: Split  # the network cut above its frozen layers
    folder: Path  # the cache
    limit: int  # the most bytes that it may hold
    name: str  # of the architecture
    decides: dict[str, Any]  # what decides the function of the frozen layers: weights, precision, ...; JSON values
    say: Callable[[str], None]
    _folders: list[Path] = dataclasses.field(default_factory=list)  # of this fold run
    _promised: int = 0  # bytes that will be written to them

    def sources(self, labelled: Source, test: Source, data: FoldData, recipe: Recipe) -> tuple[Source, Source]:
        """The same two sources, from activations where that is possible; `labelled` are the images of `data`."""
        if labelled.augmentation.mixup or labelled.augmentation.cutmix:
            self.say("images are mixed, which differs from fold to fold: activations are not kept")
            return labelled, test
        self._folders = [labelled.images.folder, test.images.folder]
        epochs = range(1, recipe.head_epochs + recipe.epochs + 1)
        copies = [_copy_name(copy) for copy in sorted({recipe.copy_of(epoch) for epoch in epochs})]
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

        For rows that will be `predicted`, and others to be `trained` on in each of these augmented copies.
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
        folders = [plain.folder, augmented.folder, source.images.folder]
        if make_room(plain.folder, size + self._promised, self.limit, [*self._folders, *folders]):
            self._folders += folders
            self._promised += size
            self.say(f"{what} are computed once, for all epochs and folds, and kept in the cache")
            return KeptSource(source, self.split.top, plain, augmented)
        self.say(f"{what} do not fit in the cache (--cache-limit, or the disk): computed again each time")
        return source
