"""The members of a blend: the finished models of a run, or tables from anywhere; read, checked and aligned."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.competition import CLASSES, SAMPLE_SUBMISSION, TEST_FOLDER, TRAIN_FOLDER
from common.errors import UserError, named
from common.files import listed_again, read_record, sha256_of
from common.run_folder import ALL_DRIVERS, OUT_OF_FOLD, OUT_OF_FOLD_FEATURES, TEST, TEST_FEATURES, RunFolder, verified
from common.settings import as_json
from common.tables import class_numbers, read_labels, read_predictions, read_sample_images, require_images
from ensemble.calibration import sharpened
from ensemble.neighbours import Network, Space
from ensemble.nested import groups_of
from ensemble.result import Predictions
from preprocessing.dataset import fingerprint_of_copy
from preprocessing.folds import read_folds

OF_SAMPLE = "the images of the sample submission"
BLOCKS = 10  # of rows, that stand in for drivers where these are unknown


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
        """The `stamps` of the inputs; a UserError where one is missing, or is not what its fold run has written."""
        try:
            found = stamps(self.inputs)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise UserError(f"{error.filename}: {error.strerror}. Correct its name; or train that fold.") from error
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
    """The finished models of runs/NAME, or only these; a UserError where there are none, or folds are missing.

    Args:
        sample: the sample submission, which gives the order of the test images.
        allow_missing: whether folds may be missing.
        all_drivers: as for `read_members`.
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

    def read() -> tuple[Predictions, list[str]]:
        found = read_members(run, members, folds, read_sample_images(sample), all_drivers)
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

    identity = {"members": [as_json(member) for member in every], "photographs": fingerprint_of_copy(root)}
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
    path, together = run.job_file(model), " ".join(map(str, folds))
    if not path.is_file():
        return f"python models/{model}.py --run {run.name} --runs {run.path.parent} --fold {together}"
    job = read_record(path)
    if job.get("classifies_features"):
        return f"python models/bottleneck.py --config {path} --fold {together}"
    return "; ".join(f"python models/{job.get('architecture', model)}.py --config {path} --fold {one}" for one in folds)


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
    scales, spaces = [], []
    for place, member in enumerate(members):
        singles, networks = [], []
        for fold in member.folds:
            folder = run.fold(member.name, fold)
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
        test[place], scale = sharpened(singles)
        scales.append(scale)
        if len(networks) == len(common):
            spaces.append(Space(member.name, tuple(networks)))
    names, labels = tuple(member.name for member in members), class_numbers(images["classname"])
    return Predictions(names, images, labels, out_of_fold, test_images, test, tuple(scales), tuple(spaces))


def read_exactly(path: Path, images: pd.Index, what: str) -> pd.DataFrame:
    """A prediction table that holds exactly these images, in its own order; `what` they are, for the message."""
    table = read_predictions(path)
    require_images(path, table, images, what)
    return table


@dataclass(frozen=True)
class LooseTables:
    """The files of a blend without a run folder.

    Attributes:
        labels: img,classname[,subject] of the images of `predictions`.
        folds: img,subject,classname,fold of them; None where there is none.
        predictions: img,c0..c9 of labelled images that their models were not trained on.
        test_predictions: of the images to predict, by the same models in the same order; may be empty.
        features, test_features: .npy with rows as in the tables, one for each; may be empty.
    """

    labels: Path
    folds: Path | None
    predictions: tuple[Path, ...]
    test_predictions: tuple[Path, ...] = ()
    features: tuple[Path, ...] = ()
    test_features: tuple[Path, ...] = ()

    def source(self, sample: Path | None) -> Source:
        """The tables as the source of a blend; without `sample` the first test table gives the order of the images."""
        lists = [self.predictions, self.test_predictions, self.features, self.test_features]
        tables = [[str(path) for path in paths] for paths in lists]
        paths = [self.labels, *filter(None, (self.folds, sample)), *itertools.chain(*lists)]
        inputs = {str(path): path for path in paths}
        return Source({"tables": tables}, inputs, bool(self.test_predictions), lambda: self._read(sample))

    def _read(self, sample: Path | None) -> tuple[Predictions, list[str]]:
        self._check_counts()
        frames, tests = _read_tables(self.predictions), _read_tables(self.test_predictions)
        images, remarks = self._images(frames[0].index)
        test_images = tests[0].index if tests else pd.Index([], name="img", dtype=object)
        if tests and sample is not None:
            test_images = read_sample_images(sample)
            require_images(self.test_predictions[0], tests[0], test_images, OF_SAMPLE)
        elif tests:
            remarks.append(f"no --data: the rows of the submission are in the order of {self.test_predictions[0]}.")
        stems = tuple(path.stem for path in self.predictions)
        names = stems if len(set(stems)) == len(stems) else tuple(map(str, self.predictions))
        if again := listed_again(names):
            raise UserError(f"--predictions: {named(again)} is listed more than once. Name each table once.")
        spaces = []
        for place, path in enumerate(self.features):
            beside = (self.test_features[place], tests[place].index) if tests else (None, None)
            spaces.append(Space(names[place], (Network(path, frames[place].index, *beside),)))
        out_of_fold = np.stack([frame.reindex(images["img"]).to_numpy() for frame in frames])
        test = np.zeros((len(frames), 0, len(CLASSES)))
        if tests:
            test = np.stack([frame.reindex(test_images).to_numpy() for frame in tests])
        predictions = Predictions(
            names, images, class_numbers(images["classname"]), out_of_fold, test_images, test, spaces=tuple(spaces)
        )
        return predictions, remarks

    def _check_counts(self) -> None:
        expected = len(self.predictions)
        lists = {"--test-predictions": self.test_predictions, "--features": self.features}
        needed = {"--features": self.test_features, "--test-features": all(lists.values())}
        for option, files in (lists | {"--test-features": self.test_features}).items():
            if len(files) != expected and (files or needed.get(option)):
                raise UserError(
                    f"{option}: expected a file for each of --predictions, in that order ({expected}), found "
                    f"{len(files)}."
                )

    def _images(self, names: pd.Index) -> tuple[pd.DataFrame, list[str]]:
        """The frame img,subject,classname,fold of the labelled images, and remarks."""
        remarks: list[str] = []
        images = read_labels(self.labels, names, str(self.predictions[0])).reset_index()
        if self.folds is not None:
            folds, classes = read_folds(self.folds, advice=""), images.set_index("img")["classname"]
            kept = folds[folds["img"].isin(names)].reset_index(drop=True)
            require_images(self.predictions[0], classes.to_frame(), pd.Index(kept["img"]), f"images of {self.folds}")
            other = kept.loc[classes.reindex(kept["img"]).to_numpy() != kept["classname"].to_numpy(), "img"]
            if len(other):
                raise UserError(f"{self.labels}: another classname than in {self.folds}: {named(list(other))}.")
            return kept, remarks
        if "subject" not in images:
            images["subject"] = [f"block {row * BLOCKS // len(images)}" for row in range(len(images))]
            remarks.append(
                f"{self.labels} has no subject and there is no --folds: {BLOCKS} blocks of rows stand in for drivers.\n"
                "Where frames of one driver lie in several, all estimates here are too good."
            )
        elif images["subject"].isna().any():
            raise UserError(f"{self.labels}: expected the driver of each image as its subject, or --folds FILE.")
        images["fold"] = groups_of(np.zeros(len(images)), images["subject"].to_numpy())
        return images[["img", "subject", "classname", "fold"]], remarks


def _read_tables(paths: Sequence[Path]) -> list[pd.DataFrame]:
    """Prediction tables that must all hold the images of the first."""
    first = [read_predictions(path) for path in paths[:1]]
    return first + [read_exactly(path, first[0].index, f"the images of {paths[0]}") for path in paths[1:]]
