"""The engine's entrances: a training job in a process of its own, its description, and `finetune` for notebooks.

from models import finetune

model = finetune("inception_v3", data="data", trainable="from mixed7")
model.fit(fold=0)
table = model.predict(["some.jpg", "another.jpg"])
"""

import dataclasses
import inspect
import os
import signal
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from common import environment
from common.environment import LESS_MEMORY, OF_EXECUTOR, with_threads
from common.errors import UserError
from common.files import listed_again
from common.run_folder import CACHE, RunFolder
from common.settings import checked, nearest
from models.finetuning import architecture as zoo
from models.finetuning import fold_run, runtime
from models.finetuning.architecture import Bottleneck
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import weights as pretrained

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from models.finetuning.network.network import Network
    from preprocessing.dataset import Dataset
    from preprocessing.images import Source


def run(config: Path, folds: Sequence[int | str]) -> None:
    """`--config FILE --fold K`: trains a fold of a model as runs/NAME/MODEL/training.json says.

    Several folds only of a bottleneck model.
    """
    if os.environ.get(OF_EXECUTOR):
        threading.Thread(target=_end_with_executor, daemon=True).start()
    work = fold_run.load(config)
    # Before NumPy and the backend are loaded. Sums are rounded by how they are divided: this decides the last bits.
    os.environ.update(with_threads(work.threads))
    if os.environ.get(LESS_MEMORY):
        work = dataclasses.replace(work, workers=1)
    if len(folds) > 1 and not isinstance(work.recipe, Bottleneck):
        raise UserError(f"--fold {' '.join(map(str, folds))}: a process trains one fold. Start one command for each.")
    from preprocessing import dataset
    from preprocessing.folds import read_folds

    data = dataset.load(dataset.required(work.data), work.cache, work.skip_broken)
    train(work, folds, data, read_folds(work.run.folds, data.train))


def train(work: FoldRun, folds: Sequence[int | str], data: "Dataset", table: "pd.DataFrame") -> None:
    """Trains a fold of a model in this process, or several of a bottleneck model; the table is in any order."""
    table = table.set_index("img").loc[data.train["img"]].reset_index()
    runtime.load_keras()  # now that everything is known to be right
    if isinstance(work.recipe, Bottleneck):
        from models.finetuning.bottleneck import train_folds

        train_folds([work.of_fold(fold) for fold in folds], data, table)
    else:
        from models.finetuning.fold import train_fold

        train_fold(work.of_fold(folds[0]), data, table)


def _end_with_executor() -> None:
    """Ends this process when the executor that started it ends, in whatever way: then its end of our stdin closes."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _untrained(work: FoldRun) -> "Network":
    """A model's network with random weights; a UserError where it has no layer of a name in the settings."""
    runtime.load_keras()
    from models.finetuning.network.build import build

    return build(work.architecture, work.recipe, "none", "float32", work.seed)


def check_layers(config: str) -> None:
    """Builds a model's network without its weights, which checks the layers that its settings name."""
    _untrained(fold_run.load(Path(config)))


def describe(work: FoldRun, numbers: Sequence[int | str], folds: "pd.DataFrame", test_images: int) -> str:
    """What `--dry-run` prints of some folds of a model: the network, what of it trains when, and in how many steps."""
    network, recipe = _untrained(work), work.recipe
    from models.finetuning.network.network import set_trainable, trainable_blocks, trainable_summary
    from models.finetuning.training.optimisation import stages

    lines = [f"{work.model_name} in run {work.run.name}: {work.precision}, weights {work.weights}"]
    lines += [work.changes(), work.configuration()]
    layers = sum(bool(layer.weights) for layer in network.backbone.layers)
    lines.append(
        f"network: {recipe.image_size} pixels, {layers} layers with weights before the head, "
        f"{network.head.input_shape[-1]:,} features, {network.predictor.count_params():,} parameters"
    )
    steps = 0
    for fold in numbers:
        held_out = int((folds["fold"] == fold).sum())
        training = len(folds) - held_out
        training = min(training, recipe.train_images or training)
        steps = -(-training // recipe.batch_size)
        lines.append(
            f"fold {fold}: {training:,} training images in {steps:,} steps of {recipe.batch_size}, "
            f"{held_out:,} of held-out drivers, {test_images:,} test images"
        )
    if recipe.head_start == "logistic":
        lines.append("first: the head is fitted as a logistic regression on the frozen network's features")
    for stage in stages(recipe, len(trainable_blocks(network.backbone, recipe.trainable))):
        set_trainable(network, recipe, stage.name == "head", stage.top_blocks)
        epochs = f"{stage.epochs} epoch{'s' * (stage.epochs > 1)}, {stage.epochs * steps:,} steps"
        what = trainable_summary(network)
        lines.append(f"stage '{stage.name}': at most {epochs}, rate up to {stage.learning_rate:g}: {what}")
    return "\n".join(lines)


class Model:
    """A network of the zoo with its settings; made by `finetune`."""

    def __init__(self, work: FoldRun, data: Path | None, folds: int) -> None:
        self.work, self.data, self.folds = work, data, folds
        self.history: pd.DataFrame | None = None  # after `fit`, a row an epoch, as in a run's history.csv
        self.log_loss = float("nan")  # after `fit`, of the held-out drivers, in nats
        self.network: Network | None = None

    def fit(self, fold: int = 0) -> "Model":
        """Trains on all drivers but those of one fold, who choose the best weights. A second call starts afresh."""
        work = self.work.of_fold(fold)
        from preprocessing import dataset, folds

        data = dataset.load(dataset.required(self.data), work.cache, work.skip_broken)
        table = folds.make_folds(data.train, self.folds).set_index("img").loc[data.train["img"]].reset_index()
        if not 0 <= fold < self.folds:
            raise UserError(f"fold={fold}: there are the folds 0 to {self.folds - 1}.")
        pretrained.check_available(work.architecture, work.weights)
        policy = runtime.start(work.precision, work.seed)
        import pandas as pd

        from models.finetuning.data.sources import Source, fold_data, stores
        from models.finetuning.fold import train_network
        from models.finetuning.network.build import build

        network = build(work.architecture, work.recipe, work.weights, policy, work.seed)
        labelled, _ = stores(work.recipe, data, table, work.cache, work.cache_limit)
        labelled.prepare(work.workers)
        part = fold_data(work.recipe, fold, table, labelled)
        source = Source(network, labelled, cast("Any", work.augmentation), work.seed, work.workers)
        with tempfile.TemporaryDirectory() as folder:
            trainer = train_network(work, network, part, source, policy, Path(folder) / "state.npz", print, {})
        self.network = network
        self.history, self.log_loss = pd.DataFrame(trainer.progress.history), trainer.progress.best_loss
        return self

    def predict(self, images: "Sequence[Source] | Source") -> "pd.DataFrame":
        """A prediction table: img (the file's name; the number of an array or PIL image), c0, ..., c9.

        Args:
            images: one or several: paths, PIL images, or uint8 RGB arrays of shape (height, width, 3), of any size.
                Paths and PIL images are turned as their EXIF orientation says.
        """
        if self.network is None:
            raise UserError("this model has learned nothing yet. Call its fit() first.")
        import numpy as np
        import pandas as pd
        import PIL.Image

        from common.competition import CLASSES
        from models.finetuning.data.sources import Source, with_tta

        single = isinstance(images, (str, os.PathLike, PIL.Image.Image)) or getattr(images, "ndim", 0) in (2, 3)
        if not single and not isinstance(images, Iterable):
            raise UserError(f"predict expects images (paths, PIL images or arrays), found {type(images).__name__}.")
        store: Any = _Images([images] if single else list(cast("Iterable[Any]", images)), self.work)
        source = Source(self.network, store, cast("Any", self.work.augmentation), self.work.seed, self.work.workers)
        rows = np.arange(len(store.names))
        probabilities = np.empty((0, len(CLASSES)))
        if len(rows):
            plain, _ = source.predict(rows, "images")
            probabilities = with_tta(self.network.predictor, source, rows, plain, self.work.recipe.tta)
        probabilities = np.asarray(probabilities, np.float64)
        table = pd.DataFrame(probabilities / probabilities.sum(axis=1, keepdims=True), columns=list(CLASSES))
        table.insert(0, "img", store.names)
        return table


class _Images:
    """Photographs by row, as `sources.predict` reads them."""

    def __init__(self, images: "list[Any]", work: FoldRun) -> None:
        import numpy as np

        from preprocessing.images import checked_source

        self.images = [checked_source(image, f"image {number}") for number, image in enumerate(images)]
        self.names = [x.name if isinstance(x, Path) else str(number) for number, x in enumerate(self.images)]
        if listed_again(self.names):
            self.names = [str(image) for image in self.images]
        self.size, self.crop = work.recipe.image_size, work.recipe.crop
        self.shape: tuple[int, ...] = (self.size.height, self.size.width, 3)
        self.dtype = np.dtype(np.uint8)

    def read(self, row: int) -> "np.ndarray":
        from preprocessing.images import read_image

        return read_image(self.images[row], self.size, self.crop)


def finetune(
    name: str,
    *,
    data: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] = "imagenet",
    folds: int = 5,
    precision: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    quick: bool = False,
    skip_broken: bool = False,
    cache: str | os.PathLike[str] = CACHE,
    cache_limit: float = 64.0,
    **settings: Any,
) -> Model:
    """A network of the zoo with a fresh ten-way head, to be trained by `fit`.

    Args:
        name: of an architecture.
        data, weights, ...: as the options of the command line; `cache_limit` in GiB.
        settings: those of the recipe and of the augmentation, by the names of their command-line options (epochs,
            trainable, image_size, rotation, ...).

    Raises:
        UserError: an unknown setting (names the nearest), a wrong value, contradicting settings, no such data folder.
    """
    architecture = zoo.find(name)
    given: dict[str, Any] = {}
    known: list[str] = []
    for own in (architecture.recipe, architecture.augmentation):
        names = [field.name for field in dataclasses.fields(own)]
        known += names
        given |= checked(own, {name: value for name, value in settings.items() if name in names})
    for setting in set(settings) - set(given):
        hint = nearest(setting, [*known, *inspect.signature(finetune).parameters]) or "."
        raise UserError(f"unknown setting {setting!r}{hint} All: python models/{architecture.name}.py --help")
    if precision not in runtime.PRECISIONS:
        raise UserError(f"precision={precision!r}: expected one of {', '.join(runtime.PRECISIONS)}.")
    if given.get("pseudo_labels"):
        raise UserError(f"pseudo_labels: these belong to the folds of a run: python models/{architecture.name}.py")
    pretrained.weights_file(architecture, str(weights))
    if data is not None:
        from preprocessing import dataset

        dataset.required(Path(data))
    recipe, augmentation = architecture.settings_for(given, scratch=weights == "none", quick=quick)
    work = FoldRun(
        *(RunFolder(Path()), architecture.name, architecture, recipe, augmentation, Path()),
        weights=str(weights),
        precision=precision,
        seed=seed,
        skip_broken=skip_broken,
        cache=Path(cache),
        cache_limit=int(cache_limit * 2**30),
        workers=workers or environment.cores(),
    )
    return Model(work, None if data is None else Path(data), folds)
