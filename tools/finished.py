"""The finished pieces of a run, read from its folder: what each was trained with, and where its network lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, named
from common.files import read_record
from common.finished import FINISHED
from common.run_folder import RESERVED_MODEL_NAMES, RUNS, run_folder
from common.settings import CommandLine, ImageSize, names_in, nearest
from preprocessing.crops import WHOLE

NETWORK = "model.keras"


@dataclass(frozen=True)
class FinishedPiece:
    """One finished (model x fold) piece.

    Attributes:
        model: the model's folder in the run.
        fold: of the piece, as its folder says: a number, or 'all'.
        folder: runs/NAME/MODEL/fold_K
        settings: as config.json has them.
        results: as finished.json has them.
    """

    model: str
    fold: str
    folder: Path
    settings: dict[str, Any]
    results: dict[str, Any]

    @property
    def network(self) -> Path:
        """Its network, RGB uint8 in and ten probabilities out."""
        return self.folder / NETWORK

    @property
    def image_size(self) -> ImageSize:
        """What its network wants to see."""
        try:
            return ImageSize.parse(str(self.settings["image_size"]))
        except (KeyError, ValueError) as error:
            raise UserError(f"{self.folder / 'config.json'}: expected an image_size ({error}).") from error

    @property
    def crop(self) -> str:
        """The part of a photograph that its network wants to see."""
        return str(self.settings.get("crop", WHOLE))

    def __str__(self) -> str:
        return f"{self.model}, fold {self.fold}"


def add_choice(parser: CommandLine) -> None:
    """The options that say which networks are meant."""
    parser.add_argument("--run", required=True, metavar="NAME", help="the run whose networks are used")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="folder of all runs [runs]")
    # One word each, since several would swallow the pictures behind them.
    parser.add_argument("--model", type=names_in, default=[], metavar='"A B"', help="only these models of it [all]")
    parser.add_argument("--fold", type=names_in, default=[], metavar='"0 1"', help="only networks of these folds [all]")


def existing_run(name: str, runs: Path = RUNS) -> Path:
    """The folder of a run that is there.

    Raises:
        UserError: there is none; names the nearest, or what is there.
    """
    folder = run_folder(name, runs)
    if folder.is_dir():
        return folder
    there = sorted(path.name for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
    if not there:
        raise UserError(f"--run {name}: {runs} holds no runs yet. Train one first: python models/vgg16.py --run {name}")
    raise UserError(f"--run {name}: no such run in {runs}{nearest(name, there) or '.'} There are: {named(there, 10)}.")


def finished_pieces(run: Path, models: Sequence[str] = (), folds: Sequence[str] = ()) -> list[FinishedPiece]:
    """The finished pieces of a run, by model and fold.

    Args:
        run: its folder.
        models, folds: only these; all where empty.

    Raises:
        UserError: a model or fold is not among the finished ones, or nothing is finished.
    """
    pieces = [_read(path.parent) for path in run.glob(f"*/fold_*/{FINISHED}") if path.parts[-3][0] != "."]
    pieces = [piece for piece in pieces if piece.model not in RESERVED_MODEL_NAMES]
    pieces.sort(key=lambda piece: (piece.model, len(piece.fold), piece.fold))
    if not pieces:
        begun = sorted({path.parent.parent.name for path in run.glob("*/fold_*/config.json")})
        hint = f" Begun, but not finished: {named(begun)}." if begun else ""
        raise UserError(f"{run} holds no finished model.{hint} Train one: python models/vgg16.py --run {run.name}")
    for option, asked, there in (
        ("--model", models, sorted({piece.model for piece in pieces})),
        ("--fold", folds, sorted({piece.fold for piece in pieces})),
    ):
        for name in asked:
            if name not in there:
                hint = nearest(name, there) or "."
                raise UserError(f"{option} {name}: not finished in {run}{hint} There are: {named(there, 10)}.")
    chosen = [p for p in pieces if (not models or p.model in models) and (not folds or p.fold in folds)]
    if not chosen:
        raise UserError(f"{run} has no finished fold {named(list(folds))} of {named(list(models))}.")
    return chosen


def networks_of(run: Path, models: Sequence[str] = (), folds: Sequence[str] = ()) -> list[FinishedPiece]:
    """Those of `finished_pieces` that have a network.

    Raises:
        UserError: as `finished_pieces`, or none has.
    """
    pieces = finished_pieces(run, models, folds)
    found = [piece for piece in pieces if piece.network.is_file()]
    if not found:
        raise UserError(f"{pieces[0].network}: not found, though the piece is finished. Restore it, or train it again.")
    return found


def _read(folder: Path) -> FinishedPiece:
    settings = read_record(folder / "config.json").get("settings", {})
    results = read_record(folder / FINISHED)
    if not isinstance(settings, dict):
        raise UserError(f"{folder / 'config.json'}: expected the settings of a piece, found none.")
    return FinishedPiece(folder.parent.name, folder.name.removeprefix("fold_"), folder, settings, results)
