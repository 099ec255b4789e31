"""A piece is one (model x fold): its folder, its settings, and whether it is finished.

`config.json` is written first and `finished.json` last. A piece with both, made with the same settings, is skipped;
one with other settings is an error that says which differ; one without `finished.json` is taken up again.
"""

import contextlib
import dataclasses
import hashlib
import platform
import shutil
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from common import locks, machine
from common.errors import UserError, last_line, masked
from common.files import DamagedRecordError, read_record, sha256_of, write_json
from common.finished import DAMAGED, FAILED, FINISHED, record_of_piece, set_aside
from common.run_folder import ALL_DRIVERS, BUNDLE_MANIFEST, REPOSITORY, fold_folder, folds_path
from common.settings import as_json, as_words
from models.finetuning.architecture import Architecture
from models.finetuning.data import pseudo_labels
from models.finetuning.network import weights as pretrained
from preprocessing.augmentation_settings import Augmentation

CHECKPOINT = "checkpoint/state.npz"
LOG = "log.txt"
OWN_OF_FOLD = {"fold", pseudo_labels.SHA256}  # settings in which the folds of a model differ
OUTPUTS = (
    "history.csv",
    "model.keras",
    "out_of_fold.csv",
    "out_of_fold_features.npy",
    "test.csv",
    "test_features.npy",
)


OUTPUTS_OF_TTA = ("out_of_fold_without_tta.csv", "test_without_tta.csv")


@dataclasses.dataclass(frozen=True)
class Piece:
    """One model on one fold of a run, with everything that decides its result.

    Attributes:
        run: the run's folder.
        model_name: the sub-folder; the architecture's name unless the user gave another.
        recipe: the settings of the network's training, or of a classifier on its features.
        fold: number of the fold that is held out; 'all' is none.
        augmentation: None where images are only seen as they are.
        outputs: the files that it leaves where drivers are held out.
        activations: whether those of frozen layers are kept in the cache: 'auto', 'yes' or 'no'; decides nothing.
        log_to: where the curves go besides history.csv, as `watching` knows them; decides nothing.
    """

    run: Path
    model_name: str
    architecture: Architecture
    recipe: Any
    fold: int | str
    weights: str
    precision: str
    seed: int
    workers: int
    augmentation: Augmentation | None = None
    outputs: tuple[str, ...] = OUTPUTS
    activations: str = "auto"
    log_to: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """runs/NAME/MODEL/fold_K"""
        return fold_folder(self.run, self.model_name, self.fold)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it leaves: where nobody is held out, nothing is out of fold."""
        return tuple(name for name in self.outputs if self.fold != ALL_DRIVERS or not name.startswith("out_of_fold"))

    def pseudo_tables(self) -> list[Path]:
        """The tables that its pseudo-labels are made of; none without.

        Raises:
            UserError: they are not there.
        """
        source = getattr(self.recipe, "pseudo_labels", "")
        return pseudo_labels.find_tables(self.run, self.model_name, self.fold, source) if source else []

    def changes(self) -> str:
        """A line: the settings that are not the architecture's own defaults. config.json has all of them."""
        defaults = (self.architecture.recipe, self.architecture.augmentation)
        options = [
            words
            for ours, default in zip((self.recipe, self.augmentation), defaults, strict=True)
            for words in as_words(ours, default)
        ]
        return f"settings: {', '.join(options) or 'none'} beside the defaults of models/{self.architecture.name}.py"

    def configuration(self) -> str:
        """Lines: every setting as it was resolved, also in config.json."""
        words = as_words(self.recipe) + (as_words(self.augmentation) if self.augmentation else [])
        return textwrap.fill("configuration: " + ", ".join(words), 118, subsequent_indent="    ")

    def settings(self, test_images: Sequence[str], broken: Collection[str] = ()) -> dict[str, Any]:
        """What decides the result, as JSON. The number of workers, the paths and what is kept in the cache do not.

        Args:
            test_images: every image to predict, in order.
            broken: those of them that cannot be read.
        """
        return {
            "architecture": self.architecture.name,
            "fold": self.fold,
            "folds_sha256": sha256_of(folds_path(self.run)),
            "test_images_sha256": hashlib.sha256("\n".join(test_images).encode()).hexdigest(),
            "test_images_broken": hashlib.sha256("\n".join(sorted(broken)).encode()).hexdigest() if broken else "none",
            "weights": pretrained.identity(self.architecture, self.weights),
            "precision": self.precision,
            "seed": self.seed,
            **_decisions(self.recipe, self.augmentation),
            **pseudo_labels.settings_of(self.pseudo_tables()),
        }


def outputs_of(recipe: Any) -> tuple[str, ...]:
    """The files that a piece of this recipe leaves."""
    return OUTPUTS + (OUTPUTS_OF_TTA if recipe.tta else ())


def is_finished(piece: Piece, settings: dict[str, Any]) -> bool:
    """Whether the piece is there, whole, and made with these settings.

    Raises:
        UserError: it was made, or begun, with other settings.
    """
    config = piece.folder / "config.json"
    if not config.exists():
        return False
    record = _record_of(piece)
    if record is None:
        return False
    made_with = _made_with(piece, record)
    differing = _differing(made_with, settings, record)
    if differing and _made_something(piece):
        raise UserError(
            f"{piece.folder} was made with other settings: {_told_apart(differing, made_with, settings)}. Give this "
            "experiment a name of its own with --run NAME (or --model-name NAME to keep both in one run), or delete "
            f"{piece.folder.parent}, all folds of it: they are made alike."
        )
    if not (piece.folder / FINISHED).exists():
        return False
    try:
        sizes = record_of_piece(piece.folder, FINISHED).get("bytes", {})
    except DamagedRecordError as error:
        print(f"note: {error} That fold is made again.", file=sys.stderr)
        return False
    if not isinstance(sizes, dict) or not sizes:
        return False
    known = [name for name in piece.files if name in sizes]  # an older revision may not have left all that this does
    return all(_size(piece.folder / name) == sizes[name] for name in known)


def _differing(theirs: dict[str, Any], ours: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """The names of settings that differ; a precision that was chosen is the same as that precision by its name.

    Args:
        record: the config.json that `theirs` is from.
    """
    names = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
    if pseudo_labels.MODELS not in theirs and pseudo_labels.SHA256 in theirs:  # older: the checksum says enough
        names = [name for name in names if name != pseudo_labels.MODELS]
    asked = {theirs.get("precision"), ours.get("precision")}
    return [name for name in names if name != "precision" or asked != {"auto", record.get("precision_used")}]


def _told_apart(names: Sequence[str], theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The first few settings that differ: 'epochs was 4, is now 6'."""
    shown = "; ".join(f"{name} was {theirs.get(name)!r}, is now {ours.get(name)!r}" for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _record_of(piece: Piece) -> dict[str, Any] | None:
    """What the piece was begun with; None where that cannot be known, and so nothing of it can be used."""
    try:
        return record_of_piece(piece.folder, "config.json")
    except DamagedRecordError as error:
        print(f"note: {error} That fold is made again.", file=sys.stderr)
        set_aside(piece.folder)
        (piece.folder / CHECKPOINT).unlink(missing_ok=True)
        return None


def _made_with(piece: Piece, record: dict[str, Any]) -> dict[str, Any]:
    """The settings in a config.json, and the defaults of those that it does not know."""
    found = record.get("settings", {})
    return _neutral(piece) | (found if isinstance(found, dict) else {})


def _neutral(piece: Piece) -> dict[str, Any]:
    """What a piece counts as made with that is older than a setting: its default, which changes nothing."""
    recipe, augmentation = type(piece.recipe)(), Augmentation() if piece.augmentation else None
    return _decisions(recipe, augmentation)


def _decisions(recipe: Any, augmentation: Augmentation | None) -> dict[str, Any]:
    changes = as_json(augmentation) if augmentation else {}
    return {**as_json(recipe), **{f"augmentation_{name}": value for name, value in changes.items()}}


def begin(piece: Piece, settings: dict[str, Any], versions: dict[str, str], precision: str) -> None:
    """Writes config.json: the settings, and what they met here."""
    require_made_as_others(piece, settings)
    for name in (FINISHED, DAMAGED, FAILED):
        (piece.folder / name).unlink(missing_ok=True)  # of an earlier making, of which something was lost
    record = {
        "settings": settings,
        "precision_used": precision,
        "versions": versions,
        "git_revision": _git_revision(),
        "command": command_words(sys.argv),
        "machine": {"host": platform.node(), "cores": machine.cores(), "system": platform.platform()},
    }
    write_json(piece.folder / "config.json", record)


def require_made_as_others(piece: Piece, settings: dict[str, Any]) -> None:
    """All folds of a model are made alike, or its loss out of fold would be of several models.

    A network trained on all drivers has nothing out of fold; it need only start from the same weights.

    Raises:
        UserError: a finished fold was made with other settings, or its record cannot be read now. Weights with another
            checksum are another file, or a damaged one.
    """
    for finished in sorted(piece.folder.parent.glob(f"fold_*/{FINISHED}")):
        if not finished.with_name("config.json").exists():
            continue  # removed by hand: that fold is made again
        try:
            record = record_of_piece(finished.parent, "config.json")
        except DamagedRecordError:
            continue
        made_with = _made_with(piece, record)
        if str(made_with.get("weights")).startswith("sha256:") and made_with["weights"] != settings["weights"]:
            raise UserError(
                f"{finished.parent} was trained from weights {made_with['weights']}, now they are "
                f"{settings['weights']}: another file, or a damaged one. Restore it, or train this under another --run "
                "or --model-name."
            )
        if ALL_DRIVERS in (piece.fold, made_with.get("fold")):
            continue
        differing = [name for name in _differing(made_with, settings, record) if name not in OWN_OF_FOLD]
        if differing:
            raise UserError(
                f"{finished.parent} was made with other settings than fold {piece.fold} would be: "
                f"{_told_apart(differing, made_with, settings)}. All folds of a model are made alike: give the same "
                "options, or train this under another --run or --model-name."
            )


def command_words(words: Sequence[str]) -> list[str]:
    """What trains the other folds of a model too: the words of this command less its folds; none for other commands."""
    script = Path(words[0]).resolve()
    if not script.is_relative_to(REPOSITORY / "models"):
        return []
    return ["python", str(script.relative_to(REPOSITORY)), *without_fold(words[1:])]


def without_fold(words: Sequence[str]) -> list[str]:
    """The command line less `--fold K ...`."""
    kept: list[str] = []
    inside = False
    for word in words:
        inside = (word == "--fold" or word.startswith("--fold=")) or (inside and not word.startswith("-"))
        if not inside:
            kept.append(word)
    return kept


def finish(piece: Piece, results: dict[str, Any]) -> None:
    """Writes finished.json with the results, and the size and checksum of every output."""
    files = {name: piece.folder / name for name in ("config.json", *piece.files)}
    record = results | {
        "bytes": {name: _size(path) for name, path in files.items()},
        "sha256": {name: sha256_of(path) for name, path in files.items()},
    }
    write_json(piece.folder / FINISHED, record)


def drop_checkpoint(piece: Piece) -> None:
    """Removes the state that a finished piece no longer needs."""
    shutil.rmtree((piece.folder / CHECKPOINT).parent, ignore_errors=True)


@contextlib.contextmanager
def failure_recorded(pieces: Sequence[Piece]) -> Iterator[None]:
    """Writes what an exception says to failed.json of each piece, and a bug's traceback to its log.txt."""
    try:
        yield
    except Exception as error:
        for piece in pieces:
            if isinstance(error, UserError):
                leave_out(piece, f"failed: {error}")
                continue
            log = piece.folder / LOG
            with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as stream:
                stream.write(masked(traceback.format_exc()))
            leave_out(piece, f"failed: {last_line(error)} (full traceback: {log})")
        raise


def leave_out(piece: Piece, what: str) -> None:
    """Writes failed.json: what happened to a piece that was given up, for whoever misses it. Lost on a full disk."""
    with contextlib.suppress(UserError):
        write_json(piece.folder / FAILED, {"what": masked(what)})


@contextlib.contextmanager
def held(piece: Piece) -> Iterator[None]:
    """Keeps other processes from making the same piece at the same time; the system lets go when this process ends.

    The piece's folder is there then.

    Raises:
        UserError: another process is making it, or the folder cannot be written to.
    """
    with locks.held(piece.folder.parent / f".{piece.folder.name}.lock", f"{piece.folder} is being made"):
        try:
            piece.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write {piece.folder}: {error.strerror}. Make room, or choose another --runs."
            ) from error
        yield


def _made_something(piece: Piece) -> bool:
    """Whether there is more than a record of intentions, that is, something to protect from other settings."""
    return any((piece.folder / name).exists() for name in (*piece.files, FINISHED, CHECKPOINT))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _git_revision() -> str:
    if (REPOSITORY / BUNDLE_MANIFEST).exists():  # of a bundle, which is no checkout
        return str(read_record(REPOSITORY / BUNDLE_MANIFEST)["revision"])
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
