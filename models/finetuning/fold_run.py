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

from common import environment, run_folder
from common.errors import UserError, named
from common.files import read_json, read_record, sha256_of, write_json
from common.run_folder import ALL_DRIVERS, REPOSITORY, CorruptedOutputError, FoldFolder, RunFolder, checked_name
from common.settings import as_json, as_words, checked
from models.finetuning import architecture as zoo
from models.finetuning import runtime
from models.finetuning.architecture import Architecture, Bottleneck, Recipe
from models.finetuning.network import weights
from preprocessing.settings import Augmentation

PSEUDO_MODELS, PSEUDO_SHA256 = "pseudo_labels_models", "pseudo_labels_sha256"  # in config.json
OWN_OF_FOLD = {"fold", PSEUDO_SHA256}  # settings in which the folds of a model differ


@dataclasses.dataclass(frozen=True)
class FoldRun:
    """One model on one fold of a run; what has no comment is as the option of that name."""

    run: RunFolder
    model_name: str  # the model's folder in the run; the architecture's name unless the user gave another
    architecture: Architecture
    recipe: Any  # a `Recipe`; or a `Bottleneck`, of a classifier on the features
    augmentation: Augmentation | None  # None where images are only seen as they are
    data: Path
    weights: str = "imagenet"
    precision: str = "auto"  # a dtype policy, or 'auto' where nobody has resolved it
    deterministic: str = "auto"
    seed: int = 0
    skip_broken: bool = False
    cache: Path = REPOSITORY / "cache"
    cache_limit: int = 64 * 2**30  # bytes
    workers: int = 1
    threads: int | None = None  # cores to compute on, which decides how sums are rounded; None is every core
    activations: str = "auto"
    log_to: tuple[str, ...] = ()
    fold: int | str = 0  # that is held out; 'all' holds nobody out

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
        names = [run_folder.HISTORY, run_folder.NETWORK, run_folder.TEST, run_folder.TEST_FEATURES]
        if self.fold != ALL_DRIVERS:
            names += [run_folder.OUT_OF_FOLD, run_folder.OUT_OF_FOLD_FEATURES]
        if getattr(self.recipe, "tta", 0):
            names += [run_folder.TEST_WITHOUT_TTA]
            names += [run_folder.OUT_OF_FOLD_WITHOUT_TTA] if self.fold != ALL_DRIVERS else []
        return tuple(names)

    def of_fold(self, fold: int | str) -> "FoldRun":
        """The same model on another fold."""
        return dataclasses.replace(self, fold=fold)

    def pseudo_tables(self) -> list[Path]:
        """The prediction tables that its pseudo-labels are made of, as `find_tables`; none without."""
        source = getattr(self.recipe, "pseudo_labels", "")
        return find_tables(self.folder, source) if source else []

    def changes(self) -> str:
        """A line: the settings that are not the architecture's own defaults."""
        defaults = (self.architecture.recipe, self.architecture.augmentation)
        changed = as_words(self.recipe, defaults[0]) + as_words(self.augmentation, defaults[1])
        return f"settings: {', '.join(changed) or 'none'} beside the defaults of models/{self.architecture.name}.py"

    def configuration(self) -> str:
        """Lines: every setting as it was resolved."""
        words = as_words(self.recipe) + (as_words(self.augmentation) if self.augmentation else [])
        return textwrap.fill("configuration: " + ", ".join(words), 118, subsequent_indent="    ")

    def settings(self, test_images: Sequence[str], broken: Collection[str] = ()) -> dict[str, Any]:
        """What decides the result, as JSON. The number of workers, the paths and what is kept in the cache do not.

        Args:
            test_images: every image to predict, in order; `broken` are those of them that cannot be read.
        """
        augmentation = as_json(self.augmentation) if self.augmentation else {}
        found: dict[str, Any] = {
            "architecture": self.architecture.name,
            "fold": self.fold,
            "folds_sha256": sha256_of(self.run.folds),
            "test_images_sha256": hashlib.sha256("\n".join(test_images).encode()).hexdigest(),
            "test_images_broken": hashlib.sha256("\n".join(sorted(broken)).encode()).hexdigest() if broken else "none",
            "weights": weights.identity(self.architecture, self.weights),
            "precision": self.precision,
            "seed": self.seed,
            **as_json(self.recipe),
            **{f"augmentation_{name}": value for name, value in augmentation.items()},
        }
        return found | pseudo_settings(self.pseudo_tables())

    def save(self) -> Path:
        """Writes runs/NAME/MODEL/training.json, from which `load` makes a fold run of any fold; returns its path."""
        path = self.run.job_file(self.model_name)
        content: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        content |= {"data": str(self.data.resolve()), "cache": str(self.cache.resolve())}
        if self.weights not in ("none", "imagenet"):
            content["weights"] = str(Path(self.weights).resolve())
        content |= {"architecture": self.architecture.name, "classifies_features": self.script == "bottleneck"}
        content |= {"recipe": as_json(self.recipe), "augmentation": as_json(self.augmentation or Augmentation())}
        write_json(path, content)
        return path

    def is_finished(self, settings: dict[str, Any]) -> bool:
        """Whether it was trained with these settings, and its files are there; a UserError where it has others."""
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
        if folder.has_outputs():
            _require_same(folder, theirs, settings)
        return finished

    def require_same_settings(self, settings: dict[str, Any]) -> None:
        """Raises a UserError where a finished fold has others, or the out-of-fold loss would be of several models.

        A network trained on all drivers has nothing out of fold; it need only start from the same weights.
        """
        for folder in self.run.finished([self.model_name]):
            theirs, ours = (folder.config() or {}).get("settings"), settings
            if theirs and ALL_DRIVERS in (self.fold, folder.fold):
                theirs, ours = {"weights": theirs.get("weights")}, {"weights": ours["weights"]}
            if theirs:
                _require_same(folder, theirs, ours, OWN_OF_FOLD)

    def start(self, settings: dict[str, Any], versions: dict[str, str]) -> None:
        """Writes config.json: the settings, and what they met here."""
        self.require_same_settings(settings)
        here = {"host": platform.node(), "cores": environment.cores(), "system": platform.platform()}
        here["deterministic"] = runtime.choose_determinism(self.deterministic)[0]
        met = {"versions": versions, "git_revision": _git_revision(), "machine": here}
        self.folder.start({"settings": settings, **met})


_PLAIN = (
    *("weights", "precision", "deterministic", "seed", "skip_broken", "cache_limit", "workers", "threads"),
    *("activations", "log_to"),
)


def load(path: Path, fold: int | str = 0) -> FoldRun:
    """The fold run of a training.json that `FoldRun.save` wrote; the file's place says the run and the model."""
    content = read_record(path)
    try:
        bottleneck = content.pop("classifies_features")
        recipe, augmentation = Bottleneck() if bottleneck else Recipe(), content.pop("augmentation")
        return FoldRun(
            run=RunFolder(path.resolve().parent.parent),
            model_name=path.resolve().parent.name,
            architecture=zoo.find(content.pop("architecture")),
            recipe=dataclasses.replace(recipe, **checked(recipe, content.pop("recipe"))),
            augmentation=None if bottleneck else Augmentation(**checked(Augmentation(), augmentation)),
            fold=fold,
            data=Path(content.pop("data")),
            cache=Path(content.pop("cache")),
            log_to=tuple(content.pop("log_to")),
            **content,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: expected the configuration of a training job, as this version of ./run_all.sh writes it "
            f"({error}). Go on with the version that made it, or train it again under another --run."
        ) from error


def find_tables(folder: FoldFolder, source: str) -> list[Path]:
    """The prediction tables of the test set that a fold run learns from: pseudo-labels.

    Fold k reads the test predictions of the earlier run's fold k alone. Those networks, too, never saw the drivers that
    fold k holds out, so these drivers stay unseen. A training on all drivers holds nobody out and may read every fold.
    """
    option = f"--pseudo-labels {source}"
    name, _, models = source.partition("/")
    wanted = [checked_name(model, option) for model in models.split(",")] if models else []
    own, earlier = RunFolder(folder.run), RunFolder(folder.run.parent / checked_name(name, option))
    if not earlier.folds.is_file():
        raise UserError(f"{option}: {earlier.path} is no run. Expected the name of one that has finished this fold.")
    if earlier.path.resolve() == own.path.resolve() and (not wanted or folder.model in wanted):
        raise UserError(
            f"{option}: that is this run itself. Name a model of it (--pseudo-labels {name}/MODEL) or another --run."
        )
    folds_sha256 = sha256_of(own.folds)
    if sha256_of(earlier.folds) != folds_sha256:
        raise UserError(
            f"{option}: its folds.csv differs from this run's, so its networks may have seen drivers that are held out "
            "here. Take a run of the same data and the same --folds."
        )
    found = [one for one in earlier.finished(wanted) if folder.fold in (ALL_DRIVERS, one.fold)]
    lacking = sorted({*wanted} - {one.model for one in found})
    if lacking or not found:
        there = [f"{one.model}/{one.path.name}" for one in earlier.finished()]
        expected = earlier.fold(lacking[0] if lacking else "MODEL", folder.fold).path
        raise UserError(
            f"{option}: expected a finished {expected}, found {named(there, 5) or 'nothing finished'}. Train it first."
        )
    for one in found:
        if one.has_other_folds(folds_sha256):
            raise UserError(
                f"{option}: {one.path} was trained on other folds than its run's folds.csv has now, so it may have "
                "seen drivers that are held out here. Train that model again, or name another run."
            )
    return [one / run_folder.TEST for one in found]


def pseudo_settings(tables: Sequence[Path]) -> dict[str, Any]:
    """What config.json says of the tables that pseudo-labels are made of; nothing without any."""
    if not tables:
        return {}
    sums = {path: sha256_of(path) for path in tables}
    for path, own in sums.items():
        run_folder.verified(path, own)
    models = sorted({path.parts[-3] for path in tables})
    return {PSEUDO_MODELS: models, PSEUDO_SHA256: hashlib.sha256("".join(sums.values()).encode()).hexdigest()}


def require_same_models(settings: Mapping[int | str, dict[str, Any]]) -> None:
    """Raises a UserError where folds with these `FoldRun.settings` would learn from different models; 'all' may."""
    models = {fold: own.get(PSEUDO_MODELS) for fold, own in settings.items() if fold != ALL_DRIVERS}
    if any(names != next(iter(models.values())) for names in models.values()):
        raise UserError(
            f"--pseudo-labels: all folds of a model learn from the same models, here by fold: {models}. Finish the "
            "other folds of these first, or name one that has all: --pseudo-labels RUN/MODEL."
        )


def _require_same(
    folder: FoldFolder, theirs: dict[str, Any], ours: dict[str, Any], ignored: Collection[str] = ()
) -> None:
    """Compares settings. One that is newer than a record counts as its default, which changes nothing."""
    defaults = as_json(Recipe()) | {f"augmentation_{name}": value for name, value in as_json(Augmentation()).items()}
    theirs, ours = defaults | theirs, defaults | ours
    names = [name for name in sorted({*theirs, *ours} - set(ignored)) if theirs.get(name) != ours.get(name)]
    if names:
        shown = "; ".join(f"{name} was {theirs.get(name)!r}, is now {ours.get(name)!r}" for name in names[:5])
        raise UserError(
            f"{folder.path} was made with other settings: {shown}{' ...' if len(names) > 5 else ''}. All folds of a "
            "model need the same. Give the same options, or give this experiment its own --run NAME (or --model-name "
            f"NAME to keep both in one run), or delete {folder.path.parent}, all folds of it."
        )


def _git_revision() -> str:
    if (REPOSITORY / run_folder.BUNDLE_MANIFEST).exists():  # of a bundle, which is no checkout
        return str(read_json(REPOSITORY / run_folder.BUNDLE_MANIFEST)["revision"])
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
