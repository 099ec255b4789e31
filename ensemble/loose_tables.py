"""Prediction tables from anywhere, without a run folder: read, checked against each other, labels and folds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.competition import CLASSES
from common.errors import UserError, named
from common.tables import read_predictions, read_sample_images
from ensemble.members import OF_SAMPLE, Predictions, Source, aligned, read_exactly, require_images
from ensemble.neighbours import Network, Space
from ensemble.nested import groups_of
from ensemble.score import read_labels
from preprocessing.folds import read_folds

BLOCKS = 10  # that stand in for drivers where these are unknown


@dataclass(frozen=True)
class LooseTables:
    """The files of a blend without a run folder.

    Attributes:
        predictions: img,c0..c9 of labelled images that their models were not trained on.
        labels: img,classname[,subject] of them.
        test_predictions: of the images to predict, by the same models in the same order; may be empty.
        features, test_features: .npy with rows as in the tables, one for each; may be empty.
        folds: img,subject,classname,fold; None where there is none.
        sample: the sample submission, whose images the test tables must have, and whose order the rows get; None where
            the order is that of the first test table.
    """

    predictions: tuple[Path, ...]
    labels: Path
    test_predictions: tuple[Path, ...] = ()
    features: tuple[Path, ...] = ()
    test_features: tuple[Path, ...] = ()
    folds: Path | None = None
    sample: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """Every file."""
        tables = [*self.predictions, *self.test_predictions, *self.features, *self.test_features, self.labels]
        return [*tables, *(path for path in (self.folds, self.sample) if path is not None)]

    def source(self, allow_missing: bool) -> Source:
        """The tables as the source of a blend."""
        lists = {name: [str(path) for path in paths] for name, paths in vars(self).items() if isinstance(paths, tuple)}
        single = {"labels": str(self.labels), "folds": str(self.folds or ""), "sample": str(self.sample or "")}
        return Source(
            {"tables": lists | single | {"allow_missing": allow_missing}},
            {str(path): path for path in self.paths},
            bool(self.test_predictions),
            lambda: read_loose(self, allow_missing),
        )


def check_counts(tables: LooseTables) -> None:
    """Checks that the lists of files belong together.

    Raises:
        UserError: one list is shorter or longer than --predictions.
    """
    expected = len(tables.predictions)
    needed = {"--test-predictions": tables.test_predictions, "--features": tables.features}
    lists = {option: files for option, files in needed.items() if files}
    if tables.test_features or (tables.features and tables.test_predictions):
        lists["--test-features"] = tables.test_features
    if tables.test_features and not (tables.features and tables.test_predictions):
        raise UserError("--test-features: expected --features and --test-predictions with it.")
    for option, files in lists.items():
        if len(files) != expected:
            raise UserError(
                f"{option}: expected a file for each of --predictions, in that order ({expected}), found {len(files)}."
            )


def read_loose(tables: LooseTables, allow_missing: bool = False) -> tuple[Predictions, list[str]]:
    """Reads everything.

    Returns:
        The predictions, and remarks for the report.

    Raises:
        UserError: a file is malformed, or the files disagree.
    """
    check_counts(tables)
    frames, fold_columns = _read_tables(tables.predictions)
    names = frames[0].index
    images, remarks = _images(tables, names, allow_missing)
    for path, column in fold_columns.items():
        if tables.folds is not None:
            _check_folds(path, column, images, tables.folds)
    order = pd.Index(images["img"])
    out_of_fold = np.stack([aligned(frame, order) for frame in frames])
    tests = _read_tables(tables.test_predictions)[0]
    test_images = tests[0].index if tests else pd.Index([], name="img", dtype=object)
    if tables.sample is not None:
        test_images = read_sample_images(tables.sample)
        require_images(tables.test_predictions[0], tests[0], test_images, OF_SAMPLE)
    elif tests:
        remarks.append(f"no --data: the rows of the submission are in the order of {tables.test_predictions[0]}.")
    test = np.stack([aligned(frame, test_images) for frame in tests]) if tests else np.zeros((len(frames), 0, 10))
    members = unique_names(tables.predictions)
    spaces = []
    for place, path in enumerate(tables.features):
        beside = (tables.test_features[place], tests[place].index) if tables.test_features else (None, None)
        spaces.append(Space(members[place], (Network(path, frames[place].index, *beside),)))
    labels = images["classname"].map(CLASSES.index).to_numpy(dtype=np.int64)
    return Predictions(members, images, labels, out_of_fold, test_images, test, (), tuple(spaces)), remarks


def unique_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Names of members: the files' names, with as many folders before them as make them unique, or numbers."""
    for depth in range(1, 6):
        names = ["/".join([*path.parent.parts, path.stem][-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(f"{number} {path.stem}" for number, path in enumerate(paths))


def _read_tables(paths: Sequence[Path]) -> tuple[list[pd.DataFrame], dict[Path, pd.Series]]:
    """Prediction tables that must all hold the images of the first, and the `fold` column of those that have one."""
    frames: list[pd.DataFrame] = []
    folds = {}
    for path in paths:
        frame = (
            read_exactly(path, frames[0].index, f"the images of {paths[0]}", also=("fold",))
            if frames
            else read_predictions(path, also=("fold",))
        )
        if frame.empty:
            raise UserError(f"{path}: expected rows, found none.")
        if "fold" in frame:
            folds[path] = frame.pop("fold")
        frames.append(frame)
    return frames, folds


def _images(tables: LooseTables, names: pd.Index, allow_missing: bool) -> tuple[pd.DataFrame, list[str]]:
    """The frame img,subject,classname,fold of the labelled images, and remarks."""
    known, remarks = read_labels(tables.labels), []
    unlabelled = names.difference(known.index, sort=False)
    if len(unlabelled):
        raise UserError(
            f"{tables.labels}: expected a label for each of the {len(names):,} images of {tables.predictions[0]}, "
            f"found none for {len(unlabelled):,}: {named(list(unlabelled))}."
        )
    if len(known) > len(names):
        remarks.append(f"{len(known) - len(names):,} labelled images are in no table; they are left out.")
    images = known.reindex(names).reset_index()
    if tables.folds is not None:
        return _with_folds(tables, tables.folds, images, allow_missing), remarks
    if "subject" not in images:
        images["subject"] = [f"block {row * BLOCKS // len(images)}" for row in range(len(images))]
        remarks.append(
            f"{tables.labels} has no subject and there is no --folds: {BLOCKS} blocks of rows stand in for drivers.\n"
            "Where frames of one driver lie in several, all estimates here are too good."
        )
    elif images["subject"].isna().any():
        nameless = list(images["img"][images["subject"].isna()])
        raise UserError(f"{tables.labels}: {len(nameless):,} images have no subject: {named(nameless)}.")
    images["fold"] = groups_of(np.zeros(len(images)), images["subject"].to_numpy())
    return images[["img", "subject", "classname", "fold"]], remarks


def _with_folds(tables: LooseTables, path: Path, images: pd.DataFrame, allow_missing: bool) -> pd.DataFrame:
    folds, names = read_folds(path), pd.Index(images["img"])
    strange = names.difference(folds["img"], sort=False)
    if len(strange):
        raise UserError(f"{tables.predictions[0]}: {len(strange):,} images are not in {path}: {named(list(strange))}.")
    missing = folds.loc[~folds["img"].isin(names), "img"]
    if len(missing) and not allow_missing:
        raise UserError(
            f"{tables.predictions[0]}: expected exactly the images of {path} ({len(folds):,}), found "
            f"{len(missing):,} missing ({named(list(missing))}). Blend without them with --allow-missing."
        )
    labelled = images.set_index("img")
    kept = folds[folds["img"].isin(names)].reset_index(drop=True)
    for column in labelled.columns:
        other = kept.loc[labelled[column].reindex(kept["img"]).to_numpy() != kept[column].to_numpy(), "img"]
        if len(other):
            raise UserError(
                f"{tables.labels}: another {column} than in {path} for {len(other):,} images: {named(list(other))}."
            )
    return kept


def _check_folds(path: Path, column: pd.Series, images: pd.DataFrame, folds: Path) -> None:
    right = images.set_index("img")["fold"].reindex(column.index)
    other = column.index[pd.to_numeric(column, errors="coerce").to_numpy() != right.to_numpy()]
    if len(other):
        raise UserError(f"{path}: another fold than in {folds} for {len(other):,} images: {named(list(other))}.")
