"""Where everything of a run lies. The stages meet only here: each reads the files that an earlier one left.

runs/NAME/folds.csv
runs/NAME/MODEL/fold_K/     config.json, history.csv, model.keras, out_of_fold.csv, test.csv, *_features.npy, log.txt
runs/NAME/ensemble/         tables and figures of the blend
submissions/NAME.csv
"""

import re
from pathlib import Path

from common.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
RUNS = REPOSITORY / "runs"
CACHE = REPOSITORY / "cache"
SUBMISSIONS = REPOSITORY / "submissions"
BUNDLE_MANIFEST = "statefarm_code.json"  # in the root of a bundle of the code: its git revision

ALL_DRIVERS = "all"  # the 'fold' that holds nobody out: fold_all/ has no out_of_fold.csv
RESERVED_MODEL_NAMES = ("ensemble",)
RESERVED_RUN_NAMES = ("leaderboard",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def checked_name(name: str, what: str = "--run") -> str:
    """Returns `name` if it is fit to be a folder: letters, digits, '.', '_', '-'; not a reserved one.

    Raises:
        UserError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{what} {name!r}: expected letters, digits, '.', '_' or '-', at most 64, such as 'trial-3'.")
    reserved = RESERVED_MODEL_NAMES if what == "--model-name" else RESERVED_RUN_NAMES
    if name in reserved:
        raise UserError(f"{what} {name!r} is reserved. Choose another name.")
    return name


def run_folder(name: str, runs: Path = RUNS) -> Path:
    """runs/NAME"""
    return runs / checked_name(name)


def folds_path(run: Path) -> Path:
    """The fold table of a run: img,subject,classname,fold."""
    return run / "folds.csv"


def fold_folder(run: Path, model: str, fold: int | str) -> Path:
    """The folder of one (model x fold) piece."""
    return run / model / f"fold_{fold}"
