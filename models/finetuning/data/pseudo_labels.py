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
from common.finished import FINISHED, require_whole, trained_on_other_folds
from common.run_folder import ALL_DRIVERS, RESERVED_MODEL_NAMES, checked_name, fold_folder, folds_path, run_folder

if TYPE_CHECKING:
    import numpy as np

MODELS, SHA256 = "pseudo_labels_models", "pseudo_labels_sha256"  # in config.json


def find_tables(run: Path, model: str, fold: int | str, source: str) -> list[Path]:
    """The prediction tables of the test set that a piece learns from.

    Args:
        run: the folder of the piece's own run.
        model: the piece's own.
        fold: the piece's own, a number or 'all'.
        source: what --pseudo-labels says: RUN, or RUN/MODEL for one of its models.

    Raises:
        UserError: no such run or model, other folds, or this fold is not finished there.
    """
    option = f"--pseudo-labels {source}"
    name, _, wanted = source.partition("/")
    earlier = run_folder(checked_name(name, option), run.parent)
    if wanted:
        checked_name(wanted, option)
    if not folds_path(earlier).is_file():
        raise UserError(f"{option}: {earlier} is no run. Expected the name of one that has finished this fold.")
    if earlier.resolve() == run.resolve() and wanted in ("", model):
        raise UserError(
            f"{option}: that is this run itself. Name a model of it (--pseudo-labels {name}/MODEL) or another --run."
        )
    folds_sha256 = sha256_of(folds_path(run))
    if sha256_of(folds_path(earlier)) != folds_sha256:
        raise UserError(
            f"{option}: its folds.csv is another one, so its networks may have seen drivers that are held out here. "
            "Take a run of the same data and the same --folds."
        )
    folds = "*" if fold == ALL_DRIVERS else str(fold)
    finished = sorted(earlier.glob(f"{wanted or '*'}/fold_{folds}/{FINISHED}"))
    found = [path.parent / "test.csv" for path in finished]
    found = [path for path in found if path.parts[-3] not in RESERVED_MODEL_NAMES]
    if not found:
        there = sorted({f"{path.parts[-3]}/{path.parts[-2]}" for path in earlier.glob(f"*/fold_*/{FINISHED}")})
        raise UserError(
            f"{option}: expected a finished {fold_folder(earlier, wanted or 'MODEL', fold)}, found "
            f"{named(there, 5) or 'nothing finished'}. Train it first."
        )
    for path in found:
        _require_same_folds(path.parent, folds_sha256, option)
    return found


def _require_same_folds(folder: Path, folds_sha256: str, option: str) -> None:
    """Compares a fold run with the fold table: its run's folds.csv may have changed since.

    Raises:
        UserError: it was trained on others.
    """
    if trained_on_other_folds(folder, folds_sha256):
        raise UserError(
            f"{option}: {folder} was trained on other folds than its run's folds.csv has now, so it may have seen "
            "drivers that are held out here. Delete that model's folder and train it again, or name another run."
        )


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
    """SHA-256 over the content of the tables: tells whether a piece was made from these."""
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
        table = read_predictions(require_whole(path))
        missing = sorted(set(images).difference(table.index))
        if missing:
            raise UserError(f"{path}: expected every test image, it lacks {len(missing):,}: {named(missing)}.")
        found.append(table.loc[list(images), list(CLASSES)].to_numpy())
    return geometric_mean(found).astype(np.float32)
