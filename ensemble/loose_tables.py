"""Prediction tables from anywhere, without a run folder: read, checked against each other, labels and folds."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.competition import CLASSES
from common.errors import UserError, named
from common.tables import read_predictions, read_sample_images
from ensemble.members import OF_SAMPLE, Predictions, Source, aligned, require_images
from ensemble.neighbours import Network, Space
from ensemble.nested import groups_of
from ensemble.score import read_labels, require_labels
from preprocessing.folds import read_folds

BLOCKS = 10  # that stand in for drivers where these are unknown


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
        """The tables as the source of a blend; the arguments are those of `read_loose`."""
        lists = [self.predictions, self.test_predictions, self.features, self.test_features]
        tables = [[str(path) for path in paths] for paths in lists]
        paths = [self.labels, *filter(None, (self.folds, sample)), *itertools.chain(*lists)]
        return Source(
            {"tables": tables},
            {str(path): path for path in paths},
            bool(self.test_predictions),
            lambda: read_loose(self, sample),
        )


def check_counts(tables: LooseTables) -> None:
    """Checks that the lists of files belong together.

    Raises:
        UserError: one list is shorter or longer than --predictions.
    """
    lists = {"--test-predictions": tables.test_predictions, "--features": tables.features}
    if all(lists.values()):
        lists["--test-features"] = tables.test_features
    elif tables.test_features:
        raise UserError("--test-features: expected --features and --test-predictions with it.")
    expected = len(tables.predictions)
    for option, files in lists.items():
        if len(files) != expected and (files or option == "--test-features"):
            raise UserError(
                f"{option}: expected a file for each of --predictions, in that order ({expected}), found {len(files)}."
            )


def read_loose(tables: LooseTables, sample: Path | None) -> tuple[Predictions, list[str]]:
    """Reads everything.

    Args:
        sample: the sample submission, whose images the test tables must have, and whose order the rows get; None where
            the order is that of the first test table.

    Returns:
        The predictions, and remarks for the report.

    Raises:
        UserError: a file is malformed, or the files disagree.
    """
    check_counts(tables)
    frames, tests = _read_tables(tables.predictions), _read_tables(tables.test_predictions)
    images, remarks = _images(tables, frames[0].index)
    test_images = tests[0].index if tests else pd.Index([], name="img", dtype=object)
    if sample is not None:
        test_images = read_sample_images(sample)
        require_images(tables.test_predictions[0], tests[0], test_images, OF_SAMPLE)
    elif tests:
        remarks.append(f"no --data: the rows of the submission are in the order of {tables.test_predictions[0]}.")
    order, members, spaces = pd.Index(images["img"]), unique_names(tables.predictions), []
    for place, path in enumerate(tables.features):
        beside = (tables.test_features[place], tests[place].index) if tests else (None, None)
        spaces.append(Space(members[place], (Network(path, frames[place].index, *beside),)))
    return Predictions(
        members,
        images,
        images["classname"].map(CLASSES.index).to_numpy(dtype=np.int64),
        np.stack([aligned(frame, order) for frame in frames]),
        test_images,
        np.stack([aligned(frame, test_images) for frame in tests]) if tests else np.zeros((len(frames), 0, 10)),
        (),
        tuple(spaces),
    ), remarks


def unique_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Names of members: the files' names, with their folders where two have one name, or numbers."""
    for names in ([path.stem for path in paths], [str(path.with_suffix("")) for path in paths]):
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(f"{number} {path.stem}" for number, path in enumerate(paths))


def _read_tables(paths: Sequence[Path]) -> list[pd.DataFrame]:
    """Prediction tables that must all hold the images of the first."""
    frames: list[pd.DataFrame] = []
    for path in paths:
        frames.append(read_predictions(path))
        if frames[0].empty:
            raise UserError(f"{path}: expected rows, found none.")
        require_images(path, frames[-1], frames[0].index, f"the images of {paths[0]}")
    return frames


def _images(tables: LooseTables, names: pd.Index) -> tuple[pd.DataFrame, list[str]]:
    """The frame img,subject,classname,fold of the labelled images, and remarks."""
    known, remarks = read_labels(tables.labels), []
    require_labels(tables.labels, known, names, str(tables.predictions[0]))
    if len(known) > len(names):
        remarks.append(f"{len(known) - len(names):,} labelled images are in no table; they are left out.")
    images = known.reindex(names).reset_index()
    if tables.folds is not None:
        return _with_folds(tables, tables.folds, images, remarks), remarks
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


def _with_folds(tables: LooseTables, path: Path, images: pd.DataFrame, remarks: list[str]) -> pd.DataFrame:
    """The rows of the fold table of these images, which must agree with the labels; adds to the remarks."""
    folds, labelled = read_folds(path), images.set_index("img")
    kept = folds[folds["img"].isin(labelled.index)].reset_index(drop=True)
    require_images(tables.predictions[0], labelled, pd.Index(kept["img"]), f"images of {path}")
    if len(folds) > len(kept):
        remarks.append(f"{len(folds) - len(kept):,} images of {path} are in no table; they are left out.")
    for column in labelled.columns:
        other = kept.loc[labelled[column].reindex(kept["img"]).to_numpy() != kept[column].to_numpy(), "img"]
        if len(other):
            raise UserError(
                f"{tables.labels}: another {column} than in {path} for {len(other):,} images: {named(list(other))}."
            )
    return kept
