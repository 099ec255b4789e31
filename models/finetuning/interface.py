"""The engine from Python, for notebooks: four lines from data to predictions.

from models import finetune

model = finetune("inception_v3", data="data", trainable="from mixed7")
model.fit(fold=0)
table = model.predict(["some.jpg", "another.jpg"])
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from common import machine
from common.errors import UserError
from common.run_folder import CACHE, RunFolder
from common.settings import checked, nearest
from models.finetuning import architecture as zoo
from models.finetuning import runtime
from models.finetuning.architecture import Architecture
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import weights as pretrained
from models.finetuning.recipe import Kind, Recipe
from preprocessing.settings import Augmentation

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from models.finetuning.network.network import Network
    from preprocessing.images import Source


@dataclasses.dataclass(frozen=True)
class Options:
    """Where and on what a model works; the names and defaults are those of the command line.

    Attributes:
        data: Kaggle's data folder; found by itself where it is None.
        weights: 'imagenet', 'none', or a folder of NAME.weights.h5.
        folds: how many the labelled images are split into, by driver.
        precision: 'auto', or a dtype policy such as 'float32' or 'mixed_bfloat16'.
        seed: of the order of images, augmentation, dropout and random weights.
        workers: threads that make batches.
        quick: the miniature: small images, few of them.
        skip_broken: go on without images that cannot be read.
        cache: folder of decoded images, activations and features.
        cache_limit: its largest size, in GiB.
    """

    data: str | os.PathLike[str] | None = None
    weights: str | os.PathLike[str] = "imagenet"
    folds: int = 5
    precision: str = "auto"
    seed: int = 0
    workers: int = dataclasses.field(default_factory=machine.cores)
    quick: bool = False
    skip_broken: bool = False
    cache: str | os.PathLike[str] = CACHE
    cache_limit: float = 64.0


class Model:
    """A network of the zoo with its settings; made by `finetune`.

    Attributes:
        history: after `fit`, a row an epoch, with the columns of a run's history.csv.
        log_loss: after `fit`, of the held-out drivers, in nats.
        network: once it is built.
    """

    def __init__(self, architecture: Architecture, options: Options, given: dict[str, Any]) -> None:
        kind = Kind(scratch=options.weights == "none", quick=options.quick)
        self.architecture = architecture
        self.options = options
        self.recipe, self.augmentation = architecture.settings_for(kind, given)
        if self.recipe.pseudo_labels:
            raise UserError(
                f"pseudo_labels={self.recipe.pseudo_labels!r}: these belong to the folds of a run. Train it with "
                f"python models/{architecture.name}.py --pseudo-labels {self.recipe.pseudo_labels}"
            )
        self.history: pd.DataFrame | None = None
        self.log_loss = float("nan")
        self.network: Network | None = None

    def fit(self, fold: int = 0) -> "Model":
        """Trains on all drivers but those of one fold, who choose the best weights. A second call starts afresh.

        Raises:
            UserError: no such fold, data or weights that are not available, or a loss that is no longer a number.
        """
        options, work = self.options, self._fold_run(fold)
        from preprocessing import dataset, folds

        data = dataset.load(dataset.required(_path(options.data)), Path(options.cache), options.skip_broken)
        table = folds.make_folds(data.train, options.folds).set_index("img").loc[data.train["img"]].reset_index()
        if not 0 <= fold < options.folds:
            raise UserError(f"fold={fold}: there are the folds 0 to {options.folds - 1}.")
        pretrained.check_available(self.architecture, str(options.weights))
        policy = runtime.start(options.precision, options.seed)
        import pandas as pd

        from models.finetuning import fold as engine
        from models.finetuning.data import sources
        from models.finetuning.network.build import build

        network = build(self.architecture, self.recipe, str(options.weights), policy, options.seed)

        limit = int(options.cache_limit * 2**30)
        labelled, _ = engine.stores(self.recipe, data, table, Path(options.cache), limit)
        labelled.prepare(options.workers)
        with tempfile.TemporaryDirectory() as folder:
            part = engine.fold_data(work, table, labelled)
            source = sources.Source(network, labelled, self.augmentation, work.seed, options.workers)
            checkpoint = Path(folder) / "state.npz"
            trainer = engine.train_network(work, network, part, source, policy, checkpoint, print)
        self.network = network
        self.history, self.log_loss = pd.DataFrame(trainer.progress.history), trainer.progress.best_loss
        return self

    def predict(self, images: "Sequence[Source] | Source") -> "pd.DataFrame":
        """Probabilities of photographs.

        Args:
            images: one or several: paths, PIL images, or uint8 RGB arrays of shape (height, width, 3), of any size.
                Paths and PIL images are turned as their EXIF orientation says.

        Returns:
            a prediction table: img (the file's name, or its path where two names are the same; the number of an array
            or PIL image), c0, ..., c9.

        Raises:
            UserError: nothing was fitted yet, or an image cannot be read.
        """
        if self.network is None:
            raise UserError("this model has learned nothing yet. Call its fit() first.")
        import numpy as np
        import pandas as pd
        import PIL.Image

        from common.competition import CLASSES
        from models.finetuning.data.prediction import predict, with_tta

        single = isinstance(images, (str, os.PathLike, PIL.Image.Image)) or getattr(images, "ndim", 0) in (2, 3)
        if not single and not isinstance(images, Iterable):
            raise UserError(f"predict expects images (paths, PIL images or arrays), found {type(images).__name__}.")
        store = _Images([images] if single else list(cast("Iterable[Any]", images)), self.recipe)
        probabilities = np.empty((0, len(CLASSES)))
        if len(store):
            rows = np.arange(len(store))
            options = self.options
            plain, _ = predict(self.network.predictor, store, rows, options.workers, "images")
            tta = (self.recipe.tta, options.seed, options.workers)
            probabilities = with_tta(self.network.predictor, store, rows, plain, *tta)
        probabilities = np.asarray(probabilities, np.float64)
        table = pd.DataFrame(probabilities / probabilities.sum(axis=1, keepdims=True), columns=list(CLASSES))
        table.insert(0, "img", store.names)
        return table

    def _fold_run(self, fold: int) -> FoldRun:
        return FoldRun(
            run=RunFolder(Path()),
            model_name=self.architecture.name,
            architecture=self.architecture,
            recipe=self.recipe,
            augmentation=self.augmentation,
            data=Path(),
            fold=fold,
            weights=str(self.options.weights),
            precision=self.options.precision,
            seed=self.options.seed,
            workers=self.options.workers,
        )


class _Images:
    """Photographs by row, as `prediction.predict` reads them."""

    def __init__(self, images: "list[Any]", recipe: Recipe) -> None:
        import numpy as np

        from preprocessing.images import checked_source

        self.images = [checked_source(image, f"image {number}") for number, image in enumerate(images)]
        self.size, self.crop = recipe.image_size, recipe.crop
        self.shape: tuple[int, ...] = (self.size.height, self.size.width, 3)
        self.dtype = np.dtype(np.uint8)
        paths = [image for image in self.images if isinstance(image, Path)]
        clash = len({path.name for path in paths}) < len(paths)
        self.names = [
            (str(image) if clash else image.name) if isinstance(image, Path) else str(number)
            for number, image in enumerate(self.images)
        ]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int) -> "np.ndarray":
        from preprocessing.images import read_image

        return read_image(self.images[row], self.size, self.crop)


def finetune(name: str, **settings: Any) -> Model:
    """A network of the zoo with a fresh ten-way head, to be trained by `fit`.

    Args:
        name: of an architecture.
        settings: those of `Options` (data, weights, folds, ...), of the recipe and of the augmentation, by the names
            of their command-line options (epochs, trainable, image_size, rotation, ...).

    Raises:
        UserError: an unknown setting (names the nearest), a wrong value, contradicting settings, no such data folder.
    """
    architecture = zoo.find(name)
    options = {field.name for field in dataclasses.fields(Options)}
    recipe = {field.name for field in dataclasses.fields(Recipe)}
    augmentation = {field.name for field in dataclasses.fields(Augmentation)}
    for setting in settings:
        if setting not in options | recipe | augmentation:
            hint = nearest(setting, sorted(options | recipe | augmentation)) or "."
            raise UserError(f"unknown setting {setting!r}{hint} All: python models/{architecture.name}.py --help")
    chosen = Options(**{name: value for name, value in settings.items() if name in options})
    if chosen.precision not in runtime.PRECISIONS:
        raise UserError(f"precision={chosen.precision!r}: expected one of {', '.join(runtime.PRECISIONS)}.")
    given = checked(architecture.recipe, {name: settings[name] for name in settings if name in recipe})
    given |= checked(architecture.augmentation, {name: settings[name] for name in settings if name in augmentation})
    pretrained.weights_file(architecture, str(chosen.weights))
    if chosen.data is not None:
        from preprocessing import dataset

        dataset.required(_path(chosen.data))
    return Model(architecture, chosen, given)


def _path(data: str | os.PathLike[str] | None) -> Path | None:
    return None if data is None else Path(data)
