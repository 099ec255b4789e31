"""The members of a blend: which models of a run are finished, and their prediction tables, checked and aligned.

This is the only module of the package that reads a run folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.competition import CLASSES, SAMPLE_SUBMISSION, TEST_FOLDER, TRAIN_FOLDER
from common.errors import UserError, named
from common.files import read_record, sha256_of
from common.run_folder import (
    ALL_DRIVERS,
    OUT_OF_FOLD,
    OUT_OF_FOLD_FEATURES,
    TEST,
    TEST_FEATURES,
    RunFolder,
    verified,
)
from common.settings import as_json
from common.tables import read_predictions, read_sample_images
from ensemble.calibration import Sharpening, sharpened
from ensemble.neighbours import Network, Space
from preprocessing.folds import read_folds

OF_SAMPLE = "the images of the sample submission"


@dataclass(frozen=True)
class Member:
    """A model of the run.

    Attributes:
        name: its folder in the run.
        folds: the finished folds, ascending.
        missing: the folds of folds.csv that are not finished, ascending.
        all_drivers: whether fold_all is finished too (trained on all drivers: no predictions out of fold).
    """

    name: str
    folds: tuple[int, ...]
    missing: tuple[int, ...]
    all_drivers: bool = False


@dataclass(frozen=True, eq=False)
class Predictions:
    """What every blending method works on, wherever it was read from.

    Attributes:
        names: the members, in the order of the first axis of both arrays.
        images: frame img,subject,classname,fold of the images out of fold, in the order of folds.csv.
        labels: shape (images,), the true class as an integer from 0.
        out_of_fold: shape (members, images, 10), float64, rows summing to 1.
        test_images: names of the test images, in the order of the sample submission.
        test: shape (members, test images, 10), float64, rows summing to 1; the mean of the member's fold models,
            sharpened to their confidence.
        fold_means: how it was sharpened, for each member.
        spaces: the members whose features are known.
        matched: the members whose pseudo-labels were moved towards the prior of each driver of the test set, so that
            their test predictions are near it already.
        photographs, test_photographs: the files of all images, in the order of both; empty where they are not known.
    """

    names: tuple[str, ...]
    images: pd.DataFrame
    labels: np.ndarray
    out_of_fold: np.ndarray
    test_images: pd.Index
    test: np.ndarray
    fold_means: tuple[Sharpening, ...] = ()
    spaces: tuple[Space, ...] = ()
    matched: frozenset[str] = frozenset()
    photographs: tuple[Path, ...] = ()
    test_photographs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Source:
    """Where the predictions of a blend come from.

    Attributes:
        identity: what identifies them in the record of a blend, beside the content of `inputs`.
        inputs: every file, by its name in the record.
        has_test: whether there are test predictions.
        read: returns the predictions and remarks for the report.
    """

    identity: Mapping[str, Any]
    inputs: Mapping[str, Path]
    has_test: bool
    read: Callable[[], tuple[Predictions, list[str]]]

    def verified(self) -> dict[str, dict[str, Any]]:
        """The `stamps` of the inputs, whose content is what it was when their fold runs finished.

        Raises:
            UserError: a file is missing, or corrupted.
        """
        missing = [str(path) for path in self.inputs.values() if not path.is_file()]
        if missing:
            raise UserError(f"{missing[0]}: not found. Restore it, or train its fold again.")
        found = stamps(self.inputs)
        for name, path in self.inputs.items():
            verified(path, found[name]["sha256"])
        return found


def stamps(paths: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Size in bytes, time of change in nanoseconds and SHA-256 of each file, under the same names."""
    found = {}
    for name, path in paths.items():
        status = path.stat()
        found[name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_of(path)}
    return found


def run_source(
    run: Path, sample: Path, models: Sequence[str] = (), allow_missing: bool = False, all_drivers: str = "no"
) -> Source:
    """The finished models of a run.

    Args:
        sample: the sample submission, which gives the order of the test images.
        models: only these; all where empty.
        allow_missing: whether folds may be missing.
        all_drivers: as for `read_members`.

    Raises:
        UserError: there are none, or folds are missing that may not be.
    """
    folds = read_folds(RunFolder(run).folds)
    every = find_members(run, [int(fold) for fold in folds["fold"].unique()], models)
    if not allow_missing:
        check_complete(run, every)
    members = [member for member in every if member.folds]
    if not members:
        raise UserError(f"{run}: no fold of any model is finished. Train one, then blend.")
    check_folds(run, members)
    if all_drivers != "no" and not any(member.all_drivers for member in members):
        raise UserError(
            f"--all-drivers {all_drivers}: no model of {run} has a finished fold_all. Train one: "
            f"python models/{members[0].name}.py --run {run.name} --fold all"
        )
    tables = input_paths(run, members, all_drivers)
    inputs = {str(path.relative_to(run)): path for path in [RunFolder(run).folds, *tables]}
    inputs[SAMPLE_SUBMISSION] = sample

    there = all((sample.parent / folder).is_dir() for folder in (TRAIN_FOLDER, TEST_FOLDER))

    def read() -> tuple[Predictions, list[str]]:
        predictions = read_members(run, members, folds, read_sample_images(sample), all_drivers)
        if there:
            predictions = with_photographs(predictions, sample.parent)
        return predictions, remarks_on(run, every, len(folds), len(predictions.images), all_drivers)

    identity = {"members": [as_json(member) for member in every], "photographs": there}
    return Source(identity, inputs, True, read)


def with_photographs(predictions: Predictions, root: Path) -> Predictions:
    """The same, and where the images lie in the competition's folder."""
    rows = zip(predictions.images["classname"], predictions.images["img"], strict=True)
    return replace(
        predictions,
        photographs=tuple(root / TRAIN_FOLDER / classname / img for classname, img in rows),
        test_photographs=tuple(root / TEST_FOLDER / img for img in predictions.test_images),
    )


def remarks_on(run: Path, members: Sequence[Member], all_images: int, images: int, all_drivers: str) -> list[str]:
    """What is missing, and what `--fold all` trained, for the report.

    Args:
        all_images: in folds.csv.
        images: that every model covers.
    """
    remarks = []
    if missing := [lacks(run, member) for member in members if member.missing]:
        lines = "\n".join(f"  {line}" for line in missing)
        remarks.append(
            f"INCOMPLETE, as allowed by --allow-missing:\n{lines}\n"
            f"Evaluated on the {images:,} of {all_images:,} images that every model covers; the test predictions "
            "average the\nfolds that exist; a model without any is left out. Do not compare these scores with complete "
            "ones."
        )
    there = ", ".join(member.name for member in members if member.all_drivers)
    if there and all_drivers == "no":
        remarks.append(f"fold_all of {there} is not used: nothing out of fold shows its weight (--all-drivers).")
    elif there:
        place = "instead of" if all_drivers == "instead" else "beside"
        remarks.append(f"fold_all of {there} is used {place} its folds on the test set; no score here includes that.")
    return remarks


def find_members(run: Path, folds: Sequence[int], models: Sequence[str] = ()) -> list[Member]:
    """The models of a run, by name, with the folds that are finished.

    Args:
        run: runs/NAME.
        folds: the folds of the run's folds.csv.
        models: only these, in this order; all where empty.

    Raises:
        UserError: there is none, or one of `models` is not there.
    """
    there = RunFolder(run).models()
    if not there:
        raise UserError(f"{run} holds no models. Train one first: python models/vgg16.py --run {run.name}")
    unknown = [name for name in models if name not in there]
    if unknown:
        raise UserError(f"{run} holds no model {named(unknown)}; expected among {named(there, 10)}.")
    members = []
    for name in dict.fromkeys(models or there):
        finished = {folder.fold for folder in RunFolder(run).finished([name])}
        done = tuple(fold for fold in sorted(folds) if fold in finished)
        missing = tuple(fold for fold in sorted(folds) if fold not in finished)
        members.append(Member(name, done, missing, ALL_DRIVERS in finished))
    return members


def check_complete(run: Path, members: Sequence[Member]) -> None:
    """Checks that the members have finished all folds.

    Raises:
        UserError: names the missing folds and the commands that train them.
    """
    incomplete = [member for member in members if member.missing]
    if not incomplete:
        return
    lacking = "; ".join(f"{lacks(run, member)}: {command_for(run, member)}" for member in incomplete)
    without = "" if len(incomplete) == len(members) else ", or leave it out with --models"
    raise UserError(f"{run}: {lacking}. Run that{without}, or blend what is there with --allow-missing.")


def check_folds(run: Path, members: Sequence[Member]) -> None:
    """Checks that the members were trained on the run's folds.csv: else their scores would not be out of fold.

    Raises:
        UserError: names the folders of those that were not.
    """
    path, folders = RunFolder(run).folds, RunFolder(run).finished([member.name for member in members])
    folds_sha256 = sha256_of(path)
    held_out = [folder for folder in folders if folder.fold != ALL_DRIVERS]
    others = [str(folder.path) for folder in held_out if folder.has_other_folds(folds_sha256)]
    if others:
        raise UserError(
            f"{path} has changed since {named(others)} was trained. Put the table back that it was trained "
            "with (an automatic one: delete folds.csv, then python -m preprocessing.folds), or delete these folders "
            "and train them again."
        )


def lacks(run: Path, member: Member) -> str:
    """Which folds a member lacks, and why those failed that did."""
    reasons = {fold: RunFolder(run).fold(member.name, fold).failure() for fold in member.missing}
    folds = [f"{fold} (it {why.rstrip('.')})" if why else f"{fold}" for fold, why in reasons.items()]
    return f"{member.name} lacks fold {', '.join(folds)}"


def command_for(run: Path, member: Member) -> str:
    """The command that trains the missing folds of a member."""
    path = RunFolder(run).job_file(member.name)
    folds = " ".join(map(str, member.missing))
    if not path.is_file():
        return f"python models/{member.name}.py --run {run.name} --runs {run.parent} --fold {folds}"
    job = read_record(path)
    script = "bottleneck" if job.get("classifies_features") else job.get("architecture", member.name)
    return f"python models/{script}.py --config {path} --fold {folds}"


def input_paths(run: Path, members: Sequence[Member], all_drivers: str = "no") -> list[Path]:
    """Every file that `read_members` reads: the prediction tables, and what there is of features."""
    paths = [
        RunFolder(run).fold(member.name, fold) / name
        for member in members
        for fold in member.folds
        for name in (OUT_OF_FOLD, TEST, OUT_OF_FOLD_FEATURES, TEST_FEATURES)
    ]
    if all_drivers != "no":
        paths += [RunFolder(run).fold(member.name, ALL_DRIVERS) / TEST for member in members if member.all_drivers]
    return [path for path in paths if path.suffix == ".csv" or path.is_file()]


def read_members(
    run: Path, members: Sequence[Member], folds: pd.DataFrame, test_images: pd.Index, all_drivers: str = "no"
) -> Predictions:
    """Reads and aligns the tables of the members, over the folds that all of them have finished.

    The fold models of a member are averaged arithmetically for the test set, whichever pool follows: each saw other
    drivers, so they are samples of one predictor rather than experts of different kinds. The confidence that averaging
    costs is restored.

    Args:
        folds: frame img,subject,classname,fold.
        test_images: the names that every test table must hold, in any order.
        all_drivers: 'beside': a member's network trained on all drivers is one more of those averaged for the test set;
            'instead': it replaces them. Out of fold nothing changes: it has no predictions there.

    Raises:
        UserError: a table is missing or malformed, an out-of-fold table holds other images than its fold, a test table
            others than `test_images`, or no fold is finished by all members.
    """
    common = [fold for fold in sorted(folds["fold"].unique()) if all(fold in member.folds for member in members)]
    if not common:
        done = "; ".join(f"{member.name}: {', '.join(map(str, member.folds)) or 'none'}" for member in members)
        raise UserError(f"{run}: no fold is finished by all models ({done}). Leave models out with --models.")
    images = folds[folds["fold"].isin(common)].reset_index(drop=True)
    out_of_fold = np.empty((len(members), len(images), len(CLASSES)))
    test = np.empty((len(members), len(test_images), len(CLASSES)))
    fold_means, spaces, matched = [], [], set()
    for place, member in enumerate(members):
        singles, networks = [], []
        for fold in member.folds:
            folder = RunFolder(run).fold(member.name, fold)
            settings = (folder.config() or {}).get("settings", {})
            if settings.get("pseudo_labels") and settings.get("pseudo_prior"):
                matched.add(member.name)
            expected = pd.Index(folds.loc[folds["fold"] == fold, "img"])
            table = read_exactly(folder / OUT_OF_FOLD, expected, f"the images of fold {fold} in folds.csv")
            own = read_exactly(folder / TEST, test_images, OF_SAMPLE)
            singles.append(aligned(own, test_images))
            if fold in common:
                out_of_fold[place, (images["fold"] == fold).to_numpy()] = aligned(table, expected)
                if (folder / OUT_OF_FOLD_FEATURES).is_file() and (folder / TEST_FEATURES).is_file():
                    features = folder / OUT_OF_FOLD_FEATURES, table.index, folder / TEST_FEATURES, own.index
                    networks.append(Network(*features))
        if member.all_drivers and all_drivers != "no":
            path = RunFolder(run).fold(member.name, ALL_DRIVERS) / TEST
            alone = aligned(read_exactly(path, test_images, OF_SAMPLE), test_images)
            singles = [alone] if all_drivers == "instead" else [*singles, alone]
        test[place], fold_mean = sharpened(singles)
        fold_means.append(fold_mean)
        if len(networks) == len(common):
            spaces.append(Space(member.name, tuple(networks)))
    labels = images["classname"].map(CLASSES.index).to_numpy(dtype=np.int64)
    names = tuple(member.name for member in members)
    return Predictions(
        names, images, labels, out_of_fold, test_images, test, tuple(fold_means), tuple(spaces), frozenset(matched)
    )


def read_exactly(path: Path, images: pd.Index, what: str) -> pd.DataFrame:
    """A prediction table that holds exactly these images, in its own order.

    Args:
        what: what these images are, for the message.

    Raises:
        UserError: the table is malformed or holds other images.
    """
    table = read_predictions(path)
    require_images(path, table, images, what)
    return table


def require_images(path: Path, table: pd.DataFrame, images: pd.Index, what: str) -> None:
    """Raises a UserError unless the table, read from `path`, holds exactly these images, in any order."""
    missing, extra = images.difference(table.index), table.index.difference(images)
    if len(missing) or len(extra):
        found = [f"{len(missing):,} missing ({named(list(missing))})"] if len(missing) else []
        found += [f"{len(extra):,} that do not belong there ({named(list(extra))})"] if len(extra) else []
        raise UserError(f"{path}: expected exactly {what} ({len(images):,}), found {' and '.join(found)}.")


def aligned(table: pd.DataFrame, images: pd.Index) -> np.ndarray:
    """The rows of a prediction table in the order of `images`, which it holds all; shape (images, 10), float64."""
    if not table.index.equals(images):
        table = table.reindex(images)
    return table[list(CLASSES)].to_numpy(dtype=np.float64)
