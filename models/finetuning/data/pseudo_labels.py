"""Pseudo-labels: which tables of an earlier run say what the test images show.

Fold k reads the test predictions of that run's fold k alone. Those networks, too, never saw the drivers that fold k
holds out, so these drivers stay unseen. A training on all drivers holds nobody out and may read every fold.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, named
from common.files import sha256_of
from common.run_folder import ALL_DRIVERS, TEST, FoldFolder, RunFolder, checked_name, verified

if TYPE_CHECKING:
    import numpy as np

STRENGTH = 300.0  # of the prior of each driver; blends choose 300 or 1000
MODELS, SHA256 = "pseudo_labels_models", "pseudo_labels_sha256"  # in config.json


def find_tables(folder: FoldFolder, source: str) -> list[Path]:
    """The prediction tables of the test set that a fold run learns from.

    Args:
        folder: the fold run.
        source: what --pseudo-labels says: RUN, or RUN/MODEL[,MODEL] for some of its models.

    Raises:
        UserError: no such run or model, other folds, or this fold is not finished there.
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
    finished = earlier.finished(wanted)
    found = [one for one in finished if folder.fold in (ALL_DRIVERS, one.fold)]
    if not found:
        there = [f"{one.model}/{one.path.name}" for one in earlier.finished()]
        raise UserError(
            f"{option}: expected a finished {earlier.fold(models or 'MODEL', folder.fold).path}, found "
            f"{named(there, 5) or 'nothing finished'}. Train it first."
        )
    for one in found:
        if one.has_other_folds(folds_sha256):
            raise UserError(
                f"{option}: {one.path} was trained on other folds than its run's folds.csv has now, so it may have "
                "seen drivers that are held out here. Delete that model's folder and train it again, or name another "
                "run."
            )
    return [one / TEST for one in found]


def require_same_models(settings: Mapping[int | str, dict[str, Any]]) -> None:
    """All folds of a model learn from the same models of the earlier run, or what is out of fold would be of several.

    Args:
        settings: with what `settings_of` says, by fold; 'all' holds nobody out and may differ.

    Raises:
        UserError: they differ.
    """
    models = {fold: own.get(MODELS, []) for fold, own in settings.items() if fold != ALL_DRIVERS}
    if any(names != next(iter(models.values())) for names in models.values()):
        source = next(own["pseudo_labels"] for own in settings.values() if own.get(MODELS))
        found = "; ".join(f"fold {fold} from {' and '.join(names)}" for fold, names in models.items())
        raise UserError(
            f"--pseudo-labels {source}: all folds of a model learn from the same models, here {found}. Finish the "
            f"other folds of these first, or name one that has all: --pseudo-labels {source.partition('/')[0]}/MODEL."
        )


def settings_of(tables: Sequence[Path]) -> dict[str, Any]:
    """What config.json says of them; nothing without any."""
    models = sorted({path.parts[-3] for path in tables})
    return {MODELS: models, SHA256: identity(tables)} if tables else {}


def identity(tables: Sequence[Path]) -> str:
    """SHA-256 over the content of the tables: tells whether a fold run learned from these."""
    return hashlib.sha256("".join(sha256_of(path) for path in tables).encode()).hexdigest()


def soft_targets(tables: Sequence[Path], images: Sequence[str]) -> "np.ndarray":
    """What the tables say of these images: their mean in log space, shape (images, classes), float32.

    Raises:
        UserError: a table is damaged, or lacks an image.
    """
    import numpy as np

    from common.competition import CLASSES
    from common.tables import geometric_mean, read_predictions

    found = []
    for path in tables:
        table = read_predictions(verified(path))
        missing = sorted(set(images).difference(table.index))
        if missing:
            raise UserError(f"{path}: expected every test image, it lacks {len(missing):,}: {named(missing)}.")
        found.append(table.loc[list(images), list(CLASSES)].to_numpy())
    return geometric_mean(found).astype(np.float32)


def matched(soft: "np.ndarray", paths: Sequence[Path], labels: "np.ndarray", workers: int) -> "np.ndarray":
    """Soft targets whose mean, for each driver of the test set, is nearer to training's mix.

    Args:
        soft: shape (images, classes), rows summing to 1.
        paths: the files of these images, whose drivers are recognised by what they look like.
        labels: shape (training images,), integers from 0: their mix of classes is the aim.
        workers: threads that read the files.
    """
    import numpy as np

    from common.prior import floored, matched_logarithms, smoothed_prior
    from preprocessing.same_driver import same_driver

    sets = same_driver(paths, soft, workers)
    logarithms = matched_logarithms(np.log(floored(soft)), smoothed_prior(labels, soft.shape[1]), STRENGTH, sets)
    return np.exp(logarithms).astype(np.float32)
