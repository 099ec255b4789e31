"""The finished fold runs of a run: what each was trained with, and where its network is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, named
from common.run_folder import CONFIG, NETWORK, RUNS, FoldFolder, RunFolder
from common.settings import CommandLine, ImageSize, names_in, nearest
from preprocessing.settings import WHOLE


@dataclass(frozen=True)
class FinishedFold:
    """One model trained on one fold.

    Attributes:
        folder: runs/NAME/MODEL/fold_K
        settings: as config.json has them.
        results: as finished.json has them.
    """

    folder: FoldFolder
    settings: dict[str, Any]
    results: dict[str, Any]

    @property
    def model(self) -> str:
        """The model's folder in the run."""
        return self.folder.model

    @property
    def network(self) -> Path:
        """Its network, RGB uint8 in and ten probabilities out."""
        return self.folder / NETWORK

    @property
    def image_size(self) -> ImageSize:
        """What its network expects."""
        return ImageSize.parse(str(self.settings["image_size"]))

    @property
    def crop(self) -> str:
        """The part of a photograph that its network expects."""
        return str(self.settings.get("crop", WHOLE))

    def __str__(self) -> str:
        return str(self.folder)


def add_choice(parser: CommandLine) -> None:
    """The options that choose among the networks of a run."""
    parser.add_argument("--run", required=True, metavar="NAME", help="the run whose networks are used")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="folder of all runs [runs]")
    # One word each, since several would swallow the pictures behind them.
    parser.add_argument("--model", type=names_in, default=[], metavar='"A B"', help="only these models of it [all]")
    parser.add_argument("--fold", type=names_in, default=[], metavar='"0 1"', help="only networks of these folds [all]")


def finished_folds(run: RunFolder, models: Sequence[str] = (), folds: Sequence[str] = ()) -> list[FinishedFold]:
    """The finished fold runs of a run, by model and fold.

    Args:
        models, folds: only these; all where empty.

    Raises:
        UserError: a model or fold is not among the finished ones, or nothing is finished.
    """
    there = run.finished()
    if not there:
        started = sorted({folder.model for folder in run.fold_folders() if folder.exists(CONFIG)})
        hint = f" Started, but not finished: {named(started)}." if started else ""
        raise UserError(f"{run.path} holds no finished model.{hint} Train one: python models/vgg16.py --run {run.name}")
    for option, asked, names in (
        ("--model", models, list(dict.fromkeys(folder.model for folder in there))),
        ("--fold", folds, list(dict.fromkeys(str(folder.fold) for folder in there))),
    ):
        for name in asked:
            if name not in names:
                hint = nearest(name, names) or "."
                raise UserError(f"{option} {name}: not finished in {run.path}{hint} There are: {named(names, 10)}.")
    chosen = [one for one in there if (not models or one.model in models) and (not folds or str(one.fold) in folds)]
    if not chosen:
        raise UserError(f"{run.path} has no finished fold {named(list(folds))} of {named(list(models))}.")
    return [FinishedFold(folder, folder.settings(), folder.finished() or {}) for folder in chosen]
