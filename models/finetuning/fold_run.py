"""A fold run: one model trained on one fold, with everything that decides its result.

The command line is resolved once, into a `FoldRun` for each model, and saved as runs/NAME/MODEL/training.json. The
process that trains fold K reads that file: `python models/NAME.py --config runs/NAME/MODEL/training.json --fold K`.
"""

import dataclasses
import hashlib
import platform
import subprocess
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import machine
from common.errors import UserError, named
from common.files import read_json, read_record, sha256_of, write_json
from common.run_folder import (
    ALL_DRIVERS,
    BUNDLE_MANIFEST,
    HISTORY,
    NETWORK,
    OUT_OF_FOLD,
    OUT_OF_FOLD_FEATURES,
    OUT_OF_FOLD_WITHOUT_TTA,
    REGULARISATION,
    REPOSITORY,
    TEST,
    TEST_FEATURES,
    TEST_WITHOUT_TTA,
    CorruptedOutputError,
    FoldFolder,
    RunFolder,
)
from common.settings import as_json, as_words, checked
from models.finetuning import architecture as zoo
from models.finetuning import runtime
from models.finetuning.architecture import Architecture
from models.finetuning.data import pseudo_labels
from models.finetuning.network import weights as pretrained
from models.finetuning.recipe import Bottleneck, Recipe
from preprocessing.settings import Augmentation

OWN_OF_FOLD = {"fold", pseudo_labels.SHA256}  # settings in which the folds of a model differ


@dataclasses.dataclass(frozen=True)
class FoldRun:
    """One model on one fold of a run.

    Attributes:
        run: the run's folder.
        model_name: the model's folder in the run; the architecture's name unless the user gave another.
        recipe: a `Recipe`; or a `Bottleneck`, of a classifier on the features.
        augmentation: None where images are only seen as they are.
        data: the competition's folder.
        weights: 'imagenet', 'none' or a folder of NAME.weights.h5.
        precision: a dtype policy, or 'auto' where nobody has resolved it.
        deterministic: whether operations give the same bits each time: 'auto', 'yes' or 'no'.
        cache: folder of decoded images, activations and features.
        cache_limit: its largest size, in bytes.
        workers: threads that make batches.
        threads: cores that its process computes on, which decides how sums are rounded; None is every core.
        activations: whether those of frozen layers are kept in the cache: 'auto', 'yes' or 'no'. Decides no result.
        log_to: where the curves go besides history.csv: names of `tracking`. Decides no result.
        fold: the fold that is held out; 'all' holds nobody out.
    """

    run: RunFolder
    model_name: str
    architecture: Architecture
    recipe: Any
    augmentation: Augmentation | None
    data: Path
    weights: str = "imagenet"
    precision: str = "auto"
    deterministic: str = "auto"
    seed: int = 0
    skip_broken: bool = False
    cache: Path = REPOSITORY / "cache"
    cache_limit: int = 64 * 2**30
    workers: int = 1
    threads: int | None = None
    activations: str = "auto"
    log_to: tuple[str, ...] = ()
    fold: int | str = 0

    @property
    def folder(self) -> FoldFolder:
        """runs/NAME/MODEL/fold_K"""
        return self.run.fold(self.model_name, self.fold)

    @property
    def script(self) -> str:
        """The name of the script in models/ that trains it."""
        return "bottleneck" if isinstance(self.recipe, Bottleneck) else self.architecture.name

    @property
    def outputs(self) -> tuple[str, ...]:
        """The files that it leaves: where nobody is held out, nothing is out of fold."""
        names = [HISTORY, NETWORK, OUT_OF_FOLD, OUT_OF_FOLD_FEATURES, TEST, TEST_FEATURES]
        if isinstance(self.recipe, Bottleneck):
            names.append(REGULARISATION)
        elif self.recipe.tta:
            names += [OUT_OF_FOLD_WITHOUT_TTA, TEST_WITHOUT_TTA]
        return tuple(name for name in names if self.fold != ALL_DRIVERS or not name.startswith("out_of_fold"))

    def of_fold(self, fold: int | str) -> "FoldRun":
        """The same model on another fold."""
        return dataclasses.replace(self, fold=fold)

    def pseudo_tables(self) -> list[Path]:
        """The prediction tables that its pseudo-labels are made of; none without.

        Raises:
            UserError: they are not there.
        """
        source = getattr(self.recipe, "pseudo_labels", "")
        return pseudo_labels.find_tables(self.folder, source) if source else []

    def changes(self) -> str:
        """A line: the settings that are not the architecture's own defaults."""
        defaults = (self.architecture.recipe, self.architecture.augmentation)
        changed = [
            words
            for ours, default in zip((self.recipe, self.augmentation), defaults, strict=True)
            for words in as_words(ours, default)
        ]
        return f"settings: {', '.join(changed) or 'none'} beside the defaults of models/{self.architecture.name}.py"

    def configuration(self) -> str:
        """Lines: every setting as it was resolved."""
        words = as_words(self.recipe) + (as_words(self.augmentation) if self.augmentation else [])
        return textwrap.fill("configuration: " + ", ".join(words), 118, subsequent_indent="    ")

    def settings(self, test_images: Sequence[str], broken: Collection[str] = ()) -> dict[str, Any]:
        """What decides the result, as JSON. The number of workers, the paths and what is kept in the cache do not.

        Args:
            test_images: every image to predict, in order.
            broken: those of them that cannot be read.
        """
        augmentation = as_json(self.augmentation) if self.augmentation else {}
        return {
            "architecture": self.architecture.name,
            "fold": self.fold,
            "folds_sha256": sha256_of(self.run.folds),
            "test_images_sha256": hashlib.sha256("\n".join(test_images).encode()).hexdigest(),
            "test_images_broken": hashlib.sha256("\n".join(sorted(broken)).encode()).hexdigest() if broken else "none",
            "weights": pretrained.identity(self.architecture, self.weights),
            "precision": self.precision,
            "seed": self.seed,
            **as_json(self.recipe),
            **{f"augmentation_{name}": value for name, value in augmentation.items()},
            **pseudo_labels.settings_of(self.pseudo_tables()),
        }

    def save(self) -> Path:
        """Writes runs/NAME/MODEL/training.json, from which `load` makes a fold run of any fold; returns its path."""
        path = self.run.job_file(self.model_name)
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name in _PLAIN}
        content = {name: str(value) if isinstance(value, Path) else value for name, value in own.items()}
        content |= {"architecture": self.architecture.name, "classifies_features": self.script == "bottleneck"}
        content |= {"recipe": as_json(self.recipe), "augmentation": as_json(self.augmentation or Augmentation())}
        content = {**content, "data": str(self.data.resolve()), "cache": str(self.cache.resolve())}
        if not path.is_file() or read_json(path) != _as_read(content):
            write_json(path, content)
        return path

    def is_finished(self, settings: dict[str, Any]) -> bool:
        """Whether it was trained with these settings, and its files are there.

        Raises:
            UserError: it was trained with other settings, or its training started with other settings.
        """
        folder = self.folder
        finished = folder.is_finished()
        try:
            theirs = folder.settings() if finished else (folder.config() or {}).get("settings")
        except CorruptedOutputError as error:
            print(f"note: {error}", file=sys.stderr)
            return False
        if theirs is None:
            folder.remove_checkpoint()  # what it belongs to is unknown
            return False
        if (differing := _differing(theirs, settings)) and folder.has_outputs():
            raise UserError(
                f"{folder.path} was made with other settings: {_described(differing, theirs, settings)}. Give this "
                "experiment its own --run NAME (or --model-name NAME to keep both in one run), or delete "
                f"{folder.path.parent}, all folds of it."
            )
        return finished

    def require_same_settings(self, settings: dict[str, Any]) -> None:
        """All folds of a model are trained with the same settings, or its out-of-fold loss would be of several models.

        A network trained on all drivers has nothing out of fold; it need only start from the same weights.

        Raises:
            UserError: a finished fold was trained with other settings. Weights with another checksum are another file,
                or a corrupted one.
        """
        for folder in self.run.finished([self.model_name]):
            theirs = (folder.config() or {}).get("settings")
            if theirs is None:
                continue
            weights = str(theirs.get("weights"))
            if weights.startswith("sha256:") and weights != settings["weights"]:
                raise UserError(
                    f"{folder.path} was trained from weights {weights}, now they are {settings['weights']}: another "
                    "file, or a corrupted one. Restore it, or train this under another --run or --model-name."
                )
            if ALL_DRIVERS in (self.fold, folder.fold):
                continue
            differing = [name for name in _differing(theirs, settings) if name not in OWN_OF_FOLD]
            if differing:
                raise UserError(
                    f"{folder.path} was made with other settings than fold {self.fold} would be: "
                    f"{_described(differing, theirs, settings)}. All folds of a model need the same: give the same "
                    "options, or train this under another --run or --model-name."
                )

    def start(self, settings: dict[str, Any], versions: dict[str, str]) -> None:
        """Writes config.json: the settings, and what they met here."""
        self.require_same_settings(settings)
        here = {"host": platform.node(), "cores": machine.cores(), "system": platform.platform()}
        here["deterministic"] = runtime.choose_determinism(self.deterministic)[0]
        self.folder.start(
            {"settings": settings, "versions": versions, "git_revision": _git_revision(), "machine": here}
        )


_PLAIN = {
    **{"data": str, "weights": str, "precision": str, "deterministic": str, "seed": int, "skip_broken": bool},
    **{"cache": str, "cache_limit": int, "workers": int, "threads": int | None, "activations": str, "log_to": list},
}
_TYPES = {**_PLAIN, "architecture": str, "classifies_features": bool, "recipe": dict, "augmentation": dict}


def load(path: Path, fold: int | str = 0) -> FoldRun:
    """The fold run of a training.json that `FoldRun.save` wrote; the file's place says the run and the model.

    Raises:
        UserError: it is not such a file.
    """
    content = read_record(path)
    if set(content) != set(_TYPES) or not all(isinstance(content[name], kind) for name, kind in _TYPES.items()):
        raise UserError(f"{path}: expected the configuration of a training job, as ./run_all.sh writes it.")
    plain = {name: content[name] for name in _PLAIN}
    plain |= {"data": Path(plain["data"]), "cache": Path(plain["cache"]), "log_to": tuple(plain["log_to"])}
    bottleneck = content["classifies_features"]
    recipe = Bottleneck() if bottleneck else Recipe()
    return FoldRun(
        run=RunFolder(path.resolve().parent.parent),
        model_name=path.resolve().parent.name,
        architecture=zoo.find(content["architecture"]),
        recipe=_replaced(recipe, content["recipe"], path),
        augmentation=None
        if content["classifies_features"]
        else _replaced(Augmentation(), content["augmentation"], path),
        fold=fold,
        **plain,
    )


def _replaced(configuration: Any, values: Mapping[str, Any], path: Path) -> Any:
    names = {field.name for field in dataclasses.fields(configuration)}
    if strange := sorted(set(values) - names):
        raise UserError(
            f"{path}: expected the settings of this version, found {named(strange)}: another version of the code made "
            "it. Go on with that version, or train it again under another --run."
        )
    return dataclasses.replace(configuration, **checked(configuration, values))


def _as_read(content: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}


def _differing(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """The settings that differ. One that is newer than a record counts as its default, which changes nothing."""
    defaults = as_json(Recipe()) | {f"augmentation_{name}": value for name, value in as_json(Augmentation()).items()}
    if theirs.get("pseudo_labels"):
        defaults["pseudo_prior"] = False  # as it was before there was this setting
    names = sorted({*theirs, *ours})
    return [name for name in names if theirs.get(name, defaults.get(name)) != ours.get(name, defaults.get(name))]


def _described(names: Sequence[str], theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The first few settings that differ: 'epochs was 4, is now 6'."""
    shown = "; ".join(f"{name} was {theirs.get(name)!r}, is now {ours.get(name)!r}" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _git_revision() -> str:
    if (REPOSITORY / BUNDLE_MANIFEST).exists():  # of a bundle, which is no checkout
        return str(read_json(REPOSITORY / BUNDLE_MANIFEST)["revision"])
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
