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
from common.tables import class_numbers, read_predictions, read_sample_images, require_images
from ensemble.calibration import Sharpening, sharpened
from ensemble.neighbours import Network, Space
from preprocessing.folds import read_folds

OF_SAMPLE = "the images of the sample submission"


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
        try:
            found = stamps(self.inputs)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: not found. Restore it, or train its fold again.") from error
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


@dataclass(frozen=True)
class Member:
    """A model of the run: its finished folds of folds.csv, ascending, and whether fold_all is finished."""

    name: str
    folds: tuple[int, ...]
    all_drivers: bool = False


def run_source(
    path: Path, sample: Path, models: Sequence[str] = (), allow_missing: bool = False, all_drivers: str = "no"
) -> Source:
    """The finished models of a run.

    Args:
        path: runs/NAME.
        sample: the sample submission, which gives the order of the test images.
        models: only these; all where empty.
        allow_missing: whether folds may be missing.
        all_drivers: as for `read_members`.

    Raises:
        UserError: there are none, or folds are missing that may not be.
    """
    run = RunFolder(path)
    folds = read_folds(run.folds)
    numbers = sorted(int(fold) for fold in folds["fold"].unique())
    every = find_members(run, numbers, models)
    lacking = [lacks(run, member, numbers) for member in every if len(member.folds) < len(numbers)]
    if lacking and not allow_missing:
        raise UserError(
            f"{path}: {'; '.join(lacking)}. Start that, choose other --models, or blend what is there with "
            "--allow-missing."
        )
    members = [member for member in every if member.folds]
    if not members:
        raise UserError(f"{path}: no fold of any model is finished. Train one, then blend.")
    check_folds(run, members)
    with_all = [member.name for member in members if member.all_drivers]
    if all_drivers != "no" and not with_all:
        raise UserError(
            f"--all-drivers {all_drivers}: no model of {path} has a finished fold_all. Train one: "
            f"python models/{members[0].name}.py --run {run.name} --fold all"
        )
    folders = [run.fold(member.name, fold) for member in members for fold in member.folds]
    inputs = [run.folds, *(folder / name for folder in folders for name in (OUT_OF_FOLD, TEST))]
    features = (folder / name for folder in folders for name in (OUT_OF_FOLD_FEATURES, TEST_FEATURES))
    inputs += [file for file in features if file.is_file()]
    inputs += [run.fold(name, ALL_DRIVERS) / TEST for name in with_all] if all_drivers != "no" else []
    root = sample.parent
    there = all((root / folder).is_dir() for folder in (TRAIN_FOLDER, TEST_FOLDER))

    def read() -> tuple[Predictions, list[str]]:
        found = read_members(run, members, folds, read_sample_images(sample), all_drivers)
        if there:
            rows = zip(found.images["classname"], found.images["img"], strict=True)
            photographs = tuple(root / TRAIN_FOLDER / classname / img for classname, img in rows)
            of_test = tuple(root / TEST_FOLDER / img for img in found.test_images)
            found = replace(found, photographs=photographs, test_photographs=of_test)
        remarks = []
        if lacking:
            remarks.append(
                "\n  ".join(["INCOMPLETE, as allowed by --allow-missing:", *lacking])
                + f"\nEvaluated on the {len(found.images):,} of {len(folds):,} images that every model covers; test "
                "predictions average the\nfolds that exist; a model without any is left out. Do not compare these "
                "scores with complete ones."
            )
        if with_all and all_drivers == "no":
            remarks.append(f"fold_all of {', '.join(with_all)} is not used: see --all-drivers.")
        elif with_all:
            place = "instead of" if all_drivers == "instead" else "beside"
            remarks.append(
                f"fold_all of {', '.join(with_all)} is used {place} its folds on the test set; no score here includes "
                "that."
            )
        return found, remarks

    identity = {"members": [as_json(member) for member in every], "photographs": there}
    named_inputs = {str(file.relative_to(path)): file for file in inputs} | {SAMPLE_SUBMISSION: sample}
    return Source(identity, named_inputs, True, read)


def find_members(run: RunFolder, folds: Sequence[int], models: Sequence[str] = ()) -> list[Member]:
    """The models of a run, with the folds that are finished; only `models`, in this order, where these are named."""
    there = run.models()
    if not there:
        raise UserError(f"{run.path} holds no models. Train one first: python models/vgg16.py --run {run.name}")
    unknown = [name for name in models if name not in there]
    if unknown:
        raise UserError(f"{run.path} holds no model {named(unknown)}; expected among {named(there, 10)}.")
    members = []
    for name in dict.fromkeys(models or there):
        finished = {folder.fold for folder in run.finished([name])}
        members.append(Member(name, tuple(fold for fold in folds if fold in finished), ALL_DRIVERS in finished))
    return members


def lacks(run: RunFolder, member: Member, folds: Sequence[int]) -> str:
    """Which of the folds a member lacks, and why those failed that did."""
    reasons = {fold: run.fold(member.name, fold).failure() for fold in folds if fold not in member.folds}
    found = [f"{fold} (it {why.rstrip('.')})" if why else f"{fold}" for fold, why in reasons.items()]
    return f"{member.name} lacks fold {', '.join(found)}: {command_for(run, member.name, list(reasons))}"


def command_for(run: RunFolder, model: str, folds: Sequence[int]) -> str:
    """The command that trains these folds of a model."""
    path, fold = run.job_file(model), " ".join(map(str, folds))
    if not path.is_file():
        return f"python models/{model}.py --run {run.name} --runs {run.path.parent} --fold {fold}"
    job = read_record(path)
    script = "bottleneck" if job.get("classifies_features") else job.get("architecture", model)
    return f"python models/{script}.py --config {path} --fold {fold}"


def check_folds(run: RunFolder, members: Sequence[Member]) -> None:
    """Checks that the members were trained on the run's folds.csv: else their scores would not be out of fold."""
    folds_sha256, folders = sha256_of(run.folds), run.finished([member.name for member in members])
    held_out = [folder for folder in folders if folder.fold != ALL_DRIVERS]
    others = [str(folder.path) for folder in held_out if folder.has_other_folds(folds_sha256)]
    if others:
        raise UserError(
            f"{run.folds} has changed since {named(others)} was trained. Put the table back that it was trained "
            "with (an automatic one: delete folds.csv, then python -m preprocessing.folds), or delete these folders "
            "and train them again."
        )


def read_members(
    run: RunFolder, members: Sequence[Member], folds: pd.DataFrame, test_images: pd.Index, all_drivers: str = "no"
) -> Predictions:
    """Reads and aligns the tables of the members, over the folds that all of them have finished.

    The fold models of a member are averaged arithmetically for the test set, whichever pool follows: each saw other
    drivers, so they are samples of one predictor rather than experts of different kinds. The confidence that averaging
    costs is restored.

    Args:
        test_images: the names that every test table must hold, in any order.
        all_drivers: 'beside': a member's network trained on all drivers is one more of those averaged for the test set;
            'instead': it replaces them. Out of fold nothing changes: it has no predictions there.
    """
    common = [fold for fold in sorted(folds["fold"].unique()) if all(fold in member.folds for member in members)]
    if not common:
        done = "; ".join(f"{member.name}: {', '.join(map(str, member.folds)) or 'none'}" for member in members)
        raise UserError(f"{run.path}: no fold is finished by all models ({done}). Leave models out with --models.")
    images = folds[folds["fold"].isin(common)].reset_index(drop=True)
    out_of_fold = np.empty((len(members), len(images), len(CLASSES)))
    test = np.empty((len(members), len(test_images), len(CLASSES)))
    fold_means, spaces, matched = [], [], set()
    for place, member in enumerate(members):
        singles, networks = [], []
        for fold in member.folds:
            folder = run.fold(member.name, fold)
            settings = folder.settings()
            if settings.get("pseudo_labels") and settings.get("pseudo_prior"):
                matched.add(member.name)
            expected = pd.Index(folds.loc[folds["fold"] == fold, "img"])
            table = read_exactly(folder / OUT_OF_FOLD, expected, f"the images of fold {fold} in folds.csv")
            own = read_exactly(folder / TEST, test_images, OF_SAMPLE)
            singles.append(own.reindex(test_images).to_numpy())
            if fold in common:
                out_of_fold[place, (images["fold"] == fold).to_numpy()] = table.reindex(expected).to_numpy()
                if folder.exists(OUT_OF_FOLD_FEATURES) and folder.exists(TEST_FEATURES):
                    features = folder / OUT_OF_FOLD_FEATURES, table.index, folder / TEST_FEATURES, own.index
                    networks.append(Network(*features))
        if member.all_drivers and all_drivers != "no":
            alone = read_exactly(run.fold(member.name, ALL_DRIVERS) / TEST, test_images, OF_SAMPLE)
            singles = [*(singles if all_drivers == "beside" else []), alone.reindex(test_images).to_numpy()]
        test[place], fold_mean = sharpened(singles)
        fold_means.append(fold_mean)
        if len(networks) == len(common):
            spaces.append(Space(member.name, tuple(networks)))
    names, labels = tuple(member.name for member in members), class_numbers(images["classname"])
    return Predictions(
        names, images, labels, out_of_fold, test_images, test, tuple(fold_means), tuple(spaces), frozenset(matched)
    )


def read_exactly(path: Path, images: pd.Index, what: str) -> pd.DataFrame:
    """A prediction table that holds exactly these images, in its own order; `what` they are, for the message."""
    table = read_predictions(path)
    require_images(path, table, images, what)
    return table
