"""The run folder: every path in it, what a finished fold run is, and its checksums. Nobody else names a file of it.

A fold run is finished when it has a `finished.json`, which is written last and lists the SHA-256 of every output,
`config.json` among them. Outputs are verified when they are read. What does not match is not finished any more, and the
command that trained it trains it again.
"""

import contextlib
import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError, masked, named
from common.files import locked, sha256_of, write_json
from common.settings import nearest

REPOSITORY = Path(__file__).resolve().parent.parent
RUNS = REPOSITORY / "runs"
CACHE = REPOSITORY / "cache"
SUBMISSIONS = REPOSITORY / "submissions"
BUNDLE_MANIFEST = "statefarm_code.json"  # in the root of a bundle of the code: its git revision

ALL_DRIVERS = "all"  # the 'fold' that holds nobody out: fold_all/ has no out_of_fold.csv
RESERVED_NAMES = ("ensemble", "leaderboard")  # of a folder in the run, and of submissions/leaderboard.csv
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

CONFIG, HISTORY, NETWORK, LOG = "config.json", "history.csv", "model.keras", "log.txt"
OUT_OF_FOLD, OUT_OF_FOLD_FEATURES = "out_of_fold.csv", "out_of_fold_features.npy"
TEST, TEST_FEATURES = "test.csv", "test_features.npy"
OUT_OF_FOLD_WITHOUT_TTA, TEST_WITHOUT_TTA = "out_of_fold_without_tta.csv", "test_without_tta.csv"
FINISHED, FAILED, CHECKPOINT = "finished.json", "failed.json", "checkpoint/state.npz"


class CorruptedOutputError(UserError):
    """An output of a finished fold run is not what was written; the fold run is not finished any more."""


def checked_name(name: str, what: str = "--run") -> str:
    """Returns `name`; raises a UserError unless it can be a folder's and is not reserved."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{what} {name!r}: expected letters, digits, '.', '_' or '-', at most 64, such as 'trial-3'.")
    if name in RESERVED_NAMES:
        raise UserError(f"{what} {name!r} is reserved. Choose another name.")
    return name


@dataclasses.dataclass(frozen=True, order=True)
class FoldFolder:
    """runs/NAME/MODEL/fold_K: one model trained on all folds but K; 'all' holds nobody out. `run` is runs/NAME."""

    run: Path
    model: str
    fold: int | str

    @property
    def path(self) -> Path:
        return self.run / self.model / f"fold_{self.fold}"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __str__(self) -> str:
        return f"{self.model}, fold {self.fold}"

    def exists(self, name: str) -> bool:
        return (self / name).is_file()

    def finished(self) -> dict[str, Any] | None:
        """What finished.json says: results and 'sha256'; None where it is not finished. Outputs are not read."""
        record = self._read(FINISHED)
        sums = record.get("sha256") if record else None
        if not isinstance(sums, dict):
            return None
        if CONFIG not in sums:
            raise UserError(
                f"{self.path} was made by an earlier edition of this project, which this one does not read. Choose "
                "another --run."
            )
        return record if set(sums) <= {path.name for path in self.path.iterdir()} else None

    def is_finished(self) -> bool:
        """As `finished`."""
        return self.finished() is not None

    def config(self) -> dict[str, Any] | None:
        """What config.json says: 'settings' and what they met here; None where there is none, or a corrupted one."""
        record = self._read(CONFIG)
        return record if record is not None and isinstance(record.get("settings"), dict) else None

    def settings(self) -> dict[str, Any]:
        """The settings of a finished fold run, verified; a UserError where there are none, or corrupted ones."""
        self.verified(CONFIG)
        record = self.config()
        if record is None:
            raise UserError(f"{self / CONFIG}: expected the settings of a fold run, found none.")
        return dict(record["settings"])

    def has_other_folds(self, folds_sha256: str) -> bool:
        """Whether it was trained with another fold table than the one of this SHA-256; False where that is unknown."""
        return ((self.config() or {}).get("settings") or {}).get("folds_sha256", folds_sha256) != folds_sha256

    def verified(self, name: str, sha256: str = "") -> Path:
        """The path of an output, whose content is what was written when the fold run finished.

        If not, it is a CorruptedOutputError, and the fold run is not finished from now on. The caller may give the
        SHA-256 of the content.
        """
        record, path = self.finished(), self / name
        recorded = record["sha256"].get(name) if record else None
        if recorded is not None and (sha256 or sha256_of(path)) != recorded:
            if name == CONFIG:  # whoever asks next must not take what it says for the fold's settings
                self.remove_checkpoint()
                with contextlib.suppress(OSError):
                    path.unlink()
            with contextlib.suppress(OSError):  # of a run that is only read
                (self / FINISHED).unlink()
            raise CorruptedOutputError(
                f"{path} is corrupted: its checksum is not the one in {FINISHED}. {self.path} is not finished any "
                "more: the same command trains it again."
            )
        return path

    def start(self, config: dict[str, Any]) -> None:
        """Writes config.json; what an earlier training finished or failed with is removed."""
        for name in (FINISHED, FAILED):
            (self / name).unlink(missing_ok=True)
        write_json(self / CONFIG, config)

    def finish(self, results: dict[str, Any], outputs: Collection[str]) -> None:
        """Writes finished.json, and removes the checkpoint."""
        sums = {name: sha256_of(self / name) for name in (CONFIG, *outputs)}
        write_json(self / FINISHED, {**results, "sha256": sums})
        self.remove_checkpoint()

    def fail(self, reason: str) -> None:
        """Writes failed.json, for whoever misses this fold later."""
        with contextlib.suppress(UserError):  # a full disk
            write_json(self / FAILED, {"reason": masked(reason)})

    def forget_failure(self) -> None:
        (self / FAILED).unlink(missing_ok=True)

    def failure(self) -> str:
        """Why its training failed; empty where it did not, or nothing is known."""
        with contextlib.suppress(UserError):
            return str((self._read(FAILED) or {}).get("reason", ""))
        return ""

    def remove_checkpoint(self) -> None:
        """Removes the state of an unfinished training."""
        shutil.rmtree((self / CHECKPOINT).parent, ignore_errors=True)

    def has_outputs(self) -> bool:
        """Whether something of a training is there: an output, or a checkpoint."""
        return any(map(self.exists, (HISTORY, NETWORK, OUT_OF_FOLD, TEST, FINISHED, CHECKPOINT)))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, and keeps other processes from training the same fold: they get a UserError."""
        with locked(self.path.parent / f".{self.path.name}.lock", f"{self.path} is being trained"):
            self.path.mkdir(exist_ok=True)
            yield

    def _read(self, name: str) -> dict[str, Any] | None:
        """A JSON object; None where it is missing or corrupted."""
        try:
            value = json.loads((self / name).read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(
                f"cannot read {self / name}: {error.strerror or error}. Try again, or delete {self.path}: then it is "
                "trained again."
            ) from error
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            print(f"note: {self / name} is corrupted; this fold counts as not trained", file=sys.stderr)
            return None
        return value


def verified(path: Path, sha256: str = "") -> Path:
    """As `FoldFolder.verified`, for the path of any file; one that is no output of a fold run is not checked."""
    match = re.fullmatch(r"fold_(\d+|all)", path.parent.name)
    if match is None or not path.is_file():
        return path
    fold = int(match[1]) if match[1].isdigit() else match[1]
    return FoldFolder(path.parents[2], path.parts[-3], fold).verified(path.name, sha256)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """runs/NAME, which need not be there."""

    path: Path

    @classmethod
    def of(cls, name: str, runs: Path = RUNS) -> "RunFolder":
        """The run of that name, checked by `checked_name`."""
        return cls(runs / checked_name(name))

    @classmethod
    def existing(cls, name: str, runs: Path = RUNS) -> "RunFolder":
        """A run that is there; a UserError where there is none of that name."""
        run = cls.of(name, runs)
        if run.path.is_dir():
            return run
        there = sorted(path.name for path in runs.glob("*/"))
        hint = nearest(name, there) or "."
        raise UserError(f"--run {name}: no such run in {runs}{hint} There are: {named(there, 10) or 'none'}.")

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def folds(self) -> Path:
        """The fold table: img,subject,classname,fold."""
        return self.path / "folds.csv"

    @property
    def ensemble(self) -> Path:
        return self.path / "ensemble"

    @property
    def durations(self) -> Path:
        """What jobs took here: for the plans of later starts."""
        return self.path / "durations.json"

    @property
    def lock(self) -> Path:
        """Held by the one pipeline that works on this run."""
        return self.path.parent / f".{self.name}.lock"

    def job_file(self, model: str) -> Path:
        """The resolved configuration of a model's training jobs."""
        return self.path / model / "training.json"

    def fold(self, model: str, fold: int | str) -> FoldFolder:
        return FoldFolder(self.path, model, fold)

    def models(self) -> list[str]:
        """The models that have a folder of some fold, by name."""
        return sorted({folder.model for folder in self.fold_folders()})

    def fold_folders(self, models: Sequence[str] = ()) -> list[FoldFolder]:
        """The folders of all folds, finished or not, by model and fold; only of some models where these are named."""
        found = []
        for path in self.path.glob("*/fold_*/"):
            model, fold = path.parent.name, path.name.removeprefix("fold_")
            known = fold.isdigit() or fold == ALL_DRIVERS
            if known and _NAME.fullmatch(model) and model not in RESERVED_NAMES and model in (models or [model]):
                found.append(self.fold(model, int(fold) if fold.isdigit() else fold))
        return sorted(found, key=lambda one: (one.model, isinstance(one.fold, str), one.fold))

    def finished(self, models: Sequence[str] = ()) -> list[FoldFolder]:
        """As `fold_folders`, those that are finished."""
        return [folder for folder in self.fold_folders(models) if folder.is_finished()]
